/* ops/cpu/activate.c - one loop for each activation and dtype, chosen outside of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/activate.h"

#include "ops/cpu/activation.h"
#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

typedef struct activate_work {
    const void *dy, *x; /* dy NULL: forward */
    void *out;
    int64_t n;
    tr_activation kind;
    tr_dtype dtype;
} activate_work;

TR_INLINE void forward_loop(const void *x, void *y, int64_t n, tr_activation kind, tr_dtype dtype)
{
    tr_f32x16 value, slope;
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_activation_f32x16(tr_load_up_to_x16(x, i, n - i, 0, dtype), kind, &value, &slope);
        tr_store_up_to_x16(y, i, value, n - i, dtype);
    }
}

TR_INLINE void backward_loop(const void *dy, const void *x, void *dx, int64_t n, tr_activation kind,
                             tr_dtype dtype)
{
    tr_f32x16 value, slope;
    for (int64_t i = 0; i < n; i += TR_LANES) {
        tr_activation_f32x16(tr_load_up_to_x16(x, i, n - i, 0, dtype), kind, &value, &slope);
        tr_store_up_to_x16(dx, i, tr_load_up_to_x16(dy, i, n - i, 0, dtype) * slope, n - i, dtype);
    }
}

TR_MULTIVERSION static void forward_range(const void *x, void *y, int64_t n, tr_activation kind,
                                          tr_dtype dtype)
{
    switch (kind) {
    case TR_GELU_TANH: TR_BY_DTYPE(dtype, forward_loop, x, y, n, TR_GELU_TANH); break;
    case TR_GELU_ERF: TR_BY_DTYPE(dtype, forward_loop, x, y, n, TR_GELU_ERF); break;
    case TR_SILU: TR_BY_DTYPE(dtype, forward_loop, x, y, n, TR_SILU); break;
    case TR_RELU: TR_BY_DTYPE(dtype, forward_loop, x, y, n, TR_RELU); break;
    }
}

TR_MULTIVERSION static void backward_range(const void *dy, const void *x, void *dx, int64_t n,
                                           tr_activation kind, tr_dtype dtype)
{
    switch (kind) {
    case TR_GELU_TANH: TR_BY_DTYPE(dtype, backward_loop, dy, x, dx, n, TR_GELU_TANH); break;
    case TR_GELU_ERF: TR_BY_DTYPE(dtype, backward_loop, dy, x, dx, n, TR_GELU_ERF); break;
    case TR_SILU: TR_BY_DTYPE(dtype, backward_loop, dy, x, dx, n, TR_SILU); break;
    case TR_RELU: TR_BY_DTYPE(dtype, backward_loop, dy, x, dx, n, TR_RELU); break;
    }
}

static void activate_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const activate_work *w = context;
    int64_t first = tile * TR_ELEMENT_TILE, n = tr_min_i64(TR_ELEMENT_TILE, w->n - first);
    const void *x = tr_at(w->x, first, w->dtype);
    void *out = tr_at(w->out, first, w->dtype);
    if (w->dy)
        backward_range(tr_at(w->dy, first, w->dtype), x, out, n, w->kind, w->dtype);
    else
        forward_range(x, out, n, w->kind, w->dtype);
}

void tr_cpu_activate(const void *x, void *y, int64_t n, tr_activation kind, tr_dtype dtype,
                     tr_thread_pool *pool)
{
    activate_work work = {.x = x, .out = y, .n = n, .kind = kind, .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), activate_tile, &work);
}

void tr_cpu_activate_backward(const void *dy, const void *x, void *dx, int64_t n, tr_activation kind,
                              tr_dtype dtype, tr_thread_pool *pool)
{
    activate_work work = {.dy = dy, .x = x, .out = dx, .n = n, .kind = kind, .dtype = dtype};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), activate_tile, &work);
}
