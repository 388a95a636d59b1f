/* ops/cpu/embedding.h - kernels of embedding.   ids (M) in [0,V), table (V,C), y (M,C).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_EMBEDDING_H
#define TROUPE_OPS_CPU_EMBEDDING_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

/* y[m,:] = table[ids[m],:], both of dtype. */
void tr_cpu_embedding(const int32_t *ids, const void *table, void *y, int64_t rows, int64_t channels,
                      tr_dtype dtype, tr_thread_pool *pool);

/* dtable[ids[m],:] += dy[m,:], for m in ascending order; dy is of dtype. */
void tr_cpu_embedding_dtable(const int32_t *ids, const void *dy, float *dtable, int64_t rows,
                             int64_t channels, tr_dtype dtype, tr_thread_pool *pool);

/* The plain references, in ops/embedding.c. */
void tr_embedding_reference(const int32_t *ids, const float *table, float *y, int64_t rows, int64_t channels);
void tr_embedding_dtable_reference(const int32_t *ids, const float *dy, float *dtable, int64_t rows,
                                   int64_t channels);

#endif
