/* ops/cpu/split.c - rows of copies.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/split.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

#include <string.h>

typedef struct split_work {
    const void *x;           /* split */
    void *const *parts;      /* split */
    const void *const *from; /* join */
    void *out;               /* join */
    const int64_t *widths;
    int n_parts;
    int64_t rows, columns;
    tr_dtype dtype;
} split_work;

static int64_t sum_of(const int64_t *widths, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) sum += widths[i];
    return sum;
}

static void split_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const split_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) {
        int64_t at = r * work->columns;
        for (int i = 0; i < work->n_parts; at += work->widths[i++])
            if (work->parts[i])
                memcpy(tr_at(work->parts[i], r * work->widths[i], work->dtype),
                       tr_at(work->x, at, work->dtype),
                       (size_t)(work->widths[i] * tr_element_bytes(work->dtype)));
    }
}

static void join_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const split_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) {
        int64_t at = r * work->columns;
        for (int i = 0; i < work->n_parts; at += work->widths[i++]) {
            size_t bytes = (size_t)(work->widths[i] * tr_element_bytes(work->dtype));
            void *to = tr_at(work->out, at, work->dtype);
            if (work->from[i])
                memcpy(to, tr_at(work->from[i], r * work->widths[i], work->dtype), bytes);
            else
                memset(to, 0, bytes);
        }
    }
}

void tr_cpu_split(const void *x, void *const *parts, const int64_t *widths, int n_parts, int64_t rows,
                  tr_dtype dtype, tr_thread_pool *pool)
{
    split_work work = {.x = x, .parts = parts, .widths = widths, .n_parts = n_parts, .rows = rows};
    work.columns = sum_of(widths, n_parts);
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(work.columns)), split_tile, &work);
}

void tr_cpu_join(const void *const *parts, void *x, const int64_t *widths, int n_parts, int64_t rows,
                 tr_dtype dtype, tr_thread_pool *pool)
{
    split_work work = {.from = parts, .out = x, .widths = widths, .n_parts = n_parts, .rows = rows};
    work.columns = sum_of(widths, n_parts);
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(work.columns)), join_tile, &work);
}
