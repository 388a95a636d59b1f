// ops/cuda/attention_wgmma.cu - attention in bfloat16 on Hopper's warpgroup products, for head sizes 64 and 128.
// A warpgroup (four warps) owns 64 rows: of queries in the forward and for dq, of keys for dk and dv. Its block walks over
// tiles of the other side, fetched two ahead into a ring of shared memory; scores never leave registers: they are the
// left operand of the product that they enter. Several warpgroups share a multiprocessor, so that one makes exponentials
// while another multiplies. The backward makes the scores twice, once for each owner, so that no sum needs an atomic and
// all have one order.
// Sources: Dao, 2023 (how work is cut); Shah et al., 2024 (sums of one tile beside the exponentials of the next).
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/attention_rows.cuh"

#include <math.h>

namespace troupe {
namespace {

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

// Round n of all three kernels: tile n is there, that of the round before the last is free, and another is sent for. The
// scores of tile n are begun, and behind them the products that take what round n - 1 made of its scores; exponentials
// are made while those run. Nothing runs over from one round to the next.

template <typename C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) forward_kernel(attention_arguments a)
{
#if TR_WARPGROUPS
    constexpr int D = C::D, N = C::N, THREADS = C::THREADS, STAGES = C::STAGES, AHEAD = STAGES - 2;
    extern __shared__ unsigned char shared[];
    bf16 *queries = aligned_shared(shared), *tiles = queries + C::OWN;
    int group = __shfl_sync(0xffffffffu, threadIdx.x / GROUP_THREADS, 0),
        warp = threadIdx.x % GROUP_THREADS / WARP;
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, time = (int)a.time;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    const bf16 *keys = (const bf16 *)a.k + p.kv_at, *values = (const bf16 *)a.v + p.kv_at;
    int begin = (int)(gridDim.x - 1 - blockIdx.x) * C::ROWS; // longest first
    int mine = begin + group * GROUP_ROWS, row = mine + 16 * warp + g;
    int n_tiles = (min(begin + C::ROWS, time) + N - 1) / N,
        my_tiles = min(n_tiles, (mine + GROUP_ROWS - 1) / N + 1);
    copier<D, N, THREADS> copier_of_keys(p.kv_stride);
    auto fetch_keys = [&](int n) {
        bf16 *to = tiles + n % STAGES * 2 * C::TILE;
        if (n < n_tiles) {
            copier_of_keys.copy(to, keys, p.kv_stride, n * N, time);
            copier_of_keys.copy(to + C::TILE, values, p.kv_stride, n * N, time);
        }
        fetches_end();
    };
    copier<D, C::ROWS, THREADS>(p.q_stride)
        .copy(queries, (const bf16 *)a.q + p.q_at, p.q_stride, begin, time);
    for (int n = 0; n < AHEAD; n++) fetch_keys(n);
    const bf16 *my_queries = queries + group * GROUP_ROWS * PANEL;
    float s[N / 8][4], y[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {},
                             scale = a.scale * LOG2_E;
    fragment w[N / 16];
    auto begin_round = [&](int n) {
        await_fetches<AHEAD - 1>();
        show_to_products();
        __syncthreads();
    };
    auto begin_scores = [&](int n) {
        settle(s);
        products_begin();
        const bf16 *here = tiles + n % STAGES * 2 * C::TILE;
        times_rows<D, N>(s, my_queries, C::ROWS * 128, here);
        products_end();
    };
    auto begin_sums = [&](int n) {
        times_tile<D, N>(y, w, tiles + (n % STAGES * 2 + 1) * C::TILE);
        products_end();
    };
    auto weigh = [&](int first, float(&keep)[2]) {
        settle(s);
        if (first + N - 1 > mine) {
            stay_a_branch();
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (first + 8 * j + 2 * t + i % 2 > row + i / 2 * 8) s[j][i] = -INFINITY;
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float now = -INFINITY;
#pragma unroll
            for (int j = 0; j < N / 8; j++) now = fmaxf(now, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
            // Key 0 is in the first tile: finite from there on.
            float next = fmaxf(most[half], row_max(now) * scale);
            keep[half] = power_of_2(most[half] - next);
            most[half] = next;
            sum[half] *= keep[half];
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[j][i] = power_of_2(fmaf(s[j][i], scale, -next));
                    sum[half] += s[j][i];
                }
        }
    };
    float keep[2];
    int n = 0;
    begin_round(n);
    begin_scores(n);
    fetch_keys(n + AHEAD);
    await_products<0>();
    weigh(0, keep);
    round_all<N>(w, s);
    for (n = 1; n < my_tiles; n++) {
        begin_round(n);
        settle(w);
        settle(y);
        begin_scores(n);
        begin_sums(n - 1);
        fetch_keys(n + AHEAD);
        await_products<1>();
        weigh(n * N, keep);
        await_products<0>();
        settle(y);
        settle(w);
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) y[j][i] *= keep[i / 2];
        round_all<N>(w, s);
    }
    settle(w);
    settle(y);
    products_begin();
    begin_sums(n - 1);
    await_products<0>();
    settle(y);
    for (; n < n_tiles; n++) { // of other warpgroups
        begin_round(n);
        fetch_keys(n + AHEAD);
    }
    sum[0] = row_sum(sum[0]);
    sum[1] = row_sum(sum[1]);
    for (int half = 0; half < 2; half++)
        if (a.lse && t == 0 && row + 8 * half < time)
            a.lse[p.row_at + row + 8 * half] = (most[half] + log2f(sum[half])) * LN_2;
    write_rows<D>((bf16 *)a.out + p.y_at, p.y_stride, mine + 16 * warp, time, y, 1.0f / sum[0],
                  1.0f / sum[1]);
#endif
}

// dq = scale * sum over keys of p * (dy . v - delta) * k. OVERLAP: as told above, which takes more registers; else a round
// ends with its own sums, and it is other warpgroups that multiply meanwhile.
template <typename C, bool OVERLAP>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) dq_kernel(attention_arguments a)
{
#if TR_WARPGROUPS
    constexpr int D = C::D, N = C::N, THREADS = C::THREADS, STAGES = C::STAGES,
                  AHEAD = OVERLAP ? STAGES - 2 : STAGES - 1;
    extern __shared__ unsigned char shared[];
    bf16 *queries = aligned_shared(shared), *dys = queries + C::OWN, *tiles = dys + C::OWN;
    int group = __shfl_sync(0xffffffffu, threadIdx.x / GROUP_THREADS, 0),
        warp = threadIdx.x % GROUP_THREADS / WARP;
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, time = (int)a.time;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    const bf16 *keys = (const bf16 *)a.k + p.kv_at, *values = (const bf16 *)a.v + p.kv_at;
    int begin = (int)(gridDim.x - 1 - blockIdx.x) * C::ROWS;
    int mine = begin + group * GROUP_ROWS, row = mine + 16 * warp + g;
    int n_tiles = (min(begin + C::ROWS, time) + N - 1) / N,
        my_tiles = min(n_tiles, (mine + GROUP_ROWS - 1) / N + 1);
    copier<D, N, THREADS> copier_of_keys(p.kv_stride);
    auto fetch_keys = [&](int n) {
        bf16 *to = tiles + n % STAGES * 2 * C::TILE;
        if (n < n_tiles) {
            copier_of_keys.copy(to, keys, p.kv_stride, n * N, time);
            copier_of_keys.copy(to + C::TILE, values, p.kv_stride, n * N, time);
        }
        fetches_end();
    };
    copier<D, C::ROWS, THREADS>(p.q_stride)
        .copy(queries, (const bf16 *)a.q + p.q_at, p.q_stride, begin, time);
    copier<D, C::ROWS, THREADS>(p.y_stride).copy(dys, (const bf16 *)a.dy + p.y_at, p.y_stride, begin, time);
    for (int n = 0; n < AHEAD; n++) fetch_keys(n);
    const bf16 *my_queries = queries + group * GROUP_ROWS * PANEL, *my_dys = dys + group * GROUP_ROWS * PANEL;
    float s[N / 8][4], dp[N / 8][4], dq[D / 8][4] = {}, lse[2], delta[2], scale = a.scale * LOG2_E;
    fragment w[N / 16];
    for (int half = 0; half < 2; half++) {
        int64_t of = row + 8 * half, at = p.row_at + of;
        bool there = of < time;
        lse[half] = there ? a.lse[at] * LOG2_E : 0;
        delta[half] = there ? dot<D>((const bf16 *)a.y + p.y_at + of * p.y_stride,
                                     (const bf16 *)a.dy + p.y_at + of * p.y_stride)
                            : 0;
        delta[half] = row_sum(delta[half]);
        if (!there || t != 0) continue;
        a.binary_lse[at] = lse[half]; // for dk and dv
        a.delta[at] = delta[half];
    }
    auto begin_round = [&](int n) {
        await_fetches<AHEAD - 1>();
        show_to_products();
        __syncthreads();
    };
    auto begin_scores = [&](int n) {
        const bf16 *here = tiles + n % STAGES * 2 * C::TILE;
        settle(s);
        settle(dp);
        products_begin();
        times_rows<D, N>(s, my_queries, C::ROWS * 128, here);
        products_end();
        times_rows<D, N>(dp, my_dys, C::ROWS * 128, here + C::TILE);
        products_end();
    };
    auto begin_sums = [&](int n) {
        times_tile<D, N>(dq, w, tiles + n % STAGES * 2 * C::TILE);
        products_end();
    };
    auto weigh = [&](int first) {
        settle(s);
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[j][i] = power_of_2(fmaf(s[j][i], scale, -lse[i / 2]));
        if (first + N - 1 <= mine) return;
        stay_a_branch();
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (first + 8 * j + 2 * t + i % 2 > row + i / 2 * 8) s[j][i] = 0;
    };
    auto times_slopes = [&] {
        settle(dp);
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[j][i] *= dp[j][i] - delta[i / 2];
    };
    auto finish_sums = [&](int n) {
        settle(w);
        settle(dq);
        products_begin();
        begin_sums(n);
        await_products<0>();
        settle(dq);
        settle(w);
    };
    int n = 0;
    begin_round(n);
    begin_scores(n);
    fetch_keys(n + AHEAD);
    await_products<1>();
    weigh(0);
    await_products<0>();
    times_slopes();
    round_all<N>(w, s);
    if (!OVERLAP) finish_sums(0);
    for (n = 1; n < my_tiles; n++) {
        begin_round(n);
        if (OVERLAP) {
            settle(w);
            settle(dq);
            begin_scores(n);
            begin_sums(n - 1);
            fetch_keys(n + AHEAD);
            await_products<2>();
            weigh(n * N);
            await_products<1>();
            times_slopes();
            await_products<0>();
            settle(dq);
            settle(w);
            round_all<N>(w, s);
        } else {
            begin_scores(n);
            fetch_keys(n + AHEAD);
            await_products<1>();
            weigh(n * N);
            await_products<0>();
            times_slopes();
            round_all<N>(w, s);
            finish_sums(n);
        }
    }
    if (OVERLAP) finish_sums(n - 1);
    for (; n < n_tiles; n++) { // of other warpgroups
        begin_round(n);
        fetch_keys(n + AHEAD);
    }
    write_rows<D>((bf16 *)a.out + p.q_at, p.q_stride, mine + 16 * warp, time, dq, a.scale, a.scale);
    if (a.sums)
        write_sums<D>((float *)queries, slab_of(a, mine, blockIdx.y * D), dq, a.scale, row < time,
                      row + 8 < time);
#endif
}

// dv = sum over queries of p * dy, dk = scale * sum of p * (dy . v - delta) * q, over a group's heads in order. OVERLAP: as
// for dq.
template <typename C, bool OVERLAP>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) dkv_kernel(attention_arguments a)
{
#if TR_WARPGROUPS
    constexpr int D = C::D, N = C::N, THREADS = C::THREADS, STAGES = C::STAGES,
                  AHEAD = OVERLAP ? STAGES - 2 : STAGES - 1;
    extern __shared__ unsigned char shared[];
    bf16 *keys = aligned_shared(shared), *values = keys + C::OWN, *tiles = values + C::OWN;
    float *rows = (float *)(tiles + STAGES * 2 * C::TILE); // lse and delta of the tiles' queries
    int group = __shfl_sync(0xffffffffu, threadIdx.x / GROUP_THREADS, 0),
        warp = threadIdx.x % GROUP_THREADS / WARP;
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, time = (int)a.time;
    int heads = a.heads / a.kv_heads, begin = (int)blockIdx.x * C::ROWS;
    int mine = begin + group * GROUP_ROWS, row = mine + 16 * warp + g;
    int from = begin / N * N, each = (time - from + N - 1) / N, n_tiles = each * heads;
    head_place p = place_of(a, blockIdx.z, blockIdx.y * heads);
    float scale = a.scale * LOG2_E;
    copier<D, N, THREADS> copier_of_queries(p.q_stride), copier_of_dys(p.y_stride);
    int next_first = from, next_head = 0; // of the tile that is fetched next
    auto fetch_queries = [&](int n) {
        if (n < n_tiles) {
            bf16 *to = tiles + n % STAGES * 2 * C::TILE;
            copier_of_queries.copy(to, (const bf16 *)a.q + p.q_at + next_head * D, p.q_stride, next_first,
                                   time);
            copier_of_dys.copy(to + C::TILE, (const bf16 *)a.dy + p.y_at + next_head * D, p.y_stride,
                               next_first, time);
            const float *lse = a.binary_lse + p.row_at + (int64_t)next_head * time,
                        *delta = a.delta + p.row_at + (int64_t)next_head * time;
            uint32_t numbers = shared_address(rows + n % STAGES * 2 * N);
#pragma unroll
            for (int k = 0; k < 2 * N; k += THREADS) {
                int i = k + (int)threadIdx.x, of = next_first + i % N;
                if (2 * N % THREADS == 0 || i < 2 * N)
                    fetch_number(numbers + i * 4, (i < N ? lse : delta) + (of < time ? of : 0), of < time);
            }
            next_first += N;
            if (next_first >= time) next_first = from, next_head++;
        }
        fetches_end();
    };
    copier<D, C::ROWS, THREADS>(p.kv_stride)
        .copy(keys, (const bf16 *)a.k + p.kv_at, p.kv_stride, begin, time);
    copier<D, C::ROWS, THREADS>(p.kv_stride)
        .copy(values, (const bf16 *)a.v + p.kv_at, p.kv_stride, begin, time);
    for (int n = 0; n < AHEAD; n++) fetch_queries(n);
    const bf16 *my_keys = keys + group * GROUP_ROWS * PANEL, *my_values = values + group * GROUP_ROWS * PANEL;
    float s[N / 8][4], dp[N / 8][4], dk[D / 8][4] = {}, dv[D / 8][4] = {};
    fragment w[N / 16], dw[N / 16];
    int first = from; // query of the tile that is worked on
    auto begin_scores = [&](int n) {
        const bf16 *here = tiles + n % STAGES * 2 * C::TILE;
        await_fetches<AHEAD - 1>();
        show_to_products();
        __syncthreads();
        settle(s);
        settle(dp);
        products_begin();
        times_rows<D, N>(s, my_keys, C::ROWS * 128, here);
        products_end();
        times_rows<D, N>(dp, my_values, C::ROWS * 128, here + C::TILE);
        products_end();
    };
    auto begin_sums = [&](int n) {
        const bf16 *here = tiles + n % STAGES * 2 * C::TILE;
        times_tile<D, N>(dv, w, here + C::TILE);
        times_tile<D, N>(dk, dw, here);
        products_end();
    };
    auto weigh = [&](int n) {
        const float *lse = rows + n % STAGES * 2 * N;
        // Queries behind the end are zeros and give nothing.
        bool edge = first < mine + GROUP_ROWS - 1;
        settle(s);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float2 shift = *reinterpret_cast<const float2 *>(lse + 8 * j + 2 * t);
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[j][i] = power_of_2(fmaf(s[j][i], scale, -(i % 2 ? shift.y : shift.x)));
        }
        if (!edge) return;
        stay_a_branch();
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (first + 8 * j + 2 * t + i % 2 < row + i / 2 * 8) s[j][i] = 0;
    };
    auto times_slopes = [&](int n) {
        const float *delta = rows + n % STAGES * 2 * N + N;
        settle(dp);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float2 shift = *reinterpret_cast<const float2 *>(delta + 8 * j + 2 * t);
#pragma unroll
            for (int i = 0; i < 4; i++) dp[j][i] = s[j][i] * (dp[j][i] - (i % 2 ? shift.y : shift.x));
        }
        first += N;
        if (first >= time) first = from;
    };
    auto settle_sums = [&] {
        settle(dk);
        settle(dv);
        settle(w);
        settle(dw);
    };
    auto finish_sums = [&](int n) {
        settle_sums();
        products_begin();
        begin_sums(n);
        await_products<0>();
        settle_sums();
    };
    begin_scores(0);
    fetch_queries(AHEAD);
    await_products<1>();
    weigh(0);
    await_products<0>();
    times_slopes(0);
    round_all<N>(w, s);
    round_all<N>(dw, dp);
    if (!OVERLAP) finish_sums(0);
    for (int n = 1; n < n_tiles; n++) {
        if (OVERLAP) {
            settle_sums();
            begin_scores(n);
            begin_sums(n - 1);
            fetch_queries(n + AHEAD);
            await_products<2>();
            weigh(n);
            await_products<1>();
            times_slopes(n);
            await_products<0>();
            settle_sums();
            round_all<N>(w, s);
            round_all<N>(dw, dp);
        } else {
            begin_scores(n);
            fetch_queries(n + AHEAD);
            await_products<1>();
            weigh(n);
            await_products<0>();
            times_slopes(n);
            round_all<N>(w, s);
            round_all<N>(dw, dp);
            finish_sums(n);
        }
    }
    if (OVERLAP) finish_sums(n_tiles - 1);
    write_rows<D>((bf16 *)a.dk + p.kv_at, p.kv_stride, mine + 16 * warp, time, dk, a.scale, a.scale);
    write_rows<D>((bf16 *)a.dv + p.kv_at, p.kv_stride, mine + 16 * warp, time, dv, 1.0f, 1.0f);
    if (!a.sums) return;
    int at = (a.heads + (int)blockIdx.y) * D;
    write_sums<D>((float *)keys, slab_of(a, mine, at), dk, a.scale, row < time, row + 8 < time);
    write_sums<D>((float *)keys, slab_of(a, mine, at + a.kv_heads * D), dv, 1.0f, row < time, row + 8 < time);
#endif
}

typedef void (*kernel)(attention_arguments);

// A failure is left for the caller, who looks at the last error.
template <typename C>
void launch(kernel run, const attention_arguments &a, int heads, size_t bytes, cudaStream_t stream)
{
    if (cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes) != cudaSuccess)
        return;
    run<<<dim3(blocks_for(a.time, C::ROWS), (unsigned)heads, (unsigned)a.batch), C::THREADS, bytes, stream>>>(
        a);
}

template <typename C> void launch_forward(const attention_arguments &a, cudaStream_t stream)
{
    launch<C>(forward_kernel<C>, a, a.heads, C::shared_bytes(1, 0), stream);
}

template <typename C, bool OVERLAP> void launch_dq(const attention_arguments &a, cudaStream_t stream)
{
    launch<C>(dq_kernel<C, OVERLAP>, a, a.heads, C::shared_bytes(2, 0), stream);
}

template <typename C, bool OVERLAP> void launch_dkv(const attention_arguments &a, cudaStream_t stream)
{
    launch<C>(dkv_kernel<C, OVERLAP>, a, a.kv_heads, C::shared_bytes(2, 2 * C::N * sizeof(float)), stream);
}

// Only code for this very generation has warpgroup products.
bool served(const attention_arguments &a)
{
    int device = 0, major = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess)
        return false;
    return major == 9 && !a.position && a.scale > 0 && a.time < 1 << 30 &&
           (a.head_size == 64 || a.head_size == 128);
}

} // namespace

#ifndef TR_ATTENTION_VARIANTS
bool attention_on_warpgroups(const attention_arguments &a, cudaStream_t stream)
{
    if (!served(a)) return false;
    if (a.head_size == 64)
        launch_forward<cut<64, 2, 64, 2>>(a, stream);
    else
        launch_forward<cut<128, 1, 64, 2, 3>>(a, stream);
    return true;
}

bool attention_backward_on_warpgroups(const attention_arguments &a, cudaStream_t stream)
{
    if (!served(a)) return false;
    if (a.head_size == 64) {
        launch_dq<cut<64, 1, 64, 4, 3>, false>(a, stream);
        launch_dkv<cut<64, 1, 64, 3, 3>, false>(a, stream);
    } else {
        launch_dq<cut<128, 2, 64, 1>, true>(a, stream);
        launch_dkv<cut<128, 2, 64, 1>, true>(a, stream);
    }
    return true;
}
#endif

} // namespace troupe
