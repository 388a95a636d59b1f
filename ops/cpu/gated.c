/* ops/cpu/gated.c - one loop for each activation, chosen outside of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/gated.h"

#include "ops/cpu/activation.h"
#include "ops/cpu/tiles.h"

typedef struct gated_work {
    const float *dy, *gate, *up; /* dy NULL: forward */
    float *y, *dgate, *dup;
    int64_t n;
    tr_activation kind;
} gated_work;

TR_INLINE void forward_loop(const float *gate, const float *up, float *y, int64_t n, tr_activation kind)
{
    tr_f32x16 value, slope;
    int64_t i = 0;
    for (; i + TR_LANES <= n; i += TR_LANES) {
        tr_activation_f32x16(tr_load_f32x16(gate + i), kind, &value, &slope);
        tr_store_f32x16(y + i, value * tr_load_f32x16(up + i));
    }
    if (i == n) return;
    tr_activation_f32x16(tr_load_part_f32x16(gate + i, n - i, 0), kind, &value, &slope);
    tr_store_part_f32x16(y + i, value * tr_load_part_f32x16(up + i, n - i, 0), n - i);
}

TR_INLINE void backward_loop(const float *dy, const float *gate, const float *up, float *dgate, float *dup,
                             int64_t n, tr_activation kind)
{
    tr_f32x16 value, slope;
    int64_t i = 0;
    for (; i + TR_LANES <= n; i += TR_LANES) {
        tr_f32x16 d = tr_load_f32x16(dy + i);
        tr_activation_f32x16(tr_load_f32x16(gate + i), kind, &value, &slope);
        if (dgate) tr_store_f32x16(dgate + i, d * tr_load_f32x16(up + i) * slope);
        if (dup) tr_store_f32x16(dup + i, d * value);
    }
    if (i == n) return;
    tr_f32x16 d = tr_load_part_f32x16(dy + i, n - i, 0);
    tr_activation_f32x16(tr_load_part_f32x16(gate + i, n - i, 0), kind, &value, &slope);
    if (dgate) tr_store_part_f32x16(dgate + i, d * tr_load_part_f32x16(up + i, n - i, 0) * slope, n - i);
    if (dup) tr_store_part_f32x16(dup + i, d * value, n - i);
}

TR_MULTIVERSION static void forward_range(const float *gate, const float *up, float *y, int64_t n,
                                          tr_activation kind)
{
    switch (kind) {
    case TR_GELU_TANH: forward_loop(gate, up, y, n, TR_GELU_TANH); break;
    case TR_GELU_ERF: forward_loop(gate, up, y, n, TR_GELU_ERF); break;
    case TR_SILU: forward_loop(gate, up, y, n, TR_SILU); break;
    case TR_RELU: forward_loop(gate, up, y, n, TR_RELU); break;
    }
}

TR_MULTIVERSION static void backward_range(const float *dy, const float *gate, const float *up, float *dgate,
                                           float *dup, int64_t n, tr_activation kind)
{
    switch (kind) {
    case TR_GELU_TANH: backward_loop(dy, gate, up, dgate, dup, n, TR_GELU_TANH); break;
    case TR_GELU_ERF: backward_loop(dy, gate, up, dgate, dup, n, TR_GELU_ERF); break;
    case TR_SILU: backward_loop(dy, gate, up, dgate, dup, n, TR_SILU); break;
    case TR_RELU: backward_loop(dy, gate, up, dgate, dup, n, TR_RELU); break;
    }
}

static void gated_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const gated_work *w = context;
    int64_t first = tile * TR_ELEMENT_TILE, n = tr_min_i64(TR_ELEMENT_TILE, w->n - first);
    if (w->dy)
        backward_range(w->dy + first, w->gate + first, w->up + first, w->dgate ? w->dgate + first : NULL,
                       w->dup ? w->dup + first : NULL, n, w->kind);
    else
        forward_range(w->gate + first, w->up + first, w->y + first, n, w->kind);
}

void tr_cpu_gated(const float *gate, const float *up, float *y, int64_t n, tr_activation kind,
                  tr_thread_pool *pool)
{
    gated_work work = {.gate = gate, .up = up, .y = y, .n = n, .kind = kind};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), gated_tile, &work);
}

void tr_cpu_gated_backward(const float *dy, const float *gate, const float *up, float *dgate, float *dup,
                           int64_t n, tr_activation kind, tr_thread_pool *pool)
{
    gated_work work = {.dy = dy, .gate = gate, .up = up, .dgate = dgate, .dup = dup, .n = n, .kind = kind};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), gated_tile, &work);
}
