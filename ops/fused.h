/* ops/fused.h - operations that tr_graph_fuse puts in the place of others. Only devices that have kernels for them run
 * them; nobody differentiates them. Their shapes were checked when the nodes were built that they replace.
 *   linear_add            inputs x, w, b or none, more (...,O): y = x w + b + more
 *   linear_activate       inputs x, w, b: y = f(h), h = x w + b; h is kept where somebody reads it
 *   linear_dx_activate    inputs dy, w, h: dh = (dy w') f'(h)
 *   attention_packed      input qkv (B,T,(H+2K)D): y, lse, as attention of its parts
 *   attention_packed_backward   inputs qkv, y, lse, dy: dqkv
 *   add_layernorm, add_rmsnorm  inputs x, more, w, b of layernorm's: x + more, and what the norm of that gives
 *   layernorm_backward_sums     as layernorm_backward, and sums (S,2,C) f32 of what rows give to dw and db
 *   layernorm_weight_sums       input sums: dw, db are added to
 *   layernorm_backward_bias_sums   with a third sum, of what rows of dx give to a bias whose gradient is their sum
 *   linear_db_sums        input sums (S,n,C): db is added to, from the sum that its attributes name
 *   attention_packed_backward_sums   as attention_packed_backward, and sums (S,1,(H+2K)D) of what rows of dqkv give
 *   rmsnorm_backward_sums, rmsnorm_weight_sums   likewise, with sums (S,1,C) for dw
 *   cross_entropy_slopes  inputs logits, targets: dlogits for a factor of 1, and the loss
 *   linear_dx_scaled, linear_dw_scaled   as linear_dx, linear_dw, times a factor (1) f32, the last input
 * Internal to ops/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_FUSED_H
#define TROUPE_OPS_FUSED_H

#include "ops/op.h"
#include "ops/operations.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of linear_activate and linear_dx_activate. */
typedef struct linear_activate_attributes {
    int32_t in_out; /* as linear's */
    tr_activation kind;
} linear_activate_attributes;

/* Of linear_db_sums. */
typedef struct linear_db_sums_attributes {
    int32_t which; /* of the sums of a slab */
} linear_db_sums_attributes;

extern const tr_op tr__linear_db_sums_op, tr__attention_packed_backward_sums_op,
    tr__layernorm_backward_bias_sums_op;
extern const tr_op tr__linear_add_op, tr__linear_activate_op, tr__linear_dx_activate_op,
    tr__attention_packed_op, tr__attention_packed_backward_op, tr__layernorm_backward_sums_op,
    tr__add_layernorm_op, tr__add_rmsnorm_op, tr__layernorm_weight_sums_op, tr__rmsnorm_backward_sums_op,
    tr__rmsnorm_weight_sums_op, tr__cross_entropy_slopes_op, tr__linear_dx_scaled_op, tr__linear_dw_scaled_op;

/* (B T/64,1,width): sums of 64 rows of each sequence of x (B,T,...). */
tr_shape tr__attention_sums_shape(const tr_shape *x, int64_t width);

/* (S,sums,C): sums of so many slabs of rows, which the number of rows alone decides. */
tr_shape tr__norm_sums_shape(const tr_shape *x, int64_t sums);

/* Whether a norm's backward that makes x has registers for x's sums over rows, whose order these have whoever makes them. */
bool tr__has_norm_sums(const tr_value_info *x);

#ifdef __cplusplus
}
#endif
#endif
