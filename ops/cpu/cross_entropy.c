/* ops/cpu/cross_entropy.c - see cross_entropy.h. A row is walked twice (largest logit, then the sum of
 * exponentials); it stays in the second-level cache in between.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/cross_entropy.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

#include <math.h>

typedef struct rows_context {
    const void *logits; /* of dtype */
    const int32_t *targets;
    float *lse;
    void *dlogits; /* of dtype */
    double *row_losses;
    const float *kept_lse;
    float factor;
    int64_t rows, vocabulary, tile_rows;
    tr_dtype dtype;
} rows_context;

TR_INLINE float row_max(const void *x, int64_t n, tr_dtype dtype)
{
    tr_f32x16 most = tr_splat_f32x16(-INFINITY);
    for (int64_t i = 0; i < n; i += TR_LANES)
        most = tr_max_f32x16(most, tr_load_up_to_x16(x, i, n - i, -INFINITY, dtype));
    return tr_lane_max_f32x16(most);
}

/* The sum of exp(x - most).
 * Lanes add up 64 terms in float, then in double, so that 10^5 terms lose nothing. */
TR_INLINE double row_sum(const void *x, int64_t n, float most, tr_dtype dtype)
{
    tr_f64x8 low = {0}, high = {0};
    int64_t i = 0;
    while (i + TR_LANES <= n) {
        int64_t end = tr_min_i64(i + 64 * TR_LANES, n);
        tr_f32x16 sum = {0};
        for (; i + TR_LANES <= end; i += TR_LANES)
            sum += tr_exp_negative_f32x16(tr_load_x16(x, i, dtype) - tr_splat_f32x16(most));
        low += tr_low_f64x8(sum);
        high += tr_high_f64x8(sum);
    }
    tr_f32x16 last = tr_load_up_to_x16(x, i, n - i, -INFINITY, dtype);
    tr_f32x16 rest = tr_exp_negative_f32x16(last - tr_splat_f32x16(most));
    return tr_sum_f64x8(low + tr_low_f64x8(rest) + (high + tr_high_f64x8(rest)));
}

TR_INLINE void forward_rows(const rows_context *c, int64_t first, int64_t end, tr_dtype dtype)
{
    for (int64_t r = first; r < end; r++) {
        const void *x = tr_at(c->logits, r * c->vocabulary, dtype);
        float most = row_max(x, c->vocabulary, dtype);
        double lse = (double)most + log(row_sum(x, c->vocabulary, most, dtype));
        c->lse[r] = (float)lse;
        c->row_losses[r] = c->targets[r] >= 0 ? lse - (double)tr_get(x, c->targets[r], dtype) : 0;
    }
}

TR_MULTIVERSION static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rows_context *c = context;
    int64_t first = tile * c->tile_rows, end = tr_min_i64(first + c->tile_rows, c->rows);
    TR_BY_DTYPE(c->dtype, forward_rows, c, first, end);
}

void tr_cpu_cross_entropy(const void *logits, const int32_t *targets, double *loss, float *lse,
                          double *row_losses, int64_t rows, int64_t vocabulary, tr_dtype dtype,
                          tr_thread_pool *pool)
{
    rows_context c = {.logits = logits,
                      .targets = targets,
                      .lse = lse,
                      .row_losses = row_losses,
                      .rows = rows,
                      .vocabulary = vocabulary,
                      .tile_rows = tr_tile_rows(vocabulary),
                      .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(rows, c.tile_rows), forward_tile, &c);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) sum += row_losses[r];
    *loss = sum;
}

TR_INLINE void backward_rows(const rows_context *c, int64_t first, int64_t end, tr_dtype dtype)
{
    int64_t n = c->vocabulary;
    for (int64_t r = first; r < end; r++) {
        const void *x = tr_at(c->logits, r * n, dtype);
        void *dx = tr_at(c->dlogits, r * n, dtype);
        tr_f32x16 lse = tr_splat_f32x16(c->kept_lse[r]), factor = tr_splat_f32x16(c->factor);
        if (c->targets[r] < 0) {
            memset(dx, 0, (size_t)(n * tr_element_bytes(dtype)));
            continue;
        }
        /* dx may be x: the target's logit is read before it is overwritten. */
        tr_f32x16 target = tr_exp_negative_f32x16(tr_splat_f32x16(tr_get(x, c->targets[r], dtype)) - lse);
        for (int64_t i = 0; i < n; i += TR_LANES) {
            tr_f32x16 p = tr_exp_negative_f32x16(tr_load_up_to_x16(x, i, n - i, 0, dtype) - lse);
            tr_store_up_to_x16(dx, i, factor * p, n - i, dtype);
        }
        tr_put(dx, c->targets[r], c->factor * (target[0] - 1.0f), dtype);
    }
}

TR_MULTIVERSION static void backward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rows_context *c = context;
    int64_t first = tile * c->tile_rows, end = tr_min_i64(first + c->tile_rows, c->rows);
    TR_BY_DTYPE(c->dtype, backward_rows, c, first, end);
}

void tr_cpu_cross_entropy_backward(const void *logits, const int32_t *targets, const float *lse, float factor,
                                   void *dlogits, int64_t rows, int64_t vocabulary, tr_dtype dtype,
                                   tr_thread_pool *pool)
{
    rows_context c = {.logits = logits,
                      .targets = targets,
                      .kept_lse = lse,
                      .factor = factor,
                      .dlogits = dlogits,
                      .rows = rows,
                      .vocabulary = vocabulary,
                      .tile_rows = tr_tile_rows(vocabulary),
                      .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(rows, c.tile_rows), backward_tile, &c);
}
