/* ops/cpu/embedding.c - see embedding.h. The gradient's tiles are ranges of columns, each of which goes
 * through all tokens in order: no two tiles write the same element, and the order of a sum is that of the
 * tokens.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/embedding.h"

#include "ops/cpu/tiles.h"
#include "ops/cpu/vector.h"

enum { COLUMNS = 64 };

typedef struct embedding_context {
    const int32_t *ids;
    const float *from;
    float *to;
    int64_t rows, channels, tile_rows;
} embedding_context;

static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const embedding_context *c = context;
    int64_t end = tr_min_i64((tile + 1) * c->tile_rows, c->rows);
    for (int64_t m = tile * c->tile_rows; m < end; m++)
        memcpy(c->to + m * c->channels, c->from + c->ids[m] * c->channels,
               (size_t)c->channels * sizeof(float));
}

void tr_cpu_embedding(const int32_t *ids, const float *table, float *y, int64_t rows, int64_t channels,
                      tr_thread_pool *pool)
{
    embedding_context c = {.ids = ids,
                           .from = table,
                           .to = y,
                           .rows = rows,
                           .channels = channels,
                           .tile_rows = tr_tile_rows(channels)};
    tr_thread_pool_run(pool, tr_tile_count(rows, c.tile_rows), forward_tile, &c);
}

TR_MULTIVERSION static void dtable_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const embedding_context *c = context;
    int64_t first = tile * COLUMNS, n = tr_min_i64(c->channels - first, COLUMNS);
    for (int64_t m = 0; m < c->rows; m++) {
        const float *from = c->from + m * c->channels + first;
        float *to = c->to + c->ids[m] * c->channels + first;
        int64_t i = 0;
        for (; i + TR_LANES <= n; i += TR_LANES)
            tr_store_f32x16(to + i, tr_load_f32x16(to + i) + tr_load_f32x16(from + i));
        for (; i < n; i++) to[i] += from[i];
    }
}

void tr_cpu_embedding_dtable(const int32_t *ids, const float *dy, float *dtable, int64_t rows,
                             int64_t channels, tr_thread_pool *pool)
{
    embedding_context c = {.ids = ids, .from = dy, .to = dtable, .rows = rows, .channels = channels};
    tr_thread_pool_run(pool, tr_tile_count(channels, COLUMNS), dtable_tile, &c);
}
