// ops/cuda/accumulate.cu - a[i] += b[i] over flat gradients: the reduction between groups and replicas. Bytes are all it
// costs, so each thread has several loads of 16 bytes under way. Adding two numbers has one result: it has the CPU's bits.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/optimizer.h"

#include "base/memory.h"
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum { THREADS = 256, UNROLL = 4, TILE = THREADS * UNROLL };

__global__ void __launch_bounds__(THREADS) accumulate_kernel(float4 *a, const float4 *b, int64_t n)
{
    int64_t first = (int64_t)blockIdx.x * TILE + threadIdx.x;
    float4 x[UNROLL], y[UNROLL];
#pragma unroll
    for (int k = 0; k < UNROLL; k++) {
        int64_t i = first + k * THREADS;
        if (i < n) x[k] = a[i], y[k] = __ldcs(b + i);
    }
#pragma unroll
    for (int k = 0; k < UNROLL; k++) {
        int64_t i = first + k * THREADS;
        if (i < n) a[i] = make_float4(x[k].x + y[k].x, x[k].y + y[k].y, x[k].z + y[k].z, x[k].w + y[k].w);
    }
}

__global__ void __launch_bounds__(THREADS) accumulate_ones_kernel(float *a, const float *b, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) a[i] += b[i];
}

bool is_aligned(const void *memory)
{
    return (uintptr_t)memory % sizeof(float4) == 0;
}

} // namespace
} // namespace troupe

using namespace troupe;

tr_status tr_cuda_accumulate(tr_stream *stream, float *a, const float *b, int64_t n, tr_error *err)
{
    tr_status status = tr_device_use(tr_stream_device(stream), err);
    if (status != TR_OK || n == 0) return status;
    cudaStream_t native = (cudaStream_t)tr_stream_native(stream);
    int64_t whole = is_aligned(a) && is_aligned(b) ? n / 4 : 0, rest = n - 4 * whole;
    if (whole)
        accumulate_kernel<<<blocks_for(whole, TILE), THREADS, 0, native>>>((float4 *)a, (const float4 *)b,
                                                                           whole);
    if (rest)
        accumulate_ones_kernel<<<blocks_for(rest, THREADS), THREADS, 0, native>>>(a + 4 * whole,
                                                                                  b + 4 * whole, rest);
    cudaError_t code = cudaGetLastError();
    return code == cudaSuccess
               ? TR_OK
               : tr_fail(err, TR_EIO, "a sum of gradients on CUDA: %s", cudaGetErrorString(code));
}
