/* ops/cpu/add.h - y = a + b on the CPU, and its plain reference.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ADD_H
#define TROUPE_OPS_CPU_ADD_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* a, b, y: n elements of dtype. y may be a or b; overwrites. */
void tr_cpu_add(const void *a, const void *b, void *y, int64_t n, tr_dtype dtype, tr_thread_pool *pool);

void tr_add_reference(const float *a, const float *b, float *y, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
