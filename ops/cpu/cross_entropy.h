/* ops/cpu/cross_entropy.h - kernels of cross_entropy.   logits (M,V), targets (M), M rows of V logits.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_CROSS_ENTROPY_H
#define TROUPE_OPS_CPU_CROSS_ENTROPY_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

/* *loss = the sum over rows with a target >= 0 of lse - logits[target], in row order.
 * lse (M), kept for the backward: the log-sum-exp of each row. row_losses: M doubles of workspace.
 * logits are of dtype. */
void tr_cpu_cross_entropy(const void *logits, const int32_t *targets, double *loss, float *lse,
                          double *row_losses, int64_t rows, int64_t vocabulary, tr_dtype dtype,
                          tr_thread_pool *pool);

/* dlogits = factor * (softmax(logits) - onehot(target)), zero for negative targets; dlogits may be logits,
 * and is of their dtype. */
void tr_cpu_cross_entropy_backward(const void *logits, const int32_t *targets, const float *lse, float factor,
                                   void *dlogits, int64_t rows, int64_t vocabulary, tr_dtype dtype,
                                   tr_thread_pool *pool);

/* The plain references, in ops/cross_entropy.c. */
double tr_cross_entropy_reference(const float *logits, const int32_t *targets, float *lse, int64_t rows,
                                  int64_t vocabulary);
void tr_cross_entropy_backward_reference(const float *logits, const int32_t *targets, float factor,
                                         float *dlogits, int64_t rows, int64_t vocabulary);

#endif
