/* ops/cpu/embedding.c - see embedding.h. The gradient's tiles are ranges of columns, each of which goes
 * through all tokens in order: no two tiles write the same element, and the order of a sum is that of the
 * tokens.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/embedding.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

enum { COLUMNS = 64 };

typedef struct embedding_context {
    const int32_t *ids;
    const void *from; /* of dtype */
    void *to;         /* the forward's is of dtype, the gradient float32 */
    int64_t rows, channels, tile_rows;
    tr_dtype dtype;
} embedding_context;

static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const embedding_context *c = context;
    int64_t end = tr_min_i64((tile + 1) * c->tile_rows, c->rows);
    for (int64_t m = tile * c->tile_rows; m < end; m++)
        memcpy(tr_at(c->to, m * c->channels, c->dtype), tr_at(c->from, c->ids[m] * c->channels, c->dtype),
               (size_t)(c->channels * tr_element_bytes(c->dtype)));
}

void tr_cpu_embedding(const int32_t *ids, const void *table, void *y, int64_t rows, int64_t channels,
                      tr_dtype dtype, tr_thread_pool *pool)
{
    embedding_context c = {.ids = ids,
                           .from = table,
                           .to = y,
                           .rows = rows,
                           .channels = channels,
                           .tile_rows = tr_tile_rows(channels),
                           .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(rows, c.tile_rows), forward_tile, &c);
}

TR_INLINE void add_columns(const embedding_context *c, int64_t first, int64_t n, tr_dtype dtype)
{
    for (int64_t m = 0; m < c->rows; m++) {
        int64_t from = m * c->channels + first, i = 0;
        float *to = (float *)c->to + c->ids[m] * c->channels + first;
        for (; i + TR_LANES <= n; i += TR_LANES)
            tr_store_f32x16(to + i, tr_load_f32x16(to + i) + tr_load_x16(c->from, from + i, dtype));
        for (; i < n; i++) to[i] += tr_get(c->from, from + i, dtype);
    }
}

TR_MULTIVERSION static void dtable_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const embedding_context *c = context;
    int64_t first = tile * COLUMNS, n = tr_min_i64(c->channels - first, COLUMNS);
    TR_BY_DTYPE(c->dtype, add_columns, c, first, n);
}

void tr_cpu_embedding_dtable(const int32_t *ids, const void *dy, float *dtable, int64_t rows,
                             int64_t channels, tr_dtype dtype, tr_thread_pool *pool)
{
    embedding_context c = {.ids = ids, .from = dy, .to = dtable, .rows = rows, .channels = channels};
    c.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(channels, COLUMNS), dtable_tile, &c);
}
