// ops/cuda/embedding.cu - rows of a table, and the table's gradient without float atomics.
// The gradient sorts (id, row) pairs by id, rows staying in order, and one block adds up the rows of each id onto
// what was there, in ascending order: the CPU's order. The sort is a radix sort of four bits a pass by one block:
// with some ten thousand tokens it takes a fraction of what reading their gradients takes.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum { THREADS = 128, SORT_THREADS = 512, DIGITS = 16, DIGIT_BITS = 4 };

// An id outside of the table is a bug of whoever read it.
template <int V, typename T>
__global__ void __launch_bounds__(THREADS)
    embedding_kernel(const int32_t *ids, const T *table, T *y, int64_t channels, int64_t vocabulary)
{
    int64_t row = blockIdx.x, id = ids[row];
    if (id < 0 || id >= vocabulary) __trap();
    for (int64_t c = (int64_t)threadIdx.x * V; c < channels; c += THREADS * V)
        *reinterpret_cast<pack<V, T> *>(y + row * channels + c) =
            *reinterpret_cast<const pack<V, T> *>(table + id * channels + c);
}

template <int V, typename T> void launch(const tr_call *call)
{
    const tr_shape *table = input_shape(call, 1);
    embedding_kernel<V, T>
        <<<(unsigned)tr_shape_elements(input_shape(call, 0)), THREADS, 0, tr_cuda_stream(call)>>>(
            (const int32_t *)call->inputs[0], (const T *)call->inputs[1], (T *)call->outputs[0],
            table->dims[1], table->dims[0]);
    tr_cuda_launched(call);
}

void run(const tr_call *call)
{
    bool packed = input_shape(call, 1)->dims[1] % 8 == 0;
    TR_BY_STORAGE(call, 1, packed ? launch<PACK<T>, T>(call) : launch<1, T>(call));
}

struct pairs {
    uint32_t *id, *row;
};

// The exclusive sums of counts (DIGITS,SORT_THREADS), in that order.
__device__ void scan_counts(uint32_t *counts)
{
    __shared__ uint32_t warps[SORT_THREADS / WARP];
    uint32_t *mine = counts + threadIdx.x * DIGITS, own = 0, lane = threadIdx.x % WARP;
    for (int i = 0; i < DIGITS; i++) own += mine[i];
    uint32_t sum = own;
    for (int step = 1; step < WARP; step *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= (uint32_t)step) sum += other;
    }
    if (lane == WARP - 1) warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    uint32_t before = sum - own;
    for (int w = 0; w < (int)threadIdx.x / WARP; w++) before += warps[w];
    for (int i = 0; i < DIGITS; i++) {
        uint32_t count = mine[i];
        mine[i] = before;
        before += count;
    }
    __syncthreads();
}

// Every thread has a range of its own, and counts and places it in order: so the sort is stable.
__global__ void __launch_bounds__(SORT_THREADS)
    sort_kernel(const int32_t *ids, pairs a, pairs b, int64_t n, int passes)
{
    __shared__ uint32_t counts[DIGITS * SORT_THREADS];
    int64_t each = (n + SORT_THREADS - 1) / SORT_THREADS, first = threadIdx.x * each;
    int64_t end = first + each < n ? first + each : n;
    for (int64_t i = first; i < end; i++) a.id[i] = (uint32_t)ids[i], a.row[i] = (uint32_t)i;
    for (int pass = 0; pass < passes; pass++) {
        int shift = pass * DIGIT_BITS;
        for (int d = 0; d < DIGITS; d++) counts[d * SORT_THREADS + threadIdx.x] = 0;
        __syncthreads();
        for (int64_t i = first; i < end; i++)
            counts[(a.id[i] >> shift) % DIGITS * SORT_THREADS + threadIdx.x]++;
        __syncthreads();
        scan_counts(counts);
        for (int64_t i = first; i < end; i++) {
            uint32_t to = counts[(a.id[i] >> shift) % DIGITS * SORT_THREADS + threadIdx.x]++;
            b.id[to] = a.id[i];
            b.row[to] = a.row[i];
        }
        __syncthreads();
        pairs other = a;
        a = b;
        b = other;
    }
}

// One block a sorted pair; the one that begins an id adds all its rows.
template <int V, typename T>
__global__ void __launch_bounds__(THREADS)
    dtable_kernel(pairs sorted, const T *dy, float *dtable, int64_t n, int64_t channels, int64_t vocabulary)
{
    int64_t first = blockIdx.x;
    uint32_t id = sorted.id[first];
    if (first > 0 && sorted.id[first - 1] == id) return;
    if (id >= vocabulary) __trap();
    for (int64_t c = (int64_t)threadIdx.x * V; c < channels; c += THREADS * V) {
        float sum[V], g[V];
        load<V>(dtable + id * channels + c, sum);
        for (int64_t i = first; i < n && sorted.id[i] == id; i++) {
            load<V>(dy + sorted.row[i] * channels + c, g);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += g[j];
        }
        store<V>(dtable + id * channels + c, sum);
    }
}

size_t dtable_workspace(const tr_graph *graph, const tr_node *node)
{
    return 4 * (size_t)tr_shape_elements(tr_input_shape(graph, node, 0)) * sizeof(uint32_t);
}

template <typename T> void launch_dtable(const tr_call *call)
{
    int64_t n = tr_shape_elements(input_shape(call, 0)), channels = tr_shape_last(input_shape(call, 1));
    int64_t vocabulary = ((const dtable_attributes *)tr_node_attributes(call->node))->vocabulary;
    uint32_t *memory = (uint32_t *)call->workspace;
    pairs a = {memory, memory + n}, b = {memory + 2 * n, memory + 3 * n};
    int passes = 1;
    while ((vocabulary - 1) >> (passes * DIGIT_BITS)) passes++;
    cudaStream_t stream = tr_cuda_stream(call);
    sort_kernel<<<1, SORT_THREADS, 0, stream>>>((const int32_t *)call->inputs[0], a, b, n, passes);
    pairs sorted = passes % 2 ? b : a;
    const T *dy = (const T *)call->inputs[1];
    float *dtable = (float *)call->outputs[0];
    if (channels % 4 == 0)
        dtable_kernel<4, T><<<(unsigned)n, THREADS, 0, stream>>>(sorted, dy, dtable, n, channels, vocabulary);
    else
        dtable_kernel<1, T><<<(unsigned)n, THREADS, 0, stream>>>(sorted, dy, dtable, n, channels, vocabulary);
    tr_cuda_launched(call);
}

void run_dtable(const tr_call *call)
{
    TR_BY_STORAGE(call, 1, launch_dtable<T>(call));
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_embedding_kernels[] = {
    {"embedding", troupe::run},
    {"embedding_dtable", troupe::run_dtable, troupe::dtable_workspace},
    {},
};
