/* ops/cpu/fp8.h - FP8 on CPUs: what a GPU computes, so that a recipe runs anywhere and tests have what to compare with. No CPU
 * here multiplies FP8: codes become float32 again, exactly, and are multiplied as such, which is slower than bfloat16.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_FP8_H
#define TROUPE_OPS_CPU_FP8_H

#include "base/thread_pool.h"
#include "ops/fp8_linear.h"

size_t tr_cpu_quantise_workspace(int64_t elements);
/* codes (rows,columns), turned (columns,rows): either may be NULL. inverse (1). */
void tr_cpu_quantise(const tr_bf16 *x, int64_t rows, int64_t columns, tr_dtype format, uint8_t *codes,
                     uint8_t *turned, float *inverse, void *workspace, tr_thread_pool *pool);

typedef struct tr_cpu_fp8_operands {
    const uint8_t *a, *b;               /* (m,k), (n,k) */
    const float *a_inverse, *b_inverse; /* (1) */
    tr_dtype a_format, b_format;
    float *workspace;
    tr_fp8_product size;
} tr_cpu_fp8_operands;

size_t tr_cpu_fp8_workspace(const tr_fp8_product *size);
/* y (m,n) = a b' + bias + pending, summed in float32 and rounded once. bias (n), pending (m,n): NULL: none; y may be pending. */
void tr_cpu_fp8_linear(const tr_cpu_fp8_operands *operands, const float *bias, const tr_bf16 *pending,
                       tr_bf16 *y, tr_thread_pool *pool);
/* dw (m,n) += a b'. */
void tr_cpu_fp8_linear_dw(const tr_cpu_fp8_operands *operands, float *dw, tr_thread_pool *pool);

#endif
