// ops/cuda/fp8.cu - from bfloat16 to FP8: the largest magnitude, then codes, and the same turned, in one more pass over memory.
// A maximum has no order, so it may be taken by atomics: every run has the same bits.
// A block turns a tile of 128 x 128: a thread has 4 rows of 8 columns, whose codes it turns within registers, and words of four
// rows meet in shared memory, in rows of 33 words, so that neither writing nor reading columns meets a bank twice.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"
#include "ops/fp8_linear.h"

#include <cuda_fp8.h>

namespace troupe {
namespace {

enum { THREADS = 256, WARPS = THREADS / WARP, TILE = 128, WORDS = TILE / 4 + 1, MOST_BLOCKS = 1056 };

// *most, which is 0 before: the largest magnitude, as bits of a bfloat16, which are ordered as it is, NaN last.
__global__ void __launch_bounds__(THREADS) most_kernel(const uint4 *x, int64_t n, unsigned *most)
{
    __shared__ unsigned shared;
    if (threadIdx.x == 0) shared = 0;
    __syncthreads();
    unsigned pair = 0;
    int64_t step = (int64_t)gridDim.x * THREADS;
#pragma unroll 4
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
        uint4 v = x[i];
        unsigned a = __vmaxu2(v.x & 0x7fff7fffu, v.y & 0x7fff7fffu);
        unsigned b = __vmaxu2(v.z & 0x7fff7fffu, v.w & 0x7fff7fffu);
        pair = __vmaxu2(pair, __vmaxu2(a, b));
    }
    unsigned own = max(pair & 0xffffu, pair >> 16);
    own = __reduce_max_sync(0xffffffffu, own);
    if (threadIdx.x % WARP == 0) atomicMax(&shared, own);
    __syncthreads();
    if (threadIdx.x == 0) atomicMax(most, shared);
}

// As tr_fp8_scale.
template <__nv_fp8_interpretation_t F>
__device__ inline void scale_of(unsigned most, float *scale, float *inverse)
{
    constexpr int TOP = F == __NV_E4M3 ? 8 : 15;
    unsigned bits = most << 16;
    *scale = 1;
    *inverse = bits >= 0x7f800000u ? __int_as_float(0x7fc00000) : 1;
    if (bits == 0 || bits >= 0x7f800000u) return;
    int exponent = TOP - ((int)(bits >> 23) - 127) - ((bits & 0x7fffffu) > 0x600000u);
    exponent = min(exponent, 126);
    *scale = __int_as_float((exponent + 127) << 23);
    *inverse = __int_as_float((127 - exponent) << 23);
}

// Eight codes of a row: four in each word.
template <__nv_fp8_interpretation_t F>
__device__ inline void code_row(const bf16 *from, float scale, unsigned &low, unsigned &high)
{
    float x[8];
    load<8>(from, x);
    unsigned pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        pairs[i] =
            __nv_cvt_float2_to_fp8x2(make_float2(x[2 * i] * scale, x[2 * i + 1] * scale), __NV_SATFINITE, F);
    low = pairs[0] | pairs[1] << 16;
    high = pairs[2] | pairs[3] << 16;
}

// Four words of a row each become four of a column each.
__device__ inline void turn(unsigned (&w)[4])
{
    unsigned a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140);
    unsigned c = __byte_perm(w[0], w[1], 0x7362), d = __byte_perm(w[2], w[3], 0x7362);
    w[0] = __byte_perm(a, b, 0x5410);
    w[1] = __byte_perm(a, b, 0x7632);
    w[2] = __byte_perm(c, d, 0x5410);
    w[3] = __byte_perm(c, d, 0x7632);
}

// codes (rows,columns), turned (columns,rows): either may be NULL. rows and columns are multiples of 16.
template <__nv_fp8_interpretation_t F>
__global__ void __launch_bounds__(THREADS)
    code_kernel(const bf16 *x, int64_t rows, int64_t columns, const unsigned *most, uint8_t *codes,
                uint8_t *turned, float *inverse)
{
    __shared__ unsigned shared[TILE * WORDS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // From the end: what was looked at last is still in the cache.
    int64_t row0 = (int64_t)(gridDim.y - 1 - blockIdx.y) * TILE, column0 = (int64_t)blockIdx.x * TILE;
    float scale, back;
    scale_of<F>(*most, &scale, &back);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *inverse = back;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int part = warp * 2 + i; // 8 groups of four rows by 4 of eight columns
        int group = part % 4 * 8 + lane % 8, column = (part / 4 * 4 + lane / 8) * 8;
        int64_t row = row0 + group * 4, at = row * columns + column0 + column;
        if (row >= rows || column0 + column >= columns) continue;
        unsigned low[4], high[4];
#pragma unroll
        for (int r = 0; r < 4; r++) code_row<F>(x + at + r * columns, scale, low[r], high[r]);
        if (codes)
#pragma unroll
            for (int r = 0; r < 4; r++)
                *reinterpret_cast<uint2 *>(codes + at + r * columns) = make_uint2(low[r], high[r]);
        turn(low);
        turn(high);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            shared[(column + j) * WORDS + group] = low[j];
            shared[(column + 4 + j) * WORDS + group] = high[j];
        }
    }
    if (!turned) return;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int column = i * 32 + warp * 4 + lane / 8, group = lane % 8 * 4;
        int64_t row = row0 + group * 4;
        if (row >= rows || column0 + column >= columns) continue;
        const unsigned *from = shared + column * WORDS + group;
        *reinterpret_cast<uint4 *>(turned + (column0 + column) * rows + row) =
            make_uint4(from[0], from[1], from[2], from[3]);
    }
}

size_t workspace(const tr_graph *graph, const tr_node *node)
{
    (void)graph, (void)node;
    return sizeof(unsigned);
}

template <__nv_fp8_interpretation_t F> void launch_codes(const tr_call *call, int64_t rows, int64_t columns)
{
    dim3 tiles(blocks_for(columns, TILE), blocks_for(rows, TILE));
    code_kernel<F><<<tiles, THREADS, 0, tr_cuda_stream(call)>>>(
        (const bf16 *)call->inputs[0], rows, columns, (const unsigned *)call->workspace,
        (uint8_t *)call->outputs[0], (uint8_t *)call->outputs[1], (float *)call->outputs[2]);
    tr_cuda_launched(call);
}

void run(const tr_call *call)
{
    const quantise_attributes *attributes = (const quantise_attributes *)tr_node_attributes(call->node);
    const tr_shape *x = input_shape(call, 0);
    cudaStream_t stream = tr_cuda_stream(call);
    int64_t packs = tr_shape_elements(x) / 8;
    unsigned blocks = min(blocks_for(packs, THREADS * 4), (unsigned)MOST_BLOCKS);
    cudaMemsetAsync(call->workspace, 0, sizeof(unsigned), stream);
    most_kernel<<<blocks, THREADS, 0, stream>>>((const uint4 *)call->inputs[0], packs,
                                                (unsigned *)call->workspace);
    tr_cuda_launched(call);
    if (attributes->format == TR_E4M3)
        launch_codes<__NV_E4M3>(call, tr_shape_rows(x), tr_shape_last(x));
    else
        launch_codes<__NV_E5M2>(call, tr_shape_rows(x), tr_shape_last(x));
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_fp8_kernels[] = {
    {"quantise", troupe::run, troupe::workspace},
    {},
};
