/* ops/cpu/layernorm.c - rows are tiles of their own for y and dx; columns for dw and db.
 * The variance is summed from differences to the mean, in a second pass over a row that is in the cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/layernorm.h"

#include "ops/cpu/norm.h"

#include <math.h>

typedef struct layernorm_work {
    const void *dy, *x, *pending; /* of dtype */
    const float *w, *b, *mean, *rstd;
    void *out; /* of dtype */
    float *mean_out, *rstd_out, *dw, *db;
    int64_t rows, columns;
    float eps;
    tr_dtype dtype;
} layernorm_work;

TR_INLINE float row_mean(const void *x, int64_t n, tr_dtype dtype)
{
    tr_f32x16 sum = {0}, sum2 = {0};
    int64_t i = 0;
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        sum += tr_load_x16(x, i, dtype);
        sum2 += tr_load_x16(x, i + TR_LANES, dtype);
    }
    for (; i < n; i += TR_LANES) sum += tr_load_up_to_x16(x, i, n - i, 0, dtype);
    return tr_sum_f32x16(sum + sum2) / (float)n;
}

TR_INLINE float row_variance(const void *x, float mean, int64_t n, tr_dtype dtype)
{
    tr_f32x16 sum = {0}, sum2 = {0};
    int64_t i = 0;
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        tr_f32x16 a = tr_load_x16(x, i, dtype) - mean, b = tr_load_x16(x, i + TR_LANES, dtype) - mean;
        sum += a * a;
        sum2 += b * b;
    }
    for (; i < n; i += TR_LANES) {
        tr_f32x16 a = tr_load_up_to_x16(x, i, n - i, mean, dtype) - mean;
        sum += a * a;
    }
    return tr_sum_f32x16(sum + sum2) / (float)n;
}

TR_INLINE void forward_row(const layernorm_work *work, int64_t r, tr_dtype dtype)
{
    int64_t n = work->columns;
    const void *x = tr_at(work->x, r * n, dtype);
    void *y = tr_at(work->out, r * n, dtype);
    float mean = row_mean(x, n, dtype), rstd = 1.0f / sqrtf(row_variance(x, mean, n, dtype) + work->eps);
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_f32x16 xhat = (tr_load_up_to_x16(x, i, n - i, 0, dtype) - mean) * rstd;
        tr_f32x16 w = tr_load_up_to_x16(work->w, i, n - i, 0, TR_F32),
                  b = tr_load_up_to_x16(work->b, i, n - i, 0, TR_F32);
        tr_store_up_to_x16(y, i, xhat * w + b, n - i, dtype);
    }
    work->mean_out[r] = mean;
    work->rstd_out[r] = rstd;
}

TR_INLINE void backward_row(const layernorm_work *work, int64_t r, tr_dtype dtype)
{
    int64_t n = work->columns;
    const void *dy = tr_at(work->dy, r * n, dtype), *x = tr_at(work->x, r * n, dtype);
    const void *pending = tr_at(work->pending, r * n, dtype);
    void *dx = tr_at(work->out, r * n, dtype);
    const float *w = work->w;
    float mean = work->mean[r], rstd = work->rstd[r];
    tr_f32x16 sum = {0}, sum_xhat = {0};
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_f32x16 g = tr_load_up_to_x16(dy, i, n - i, 0, dtype) * tr_load_up_to_x16(w, i, n - i, 0, TR_F32);
        sum += g;
        sum_xhat += g * ((tr_load_up_to_x16(x, i, n - i, 0, dtype) - mean) * rstd);
    }
    float g_mean = tr_sum_f32x16(sum) / (float)n, g_xhat_mean = tr_sum_f32x16(sum_xhat) / (float)n;
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_f32x16 g = tr_load_up_to_x16(dy, i, n - i, 0, dtype) * tr_load_up_to_x16(w, i, n - i, 0, TR_F32);
        tr_f32x16 xhat = (tr_load_up_to_x16(x, i, n - i, 0, dtype) - mean) * rstd;
        tr_f32x16 d = rstd * (g - g_mean - xhat * g_xhat_mean);
        if (pending) d = tr_load_up_to_x16(pending, i, n - i, 0, dtype) + d;
        tr_store_up_to_x16(dx, i, d, n - i, dtype);
    }
}

/* n columns (at most TR_NORM_COLUMNS) of all rows. */
TR_INLINE void weight_columns(const layernorm_work *work, int64_t column, int64_t n, tr_dtype dtype)
{
    tr_f32x16 dw[TR_NORM_VECTORS] = {0}, db[TR_NORM_VECTORS] = {0};
    for (int64_t first = 0; first < work->rows; first += TR_NORM_ROWS) {
        int64_t end = tr_min_i64(first + TR_NORM_ROWS, work->rows);
        for (int v = 0; v * TR_LANES < n; v++) {
            tr_f32x16 block_w = {0}, block_b = {0};
            for (int64_t r = first; r < end; r++) {
                int64_t at = r * work->columns + column + v * TR_LANES, left = n - v * TR_LANES;
                tr_f32x16 d = tr_load_up_to_x16(work->dy, at, left, 0, dtype),
                          x = tr_load_up_to_x16(work->x, at, left, 0, dtype);
                block_w += d * ((x - work->mean[r]) * work->rstd[r]);
                block_b += d;
            }
            dw[v] += block_w;
            db[v] += block_b;
        }
    }
    for (int v = 0; v * TR_LANES < n; v++) {
        int64_t at = column + v * TR_LANES, left = n - v * TR_LANES;
        if (work->dw) tr_add_up_to_f32x16(work->dw + at, dw[v], left);
        if (work->db) tr_add_up_to_f32x16(work->db + at, db[v], left);
    }
}

TR_MULTIVERSION static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const layernorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) TR_BY_DTYPE(work->dtype, forward_row, work, r);
}

TR_MULTIVERSION static void backward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const layernorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) TR_BY_DTYPE(work->dtype, backward_row, work, r);
}

TR_MULTIVERSION static void weight_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const layernorm_work *work = context;
    int64_t column = tile * TR_NORM_COLUMNS, n = tr_min_i64(TR_NORM_COLUMNS, work->columns - column);
    TR_BY_DTYPE(work->dtype, weight_columns, work, column, n);
}

void tr_cpu_layernorm(const void *x, const float *w, const float *b, void *y, float *mean, float *rstd,
                      int64_t rows, int64_t columns, float eps, tr_dtype dtype, tr_thread_pool *pool)
{
    layernorm_work work = {.x = x, .w = w, .b = b, .out = y, .mean_out = mean, .rstd_out = rstd};
    work.rows = rows;
    work.columns = columns;
    work.eps = eps;
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), forward_tile, &work);
}

void tr_cpu_layernorm_backward(const void *dy, const void *x, const float *w, const float *mean,
                               const float *rstd, const void *pending, void *dx, int64_t rows,
                               int64_t columns, tr_dtype dtype, tr_thread_pool *pool)
{
    layernorm_work work = {
        .dy = dy, .x = x, .w = w, .mean = mean, .rstd = rstd, .pending = pending, .out = dx};
    work.rows = rows;
    work.columns = columns;
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), backward_tile, &work);
}

void tr_cpu_layernorm_weight(const void *dy, const void *x, const float *mean, const float *rstd, float *dw,
                             float *db, int64_t rows, int64_t columns, tr_dtype dtype, tr_thread_pool *pool)
{
    layernorm_work work = {.dy = dy, .x = x, .mean = mean, .rstd = rstd, .dw = dw, .db = db};
    work.rows = rows;
    work.columns = columns;
    work.dtype = dtype;
    tr_thread_pool_run(pool, tr_tile_count(columns, TR_NORM_COLUMNS), weight_tile, &work);
}
