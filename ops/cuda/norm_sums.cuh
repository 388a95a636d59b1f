// ops/cuda/norm_sums.cuh - a bias's gradient as a norm's backward makes it on its way (fuse.h), where it is made alone: a
// graph that is cut behind the norm is to have the bits of the whole.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_NORM_SUMS_CUH
#define TROUPE_OPS_CUDA_NORM_SUMS_CUH

#include "ops/op.h"

namespace troupe {

// Of linear_db whose dy tr__has_norm_sums: db += the sum over rows of dy, through tr__norm_sums_shape(dy, 1) floats of workspace.
void sum_bias_as_norms(const tr_call *call);

} // namespace troupe

#endif
