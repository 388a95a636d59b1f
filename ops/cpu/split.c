/* ops/cpu/split.c - rows of copies.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/split.h"

#include "ops/cpu/tiles.h"

#include <string.h>

typedef struct split_work {
    const float *x;           /* split */
    float *const *parts;      /* split */
    const float *const *from; /* join */
    float *out;               /* join */
    const int64_t *widths;
    int n_parts;
    int64_t rows, columns;
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
        const float *from = work->x + r * work->columns;
        for (int i = 0; i < work->n_parts; from += work->widths[i++])
            if (work->parts[i])
                memcpy(work->parts[i] + r * work->widths[i], from, (size_t)work->widths[i] * sizeof *from);
    }
}

static void join_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const split_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) {
        float *to = work->out + r * work->columns;
        for (int i = 0; i < work->n_parts; to += work->widths[i++]) {
            size_t bytes = (size_t)work->widths[i] * sizeof *to;
            if (work->from[i])
                memcpy(to, work->from[i] + r * work->widths[i], bytes);
            else
                memset(to, 0, bytes);
        }
    }
}

void tr_cpu_split(const float *x, float *const *parts, const int64_t *widths, int n_parts, int64_t rows,
                  tr_thread_pool *pool)
{
    split_work work = {.x = x, .parts = parts, .widths = widths, .n_parts = n_parts, .rows = rows};
    work.columns = sum_of(widths, n_parts);
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(work.columns)), split_tile, &work);
}

void tr_cpu_join(const float *const *parts, float *x, const int64_t *widths, int n_parts, int64_t rows,
                 tr_thread_pool *pool)
{
    split_work work = {.from = parts, .out = x, .widths = widths, .n_parts = n_parts, .rows = rows};
    work.columns = sum_of(widths, n_parts);
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(work.columns)), join_tile, &work);
}
