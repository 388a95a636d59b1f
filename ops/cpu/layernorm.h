/* ops/cpu/layernorm.h - layernorm on the CPU, and its plain references.
 * Shapes: x, y, dy, dx, pending (R,C); w, b, dw, db (C); mean, rstd (R), where R is all but the last
 * dimension.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_LAYERNORM_H
#define TROUPE_OPS_CPU_LAYERNORM_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = (x - mean) * rstd * w + b, rstd = 1/sqrt(variance + eps). All overwrite; y may be x.
 * x, dy, y, pending and dx are of dtype here and below; the rest is float32. */
void tr_cpu_layernorm(const void *x, const float *w, const float *b, void *y, float *mean, float *rstd,
                      int64_t rows, int64_t columns, float eps, tr_dtype dtype, tr_thread_pool *pool);

/* dx = pending + rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * w, xhat = (x - mean) * rstd.
 * Overwrites; pending may be NULL, and dx may be pending or dy. */
void tr_cpu_layernorm_backward(const void *dy, const void *x, const float *w, const float *mean,
                               const float *rstd, const void *pending, void *dx, int64_t rows,
                               int64_t columns, tr_dtype dtype, tr_thread_pool *pool);

/* dw += sum over rows of dy * xhat, db += sum over rows of dy; either may be NULL. Adds. */
void tr_cpu_layernorm_weight(const void *dy, const void *x, const float *mean, const float *rstd, float *dw,
                             float *db, int64_t rows, int64_t columns, tr_dtype dtype, tr_thread_pool *pool);

void tr_layernorm_reference(const float *x, const float *w, const float *b, float *y, float *mean,
                            float *rstd, int64_t rows, int64_t columns, float eps);
void tr_layernorm_backward_reference(const float *dy, const float *x, const float *w, const float *mean,
                                     const float *rstd, const float *pending, float *dx, int64_t rows,
                                     int64_t columns);
void tr_layernorm_weight_reference(const float *dy, const float *x, const float *mean, const float *rstd,
                                   float *dw, float *db, int64_t rows, int64_t columns);

#ifdef __cplusplus
}
#endif
#endif
