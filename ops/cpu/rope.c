/* ops/cpu/rope.c - see rope.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rope.h"

#include "ops/cpu/tiles.h"
#include "ops/cpu/vector.h"

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
    const float *x, *table;
    float *y;
    int64_t rows, time, heads, head_size, tile_rows;
    float sign;
} rope_context;

TR_INLINE void rotate(const float *x, const float *table, float *y, int64_t half, float sign)
{
    int64_t i = 0;
    for (; i + TR_LANES <= half; i += TR_LANES) {
        tr_f32x16 a = tr_load_f32x16(x + i), b = tr_load_f32x16(x + half + i);
        tr_f32x16 cosine = tr_load_f32x16(table + i),
                  sine = tr_splat_f32x16(sign) * tr_load_f32x16(table + half + i);
        tr_store_f32x16(y + i, a * cosine - b * sine);
        tr_store_f32x16(y + half + i, b * cosine + a * sine);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i], cosine = table[i], sine = sign * table[half + i];
        y[i] = a * cosine - b * sine;
        y[half + i] = b * cosine + a * sine;
    }
}

TR_MULTIVERSION static void rope_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rope_context *c = context;
    int64_t end = tr_min_i64((tile + 1) * c->tile_rows, c->rows);
    for (int64_t row = tile * c->tile_rows; row < end; row++) {
        const float *table = c->table + row % c->time * c->head_size;
        for (int64_t h = 0; h < c->heads; h++) {
            int64_t at = (row * c->heads + h) * c->head_size;
            rotate(c->x + at, table, c->y + at, c->head_size / 2, c->sign);
        }
    }
}

void tr_cpu_rope(const float *x, const float *table, float *y, int64_t batch, int64_t time, int64_t heads,
                 int64_t head_size, bool inverse, tr_thread_pool *pool)
{
    rope_context c = {.x = x,
                      .table = table,
                      .y = y,
                      .rows = batch * time,
                      .time = time,
                      .heads = heads,
                      .head_size = head_size,
                      .tile_rows = tr_tile_rows(heads * head_size),
                      .sign = inverse ? -1.0f : 1.0f};
    tr_thread_pool_run(pool, tr_tile_count(c.rows, c.tile_rows), rope_tile, &c);
}
