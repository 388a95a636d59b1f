// ops/cuda/mma.cuh - what kernels on tensor cores share: fetches into shared memory, rounding of pairs, agreement of
// the four lanes that hold a row. Letters of the products' results: a lane has rows g and g + 8 of sixteen, and columns
// 2t, 2t + 1 of each eight; a warp's sixteen rows of them are also the left operand of a product that sums over columns.
// Source: NVIDIA's PTX manual.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_MMA_CUH
#define TROUPE_OPS_CUDA_MMA_CUH

#include "ops/cuda/elements.cuh"

namespace troupe {

typedef uint32_t fragment[4]; // 16 x 16 of the left operand

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

__device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

// 16 bytes, or zeros.
__device__ inline void fetch(bf16 *to, const bf16 *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from),
                 "r"(there ? 16 : 0));
}

__device__ inline void fetches_end()
{
    asm volatile("cp.async.commit_group;\n");
}

// All but the last groups are there.
template <int GROUPS> __device__ inline void await_fetches()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS) : "memory");
}

__device__ inline uint32_t rounded(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

// Over the four lanes that share a row.
__device__ inline float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ inline float row_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// 2^x within 2 ulp, one instruction; 0 for results below the smallest normal number.
__device__ inline float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// A warp's sixteen rows of D columns, as float results of a product.
template <int D>
__device__ inline void write_rows(bf16 *to, int64_t stride, int64_t first, int64_t end,
                                  const float (&c)[D / 8][4], float scale0, float scale1)
{
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row = first + g + 8 * half;
        float scale = half ? scale1 : scale0;
        if (row >= end) continue;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            *reinterpret_cast<uint32_t *>(to + row * stride + 8 * j + 2 * t) =
                rounded(c[j][2 * half] * scale, c[j][2 * half + 1] * scale);
    }
}

} // namespace troupe

#endif
