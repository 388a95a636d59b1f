/* ops/cuda/kernels.h - what the rest of ops/ sees of CUDA: kernels by operation, and what they run on.
 * Only builds with CUDA have it (TROUPE_CUDA).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CUDA_KERNELS_H
#define TROUPE_OPS_CUDA_KERNELS_H

#include "ops/op.h"
#include "ops/product_choices.h"

#ifdef __cplusplus
extern "C" {
#endif

/* NULL: the operation has none. */
const tr_kernel *tr_cuda_kernel(const char *op);

/* Are the libraries here that kernels call? Errors: TR_EUNSUPPORTED, with the one that is missing. */
tr_status tr_cuda_libraries(tr_error *err);

/* Do the GPUs here multiply FP8? Errors: TR_EUNSUPPORTED. */
tr_status tr_cuda_has_fp8(tr_error *err);

/* What kernels run on: a stream, and cuBLASLt with its workspace. tr_call.device of every call on CUDA.
 * A launch that fails is noted and told by tr_cuda_context_check, since kernels return nothing. */
typedef struct tr_cuda_context tr_cuda_context;

/* choices: of matrix products, or NULL; must outlive the making of kernels. Errors: TR_EUNSUPPORTED (cuBLASLt is not
 * here), TR_EINVAL (choices for another GPU or library), TR_EIO, TR_ENOMEM. */
tr_status tr_cuda_context_new(tr_cuda_context **out, tr_stream *stream, tr_product_choices *choices,
                              tr_error *err);
void tr_cuda_context_destroy(tr_cuda_context **self); /* NULL-safe */
tr_status tr_cuda_context_check(const tr_cuda_context *self, tr_error *err);
/* The name of the GPU and the versions that choices hold for. */
void tr_cuda_context_name(const tr_cuda_context *self, char name[TR_PRODUCT_NAME_BYTES]);
/* For kernels made from now on. Errors: TR_EINVAL as above. */
tr_status tr_cuda_context_choose(tr_cuda_context *self, tr_product_choices *choices, tr_error *err);
/* Memory to measure in; without it, or where it is too small, memory of its own is asked for. */
void tr_cuda_context_lend(tr_cuda_context *self, void *spare, size_t spare_bytes);

#ifdef __cplusplus
}
#endif
#endif
