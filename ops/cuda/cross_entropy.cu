// ops/cuda/cross_entropy.cu - the loss of predicting tokens: one pass over a row of logits with a running maximum
// and sum, and a backward that makes probabilities again where the logits stood. Probabilities are never stored.
// Losses of rows are added in double, in an order that the number of rows alone tells.
// Source of the running maximum: Milakov and Gimelshein, 2018.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cross_entropy.h"
#include "ops/cuda/elements.cuh"

#include <math.h>

namespace troupe {
namespace {

enum { THREADS = 512, WARPS = THREADS / WARP };

// Of numbers of T: a product with log2 e rounded once more is nothing to bfloat16.
template <typename T> __device__ inline float exponential(float x)
{
    return sizeof(T) == 2 ? __expf(x) : expf(x);
}

struct running {
    float most, sum; // sum of exp(x - most)
};

template <typename T> __device__ inline running join(running a, running b)
{
    float most = fmaxf(a.most, b.most);
    if (most == -INFINITY) return a;
    return {most, a.sum * exponential<T>(a.most - most) + b.sum * exponential<T>(b.most - most)};
}

// Of a row, in thread 0; KEEP: the row is left in shared memory by the threads that read it.
template <int V, bool KEEP, typename T>
__device__ inline running log_sum_row(const T *x, T *kept, int64_t vocabulary)
{
    __shared__ running warps[WARPS];
    running r = {-INFINITY, 0};
    for (int64_t c = (int64_t)threadIdx.x * V; c < vocabulary; c += THREADS * V) {
        float v[V];
        load<V>(x + c, v);
        if (KEEP) store<V>(kept + c, v);
        running here = {v[0], 0};
#pragma unroll
        for (int j = 1; j < V; j++) here.most = fmaxf(here.most, v[j]);
#pragma unroll
        for (int j = 0; j < V; j++) here.sum += exponential<T>(v[j] - here.most);
        r = join<T>(r, here);
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
        running other = {__shfl_xor_sync(0xffffffffu, r.most, step),
                         __shfl_xor_sync(0xffffffffu, r.sum, step)};
        r = join<T>(r, other);
    }
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = r;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int w = 1; w < WARPS; w++) r = join<T>(r, warps[w]);
    return r;
}

template <int V, typename T>
__global__ void __launch_bounds__(THREADS)
    loss_rows_kernel(const T *logits, const int32_t *targets, float *lse, double *losses, int64_t vocabulary)
{
    int64_t row = blockIdx.x;
    const T *x = logits + row * vocabulary;
    running r = log_sum_row<V, false, T>(x, NULL, vocabulary);
    if (threadIdx.x != 0) return;
    double log_sum = (double)r.most + log((double)r.sum);
    int32_t target = targets[row];
    if (target >= vocabulary) __trap();
    if (lse) lse[row] = (float)log_sum;
    losses[row] = target < 0 ? 0.0 : log_sum - (double)(float)x[target];
}

// The loss of a row and, in its place, the gradient of its logits for a factor of 1: zeros without a target. KEEP: a row
// fits in shared memory and is read once.
template <int V, bool KEEP, typename T>
__global__ void __launch_bounds__(THREADS)
    slopes_kernel(const T *logits, const int32_t *targets, double *losses, T *slopes, int64_t vocabulary)
{
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ float shift_of_row;
    int64_t row = blockIdx.x;
    const T *x = logits + row * vocabulary;
    T *kept = (T *)shared, *to = slopes + row * vocabulary;
    int32_t target = targets[row];
    if (target >= vocabulary) __trap();
    running r = log_sum_row<V, KEEP, T>(x, kept, vocabulary);
    if (threadIdx.x == 0) {
        double log_sum = (double)r.most + log((double)r.sum);
        shift_of_row = (float)log_sum;
        losses[row] = target < 0 ? 0.0 : log_sum - (double)(float)x[target];
    }
    __syncthreads();
    float shift = shift_of_row;
    for (int64_t c = (int64_t)threadIdx.x * V; c < vocabulary; c += THREADS * V) {
        float v[V];
        load<V>(KEEP ? kept + c : x + c, v);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = target < 0 ? 0.0f : exponential<T>(v[j] - shift) - (c + j == target ? 1.0f : 0.0f);
        store<V>(to + c, v);
    }
}

__global__ void __launch_bounds__(THREADS) loss_total_kernel(const double *losses, double *loss, int64_t rows)
{
    __shared__ double warps[WARPS];
    double sum = 0;
    for (int64_t r = threadIdx.x; r < rows; r += THREADS) sum += losses[r];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < WARPS; w++) sum += warps[w];
    *loss = sum;
}

size_t workspace(const tr_graph *graph, const tr_node *node)
{
    return (size_t)tr_shape_elements(tr_input_shape(graph, node, 1)) * sizeof(double);
}

template <int V, typename T>
void launch_rows(cudaStream_t stream, const void *logits, const int32_t *targets, float *lse, double *losses,
                 int64_t rows, int64_t vocabulary)
{
    loss_rows_kernel<V, T>
        <<<(unsigned)rows, THREADS, 0, stream>>>((const T *)logits, targets, lse, losses, vocabulary);
}

// Two blocks of 512 threads a multiprocessor hide what each waits for: rows larger than half of its memory are read again.
enum { MOST_KEPT_BYTES = 110 * 1024 };

template <int V, bool KEEP, typename T>
cudaError_t launch_slopes(cudaStream_t stream, const void *logits, const int32_t *targets, double *losses,
                          void *slopes, int64_t rows, int64_t vocabulary)
{
    size_t bytes = KEEP ? (size_t)vocabulary * sizeof(T) : 0;
    cudaError_t code = cudaFuncSetAttribute(slopes_kernel<V, KEEP, T>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess) return code;
    slopes_kernel<V, KEEP, T><<<(unsigned)rows, THREADS, bytes, stream>>>((const T *)logits, targets, losses,
                                                                          (T *)slopes, vocabulary);
    return cudaGetLastError();
}

template <int V, typename T>
cudaError_t choose_slopes(cudaStream_t stream, const void *logits, const int32_t *targets, double *losses,
                          void *slopes, int64_t rows, int64_t vocabulary)
{
    if ((size_t)vocabulary * sizeof(T) <= MOST_KEPT_BYTES)
        return launch_slopes<V, true, T>(stream, logits, targets, losses, slopes, rows, vocabulary);
    return launch_slopes<V, false, T>(stream, logits, targets, losses, slopes, rows, vocabulary);
}

void note(const tr_call *call, cudaError_t code)
{
    if (code != cudaSuccess) tr_cuda_note((tr_cuda_context *)call->device, code, call->node->op->name);
}

void run(const tr_call *call)
{
    int64_t rows = tr_shape_rows(input_shape(call, 0)), vocabulary = tr_shape_last(input_shape(call, 0));
    double *losses = (double *)call->workspace;
    cudaStream_t stream = tr_cuda_stream(call);
    note(call, tr__cuda_loss_rows(stream, call->inputs[0], (const int32_t *)call->inputs[1],
                                  (float *)call->outputs[1], losses, rows, vocabulary,
                                  tr_input_dtype(call->graph, call->node, 0)));
    note(call, tr__cuda_loss_total(stream, losses, (double *)call->outputs[0], rows));
}

void run_slopes(const tr_call *call)
{
    int64_t rows = tr_shape_rows(input_shape(call, 0)), vocabulary = tr_shape_last(input_shape(call, 0));
    double *losses = (double *)call->workspace;
    cudaStream_t stream = tr_cuda_stream(call);
    note(call, tr__cuda_loss_slopes(stream, call->inputs[0], (const int32_t *)call->inputs[1], losses,
                                    call->outputs[0], rows, vocabulary,
                                    tr_input_dtype(call->graph, call->node, 0)));
    note(call, tr__cuda_loss_total(stream, losses, (double *)call->outputs[1], rows));
}

// dlogits = factor * (exp(logits - lse) - onehot), 0 for rows without a target; dlogits may be logits.
template <int V, typename T>
__global__ void __launch_bounds__(THREADS)
    backward_kernel(const T *logits, const int32_t *targets, const float *lse, const float *factor,
                    T *dlogits, int64_t vocabulary)
{
    int64_t row = blockIdx.x;
    int32_t target = targets[row];
    float scale = target < 0 ? 0 : *factor, shift = lse[row];
    for (int64_t c = (int64_t)threadIdx.x * V; c < vocabulary; c += THREADS * V) {
        float v[V];
        load<V>(logits + row * vocabulary + c, v);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = scale == 0 ? 0 : scale * (exponential<T>(v[j] - shift) - (c + j == target ? 1.0f : 0.0f));
        store<V>(dlogits + row * vocabulary + c, v);
    }
}

template <int V, typename T> void launch_backward(const tr_call *call)
{
    int64_t rows = tr_shape_rows(input_shape(call, 0)), vocabulary = tr_shape_last(input_shape(call, 0));
    backward_kernel<V, T><<<(unsigned)rows, THREADS, 0, tr_cuda_stream(call)>>>(
        (const T *)call->inputs[0], (const int32_t *)call->inputs[1], (const float *)call->inputs[2],
        (const float *)call->inputs[3], (T *)call->outputs[0], vocabulary);
    tr_cuda_launched(call);
}

void run_backward(const tr_call *call)
{
    bool packed = tr_shape_last(input_shape(call, 0)) % 8 == 0;
    TR_BY_STORAGE(call, 0, packed ? launch_backward<PACK<T>, T>(call) : launch_backward<1, T>(call));
}

} // namespace
} // namespace troupe

// Rows of packs where they are aligned.
#define TR_BY_LOGITS(dtype, vocabulary, function, ...)                                                       \
    ((dtype) == TR_BF16 ? ((vocabulary) % 8 == 0 ? troupe::function<8, troupe::bf16>(__VA_ARGS__)            \
                                                 : troupe::function<1, troupe::bf16>(__VA_ARGS__))           \
                        : ((vocabulary) % 8 == 0 ? troupe::function<4, float>(__VA_ARGS__)                   \
                                                 : troupe::function<1, float>(__VA_ARGS__)))

cudaError_t tr__cuda_loss_rows(cudaStream_t stream, const void *logits, const int32_t *targets, float *lse,
                               double *losses, int64_t rows, int64_t vocabulary, tr_dtype dtype)
{
    TR_BY_LOGITS(dtype, vocabulary, launch_rows, stream, logits, targets, lse, losses, rows, vocabulary);
    return cudaGetLastError();
}

cudaError_t tr__cuda_loss_slopes(cudaStream_t stream, const void *logits, const int32_t *targets,
                                 double *losses, void *slopes, int64_t rows, int64_t vocabulary,
                                 tr_dtype dtype)
{
    return TR_BY_LOGITS(dtype, vocabulary, choose_slopes, stream, logits, targets, losses, slopes, rows,
                        vocabulary);
}

cudaError_t tr__cuda_loss_total(cudaStream_t stream, const double *losses, double *loss, int64_t rows)
{
    troupe::loss_total_kernel<<<1, troupe::THREADS, 0, stream>>>(losses, loss, rows);
    return cudaGetLastError();
}

extern "C" const tr_kernel tr__cuda_cross_entropy_kernels[] = {
    {"cross_entropy", troupe::run, troupe::workspace},
    {"cross_entropy_slopes", troupe::run_slopes, troupe::workspace},
    {"cross_entropy_backward", troupe::run_backward},
    {},
};
