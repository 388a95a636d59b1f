/* ops/cpu/attention_block.h - what the forward and the backward of attention share: products of small blocks
 * that stay in registers, packing, and the causal mask.
 * Blocks are BLOCK keys by BLOCK queries, worked on in strips of STRIP queries. Packed rows are padded to a
 * multiple of the lanes, packed blocks to BLOCK rows, with zeros; so no product has a remainder.
 * No fused multiply-adds: on a processor with adders of their own (Zen) they gained 3%, and without them the
 * bits do not depend on the instruction set.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ATTENTION_BLOCK_H
#define TROUPE_OPS_CPU_ATTENTION_BLOCK_H

#include "ops/cpu/elements.h"

enum { BLOCK = 64, STRIP = 16 };

TR_INLINE int64_t round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

/* c (rows, 16 columns) = or += a b: a(r,i) at a[r * a_row + i * a_inner], b (inner, ...) rows of b_stride.
 * rows and columns (in vectors) are constants where this is inlined, so that c is kept in registers. */
TR_INLINE void register_product(int rows, int vectors, const float *a, int64_t a_row, int64_t a_inner,
                                const float *b, int64_t b_stride, float *c, int64_t c_stride, int64_t inner,
                                bool accumulate)
{
    tr_f32x16 sums[8][4];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            sums[r][j] = accumulate ? tr_load_f32x16(c + r * c_stride + j * TR_LANES) : (tr_f32x16){0};
    for (int64_t i = 0; i < inner; i++) {
        tr_f32x16 row[4];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) row[j] = tr_load_f32x16(b + i * b_stride + j * TR_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            tr_f32x16 left = tr_splat_f32x16(a[r * a_row + i * a_inner]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) sums[r][j] += left * row[j];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) tr_store_f32x16(c + r * c_stride + j * TR_LANES, sums[r][j]);
}

/* The same for STRIP rows and any multiple of 16 columns. */
TR_INLINE void strip_product(const float *a, int64_t a_row, int64_t a_inner, const float *b, int64_t b_stride,
                             float *c, int64_t c_stride, int64_t columns, int64_t inner, bool accumulate)
{
    int64_t j = 0;
    for (; j + 4 * TR_LANES <= columns; j += 4 * TR_LANES)
        for (int r = 0; r < STRIP; r += 4)
            register_product(4, 4, a + r * a_row, a_row, a_inner, b + j, b_stride, c + r * c_stride + j,
                             c_stride, inner, accumulate);
    for (; j + 2 * TR_LANES <= columns; j += 2 * TR_LANES)
        for (int r = 0; r < STRIP; r += 8)
            register_product(8, 2, a + r * a_row, a_row, a_inner, b + j, b_stride, c + r * c_stride + j,
                             c_stride, inner, accumulate);
    for (; j < columns; j += TR_LANES)
        for (int r = 0; r < STRIP; r += 8)
            register_product(8, 1, a + r * a_row, a_row, a_inner, b + j, b_stride, c + r * c_stride + j,
                             c_stride, inner, accumulate);
}

/* Tensors are float32 or bfloat16 in memory; packed, and in between, all is float32. Only packing and storing know
 * of the difference (the functions with a dtype; `at`: their first element), so the products are compiled once. */

TR_INLINE void pack_rows_of(const void *from, int64_t at, int64_t stride, int64_t rows, int64_t columns,
                            float scale, float *to, int64_t width, tr_dtype dtype)
{
    for (int64_t r = 0; r < round_up(rows, BLOCK); r++)
        for (int64_t j = 0; j < width; j += TR_LANES) {
            tr_f32x16 x = {0};
            if (r < rows) x = tr_load_up_to_x16(from, at + r * stride + j, columns - j, 0, dtype);
            tr_store_f32x16(to + r * width + j, x * tr_splat_f32x16(scale));
        }
}

/* to (round_up(rows, BLOCK), width) = scale * from (rows, columns), zeros elsewhere. */
TR_INLINE void pack_rows(const void *from, int64_t at, tr_dtype dtype, int64_t stride, int64_t rows,
                         int64_t columns, float scale, float *to, int64_t width)
{
    TR_BY_DTYPE(dtype, pack_rows_of, from, at, stride, rows, columns, scale, to, width);
}

TR_INLINE void pack_transposed_of(const void *from, int64_t at, int64_t stride, int64_t rows, int64_t columns,
                                  float *to, tr_dtype dtype)
{
    for (int64_t first = 0; first < rows; first += BLOCK, to += columns * BLOCK) {
        int64_t n = rows - first < BLOCK ? rows - first : BLOCK;
        if (n < BLOCK) memset(to, 0, (size_t)(columns * BLOCK) * sizeof *to);
        for (int64_t r = 0; r < n; r++)
            for (int64_t j = 0; j < columns; j++)
                to[j * BLOCK + r] = tr_get(from, at + (first + r) * stride + j, dtype);
    }
}

/* Transposes block by block: block n of `to` is (columns, BLOCK), of rows n*BLOCK on; zeros past the last. */
TR_INLINE void pack_transposed(const void *from, int64_t at, tr_dtype dtype, int64_t stride, int64_t rows,
                               int64_t columns, float *to)
{
    TR_BY_DTYPE(dtype, pack_transposed_of, from, at, stride, rows, columns, to);
}

/* x where the lane's column (from `column` on) is below `visible`, else `otherwise`. */
TR_INLINE tr_f32x16 mask_columns(tr_f32x16 x, int64_t column, int64_t visible, float otherwise)
{
    const tr_i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (column + TR_LANES <= visible) return x;
    return tr_select_f32x16(lane < ((int32_t)(visible - column) - (tr_i32x16){0}), x,
                            tr_splat_f32x16(otherwise));
}

/* How many columns of a block a strip needs: those its last row sees, in whole vectors; 0 for none. */
TR_INLINE int64_t strip_columns(int64_t last_position, int64_t first_key)
{
    int64_t visible = last_position - first_key + 1;
    if (visible <= 0) return 0;
    return visible >= BLOCK ? BLOCK : round_up(visible, TR_LANES);
}

#endif
