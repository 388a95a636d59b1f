/* ops/cpu/rmsnorm.c - rows are tiles of their own for y and dx; columns for dw.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rmsnorm.h"

#include "ops/cpu/norm.h"

#include <math.h>

typedef struct rmsnorm_work {
    const void *dy, *x, *pending; /* of dtype */
    const float *w, *rstd;
    void *out; /* of dtype */
    float *rstd_out, *dw;
    int64_t rows, columns;
    float eps;
    tr_dtype dtype;
} rmsnorm_work;

TR_INLINE void forward_row(const rmsnorm_work *work, int64_t r, tr_dtype dtype)
{
    int64_t n = work->columns, i = 0;
    const void *x = tr_at(work->x, r * n, dtype);
    void *y = tr_at(work->out, r * n, dtype);
    tr_f32x16 sum = {0}, sum2 = {0};
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        tr_f32x16 a = tr_load_x16(x, i, dtype), b = tr_load_x16(x, i + TR_LANES, dtype);
        sum += a * a;
        sum2 += b * b;
    }
    for (; i < n; i += TR_LANES) {
        tr_f32x16 a = tr_load_up_to_x16(x, i, n - i, 0, dtype);
        sum += a * a;
    }
    float rstd = 1.0f / sqrtf(tr_sum_f32x16(sum + sum2) / (float)n + work->eps);
    for (i = 0; i < n; i += TR_LANES)
        tr_store_up_to_x16(y, i,
                           tr_load_up_to_x16(x, i, n - i, 0, dtype) * rstd *
                               tr_load_up_to_x16(work->w, i, n - i, 0, TR_F32),
                           n - i, dtype);
    work->rstd_out[r] = rstd;
}

TR_INLINE void backward_row(const rmsnorm_work *work, int64_t r, tr_dtype dtype)
{
    int64_t n = work->columns, i = 0;
    const void *dy = tr_at(work->dy, r * n, dtype), *x = tr_at(work->x, r * n, dtype);
    const void *pending = tr_at(work->pending, r * n, dtype);
    void *dx = tr_at(work->out, r * n, dtype);
    const float *w = work->w;
    float rstd = work->rstd[r];
    tr_f32x16 sum = {0}, sum2 = {0};
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        int64_t j = i + TR_LANES;
        sum += tr_load_x16(dy, i, dtype) * tr_load_f32x16(w + i) * tr_load_x16(x, i, dtype);
        sum2 += tr_load_x16(dy, j, dtype) * tr_load_f32x16(w + j) * tr_load_x16(x, j, dtype);
    }
    for (; i < n; i += TR_LANES)
        sum += tr_load_up_to_x16(dy, i, n - i, 0, dtype) * tr_load_up_to_x16(w, i, n - i, 0, TR_F32) *
               tr_load_up_to_x16(x, i, n - i, 0, dtype);
    float k = tr_sum_f32x16(sum + sum2) / (float)n * rstd * rstd;
    for (i = 0; i < n; i += TR_LANES) {
        tr_f32x16 g = tr_load_up_to_x16(dy, i, n - i, 0, dtype) * tr_load_up_to_x16(w, i, n - i, 0, TR_F32);
        tr_f32x16 d = rstd * (g - tr_load_up_to_x16(x, i, n - i, 0, dtype) * k);
        if (pending) d = tr_load_up_to_x16(pending, i, n - i, 0, dtype) + d;
        tr_store_up_to_x16(dx, i, d, n - i, dtype);
    }
}

/* n columns (at most TR_NORM_COLUMNS) of all rows. */
TR_INLINE void weight_columns(const rmsnorm_work *work, int64_t column, int64_t n, tr_dtype dtype)
{
    tr_f32x16 total[TR_NORM_VECTORS] = {0};
    for (int64_t first = 0; first < work->rows; first += TR_NORM_ROWS) {
        int64_t end = tr_min_i64(first + TR_NORM_ROWS, work->rows);
        for (int v = 0; v * TR_LANES < n; v++) {
            tr_f32x16 block = {0};
            for (int64_t r = first; r < end; r++) {
                int64_t at = r * work->columns + column + v * TR_LANES, left = n - v * TR_LANES;
                block += tr_load_up_to_x16(work->dy, at, left, 0, dtype) *
                         (tr_load_up_to_x16(work->x, at, left, 0, dtype) * work->rstd[r]);
            }
            total[v] += block;
        }
    }
    for (int v = 0; v * TR_LANES < n; v++)
        tr_add_up_to_f32x16(work->dw + column + v * TR_LANES, total[v], n - v * TR_LANES);
}

TR_MULTIVERSION static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rmsnorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) TR_BY_DTYPE(work->dtype, forward_row, work, r);
}

TR_MULTIVERSION static void backward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rmsnorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) TR_BY_DTYPE(work->dtype, backward_row, work, r);
}

TR_MULTIVERSION static void weight_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rmsnorm_work *work = context;
    int64_t column = tile * TR_NORM_COLUMNS, n = tr_min_i64(TR_NORM_COLUMNS, work->columns - column);
    TR_BY_DTYPE(work->dtype, weight_columns, work, column, n);
}

void tr_cpu_rmsnorm(const void *x, const float *w, void *y, float *rstd, int64_t rows, int64_t columns,
                    float eps, tr_dtype dtype, tr_thread_pool *pool)
{
    rmsnorm_work work = {.x = x, .w = w, .out = y, .rstd_out = rstd, .rows = rows, .columns = columns};
    work.eps = eps;
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), forward_tile, &work);
}

void tr_cpu_rmsnorm_backward(const void *dy, const void *x, const float *w, const float *rstd,
                             const void *pending, void *dx, int64_t rows, int64_t columns, tr_dtype dtype,
                             tr_thread_pool *pool)
{
    rmsnorm_work work = {.dy = dy, .x = x, .w = w, .rstd = rstd, .pending = pending, .out = dx};
    work.rows = rows;
    work.columns = columns;
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), backward_tile, &work);
}

void tr_cpu_rmsnorm_weight(const void *dy, const void *x, const float *rstd, float *dw, int64_t rows,
                           int64_t columns, tr_dtype dtype, tr_thread_pool *pool)
{
    rmsnorm_work work = {.dy = dy, .x = x, .rstd = rstd, .dw = dw, .rows = rows, .columns = columns};
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(columns, TR_NORM_COLUMNS), weight_tile, &work);
}
