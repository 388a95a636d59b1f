// ops/cuda/attention.cu - causal attention with grouped heads, for any head size up to 256 and both storages, in
// float32 throughout. A warp holds ROWS rows; a block's warps share tiles of 32 rows of the other side, one a lane.
// The forward keeps a running maximum and sum; the backward makes probabilities again from the log-sum-exp, once for
// the queries' gradients and once for the keys' and values', so that every sum has one owner and one order.
// bfloat16 with the usual head sizes runs on tensor cores instead (attention_mma.cu).
// Sources: Dao et al., 2022; Milakov and Gimelshein, 2018.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/attention.cuh"
#include "ops/cuda/dnn.h"

#include <math.h>

namespace troupe {
namespace {

enum { WARPS = 4, ROWS = 4, BLOCK_ROWS = WARPS * ROWS, MAX_HEAD = 256, THREADS = 256 };

// Rows first .. first+n-1 of a head into shared memory; zeros from `end` on.
template <typename T>
__device__ void stage(float *to, int stride, const T *from, int64_t from_stride, int64_t first, int n,
                      int64_t end, int size, float scale)
{
    for (int i = threadIdx.x; i < n * size; i += WARPS * WARP) {
        int64_t row = first + i / size;
        to[i / size * stride + i % size] =
            row < end ? scale * (float)from[row * from_stride + i % size] : 0.0f;
    }
}

// dots[r] = rows[r] . other
template <int R>
__device__ inline void products(const float *rows, const float *other, int size, float (&dots)[R])
{
#pragma unroll
    for (int r = 0; r < R; r++) dots[r] = 0;
    for (int d = 0; d < size; d++) {
        float x = other[d];
#pragma unroll
        for (int r = 0; r < R; r++) dots[r] += rows[r * size + d] * x;
    }
}

// sums[r][...] += the sum over lanes of weights[r] * that lane's row of the tile; a lane owns every 32nd column.
template <int R, int N>
__device__ inline void gather(const float (&weights)[R], const float *tile, int stride, int size,
                              float (&sums)[R][N])
{
    int lane = threadIdx.x % WARP;
    for (int j = 0; j < WARP; j++) {
        float w[R];
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = __shfl_sync(0xffffffffu, weights[r], j);
#pragma unroll
        for (int i = 0; i < N; i++) {
            int d = i * WARP + lane;
            float x = d < size ? tile[j * stride + d] : 0.0f;
#pragma unroll
            for (int r = 0; r < R; r++) sums[r][i] += w[r] * x;
        }
    }
}

template <typename T, int N>
__device__ void write_rows(T *to, int64_t stride, int64_t first, int64_t end, int size,
                           const float (&sums)[ROWS][N], const float (&scale)[ROWS])
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < N; i++) {
            int d = i * WARP + lane;
            if (first + r < end && d < size) to[(first + r) * stride + d] = (T)(sums[r][i] * scale[r]);
        }
}

// N: columns a lane owns.
template <int N, typename T>
__global__ void __launch_bounds__(WARPS *WARP) forward_kernel(attention_arguments a)
{
    extern __shared__ float shared[];
    int size = a.head_size, stride = size + 1, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *keys = shared, *values = keys + WARP * stride, *queries = values + WARP * stride;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    int64_t first = a.position ? *a.position : 0, begin = (int64_t)blockIdx.x * BLOCK_ROWS,
            mine = begin + warp * ROWS;
    int64_t rows_end = begin + BLOCK_ROWS < a.time ? begin + BLOCK_ROWS : a.time, n_keys = first + rows_end;
    if (first < 0 || first + a.time > a.key_rows) __trap();
    stage(queries, size, (const T *)a.q + p.q_at, p.q_stride, begin, BLOCK_ROWS, a.time, size, a.scale);
    float most[ROWS], sum[ROWS], y[ROWS][N] = {}, s[ROWS];
    for (int r = 0; r < ROWS; r++) most[r] = -INFINITY, sum[r] = 0;
    for (int64_t tile = 0; tile < n_keys; tile += WARP) {
        __syncthreads();
        stage(keys, stride, (const T *)a.k + p.kv_at, p.kv_stride, tile, WARP, n_keys, size, 1.0f);
        stage(values, stride, (const T *)a.v + p.kv_at, p.kv_stride, tile, WARP, n_keys, size, 1.0f);
        __syncthreads();
        products<ROWS>(queries + warp * ROWS * size, keys + lane * stride, size, s);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (tile + lane > first + mine + r) s[r] = -INFINITY;
            float now = fmaxf(most[r], warp_max(s[r])); // key 0 is in the first tile: finite from there on
            float keep = expf(most[r] - now);
            s[r] = expf(s[r] - now);
            sum[r] = sum[r] * keep + warp_sum(s[r]);
            most[r] = now;
#pragma unroll
            for (int i = 0; i < N; i++) y[r][i] *= keep;
        }
        gather(s, values, stride, size, y);
    }
    for (int r = 0; r < ROWS; r++) {
        if (a.lse && lane == 0 && mine + r < a.time) a.lse[p.row_at + mine + r] = most[r] + logf(sum[r]);
        s[r] = 1.0f / sum[r];
    }
    write_rows((T *)a.out + p.y_at, p.y_stride, mine, a.time, size, y, s);
}

// delta = sum of dy * y, a warp a row of a head.
template <typename T> __global__ void __launch_bounds__(WARPS *WARP) delta_kernel(attention_arguments a)
{
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP; // (B,T,H)
    if (i >= a.batch * a.time * a.heads) return;
    const T *y = (const T *)a.y + i * a.head_size, *dy = (const T *)a.dy + i * a.head_size;
    float sum = 0;
    for (int d = threadIdx.x % WARP; d < a.head_size; d += WARP) sum += (float)y[d] * (float)dy[d];
    sum = warp_sum(sum);
    int64_t h = i % a.heads, t = i / a.heads % a.time, b = i / a.heads / a.time;
    if (threadIdx.x % WARP == 0) a.delta[(b * a.heads + h) * a.time + t] = sum;
}

// The same for head sizes of 64 and 128, which a few lanes read in one pack each.
template <typename T> __global__ void __launch_bounds__(THREADS) packed_delta_kernel(attention_arguments a)
{
    int lanes = a.head_size / PACK<T>; // divides a warp
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK<T>;
    uint32_t heads = (uint32_t)a.heads, time = (uint32_t)a.time;
    uint32_t i =
        blockIdx.x * (uint32_t)(THREADS / lanes) + threadIdx.x / (uint32_t)lanes; // memory holds no 2^32
    bool there = i < (uint32_t)a.batch * time * heads;
    float y[PACK<T>] = {}, dy[PACK<T>] = {}, sum = 0;
    if (there) {
        load<PACK<T>>((const T *)a.y + at, y);
        load<PACK<T>>((const T *)a.dy + at, dy);
    }
#pragma unroll
    for (int j = 0; j < PACK<T>; j++) sum += y[j] * dy[j];
    for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    uint32_t h = i % heads, t = i / heads % time, b = i / heads / time;
    if (there && threadIdx.x % lanes == 0) a.delta[((int64_t)b * heads + h) * time + t] = sum;
}

// dq = scale * sum over keys of p * (dy . v - delta) * k
template <int N, typename T> __global__ void __launch_bounds__(WARPS *WARP) dq_kernel(attention_arguments a)
{
    extern __shared__ float shared[];
    int size = a.head_size, stride = size + 1, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *keys = shared, *values = keys + WARP * stride, *queries = values + WARP * stride;
    float *dys = queries + BLOCK_ROWS * size;
    head_place p = place_of(a, blockIdx.z, blockIdx.y);
    int64_t begin = (int64_t)blockIdx.x * BLOCK_ROWS, mine = begin + warp * ROWS;
    int64_t n_keys = begin + BLOCK_ROWS < a.time ? begin + BLOCK_ROWS : a.time;
    stage(queries, size, (const T *)a.q + p.q_at, p.q_stride, begin, BLOCK_ROWS, a.time, size, a.scale);
    stage(dys, size, (const T *)a.dy + p.y_at, p.y_stride, begin, BLOCK_ROWS, a.time, size, 1.0f);
    float lse[ROWS], delta[ROWS], dq[ROWS][N] = {}, s[ROWS], dp[ROWS];
    for (int r = 0; r < ROWS; r++) {
        int64_t row = mine + r < a.time ? mine + r : a.time - 1;
        lse[r] = a.lse[p.row_at + row];
        delta[r] = a.delta[p.row_at + row];
    }
    for (int64_t tile = 0; tile < n_keys; tile += WARP) {
        __syncthreads();
        stage(keys, stride, (const T *)a.k + p.kv_at, p.kv_stride, tile, WARP, a.time, size, 1.0f);
        stage(values, stride, (const T *)a.v + p.kv_at, p.kv_stride, tile, WARP, a.time, size, 1.0f);
        __syncthreads();
        products<ROWS>(queries + warp * ROWS * size, keys + lane * stride, size, s);
        products<ROWS>(dys + warp * ROWS * size, values + lane * stride, size, dp);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bool seen = tile + lane <= mine + r && mine + r < a.time;
            s[r] = seen ? a.scale * expf(s[r] - lse[r]) * (dp[r] - delta[r]) : 0.0f;
        }
        gather(s, keys, stride, size, dq);
    }
    for (int r = 0; r < ROWS; r++) s[r] = 1.0f;
    write_rows((T *)a.out + p.q_at, p.q_stride, mine, a.time, size, dq, s);
}

// dv = sum over queries of p * dy, dk = scale * sum of p * (dy . v - delta) * q, over a group's heads in order.
template <int N, typename T> __global__ void __launch_bounds__(WARPS *WARP) dkv_kernel(attention_arguments a)
{
    extern __shared__ float shared[];
    int size = a.head_size, stride = size + 1, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *queries = shared, *dys = queries + WARP * stride, *keys = dys + WARP * stride;
    float *values = keys + BLOCK_ROWS * size;
    int group = a.heads / a.kv_heads, b = blockIdx.z;
    int64_t begin = (int64_t)blockIdx.x * BLOCK_ROWS, mine = begin + warp * ROWS;
    head_place p = place_of(a, b, blockIdx.y * group);
    stage(keys, size, (const T *)a.k + p.kv_at, p.kv_stride, begin, BLOCK_ROWS, a.time, size, a.scale);
    stage(values, size, (const T *)a.v + p.kv_at, p.kv_stride, begin, BLOCK_ROWS, a.time, size, 1.0f);
    float dk[ROWS][N] = {}, dv[ROWS][N] = {}, s[ROWS], dp[ROWS];
    for (int h = blockIdx.y * group; h < (int)(blockIdx.y + 1) * group; h++) {
        head_place from = place_of(a, b, h);
        for (int64_t tile = begin / WARP * WARP; tile < a.time; tile += WARP) {
            __syncthreads();
            stage(queries, stride, (const T *)a.q + from.q_at, from.q_stride, tile, WARP, a.time, size, 1.0f);
            stage(dys, stride, (const T *)a.dy + from.y_at, from.y_stride, tile, WARP, a.time, size, 1.0f);
            __syncthreads();
            int64_t query = tile + lane < a.time ? tile + lane : a.time - 1;
            float lse = a.lse[from.row_at + query], delta = a.delta[from.row_at + query];
            products<ROWS>(keys + warp * ROWS * size, queries + lane * stride, size, s);
            products<ROWS>(values + warp * ROWS * size, dys + lane * stride, size, dp);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                bool seen = tile + lane >= mine + r && tile + lane < a.time;
                s[r] = seen ? expf(s[r] - lse) : 0.0f;
                dp[r] = seen ? a.scale * s[r] * (dp[r] - delta) : 0.0f;
            }
            gather(s, dys, stride, size, dv);
            gather(dp, queries, stride, size, dk);
        }
    }
    for (int r = 0; r < ROWS; r++) s[r] = 1.0f;
    write_rows((T *)a.dk + p.kv_at, p.kv_stride, mine, a.time, size, dk, s);
    write_rows((T *)a.dv + p.kv_at, p.kv_stride, mine, a.time, size, dv, s);
}

typedef void (*kernel)(attention_arguments);

// Two tiles of 32 rows and so many more in shared memory.
void launch(const tr_call *call, kernel run, const attention_arguments &a, int heads, int more_rows)
{
    size_t shared = (size_t)(2 * WARP * (a.head_size + 1) + more_rows * a.head_size) * sizeof(float);
    cudaError_t code = cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (code != cudaSuccess) tr_cuda_note((tr_cuda_context *)call->device, code, call->node->op->name);
    dim3 grid(blocks_for(a.time, BLOCK_ROWS), (unsigned)heads, (unsigned)a.batch);
    run<<<grid, WARPS * WARP, shared, tr_cuda_stream(call)>>>(a);
    tr_cuda_launched(call);
}

template <int N, typename T> void launch_forward(const tr_call *call, const attention_arguments &a)
{
    launch(call, forward_kernel<N, T>, a, a.heads, BLOCK_ROWS);
}

template <int N, typename T> void launch_backward(const tr_call *call, const attention_arguments &a)
{
    launch(call, dq_kernel<N, T>, a, a.heads, 2 * BLOCK_ROWS);
    launch(call, dkv_kernel<N, T>, a, a.kv_heads, 2 * BLOCK_ROWS);
}

attention_arguments arguments_of(const tr_graph *graph, const tr_node *node)
{
    const tr_attention_options *options = (const tr_attention_options *)tr_node_attributes(node);
    const tr_shape *q = tr_input_shape(graph, node, 0);
    attention_arguments a = {};
    a.batch = (int32_t)q->dims[0];
    a.time = q->dims[1];
    a.key_rows = q->dims[1];
    a.heads = options->heads;
    a.kv_heads = options->kv_heads;
    a.head_size = options->head_size;
    a.scale = options->scale;
    a.q_stride = (int64_t)a.heads * a.head_size;
    a.kv_stride = (int64_t)a.kv_heads * a.head_size;
    return a;
}

// Where q, k and v, or their gradients, are parts of one array.
struct parts {
    char *q, *k, *v;
};

parts parts_of(void *qkv, const attention_arguments &a, tr_dtype dtype)
{
    int64_t bytes = (int64_t)tr_dtype_bytes(dtype), size = (int64_t)a.head_size * bytes;
    char *at = (char *)qkv;
    return {at, at + a.heads * size, at + (a.heads + a.kv_heads) * size};
}

int64_t packed_stride(const attention_arguments &a)
{
    return (int64_t)(a.heads + 2 * a.kv_heads) * a.head_size;
}

void set_packed(attention_arguments &a, const tr_call *call)
{
    parts p = parts_of(call->inputs[0], a, tr_graph_value(call->graph, call->node->inputs[0])->dtype);
    a.q = p.q;
    a.k = p.k;
    a.v = p.v;
    a.q_stride = a.kv_stride = packed_stride(a);
}

tr_status prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    (void)device, (void)prepared;
    int32_t size = arguments_of(graph, node).head_size;
    if (size <= MAX_HEAD) return TR_OK;
    return tr_fail(err, TR_EUNSUPPORTED, "attention with head size %d: device 'cuda' has kernels up to %d",
                   size, (int)MAX_HEAD);
}

// cuDNN's forward is the faster from here on: by 6% with head size 64, by 16 to 23% with 128. For shorter rows nobody has
// measured it, and its plan would cost a second.
enum { LONG_ROWS = 1024 };

tr_status plan_forward(const tr_graph *graph, const tr_node *node, const attention_arguments &a,
                       tr_cuda_context *context, void **prepared, tr_error *err)
{
    tr_status status = prepare(graph, node, context, prepared, err);
    bool faster = (a.head_size == 64 || a.head_size == 128) && a.time >= LONG_ROWS;
    if (status != TR_OK || !faster || tr_graph_value(graph, node->inputs[0])->dtype != TR_BF16) return status;
    tr_attention_shape shape = {a.batch,     a.time,     a.heads,     a.kv_heads,
                                a.head_size, a.q_stride, a.kv_stride, a.scale};
    *prepared = const_cast<tr_attention_plan *>(tr__attention_plan(context, &shape));
    return TR_OK;
}

tr_status prepare_forward(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                          tr_error *err)
{
    return plan_forward(graph, node, arguments_of(graph, node), (tr_cuda_context *)device, prepared, err);
}

tr_status prepare_packed_forward(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                                 tr_error *err)
{
    attention_arguments a = arguments_of(graph, node);
    a.q_stride = a.kv_stride = packed_stride(a);
    return plan_forward(graph, node, a, (tr_cuda_context *)device, prepared, err);
}

// Plans are the context's.
void keep(void *prepared, void *device)
{
    (void)prepared, (void)device;
}

template <typename T> void forward(const tr_call *call, const attention_arguments &a)
{
    if (a.head_size <= 2 * WARP)
        launch_forward<2, T>(call, a);
    else if (a.head_size <= 4 * WARP)
        launch_forward<4, T>(call, a);
    else
        launch_forward<8, T>(call, a);
}

// Masks of probabilities are not made here yet; without them a run that trains would be another.
void refuse_dropout(const tr_call *call)
{
    const tr_attention_options *options = (const tr_attention_options *)tr_node_attributes(call->node);
    if (options->dropout > 0 && call->random->training)
        tr_cuda_note_text((tr_cuda_context *)call->device, call->node->op->name,
                          "attention with dropout has no kernel yet; set the model's attention dropout to 0");
}

void forward_by_dtype(const tr_call *call, const attention_arguments &a)
{
    cudaStream_t stream = tr_cuda_stream(call);
    refuse_dropout(call);
    if (call->prepared) {
        tr_attention_operands operands = {a.q, a.k, a.v, a.out, a.lse};
        tr__attention_run((const tr_attention_plan *)call->prepared, (tr_cuda_context *)call->device,
                          &operands, call->node->op->name);
    } else if (is_bf16(call, 0) &&
               (attention_on_warpgroups(a, stream) || attention_on_tensor_cores(a, stream)))
        tr_cuda_launched(call);
    else
        TR_BY_STORAGE(call, 0, forward<T>(call, a));
}

void run(const tr_call *call)
{
    attention_arguments a = arguments_of(call->graph, call->node);
    a.q = call->inputs[0];
    a.k = call->inputs[1];
    a.v = call->inputs[2];
    a.out = call->outputs[0];
    a.lse = (float *)call->outputs[1];
    forward_by_dtype(call, a);
}

void run_packed(const tr_call *call)
{
    attention_arguments a = arguments_of(call->graph, call->node);
    set_packed(a, call);
    a.out = call->outputs[0];
    a.lse = (float *)call->outputs[1];
    forward_by_dtype(call, a);
}

size_t backward_workspace(const tr_graph *graph, const tr_node *node)
{
    attention_arguments a = arguments_of(graph, node);
    return 2 * (size_t)(a.batch * a.heads * padded_time(a)) * sizeof(float);
}

// What 64 rows of x (B,T,columns) add up to, one thread a column.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    row_sums_kernel(const T *x, float *sums, int64_t time, int64_t columns)
{
    int64_t column = (int64_t)blockIdx.x * THREADS + threadIdx.x, first = (int64_t)blockIdx.y * 64;
    if (column >= columns) return;
    const T *from = x + (blockIdx.z * time + first) * columns + column;
    float sum = 0;
    for (int64_t row = first; row < first + 64 && row < time; row++, from += columns) sum += (float)*from;
    sums[(blockIdx.z * (int64_t)gridDim.y + blockIdx.y) * columns + column] = sum;
}

// Gradients of packed rows; those who do not make their sums on the way have them made behind.
template <typename T> void sum_rows(const tr_call *call, const attention_arguments &a)
{
    int64_t columns = packed_stride(a);
    dim3 blocks(blocks_for(columns, THREADS), blocks_for(a.time, 64), (unsigned)a.batch);
    row_sums_kernel<T>
        <<<blocks, THREADS, 0, tr_cuda_stream(call)>>>((const T *)a.out, a.sums, a.time, columns);
    tr_cuda_launched(call);
}

template <typename T> void backward(const tr_call *call, const attention_arguments &a)
{
    int64_t rows = a.batch * a.time * a.heads;
    cudaStream_t stream = tr_cuda_stream(call);
    if (is_bf16(call, 0) && attention_backward_on_warpgroups(a, stream)) {
        tr_cuda_launched(call);
        return;
    }
    if (is_bf16(call, 0) && (a.head_size == 64 || a.head_size == 128))
        packed_delta_kernel<T><<<blocks_for(rows * a.head_size, THREADS * PACK<T>), THREADS, 0, stream>>>(a);
    else
        delta_kernel<T><<<blocks_for(rows, WARPS), WARPS * WARP, 0, stream>>>(a);
    if (is_bf16(call, 0) && attention_backward_on_tensor_cores(a, stream))
        tr_cuda_launched(call);
    else if (a.head_size <= 2 * WARP)
        launch_backward<2, T>(call, a);
    else if (a.head_size <= 4 * WARP)
        launch_backward<4, T>(call, a);
    else
        launch_backward<8, T>(call, a);
    if (a.sums) sum_rows<T>(call, a);
}

void set_workspace(attention_arguments &a, const tr_call *call)
{
    a.delta = (float *)call->workspace;
    a.binary_lse = a.delta + (int64_t)a.batch * a.heads * padded_time(a);
}

void run_backward(const tr_call *call)
{
    attention_arguments a = arguments_of(call->graph, call->node);
    a.q = call->inputs[0];
    a.k = call->inputs[1];
    a.v = call->inputs[2];
    a.y = call->inputs[3];
    a.lse = (float *)call->inputs[4];
    a.dy = call->inputs[5];
    a.out = call->outputs[0];
    a.dk = call->outputs[1];
    a.dv = call->outputs[2];
    set_workspace(a, call);
    TR_BY_STORAGE(call, 0, backward<T>(call, a));
}

void run_packed_backward(const tr_call *call)
{
    attention_arguments a = arguments_of(call->graph, call->node);
    set_packed(a, call);
    parts gradients =
        parts_of(call->outputs[0], a, tr_graph_value(call->graph, call->node->inputs[0])->dtype);
    a.y = call->inputs[1];
    a.lse = (float *)call->inputs[2];
    a.dy = call->inputs[3];
    a.out = gradients.q;
    a.dk = gradients.k;
    a.dv = gradients.v;
    a.sums = call->node->n_outputs > 1 ? (float *)call->outputs[1] : NULL;
    set_workspace(a, call);
    TR_BY_STORAGE(call, 0, backward<T>(call, a));
}

// rows (T,width) to the cache from row `position` on, of keys and values.
template <typename T>
__global__ void append_kernel(const T *k, const T *v, T *cache_k, T *cache_v, const int32_t *position,
                              int64_t n, int64_t width, int64_t cache_rows)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, first = *position;
    if (i >= n) return;
    if (first < 0 || first + n / width > cache_rows) __trap();
    cache_k[first * width + i] = k[i];
    cache_v[first * width + i] = v[i];
}

void run_cached(const tr_call *call)
{
    attention_arguments a = arguments_of(call->graph, call->node);
    int64_t width = (int64_t)a.kv_heads * a.head_size, n = a.time * width;
    a.key_rows = input_shape(call, 3)->dims[0];
    a.q = call->inputs[0];
    a.k = call->inputs[3];
    a.v = call->inputs[4];
    a.position = (const int32_t *)call->inputs[5];
    a.out = call->outputs[0];
    TR_BY_STORAGE(call, 0, {
        append_kernel<T><<<blocks_for(n, 256), 256, 0, tr_cuda_stream(call)>>>(
            (const T *)call->inputs[1], (const T *)call->inputs[2], (T *)call->inputs[3],
            (T *)call->inputs[4], a.position, n, width, a.key_rows);
        forward<T>(call, a);
    });
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_attention_kernels[] = {
    {"attention", troupe::run, NULL, troupe::prepare_forward, troupe::keep},
    {"attention_backward", troupe::run_backward, troupe::backward_workspace, troupe::prepare},
    {"attention_packed", troupe::run_packed, NULL, troupe::prepare_packed_forward, troupe::keep},
    {"attention_packed_backward", troupe::run_packed_backward, troupe::backward_workspace, troupe::prepare},
    {"attention_packed_backward_sums", troupe::run_packed_backward, troupe::backward_workspace,
     troupe::prepare},
    {"attention_cached", troupe::run_cached, NULL, troupe::prepare},
    {},
};
