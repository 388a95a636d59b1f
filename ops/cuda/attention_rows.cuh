// ops/cuda/attention_rows.cuh - what attention's kernels on warpgroups share, and do beside products: how they are cut, hiding
// scores, delta of a row, and the sums over rows of what they write, for the gradient of the bias behind it.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_ATTENTION_ROWS_CUH
#define TROUPE_OPS_CUDA_ATTENTION_ROWS_CUH

#include "ops/cuda/attention.cuh"
#include "ops/cuda/tma.cuh"

namespace troupe {

// How a kernel is cut: so many warpgroups a block, tiles of N rows of the other side, so many blocks a multiprocessor.
template <int D_, int GROUPS_, int N_, int BLOCKS_, int STAGES_ = 4> struct cut {
    static constexpr int D = D_, GROUPS = GROUPS_, N = N_, BLOCKS = BLOCKS_, STAGES = STAGES_;
    static constexpr int THREADS = GROUPS * GROUP_THREADS, ROWS = GROUPS * GROUP_ROWS;
    static constexpr int TILE = N * D, OWN = ROWS * D; // elements
    static constexpr size_t shared_bytes(int own_tiles, size_t more)
    {
        return 1024 + (size_t)(own_tiles * OWN + STAGES * 2 * TILE) * sizeof(bf16) + STAGES * more;
    }
};

// Only code for this very generation has warpgroup products.
static inline bool has_warpgroups(const attention_arguments &a)
{
    int device = 0, major = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess)
        return false;
    return major == 9 && !a.position && a.scale > 0 && a.time < 1 << 30 &&
           (a.head_size == 64 || a.head_size == 128);
}

// What tiles come from.
struct row_maps {
    CUtensorMap q, k, v, dy;
};

static inline bool describe(row_maps *maps, const attention_arguments &a)
{
    int64_t width = (int64_t)a.heads * a.head_size, kv_width = (int64_t)a.kv_heads * a.head_size;
    return describe_rows(&maps->q, a.q, width, a.time, a.batch, a.q_stride) &&
           describe_rows(&maps->k, a.k, kv_width, a.time, a.batch, a.kv_stride) &&
           describe_rows(&maps->v, a.v, kv_width, a.time, a.batch, a.kv_stride) &&
           describe_rows(&maps->dy, a.dy, width, a.time, a.batch, width);
}

// A failure is left for the caller, who looks at the last error.
template <typename C, typename... More>
static void launch(void (*run)(attention_arguments, More...), const attention_arguments &a, int heads,
                   size_t bytes, cudaStream_t stream, const More &...more)
{
    if (cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes) != cudaSuccess)
        return;
    run<<<dim3(blocks_for(a.time, C::ROWS), (unsigned)heads, (unsigned)a.batch), C::THREADS, bytes, stream>>>(
        a, more...);
}

#if TR_WARPGROUPS

// Barriers of tiles, before anything is sent for.
template <int N> __device__ inline void begin_fetches(uint64_t (&barriers)[N])
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < N; i++) barrier_init(&barriers[i]);
        barriers_ready();
    }
    __syncthreads();
}

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
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // Halves of a pair are float32's upper halves; conversions one by one are slow.
            uint32_t pair = rounded(c[j][2 * half] * scale, c[j][2 * half + 1] * scale);
            if (!(half ? second : first)) pair = 0;
            sum.x += __uint_as_float(pair << 16);
            sum.y += __uint_as_float(pair & 0xffff0000u);
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
