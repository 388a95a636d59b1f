/* ops/cpu/position_embedding.h - learned positions on the CPU, and their plain references.
 * Shapes: x, y, dy (B,T,C); table, dtable (max_T,C). `position` is the table's row for t = 0; position + T <=
 * max_T.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_POSITION_EMBEDDING_H
#define TROUPE_OPS_CPU_POSITION_EMBEDDING_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[b,t,:] = x[b,t,:] + table[position + t,:]. Overwrites; y may be x. All of dtype. */
void tr_cpu_position_embedding(const void *x, const void *table, void *y, int64_t b, int64_t t, int64_t c,
                               int64_t position, tr_dtype dtype, tr_thread_pool *pool);

/* dtable[position + t,:] += sum over b of dy[b,t,:], b ascending. Adds. dy is of dtype. */
void tr_cpu_position_embedding_weight(const void *dy, float *dtable, int64_t b, int64_t t, int64_t c,
                                      int64_t position, tr_dtype dtype, tr_thread_pool *pool);

void tr_position_embedding_reference(const float *x, const float *table, float *y, int64_t b, int64_t t,
                                     int64_t c, int64_t position);
void tr_position_embedding_weight_reference(const float *dy, float *dtable, int64_t b, int64_t t, int64_t c,
                                            int64_t position);

#ifdef __cplusplus
}
#endif
#endif
