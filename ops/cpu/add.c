/* ops/cpu/add.c - bound by memory; the vectors only keep it so when y is a.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/add.h"

#include "ops/cpu/tiles.h"
#include "ops/cpu/vector.h"

typedef struct add_work {
    const float *a, *b;
    float *y;
    int64_t n;
} add_work;

TR_MULTIVERSION static void add_range(const float *a, const float *b, float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + TR_LANES <= n; i += TR_LANES)
        tr_store_f32x16(y + i, tr_load_f32x16(a + i) + tr_load_f32x16(b + i));
    for (; i < n; i++) y[i] = a[i] + b[i];
}

static void add_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const add_work *work = context;
    int64_t first = tile * TR_ELEMENT_TILE;
    add_range(work->a + first, work->b + first, work->y + first,
              tr_min_i64(TR_ELEMENT_TILE, work->n - first));
}

void tr_cpu_add(const float *a, const float *b, float *y, int64_t n, tr_thread_pool *pool)
{
    add_work work = {.a = a, .b = b, .y = y, .n = n};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), add_tile, &work);
}
