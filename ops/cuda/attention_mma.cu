// ops/cuda/attention_mma.cu - attention in bfloat16 on tensor cores, for head sizes 64 and 128.
// A warp owns 16 rows: of queries in the forward and for dq, of keys for dk and dv. Its block walks over tiles of the
// other side, which are fetched one ahead into shared memory; scores never leave registers. Products take bfloat16 and
// sum in float32; probabilities are rounded to bfloat16 for the products they enter, as everywhere.
// The backward makes the scores twice, once for each owner, so that no sum needs an atomic and all have one order.
// Letters of the instruction m16n8k16: a lane has rows g and g + 8 of sixteen, and columns 2t, 2t + 1 of eight.
// Sources: Dao, 2023 (how work is cut); NVIDIA's PTX manual for the layouts.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/attention.cuh"
#include "ops/cuda/mma.cuh"

#include <math.h>

namespace troupe {
namespace {

__device__ inline void multiply_add(float (&c)[4], const fragment &a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
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

// c (M,16,N) = a (M,16,D) times the tile's rows (N,D), turned.
template <int D, int N, int M>
__device__ inline void times_rows(float (&c)[M][N / 8][4], const fragment (&a)[M][D / 16], const bf16 *tile)
{
    int lane = threadIdx.x % WARP;
    const bf16 *at = tile + lane % 8 * STRIDE<D> + lane / 8 * 8;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int m = 0; m < M; m++) c[m][j][0] = c[m][j][1] = c[m][j][2] = c[m][j][3] = 0;
#pragma unroll
        for (int k = 0; k < D / 32; k++) {
            uint32_t b[4];
            load_matrices(b, at + j * 8 * STRIDE<D> + k * 32);
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(c[m][j], a[m][2 * k], b[0], b[1]);
                multiply_add(c[m][j], a[m][2 * k + 1], b[2], b[3]);
            }
        }
    }
}

// c (M,16,D) += w (M,16,N), rounded, times the tile (N,D).
template <int D, int N, int M>
__device__ inline void times_tile(float (&c)[M][D / 8][4], const float (&w)[M][N / 8][4], const bf16 *tile)
{
    int lane = threadIdx.x % WARP;
    const bf16 *at = tile + lane % 16 * STRIDE<D> + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        fragment a[M];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = rounded(w[m][2 * k + i / 2][i % 2 * 2], w[m][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            uint32_t b[4];
            load_matrices_turned(b, at + k * 16 * STRIDE<D> + j * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(c[m][2 * j], a[m], b[0], b[1]);
                multiply_add(c[m][2 * j + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// How a kernel is cut: M times 16 rows a warp, tiles of N rows of the other side, so many blocks a multiprocessor.
template <int D_, int WARPS_, int M_, int N_, int BLOCKS_> struct cut {
    static constexpr int D = D_, M = M_, N = N_, BLOCKS = BLOCKS_;
    static constexpr int THREADS = WARPS_ * WARP, WARP_ROWS = 16 * M, ROWS = WARPS_ * WARP_ROWS;
    static constexpr int TILE = N * STRIDE<D>;                      // elements
    static constexpr size_t SHARED_BYTES = 4 * TILE * sizeof(bf16); // two tiles, twice
};

// A pair of tiles, rows first .. of x and y.
template <typename C>
__device__ inline void fetch_pair(bf16 *to, const bf16 *x, int64_t x_stride, const bf16 *y, int64_t y_stride,
                                  int64_t first, int64_t end)
{
    fetch_tile<C::D, C::N, C::THREADS>(to, x, x_stride, first, end);
    fetch_tile<C::D, C::N, C::THREADS>(to + C::TILE, y, y_stride, first, end);
}

template <typename C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) forward_kernel(attention_arguments a)
{
    constexpr int D = C::D, N = C::N, M = C::M;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *tiles = (bf16 *)shared;
    int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, time = (int)a.time;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    const bf16 *keys = (const bf16 *)a.k + p.kv_at, *values = (const bf16 *)a.v + p.kv_at;
    int begin = (int)(gridDim.x - 1 - blockIdx.x) * C::ROWS,
        mine = begin + warp * C::WARP_ROWS; // longest first
    int n_tiles = (min(begin + C::ROWS, time) + N - 1) / N;
    fragment q[M][D / 16];
    for (int m = 0; m < M; m++)
        load_rows<D>(q[m], (const bf16 *)a.q + p.q_at, p.q_stride, mine + 16 * m, time);
    float y[M][D / 8][4] = {}, most[M][2], sum[M][2] = {}, scale = a.scale * LOG2_E;
    for (int m = 0; m < M; m++) most[m][0] = most[m][1] = -INFINITY;
    fetch_pair<C>(tiles, keys, p.kv_stride, values, p.kv_stride, 0, time);
    fetches_end();
    for (int n = 0; n < n_tiles; n++) {
        const bf16 *here = tiles + n % 2 * 2 * C::TILE;
        if (n + 1 < n_tiles)
            fetch_pair<C>(tiles + (n + 1) % 2 * 2 * C::TILE, keys, p.kv_stride, values, p.kv_stride,
                          (n + 1) * N, time);
        fetches_end();
        await_fetches<1>();
        __syncthreads();
        int first = n * N;
        if (first < mine + C::WARP_ROWS) {
            float s[M][N / 8][4];
            times_rows<D, N, M>(s, q, here);
            bool edge = first + N - 1 > mine;
#pragma unroll
            for (int m = 0; m < M; m++) {
                float now[2] = {-INFINITY, -INFINITY};
#pragma unroll
                for (int j = 0; j < N / 8; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        if (edge && first + 8 * j + 2 * t + i % 2 > mine + 16 * m + g + i / 2 * 8)
                            s[m][j][i] = -INFINITY;
                        now[i / 2] = fmaxf(now[i / 2], s[m][j][i]);
                    }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    // Key 0 is in the first tile: finite from there on.
                    float next = fmaxf(most[m][half], row_max(now[half]) * scale);
                    float keep = power_of_2(most[m][half] - next);
                    most[m][half] = next;
                    sum[m][half] *= keep;
#pragma unroll
                    for (int j = 0; j < D / 8; j++) y[m][j][2 * half] *= keep, y[m][j][2 * half + 1] *= keep;
                }
#pragma unroll
                for (int j = 0; j < N / 8; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        s[m][j][i] = power_of_2(fmaf(s[m][j][i], scale, -most[m][i / 2]));
                        sum[m][i / 2] += s[m][j][i];
                    }
            }
            times_tile<D, N, M>(y, s, here + C::TILE);
        }
        __syncthreads();
    }
    for (int m = 0; m < M; m++) {
        int from = mine + 16 * m;
        sum[m][0] = row_sum(sum[m][0]);
        sum[m][1] = row_sum(sum[m][1]);
        for (int half = 0; half < 2; half++)
            if (a.lse && t == 0 && from + g + 8 * half < time)
                a.lse[p.row_at + from + g + 8 * half] = (most[m][half] + log2f(sum[m][half])) * LN_2;
        write_rows<D>((bf16 *)a.out + p.y_at, p.y_stride, from, time, y[m], 1.0f / sum[m][0],
                      1.0f / sum[m][1]);
    }
}

// dq = scale * sum over keys of p * (dy . v - delta) * k
template <typename C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) dq_kernel(attention_arguments a)
{
    constexpr int D = C::D, N = C::N, M = C::M;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *tiles = (bf16 *)shared;
    int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, time = (int)a.time;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    const bf16 *keys = (const bf16 *)a.k + p.kv_at, *values = (const bf16 *)a.v + p.kv_at;
    int begin = (int)(gridDim.x - 1 - blockIdx.x) * C::ROWS, mine = begin + warp * C::WARP_ROWS;
    int n_tiles = (min(begin + C::ROWS, time) + N - 1) / N;
    fragment q[M][D / 16], dy[M][D / 16];
    float dq[M][D / 8][4] = {}, lse[M][2], delta[M][2], scale = a.scale * LOG2_E;
    for (int m = 0; m < M; m++) {
        load_rows<D>(q[m], (const bf16 *)a.q + p.q_at, p.q_stride, mine + 16 * m, time);
        load_rows<D>(dy[m], (const bf16 *)a.dy + p.y_at, p.y_stride, mine + 16 * m, time);
        for (int half = 0; half < 2; half++) {
            int row = mine + 16 * m + g + 8 * half;
            lse[m][half] = row < time ? a.lse[p.row_at + row] * LOG2_E : 0;
            delta[m][half] = row < time ? a.delta[p.row_at + row] : 0;
        }
    }
    fetch_pair<C>(tiles, keys, p.kv_stride, values, p.kv_stride, 0, time);
    fetches_end();
    for (int n = 0; n < n_tiles; n++) {
        const bf16 *here = tiles + n % 2 * 2 * C::TILE;
        if (n + 1 < n_tiles)
            fetch_pair<C>(tiles + (n + 1) % 2 * 2 * C::TILE, keys, p.kv_stride, values, p.kv_stride,
                          (n + 1) * N, time);
        fetches_end();
        await_fetches<1>();
        __syncthreads();
        int first = n * N;
        if (first < mine + C::WARP_ROWS) {
            float s[M][N / 8][4], dp[M][N / 8][4];
            times_rows<D, N, M>(s, q, here);
            times_rows<D, N, M>(dp, dy, here + C::TILE);
            bool edge = first + N - 1 > mine;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int j = 0; j < N / 8; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        bool hidden = edge && first + 8 * j + 2 * t + i % 2 > mine + 16 * m + g + i / 2 * 8;
                        float weight = power_of_2(fmaf(s[m][j][i], scale, -lse[m][i / 2]));
                        s[m][j][i] = hidden ? 0.0f : weight * (dp[m][j][i] - delta[m][i / 2]);
                    }
            times_tile<D, N, M>(dq, s, here);
        }
        __syncthreads();
    }
    for (int m = 0; m < M; m++)
        write_rows<D>((bf16 *)a.out + p.q_at, p.q_stride, mine + 16 * m, time, dq[m], a.scale, a.scale);
}

// dv = sum over queries of p * dy, dk = scale * sum of p * (dy . v - delta) * q, over a group's heads in order.
template <typename C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) dkv_kernel(attention_arguments a)
{
    constexpr int D = C::D, N = C::N, M = C::M;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *tiles = (bf16 *)shared;
    float *rows = (float *)(shared + C::SHARED_BYTES); // lse and delta of the tile's queries, twice
    int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, time = (int)a.time;
    int group = a.heads / a.kv_heads, begin = (int)blockIdx.x * C::ROWS, mine = begin + warp * C::WARP_ROWS;
    int from = begin / N * N, each = (time - from + N - 1) / N, n_tiles = each * group;
    head_place p = place_of(a, blockIdx.z, blockIdx.y * group);
    fragment k[M][D / 16], v[M][D / 16];
    for (int m = 0; m < M; m++) {
        load_rows<D>(k[m], (const bf16 *)a.k + p.kv_at, p.kv_stride, mine + 16 * m, time);
        load_rows<D>(v[m], (const bf16 *)a.v + p.kv_at, p.kv_stride, mine + 16 * m, time);
    }
    float dk[M][D / 8][4] = {}, dv[M][D / 8][4] = {}, scale = a.scale * LOG2_E;
    auto fetch_queries = [&](int n) {
        head_place of = place_of(a, blockIdx.z, blockIdx.y * group + n / each);
        int first = from + n % each * N;
        fetch_pair<C>(tiles + n % 2 * 2 * C::TILE, (const bf16 *)a.q + of.q_at, of.q_stride,
                      (const bf16 *)a.dy + of.y_at, of.y_stride, first, time);
        for (int i = threadIdx.x; i < N; i += C::THREADS) {
            bool there = first + i < time;
            rows[n % 2 * 2 * N + i] = there ? a.lse[of.row_at + first + i] * LOG2_E : 0;
            rows[n % 2 * 2 * N + N + i] = there ? a.delta[of.row_at + first + i] : 0;
        }
    };
    fetch_queries(0);
    fetches_end();
    for (int n = 0; n < n_tiles; n++) {
        const bf16 *here = tiles + n % 2 * 2 * C::TILE;
        const float *lse = rows + n % 2 * 2 * N, *delta = lse + N;
        if (n + 1 < n_tiles) fetch_queries(n + 1);
        fetches_end();
        await_fetches<1>();
        __syncthreads();
        int first = from + n % each * N;
        if (first + N - 1 >= mine) {
            float s[M][N / 8][4], dp[M][N / 8][4];
            times_rows<D, N, M>(s, k, here);
            bool edge = first < mine + C::WARP_ROWS - 1 || first + N > time;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int j = 0; j < N / 8; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int column = 8 * j + 2 * t + i % 2, query = first + column;
                        bool hidden = edge && (query < mine + 16 * m + g + i / 2 * 8 || query >= time);
                        float weight = power_of_2(fmaf(s[m][j][i], scale, -lse[column]));
                        s[m][j][i] = hidden ? 0.0f : weight;
                    }
            times_tile<D, N, M>(dv, s, here + C::TILE);
            times_rows<D, N, M>(dp, v, here + C::TILE);
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int j = 0; j < N / 8; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) s[m][j][i] *= dp[m][j][i] - delta[8 * j + 2 * t + i % 2];
            times_tile<D, N, M>(dk, s, here);
        }
        __syncthreads();
    }
    for (int m = 0; m < M; m++) {
        write_rows<D>((bf16 *)a.dk + p.kv_at, p.kv_stride, mine + 16 * m, time, dk[m], a.scale, a.scale);
        write_rows<D>((bf16 *)a.dv + p.kv_at, p.kv_stride, mine + 16 * m, time, dv[m], 1.0f, 1.0f);
    }
}

typedef void (*kernel)(attention_arguments);

// A failure is left for the caller, who looks at the last error.
template <typename C>
void launch(kernel run, const attention_arguments &a, int heads, size_t more_bytes, cudaStream_t stream)
{
    size_t bytes = C::SHARED_BYTES + more_bytes;
    if (cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes) != cudaSuccess)
        return;
    run<<<dim3(blocks_for(a.time, C::ROWS), (unsigned)heads, (unsigned)a.batch), C::THREADS, bytes, stream>>>(
        a);
}

template <typename C> void launch_forward(const attention_arguments &a, cudaStream_t stream)
{
    launch<C>(forward_kernel<C>, a, a.heads, 0, stream);
}

template <typename C> void launch_dq(const attention_arguments &a, cudaStream_t stream)
{
    launch<C>(dq_kernel<C>, a, a.heads, 0, stream);
}

template <typename C> void launch_dkv(const attention_arguments &a, cudaStream_t stream)
{
    launch<C>(dkv_kernel<C>, a, a.kv_heads, 4 * C::N * sizeof(float), stream);
}

// Products of int reach over (B,T,H*D) only through int64 strides; the time itself is an int here.
bool served(const attention_arguments &a)
{
    return !a.position && a.scale > 0 && a.time < 1 << 30 && (a.head_size == 64 || a.head_size == 128);
}

} // namespace

bool attention_on_tensor_cores(const attention_arguments &a, cudaStream_t stream)
{
    if (!served(a)) return false;
    if (a.head_size == 64)
        launch_forward<cut<64, 4, 2, 64, 2>>(a, stream);
    else
        launch_forward<cut<128, 8, 1, 64, 1>>(a, stream);
    return true;
}

bool attention_backward_on_tensor_cores(const attention_arguments &a, cudaStream_t stream)
{
    if (!served(a)) return false;
    if (a.head_size == 64) {
        launch_dq<cut<64, 4, 1, 64, 3>>(a, stream);
        launch_dkv<cut<64, 4, 1, 64, 2>>(a, stream);
    } else {
        launch_dq<cut<128, 4, 1, 32, 1>>(a, stream);
        launch_dkv<cut<128, 4, 1, 32, 1>>(a, stream);
    }
    return true;
}

} // namespace troupe
