/* ops/cpu/gated.c - one loop for each activation and dtype, chosen outside of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/gated.h"

#include "ops/cpu/activation.h"
#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

typedef struct gated_work {
    const void *dy, *gate, *up; /* dy NULL: forward */
    void *y, *dgate, *dup;
    int64_t n;
    tr_activation kind;
    tr_dtype dtype;
} gated_work;

TR_INLINE void forward_loop(const gated_work *w, tr_activation kind, tr_dtype dtype)
{
    tr_f32x16 value, slope;
    for (int64_t i = 0, left = w->n; left > 0; i += TR_LANES, left -= TR_LANES) {
        tr_activation_f32x16(tr_load_up_to_x16(w->gate, i, left, 0, dtype), kind, &value, &slope);
        tr_store_up_to_x16(w->y, i, value * tr_load_up_to_x16(w->up, i, left, 0, dtype), left, dtype);
    }
}

TR_INLINE void backward_loop(const gated_work *w, tr_activation kind, tr_dtype dtype)
{
    tr_f32x16 value, slope;
    for (int64_t i = 0, left = w->n; left > 0; i += TR_LANES, left -= TR_LANES) {
        tr_f32x16 d = tr_load_up_to_x16(w->dy, i, left, 0, dtype),
                  up = tr_load_up_to_x16(w->up, i, left, 0, dtype);
        tr_activation_f32x16(tr_load_up_to_x16(w->gate, i, left, 0, dtype), kind, &value, &slope);
        if (w->dgate) tr_store_up_to_x16(w->dgate, i, d * up * slope, left, dtype);
        if (w->dup) tr_store_up_to_x16(w->dup, i, d * value, left, dtype);
    }
}

TR_MULTIVERSION static void forward_range(const gated_work *w)
{
    switch (w->kind) {
    case TR_GELU_TANH: TR_BY_DTYPE(w->dtype, forward_loop, w, TR_GELU_TANH); break;
    case TR_GELU_ERF: TR_BY_DTYPE(w->dtype, forward_loop, w, TR_GELU_ERF); break;
    case TR_SILU: TR_BY_DTYPE(w->dtype, forward_loop, w, TR_SILU); break;
    case TR_RELU: TR_BY_DTYPE(w->dtype, forward_loop, w, TR_RELU); break;
    }
}

TR_MULTIVERSION static void backward_range(const gated_work *w)
{
    switch (w->kind) {
    case TR_GELU_TANH: TR_BY_DTYPE(w->dtype, backward_loop, w, TR_GELU_TANH); break;
    case TR_GELU_ERF: TR_BY_DTYPE(w->dtype, backward_loop, w, TR_GELU_ERF); break;
    case TR_SILU: TR_BY_DTYPE(w->dtype, backward_loop, w, TR_SILU); break;
    case TR_RELU: TR_BY_DTYPE(w->dtype, backward_loop, w, TR_RELU); break;
    }
}

static void gated_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    gated_work w = *(const gated_work *)context;
    int64_t first = tile * TR_ELEMENT_TILE;
    w.n = tr_min_i64(TR_ELEMENT_TILE, w.n - first);
    w.dy = tr_at(w.dy, first, w.dtype);
    w.gate = tr_at(w.gate, first, w.dtype);
    w.up = tr_at(w.up, first, w.dtype);
    w.y = tr_at(w.y, first, w.dtype);
    w.dgate = tr_at(w.dgate, first, w.dtype);
    w.dup = tr_at(w.dup, first, w.dtype);
    if (w.dy)
        backward_range(&w);
    else
        forward_range(&w);
}

void tr_cpu_gated(const void *gate, const void *up, void *y, int64_t n, tr_activation kind, tr_dtype dtype,
                  tr_thread_pool *pool)
{
    gated_work work = {.gate = gate, .up = up, .y = y, .n = n, .kind = kind, .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), gated_tile, &work);
}

void tr_cpu_gated_backward(const void *dy, const void *gate, const void *up, void *dgate, void *dup,
                           int64_t n, tr_activation kind, tr_dtype dtype, tr_thread_pool *pool)
{
    gated_work work = {
        .dy = dy, .gate = gate, .up = up, .dgate = dgate, .dup = dup, .n = n, .kind = kind, .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), gated_tile, &work);
}
