// ops/cuda/tma.cuh - Hopper's copy engine: a tile of an array in device memory comes into shared memory by one thread's word,
// in the swizzled panels that the products of warpgroups take (wgmma.cuh), and a barrier in shared memory says when it is
// there. Rows behind the array's end come as zeros.
// Source: NVIDIA's PTX manual.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_TMA_CUH
#define TROUPE_OPS_CUDA_TMA_CUH

#include "ops/cuda/wgmma.cuh"

#include <cuda.h>

namespace troupe {

// (batch, rows, columns) bfloat16, rows `stride` elements apart, sequences rows * stride: fetched by panels of 64 rows and
// 64 columns. The base and the stride must be multiples of 16 bytes. False where the driver has no such thing.
inline bool describe_rows(CUtensorMap *map, const void *base, int64_t columns, int64_t rows, int64_t batch,
                          int64_t stride)
{
    typedef decltype(&cuTensorMapEncodeTiled) encoder;
    static const encoder encode = [] {
        void *found = NULL;
        cudaDriverEntryPointQueryResult result;
        cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                            cudaEnableDefault, &result);
        return code == cudaSuccess && result == cudaDriverEntryPointSuccess ? (encoder)found : NULL;
    }();
    if (!encode) return false;
    cuuint64_t sizes[3] = {(cuuint64_t)columns, (cuuint64_t)rows, (cuuint64_t)batch};
    cuuint64_t strides[2] = {(cuuint64_t)stride * sizeof(bf16), (cuuint64_t)(rows * stride) * sizeof(bf16)};
    cuuint32_t box[3] = {PANEL, GROUP_ROWS, 1}, steps[3] = {1, 1, 1};
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(base), sizes, strides, box,
                  steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#if TR_WARPGROUPS

// A barrier that one thread arrives at, with the bytes that are to come.
__device__ inline void barrier_init(uint64_t *barrier)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n" ::"r"(shared_address(barrier)) : "memory");
}

// What was initialised is seen by the copy engine after the next barrier of the block.
__device__ inline void barriers_ready()
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

__device__ inline void barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Until the round of that parity is complete.
__device__ inline void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}\n" ::"r"(
                     shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// ROWS rows of D columns from `column`, `row` of sequence `batch` on, into panels of ROWS rows.
template <int D, int ROWS>
__device__ inline void fetch_tile(bf16 *tile, const CUtensorMap *from, int column, int row, int batch,
                                  uint64_t *barrier)
{
#pragma unroll
    for (int panel = 0; panel < D / PANEL; panel++)
#pragma unroll
        for (int first = 0; first < ROWS; first += GROUP_ROWS)
            asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                         "[%0], [%1, {%3, %4, %5}], [%2];\n" ::"r"(
                             shared_address(tile + (panel * ROWS + first) * PANEL)),
                         "l"(from), "r"(shared_address(barrier)), "r"(column + panel * PANEL),
                         "r"(row + first), "r"(batch)
                         : "memory");
}

// Plain bytes, a multiple of 16 at a multiple of 16.
__device__ inline void fetch_bytes(void *to, const void *from, uint32_t bytes, uint64_t *barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
            shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

#endif

} // namespace troupe

#endif
