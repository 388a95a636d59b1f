// ops/cuda/norm_sums.cu - a norm's input gradient and what its rows give to the weights' gradients, in one pass over
// dy and x. Layernorm's rows of 256 to 1024 columns are kept by 32 lanes: a block takes every S-th eight rows, a
// warp one of the eight, and sums of its warps are added in their order. Other rows of up to 4096 columns are a block's: a
// thread has eight columns, for good, of four rows at once. Sums of blocks are added by a second operation, in their order.
// The shape alone decides how many blocks there are, so the bits are the same in every run.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"

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

// A lane's packs of a row.
template <int N> __device__ inline void load_row(const bf16 *row, float (&to)[N][V])
{
#pragma unroll
    for (int p = 0; p < N; p++) load<V>(row + p * LANES + threadIdx.x % WARP * V, to[p]);
}

template <int N> __global__ void __launch_bounds__(WARPS *WARP, 2) backward_kernel(backward_rows r)
{
    constexpr int C = N * LANES;
    __shared__ __align__(16) float shared[WARPS][C], w[C];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float dw[N][V] = {}, db[N][V] = {};
    for (int c = threadIdx.x; c < C; c += WARPS * WARP) w[c] = r.w[c];
    __syncthreads();
    for (int64_t row = (int64_t)blockIdx.x * WARPS + warp; row < r.rows; row += (int64_t)gridDim.x * WARPS) {
        float x[N][V], dy[N][V], sum = 0, sum_xhat = 0, mean = r.mean[row], rstd = r.rstd[row];
        load_row<N>(r.dy + row * C, dy);
        load_row<N>(r.x + row * C, x);
        pack<V, bf16> pending[N];
#pragma unroll
        for (int p = 0; p < N; p++)
            if (r.pending)
                pending[p] =
                    *reinterpret_cast<const pack<V, bf16> *>(r.pending + row * C + p * LANES + lane * V);
#pragma unroll
        for (int p = 0; p < N; p++) {
            float scale[V];
            load<V>(w + p * LANES + lane * V, scale);
#pragma unroll
            for (int j = 0; j < V; j++) {
                x[p][j] = (x[p][j] - mean) * rstd;
                dw[p][j] += dy[p][j] * x[p][j];
                db[p][j] += dy[p][j];
                dy[p][j] *= scale[j];
                sum += dy[p][j];
                sum_xhat += dy[p][j] * x[p][j];
            }
        }
        sum = warp_sum(sum) / (float)C;
        sum_xhat = warp_sum(sum_xhat) / (float)C;
#pragma unroll
        for (int p = 0; p < N; p++) {
            int64_t at = row * C + p * LANES + lane * V;
            float dx[V];
#pragma unroll
            for (int j = 0; j < V; j++) {
                float d = rstd * (dy[p][j] - sum - x[p][j] * sum_xhat);
                dx[j] = r.pending ? (float)pending[p].at[j] + d : d;
            }
            store<V>(r.dx + at, dx);
        }
    }
    for (int which = 0; which < 2; which++) {
        __syncthreads();
#pragma unroll
        for (int p = 0; p < N; p++) store<V>(&shared[warp][p * LANES + lane * V], which ? db[p] : dw[p]);
        __syncthreads();
        for (int c = threadIdx.x; c < C; c += WARPS * WARP) {
            float sum = 0;
#pragma unroll
            for (int i = 0; i < WARPS; i++) sum += shared[i][c];
            r.sums[((int64_t)blockIdx.x * 2 + which) * C + c] = sum;
        }
    }
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
    if (!CENTRED || columns > 4 * LANES) {
        wide_kernel<CENTRED><<<blocks, (unsigned)(columns / V), 0, stream>>>(r);
    } else {
        switch (columns / LANES) {
        case 1: backward_kernel<1><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
        case 2: backward_kernel<2><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
        case 3: backward_kernel<3><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
        default: backward_kernel<4><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
        }
    }
    tr_cuda_launched(call);
}

// to[which][c] += the sum over slabs: a lane a column, every warp every eighth slab.
__global__ void __launch_bounds__(WARPS *WARP)
    totals_kernel(const float *sums, float *dw, float *db, int64_t slabs, int64_t columns, bool begin)
{
    __shared__ float shared[WARPS][WARP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t column = (int64_t)blockIdx.x * WARP + lane;
    float *to = blockIdx.y ? db : dw, sum = 0;
#pragma unroll 8
    for (int64_t s = warp; s < slabs; s += WARPS)
        sum += sums[(s * gridDim.y + blockIdx.y) * columns + column];
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || !to) return;
    for (int i = 1; i < WARPS; i++) sum += shared[i][lane];
    to[column] = begin ? sum : to[column] + sum;
}

void run_weight(const tr_call *call)
{
    const tr_shape *sums = input_shape(call, 0); // columns are a multiple of 256
    dim3 blocks((unsigned)(sums->dims[2] / WARP), (unsigned)sums->dims[1]);
    totals_kernel<<<blocks, WARPS * WARP, 0, tr_cuda_stream(call)>>>(
        (const float *)call->inputs[0], (float *)call->outputs[0], (float *)call->outputs[1], sums->dims[0],
        sums->dims[2], call->overwrite);
    tr_cuda_launched(call);
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_norm_sums_kernels[] = {
    {"layernorm_backward_sums", troupe::run_backward<true>},
    {"layernorm_weight_sums", troupe::run_weight, NULL, NULL, NULL, true},
    {"rmsnorm_backward_sums", troupe::run_backward<false>},
    {"rmsnorm_weight_sums", troupe::run_weight, NULL, NULL, NULL, true},
    {},
};
