/* ops/fp8_linear.h - the operations that tr_graph_fp8 puts in the place of linear layers. Nobody differentiates them. Internal to
 * ops/. Letters: M rows, I inputs, O outputs, S a scale's inverse (1) f32.
 *   quantise        input x (...,C) bf16: codes (...,C), the same turned (C,M), S. Codes or turned ones may be not wanted.
 *                   Of a parameter it is run once for each version of it (tr_op.once).
 *   linear_fp8      inputs x (...,I), S, w (O,I), S, b or none: y (...,O) bf16
 *   linear_fp8_dx   inputs dy (...,O), S, w (I,O), S, pending or none: dx (...,I) bf16
 *   linear_fp8_dw   inputs a (R,M), S, b (C,M), S: dw (R,C) f32, added to
 * All three are a product of two matrices whose rows run along what is summed over, as the tensor cores of a Hopper GPU read
 * FP8: c (m,n) = a (m,k) b (n,k)' * S * S. So a tensor that is summed over in both directions is stored turned as well.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_FP8_LINEAR_H
#define TROUPE_OPS_FP8_LINEAR_H

#include "ops/fp8.h"
#include "ops/infer.h"
#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct quantise_attributes {
    tr_dtype format;
} quantise_attributes;

extern const tr_op tr__quantise_op, tr__linear_fp8_op, tr__linear_fp8_dx_op, tr__linear_fp8_dw_op;

/* What is multiplied: c (m,n) = a (m,k) b (n,k)'. */
typedef struct tr_fp8_product {
    int64_t m, n, k;
} tr_fp8_product;
tr_fp8_product tr__fp8_product_of(const tr_graph *graph, const tr_node *node);

/* Plain references, for tests: one rounding a number, sums in double. */
void tr_quantise_reference(const float *x, int64_t rows, int64_t columns, tr_dtype format, uint8_t *codes,
                           uint8_t *turned, float *inverse);
void tr_fp8_product_reference(const uint8_t *a, tr_dtype a_format, float a_inverse, const uint8_t *b,
                              tr_dtype b_format, float b_inverse, double *c, tr_fp8_product size);

#ifdef __cplusplus
}
#endif
#endif
