/* ops/cpu/rmsnorm.h - rmsnorm on the CPU, and its plain references.
 * Shapes: x, y, dy, dx, pending (R,C); w, dw (C); rstd (R), where R is all but the last dimension.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_RMSNORM_H
#define TROUPE_OPS_CPU_RMSNORM_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = x * rstd * w, rstd = 1/sqrt(mean(x^2) + eps). Both overwrite; y may be x.
 * x, dy, y, pending and dx are of dtype here and below; the rest is float32. */
void tr_cpu_rmsnorm(const void *x, const float *w, void *y, float *rstd, int64_t rows, int64_t columns,
                    float eps, tr_dtype dtype, tr_thread_pool *pool);

/* dx = pending + rstd * (g - xhat * mean(g * xhat)), g = dy * w, xhat = x * rstd. Overwrites; pending may be
 * NULL, and dx may be pending or dy. */
void tr_cpu_rmsnorm_backward(const void *dy, const void *x, const float *w, const float *rstd,
                             const void *pending, void *dx, int64_t rows, int64_t columns, tr_dtype dtype,
                             tr_thread_pool *pool);

/* dw += sum over rows of dy * xhat. Adds. */
void tr_cpu_rmsnorm_weight(const void *dy, const void *x, const float *rstd, float *dw, int64_t rows,
                           int64_t columns, tr_dtype dtype, tr_thread_pool *pool);

void tr_rmsnorm_reference(const float *x, const float *w, float *y, float *rstd, int64_t rows,
                          int64_t columns, float eps);
void tr_rmsnorm_backward_reference(const float *dy, const float *x, const float *w, const float *rstd,
                                   const float *pending, float *dx, int64_t rows, int64_t columns);
void tr_rmsnorm_weight_reference(const float *dy, const float *x, const float *rstd, float *dw, int64_t rows,
                                 int64_t columns);

#ifdef __cplusplus
}
#endif
#endif
