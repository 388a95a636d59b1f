/* ops/cpu/fp8.c - see fp8.h. Tiles depend on shapes alone; a maximum has no order.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/fp8.h"

#include "ops/cpu/matmul.h"
#include "ops/cpu/tiles.h"
#include "ops/optimizer.h"

/* --- from bfloat16 to codes --- */

typedef struct quantising {
    const tr_bf16 *x;
    int64_t rows, columns, n;
    tr_dtype format;
    uint8_t *codes, *turned;
    uint16_t *
        most; /* by tile: the largest magnitude, as bits of a bfloat16, which are ordered as it is, NaN last */
    float scale;
} quantising;

static void most_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const quantising *q = context;
    int64_t first = tile * TR_ELEMENT_TILE, end = tr_min_i64(first + TR_ELEMENT_TILE, q->n);
    uint16_t most = 0;
    for (int64_t i = first; i < end; i++) {
        uint16_t magnitude = q->x[i] & 0x7fffu;
        most = magnitude > most ? magnitude : most;
    }
    q->most[tile] = most;
}

static void code_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const quantising *q = context;
    int64_t each = tr_tile_rows(q->columns), first = tile * each, end = tr_min_i64(first + each, q->rows);
    for (int64_t r = first; r < end; r++)
        for (int64_t c = 0; c < q->columns; c++) {
            float x = tr_f32_of_bf16(q->x[r * q->columns + c]);
            uint8_t code = tr_fp8_of_f32(x * q->scale, q->format);
            if (q->codes) q->codes[r * q->columns + c] = code;
            if (q->turned) q->turned[c * q->rows + r] = code;
        }
}

size_t tr_cpu_quantise_workspace(int64_t elements)
{
    return (size_t)tr_tile_count(elements, TR_ELEMENT_TILE) * sizeof(uint16_t);
}

void tr_cpu_quantise(const tr_bf16 *x, int64_t rows, int64_t columns, tr_dtype format, uint8_t *codes,
                     uint8_t *turned, float *inverse, void *workspace, tr_thread_pool *pool)
{
    quantising q = {.x = x,
                    .rows = rows,
                    .columns = columns,
                    .n = rows * columns,
                    .format = format,
                    .codes = codes,
                    .turned = turned,
                    .most = workspace};
    int64_t n_tiles = tr_tile_count(q.n, TR_ELEMENT_TILE);
    tr_bf16 most = 0;
    tr_thread_pool_run(pool, n_tiles, most_tile, &q);
    for (int64_t i = 0; i < n_tiles; i++) most = q.most[i] > most ? q.most[i] : most;
    tr_fp8_scale(tr_f32_of_bf16(most), format, &q.scale, inverse);
    tr_thread_pool_run(pool, tr_tile_count(rows, tr_tile_rows(columns)), code_tile, &q);
}

/* --- products --- */

typedef struct widening {
    const uint8_t *codes; /* else: */
    const tr_bf16 *halves;
    float *to;
    int64_t n;
    float numbers[256]; /* by code */
} widening;

static void widen_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const widening *w = context;
    int64_t first = tile * TR_ELEMENT_TILE, end = tr_min_i64(first + TR_ELEMENT_TILE, w->n);
    for (int64_t i = first; i < end; i++)
        w->to[i] = w->codes ? w->numbers[w->codes[i]] : tr_f32_of_bf16(w->halves[i]);
}

/* The numbers that codes stand for: exact, a scale being a power of two. */
static void widen_codes(const uint8_t *codes, int64_t n, tr_dtype format, float inverse, float *to,
                        tr_thread_pool *pool)
{
    widening w = {.codes = codes, .to = to, .n = n};
    for (int code = 0; code < 256; code++) w.numbers[code] = tr_f32_of_fp8((uint8_t)code, format) * inverse;
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), widen_tile, &w);
}

size_t tr_cpu_fp8_workspace(const tr_fp8_product *size)
{
    return (size_t)(size->m * size->k + size->n * size->k + size->m * size->n) * sizeof(float);
}

static void multiply(const tr_cpu_fp8_operands *o, const float *bias, bool adds, float *c,
                     tr_thread_pool *pool)
{
    int64_t m = o->size.m, n = o->size.n, k = o->size.k;
    float *a = o->workspace, *b = a + m * k;
    widen_codes(o->a, m * k, o->a_format, *o->a_inverse, a, pool);
    widen_codes(o->b, n * k, o->b_format, *o->b_inverse, b, pool);
    tr_matmul product = {.m = m,
                         .n = n,
                         .k = k,
                         .a = a,
                         .b = b,
                         .bias = bias,
                         .c = c,
                         .a_stride = k,
                         .b_stride = k,
                         .c_stride = n,
                         .transpose_b = true,
                         .beta = adds ? 1.0f : 0.0f,
                         .dtype = TR_F32,
                         .c_dtype = TR_F32};
    tr_matmul_run(&product, pool);
}

void tr_cpu_fp8_linear(const tr_cpu_fp8_operands *o, const float *bias, const tr_bf16 *pending, tr_bf16 *y,
                       tr_thread_pool *pool)
{
    int64_t n = o->size.m * o->size.n;
    float *sums = o->workspace + (o->size.m + o->size.n) * o->size.k;
    widening w = {.halves = pending, .to = sums, .n = n};
    if (pending) tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), widen_tile, &w);
    multiply(o, bias, pending != NULL, sums, pool);
    tr_round_to_bf16(sums, y, n, pool);
}

void tr_cpu_fp8_linear_dw(const tr_cpu_fp8_operands *o, float *dw, tr_thread_pool *pool)
{
    multiply(o, NULL, true, dw, pool);
}
