/* ops/cpu/attention.h - kernels of causal attention with grouped heads, in blocks, never T x T.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ATTENTION_H
#define TROUPE_OPS_CPU_ATTENTION_H

#include "base/thread_pool.h"
#include "ops/dropout.h"
#include "ops/tensor.h"

/* q, y (B,T,H*D); k, v (B,first+T,K*D).
 * Query row t stands at position first + t and sees keys 0 .. first+t. */
typedef struct tr_attention_shape {
    int64_t batch, time;
    int64_t first; /* 0 in training; the rows in the cache before the new ones in generation */
    int64_t heads, kv_heads, head_size;
    float scale;
    tr_dtype dtype; /* of q, k, v, y and their gradients: TR_F32 or TR_BF16; all else is float32 */
    const tr_dropout_mask *dropout; /* of the probabilities, NULL for none; not for tr_cpu_attention_rows */
} tr_attention_shape;

/* Bytes for n_threads threads; in proportion to first + T. */
size_t tr_cpu_attention_workspace(const tr_attention_shape *shape, int n_threads);
size_t tr_cpu_attention_backward_workspace(const tr_attention_shape *shape, int n_threads);

/* y = dropout(softmax(scale q k^T)) v; lse (B,H,T), or NULL: the log of the sum of exp(scale q k^T). */
void tr_cpu_attention(const void *q, const void *k, const void *v, void *y, float *lse, void *workspace,
                      const tr_attention_shape *shape, tr_thread_pool *pool);

/* The same for few rows (generation): dot products, nothing packed. workspace: first + T floats a thread. */
void tr_cpu_attention_rows(const void *q, const void *k, const void *v, void *y, void *workspace,
                           const tr_attention_shape *shape, tr_thread_pool *pool);

/* Overwrites dq, dk, dv. first must be 0.
 * dk and dv are summed over the query heads of a group in their order. */
typedef struct tr_attention_tensors {
    const void *q, *k, *v, *y, *dy;
    const float *lse;
    void *dq, *dk, *dv;
} tr_attention_tensors;
void tr_cpu_attention_backward(const tr_attention_tensors *tensors, void *workspace,
                               const tr_attention_shape *shape, tr_thread_pool *pool);

/* The plain references, in ops/attention.c; float32 only. */
void tr_attention_reference(const float *q, const float *k, const float *v, float *y, float *lse,
                            const tr_attention_shape *shape);
void tr_attention_backward_reference(const tr_attention_tensors *tensors, const tr_attention_shape *shape);

#endif
