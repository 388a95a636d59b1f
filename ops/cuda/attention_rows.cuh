// ops/cuda/attention_rows.cuh - what attention's kernels on warpgroups do beside products: hiding scores, delta of a row, and
// the sums over rows of what they write, for the gradient of the bias behind it.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_ATTENTION_ROWS_CUH
#define TROUPE_OPS_CUDA_ATTENTION_ROWS_CUH

#include "ops/cuda/attention.cuh"
#include "ops/cuda/wgmma.cuh"

namespace troupe {

#if TR_WARPGROUPS

// Only tiles on the diagonal have hidden scores. Without this the compiler makes selections of the branch that hides them,
// and every tile pays for them, a quarter of a round's instructions.
__device__ inline void stay_a_branch()
{
    __syncwarp();
}

// What a warpgroup's 64 rows add up to, as they were written, into its slab: each thread's two rows, then the 32 pairs in
// their order. All threads of the block come here when nobody needs its shared memory any more.
template <int D>
__device__ inline void write_sums(float *shared, float *to, const float (&c)[D / 8][4], float scale,
                                  bool first, bool second)
{
    constexpr int WIDE = D + 8; // so that rows of lanes are apart in their banks
    int i = threadIdx.x % GROUP_THREADS, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    float *mine = shared + threadIdx.x / GROUP_THREADS * 32 * WIDE;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        float2 sum = {};
        for (int half = 0; half < 2; half++) {
            if (!(half ? second : first)) continue;
            sum.x += (float)(bf16)(c[j][2 * half] * scale);
            sum.y += (float)(bf16)(c[j][2 * half + 1] * scale);
        }
        *reinterpret_cast<float2 *>(mine + (i / WARP * 8 + g) * WIDE + 8 * j + 2 * t) = sum;
    }
    __syncthreads();
    for (int column = i; column < D && to; column += GROUP_THREADS) {
        float sum = 0;
#pragma unroll
        for (int r = 0; r < 32; r++) sum += mine[r * WIDE + column];
        to[column] = sum;
    }
}

// Where the sums of 64 rows from `mine` on go, of columns from `column` on; NULL where no row is.
__device__ inline float *slab_of(const attention_arguments &a, int mine, int column)
{
    int64_t each = (a.time + GROUP_ROWS - 1) / GROUP_ROWS, slab = blockIdx.z * each + mine / GROUP_ROWS;
    int64_t columns = (int64_t)(a.heads + 2 * a.kv_heads) * a.head_size;
    return mine < a.time ? a.sums + slab * columns + column : NULL;
}

// A quarter of the sum of y * dy over a row: that of lane t of the four that share it.
template <int D> __device__ inline float dot(const bf16 *y, const bf16 *dy)
{
    float sum = 0;
#pragma unroll
    for (int i = threadIdx.x % 4 * 8; i < D; i += 32) {
        float left[8], right[8];
        load<8>(y + i, left);
        load<8>(dy + i, right);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += left[j] * right[j];
    }
    return sum;
}

#endif

} // namespace troupe

#endif
