// ops/cuda/embedding.cu - rows of a table, and the table's gradient without float atomics.
// The gradient sorts (id, row) pairs by id, rows staying in order, and one block adds up the rows of each id onto
// what was there, in ascending order: the CPU's order. The sort is a radix sort of four bits a pass by one block:
// with some ten thousand tokens it takes a fraction of what reading their gradients takes.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum {
    THREADS = 128,
    DIGIT_BITS = 8,
    DIGITS = 1 << DIGIT_BITS,
    SORT_THREADS = DIGITS,
    CHUNKS = 4,
    TILE = SORT_THREADS * CHUNKS,
    SCAN_THREADS = 1024
};

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

// One pass of the sort, over one digit. Blocks own tiles; within one, a warp owns CHUNKS neighbouring chunks of 32.
struct sort_pass {
    const uint32_t *id, *row; // row NULL: they are counted
    pairs to;
    uint32_t *counts; // (DIGITS,tiles): how often a tile has a digit, then where the first of them goes
    int64_t n, tiles;
    int shift;
};

__global__ void __launch_bounds__(SORT_THREADS) count_kernel(sort_pass p)
{
    __shared__ uint32_t counts[DIGITS];
    counts[threadIdx.x] = 0;
    __syncthreads();
    int64_t first = (int64_t)blockIdx.x * TILE;
    for (int64_t i = first + threadIdx.x; i < first + TILE && i < p.n; i += SORT_THREADS)
        atomicAdd(&counts[(p.id[i] >> p.shift) % DIGITS], 1u); // of integers: in any order
    __syncthreads();
    p.counts[threadIdx.x * p.tiles + blockIdx.x] = counts[threadIdx.x];
}

// Counts become their exclusive sums, by one block.
__global__ void __launch_bounds__(SCAN_THREADS) scan_kernel(uint32_t *counts, int64_t n)
{
    __shared__ uint32_t warps[SCAN_THREADS / WARP];
    int64_t each = (n + SCAN_THREADS - 1) / SCAN_THREADS, first = threadIdx.x * each;
    int64_t end = first + each < n ? first + each : n;
    uint32_t own = 0, lane = threadIdx.x % WARP;
    for (int64_t i = first; i < end; i++) own += counts[i];
    uint32_t sum = own;
    for (int step = 1; step < WARP; step *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= (uint32_t)step) sum += other;
    }
    if (lane == WARP - 1) warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    uint32_t before = sum - own;
    for (int w = 0; w < (int)threadIdx.x / WARP; w++) before += warps[w];
    for (int64_t i = first; i < end; i++) {
        uint32_t count = counts[i];
        counts[i] = before;
        before += count;
    }
}

// Lanes with the same digit take neighbouring places in their order, and so do chunks, warps and tiles: it is stable.
__global__ void __launch_bounds__(SORT_THREADS) place_kernel(sort_pass p)
{
    __shared__ uint32_t next[SORT_THREADS / WARP][DIGITS]; // first how often the warp has a digit
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, id[CHUNKS], row[CHUNKS], peers[CHUNKS];
    int64_t first = (int64_t)blockIdx.x * TILE + warp * CHUNKS * WARP + lane;
    for (int w = 0; w < SORT_THREADS / WARP; w++) next[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        int64_t i = first + c * WARP;
        bool there = i < p.n;
        id[c] = there ? p.id[i] : 0;
        row[c] = there && p.row ? p.row[i] : (uint32_t)i;
        uint32_t digit = (id[c] >> p.shift) % DIGITS;
        peers[c] = __match_any_sync(0xffffffffu, there ? digit : DIGITS);
        if (there && lane == __ffs(peers[c]) - 1) next[warp][digit] += __popc(peers[c]);
        __syncwarp();
    }
    __syncthreads();
    uint32_t before = p.counts[threadIdx.x * p.tiles + blockIdx.x]; // a thread has a digit
    for (int w = 0; w < SORT_THREADS / WARP; w++) {
        uint32_t count = next[w][threadIdx.x];
        next[w][threadIdx.x] = before;
        before += count;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        uint32_t digit = (id[c] >> p.shift) % DIGITS, to = next[warp][digit];
        bool there = first + c * WARP < p.n;
        __syncwarp();
        if (there) {
            uint32_t place = to + __popc(peers[c] & ((1u << lane) - 1));
            p.to.id[place] = id[c];
            p.to.row[place] = row[c];
            if (lane == __ffs(peers[c]) - 1) next[warp][digit] = to + __popc(peers[c]);
        }
        __syncwarp();
    }
}

int64_t tiles_of(int64_t n)
{
    return (n + TILE - 1) / TILE;
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
    int64_t n = tr_shape_elements(tr_input_shape(graph, node, 0));
    return (size_t)(4 * n + DIGITS * tiles_of(n)) * sizeof(uint32_t);
}

// Pairs by id; equal ids in order of their rows.
pairs sort(const uint32_t *ids, uint32_t *memory, int64_t n, int64_t vocabulary, cudaStream_t stream)
{
    pairs to = {memory, memory + n}, other = {memory + 2 * n, memory + 3 * n};
    sort_pass pass = {ids, NULL, to, memory + 4 * n, n, tiles_of(n), 0};
    for (;;) {
        count_kernel<<<(unsigned)pass.tiles, SORT_THREADS, 0, stream>>>(pass);
        scan_kernel<<<1, SCAN_THREADS, 0, stream>>>(pass.counts, DIGITS * pass.tiles);
        place_kernel<<<(unsigned)pass.tiles, SORT_THREADS, 0, stream>>>(pass);
        pass.shift += DIGIT_BITS;
        if ((vocabulary - 1) >> pass.shift == 0) return pass.to;
        pass.id = pass.to.id;
        pass.row = pass.to.row;
        pass.to = other;
        other = {const_cast<uint32_t *>(pass.id), const_cast<uint32_t *>(pass.row)};
    }
}

template <typename T> void launch_dtable(const tr_call *call)
{
    int64_t n = tr_shape_elements(input_shape(call, 0)), channels = tr_shape_last(input_shape(call, 1));
    int64_t vocabulary = ((const dtable_attributes *)tr_node_attributes(call->node))->vocabulary;
    cudaStream_t stream = tr_cuda_stream(call);
    pairs sorted =
        sort((const uint32_t *)call->inputs[0], (uint32_t *)call->workspace, n, vocabulary, stream);
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
