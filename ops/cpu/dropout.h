/* ops/cpu/dropout.h - masks of dropout on the CPU, and the plain reference.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_DROPOUT_H
#define TROUPE_OPS_CPU_DROPOUT_H

#include "base/thread_pool.h"
#include "ops/dropout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = x[i] * the factor of (0, 0, i).   x, y: n elements of dtype. Overwrites; y may be x. */
void tr_cpu_dropout(const void *x, void *y, int64_t n, const tr_dropout_mask *mask, tr_dtype dtype,
                    tr_thread_pool *pool);

/* factors (rows, TR_DROPOUT_GROUP): of the places (plane, row + r, column + c); column is a multiple of the group.
 * For kernels with blocks of their own; runs on the calling thread. */
void tr_cpu_dropout_factors(const tr_dropout_mask *mask, uint32_t plane, uint32_t row, uint64_t column,
                            int64_t rows, float *factors);

void tr_dropout_reference(const float *x, float *y, int64_t n, const tr_dropout_mask *mask);

#ifdef __cplusplus
}
#endif
#endif
