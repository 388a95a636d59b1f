/* ops/cpu/rmsnorm.c - rows are tiles of their own for y and dx; columns for dw.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rmsnorm.h"

#include "ops/cpu/norm.h"

#include <math.h>

typedef struct rmsnorm_work {
    const float *dy, *x, *w, *rstd, *pending;
    float *out, *rstd_out;
    int64_t rows, columns;
    float eps;
} rmsnorm_work;

TR_MULTIVERSION static float forward_row(const float *x, const float *w, float *y, int64_t n, float eps)
{
    tr_f32x16 sum = {0}, sum2 = {0};
    int64_t i = 0;
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        tr_f32x16 a = tr_load_f32x16(x + i), b = tr_load_f32x16(x + i + TR_LANES);
        sum += a * a;
        sum2 += b * b;
    }
    for (; i < n; i += TR_LANES) {
        tr_f32x16 a = tr_load_up_to_f32x16(x + i, n - i, 0);
        sum += a * a;
    }
    float rstd = 1.0f / sqrtf(tr_sum_f32x16(sum + sum2) / (float)n + eps);
    for (i = 0; i + TR_LANES <= n; i += TR_LANES)
        tr_store_f32x16(y + i, tr_load_f32x16(x + i) * rstd * tr_load_f32x16(w + i));
    for (; i < n; i++) y[i] = x[i] * rstd * w[i];
    return rstd;
}

TR_MULTIVERSION static void backward_row(const float *dy, const float *x, const float *w, float rstd,
                                         const float *pending, float *dx, int64_t n)
{
    tr_f32x16 sum = {0}, sum2 = {0};
    int64_t i = 0;
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        int64_t j = i + TR_LANES;
        sum += tr_load_f32x16(dy + i) * tr_load_f32x16(w + i) * tr_load_f32x16(x + i);
        sum2 += tr_load_f32x16(dy + j) * tr_load_f32x16(w + j) * tr_load_f32x16(x + j);
    }
    for (; i < n; i += TR_LANES)
        sum += tr_load_up_to_f32x16(dy + i, n - i, 0) * tr_load_up_to_f32x16(w + i, n - i, 0) *
               tr_load_up_to_f32x16(x + i, n - i, 0);
    float k = tr_sum_f32x16(sum + sum2) / (float)n * rstd * rstd;
    for (i = 0; i < n; i += TR_LANES) {
        tr_f32x16 g = tr_load_up_to_f32x16(dy + i, n - i, 0) * tr_load_up_to_f32x16(w + i, n - i, 0);
        tr_f32x16 d = rstd * (g - tr_load_up_to_f32x16(x + i, n - i, 0) * k);
        if (pending) d = tr_load_up_to_f32x16(pending + i, n - i, 0) + d;
        tr_store_up_to_f32x16(dx + i, d, n - i);
    }
}

/* n columns (at most TR_NORM_COLUMNS) of all rows, which are `stride` apart. */
TR_MULTIVERSION static void weight_columns(const float *dy, const float *x, const float *rstd, float *dw,
                                           int64_t rows, int64_t stride, int64_t n)
{
    tr_f32x16 total[TR_NORM_VECTORS] = {0};
    for (int64_t first = 0; first < rows; first += TR_NORM_ROWS) {
        int64_t end = tr_min_i64(first + TR_NORM_ROWS, rows);
        for (int v = 0; v * TR_LANES < n; v++) {
            tr_f32x16 block = {0};
            for (int64_t r = first; r < end; r++) {
                int64_t at = r * stride + v * TR_LANES, left = n - v * TR_LANES;
                block += tr_load_up_to_f32x16(dy + at, left, 0) *
                         (tr_load_up_to_f32x16(x + at, left, 0) * rstd[r]);
            }
            total[v] += block;
        }
    }
    for (int v = 0; v * TR_LANES < n; v++) tr_add_up_to_f32x16(dw + v * TR_LANES, total[v], n - v * TR_LANES);
}

static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rmsnorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) {
        int64_t at = r * work->columns;
        work->rstd_out[r] = forward_row(work->x + at, work->w, work->out + at, work->columns, work->eps);
    }
}

static void backward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rmsnorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) {
        int64_t at = r * work->columns;
        backward_row(work->dy + at, work->x + at, work->w, work->rstd[r],
                     work->pending ? work->pending + at : NULL, work->out + at, work->columns);
    }
}

static void weight_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rmsnorm_work *work = context;
    int64_t c = tile * TR_NORM_COLUMNS;
    weight_columns(work->dy + c, work->x + c, work->rstd, work->out + c, work->rows, work->columns,
                   tr_min_i64(TR_NORM_COLUMNS, work->columns - c));
}

void tr_cpu_rmsnorm(const float *x, const float *w, float *y, float *rstd, int64_t rows, int64_t columns,
                    float eps, tr_thread_pool *pool)
{
    rmsnorm_work work = {
        .x = x, .w = w, .out = y, .rstd_out = rstd, .rows = rows, .columns = columns, .eps = eps};
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), forward_tile, &work);
}

void tr_cpu_rmsnorm_backward(const float *dy, const float *x, const float *w, const float *rstd,
                             const float *pending, float *dx, int64_t rows, int64_t columns,
                             tr_thread_pool *pool)
{
    rmsnorm_work work = {.dy = dy, .x = x, .w = w, .rstd = rstd, .pending = pending, .out = dx};
    work.rows = rows;
    work.columns = columns;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), backward_tile, &work);
}

void tr_cpu_rmsnorm_weight(const float *dy, const float *x, const float *rstd, float *dw, int64_t rows,
                           int64_t columns, tr_thread_pool *pool)
{
    rmsnorm_work work = {.dy = dy, .x = x, .rstd = rstd, .out = dw, .rows = rows, .columns = columns};
    tr_thread_pool_run(pool, tr_tile_count(columns, TR_NORM_COLUMNS), weight_tile, &work);
}
