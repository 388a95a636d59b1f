// ops/cuda/attention_wgmma.cu - attention's forward in bfloat16 on Hopper's warpgroup products, for head sizes 64 and 128.
// A warpgroup (four warps) owns 64 rows of queries. Its block walks over tiles of keys and values, fetched two ahead into
// a ring of shared memory; scores never leave registers: they are the left operand of the product that they enter.
// Several warpgroups share a multiprocessor, so that one makes exponentials while another multiplies.
// Sources: Dao, 2023 (how work is cut); Shah et al., 2024 (sums of one tile beside the exponentials of the next).
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/attention_rows.cuh"

#include <math.h>

namespace troupe {
namespace {

// Round n: tile n is there, that of the round before the last is free, and another is sent for. The
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

template <typename C> void launch_forward(const attention_arguments &a, cudaStream_t stream)
{
    launch<C>(forward_kernel<C>, a, a.heads, C::shared_bytes(1, 0), stream);
}

} // namespace

bool attention_on_warpgroups(const attention_arguments &a, cudaStream_t stream)
{
    if (!has_warpgroups(a)) return false;
    if (a.head_size == 64)
        launch_forward<cut<64, 2, 64, 2>>(a, stream);
    else
        launch_forward<cut<128, 1, 64, 2, 3>>(a, stream);
    return true;
}

} // namespace troupe
