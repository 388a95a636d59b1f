/* ops/optimizer.h - the arithmetic of a step after the backward: exact sums of gradients, their norm, AdamW.
 * Elementwise or over fixed blocks of the unsharded tensor, so that no layout changes a bit.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_OPTIMIZER_H
#define TROUPE_OPS_OPTIMIZER_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Elements in one block of the norm's sum; the last block of a tensor is shorter. */
enum { TR_NORM_BLOCK = 16384 };

/* a[i] += b[i], n elements. */
void tr_accumulate(float *a, const float *b, int64_t n, tr_thread_pool *pool);

/* out[i] = a[i] + b[i]; out may be either. */
void tr_sum(float *out, const float *a, const float *b, int64_t n, tr_thread_pool *pool);

/* x[i] = 0. */
void tr_clear(float *x, int64_t n, tr_thread_pool *pool);

int64_t tr_norm_block_count(int64_t n);
/* sums[k] = sum of squares of block k of x (n elements), in double, in a fixed order. */
void tr_square_sums(const float *x, int64_t n, double *sums, tr_thread_pool *pool);

typedef struct tr_adamw_options {
    float lr, beta1, beta2, eps, weight_decay; /* decay already 0 for tensors that are not decayed */
    float gradient_scale;                      /* clip factor; the gradient is multiplied by it first */
    uint32_t step;                             /* from 1: for the bias correction */
} tr_adamw_options;

/* to[i] = from[i] rounded to bfloat16 (tr_bf16_of_f32), n elements. */
void tr_round_to_bf16(const float *from, tr_bf16 *to, int64_t n, tr_thread_pool *pool);

/* p', m', v' from p, m, v and gradient g, n elements each; in place where the pointers are equal, else into
 * the other slot. As torch.optim.AdamW: p *= 1 - lr*decay; m, v moving means; p -= lr/(1-b1^t) * m /
 * (sqrt(v)/sqrt(1-b2^t) + eps).
 * p_bf16: NULL, or where p' goes as well, rounded as tr_round_to_bf16 does: a working copy for bfloat16 models.
 * Source: Loshchilov and Hutter, 2019. */
void tr_adamw(const float *p, const float *m, const float *v, const float *g, float *p_out, float *m_out,
              float *v_out, tr_bf16 *p_bf16, int64_t n, const tr_adamw_options *options,
              tr_thread_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
