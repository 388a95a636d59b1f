/* ops/cpu/add.c - bound by memory; the vectors only keep it so when y is a.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/add.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

typedef struct add_work {
    const void *a, *b;
    void *y;
    int64_t n;
    tr_dtype dtype;
} add_work;

TR_INLINE void add_loop(const void *a, const void *b, void *y, int64_t first, int64_t end, tr_dtype dtype)
{
    int64_t i = first;
    for (; i + TR_LANES <= end; i += TR_LANES)
        tr_store_x16(y, i, tr_load_x16(a, i, dtype) + tr_load_x16(b, i, dtype), dtype);
    for (; i < end; i++) tr_put(y, i, tr_get(a, i, dtype) + tr_get(b, i, dtype), dtype);
}

TR_MULTIVERSION static void add_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const add_work *w = context;
    int64_t first = tile * TR_ELEMENT_TILE, end = tr_min_i64(first + TR_ELEMENT_TILE, w->n);
    TR_BY_DTYPE(w->dtype, add_loop, w->a, w->b, w->y, first, end);
}

void tr_cpu_add(const void *a, const void *b, void *y, int64_t n, tr_dtype dtype, tr_thread_pool *pool)
{
    add_work work = {.a = a, .b = b, .y = y, .n = n, .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), add_tile, &work);
}
