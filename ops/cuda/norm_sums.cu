// ops/cuda/norm_sums.cu - layernorm's input gradient and what its rows give to the weights' gradients, in one pass over
// dy and x: for rows of 256 to 1024 columns, which 32 lanes keep in registers. A block takes every S-th eight rows, a
// warp one of the eight; sums of its warps are added in their order and those of blocks by a second operation, in theirs.
// The number of rows alone decides how many blocks there are, so the bits are the same in every run.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum { WARPS = 8, V = 8, LANES = WARP * V }; // columns that a warp reads at once

struct backward_rows {
    const bf16 *dy, *x, *pending; // pending: NULL where nothing is
    const float *w, *mean, *rstd;
    bf16 *dx;
    float *sums; // (S,2,C)
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

void run_backward(const tr_call *call)
{
    const tr_shape *x = input_shape(call, 1);
    backward_rows r = {};
    r.dy = (const bf16 *)call->inputs[0];
    r.x = (const bf16 *)call->inputs[1];
    r.w = (const float *)call->inputs[2];
    r.mean = (const float *)call->inputs[3];
    r.rstd = (const float *)call->inputs[4];
    r.pending = (const bf16 *)call->inputs[5];
    r.dx = (bf16 *)call->outputs[0];
    r.sums = (float *)call->outputs[1];
    r.rows = tr_shape_rows(x);
    unsigned blocks = (unsigned)output_shape(call, 1)->dims[0];
    cudaStream_t stream = tr_cuda_stream(call);
    switch (tr_shape_last(x) / LANES) {
    case 1: backward_kernel<1><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
    case 2: backward_kernel<2><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
    case 3: backward_kernel<3><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
    default: backward_kernel<4><<<blocks, WARPS * WARP, 0, stream>>>(r); break;
    }
    tr_cuda_launched(call);
}

// to[which][c] += the sum over slabs: a lane a column, every warp every eighth slab.
__global__ void __launch_bounds__(WARPS *WARP)
    totals_kernel(const float *sums, float *dw, float *db, int64_t slabs, int64_t columns)
{
    __shared__ float shared[WARPS][WARP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t column = (int64_t)blockIdx.x * WARP + lane;
    float *to = blockIdx.y ? db : dw, sum = 0;
#pragma unroll 8
    for (int64_t s = warp; s < slabs; s += WARPS) sum += sums[(s * 2 + blockIdx.y) * columns + column];
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || !to) return;
    for (int i = 1; i < WARPS; i++) sum += shared[i][lane];
    to[column] += sum;
}

void run_weight(const tr_call *call)
{
    const tr_shape *sums = input_shape(call, 0); // columns are a multiple of 256
    totals_kernel<<<dim3((unsigned)(sums->dims[2] / WARP), 2), WARPS * WARP, 0, tr_cuda_stream(call)>>>(
        (const float *)call->inputs[0], (float *)call->outputs[0], (float *)call->outputs[1], sums->dims[0],
        sums->dims[2]);
    tr_cuda_launched(call);
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_norm_sums_kernels[] = {
    {"layernorm_backward_sums", troupe::run_backward},
    {"layernorm_weight_sums", troupe::run_weight},
    {},
};
