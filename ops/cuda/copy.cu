// ops/cuda/copy.cu - split and join of the last dimension, rows of a table, a table of positions added.
// Copies are in units of bytes, the widest that divides every width.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum { THREADS = 256 };

// Widths and columns in units.
struct cut {
    int64_t widths[TR_MAX_OUTPUTS];
    void *parts[TR_MAX_OUTPUTS]; // NULL: not wanted, or zeros
    void *whole;
    int64_t rows, columns;
    int n;
};

template <typename U, bool JOIN> __global__ void __launch_bounds__(THREADS) cut_kernel(cut c)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= c.rows * c.columns) return;
    int64_t row = i / c.columns, column = i % c.columns;
#pragma unroll
    for (int k = 0; k < TR_MAX_OUTPUTS; k++) {
        if (k >= c.n) return;
        if (column < c.widths[k]) {
            U *part = (U *)c.parts[k], *whole = (U *)c.whole;
            int64_t at = row * c.widths[k] + column;
            if (JOIN)
                whole[i] = part ? part[at] : U{};
            else if (part)
                part[at] = whole[i];
            return;
        }
        column -= c.widths[k];
    }
}

int64_t greatest_unit(const int64_t *widths, int n, int64_t element_bytes)
{
    int64_t unit = 16;
    for (int i = 0; i < n; i++)
        while (widths[i] * element_bytes % unit) unit /= 2;
    return unit;
}

template <bool JOIN> void run_cut(const tr_call *call, tr_dtype dtype, void *whole, void *const *parts)
{
    const split_attributes *attributes = (const split_attributes *)tr_node_attributes(call->node);
    int64_t bytes = (int64_t)tr_dtype_bytes(dtype),
            unit = greatest_unit(attributes->widths, attributes->n, bytes);
    cut c = {};
    c.whole = whole;
    c.n = attributes->n;
    for (int i = 0; i < c.n; i++) {
        c.widths[i] = attributes->widths[i] * bytes / unit;
        c.columns += c.widths[i];
        c.parts[i] = parts[i];
    }
    c.rows = tr_shape_rows(JOIN ? output_shape(call, 0) : input_shape(call, 0));
    unsigned blocks = blocks_for(c.rows * c.columns, THREADS);
    cudaStream_t stream = tr_cuda_stream(call);
    switch (unit) {
    case 16: cut_kernel<uint4, JOIN><<<blocks, THREADS, 0, stream>>>(c); break;
    case 8: cut_kernel<uint2, JOIN><<<blocks, THREADS, 0, stream>>>(c); break;
    case 4: cut_kernel<uint32_t, JOIN><<<blocks, THREADS, 0, stream>>>(c); break;
    default: cut_kernel<uint16_t, JOIN><<<blocks, THREADS, 0, stream>>>(c); break;
    }
    tr_cuda_launched(call);
}

void run_split(const tr_call *call)
{
    run_cut<false>(call, tr_graph_value(call->graph, call->node->inputs[0])->dtype, call->inputs[0],
                   call->outputs);
}

void run_join(const tr_call *call)
{
    run_cut<true>(call, tr_graph_value(call->graph, call->node->outputs[0])->dtype, call->outputs[0],
                  call->inputs);
}

// y[b,t,:] = x[b,t,:] + table[first + t,:]; a position outside of the table is a bug of the caller.
template <int V, typename T>
__global__ void __launch_bounds__(THREADS)
    position_kernel(const T *x, const T *table, const int32_t *position, T *y, int64_t n, int64_t time,
                    int64_t channels, int64_t max_t)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (i >= n) return;
    int64_t first = position ? *position : 0;
    if (first < 0 || first + time > max_t) __trap();
    float a[V], b[V];
    load<V>(x + i, a);
    load<V>(table + (first + i / channels % time) * channels + i % channels, b);
#pragma unroll
    for (int j = 0; j < V; j++) a[j] += b[j];
    store<V>(y + i, a);
}

template <int V, typename T> void launch_position(const tr_call *call)
{
    const int64_t *d = input_shape(call, 0)->dims;
    int64_t n = d[0] * d[1] * d[2];
    position_kernel<V, T><<<blocks_for(n, THREADS * V), THREADS, 0, tr_cuda_stream(call)>>>(
        (const T *)call->inputs[0], (const T *)call->inputs[1], (const int32_t *)call->inputs[2],
        (T *)call->outputs[0], n, d[1], d[2], input_shape(call, 1)->dims[0]);
    tr_cuda_launched(call);
}

void run_position(const tr_call *call)
{
    bool packed = input_shape(call, 0)->dims[2] % 8 == 0;
    TR_BY_STORAGE(call, 0, packed ? launch_position<PACK<T>, T>(call) : launch_position<1, T>(call));
}

// dtable[first + t,:] += the sum of dy[b,t,:] over b, in order.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    position_weight_kernel(const T *dy, const int32_t *position, float *dtable, int64_t batch, int64_t time,
                           int64_t channels, int64_t max_t)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, n = time * channels;
    if (i >= n) return;
    int64_t first = position ? *position : 0;
    if (first < 0 || first + time > max_t) __trap();
    float sum = 0;
    for (int64_t b = 0; b < batch; b++) sum += (float)dy[b * n + i];
    dtable[first * channels + i] += sum;
}

void run_position_weight(const tr_call *call)
{
    const int64_t *d = input_shape(call, 0)->dims;
    int64_t max_t = ((const position_attributes *)tr_node_attributes(call->node))->max_t;
    TR_BY_STORAGE(
        call, 0,
        (position_weight_kernel<T><<<blocks_for(d[1] * d[2], THREADS), THREADS, 0, tr_cuda_stream(call)>>>(
            (const T *)call->inputs[0], (const int32_t *)call->inputs[1], (float *)call->outputs[0], d[0],
            d[1], d[2], max_t)));
    tr_cuda_launched(call);
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_copy_kernels[] = {
    {"split", troupe::run_split},
    {"join", troupe::run_join},
    {"position_embedding", troupe::run_position},
    {"position_embedding_weight", troupe::run_position_weight},
    {},
};
