// ops/cuda/optimizer.cu - see optimizer.h. One thread block takes one block of one tensor.
// Source of AdamW: Loshchilov and Hutter, 2019.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/optimizer.h"

#include "base/memory.h"
#include "ops/cuda/elements.cuh"
#include "ops/optimizer.h"

#include <math.h>

namespace troupe {
namespace {

enum { THREADS = 256, WARPS = THREADS / WARP };

struct work {
    uint32_t tensor, block;
};

__device__ inline double block_sum(double x)
{
    __shared__ double warps[WARPS];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = x;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < WARPS; w++) sum += warps[w];
    return sum;
}

__device__ inline const float *gradient_of(const tr_cuda_tensor &t, const float *flat)
{
    return t.g ? t.g : flat + t.g_offset;
}

__global__ void __launch_bounds__(THREADS)
    squares_kernel(const tr_cuda_tensor *tensors, const float *flat, const work *items, double *sums)
{
    work item = items[blockIdx.x];
    const float *g = gradient_of(tensors[item.tensor], flat);
    int64_t n = tensors[item.tensor].n, begin = (int64_t)item.block * TR_NORM_BLOCK;
    int64_t end = begin + TR_NORM_BLOCK < n ? begin + TR_NORM_BLOCK : n;
    double sum = 0;
    int64_t i = begin + (int64_t)threadIdx.x * 4;
#pragma unroll 8 // so many loads on their way at once
    for (; i + 4 <= end; i += THREADS * 4) {
        float x[4];
        load<4>(g + i, x);
#pragma unroll
        for (int j = 0; j < 4; j++) sum += (double)x[j] * (double)x[j];
    }
    for (; i < end; i++) sum += (double)g[i] * (double)g[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// In the order of the items, by one thread; the others fetch.
__global__ void __launch_bounds__(1024) norm_kernel(const double *sums, int64_t n, double *norm)
{
    __shared__ double tile[1024];
    double sum = 0;
    for (int64_t first = 0; first < n; first += 1024) {
        __syncthreads();
        if (first + threadIdx.x < n) tile[threadIdx.x] = sums[first + threadIdx.x];
        __syncthreads();
        if (threadIdx.x != 0) continue;
        if (first + 1024 <= n) {
#pragma unroll 32 // so that nothing but additions waits for one another
            for (int i = 0; i < 1024; i++) sum += tile[i];
        } else {
            for (int i = 0; first + i < n; i++) sum += tile[i];
        }
    }
    if (threadIdx.x == 0) *norm = sqrt(sum);
}

// keep: 1 - lr decay, made for each tensor; rate: lr / (1 - beta1^t); root: 1 / sqrt(1 - beta2^t); scale: unless by the norm
struct update {
    float lr, rate, inverse_root, eps, beta1, beta2, rest1, rest2, scale;
    bool scaled;
    double clip_norm;
};

__device__ inline float updated(const update &u, float keep, float scale, float g, float p, float *m,
                                float *v)
{
    g *= scale;
    *m = u.beta1 * *m + u.rest1 * g;
    *v = u.beta2 * *v + u.rest2 * (g * g);
    return keep * p - u.rate * (*m / (sqrtf(*v) * u.inverse_root + u.eps));
}

template <int V>
__device__ inline void update_pack(const tr_cuda_tensor &t, const float *gradient, int64_t i, const update &u,
                                   float keep, float scale)
{
    float p[V], m[V], v[V], g[V];
    load<V>(t.p + i, p);
    load<V>(t.m + i, m);
    load<V>(t.v + i, v);
    load<V>(gradient + i, g);
#pragma unroll
    for (int j = 0; j < V; j++) p[j] = updated(u, keep, scale, g[j], p[j], &m[j], &v[j]);
    store<V>(t.p + i, p);
    store<V>(t.m + i, m);
    store<V>(t.v + i, v);
    if (t.bf16) store<V>((bf16 *)t.bf16 + i, p);
}

__global__ void __launch_bounds__(THREADS) adamw_kernel(const tr_cuda_tensor *tensors, const float *flat,
                                                        const work *items, const double *norm, update u)
{
    work item = items[blockIdx.x];
    tr_cuda_tensor t = tensors[item.tensor];
    float keep = (float)(1.0 - (double)u.lr * (double)t.weight_decay), scale = u.scale;
    if (!u.scaled) {
        if (!isfinite(*norm)) return;
        scale = u.clip_norm > 0 && *norm > u.clip_norm ? (float)(u.clip_norm / *norm) : 1.0f;
    }
    const float *g = gradient_of(t, flat);
    int64_t begin = (int64_t)item.block * TR_NORM_BLOCK;
    int64_t end = begin + TR_NORM_BLOCK < t.n ? begin + TR_NORM_BLOCK : t.n;
    int64_t i = begin + (int64_t)threadIdx.x * 4;
    for (; i + 4 <= end; i += THREADS * 4) update_pack<4>(t, g, i, u, keep, scale);
    for (; i < end; i++) update_pack<1>(t, g, i, u, keep, scale);
}

__global__ void accumulate_kernel(float *a, const float *b, int64_t n)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    for (int64_t end = i + 4 < n ? i + 4 : n; i < end; i++) a[i] += b[i];
}

__global__ void round_kernel(const float *from, bf16 *to, int64_t n)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    for (int64_t end = i + 4 < n ? i + 4 : n; i < end; i++) to[i] = (bf16)from[i];
}

tr_status launched(const char *what, tr_error *err)
{
    cudaError_t code = cudaGetLastError();
    return code == cudaSuccess ? TR_OK
                               : tr_fail(err, TR_EIO, "%s on CUDA: %s", what, cudaGetErrorString(code));
}

} // namespace
} // namespace troupe

using namespace troupe;

struct tr_cuda_optimizer {
    tr_stream *stream;
    tr_cuda_tensor *tensors; // these four on the device
    work *items;
    double *sums, *norm;
    int64_t n_items;
    const float *flat;
};

static cudaStream_t native(const tr_stream *stream)
{
    return (cudaStream_t)tr_stream_native(stream);
}

static tr_status upload(tr_cuda_optimizer *self, const tr_cuda_tensor *tensors, size_t n_tensors,
                        const work *items, tr_error *err)
{
    tr_device *device = tr_stream_device(self->stream);
    size_t n = (size_t)self->n_items;
    tr_status status = tr_device_allocate(device, TR_MEMORY_DEVICE, n_tensors * sizeof *tensors,
                                          (void **)&self->tensors, err);
    if (status == TR_OK)
        status = tr_device_allocate(device, TR_MEMORY_DEVICE, n * sizeof *items, (void **)&self->items, err);
    if (status == TR_OK)
        status = tr_device_allocate(device, TR_MEMORY_DEVICE, n * sizeof(double), (void **)&self->sums, err);
    if (status == TR_OK)
        status = tr_device_allocate(device, TR_MEMORY_DEVICE, sizeof(double), (void **)&self->norm, err);
    if (status == TR_OK)
        status = tr_stream_copy(self->stream, self->tensors, tensors, n_tensors * sizeof *tensors, err);
    if (status == TR_OK) status = tr_stream_copy(self->stream, self->items, items, n * sizeof *items, err);
    return status == TR_OK ? tr_stream_synchronize(self->stream, err) : status;
}

tr_status tr_cuda_optimizer_new(tr_cuda_optimizer **out, tr_stream *stream, const tr_cuda_tensor *tensors,
                                size_t n_tensors, tr_error *err)
{
    tr_cuda_optimizer *self = (tr_cuda_optimizer *)tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for an optimizer");
    self->stream = stream;
    for (size_t t = 0; t < n_tensors; t++) self->n_items += tr_norm_block_count(tensors[t].n);
    work *items = (work *)tr_alloc((size_t)self->n_items * sizeof *items);
    tr_status status = TR_OK;
    if (!items) status = tr_fail(err, TR_ENOMEM, "no memory for an optimizer of %zu tensors", n_tensors);
    if (status == TR_OK) {
        size_t n = 0;
        for (size_t t = 0; t < n_tensors; t++)
            for (int64_t b = 0; b < tr_norm_block_count(tensors[t].n); b++)
                items[n++] = {(uint32_t)t, (uint32_t)b};
        status = upload(self, tensors, n_tensors, items, err);
    }
    tr_free(items);
    if (status != TR_OK) {
        tr_cuda_optimizer_destroy(&self);
        return status;
    }
    *out = self;
    return TR_OK;
}

void tr_cuda_optimizer_destroy(tr_cuda_optimizer **self)
{
    tr_cuda_optimizer *optimizer = *self;
    if (!optimizer) return;
    tr_device *device = tr_stream_device(optimizer->stream);
    tr_stream_synchronize(optimizer->stream, NULL);
    tr_device_free(device, TR_MEMORY_DEVICE, optimizer->tensors);
    tr_device_free(device, TR_MEMORY_DEVICE, optimizer->items);
    tr_device_free(device, TR_MEMORY_DEVICE, optimizer->sums);
    tr_device_free(device, TR_MEMORY_DEVICE, optimizer->norm);
    tr_free(optimizer);
    *self = NULL;
}

void tr_cuda_optimizer_gradients(tr_cuda_optimizer *self, const float *flat)
{
    self->flat = flat;
}

tr_status tr_cuda_optimizer_squares(tr_cuda_optimizer *self, tr_error *err)
{
    tr_status status = tr_device_use(tr_stream_device(self->stream), err);
    if (status != TR_OK || self->n_items == 0) return status;
    squares_kernel<<<(unsigned)self->n_items, THREADS, 0, native(self->stream)>>>(self->tensors, self->flat,
                                                                                  self->items, self->sums);
    return launched("the squares of gradients", err);
}

const double *tr_cuda_optimizer_squares_at(const tr_cuda_optimizer *self, int64_t *n)
{
    *n = self->n_items;
    return self->sums;
}

tr_status tr_cuda_optimizer_norm(tr_cuda_optimizer *self, tr_error *err)
{
    cudaStream_t stream = native(self->stream);
    tr_status status = tr_cuda_optimizer_squares(self, err);
    if (status != TR_OK) return status;
    norm_kernel<<<1, 1024, 0, stream>>>(self->sums, self->n_items, self->norm);
    return launched("the norm of gradients", err);
}

const double *tr_cuda_optimizer_norm_at(const tr_cuda_optimizer *self)
{
    return self->norm;
}

tr_status tr_cuda_optimizer_step(tr_cuda_optimizer *self, const tr_cuda_step_options *options, tr_error *err)
{
    TR_ASSERT(options->step >= 1);
    update u = {};
    u.lr = (float)options->lr;
    u.rate = (float)(options->lr / (1.0 - pow(options->beta1, options->step)));
    u.inverse_root = (float)(1.0 / sqrt(1.0 - pow(options->beta2, options->step)));
    u.eps = (float)options->eps;
    u.beta1 = (float)options->beta1;
    u.beta2 = (float)options->beta2;
    u.rest1 = (float)(1.0 - options->beta1);
    u.rest2 = (float)(1.0 - options->beta2);
    u.clip_norm = options->clip_norm;
    u.scaled = options->scaled;
    u.scale = (float)options->scale;
    tr_status status = tr_device_use(tr_stream_device(self->stream), err);
    if (status != TR_OK || self->n_items == 0) return status;
    adamw_kernel<<<(unsigned)self->n_items, THREADS, 0, native(self->stream)>>>(self->tensors, self->flat,
                                                                                self->items, self->norm, u);
    return launched("AdamW", err);
}

tr_status tr_cuda_accumulate(tr_stream *stream, float *a, const float *b, int64_t n, tr_error *err)
{
    tr_status status = tr_device_use(tr_stream_device(stream), err);
    if (status != TR_OK || n == 0) return status;
    accumulate_kernel<<<blocks_for(n, THREADS * 4), THREADS, 0, native(stream)>>>(a, b, n);
    return launched("a sum of gradients", err);
}

tr_status tr_cuda_round_bf16(tr_stream *stream, const float *from, void *to, int64_t n, tr_error *err)
{
    tr_status status = tr_device_use(tr_stream_device(stream), err);
    if (status != TR_OK || n == 0) return status;
    round_kernel<<<blocks_for(n, THREADS * 4), THREADS, 0, native(stream)>>>(from, (bf16 *)to, n);
    return launched("rounding to bfloat16", err);
}
