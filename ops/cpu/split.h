/* ops/cpu/split.h - cutting and joining the last dimension on the CPU: copies, and so their own plain
 * reference.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_SPLIT_H
#define TROUPE_OPS_CPU_SPLIT_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* parts[i] = columns of x.   x (R, sum of widths), parts[i] (R,widths[i])
 * or NULL where not wanted; all of dtype. Overwrites. */
void tr_cpu_split(const void *x, void *const *parts, const int64_t *widths, int n_parts, int64_t rows,
                  tr_dtype dtype, tr_thread_pool *pool);

/* The reverse: columns of x = parts[i], or 0 where parts[i] is NULL. Overwrites. */
void tr_cpu_join(const void *const *parts, void *x, const int64_t *widths, int n_parts, int64_t rows,
                 tr_dtype dtype, tr_thread_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
