// ops/cuda/columns.cuh - sums of columns over many rows, for gradients of biases and of norms' weights.
// Two launches: slabs of SLAB rows give a partial sum each, into the workspace; then the partial sums are added in
// order to what was there. Slabs depend on the number of rows alone, so the bits do too. Within a slab, eight warps
// take every eighth row and are added in their order.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_COLUMNS_CUH
#define TROUPE_OPS_CUDA_COLUMNS_CUH

#include "ops/cuda/elements.cuh"

namespace troupe {

enum { COLUMN_WARPS = 8 };

// At most 128 of them, of 64 rows at least.
static inline int64_t slab_rows(int64_t rows)
{
    int64_t each = (rows + 127) / 128;
    return each < 64 ? 64 : each;
}

static inline int64_t slab_count(int64_t rows)
{
    return (rows + slab_rows(rows) - 1) / slab_rows(rows);
}

static inline size_t sum_columns_workspace(int sums, int64_t rows, int64_t columns)
{
    return (size_t)(sums * slab_count(rows) * columns) * sizeof(float);
}

// partial (SUMS,slabs,columns)
template <int V, typename F>
__global__ void __launch_bounds__(COLUMN_WARPS *WARP)
    column_slabs_kernel(F terms, float *partial, int64_t rows, int64_t columns, int64_t each)
{
    __shared__ float shared[F::SUMS][COLUMN_WARPS][WARP * V];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t column = ((int64_t)blockIdx.x * WARP + lane) * V, slab = blockIdx.y;
    int64_t end = (slab + 1) * each < rows ? (slab + 1) * each : rows;
    float sums[F::SUMS][V] = {};
    if (column < columns)
#pragma unroll 4 // so many rows on their way at once
        for (int64_t row = slab * each + warp; row < end; row += COLUMN_WARPS)
            terms.template add<V>(row, column, sums);
#pragma unroll
    for (int s = 0; s < F::SUMS; s++)
#pragma unroll
        for (int j = 0; j < V; j++) shared[s][warp][lane * V + j] = sums[s][j];
    __syncthreads();
    for (int i = threadIdx.x; i < F::SUMS * WARP * V; i += COLUMN_WARPS * WARP) {
        int s = i / (WARP * V), c = i % (WARP * V);
        int64_t to = (int64_t)blockIdx.x * WARP * V + c;
        if (to >= columns) continue;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < COLUMN_WARPS; w++) sum += shared[s][w][c];
        partial[(s * (int64_t)gridDim.y + slab) * columns + to] = sum;
    }
}

struct column_outputs {
    float *to[2]; // NULL: not wanted
};

// to[s][c] += (or =) the sum of partial (SUMS,slabs,columns) over slabs: a lane a column, every warp every eighth slab.
static __global__ void __launch_bounds__(COLUMN_WARPS *WARP)
    column_totals_kernel(const float *partial, column_outputs outputs, int64_t slabs, int64_t columns,
                         bool begin)
{
    __shared__ float shared[COLUMN_WARPS][WARP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t column = (int64_t)blockIdx.x * WARP + lane;
    float *to = outputs.to[blockIdx.y], sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int64_t s = warp; s < slabs; s += COLUMN_WARPS)
            sum += partial[(blockIdx.y * slabs + s) * columns + column];
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= columns || !to) return;
    for (int w = 1; w < COLUMN_WARPS; w++) sum += shared[w][lane];
    to[column] = begin ? sum : to[column] + sum;
}

// outputs[s][c] += (or =, where the call overwrites) sum over rows of what `terms` adds to sum s of column c, F::WIDE
// columns at once; outputs that are NULL are left out.
template <typename F>
void sum_columns(const tr_call *call, const F &terms, float *const *outputs, int64_t rows, int64_t columns)
{
    int64_t slabs = slab_count(rows);
    float *partial = (float *)call->workspace;
    cudaStream_t stream = tr_cuda_stream(call);
    constexpr int WIDE = F::WIDE;
    if (columns % WIDE == 0)
        column_slabs_kernel<WIDE, F>
            <<<dim3(blocks_for(columns, WARP * WIDE), (unsigned)slabs), COLUMN_WARPS * WARP, 0, stream>>>(
                terms, partial, rows, columns, slab_rows(rows));
    else
        column_slabs_kernel<1, F>
            <<<dim3(blocks_for(columns, WARP), (unsigned)slabs), COLUMN_WARPS * WARP, 0, stream>>>(
                terms, partial, rows, columns, slab_rows(rows));
    column_outputs to = {{outputs[0], F::SUMS > 1 ? outputs[1] : NULL}};
    column_totals_kernel<<<dim3(blocks_for(columns, WARP), F::SUMS), COLUMN_WARPS * WARP, 0, stream>>>(
        partial, to, slabs, columns, call->overwrite);
    tr_cuda_launched(call);
}

} // namespace troupe

#endif
