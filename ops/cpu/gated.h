/* ops/cpu/gated.h - y = f(gate) * up on the CPU, and its plain references.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_GATED_H
#define TROUPE_OPS_CPU_GATED_H

#include "base/thread_pool.h"
#include "ops/operations.h"

#ifdef __cplusplus
extern "C" {
#endif

/* gate, up, y: n elements of dtype. y may be gate or up; overwrites. */
void tr_cpu_gated(const void *gate, const void *up, void *y, int64_t n, tr_activation kind, tr_dtype dtype,
                  tr_thread_pool *pool);

/* dgate = dy * up * f'(gate), dup = dy * f(gate); either may be NULL.   All n elements of dtype.
 * dgate may be dy; both overwrite. */
void tr_cpu_gated_backward(const void *dy, const void *gate, const void *up, void *dgate, void *dup,
                           int64_t n, tr_activation kind, tr_dtype dtype, tr_thread_pool *pool);

void tr_gated_reference(const float *gate, const float *up, float *y, int64_t n, tr_activation kind);
void tr_gated_backward_reference(const float *dy, const float *gate, const float *up, float *dgate,
                                 float *dup, int64_t n, tr_activation kind);

#ifdef __cplusplus
}
#endif
#endif
