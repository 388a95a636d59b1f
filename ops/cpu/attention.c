/* ops/cpu/attention.c - the forward; see attention.h. A tile is one head of one sequence. Its keys
 * (transposed) and values are packed once; then each block of queries walks the blocks of keys it may see,
 * with a running maximum and sum of each row.
 * Sources: Dao et al., "FlashAttention", 2022, and "FlashAttention-2", 2023; Milakov and Gimelshein, "Online
 * normalizer calculation for softmax", 2018.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/attention.h"

#include "ops/cpu/attention_block.h"
#include "ops/cpu/attention_dropout.h"

#include <math.h>

/* One thread's memory. */
typedef struct forward_space {
    float *keys;    /* blocks of (D, BLOCK) */
    float *values;  /* (S, W), S keys, W the padded head size */
    float *queries; /* (BLOCK, W), scaled */
    float *out;     /* (BLOCK, W), not yet divided by the sum */
    float *scores;  /* (STRIP, BLOCK) */
    float *most;    /* (BLOCK): the largest score so far */
    float *sums;    /* (BLOCK, lanes): the sum of exponentials so far, lanes not yet added up */
} forward_space;

static size_t forward_floats(const tr_attention_shape *s)
{
    int64_t keys = round_up(s->first + s->time, BLOCK), width = round_up(s->head_size, TR_LANES);
    return (size_t)(2 * keys * width + 2 * BLOCK * width + STRIP * BLOCK + BLOCK + BLOCK * TR_LANES);
}

static forward_space forward_space_of(const tr_attention_shape *s, void *workspace, int thread)
{
    int64_t keys = round_up(s->first + s->time, BLOCK), width = round_up(s->head_size, TR_LANES);
    float *at = (float *)workspace + (size_t)thread * forward_floats(s);
    forward_space space = {.keys = at, .values = at + keys * width};
    space.queries = space.values + keys * width;
    space.out = space.queries + BLOCK * width;
    space.scores = space.out + BLOCK * width;
    space.most = space.scores + STRIP * BLOCK;
    space.sums = space.most + BLOCK;
    return space;
}

size_t tr_cpu_attention_workspace(const tr_attention_shape *shape, int n_threads)
{
    return forward_floats(shape) * (size_t)n_threads * sizeof(float);
}

typedef struct forward_context {
    const void *q, *k, *v;
    void *y;
    float *lse;
    void *workspace;
    const tr_attention_shape *shape;
} forward_context;

/* scores (STRIP, columns) become exp(score - new maximum), 0 where masked; factor[r] is what earlier sums of
 * row r are worth now. first_position: of row 0; first_key: of column 0. */
TR_INLINE void softmax_strip(float *scores, int64_t columns, float *most, float *sums, float factor[STRIP],
                             int64_t first_position, int64_t first_key)
{
    float highest[STRIP];
    for (int r = 0; r < STRIP; r++) {
        float *row = scores + r * BLOCK;
        int64_t visible = first_position + r - first_key + 1;
        tr_f32x16 high = tr_splat_f32x16(-INFINITY);
        for (int64_t j = 0; j < columns; j += TR_LANES) {
            tr_f32x16 x = mask_columns(tr_load_f32x16(row + j), j, visible, -INFINITY);
            tr_store_f32x16(row + j, x);
            high = tr_max_f32x16(high, x);
        }
        highest[r] = tr_lane_max_f32x16(high);
    }
    tr_f32x16 old = tr_load_f32x16(most), now = tr_max_f32x16(old, tr_load_f32x16(highest));
    tr_store_f32x16(factor, tr_exp_negative_f32x16(old - now));
    tr_store_f32x16(most, now);
    for (int r = 0; r < STRIP; r++) {
        float *row = scores + r * BLOCK;
        tr_f32x16 sum = tr_load_f32x16(sums + r * TR_LANES) * tr_splat_f32x16(factor[r]);
        for (int64_t j = 0; j < columns; j += TR_LANES) {
            tr_f32x16 p = tr_exp_negative_f32x16(tr_load_f32x16(row + j) - tr_splat_f32x16(most[r]));
            tr_store_f32x16(row + j, p);
            sum += p;
        }
        tr_store_f32x16(sums + r * TR_LANES, sum);
    }
}

/* One block of keys for one block of queries, strip by strip. Sums are those of all probabilities, `out` of those
 * that dropout (NULL: none) keeps in this plane. */
TR_INLINE void attend_block(const forward_space *space, int64_t head_size, int64_t width, int64_t queries,
                            int64_t first_position, int64_t first_key, const tr_dropout_mask *dropout,
                            int64_t plane)
{
    const float *keys = space->keys + first_key * head_size, *values = space->values + first_key * width;
    for (int64_t i = 0; i < queries; i += STRIP) {
        int64_t columns = strip_columns(first_position + i + STRIP - 1, first_key);
        if (columns == 0) continue;
        strip_product(space->queries + i * width, width, 1, keys, BLOCK, space->scores, BLOCK, columns,
                      head_size, false);
        float factor[STRIP];
        softmax_strip(space->scores, columns, space->most + i, space->sums + i * TR_LANES, factor,
                      first_position + i, first_key);
        if (dropout) {
            float factors[STRIP * BLOCK];
            draw_strip(dropout, plane, first_position + i, first_key, factors);
            multiply_strip(space->scores, factors, columns);
        }
        float *out = space->out + i * width;
        for (int r = 0; r < STRIP; r++)
            for (int64_t d = 0; d < width; d += TR_LANES)
                tr_store_f32x16(out + r * width + d,
                                tr_load_f32x16(out + r * width + d) * tr_splat_f32x16(factor[r]));
        strip_product(space->scores, BLOCK, 1, values, width, out, width, width, columns, true);
    }
}

TR_INLINE void store_rows(const forward_space *space, int64_t width, int64_t queries, int64_t head_size,
                          void *y, int64_t at, int64_t stride, float *lse, tr_dtype dtype)
{
    for (int64_t r = 0; r < queries; r++) {
        float sum = tr_sum_f32x16(tr_load_f32x16(space->sums + r * TR_LANES));
        tr_f32x16 divisor = tr_splat_f32x16(sum);
        for (int64_t d = 0; d < head_size; d += TR_LANES) {
            tr_f32x16 out = tr_load_f32x16(space->out + r * width + d) / divisor;
            tr_store_up_to_x16(y, at + r * stride + d, out, head_size - d, dtype);
        }
        if (lse) lse[r] = space->most[r] + logf(sum);
    }
}

TR_MULTIVERSION static void forward_tile(void *context, int64_t tile, int thread)
{
    const forward_context *c = context;
    const tr_attention_shape *s = c->shape;
    forward_space space = forward_space_of(s, c->workspace, thread);
    int64_t batch = tile / s->heads, head = tile % s->heads, kv_head = head / (s->heads / s->kv_heads);
    int64_t size = s->head_size, width = round_up(size, TR_LANES), n_keys = s->first + s->time;
    int64_t q_stride = s->heads * size, kv_stride = s->kv_heads * size;
    int64_t q_at = batch * s->time * q_stride + head * size,
            kv_at = batch * n_keys * kv_stride + kv_head * size;
    pack_transposed(c->k, kv_at, s->dtype, kv_stride, n_keys, size, space.keys);
    pack_rows(c->v, kv_at, s->dtype, kv_stride, n_keys, size, 1, space.values, width);
    for (int64_t i = 0; i < s->time; i += BLOCK) {
        int64_t queries = s->time - i < BLOCK ? s->time - i : BLOCK;
        int64_t at = q_at + i * q_stride;
        pack_rows(c->q, at, s->dtype, q_stride, queries, size, s->scale, space.queries, width);
        memset(space.out, 0, (size_t)(BLOCK * width) * sizeof(float));
        memset(space.sums, 0, BLOCK * TR_LANES * sizeof(float));
        for (int r = 0; r < BLOCK; r++) space.most[r] = -INFINITY;
        for (int64_t key = 0; key <= s->first + i + queries - 1; key += BLOCK)
            attend_block(&space, size, width, queries, s->first + i, key, s->dropout, tile);
        float *lse = c->lse ? c->lse + tile * s->time + i : NULL;
        TR_BY_DTYPE(s->dtype, store_rows, &space, width, queries, size, c->y, at, q_stride, lse);
    }
}

void tr_cpu_attention(const void *q, const void *k, const void *v, void *y, float *lse, void *workspace,
                      const tr_attention_shape *shape, tr_thread_pool *pool)
{
    forward_context c = {.q = q, .k = k, .v = v, .y = y, .lse = lse, .workspace = workspace, .shape = shape};
    tr_thread_pool_run(pool, shape->batch * shape->heads, forward_tile, &c);
}

/* Of n elements of a from a_at on and of b from b_at on. */
TR_INLINE float dot(const void *a, int64_t a_at, const void *b, int64_t b_at, int64_t n, tr_dtype dtype)
{
    tr_f32x16 sum = {0};
    for (int64_t i = 0; i < n; i += TR_LANES)
        sum +=
            tr_load_up_to_x16(a, a_at + i, n - i, 0, dtype) * tr_load_up_to_x16(b, b_at + i, n - i, 0, dtype);
    return tr_sum_f32x16(sum);
}

/* scores (n) become exp(score - their maximum); returns their sum. */
TR_INLINE float softmax_row(float *scores, int64_t n, float most)
{
    tr_f32x16 sum = {0};
    for (int64_t j = 0; j < n; j += TR_LANES) {
        int64_t part = n - j < TR_LANES ? n - j : TR_LANES;
        tr_f32x16 p =
            tr_exp_negative_f32x16(tr_load_part_f32x16(scores + j, part, -INFINITY) - tr_splat_f32x16(most));
        tr_store_part_f32x16(scores + j, p, part);
        sum += p;
    }
    return tr_sum_f32x16(sum);
}

TR_INLINE void attend_row(const forward_context *c, int64_t tile, float *scores, tr_dtype dtype)
{
    const tr_attention_shape *s = c->shape;
    int64_t row = tile / s->heads, head = tile % s->heads, kv_head = head / (s->heads / s->kv_heads);
    int64_t size = s->head_size, stride = s->kv_heads * size, all = s->first + s->time;
    int64_t n = s->first + row % s->time + 1, q_at = (row * s->heads + head) * size;
    int64_t kv_at = row / s->time * all * stride + kv_head * size;
    float most = -INFINITY;
    for (int64_t j = 0; j < n; j++) {
        scores[j] = s->scale * dot(c->q, q_at, c->k, kv_at + j * stride, size, dtype);
        most = scores[j] > most ? scores[j] : most;
    }
    float sum = softmax_row(scores, n, most);
    for (int64_t d = 0; d < size; d += TR_LANES) {
        tr_f32x16 out = {0};
        for (int64_t j = 0; j < n; j++)
            out += tr_splat_f32x16(scores[j]) *
                   tr_load_up_to_x16(c->v, kv_at + j * stride + d, size - d, 0, dtype);
        tr_store_up_to_x16(c->y, q_at + d, out / tr_splat_f32x16(sum), size - d, dtype);
    }
}

TR_MULTIVERSION static void row_tile(void *context, int64_t tile, int thread)
{
    const forward_context *c = context;
    float *scores = (float *)c->workspace + thread * (c->shape->first + c->shape->time);
    TR_BY_DTYPE(c->shape->dtype, attend_row, c, tile, scores);
}

void tr_cpu_attention_rows(const void *q, const void *k, const void *v, void *y, void *workspace,
                           const tr_attention_shape *shape, tr_thread_pool *pool)
{
    forward_context c = {.q = q, .k = k, .v = v, .y = y, .workspace = workspace, .shape = shape};
    tr_thread_pool_run(pool, shape->batch * shape->time * shape->heads, row_tile, &c);
}
