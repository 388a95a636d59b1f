// ops/cuda/wgmma.cuh - Hopper's products of warpgroups (four warps): operands in shared memory or registers, fetches into
// the form that they take. A tile is kept in panels of 64 columns: rows of 128 bytes, whose eight pieces of 16 bytes are
// permuted by the row (the swizzle that the products undo), so neither rows nor columns of pieces meet in a bank.
// Only code for this very generation has them: TR_WARPGROUPS.
// Source: NVIDIA's PTX manual.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_WGMMA_CUH
#define TROUPE_OPS_CUDA_WGMMA_CUH

#include "ops/cuda/mma.cuh"

namespace troupe {

enum { GROUP_THREADS = 128, GROUP_ROWS = 64, PANEL = 64 };

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TR_WARPGROUPS 1
#else
#define TR_WARPGROUPS 0
#endif

#if TR_WARPGROUPS

// Where an operand stands: its first 16 bytes, and how far apart its panels are. Eight rows are 1024 bytes.
__device__ inline uint64_t operand(const bf16 *at, int panel_bytes)
{
    return (uint64_t)((shared_address(at) & 0x3ffff) >> 4) | (uint64_t)(panel_bytes >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

// Results are not touched between a product and its wait; this tells the compiler so.
template <int N> __device__ inline void settle(float (&c)[N][4])
{
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(c[j][i])::"memory");
}

template <int N> __device__ inline void settle(fragment (&a)[N])
{
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[j][i])::"memory");
}

#define TR_FOUR(c, j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define TR_THIRTY_TWO(c, j)                                                                                  \
    TR_FOUR(c, j), TR_FOUR(c, (j) + 1), TR_FOUR(c, (j) + 2), TR_FOUR(c, (j) + 3), TR_FOUR(c, (j) + 4),       \
        TR_FOUR(c, (j) + 5), TR_FOUR(c, (j) + 6), TR_FOUR(c, (j) + 7)
#define TR_NAMES_32                                                                                          \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27," \
    "%28,%29,%30,%31"
#define TR_NAMES_64                                                                                          \
    TR_NAMES_32                                                                                              \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,"          \
    "%55,%56,%57,%58,%59,%60,%61,%62,%63"

// c (64,64) = or += a (64,16) b (16,64), both in shared memory with the summed dimension along rows of a panel.
__device__ inline void product(float (&c)[8][4], uint64_t a, uint64_t b, bool add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" TR_NAMES_32
                 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
                 : TR_THIRTY_TWO(c, 0)
                 : "l"(a), "l"(b), "r"((int)add));
}

// c (64,N) += a (64,16) in registers times b (16,N), whose rows are rows of panels.
__device__ inline void product_from_registers(float (&c)[8][4], const fragment &a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" TR_NAMES_32
                 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;\n"
                 : TR_THIRTY_TWO(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline void product_from_registers(float (&c)[16][4], const fragment &a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" TR_NAMES_64
                 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n"
                 : TR_THIRTY_TWO(c, 0), TR_THIRTY_TWO(c, 8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

__device__ inline void products_end()
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// All but the last so many groups are done.
template <int GROUPS> __device__ inline void await_products()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(GROUPS) : "memory");
}

// What this thread fetched or wrote is seen by products after the next barrier.
__device__ inline void show_to_products()
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// 16 bytes to a shared address; or zeros.
__device__ inline void fetch(uint32_t to, const bf16 *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from));
}

__device__ inline void fetch(uint32_t to, const bf16 *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(there ? 16 : 0));
}

// 4 bytes likewise.
__device__ inline void fetch_number(uint32_t to, const float *from, bool there)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(there ? 4 : 0));
}

// A thread's share of copying N rows of D columns into panels: a piece of every so many rows, whose place in the tile is
// the same but for whole rows of eight.
template <int D, int N, int THREADS> struct copier {
    static constexpr int PIECES = D / 8, STEP = THREADS / PIECES, STEPS = (N + STEP - 1) / STEP;
    static_assert(THREADS % PIECES == 0 && STEP % 8 == 0,
                  "a thread's pieces keep their place in a row of eight");
    int row;
    uint32_t to;    // bytes from the tile's beginning
    int64_t offset; // elements from the tile's first row

    __device__ inline copier(int64_t stride)
    {
        int piece = threadIdx.x % PIECES;
        row = threadIdx.x / PIECES;
        to = (uint32_t)((piece / 8) * N * 128 + row * 128 + ((piece % 8) ^ (row % 8)) * 16);
        offset = row * stride + piece * 8;
    }

    // Rows first .. first+N-1; zeros from `end` on.
    __device__ inline void copy(bf16 *tile, const bf16 *from, int64_t stride, int first, int end) const
    {
        uint32_t at = shared_address(tile) + to;
        const bf16 *source = from + first * stride + offset;
        if (first + N <= end) {
#pragma unroll
            for (int i = 0; i < STEPS; i++)
                if (N % STEP == 0 || row + i * STEP < N)
                    fetch(at + i * STEP * 128, source + i * STEP * stride);
            return;
        }
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            bool there = first + row + i * STEP < end;
            if (N % STEP == 0 || row + i * STEP < N)
                fetch(at + i * STEP * 128, there ? source + i * STEP * stride : from, there);
        }
    }
};

// c (64,N) = left (64,D) right (N,D)', of panels so many bytes apart.
template <int D, int N>
__device__ inline void times_rows(float (&c)[N / 8][4], const bf16 *left, int left_bytes, const bf16 *right)
{
    uint64_t a = operand(left, left_bytes), b = operand(right, N * 128);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        int panel = k / 4, at = k % 4 * 2; // 16 columns are 32 bytes
        product(c, a + (uint64_t)(panel * (left_bytes >> 4) + at), b + (uint64_t)(panel * N * 8 + at), k > 0);
    }
}

// c (64,D) += w (64,N) right (N,D).
template <int D, int N>
__device__ inline void times_tile(float (&c)[D / 8][4], const fragment (&w)[N / 16], const bf16 *right)
{
    uint64_t b = operand(right, N * 128);
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product_from_registers(c, w[k], b + (uint64_t)(k * 128)); // 16 rows of 128 bytes
}

template <int N> __device__ inline void round_all(fragment (&to)[N / 16], const float (&c)[N / 8][4])
{
#pragma unroll
    for (int k = 0; k < N / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[k][i] = rounded(c[2 * k + i / 2][i % 2 * 2], c[2 * k + i / 2][i % 2 * 2 + 1]);
}

__device__ inline bf16 *aligned_shared(unsigned char *shared)
{
    return (bf16 *)(shared + (1024 - shared_address(shared) % 1024) % 1024);
}

#endif

} // namespace troupe

#endif
