/* ops/optimizer.c - see optimizer.h. Tiles are the blocks of the norm, whatever the number of threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/optimizer.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

#include <math.h>

enum { STREAM_FROM = 1 << 18 }; /* elements: three arrays of 1 MiB */

typedef struct pair {
    float *out;
    const float *a, *b;
    double *sums;
    int64_t n;
    bool streams; /* `out` goes past the caches */
} pair;

TR_MULTIVERSION static void sum_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const pair *c = context;
    int64_t i = tile * TR_NORM_BLOCK, end = tr_min_i64(i + TR_NORM_BLOCK, c->n);
    for (; c->streams && i + TR_LANES <= end; i += TR_LANES)
        tr_stream_f32x16(c->out + i, tr_load_f32x16(c->a + i) + tr_load_f32x16(c->b + i));
    for (; i + TR_LANES <= end; i += TR_LANES)
        tr_store_f32x16(c->out + i, tr_load_f32x16(c->a + i) + tr_load_f32x16(c->b + i));
    for (; i < end; i++) c->out[i] = c->a[i] + c->b[i];
    if (c->streams) tr_stream_fence();
}

void tr_sum(float *out, const float *a, const float *b, int64_t n, tr_thread_pool *pool)
{
    pair c = {.out = out, .a = a, .b = b, .n = n};
    c.streams = n >= STREAM_FROM && out != a && out != b && (uintptr_t)out % TR_STREAM_ALIGNMENT == 0;
    tr_thread_pool_run(pool, tr_norm_block_count(n), sum_tile, &c);
}

void tr_accumulate(float *a, const float *b, int64_t n, tr_thread_pool *pool)
{
    tr_sum(a, a, b, n, pool);
}

static void clear_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const pair *c = context;
    int64_t i = tile * TR_NORM_BLOCK, end = tr_min_i64(i + TR_NORM_BLOCK, c->n);
    memset(c->out + i, 0, (size_t)(end - i) * sizeof *c->out);
}

void tr_clear(float *x, int64_t n, tr_thread_pool *pool)
{
    pair c = {.out = x, .n = n};
    tr_thread_pool_run(pool, tr_norm_block_count(n), clear_tile, &c);
}

int64_t tr_norm_block_count(int64_t n)
{
    return tr_tile_count(n, TR_NORM_BLOCK);
}

TR_MULTIVERSION static void square_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const pair *c = context;
    int64_t i = tile * TR_NORM_BLOCK, end = tr_min_i64(i + TR_NORM_BLOCK, c->n);
    tr_f64x8 low = {0}, high = {0};
    for (; i < end; i += TR_LANES) {
        tr_f32x16 x =
            i + TR_LANES <= end ? tr_load_f32x16(c->b + i) : tr_load_part_f32x16(c->b + i, end - i, 0);
        tr_f64x8 a = tr_low_f64x8(x), b = tr_high_f64x8(x);
        low += a * a;
        high += b * b;
    }
    c->sums[tile] = tr_sum_f64x8(low + high);
}

void tr_square_sums(const float *x, int64_t n, double *sums, tr_thread_pool *pool)
{
    pair c = {.b = x, .sums = sums, .n = n};
    tr_thread_pool_run(pool, tr_norm_block_count(n), square_tile, &c);
}

typedef struct rounding {
    const float *from;
    tr_bf16 *to;
    int64_t n;
} rounding;

TR_MULTIVERSION static void round_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const rounding *c = context;
    int64_t i = tile * TR_NORM_BLOCK, end = tr_min_i64(i + TR_NORM_BLOCK, c->n);
    for (; i < end; i += TR_LANES)
        tr_store_up_to_x16(c->to, i, tr_load_up_to_x16(c->from, i, end - i, 0, TR_F32), end - i, TR_BF16);
}

void tr_round_to_bf16(const float *from, tr_bf16 *to, int64_t n, tr_thread_pool *pool)
{
    rounding c = {.from = from, .to = to, .n = n};
    tr_thread_pool_run(pool, tr_norm_block_count(n), round_tile, &c);
}

typedef struct adamw_context {
    const float *p, *m, *v, *g;
    float *p_out, *m_out, *v_out;
    tr_bf16 *p_bf16; /* or NULL */
    int64_t n;
    float scale, keep, rate, inverse_root, eps; /* keep: 1 - lr decay; rate: lr / (1 - beta1^t) */
    float beta1, beta2, rest1, rest2;           /* rest: 1 - beta */
    bool streams;                               /* results go past the caches */
} adamw_context;

/* Correctly rounded like every IEEE square root, so lanes and scalars agree. */
TR_INLINE tr_f32x16 root(tr_f32x16 x)
{
    float lanes[TR_LANES];
    tr_store_f32x16(lanes, x);
    for (int i = 0; i < TR_LANES; i++) lanes[i] = __builtin_sqrtf(lanes[i]);
    return tr_load_f32x16(lanes);
}

typedef struct adamw_state {
    tr_f32x16 p, m, v;
} adamw_state;

TR_INLINE void adamw_lanes(const adamw_context *c, adamw_state *s, tr_f32x16 g)
{
    g *= tr_splat_f32x16(c->scale);
    s->m = tr_splat_f32x16(c->beta1) * s->m + tr_splat_f32x16(c->rest1) * g;
    s->v = tr_splat_f32x16(c->beta2) * s->v + tr_splat_f32x16(c->rest2) * (g * g);
    tr_f32x16 size = root(s->v) * tr_splat_f32x16(c->inverse_root) + tr_splat_f32x16(c->eps);
    s->p = tr_splat_f32x16(c->keep) * s->p - tr_splat_f32x16(c->rate) * (s->m / size);
}

/* `streams` is a constant where this is inlined. */
TR_INLINE int64_t adamw_loop(const adamw_context *c, int64_t i, int64_t end, bool streams)
{
    for (; i + TR_LANES <= end; i += TR_LANES) {
        adamw_state s = {tr_load_f32x16(c->p + i), tr_load_f32x16(c->m + i), tr_load_f32x16(c->v + i)};
        adamw_lanes(c, &s, tr_load_f32x16(c->g + i));
        if (streams) {
            tr_stream_f32x16(c->p_out + i, s.p);
            tr_stream_f32x16(c->m_out + i, s.m);
            tr_stream_f32x16(c->v_out + i, s.v);
        } else {
            tr_store_f32x16(c->p_out + i, s.p);
            tr_store_f32x16(c->m_out + i, s.m);
            tr_store_f32x16(c->v_out + i, s.v);
        }
        if (c->p_bf16) tr_store_x16(c->p_bf16, i, s.p, TR_BF16);
    }
    return i;
}

TR_MULTIVERSION static void adamw_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const adamw_context *c = context;
    int64_t i = tile * TR_NORM_BLOCK, end = tr_min_i64(i + TR_NORM_BLOCK, c->n);
    if (c->streams) {
        i = adamw_loop(c, i, end, true);
        tr_stream_fence();
    } else {
        i = adamw_loop(c, i, end, false);
    }
    if (i == end) return;
    adamw_state s = {tr_load_part_f32x16(c->p + i, end - i, 0), tr_load_part_f32x16(c->m + i, end - i, 0),
                     tr_load_part_f32x16(c->v + i, end - i, 0)};
    adamw_lanes(c, &s, tr_load_part_f32x16(c->g + i, end - i, 0));
    tr_store_part_f32x16(c->p_out + i, s.p, end - i);
    tr_store_part_f32x16(c->m_out + i, s.m, end - i);
    tr_store_part_f32x16(c->v_out + i, s.v, end - i);
    if (c->p_bf16) tr_store_up_to_x16(c->p_bf16, i, s.p, end - i, TR_BF16);
}

/* Results that no cache will keep until somebody reads them go past it: storing through it would first read what is there.
 * That needs places of their own, aligned. */
static bool streams(const adamw_context *c)
{
    const uintptr_t places = (uintptr_t)c->p_out | (uintptr_t)c->m_out | (uintptr_t)c->v_out;
    bool in_place = c->p == c->p_out || c->m == c->m_out || c->v == c->v_out;
    return c->n >= STREAM_FROM && !in_place && places % TR_STREAM_ALIGNMENT == 0;
}

void tr_adamw(const float *p, const float *m, const float *v, const float *g, float *p_out, float *m_out,
              float *v_out, tr_bf16 *p_bf16, int64_t n, const tr_adamw_options *options, tr_thread_pool *pool)
{
    TR_ASSERT(options->step >= 1);
    double beta1 = (double)options->beta1, beta2 = (double)options->beta2, lr = (double)options->lr;
    adamw_context c = {.p = p,
                       .m = m,
                       .v = v,
                       .g = g,
                       .p_out = p_out,
                       .m_out = m_out,
                       .v_out = v_out,
                       .p_bf16 = p_bf16,
                       .n = n,
                       .scale = options->gradient_scale,
                       .keep = (float)(1.0 - lr * (double)options->weight_decay),
                       .rate = (float)(lr / (1.0 - pow(beta1, options->step))),
                       .inverse_root = (float)(1.0 / sqrt(1.0 - pow(beta2, options->step))),
                       .eps = options->eps,
                       .beta1 = options->beta1,
                       .beta2 = options->beta2,
                       .rest1 = (float)(1.0 - beta1),
                       .rest2 = (float)(1.0 - beta2)};
    c.streams = streams(&c);
    tr_thread_pool_run(pool, tr_norm_block_count(n), adamw_tile, &c);
}
