/* ops/cpu/layernorm.c - rows are tiles of their own for y and dx; columns for dw and db.
 * The variance is summed from differences to the mean, in a second pass over a row that is in the cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/layernorm.h"

#include "ops/cpu/norm.h"

#include <math.h>

typedef struct layernorm_work {
    const float *dy, *x, *w, *b, *mean, *rstd, *pending;
    float *out, *mean_out, *rstd_out, *dw, *db;
    int64_t rows, columns;
    float eps;
} layernorm_work;

TR_INLINE float row_mean(const float *x, int64_t n)
{
    tr_f32x16 sum = {0}, sum2 = {0};
    int64_t i = 0;
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        sum += tr_load_f32x16(x + i);
        sum2 += tr_load_f32x16(x + i + TR_LANES);
    }
    for (; i < n; i += TR_LANES) sum += tr_load_up_to_f32x16(x + i, n - i, 0);
    return tr_sum_f32x16(sum + sum2) / (float)n;
}

TR_INLINE float row_variance(const float *x, float mean, int64_t n)
{
    tr_f32x16 sum = {0}, sum2 = {0};
    int64_t i = 0;
    for (; i + 2 * TR_LANES <= n; i += 2 * TR_LANES) {
        tr_f32x16 a = tr_load_f32x16(x + i) - mean, b = tr_load_f32x16(x + i + TR_LANES) - mean;
        sum += a * a;
        sum2 += b * b;
    }
    for (; i < n; i += TR_LANES) {
        tr_f32x16 a = tr_load_up_to_f32x16(x + i, n - i, mean) - mean;
        sum += a * a;
    }
    return tr_sum_f32x16(sum + sum2) / (float)n;
}

TR_MULTIVERSION static void forward_row(const float *x, const float *w, const float *b, float *y,
                                        float *mean_out, float *rstd_out, int64_t n, float eps)
{
    float mean = row_mean(x, n), rstd = 1.0f / sqrtf(row_variance(x, mean, n) + eps);
    int64_t i = 0;
    for (; i + TR_LANES <= n; i += TR_LANES) {
        tr_f32x16 xhat = (tr_load_f32x16(x + i) - mean) * rstd;
        tr_store_f32x16(y + i, xhat * tr_load_f32x16(w + i) + tr_load_f32x16(b + i));
    }
    for (; i < n; i++) y[i] = (x[i] - mean) * rstd * w[i] + b[i];
    *mean_out = mean;
    *rstd_out = rstd;
}

TR_MULTIVERSION static void backward_row(const float *dy, const float *x, const float *w, float mean,
                                         float rstd, const float *pending, float *dx, int64_t n)
{
    tr_f32x16 sum = {0}, sum_xhat = {0};
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_f32x16 g = tr_load_up_to_f32x16(dy + i, n - i, 0) * tr_load_up_to_f32x16(w + i, n - i, 0);
        sum += g;
        sum_xhat += g * ((tr_load_up_to_f32x16(x + i, n - i, 0) - mean) * rstd);
    }
    float g_mean = tr_sum_f32x16(sum) / (float)n, g_xhat_mean = tr_sum_f32x16(sum_xhat) / (float)n;
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_f32x16 g = tr_load_up_to_f32x16(dy + i, n - i, 0) * tr_load_up_to_f32x16(w + i, n - i, 0);
        tr_f32x16 xhat = (tr_load_up_to_f32x16(x + i, n - i, 0) - mean) * rstd;
        tr_f32x16 d = rstd * (g - g_mean - xhat * g_xhat_mean);
        if (pending) d = tr_load_up_to_f32x16(pending + i, n - i, 0) + d;
        tr_store_up_to_f32x16(dx + i, d, n - i);
    }
}

/* n columns (at most TR_NORM_COLUMNS) of all rows. */
TR_MULTIVERSION static void weight_columns(const layernorm_work *work, int64_t column, int64_t n)
{
    const float *dy = work->dy + column, *x = work->x + column;
    tr_f32x16 dw[TR_NORM_VECTORS] = {0}, db[TR_NORM_VECTORS] = {0};
    for (int64_t first = 0; first < work->rows; first += TR_NORM_ROWS) {
        int64_t end = tr_min_i64(first + TR_NORM_ROWS, work->rows);
        for (int v = 0; v * TR_LANES < n; v++) {
            tr_f32x16 block_w = {0}, block_b = {0};
            for (int64_t r = first; r < end; r++) {
                int64_t at = r * work->columns + v * TR_LANES, left = n - v * TR_LANES;
                tr_f32x16 d = tr_load_up_to_f32x16(dy + at, left, 0);
                block_w += d * ((tr_load_up_to_f32x16(x + at, left, 0) - work->mean[r]) * work->rstd[r]);
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

static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const layernorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) {
        int64_t at = r * work->columns;
        forward_row(work->x + at, work->w, work->b, work->out + at, &work->mean_out[r], &work->rstd_out[r],
                    work->columns, work->eps);
    }
}

static void backward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const layernorm_work *work = context;
    int64_t tile_rows = tr_tile_rows(work->columns), end = tr_min_i64((tile + 1) * tile_rows, work->rows);
    for (int64_t r = tile * tile_rows; r < end; r++) {
        int64_t at = r * work->columns;
        backward_row(work->dy + at, work->x + at, work->w, work->mean[r], work->rstd[r],
                     work->pending ? work->pending + at : NULL, work->out + at, work->columns);
    }
}

static void weight_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const layernorm_work *work = context;
    int64_t column = tile * TR_NORM_COLUMNS;
    weight_columns(work, column, tr_min_i64(TR_NORM_COLUMNS, work->columns - column));
}

void tr_cpu_layernorm(const float *x, const float *w, const float *b, float *y, float *mean, float *rstd,
                      int64_t rows, int64_t columns, float eps, tr_thread_pool *pool)
{
    layernorm_work work = {.x = x, .w = w, .b = b, .out = y, .mean_out = mean, .rstd_out = rstd};
    work.rows = rows;
    work.columns = columns;
    work.eps = eps;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), forward_tile, &work);
}

void tr_cpu_layernorm_backward(const float *dy, const float *x, const float *w, const float *mean,
                               const float *rstd, const float *pending, float *dx, int64_t rows,
                               int64_t columns, tr_thread_pool *pool)
{
    layernorm_work work = {
        .dy = dy, .x = x, .w = w, .mean = mean, .rstd = rstd, .pending = pending, .out = dx};
    work.rows = rows;
    work.columns = columns;
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), backward_tile, &work);
}

void tr_cpu_layernorm_weight(const float *dy, const float *x, const float *mean, const float *rstd, float *dw,
                             float *db, int64_t rows, int64_t columns, tr_thread_pool *pool)
{
    layernorm_work work = {.dy = dy, .x = x, .mean = mean, .rstd = rstd, .dw = dw, .db = db};
    work.rows = rows;
    work.columns = columns;
    tr_thread_pool_run(pool, tr_tile_count(columns, TR_NORM_COLUMNS), weight_tile, &work);
}
