// ops/cuda/attention_mma.cu - attention in bfloat16 on tensor cores, for head sizes 64 and 128.
// A warp owns 16 rows: of queries in the forward and for dq, of keys for dk and dv. Its block walks over tiles of the
// other side, which are fetched one ahead into shared memory; scores never leave registers. Products take bfloat16 and
// sum in float32; probabilities are rounded to bfloat16 for the products they enter, as everywhere.
// The backward makes the scores twice, once for each owner, so that no sum needs an atomic and all have one order.
// Letters of the instruction m16n8k16: a lane has rows g and g + 8 of sixteen, and columns 2t, 2t + 1 of eight.
// Sources: Dao, 2023 (how work is cut); NVIDIA's PTX manual for the layouts.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/attention.cuh"

#include <math.h>

namespace troupe {
namespace {

typedef uint32_t fragment[4]; // 16 x 16 of the left operand

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

__device__ inline void multiply_add(float (&c)[4], const fragment &a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

// Four 8 x 8 matrices; lanes 8i to 8i+7 say where the rows of the i-th stand.
__device__ inline void load_matrices(uint32_t (&r)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

__device__ inline void load_matrices_turned(uint32_t (&r)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
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

// All but the last group are there.
template <int GROUPS> __device__ inline void await_fetches()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS));
}

__device__ inline uint32_t rounded(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

// Rows of a tile are padded by 16 bytes: eight of them then lie in different banks.
template <int D> constexpr int STRIDE = D + 8;

// Rows first .. first+N-1, zeros from `end` on.
template <int D, int N, int THREADS>
__device__ inline void fetch_tile(bf16 *to, const bf16 *from, int64_t stride, int64_t first, int64_t end)
{
#pragma unroll
    for (int i = threadIdx.x; i < N * D / 8; i += THREADS) {
        int row = i / (D / 8), column = i % (D / 8) * 8;
        bool there = first + row < end;
        fetch(to + row * STRIDE<D> + column, from + (there ? first + row : 0) * stride + column, there);
    }
}

// A warp's sixteen rows as left operands, straight from memory.
template <int D>
__device__ inline void load_rows(fragment (&a)[D / 16], const bf16 *from, int64_t stride, int64_t first,
                                 int64_t end)
{
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row = first + g + 8 * half;
        const bf16 *x = from + (row < end ? row : 0) * stride + 2 * t;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            a[k][half] = row < end ? *reinterpret_cast<const uint32_t *>(x + 16 * k) : 0;
            a[k][2 + half] = row < end ? *reinterpret_cast<const uint32_t *>(x + 16 * k + 8) : 0;
        }
    }
}

// c (16,N) = a (16,D) times the tile's rows (N,D), turned.
template <int D, int N>
__device__ inline void times_rows(float (&c)[N / 8][4], const fragment (&a)[D / 16], const bf16 *tile)
{
    int lane = threadIdx.x % WARP;
    const bf16 *at = tile + lane % 8 * STRIDE<D> + lane / 8 * 8;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0;
#pragma unroll
        for (int k = 0; k < D / 32; k++) {
            uint32_t b[4];
            load_matrices(b, at + j * 8 * STRIDE<D> + k * 32);
            multiply_add(c[j], a[2 * k], b[0], b[1]);
            multiply_add(c[j], a[2 * k + 1], b[2], b[3]);
        }
    }
}

// c (16,D) += w (16,N), rounded, times the tile (N,D).
template <int D, int N>
__device__ inline void times_tile(float (&c)[D / 8][4], const float (&w)[N / 8][4], const bf16 *tile)
{
    int lane = threadIdx.x % WARP;
    const bf16 *at = tile + lane % 16 * STRIDE<D> + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        fragment a = {rounded(w[2 * k][0], w[2 * k][1]), rounded(w[2 * k][2], w[2 * k][3]),
                      rounded(w[2 * k + 1][0], w[2 * k + 1][1]), rounded(w[2 * k + 1][2], w[2 * k + 1][3])};
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            uint32_t b[4];
            load_matrices_turned(b, at + k * 16 * STRIDE<D> + j * 16);
            multiply_add(c[2 * j], a, b[0], b[1]);
            multiply_add(c[2 * j + 1], a, b[2], b[3]);
        }
    }
}

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

template <int D, int WARPS, int N> struct layout {
    static constexpr int THREADS = WARPS * WARP, ROWS = WARPS * 16;
    static constexpr size_t TILE = (size_t)N * STRIDE<D>;           // elements
    static constexpr size_t SHARED_BYTES = 4 * TILE * sizeof(bf16); // two tiles, twice
};

template <int D, int WARPS, int N>
__global__ void __launch_bounds__(WARPS *WARP) forward_kernel(attention_arguments a)
{
    typedef layout<D, WARPS, N> L;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *tiles = (bf16 *)shared;
    int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    const bf16 *keys = (const bf16 *)a.k + p.kv_at, *values = (const bf16 *)a.v + p.kv_at;
    int64_t begin = (int64_t)(gridDim.x - 1 - blockIdx.x) * L::ROWS,
            mine = begin + warp * 16; // longest first
    int64_t last = begin + L::ROWS < a.time ? begin + L::ROWS : a.time;
    int n_tiles = (int)((last + N - 1) / N);
    fragment q[D / 16];
    load_rows<D>(q, (const bf16 *)a.q + p.q_at, p.q_stride, mine, a.time);
    float y[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, scale = a.scale * LOG2_E;
    fetch_tile<D, N, L::THREADS>(tiles, keys, p.kv_stride, 0, a.time);
    fetch_tile<D, N, L::THREADS>(tiles + L::TILE, values, p.kv_stride, 0, a.time);
    fetches_end();
    for (int n = 0; n < n_tiles; n++) {
        const bf16 *here = tiles + n % 2 * 2 * L::TILE;
        bf16 *next = tiles + (n + 1) % 2 * 2 * L::TILE;
        if (n + 1 < n_tiles) {
            fetch_tile<D, N, L::THREADS>(next, keys, p.kv_stride, (int64_t)(n + 1) * N, a.time);
            fetch_tile<D, N, L::THREADS>(next + L::TILE, values, p.kv_stride, (int64_t)(n + 1) * N, a.time);
        }
        fetches_end();
        await_fetches<1>();
        __syncthreads();
        int64_t first = (int64_t)n * N;
        if (first <= mine + 15) {
            float s[N / 8][4], now[2] = {most[0], most[1]};
            times_rows<D, N>(s, q, here);
            bool edge = first + N - 1 > mine;
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    s[j][i] *= scale;
                    if (edge && first + 8 * j + 2 * t + i % 2 > mine + g + i / 2 * 8) s[j][i] = -INFINITY;
                    now[i / 2] = fmaxf(now[i / 2], s[j][i]);
                }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                now[half] = row_max(now[half]); // key 0 is in the first tile: finite
                float keep = exp2f(most[half] - now[half]);
                most[half] = now[half];
                sum[half] *= keep;
#pragma unroll
                for (int j = 0; j < D / 8; j++) y[j][2 * half] *= keep, y[j][2 * half + 1] *= keep;
            }
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    s[j][i] = exp2f(s[j][i] - most[i / 2]);
                    sum[i / 2] += s[j][i];
                }
            times_tile<D, N>(y, s, here + L::TILE);
        }
        __syncthreads();
    }
    sum[0] = row_sum(sum[0]);
    sum[1] = row_sum(sum[1]);
    for (int half = 0; half < 2; half++)
        if (a.lse && t == 0 && mine + g + 8 * half < a.time)
            a.lse[p.row_at + mine + g + 8 * half] = (most[half] + log2f(sum[half])) * LN_2;
    write_rows<D>((bf16 *)a.out + p.q_at, p.q_stride, mine, a.time, y, 1.0f / sum[0], 1.0f / sum[1]);
}

// dq = scale * sum over keys of p * (dy . v - delta) * k
template <int D, int WARPS, int N>
__global__ void __launch_bounds__(WARPS *WARP) dq_kernel(attention_arguments a)
{
    typedef layout<D, WARPS, N> L;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *tiles = (bf16 *)shared;
    int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    const bf16 *keys = (const bf16 *)a.k + p.kv_at, *values = (const bf16 *)a.v + p.kv_at;
    int64_t begin = (int64_t)(gridDim.x - 1 - blockIdx.x) * L::ROWS, mine = begin + warp * 16;
    int64_t last = begin + L::ROWS < a.time ? begin + L::ROWS : a.time;
    int n_tiles = (int)((last + N - 1) / N);
    fragment q[D / 16], dy[D / 16];
    load_rows<D>(q, (const bf16 *)a.q + p.q_at, p.q_stride, mine, a.time);
    load_rows<D>(dy, (const bf16 *)a.dy + p.q_at, p.q_stride, mine, a.time);
    float dq[D / 8][4] = {}, lse[2], delta[2], scale = a.scale * LOG2_E;
    for (int half = 0; half < 2; half++) {
        int64_t row = mine + g + 8 * half;
        lse[half] = row < a.time ? a.lse[p.row_at + row] * LOG2_E : 0;
        delta[half] = row < a.time ? a.delta[p.row_at + row] : 0;
    }
    fetch_tile<D, N, L::THREADS>(tiles, keys, p.kv_stride, 0, a.time);
    fetch_tile<D, N, L::THREADS>(tiles + L::TILE, values, p.kv_stride, 0, a.time);
    fetches_end();
    for (int n = 0; n < n_tiles; n++) {
        const bf16 *here = tiles + n % 2 * 2 * L::TILE;
        bf16 *next = tiles + (n + 1) % 2 * 2 * L::TILE;
        if (n + 1 < n_tiles) {
            fetch_tile<D, N, L::THREADS>(next, keys, p.kv_stride, (int64_t)(n + 1) * N, a.time);
            fetch_tile<D, N, L::THREADS>(next + L::TILE, values, p.kv_stride, (int64_t)(n + 1) * N, a.time);
        }
        fetches_end();
        await_fetches<1>();
        __syncthreads();
        int64_t first = (int64_t)n * N;
        if (first <= mine + 15) {
            float s[N / 8][4], dp[N / 8][4];
            times_rows<D, N>(s, q, here);
            times_rows<D, N>(dp, dy, here + L::TILE);
            bool edge = first + N - 1 > mine;
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    bool hidden = edge && first + 8 * j + 2 * t + i % 2 > mine + g + i / 2 * 8;
                    s[j][i] = hidden ? 0.0f : exp2f(s[j][i] * scale - lse[i / 2]) * (dp[j][i] - delta[i / 2]);
                }
            times_tile<D, N>(dq, s, here);
        }
        __syncthreads();
    }
    write_rows<D>((bf16 *)a.out + p.q_at, p.q_stride, mine, a.time, dq, a.scale, a.scale);
}

// dv = sum over queries of p * dy, dk = scale * sum of p * (dy . v - delta) * q, over a group's heads in order.
template <int D, int WARPS, int N>
__global__ void __launch_bounds__(WARPS *WARP) dkv_kernel(attention_arguments a)
{
    typedef layout<D, WARPS, N> L;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *tiles = (bf16 *)shared;
    float *rows = (float *)(shared + L::SHARED_BYTES); // lse and delta of the tile's queries, twice
    int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4,
        group = a.heads / a.kv_heads;
    int64_t begin = (int64_t)blockIdx.x * L::ROWS, mine = begin + warp * 16, from = begin / N * N;
    head_place p = place_of(a, blockIdx.z, blockIdx.y * group);
    fragment k[D / 16], v[D / 16];
    load_rows<D>(k, (const bf16 *)a.k + p.kv_at, p.kv_stride, mine, a.time);
    load_rows<D>(v, (const bf16 *)a.v + p.kv_at, p.kv_stride, mine, a.time);
    float dk[D / 8][4] = {}, dv[D / 8][4] = {}, scale = a.scale * LOG2_E;
    int each = (int)((a.time - from + N - 1) / N), n_tiles = each * group;
    auto fetch_queries = [&](int n) {
        head_place of = place_of(a, blockIdx.z, blockIdx.y * group + n / each);
        int64_t first = from + (int64_t)(n % each) * N;
        bf16 *to = tiles + n % 2 * 2 * L::TILE;
        fetch_tile<D, N, L::THREADS>(to, (const bf16 *)a.q + of.q_at, of.q_stride, first, a.time);
        fetch_tile<D, N, L::THREADS>(to + L::TILE, (const bf16 *)a.dy + of.q_at, of.q_stride, first, a.time);
        for (int i = threadIdx.x; i < N; i += L::THREADS) {
            bool there = first + i < a.time;
            rows[n % 2 * 2 * N + i] = there ? a.lse[of.row_at + first + i] * LOG2_E : 0;
            rows[n % 2 * 2 * N + N + i] = there ? a.delta[of.row_at + first + i] : 0;
        }
    };
    fetch_queries(0);
    fetches_end();
    for (int n = 0; n < n_tiles; n++) {
        const bf16 *here = tiles + n % 2 * 2 * L::TILE;
        const float *lse = rows + n % 2 * 2 * N, *delta = lse + N;
        if (n + 1 < n_tiles) fetch_queries(n + 1);
        fetches_end();
        await_fetches<1>();
        __syncthreads();
        int64_t first = from + (int64_t)(n % each) * N;
        if (first + N - 1 >= mine) {
            float s[N / 8][4], dp[N / 8][4];
            times_rows<D, N>(s, k, here);
            bool edge = first < mine + 15 || first + N > a.time;
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = 8 * j + 2 * t + i % 2;
                    int64_t query = first + column;
                    bool hidden = edge && (query < mine + g + i / 2 * 8 || query >= a.time);
                    s[j][i] = hidden ? 0.0f : exp2f(s[j][i] * scale - lse[column]);
                }
            times_tile<D, N>(dv, s, here + L::TILE);
            times_rows<D, N>(dp, v, here + L::TILE);
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[j][i] *= dp[j][i] - delta[8 * j + 2 * t + i % 2];
            times_tile<D, N>(dk, s, here);
        }
        __syncthreads();
    }
    write_rows<D>((bf16 *)a.dk + p.kv_at, p.kv_stride, mine, a.time, dk, a.scale, a.scale);
    write_rows<D>((bf16 *)a.dv + p.kv_at, p.kv_stride, mine, a.time, dv, 1.0f, 1.0f);
}

typedef void (*kernel)(attention_arguments);

void launch(kernel run, const attention_arguments &a, int threads, int rows, int heads, size_t shared_bytes,
            cudaStream_t stream)
{
    if (cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes) !=
        cudaSuccess)
        return; // the caller looks at the last error
    run<<<dim3(blocks_for(a.time, rows), (unsigned)heads, (unsigned)a.batch), threads, shared_bytes,
          stream>>>(a);
}

template <int D, int WARPS, int N> void launch_forward(const attention_arguments &a, cudaStream_t stream)
{
    typedef layout<D, WARPS, N> L;
    launch(forward_kernel<D, WARPS, N>, a, L::THREADS, L::ROWS, a.heads, L::SHARED_BYTES, stream);
}

template <int D, int WARPS, int N> void launch_backward(const attention_arguments &a, cudaStream_t stream)
{
    typedef layout<D, WARPS, N> L;
    launch(dq_kernel<D, WARPS, N>, a, L::THREADS, L::ROWS, a.heads, L::SHARED_BYTES, stream);
    launch(dkv_kernel<D, WARPS, N>, a, L::THREADS, L::ROWS, a.kv_heads,
           L::SHARED_BYTES + 4 * N * sizeof(float), stream);
}

} // namespace

bool attention_on_tensor_cores(const attention_arguments &a, cudaStream_t stream)
{
    if (a.position || (a.head_size != 64 && a.head_size != 128)) return false;
    if (a.head_size == 64)
        launch_forward<64, 8, 64>(a, stream);
    else
        launch_forward<128, 8, 64>(a, stream);
    return true;
}

bool attention_backward_on_tensor_cores(const attention_arguments &a, cudaStream_t stream)
{
    if (a.head_size != 64 && a.head_size != 128) return false;
    if (a.head_size == 64)
        launch_backward<64, 4, 64>(a, stream);
    else
        launch_backward<128, 4, 32>(a, stream);
    return true;
}

} // namespace troupe
