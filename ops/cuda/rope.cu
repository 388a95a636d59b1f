// ops/cuda/rope.cu - rotary position embedding; its backward is the rotation by the negative angle.
// Angles are made in double, as on the CPU: once where rows begin at 0, else for each run.
// Source: Su et al., 2021.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum { X, POSITION, FREQUENCIES, THREADS = 256 };

struct rope_plan {
    double *frequencies; // (D/2)
    float *table;        // (T,D/2,2): cosine and sine, times the magnitude; NULL with a position input
};

__global__ void table_kernel(const double *frequencies, const int32_t *position, float *table, int64_t time,
                             int64_t half, double magnitude)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= time * half) return;
    double sine, cosine, first = position ? *position : 0;
    sincos((first + (double)(i / half)) * frequencies[i % half], &sine, &cosine);
    table[2 * i] = (float)(cosine * magnitude);
    table[2 * i + 1] = (float)(sine * magnitude);
}

void make_table(const tr_graph *graph, const tr_node *node, const rope_plan *plan, const void *position,
                float *table, cudaStream_t stream)
{
    const rope_attributes *attributes = (const rope_attributes *)tr_node_attributes(node);
    int64_t time = tr_input_shape(graph, node, X)->dims[1], half = attributes->head_size / 2;
    table_kernel<<<blocks_for(time * half, THREADS), THREADS, 0, stream>>>(
        plan->frequencies, (const int32_t *)position, table, time, half, (double)attributes->magnitude);
}

size_t table_bytes(const tr_graph *graph, const tr_node *node)
{
    const rope_attributes *attributes = (const rope_attributes *)tr_node_attributes(node);
    return (size_t)(tr_input_shape(graph, node, X)->dims[1] * attributes->head_size) * sizeof(float);
}

size_t workspace(const tr_graph *graph, const tr_node *node)
{
    return node->inputs[POSITION] == TR_NO_VALUE ? 0 : table_bytes(graph, node);
}

void release(void *prepared, void *device)
{
    rope_plan *plan = (rope_plan *)prepared;
    tr_device *on = tr_stream_device(((tr_cuda_context *)device)->stream);
    tr_stream_synchronize(((tr_cuda_context *)device)->stream, NULL);
    tr_device_free(on, TR_MEMORY_DEVICE, plan->frequencies);
    tr_device_free(on, TR_MEMORY_DEVICE, plan->table);
    delete plan;
}

tr_status prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    tr_cuda_context *context = (tr_cuda_context *)device;
    tr_device *on = tr_stream_device(context->stream);
    const tr_value_info *frequencies = tr_graph_value(graph, node->inputs[FREQUENCIES]);
    size_t bytes = (size_t)tr_shape_elements(&frequencies->shape) * sizeof(double);
    rope_plan *plan = new rope_plan();
    tr_status status = tr_device_allocate(on, TR_MEMORY_DEVICE, bytes, (void **)&plan->frequencies, err);
    if (status == TR_OK)
        status = tr_stream_copy(context->stream, plan->frequencies, frequencies->constant, bytes, err);
    if (status == TR_OK && node->inputs[POSITION] == TR_NO_VALUE) {
        status =
            tr_device_allocate(on, TR_MEMORY_DEVICE, table_bytes(graph, node), (void **)&plan->table, err);
        if (status == TR_OK) make_table(graph, node, plan, NULL, plan->table, context->native);
    }
    if (status != TR_OK) {
        release(plan, device);
        return status;
    }
    *prepared = plan;
    return TR_OK;
}

// A thread V pairs (i, i + D/2) of a head, one behind the other. y may be x.
template <bool INVERSE, int V, typename T>
__global__ void __launch_bounds__(THREADS) rope_kernel(const T *x, const float *table, T *y, uint32_t n_packs,
                                                       uint32_t time, uint32_t heads, uint32_t half)
{
    uint32_t p = blockIdx.x * THREADS + threadIdx.x, packs = half / V; // of a head
    if (p >= n_packs) return;
    uint32_t i = p % packs * V, head = p / packs, t = head / heads % time;
    int64_t at = (int64_t)head * 2 * half + i;
    float turns[2 * V], a[V], b[V], c[V], d[V];
    load<2 * V>(table + ((int64_t)t * half + i) * 2, turns);
    load<V>(x + at, a);
    load<V>(x + at + half, b);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float cosine = turns[2 * j], sine = INVERSE ? -turns[2 * j + 1] : turns[2 * j + 1];
        c[j] = a[j] * cosine - b[j] * sine;
        d[j] = b[j] * cosine + a[j] * sine;
    }
    store<V>(y + at, c);
    store<V>(y + at + half, d);
}

template <bool INVERSE, int V, typename T> void launch_packed(const tr_call *call, const float *table)
{
    const tr_shape *x = input_shape(call, X);
    uint32_t half = (uint32_t)((const rope_attributes *)tr_node_attributes(call->node))->head_size / 2;
    int64_t n_packs = tr_shape_elements(x) / (2 * V); // a GPU's memory holds no 2^32 of them
    rope_kernel<INVERSE, V, T><<<blocks_for(n_packs, THREADS), THREADS, 0, tr_cuda_stream(call)>>>(
        (const T *)call->inputs[X], table, (T *)call->outputs[0], (uint32_t)n_packs, (uint32_t)x->dims[1],
        (uint32_t)x->dims[2] / (2 * half), half);
}

template <bool INVERSE, typename T> void launch(const tr_call *call, const float *table)
{
    int32_t half = ((const rope_attributes *)tr_node_attributes(call->node))->head_size / 2;
    if (half % PACK<T> == 0)
        launch_packed<INVERSE, PACK<T>, T>(call, table);
    else
        launch_packed<INVERSE, 1, T>(call, table);
}

template <bool INVERSE> void run(const tr_call *call)
{
    const rope_plan *plan = (const rope_plan *)call->prepared;
    const float *table = plan->table;
    if (!table) {
        make_table(call->graph, call->node, plan, call->inputs[POSITION], (float *)call->workspace,
                   tr_cuda_stream(call));
        table = (const float *)call->workspace;
    }
    TR_BY_STORAGE(call, X, (launch<INVERSE, T>(call, table)));
    tr_cuda_launched(call);
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_rope_kernels[] = {
    {"rope", troupe::run<false>, troupe::workspace, troupe::prepare, troupe::release},
    {"rope_backward", troupe::run<true>, troupe::workspace, troupe::prepare, troupe::release},
    {},
};
