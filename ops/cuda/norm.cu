// ops/cuda/norm.cu - layernorm and rmsnorm, forward and backward: a warp a row.
// A row is read again rather than kept: it is in the first-level cache; the forward of bfloat16 rows of 256 to 2048 columns,
// which is nothing but reading and writing, keeps it. Sums of columns for the weights are in
// ops/cuda/columns.cuh.
// Sources: Ba et al., 2016; Zhang and Sennrich, 2019.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/columns.cuh"
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum { WARPS = 8 };

struct norm_rows {
    const void *x, *dy, *pending;
    const float *w, *b; // b: layernorm's only
    float *mean, *rstd; // mean: layernorm's only
    void *y;            // y, or dx
    const void *more;   // what is added to x first; NULL: nothing
    void *sum;          // x + more, rounded: what the norm is of
    int64_t rows, columns;
    float eps;
};

// y = (x - mean) * rstd * w + b, or x * rstd * w.
template <bool CENTRED, int V, typename T>
__global__ void __launch_bounds__(WARPS *WARP) norm_kernel(norm_rows n)
{
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= n.rows) return;
    const T *x = (const T *)n.x + row * n.columns;
    T *y = (T *)n.y + row * n.columns;
    float mean = 0, squares = 0, v[V];
    if (CENTRED) {
        for (int64_t c = lane * V; c < n.columns; c += WARP * V) {
            load<V>(x + c, v);
#pragma unroll
            for (int j = 0; j < V; j++) mean += v[j];
        }
        mean = warp_sum(mean) / (float)n.columns;
    }
    for (int64_t c = lane * V; c < n.columns; c += WARP * V) {
        load<V>(x + c, v);
#pragma unroll
        for (int j = 0; j < V; j++) squares += (v[j] - mean) * (v[j] - mean);
    }
    float rstd = 1.0f / sqrtf(warp_sum(squares) / (float)n.columns + n.eps);
    for (int64_t c = lane * V; c < n.columns; c += WARP * V) {
        float w[V], b[V];
        load<V>(x + c, v);
        load<V>(n.w + c, w);
        if (CENTRED) load<V>(n.b + c, b);
#pragma unroll
        for (int j = 0; j < V; j++) v[j] = (v[j] - mean) * rstd * w[j] + (CENTRED ? b[j] : 0.0f);
        store<V>(y + c, v);
    }
    if (lane == 0) {
        if (CENTRED) n.mean[row] = mean;
        n.rstd[row] = rstd;
    }
}

// The same of rows of N packs a lane.
template <bool CENTRED, int N> __global__ void __launch_bounds__(WARPS *WARP) kept_norm_kernel(norm_rows n)
{
    constexpr int V = PACK<bf16>, C = N * V * WARP;
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= n.rows) return;
    const bf16 *x = (const bf16 *)n.x + row * C + lane * V;
    bf16 *y = (bf16 *)n.y + row * C + lane * V;
    pack<V, bf16> kept[N];
    float mean = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < N; p++) kept[p] = *reinterpret_cast<const pack<V, bf16> *>(x + p * V * WARP);
    if (n.more) {
        const bf16 *more = (const bf16 *)n.more + row * C + lane * V;
        pack<V, bf16> added[N];
#pragma unroll
        for (int p = 0; p < N; p++) added[p] = *reinterpret_cast<const pack<V, bf16> *>(more + p * V * WARP);
#pragma unroll
        for (int p = 0; p < N; p++) {
#pragma unroll
            for (int j = 0; j < V; j++) kept[p].at[j] = (bf16)((float)kept[p].at[j] + (float)added[p].at[j]);
            *reinterpret_cast<pack<V, bf16> *>((bf16 *)n.sum + row * C + lane * V + p * V * WARP) = kept[p];
        }
    }
    if (CENTRED) {
#pragma unroll
        for (int p = 0; p < N; p++)
#pragma unroll
            for (int j = 0; j < V; j++) mean += (float)kept[p].at[j];
        mean = warp_sum(mean) / (float)C;
    }
#pragma unroll
    for (int p = 0; p < N; p++)
#pragma unroll
        for (int j = 0; j < V; j++) squares += ((float)kept[p].at[j] - mean) * ((float)kept[p].at[j] - mean);
    float rstd = 1.0f / sqrtf(warp_sum(squares) / (float)C + n.eps);
#pragma unroll
    for (int p = 0; p < N; p++) {
        float w[V], b[V], v[V];
        load<V>(n.w + p * V * WARP + lane * V, w);
        if (CENTRED) load<V>(n.b + p * V * WARP + lane * V, b);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = ((float)kept[p].at[j] - mean) * rstd * w[j] + (CENTRED ? b[j] : 0.0f);
        store<V>(y + p * V * WARP, v);
    }
    if (lane == 0) {
        if (CENTRED) n.mean[row] = mean;
        n.rstd[row] = rstd;
    }
}

// dx = pending + rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * w; mean(g) is 0 for rmsnorm.
template <bool CENTRED, int V, typename T>
__global__ void __launch_bounds__(WARPS *WARP) norm_backward_kernel(norm_rows n)
{
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= n.rows) return;
    int64_t at = row * n.columns;
    const T *x = (const T *)n.x + at, *dy = (const T *)n.dy + at, *pending = (const T *)n.pending;
    float mean = CENTRED ? n.mean[row] : 0, rstd = n.rstd[row], sum = 0, sum_xhat = 0;
    float xs[V], g[V], w[V];
    for (int64_t c = lane * V; c < n.columns; c += WARP * V) {
        load<V>(x + c, xs);
        load<V>(dy + c, g);
        load<V>(n.w + c, w);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float d = g[j] * w[j];
            sum += d;
            sum_xhat += d * ((xs[j] - mean) * rstd);
        }
    }
    sum = CENTRED ? warp_sum(sum) / (float)n.columns : 0;
    sum_xhat = warp_sum(sum_xhat) / (float)n.columns;
    for (int64_t c = lane * V; c < n.columns; c += WARP * V) {
        float more[V];
        load<V>(x + c, xs);
        load<V>(dy + c, g);
        load<V>(n.w + c, w);
        if (pending) load<V>(pending + at + c, more);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float d = rstd * (g[j] * w[j] - sum - (xs[j] - mean) * rstd * sum_xhat);
            g[j] = (pending ? more[j] : 0.0f) + d;
        }
        store<V>((T *)n.y + at + c, g);
    }
}

template <bool CENTRED, bool BACKWARD, int V, typename T>
void launch_packed(const tr_call *call, const norm_rows &n)
{
    unsigned blocks = blocks_for(n.rows, WARPS);
    if (BACKWARD)
        norm_backward_kernel<CENTRED, V, T><<<blocks, WARPS * WARP, 0, tr_cuda_stream(call)>>>(n);
    else
        norm_kernel<CENTRED, V, T><<<blocks, WARPS * WARP, 0, tr_cuda_stream(call)>>>(n);
    tr_cuda_launched(call);
}

template <bool CENTRED, bool BACKWARD, typename T> void launch(const tr_call *call, const norm_rows &n)
{
    if (n.columns % PACK<T> == 0)
        launch_packed<CENTRED, BACKWARD, PACK<T>, T>(call, n);
    else
        launch_packed<CENTRED, BACKWARD, 1, T>(call, n);
}

template <bool CENTRED> bool launch_kept(const tr_call *call, const norm_rows &n)
{
    typedef void (*kernel)(norm_rows);
    static const kernel kernels[] = {kept_norm_kernel<CENTRED, 1>, kept_norm_kernel<CENTRED, 2>,
                                     kept_norm_kernel<CENTRED, 3>, kept_norm_kernel<CENTRED, 4>,
                                     kept_norm_kernel<CENTRED, 5>, kept_norm_kernel<CENTRED, 6>,
                                     kept_norm_kernel<CENTRED, 7>, kept_norm_kernel<CENTRED, 8>};
    constexpr int64_t EACH = PACK<bf16> * WARP;
    if (!is_bf16(call, 0) || n.columns % EACH != 0 || n.columns > 8 * EACH) return false;
    kernels[n.columns / EACH - 1]<<<blocks_for(n.rows, WARPS), WARPS * WARP, 0, tr_cuda_stream(call)>>>(n);
    tr_cuda_launched(call);
    return true;
}

norm_rows rows_of(const tr_call *call, int x)
{
    norm_rows n = {};
    n.x = call->inputs[x];
    n.rows = tr_shape_rows(input_shape(call, x));
    n.columns = tr_shape_last(input_shape(call, x));
    n.y = call->outputs[0];
    return n;
}

void run_layernorm(const tr_call *call)
{
    norm_rows n = rows_of(call, 0);
    n.w = (const float *)call->inputs[1];
    n.b = (const float *)call->inputs[2];
    n.mean = (float *)call->outputs[1];
    n.rstd = (float *)call->outputs[2];
    n.eps = ((const layernorm_attributes *)tr_node_attributes(call->node))->eps;
    if (!launch_kept<true>(call, n)) TR_BY_STORAGE(call, 0, (launch<true, false, T>(call, n)));
}

// x + more and its norm, of rows that lanes keep: what fuse.c joins has them.
template <bool CENTRED> void run_add_norm(const tr_call *call)
{
    norm_rows n = rows_of(call, 0);
    n.more = call->inputs[1];
    n.w = (const float *)call->inputs[2];
    n.sum = call->outputs[0];
    n.y = call->outputs[1];
    if (CENTRED) {
        n.b = (const float *)call->inputs[3];
        n.mean = (float *)call->outputs[2];
        n.eps = ((const layernorm_attributes *)tr_node_attributes(call->node))->eps;
    } else {
        n.eps = ((const rmsnorm_attributes *)tr_node_attributes(call->node))->eps;
    }
    n.rstd = (float *)call->outputs[CENTRED ? 3 : 2];
    launch_kept<CENTRED>(call, n);
}

void run_layernorm_backward(const tr_call *call)
{
    norm_rows n = rows_of(call, 1);
    n.dy = call->inputs[0];
    n.w = (const float *)call->inputs[2];
    n.mean = (float *)call->inputs[3];
    n.rstd = (float *)call->inputs[4];
    n.pending = call->inputs[5];
    TR_BY_STORAGE(call, 1, (launch<true, true, T>(call, n)));
}

void run_rmsnorm(const tr_call *call)
{
    norm_rows n = rows_of(call, 0);
    n.w = (const float *)call->inputs[1];
    n.rstd = (float *)call->outputs[1];
    n.eps = ((const rmsnorm_attributes *)tr_node_attributes(call->node))->eps;
    if (!launch_kept<false>(call, n)) TR_BY_STORAGE(call, 0, (launch<false, false, T>(call, n)));
}

void run_rmsnorm_backward(const tr_call *call)
{
    norm_rows n = rows_of(call, 1);
    n.dy = call->inputs[0];
    n.w = (const float *)call->inputs[2];
    n.rstd = (float *)call->inputs[3];
    n.pending = call->inputs[4];
    TR_BY_STORAGE(call, 1, (launch<false, true, T>(call, n)));
}

// What a row gives to each column's sums: dy * xhat, and dy.
template <bool CENTRED, typename T> struct weight_terms {
    static constexpr int SUMS = CENTRED ? 2 : 1, WIDE = 4;
    const T *dy, *x;
    const float *mean, *rstd;
    int64_t columns;
    template <int V> __device__ void add(int64_t row, int64_t column, float (&sums)[SUMS][V]) const
    {
        float g[V], xs[V], shift = CENTRED ? mean[row] : 0, scale = rstd[row];
        load<V>(dy + row * columns + column, g);
        load<V>(x + row * columns + column, xs);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sums[0][j] += g[j] * ((xs[j] - shift) * scale);
            if (CENTRED) sums[SUMS - 1][j] += g[j];
        }
    }
};

template <bool CENTRED, typename T> void launch_weight(const tr_call *call)
{
    weight_terms<CENTRED, T> terms = {};
    terms.dy = (const T *)call->inputs[0];
    terms.x = (const T *)call->inputs[1];
    terms.mean = CENTRED ? (const float *)call->inputs[2] : NULL;
    terms.rstd = (const float *)call->inputs[CENTRED ? 3 : 2];
    terms.columns = tr_shape_last(input_shape(call, 1));
    float *outputs[2] = {(float *)call->outputs[0], (float *)call->outputs[1]};
    sum_columns(call, terms, outputs, tr_shape_rows(input_shape(call, 1)), terms.columns);
}

void run_layernorm_weight(const tr_call *call)
{
    TR_BY_STORAGE(call, 1, (launch_weight<true, T>(call)));
}

void run_rmsnorm_weight(const tr_call *call)
{
    TR_BY_STORAGE(call, 1, (launch_weight<false, T>(call)));
}

size_t weight_workspace(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *x = tr_input_shape(graph, node, 1);
    return sum_columns_workspace(2, tr_shape_rows(x), tr_shape_last(x));
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_norm_kernels[] = {
    {"layernorm", troupe::run_layernorm},
    {"add_layernorm", troupe::run_add_norm<true>},
    {"layernorm_backward", troupe::run_layernorm_backward},
    {"layernorm_weight", troupe::run_layernorm_weight, troupe::weight_workspace, NULL, NULL, true},
    {"rmsnorm", troupe::run_rmsnorm},
    {"add_rmsnorm", troupe::run_add_norm<false>},
    {"rmsnorm_backward", troupe::run_rmsnorm_backward},
    {"rmsnorm_weight", troupe::run_rmsnorm_weight, troupe::weight_workspace, NULL, NULL, true},
    {},
};
