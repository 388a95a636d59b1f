// ops/cuda/attention_wgmma_backward.cu - attention's backward in bfloat16 on Hopper's warpgroup products, for head sizes 64
// and 128. A warpgroup (four warps) owns 64 rows: of queries for dq, of keys for dk and dv. Its block walks over tiles of
// the other side, which the copy engine brings into a ring of shared memory at one thread's word; scores never leave
// registers: they are the left operand of the product that they enter. Several warpgroups share a multiprocessor, so
// that one makes exponentials while another multiplies. The scores are made twice, once for each owner, so that no sum needs
// an atomic and all have one order.
// Source: Dao, 2023 (how work is cut).
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/attention_rows.cuh"

namespace troupe {
namespace {

#if TR_WARPGROUPS

// Where a head's rows begin in delta and binary_lse, whose sequences are padded to whole tiles.
__device__ inline int64_t padded_row(const attention_arguments &a, int head)
{
    return ((int64_t)blockIdx.z * a.heads + head) * padded_time(a);
}

#endif

// Round n of both kernels: tile n is there, that of the round before is free, and another is sent for. Exponentials are made
// while the second product of the scores runs, and a round ends with its own sums: it is other warpgroups of the
// multiprocessor that multiply meanwhile.

// dq = scale * sum over keys of p * (dy . v - delta) * k, and delta and lse / ln 2 of its rows.
template <typename C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS)
    dq_kernel(const __grid_constant__ attention_arguments a, const __grid_constant__ row_maps maps)
{
#if TR_WARPGROUPS
    constexpr int D = C::D, N = C::N, STAGES = C::STAGES, AHEAD = STAGES - 1;
    extern __shared__ unsigned char shared[];
    bf16 *queries = aligned_shared(shared), *dys = queries + C::OWN, *tiles = dys + C::OWN;
    int group = __shfl_sync(0xffffffffu, threadIdx.x / GROUP_THREADS, 0),
        warp = threadIdx.x % GROUP_THREADS / WARP;
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, time = (int)a.time;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    int column = (int)blockIdx.y * D, kv_column = (int)blockIdx.y / (a.heads / a.kv_heads) * D,
        batch = blockIdx.z;
    int begin = (int)(gridDim.x - 1 - blockIdx.x) * C::ROWS;
    int mine = begin + group * GROUP_ROWS, row = mine + 16 * warp + g;
    int n_tiles = (min(begin + C::ROWS, time) + N - 1) / N,
        my_tiles = min(n_tiles, (mine + GROUP_ROWS - 1) / N + 1);
    __shared__ uint64_t there[STAGES + 1];
    auto fetch_keys = [&](int n) {
        if (threadIdx.x != 0 || n >= n_tiles) return;
        uint64_t *barrier = &there[n % STAGES];
        bf16 *to = tiles + n % STAGES * 2 * C::TILE;
        barrier_expect(barrier, 2 * C::TILE * sizeof(bf16));
        fetch_tile<D, N>(to, &maps.k, kv_column, n * N, batch, barrier);
        fetch_tile<D, N>(to + C::TILE, &maps.v, kv_column, n * N, batch, barrier);
    };
    begin_fetches(there);
    if (threadIdx.x == 0) {
        barrier_expect(&there[STAGES], 2 * C::OWN * sizeof(bf16));
        fetch_tile<D, C::ROWS>(queries, &maps.q, column, begin, batch, &there[STAGES]);
        fetch_tile<D, C::ROWS>(dys, &maps.dy, column, begin, batch, &there[STAGES]);
    }
    for (int n = 0; n < AHEAD; n++) fetch_keys(n);
    const bf16 *my_queries = queries + group * GROUP_ROWS * PANEL, *my_dys = dys + group * GROUP_ROWS * PANEL;
    float s[N / 8][4], dp[N / 8][4], dq[D / 8][4] = {}, lse[2], delta[2], scale = a.scale * LOG2_E;
    fragment w[N / 16];
    for (int half = 0; half < 2; half++) {
        int64_t of = row + 8 * half, at = p.row_at + of;
        bool is_row = of < time;
        lse[half] = is_row ? a.lse[at] * LOG2_E : 0;
        delta[half] = is_row ? dot<D>((const bf16 *)a.y + p.y_at + of * p.y_stride,
                                      (const bf16 *)a.dy + p.y_at + of * p.y_stride)
                             : 0;
        delta[half] = row_sum(delta[half]);
        if (t != 0 || of >= padded_time(a)) continue;
        at = padded_row(a, blockIdx.y) + of;
        a.binary_lse[at] = lse[half]; // for dk and dv
        a.delta[at] = delta[half];
    }
    auto begin_round = [&](int n) {
        barrier_wait(&there[n % STAGES], n / STAGES % 2);
        __syncthreads(); // everybody is done with the tile before
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
    barrier_wait(&there[STAGES], 0);
    begin_round(n);
    begin_scores(n);
    fetch_keys(n + AHEAD);
    await_products<1>();
    weigh(0);
    await_products<0>();
    times_slopes();
    round_all<N>(w, s);
    finish_sums(0);
    for (n = 1; n < my_tiles; n++) {
        begin_round(n);
        begin_scores(n);
        fetch_keys(n + AHEAD);
        await_products<1>();
        weigh(n * N);
        await_products<0>();
        times_slopes();
        round_all<N>(w, s);
        finish_sums(n);
    }
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

// dv = sum over queries of p * dy, dk = scale * sum of p * (dy . v - delta) * q, over a group's heads in order.
template <typename C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS)
    dkv_kernel(const __grid_constant__ attention_arguments a, const __grid_constant__ row_maps maps)
{
#if TR_WARPGROUPS
    constexpr int D = C::D, N = C::N, STAGES = C::STAGES, AHEAD = STAGES - 1;
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
    int column = (int)blockIdx.y * D, batch = blockIdx.z;
    __shared__ uint64_t there[STAGES + 1];
    int next_first = from, next_head = (int)blockIdx.y * heads; // of the tile that is fetched next
    auto fetch_queries = [&](int n) {
        if (threadIdx.x != 0 || n >= n_tiles) return;
        uint64_t *barrier = &there[n % STAGES];
        bf16 *to = tiles + n % STAGES * 2 * C::TILE;
        float *numbers = rows + n % STAGES * 2 * N;
        int64_t at = padded_row(a, next_head) + next_first;
        barrier_expect(barrier, 2 * C::TILE * sizeof(bf16) + 2 * N * sizeof(float));
        fetch_tile<D, N>(to, &maps.q, next_head * D, next_first, batch, barrier);
        fetch_tile<D, N>(to + C::TILE, &maps.dy, next_head * D, next_first, batch, barrier);
        fetch_bytes(numbers, a.binary_lse + at, N * sizeof(float), barrier);
        fetch_bytes(numbers + N, a.delta + at, N * sizeof(float), barrier);
        next_first += N;
        if (next_first >= time) next_first = from, next_head++;
    };
    begin_fetches(there);
    if (threadIdx.x == 0) {
        barrier_expect(&there[STAGES], 2 * C::OWN * sizeof(bf16));
        fetch_tile<D, C::ROWS>(keys, &maps.k, column, begin, batch, &there[STAGES]);
        fetch_tile<D, C::ROWS>(values, &maps.v, column, begin, batch, &there[STAGES]);
    }
    for (int n = 0; n < AHEAD; n++) fetch_queries(n);
    const bf16 *my_keys = keys + group * GROUP_ROWS * PANEL, *my_values = values + group * GROUP_ROWS * PANEL;
    float s[N / 8][4], dp[N / 8][4], dk[D / 8][4] = {}, dv[D / 8][4] = {};
    fragment w[N / 16], dw[N / 16];
    int first = from; // query of the tile that is worked on
    auto begin_scores = [&](int n) {
        const bf16 *here = tiles + n % STAGES * 2 * C::TILE;
        barrier_wait(&there[n % STAGES], n / STAGES % 2);
        __syncthreads(); // everybody is done with the tile before
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
    barrier_wait(&there[STAGES], 0);
    begin_scores(0);
    fetch_queries(AHEAD);
    await_products<1>();
    weigh(0);
    await_products<0>();
    times_slopes(0);
    round_all<N>(w, s);
    round_all<N>(dw, dp);
    finish_sums(0);
    for (int n = 1; n < n_tiles; n++) {
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
    write_rows<D>((bf16 *)a.dk + p.kv_at, p.kv_stride, mine + 16 * warp, time, dk, a.scale, a.scale);
    write_rows<D>((bf16 *)a.dv + p.kv_at, p.kv_stride, mine + 16 * warp, time, dv, 1.0f, 1.0f);
    if (!a.sums) return;
    int at = (a.heads + (int)blockIdx.y) * D;
    write_sums<D>((float *)keys, slab_of(a, mine, at), dk, a.scale, row < time, row + 8 < time);
    write_sums<D>((float *)keys, slab_of(a, mine, at + a.kv_heads * D), dv, 1.0f, row < time, row + 8 < time);
#endif
}

template <typename C> void launch_dq(const attention_arguments &a, const row_maps &maps, cudaStream_t stream)
{
    launch<C>(dq_kernel<C>, a, a.heads, C::shared_bytes(2, 0), stream, maps);
}

template <typename C> void launch_dkv(const attention_arguments &a, const row_maps &maps, cudaStream_t stream)
{
    launch<C>(dkv_kernel<C>, a, a.kv_heads, C::shared_bytes(2, 2 * C::N * sizeof(float)), stream, maps);
}

} // namespace

bool attention_backward_on_warpgroups(const attention_arguments &a, cudaStream_t stream)
{
    row_maps maps;
    if (!has_warpgroups(a) || !describe(&maps, a)) return false;
    if (a.head_size == 64) {
        launch_dq<cut<64, 1, 64, 4, 2>>(a, maps, stream);
        launch_dkv<cut<64, 1, 64, 3, 3>>(a, maps, stream);
    } else {
        launch_dq<cut<128, 1, 64, 2, 2>>(a, maps, stream);
        launch_dkv<cut<128, 1, 64, 2, 2>>(a, maps, stream);
    }
    return true;
}

} // namespace troupe
