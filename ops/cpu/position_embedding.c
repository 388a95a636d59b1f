/* ops/cpu/position_embedding.c - tiles are ranges of positions; each row of the table belongs to one tile.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/position_embedding.h"

#include "ops/cpu/norm.h"

typedef struct position_work {
    const float *x, *table, *dy;
    float *y, *dtable;
    int64_t b, t, c, position;
} position_work;

TR_MULTIVERSION static void add_row(const float *x, const float *row, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += TR_LANES)
        tr_store_up_to_f32x16(
            y + i, tr_load_up_to_f32x16(x + i, n - i, 0) + tr_load_up_to_f32x16(row + i, n - i, 0), n - i);
}

/* The sum over b first, then one addition to the table: what other micro-batches gave is added to last. */
TR_MULTIVERSION static void sum_row(const float *dy, float *row, int64_t n, int64_t b, int64_t stride)
{
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_f32x16 sum = {0};
        for (int64_t k = 0; k < b; k++) sum += tr_load_up_to_f32x16(dy + k * stride + i, n - i, 0);
        tr_add_up_to_f32x16(row + i, sum, n - i);
    }
}

static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const position_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->c), end = tr_min_i64((tile + 1) * tile_rows, work->b * work->t);
    for (int64_t r = tile * tile_rows; r < end; r++)
        add_row(work->x + r * work->c, work->table + (work->position + r % work->t) * work->c,
                work->y + r * work->c, work->c);
}

static void weight_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const position_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->b * work->c), end = tr_min_i64((tile + 1) * tile_rows, work->t);
    for (int64_t t = tile * tile_rows; t < end; t++)
        sum_row(work->dy + t * work->c, work->dtable + (work->position + t) * work->c, work->c, work->b,
                work->t * work->c);
}

void tr_cpu_position_embedding(const float *x, const float *table, float *y, int64_t b, int64_t t, int64_t c,
                               int64_t position, tr_thread_pool *pool)
{
    position_work work = {.x = x, .table = table, .y = y, .b = b, .t = t, .c = c, .position = position};
    tr_thread_pool_run(pool, tr_tile_count(b * t, tr_tile_rows(c)), forward_tile, &work);
}

void tr_cpu_position_embedding_weight(const float *dy, float *dtable, int64_t b, int64_t t, int64_t c,
                                      int64_t position, tr_thread_pool *pool)
{
    position_work work = {.dy = dy, .dtable = dtable, .b = b, .t = t, .c = c, .position = position};
    tr_thread_pool_run(pool, tr_tile_count(t, tr_tile_rows(b * c)), weight_tile, &work);
}
