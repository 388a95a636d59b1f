/* ops/cpu/activate.c - one loop for each activation, chosen outside of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/activate.h"

#include "ops/cpu/activation.h"
#include "ops/cpu/tiles.h"

typedef struct activate_work {
    const float *dy, *x; /* dy NULL: forward */
    float *out;
    int64_t n;
    tr_activation kind;
} activate_work;

TR_INLINE void forward_loop(const float *x, float *y, int64_t n, tr_activation kind)
{
    tr_f32x16 value, slope;
    int64_t i = 0;
    for (; i + TR_LANES <= n; i += TR_LANES) {
        tr_activation_f32x16(tr_load_f32x16(x + i), kind, &value, &slope);
        tr_store_f32x16(y + i, value);
    }
    if (i == n) return;
    tr_activation_f32x16(tr_load_part_f32x16(x + i, n - i, 0), kind, &value, &slope);
    tr_store_part_f32x16(y + i, value, n - i);
}

TR_INLINE void backward_loop(const float *dy, const float *x, float *dx, int64_t n, tr_activation kind)
{
    tr_f32x16 value, slope;
    int64_t i = 0;
    for (; i + TR_LANES <= n; i += TR_LANES) {
        tr_activation_f32x16(tr_load_f32x16(x + i), kind, &value, &slope);
        tr_store_f32x16(dx + i, tr_load_f32x16(dy + i) * slope);
    }
    if (i == n) return;
    tr_activation_f32x16(tr_load_part_f32x16(x + i, n - i, 0), kind, &value, &slope);
    tr_store_part_f32x16(dx + i, tr_load_part_f32x16(dy + i, n - i, 0) * slope, n - i);
}

TR_MULTIVERSION static void forward_range(const float *x, float *y, int64_t n, tr_activation kind)
{
    switch (kind) {
    case TR_GELU_TANH: forward_loop(x, y, n, TR_GELU_TANH); break;
    case TR_GELU_ERF: forward_loop(x, y, n, TR_GELU_ERF); break;
    case TR_SILU: forward_loop(x, y, n, TR_SILU); break;
    case TR_RELU: forward_loop(x, y, n, TR_RELU); break;
    }
}

TR_MULTIVERSION static void backward_range(const float *dy, const float *x, float *dx, int64_t n,
                                           tr_activation kind)
{
    switch (kind) {
    case TR_GELU_TANH: backward_loop(dy, x, dx, n, TR_GELU_TANH); break;
    case TR_GELU_ERF: backward_loop(dy, x, dx, n, TR_GELU_ERF); break;
    case TR_SILU: backward_loop(dy, x, dx, n, TR_SILU); break;
    case TR_RELU: backward_loop(dy, x, dx, n, TR_RELU); break;
    }
}

static void activate_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const activate_work *work = context;
    int64_t first = tile * TR_ELEMENT_TILE, n = tr_min_i64(TR_ELEMENT_TILE, work->n - first);
    if (work->dy)
        backward_range(work->dy + first, work->x + first, work->out + first, n, work->kind);
    else
        forward_range(work->x + first, work->out + first, n, work->kind);
}

void tr_cpu_activate(const float *x, float *y, int64_t n, tr_activation kind, tr_thread_pool *pool)
{
    activate_work work = {.x = x, .out = y, .n = n, .kind = kind};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), activate_tile, &work);
}

void tr_cpu_activate_backward(const float *dy, const float *x, float *dx, int64_t n, tr_activation kind,
                              tr_thread_pool *pool)
{
    activate_work work = {.dy = dy, .x = x, .out = dx, .n = n, .kind = kind};
    tr_thread_pool_run(pool, tr_tile_count(n, TR_ELEMENT_TILE), activate_tile, &work);
}
