/* ops/cpu/cross_entropy.c - see cross_entropy.h. A row is walked twice (largest logit, then the sum of
 * exponentials); it stays in the second-level cache in between.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/cross_entropy.h"

#include "ops/cpu/tiles.h"
#include "ops/cpu/vector.h"

#include <math.h>

typedef struct rows_context {
    const float *logits;
    const int32_t *targets;
    float *lse, *dlogits;
    double *row_losses;
    const float *kept_lse;
    float factor;
    int64_t rows, vocabulary, tile_rows;
} rows_context;

TR_INLINE float row_max(const float *x, int64_t n)
{
    tr_f32x16 most = tr_splat_f32x16(-INFINITY);
    int64_t i = 0;
    for (; i + TR_LANES <= n; i += TR_LANES) most = tr_max_f32x16(most, tr_load_f32x16(x + i));
    return tr_lane_max_f32x16(tr_max_f32x16(most, tr_load_part_f32x16(x + i, n - i, -INFINITY)));
}

/* The sum of exp(x - most).
 * Lanes add up 64 terms in float, then in double, so that 10^5 terms lose nothing. */
TR_INLINE double row_sum(const float *x, int64_t n, float most)
{
    tr_f64x8 low = {0}, high = {0};
    int64_t i = 0;
    while (i + TR_LANES <= n) {
        int64_t end = tr_min_i64(i + 64 * TR_LANES, n);
        tr_f32x16 sum = {0};
        for (; i + TR_LANES <= end; i += TR_LANES)
            sum += tr_exp_negative_f32x16(tr_load_f32x16(x + i) - tr_splat_f32x16(most));
        low += tr_low_f64x8(sum);
        high += tr_high_f64x8(sum);
    }
    tr_f32x16 rest =
        tr_exp_negative_f32x16(tr_load_part_f32x16(x + i, n - i, -INFINITY) - tr_splat_f32x16(most));
    return tr_sum_f64x8(low + tr_low_f64x8(rest) + (high + tr_high_f64x8(rest)));
}

TR_MULTIVERSION static void forward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rows_context *c = context;
    int64_t end = tr_min_i64((tile + 1) * c->tile_rows, c->rows);
    for (int64_t r = tile * c->tile_rows; r < end; r++) {
        const float *x = c->logits + r * c->vocabulary;
        float most = row_max(x, c->vocabulary);
        double lse = (double)most + log(row_sum(x, c->vocabulary, most));
        c->lse[r] = (float)lse;
        c->row_losses[r] = c->targets[r] >= 0 ? lse - (double)x[c->targets[r]] : 0;
    }
}

void tr_cpu_cross_entropy(const float *logits, const int32_t *targets, double *loss, float *lse,
                          double *row_losses, int64_t rows, int64_t vocabulary, tr_thread_pool *pool)
{
    rows_context c = {.logits = logits,
                      .targets = targets,
                      .lse = lse,
                      .row_losses = row_losses,
                      .rows = rows,
                      .vocabulary = vocabulary,
                      .tile_rows = tr_tile_rows(vocabulary)};
    tr_thread_pool_run(pool, tr_tile_count(rows, c.tile_rows), forward_tile, &c);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) sum += row_losses[r];
    *loss = sum;
}

TR_MULTIVERSION static void backward_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rows_context *c = context;
    int64_t end = tr_min_i64((tile + 1) * c->tile_rows, c->rows), n = c->vocabulary;
    for (int64_t r = tile * c->tile_rows; r < end; r++) {
        const float *x = c->logits + r * n;
        float *dx = c->dlogits + r * n;
        tr_f32x16 lse = tr_splat_f32x16(c->kept_lse[r]), factor = tr_splat_f32x16(c->factor);
        if (c->targets[r] < 0) {
            memset(dx, 0, (size_t)n * sizeof *dx);
            continue;
        }
        /* dx may be x: the target's logit is read before it is overwritten. */
        tr_f32x16 target = tr_exp_negative_f32x16(tr_splat_f32x16(x[c->targets[r]]) - lse);
        int64_t i = 0;
        for (; i + TR_LANES <= n; i += TR_LANES)
            tr_store_f32x16(dx + i, factor * tr_exp_negative_f32x16(tr_load_f32x16(x + i) - lse));
        tr_f32x16 rest = tr_load_part_f32x16(x + i, n - i, 0) - lse;
        tr_store_part_f32x16(dx + i, factor * tr_exp_negative_f32x16(rest), n - i);
        dx[c->targets[r]] = c->factor * (target[0] - 1.0f);
    }
}

void tr_cpu_cross_entropy_backward(const float *logits, const int32_t *targets, const float *lse,
                                   float factor, float *dlogits, int64_t rows, int64_t vocabulary,
                                   tr_thread_pool *pool)
{
    rows_context c = {.logits = logits,
                      .targets = targets,
                      .kept_lse = lse,
                      .factor = factor,
                      .dlogits = dlogits,
                      .rows = rows,
                      .vocabulary = vocabulary,
                      .tile_rows = tr_tile_rows(vocabulary)};
    tr_thread_pool_run(pool, tr_tile_count(rows, c.tile_rows), backward_tile, &c);
}
