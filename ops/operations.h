/* ops/operations.h - the operations a model is written with.
 * Shape letters: B batch, T time, C channels, H query heads, K key-value heads, D head size, V vocabulary, N
 * inner width. Activations (B,T,...) and matrices are float32 or bfloat16 on this page, all of one call the same,
 * and the result is as they are; vectors (norms, biases) and what is kept for the backward are float32; token ids
 * are int32. Every builder adds one forward node; its gradient comes from autodiff. Losses and reductions over
 * tokens are summed in an order that depends on shapes alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_OPERATIONS_H
#define TROUPE_OPS_OPERATIONS_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[b,t,:] = table[ids[b,t],:].   ids (B,T) i32 in [0,V), table (V,C), y (B,T,C). Ids are checked by whoever reads them. */
tr_value tr_embedding(tr_graph *g, tr_value ids, tr_value table);

/* y[b,t,:] = x[b,t,:] + table[t + position,:].   table (max_T,C); position (1) i32 or TR_NO_VALUE for 0. */
tr_value tr_position_embedding(tr_graph *g, tr_value x, tr_value table, tr_value position);

typedef enum tr_weight_layout {
    TR_WEIGHT_OUT_IN,
    TR_WEIGHT_IN_OUT
} tr_weight_layout; /* torch.nn.Linear; GPT-2's Conv1D */

/* y = x w^T + b (OUT_IN, w (O,I)) or x w + b (IN_OUT, w (I,O)).   x (...,I), b (O) or TR_NO_VALUE, y (...,O). */
tr_value tr_linear(tr_graph *g, tr_value x, tr_value w, tr_value b, tr_weight_layout layout);

/* y = a + b, equal shapes. */
tr_value tr_add(tr_graph *g, tr_value a, tr_value b);

/* y = x / (1 - rate) with probability 1 - rate, else 0, element by element; y = x in runs that do not train. The
 * mask is a function of tr_random, the node's `use` and the element's index (ops/dropout.h); the backward makes
 * it again. rate in [0,1); 0 adds no node and returns x. Source: Srivastava et al., 2014. */
tr_value tr_dropout(tr_graph *g, tr_value x, double rate);

/* y = (x - mean) * rstd * w + b over the last dimension.   x, y (...,C); w, b (C). Source: Ba et al., 2016. */
tr_value tr_layernorm(tr_graph *g, tr_value x, tr_value w, tr_value b, float eps);

/* y = x * rsqrt(mean(x^2) + eps) * w.   x, y (...,C); w (C). Source: Zhang and Sennrich, 2019. */
tr_value tr_rmsnorm(tr_graph *g, tr_value x, tr_value w, float eps);

typedef enum tr_activation { TR_GELU_TANH, TR_GELU_ERF, TR_SILU, TR_RELU } tr_activation;
tr_value tr_activate(tr_graph *g, tr_value x, tr_activation kind); /* elementwise */

/* y = activation(gate) * up, equal shapes: SwiGLU with TR_SILU. Source: Shazeer, 2020. */
tr_value tr_gated(tr_graph *g, tr_value gate, tr_value up, tr_activation kind);

/* Cuts the last dimension into n parts of the given widths (copies). parts[i] (...,widths[i]). n at most TR_MAX_OUTPUTS. */
void tr_split(tr_graph *g, tr_value x, const int64_t *widths, int n, tr_value *parts);

typedef struct tr_rope_options {
    int32_t head_size;         /* D, even; pairs are (i, i + D/2), as transformers has them */
    float theta;               /* pair i turns theta^(-2i/D) radians a position, where frequencies is NULL */
    const double *frequencies; /* (D/2) or NULL: radians a position of each pair; copied into the graph */
    float magnitude;           /* what heads are multiplied by as well (YaRN); 0: by nothing */
} tr_rope_options;

/* Rotates every head of x (B,T,n*D) by its position.   position (1) i32 (of the first row) or TR_NO_VALUE for
 * 0.
 * Source: Su et al., 2021. */
tr_value tr_rope(tr_graph *g, tr_value x, tr_value position, const tr_rope_options *options);

typedef struct tr_attention_options {
    int32_t heads;     /* H */
    int32_t kv_heads;  /* K, divides H; head h reads key-value head h / (H/K) */
    int32_t head_size; /* D */
    float scale;       /* mostly 1/sqrt(D) */
    double dropout;    /* rate of tr_dropout on the probabilities, in runs that train; tr_attention only */
} tr_attention_options;

/* Causal softmax attention.   q (B,T,H*D), k, v (B,T,K*D), y (B,T,H*D). Never holds T x T: blocks of keys
 * with a running maximum and sum; keeps the log-sum-exp (B,H,T) for the backward.
 * Sources: Dao et al., 2022; Milakov and Gimelshein, 2018. */
tr_value tr_attention(tr_graph *g, tr_value q, tr_value k, tr_value v, const tr_attention_options *options);

/* The same for generation: B = 1;
 * k and v of the T new rows are appended to the caches at `position`, then each new row attends to all rows
 * up to its own.   cache_k, cache_v (max_T,K*D) states, position (1) i32. Forward only. */
tr_value tr_attention_cached(tr_graph *g, tr_value q, tr_value k, tr_value v, tr_value cache_k,
                             tr_value cache_v, tr_value position, const tr_attention_options *options);

/* loss (1) f64 = sum over rows with target >= 0 of -log softmax(logits)[target], in nats; rows with a
 * negative target count nothing.   logits (B,T,V), targets (B,T) i32. The gradient of loss is given as a f32
 * factor (1): dlogits =
 * factor * (softmax - onehot), written over logits where the plan allows. */
tr_value tr_cross_entropy(tr_graph *g, tr_value logits, tr_value targets);

#ifdef __cplusplus
}
#endif
#endif
