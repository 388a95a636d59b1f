/* ops/cpu/attention_backward.c - the backward; see attention.h. A tile is one key-value head of one sequence
 * with all its query heads, so that dk and dv are summed by one thread in the heads' order. Probabilities are
 * recomputed block by block from the kept log-sum-exp:
 *   P = exp(scale q k^T - lse), dv = P^T dy, dP = dy v^T, dS = P (dP - rowsum(dy y)),
 *   dq = scale dS k, dk = scale dS^T q.
 * With dropout's factors F: dv = (F P)^T dy, dP = F (dy v^T); the row sums are the same, as y has F in it.
 * Source: Dao et al., "FlashAttention", 2022.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/attention.h"

#include "ops/cpu/attention_block.h"
#include "ops/cpu/attention_dropout.h"

/* One thread's memory. S: rows rounded up to BLOCK; W: the padded head size. */
typedef struct backward_space {
    float *keys, *dk, *dv;          /* (S, W) */
    float *keys_t, *values_t;       /* blocks of (D, BLOCK) */
    float *queries, *dy, *dq;       /* (S, W) of one query head; queries scaled */
    float *lse, *delta;             /* (S); delta: the row sums of dy y */
    float *probabilities, *dscores; /* (BLOCK, BLOCK) */
    const tr_dropout_mask *dropout; /* NULL: none */
    int64_t plane;                  /* of the query head, for dropout */
} backward_space;

static size_t backward_floats(const tr_attention_shape *s)
{
    int64_t rows = round_up(s->time, BLOCK), width = round_up(s->head_size, TR_LANES);
    return (size_t)(8 * rows * width + 2 * rows + 2 * BLOCK * BLOCK);
}

static backward_space backward_space_of(const tr_attention_shape *s, void *workspace, int thread)
{
    int64_t rows = round_up(s->time, BLOCK), plane = rows * round_up(s->head_size, TR_LANES);
    float *at = (float *)workspace + (size_t)thread * backward_floats(s);
    backward_space space = {.keys = at, .dk = at + plane, .dv = at + 2 * plane, .dropout = s->dropout};
    space.keys_t = at + 3 * plane;
    space.values_t = at + 4 * plane;
    space.queries = at + 5 * plane;
    space.dy = at + 6 * plane;
    space.dq = at + 7 * plane;
    space.lse = at + 8 * plane;
    space.delta = space.lse + rows;
    space.probabilities = space.delta + rows;
    space.dscores = space.probabilities + BLOCK * BLOCK;
    return space;
}

size_t tr_cpu_attention_backward_workspace(const tr_attention_shape *shape, int n_threads)
{
    return backward_floats(shape) * (size_t)n_threads * sizeof(float);
}

/* Rows of P and dS of one strip; `i` and `key`: the first row and the first key of the block. */
TR_INLINE void recompute_strip(const backward_space *space, int64_t size, int64_t width, int64_t i,
                               int64_t key, float *p, float *ds, int64_t columns)
{
    strip_product(space->queries + i * width, width, 1, space->keys_t + key * size, BLOCK, p, BLOCK, columns,
                  size, false);
    strip_product(space->dy + i * width, width, 1, space->values_t + key * size, BLOCK, ds, BLOCK, columns,
                  size, false);
    float factors[STRIP * BLOCK];
    if (space->dropout) {
        draw_strip(space->dropout, space->plane, i, key, factors);
        multiply_strip(ds, factors, columns);
    }
    for (int r = 0; r < STRIP; r++) {
        tr_f32x16 lse = tr_splat_f32x16(space->lse[i + r]), delta = tr_splat_f32x16(space->delta[i + r]);
        for (int64_t j = 0; j < columns; j += TR_LANES) {
            tr_f32x16 x = tr_exp_negative_f32x16(tr_load_f32x16(p + r * BLOCK + j) - lse);
            x = mask_columns(x, j, i + r - key + 1, 0);
            tr_store_f32x16(p + r * BLOCK + j, x);
            tr_f32x16 dp = tr_load_f32x16(ds + r * BLOCK + j) - delta;
            tr_store_f32x16(ds + r * BLOCK + j, x * dp);
        }
    }
    if (space->dropout) multiply_strip(p, factors, columns);
}

/* Queries i .. i + BLOCK - 1 and keys key .. key + BLOCK - 1; `rows` of the queries are there. */
TR_INLINE void backward_block(const backward_space *space, int64_t size, int64_t width, int64_t i,
                              int64_t rows, int64_t key)
{
    rows = round_up(rows, STRIP);
    for (int64_t r = 0; r < rows; r += STRIP) {
        float *p = space->probabilities + r * BLOCK, *ds = space->dscores + r * BLOCK;
        int64_t columns = strip_columns(i + r + STRIP - 1, key);
        recompute_strip(space, size, width, i + r, key, p, ds, columns);
        strip_product(ds, BLOCK, 1, space->keys + key * width, width, space->dq + (i + r) * width, width,
                      width, columns, true);
    }
    for (int64_t j = 0; j < BLOCK; j += STRIP) {
        int64_t from = i == key ? j : 0; /* earlier rows do not see these keys */
        if (from >= rows) break;
        const float *p = space->probabilities + from * BLOCK + j, *ds = space->dscores + from * BLOCK + j;
        strip_product(p, 1, BLOCK, space->dy + (i + from) * width, width, space->dv + (key + j) * width,
                      width, width, rows - from, true);
        strip_product(ds, 1, BLOCK, space->queries + (i + from) * width, width, space->dk + (key + j) * width,
                      width, width, rows - from, true);
    }
}

/* delta of n rows: the sum of y dy, whose rows of dy are packed already. */
TR_INLINE void row_sums(const backward_space *space, const void *y, int64_t at, int64_t stride, int64_t n,
                        int64_t size, tr_dtype dtype)
{
    int64_t width = round_up(size, TR_LANES);
    for (int64_t t = 0; t < n; t++) {
        tr_f32x16 sum = {0};
        for (int64_t d = 0; d < size; d += TR_LANES)
            sum += tr_load_up_to_x16(y, at + t * stride + d, size - d, 0, dtype) *
                   tr_load_f32x16(space->dy + t * width + d);
        space->delta[t] = tr_sum_f32x16(sum);
    }
}

/* The query head's rows into the space; delta of padded rows is 0, and so is all that comes from them. */
TR_INLINE void load_head(const backward_space *space, const tr_attention_tensors *x,
                         const tr_attention_shape *s, int64_t batch, int64_t head)
{
    int64_t size = s->head_size, width = round_up(size, TR_LANES), stride = s->heads * size;
    int64_t at = batch * s->time * stride + head * size, rows = round_up(s->time, BLOCK);
    pack_rows(x->q, at, s->dtype, stride, s->time, size, s->scale, space->queries, width);
    pack_rows(x->dy, at, s->dtype, stride, s->time, size, 1, space->dy, width);
    memset(space->dq, 0, (size_t)(rows * width) * sizeof(float));
    TR_BY_DTYPE(s->dtype, row_sums, space, x->y, at, stride, s->time, size);
    for (int64_t t = 0; t < rows; t++) {
        if (t >= s->time) space->delta[t] = 0;
        space->lse[t] = t < s->time ? x->lse[(batch * s->heads + head) * s->time + t] : 0;
    }
}

TR_INLINE void unpack_rows(const float *from, int64_t width, int64_t rows, int64_t columns, float scale,
                           void *to, int64_t at, int64_t stride, tr_dtype dtype)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j += TR_LANES) {
            tr_f32x16 x = tr_load_f32x16(from + r * width + j) * tr_splat_f32x16(scale);
            tr_store_up_to_x16(to, at + r * stride + j, x, columns - j, dtype);
        }
}

typedef struct backward_context {
    const tr_attention_tensors *tensors;
    void *workspace;
    const tr_attention_shape *shape;
} backward_context;

TR_MULTIVERSION static void backward_tile(void *context, int64_t tile, int thread)
{
    const backward_context *c = context;
    const tr_attention_tensors *x = c->tensors;
    const tr_attention_shape *s = c->shape;
    backward_space space = backward_space_of(s, c->workspace, thread);
    int64_t batch = tile / s->kv_heads, kv_head = tile % s->kv_heads, group = s->heads / s->kv_heads;
    int64_t size = s->head_size, width = round_up(size, TR_LANES), stride = s->kv_heads * size;
    int64_t at = batch * s->time * stride + kv_head * size;
    size_t plane = (size_t)(round_up(s->time, BLOCK) * width);
    pack_rows(x->k, at, s->dtype, stride, s->time, size, 1, space.keys, width);
    pack_transposed(x->k, at, s->dtype, stride, s->time, size, space.keys_t);
    pack_transposed(x->v, at, s->dtype, stride, s->time, size, space.values_t);
    memset(space.dk, 0, plane * sizeof(float));
    memset(space.dv, 0, plane * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        load_head(&space, x, s, batch, head);
        space.plane = batch * s->heads + head;
        for (int64_t key = 0; key < s->time; key += BLOCK)
            for (int64_t i = key; i < s->time; i += BLOCK)
                backward_block(&space, size, width, i, s->time - i < BLOCK ? s->time - i : BLOCK, key);
        TR_BY_DTYPE(s->dtype, unpack_rows, space.dq, width, s->time, size, s->scale, x->dq,
                    (batch * s->time * s->heads + head) * size, s->heads * size);
    }
    TR_BY_DTYPE(s->dtype, unpack_rows, space.dk, width, s->time, size, 1, x->dk, at, stride);
    TR_BY_DTYPE(s->dtype, unpack_rows, space.dv, width, s->time, size, 1, x->dv, at, stride);
}

void tr_cpu_attention_backward(const tr_attention_tensors *tensors, void *workspace,
                               const tr_attention_shape *shape, tr_thread_pool *pool)
{
    TR_ASSERT(shape->first == 0);
    backward_context c = {.tensors = tensors, .workspace = workspace, .shape = shape};
    tr_thread_pool_run(pool, shape->batch * shape->kv_heads, backward_tile, &c);
}
