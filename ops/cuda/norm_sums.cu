// ops/cuda/norm_sums.cu - a norm's input gradient and what its rows give to the weights' gradients, in one pass over
// dy and x. Layernorm's rows of 256 to 1024 columns are kept by 32 lanes: a block takes every S-th eight rows, a
// warp one of the eight, and sums of its warps are added in their order. Other rows of up to 4096 columns are a block's: a
// thread has eight columns, for good, of four rows at once. Sums of blocks are added by a second operation, in their order.
// The shape alone decides how many blocks there are, so the bits are the same in every run.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/mma.cuh"
#include "ops/cuda/norm_sums.cuh"
#include "ops/fused.h"

namespace troupe {
namespace {

enum { WARPS = 8, V = 8, LANES = WARP * V }; // columns that a warp reads at once
enum { ROWS = 4, MOST_THREADS = 512 };       // of a block that has whole rows

struct backward_rows {
    const bf16 *dy, *x, *pending; // pending: NULL where nothing is
    const float *w, *mean, *rstd;
    bf16 *dx;
    float *sums; // (S,2,C), or (S,1,C) without a mean
    int64_t rows;
};

// A lane's packs of three rows, dy, x and what is pending, as they are fetched: nobody else reads them, so nobody waits for
// anybody. Of a warp's row and the next.
template <int N> struct kept_rows {
    enum { DY, X, PENDING, ARRAYS };
    pack<V, bf16> at[2][ARRAYS][N][WARP];
};

// The sums over the block's warps, in their order, of what each lane has of N packs.
template <int N> __device__ inline void write_sums(float *shared, const float (&mine)[N][V], float *to)
{
    constexpr int C = N * LANES;
    __syncthreads();
#pragma unroll
    for (int p = 0; p < N; p++)
        store<V>(shared + threadIdx.x / WARP * C + p * LANES + threadIdx.x % WARP * V, mine[p]);
    __syncthreads();
    for (int c = threadIdx.x; c < C; c += WARPS * WARP) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < WARPS; i++) sum += shared[i * C + c];
        to[c] = sum;
    }
}

// BIAS: sums of dx as well, as it was rounded, which are the gradient of the bias of a layer that ends here.
template <int N, bool BIAS> __global__ void __launch_bounds__(WARPS *WARP, 2) backward_kernel(backward_rows r)
{
    constexpr int C = N * LANES, SUMS = BIAS ? 3 : 2;
    extern __shared__ __align__(16) unsigned char shared[];
    float *w = (float *)shared;
    kept_rows<N> &rows = ((kept_rows<N> *)(w + C))[threadIdx.x / WARP];
    typedef kept_rows<N> kept;
    int lane = threadIdx.x % WARP, turn = 0;
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, step = (int64_t)gridDim.x * WARPS;
    float dw[N][V] = {}, db[N][V] = {}, bias[N][V] = {};
    auto fetch_row = [&](int64_t from, int to) {
        int64_t at = from * C + lane * V;
#pragma unroll
        for (int p = 0; p < N && from < r.rows; p++) {
            fetch(rows.at[to][kept::DY][p][lane].at, r.dy + at + p * LANES, true);
            fetch(rows.at[to][kept::X][p][lane].at, r.x + at + p * LANES, true);
            if (r.pending) fetch(rows.at[to][kept::PENDING][p][lane].at, r.pending + at + p * LANES, true);
        }
        fetches_end();
    };
    fetch_row(row, 0);
    float mean = row < r.rows ? r.mean[row] : 0, rstd = row < r.rows ? r.rstd[row] : 0;
    for (int c = threadIdx.x; c < C; c += WARPS * WARP) w[c] = r.w[c];
    __syncthreads();
    for (; row < r.rows; row += step, turn = 1 - turn) {
        float sum = 0, sum_xhat = 0, next_mean = 0, next_rstd = 0;
        fetch_row(row + step, 1 - turn);
        if (row + step < r.rows) next_mean = r.mean[row + step], next_rstd = r.rstd[row + step];
        await_fetches<1>();
#pragma unroll
        for (int p = 0; p < N; p++) {
            float x[V], dy[V], scale[V];
            load<V>(rows.at[turn][kept::DY][p][lane].at, dy);
            load<V>(rows.at[turn][kept::X][p][lane].at, x);
            load<V>(w + p * LANES + lane * V, scale);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float xhat = (x[j] - mean) * rstd;
                dw[p][j] += dy[j] * xhat;
                db[p][j] += dy[j];
                sum += dy[j] * scale[j];
                sum_xhat += dy[j] * scale[j] * xhat;
            }
        }
        sum = warp_sum(sum) / (float)C;
        sum_xhat = warp_sum(sum_xhat) / (float)C;
        asm volatile("" ::: "memory"); // read again, rather than kept in registers that there are not
#pragma unroll
        for (int p = 0; p < N; p++) {
            float x[V], dy[V], scale[V], dx[V] = {};
            load<V>(rows.at[turn][kept::DY][p][lane].at, dy);
            load<V>(rows.at[turn][kept::X][p][lane].at, x);
            load<V>(w + p * LANES + lane * V, scale);
            if (r.pending) load<V>(rows.at[turn][kept::PENDING][p][lane].at, dx);
#pragma unroll
            for (int j = 0; j < V; j++) {
                dx[j] += rstd * (dy[j] * scale[j] - sum - (x[j] - mean) * rstd * sum_xhat);
                if (BIAS) bias[p][j] += (float)(bf16)dx[j];
            }
            store<V>(r.dx + row * C + p * LANES + lane * V, dx);
        }
        mean = next_mean;
        rstd = next_rstd;
    }
    await_fetches<0>();
    float *to = r.sums + (int64_t)blockIdx.x * SUMS * C, *all = w + C;
    write_sums<N>(all, dw, to);
    write_sums<N>(all, db, to + C);
    if (BIAS) write_sums<N>(all, bias, to + 2 * C);
}

// What dy gives to a bias by itself, with the order, and so the bits, of what a norm's backward gives.
template <int N> __global__ void __launch_bounds__(WARPS *WARP) bias_kernel(backward_rows r)
{
    constexpr int C = N * LANES;
    __shared__ __align__(16) float shared[WARPS * C];
    float bias[N][V] = {};
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, step = (int64_t)gridDim.x * WARPS;
#pragma unroll 4
    for (; row < r.rows; row += step) {
#pragma unroll
        for (int p = 0; p < N; p++) {
            float dy[V];
            load<V>(r.dy + row * C + p * LANES + threadIdx.x % WARP * V, dy);
#pragma unroll
            for (int j = 0; j < V; j++) bias[p][j] += dy[j];
        }
    }
    write_sums<N>(shared, bias, r.sums + (int64_t)blockIdx.x * C);
}

// As many threads as packs in a row.
template <bool CENTRED> __global__ void __launch_bounds__(MOST_THREADS) wide_kernel(backward_rows r)
{
    constexpr int SUMS = CENTRED ? 2 : 1;
    __shared__ float shared[2][MOST_THREADS / WARP][ROWS * SUMS]; // of one round and the next
    int columns = blockDim.x * V, c = threadIdx.x * V, round = 0;
    float w[V], dw[V] = {}, db[V] = {};
    load<V>(r.w + c, w);
    for (int64_t first = (int64_t)blockIdx.x * ROWS; first < r.rows;
         first += (int64_t)gridDim.x * ROWS, round = 1 - round) {
        pack<V, bf16> x[ROWS] = {}, dy[ROWS] = {}, pending[ROWS] = {};
        float mean[ROWS] = {}, rstd[ROWS] = {}, sums[ROWS * SUMS] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (first + i >= r.rows) continue;
            int64_t at = (first + i) * columns + c;
            x[i] = *reinterpret_cast<const pack<V, bf16> *>(r.x + at);
            dy[i] = *reinterpret_cast<const pack<V, bf16> *>(r.dy + at);
            if (r.pending) pending[i] = *reinterpret_cast<const pack<V, bf16> *>(r.pending + at);
            if (CENTRED) mean[i] = r.mean[first + i];
            rstd[i] = r.rstd[first + i];
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int j = 0; j < V; j++) {
                float g = (float)dy[i].at[j], xhat = ((float)x[i].at[j] - mean[i]) * rstd[i];
                dw[j] += g * xhat;
                if (CENTRED) db[j] += g;
                sums[i] += g * w[j] * xhat;
                if (CENTRED) sums[ROWS * (SUMS - 1) + i] += g * w[j];
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS * SUMS; i++) {
            sums[i] = warp_sum(sums[i]);
            if (threadIdx.x % WARP == 0) shared[round][threadIdx.x / WARP][i] = sums[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ROWS * SUMS; i++) {
            sums[i] = 0;
            for (int warp = 0; warp < blockDim.x / WARP; warp++) sums[i] += shared[round][warp][i];
            sums[i] /= (float)columns;
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float dx[V];
#pragma unroll
            for (int j = 0; j < V; j++) {
                float xhat = ((float)x[i].at[j] - mean[i]) * rstd[i],
                      shift = CENTRED ? sums[ROWS * (SUMS - 1) + i] : 0;
                dx[j] =
                    (float)pending[i].at[j] + rstd[i] * ((float)dy[i].at[j] * w[j] - shift - xhat * sums[i]);
            }
            if (first + i < r.rows) store<V>(r.dx + (first + i) * columns + c, dx);
        }
    }
    store<V>(r.sums + (int64_t)blockIdx.x * SUMS * columns + c, dw);
    if (CENTRED) store<V>(r.sums + ((int64_t)blockIdx.x * SUMS + 1) * columns + c, db);
}

template <int N> void launch_packs(const tr_call *call, bool bias, unsigned blocks, const backward_rows &r)
{
    void (*run)(backward_rows) = bias && N < 4 ? backward_kernel<N, (N < 4)> : backward_kernel<N, false>;
    size_t bytes = N * LANES * sizeof(float) + WARPS * sizeof(kept_rows<N>);
    static_assert(sizeof(kept_rows<N>) >= N * LANES * sizeof(float), "sums of warps fit where rows were");
    cudaError_t code = cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess) tr_cuda_note((tr_cuda_context *)call->device, code, call->node->op->name);
    run<<<blocks, WARPS * WARP, bytes, tr_cuda_stream(call)>>>(r);
}

// Rows of so many packs a lane; four leave no registers for a third sum (tr__has_norm_sums).
void launch_rows(const tr_call *call, int64_t packs, bool bias, unsigned blocks, const backward_rows &r)
{
    switch (packs) {
    case 1: launch_packs<1>(call, bias, blocks, r); break;
    case 2: launch_packs<2>(call, bias, blocks, r); break;
    case 3: launch_packs<3>(call, bias, blocks, r); break;
    default: launch_packs<4>(call, bias, blocks, r); break;
    }
}

template <bool CENTRED> void run_backward(const tr_call *call)
{
    const tr_shape *x = input_shape(call, 1);
    int64_t columns = tr_shape_last(x);
    void *const *in = call->inputs;
    backward_rows r = {};
    r.dy = (const bf16 *)in[0];
    r.x = (const bf16 *)in[1];
    r.w = (const float *)in[2];
    r.mean = CENTRED ? (const float *)in[3] : NULL;
    r.rstd = (const float *)in[CENTRED ? 4 : 3];
    r.pending = (const bf16 *)in[CENTRED ? 5 : 4];
    r.dx = (bf16 *)call->outputs[0];
    r.sums = (float *)call->outputs[1];
    r.rows = tr_shape_rows(x);
    unsigned blocks = (unsigned)output_shape(call, 1)->dims[0];
    cudaStream_t stream = tr_cuda_stream(call);
    if (!CENTRED || columns > 4 * LANES)
        wide_kernel<CENTRED><<<blocks, (unsigned)(columns / V), 0, stream>>>(r);
    else
        launch_rows(call, columns / LANES, output_shape(call, 1)->dims[1] == 3, blocks, r);
    tr_cuda_launched(call);
}

// to[which][c] += the sum over slabs (S,sums,C), from sum `first` on: a lane a column, every warp every eighth slab.
__global__ void __launch_bounds__(WARPS *WARP)
    totals_kernel(const float *slabs, float *one, float *other, int64_t n_slabs, int64_t sums, int64_t first,
                  int64_t columns, bool begin)
{
    __shared__ float shared[WARPS][WARP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t column = (int64_t)blockIdx.x * WARP + lane;
    float *to = blockIdx.y ? other : one, sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int64_t s = warp; s < n_slabs; s += WARPS)
            sum += slabs[(s * sums + first + blockIdx.y) * columns + column];
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || !to || column >= columns) return;
    for (int i = 1; i < WARPS; i++) sum += shared[i][lane];
    to[column] = begin ? sum : to[column] + sum;
}

void launch_totals(const tr_call *call, const float *slabs, const tr_shape *shape, int64_t first, int n)
{
    dim3 blocks(blocks_for(shape->dims[2], WARP), (unsigned)n);
    totals_kernel<<<blocks, WARPS * WARP, 0, tr_cuda_stream(call)>>>(
        slabs, (float *)call->outputs[0], n > 1 ? (float *)call->outputs[1] : NULL, shape->dims[0],
        shape->dims[1], first, shape->dims[2], call->overwrite);
    tr_cuda_launched(call);
}

void run_weight(const tr_call *call)
{
    launch_totals(call, (const float *)call->inputs[0], input_shape(call, 0), 0, call->node->n_outputs);
}

void run_bias(const tr_call *call)
{
    launch_totals(call, (const float *)call->inputs[0], input_shape(call, 0),
                  ((const linear_db_sums_attributes *)tr_node_attributes(call->node))->which, 1);
}

} // namespace

void sum_bias_as_norms(const tr_call *call)
{
    const tr_shape *dy = input_shape(call, 0);
    tr_shape shape = tr__norm_sums_shape(dy, 1);
    backward_rows r = {};
    r.dy = (const bf16 *)call->inputs[0];
    r.rows = tr_shape_rows(dy);
    r.sums = (float *)call->workspace;
    static void (*const kernels[])(backward_rows) = {bias_kernel<1>, bias_kernel<2>, bias_kernel<3>};
    kernels[tr_shape_last(dy) / LANES -
            1]<<<(unsigned)shape.dims[0], WARPS * WARP, 0, tr_cuda_stream(call)>>>(r);
    launch_totals(call, r.sums, &shape, 0, 1);
}

} // namespace troupe

extern "C" const tr_kernel tr__cuda_norm_sums_kernels[] = {
    {"layernorm_backward_sums", troupe::run_backward<true>},
    {"layernorm_backward_bias_sums", troupe::run_backward<true>},
    {"layernorm_weight_sums", troupe::run_weight, NULL, NULL, NULL, true},
    {"rmsnorm_backward_sums", troupe::run_backward<false>},
    {"rmsnorm_weight_sums", troupe::run_weight, NULL, NULL, NULL, true},
    {"linear_db_sums", troupe::run_bias, NULL, NULL, NULL, true},
    {},
};
