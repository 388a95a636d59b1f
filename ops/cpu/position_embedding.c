/* ops/cpu/position_embedding.c - tiles are ranges of positions; each row of the table belongs to one tile.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/position_embedding.h"

#include "ops/cpu/norm.h"

typedef struct position_work {
    const void *x, *table, *dy; /* of dtype */
    void *y;                    /* of dtype */
    float *dtable;
    int64_t b, t, c, position;
    tr_dtype dtype;
} position_work;

TR_INLINE void add_row(const position_work *work, int64_t row, tr_dtype dtype)
{
    int64_t x = row * work->c, table = (work->position + row % work->t) * work->c;
    for (int64_t i = 0, left = work->c; left > 0; i += TR_LANES, left -= TR_LANES) {
        tr_f32x16 sum = tr_load_up_to_x16(work->x, x + i, left, 0, dtype) +
                        tr_load_up_to_x16(work->table, table + i, left, 0, dtype);
        tr_store_up_to_x16(work->y, x + i, sum, left, dtype);
    }
}

/* The sum over b first, then one addition to the table: what other micro-batches gave is added to last. */
TR_INLINE void sum_row(const position_work *work, int64_t t, tr_dtype dtype)
{
    float *row = work->dtable + (work->position + t) * work->c;
    for (int64_t i = 0, left = work->c; left > 0; i += TR_LANES, left -= TR_LANES) {
        tr_f32x16 sum = {0};
        for (int64_t k = 0; k < work->b; k++)
            sum += tr_load_up_to_x16(work->dy, (k * work->t + t) * work->c + i, left, 0, dtype);
        tr_add_up_to_f32x16(row + i, sum, left);
    }
}

TR_MULTIVERSION static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const position_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->c), end = tr_min_i64((tile + 1) * tile_rows, work->b * work->t);
    for (int64_t r = tile * tile_rows; r < end; r++) TR_BY_DTYPE(work->dtype, add_row, work, r);
}

TR_MULTIVERSION static void weight_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const position_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->b * work->c), end = tr_min_i64((tile + 1) * tile_rows, work->t);
    for (int64_t t = tile * tile_rows; t < end; t++) TR_BY_DTYPE(work->dtype, sum_row, work, t);
}

void tr_cpu_position_embedding(const void *x, const void *table, void *y, int64_t b, int64_t t, int64_t c,
                               int64_t position, tr_dtype dtype, tr_thread_pool *pool)
{
    position_work work = {.x = x, .table = table, .y = y, .b = b, .t = t, .c = c, .position = position};
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(b * t, tr_tile_rows(c)), forward_tile, &work);
}

void tr_cpu_position_embedding_weight(const void *dy, float *dtable, int64_t b, int64_t t, int64_t c,
                                      int64_t position, tr_dtype dtype, tr_thread_pool *pool)
{
    position_work work = {.dy = dy, .dtable = dtable, .b = b, .t = t, .c = c, .position = position};
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(t, tr_tile_rows(b * c)), weight_tile, &work);
}
