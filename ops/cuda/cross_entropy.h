/* ops/cuda/cross_entropy.h - passes over logits (rows,vocabulary) of dtype, for the loss by itself and in chunks.
 * Internal to ops/cuda/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CUDA_CROSS_ENTROPY_H
#define TROUPE_OPS_CUDA_CROSS_ENTROPY_H

#include "ops/tensor.h"

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* losses (rows); lse (rows) or NULL. */
cudaError_t tr__cuda_loss_rows(cudaStream_t stream, const void *logits, const int32_t *targets, float *lse,
                               double *losses, int64_t rows, int64_t vocabulary, tr_dtype dtype);
/* losses, and the gradient of the logits for a factor of 1; slopes may be logits. */
cudaError_t tr__cuda_loss_slopes(cudaStream_t stream, const void *logits, const int32_t *targets,
                                 double *losses, void *slopes, int64_t rows, int64_t vocabulary,
                                 tr_dtype dtype);
/* *loss = their sum, in an order that `rows` alone tells. */
cudaError_t tr__cuda_loss_total(cudaStream_t stream, const double *losses, double *loss, int64_t rows);

#ifdef __cplusplus
}
#endif
#endif
