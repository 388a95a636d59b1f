/* ops/cpu/dropout.c - Philox in sixteen lanes: a call draws for 64 elements. Products of 32 bits are made of
 * halves, because compilers make something slow of lanes of 64 bits where the instruction set has no such product.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/dropout.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

_Static_assert(TR_DROPOUT_GROUP == 4 * TR_LANES, "four words of a block for each lane");
_Static_assert(TR_ELEMENT_TILE % TR_DROPOUT_GROUP == 0, "tiles begin with a group");

/* x * by: the upper and the lower 32 bits. */
TR_INLINE void multiply_long(tr_u32x16 x, uint32_t by, tr_u32x16 *high, tr_u32x16 *low)
{
    const uint32_t by_low = by & 0xffff, by_high = by >> 16;
    tr_u32x16 x_low = x & 0xffff, x_high = x >> 16;
    tr_u32x16 outer = x_high * by_low + (x_low * by_low >> 16);
    tr_u32x16 inner = x_low * by_high + (outer & 0xffff);
    *high = x_high * by_high + (outer >> 16) + (inner >> 16);
    *low = x * by;
}

TR_INLINE tr_f32x16 factor_of(const tr_dropout_mask *mask, tr_u32x16 words)
{
    return (tr_f32x16)((tr_i32x16)(words >= mask->threshold) & (tr_i32x16)tr_splat_f32x16(mask->scale));
}

/* Lane l of factors[w] is the factor of column 16 w + l. Constants as in base/rng.c. */
TR_INLINE void draw_group(const tr_dropout_mask *mask, uint32_t plane, uint32_t row, uint64_t column,
                          tr_f32x16 factors[4])
{
    const tr_u32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, zero = {0};
    uint64_t block = column / TR_DROPOUT_GROUP * TR_LANES; /* a multiple of the lanes: no carry */
    tr_u32x16 c0 = lane + (uint32_t)block, c1 = zero + (uint32_t)(block >> 32), c2 = zero + row,
              c3 = zero + plane;
    uint32_t k0 = mask->key[0], k1 = mask->key[1];
    for (int round = 0; round < 10; round++) {
        tr_u32x16 high0, low0, high2, low2;
        multiply_long(c0, 0xD2511F53u, &high0, &low0);
        multiply_long(c2, 0xCD9E8D57u, &high2, &low2);
        c0 = high2 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low2;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    factors[0] = factor_of(mask, c0), factors[1] = factor_of(mask, c1);
    factors[2] = factor_of(mask, c2), factors[3] = factor_of(mask, c3);
}

/* first is a multiple of the group. */
TR_INLINE void drop_range(const void *x, void *y, int64_t first, int64_t end, const tr_dropout_mask *mask,
                          tr_dtype dtype)
{
    tr_f32x16 factors[4];
    for (int64_t i = first; i < end; i += TR_DROPOUT_GROUP) {
        draw_group(mask, 0, 0, (uint64_t)i, factors);
        for (int w = 0; w < 4; w++) {
            int64_t at = i + w * TR_LANES;
            if (at < end)
                tr_store_up_to_x16(y, at, tr_load_up_to_x16(x, at, end - at, 0, dtype) * factors[w], end - at,
                                   dtype);
        }
    }
}

typedef struct dropout_work {
    const void *x; /* of dtype */
    void *y;       /* of dtype */
    int64_t n;
    const tr_dropout_mask *mask;
    tr_dtype dtype;
} dropout_work;

TR_MULTIVERSION static void drop_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const dropout_work *work = context;
    int64_t first = tile * TR_ELEMENT_TILE, end = tr_min_i64(first + TR_ELEMENT_TILE, work->n);
    TR_BY_DTYPE(work->dtype, drop_range, work->x, work->y, first, end, work->mask);
}

void tr_cpu_dropout(const void *x, void *y, int64_t n, const tr_dropout_mask *mask, tr_dtype dtype,
                    tr_thread_pool *pool)
{
    dropout_work work = {.x = x, .y = y, .n = n, .mask = mask, .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), drop_tile, &work);
}

TR_MULTIVERSION static void draw_rows(const tr_dropout_mask *mask, uint32_t plane, uint32_t row,
                                      uint64_t column, int64_t rows, float *factors)
{
    tr_f32x16 drawn[4];
    for (int64_t r = 0; r < rows; r++) {
        draw_group(mask, plane, row + (uint32_t)r, column, drawn);
        for (int w = 0; w < 4; w++) tr_store_f32x16(factors + r * TR_DROPOUT_GROUP + w * TR_LANES, drawn[w]);
    }
}

void tr_cpu_dropout_factors(const tr_dropout_mask *mask, uint32_t plane, uint32_t row, uint64_t column,
                            int64_t rows, float *factors)
{
    draw_rows(mask, plane, row, column, rows, factors);
}
