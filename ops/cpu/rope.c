/* ops/cpu/rope.c - see rope.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rope.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

#include <math.h>

void tr_rope_table(float *table, int64_t first, int64_t time, int32_t head_size, const double *frequencies,
                   double magnitude)
{
    int32_t half = head_size / 2;
    for (int32_t i = 0; i < half; i++)
        for (int64_t t = 0; t < time; t++) {
            double angle = (double)(first + t) * frequencies[i];
            table[t * head_size + i] = (float)(magnitude * cos(angle));
            table[t * head_size + half + i] = (float)(magnitude * sin(angle));
        }
}

typedef struct rope_context {
    const void *x; /* of dtype */
    const float *table;
    void *y; /* of dtype */
    int64_t rows, time, heads, head_size, tile_rows;
    float sign;
    tr_dtype dtype;
} rope_context;

/* Elements at .. at + 2 half - 1. */
TR_INLINE void rotate(const rope_context *c, int64_t at, const float *table, int64_t half, tr_dtype dtype)
{
    for (int64_t i = 0, left = half; left > 0; i += TR_LANES, left -= TR_LANES) {
        tr_f32x16 a = tr_load_up_to_x16(c->x, at + i, left, 0, dtype),
                  b = tr_load_up_to_x16(c->x, at + half + i, left, 0, dtype);
        tr_f32x16 cosine = tr_load_up_to_x16(table, i, left, 0, TR_F32),
                  sine = tr_splat_f32x16(c->sign) * tr_load_up_to_x16(table, half + i, left, 0, TR_F32);
        tr_store_up_to_x16(c->y, at + i, a * cosine - b * sine, left, dtype);
        tr_store_up_to_x16(c->y, at + half + i, b * cosine + a * sine, left, dtype);
    }
}

TR_MULTIVERSION static void rope_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rope_context *c = context;
    int64_t end = tr_min_i64((tile + 1) * c->tile_rows, c->rows);
    for (int64_t row = tile * c->tile_rows; row < end; row++) {
        const float *table = c->table + row % c->time * c->head_size;
        for (int64_t h = 0; h < c->heads; h++)
            TR_BY_DTYPE(c->dtype, rotate, c, (row * c->heads + h) * c->head_size, table, c->head_size / 2);
    }
}

void tr_cpu_rope(const void *x, const float *table, void *y, int64_t batch, int64_t time, int64_t heads,
                 int64_t head_size, bool inverse, tr_dtype dtype, tr_thread_pool *pool)
{
    rope_context c = {.x = x,
                      .table = table,
                      .y = y,
                      .rows = batch * time,
                      .time = time,
                      .heads = heads,
                      .head_size = head_size,
                      .tile_rows = tr_tile_rows(heads * head_size),
                      .sign = inverse ? -1.0f : 1.0f,
                      .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(c.rows, c.tile_rows), rope_tile, &c);
}
