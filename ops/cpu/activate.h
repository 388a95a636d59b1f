/* ops/cpu/activate.h - elementwise activations on the CPU, and their plain references.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ACTIVATE_H
#define TROUPE_OPS_CPU_ACTIVATE_H

#include "base/thread_pool.h"
#include "ops/operations.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = f(x).   x, y: n elements of dtype. y may be x; overwrites. */
void tr_cpu_activate(const void *x, void *y, int64_t n, tr_activation kind, tr_dtype dtype,
                     tr_thread_pool *pool);

/* dx = dy * f'(x).   dy, x, dx: n elements of dtype. dx may be dy; overwrites. */
void tr_cpu_activate_backward(const void *dy, const void *x, void *dx, int64_t n, tr_activation kind,
                              tr_dtype dtype, tr_thread_pool *pool);

void tr_activate_reference(const float *x, float *y, int64_t n, tr_activation kind);
void tr_activate_backward_reference(const float *dy, const float *x, float *dx, int64_t n,
                                    tr_activation kind);

#ifdef __cplusplus
}
#endif
#endif
