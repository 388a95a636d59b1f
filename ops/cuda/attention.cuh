// ops/cuda/attention.cuh - what attention's kernels are given. q, dq, y, dy (B,T,H*D); k, v, dk, dv (B,rows,K*D), of
// which rows is T, or a cache's; lse, delta (B,H,T). Query t sees keys 0 to first + t. Rows of q and dq, and of k, v, dk
// and dv, may stand further apart than they are wide: so they are parts of one array.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_ATTENTION_CUH
#define TROUPE_OPS_CUDA_ATTENTION_CUH

#include "ops/cuda/elements.cuh"

namespace troupe {

struct attention_arguments {
    const void *q, *k, *v, *y, *dy;
    void *out; // y of the forward, dq
    void *dk, *dv;
    float *lse;              // written by the forward (NULL: not wanted), read by the backward
    float *delta;            // sum of dy * y a row; (B,H,padded_time) on warpgroups
    float *binary_lse;       // lse / ln 2, of warpgroups alone, which make both themselves, as padded
    float *sums;             // (slabs,(H+2K)*D): what rows of dq, dk and dv add up to; NULL: not wanted
    const int32_t *position; // first, on the device; NULL: 0
    int64_t time, key_rows, q_stride, kv_stride; // of rows, in elements
    int32_t batch, heads, kv_heads, head_size;
    float scale;
};

// Whole tiles of rows.
__host__ __device__ inline int64_t padded_time(const attention_arguments &a)
{
    return (a.time + 63) / 64 * 64;
}

// Where a head's rows stand.
struct head_place {
    int64_t q_at, q_stride, y_at, y_stride, kv_at, kv_stride, row_at; // row_at: in lse and delta
};

__device__ inline head_place place_of(const attention_arguments &a, int b, int h)
{
    head_place p;
    p.q_stride = a.q_stride;
    p.y_stride = (int64_t)a.heads * a.head_size;
    p.kv_stride = a.kv_stride;
    p.q_at = b * a.time * p.q_stride + (int64_t)h * a.head_size;
    p.y_at = b * a.time * p.y_stride + (int64_t)h * a.head_size;
    p.kv_at = b * a.key_rows * p.kv_stride + (int64_t)(h / (a.heads / a.kv_heads)) * a.head_size;
    p.row_at = ((int64_t)b * a.heads + h) * a.time;
    return p;
}

// For bfloat16 and head sizes 64 and 128, on tensor cores; false where they do not serve.
bool attention_on_tensor_cores(const attention_arguments &a, cudaStream_t stream);
bool attention_backward_on_tensor_cores(const attention_arguments &a, cudaStream_t stream);
// The same on Hopper's warpgroup products; false on other GPUs. The backward needs no delta: it makes it.
bool attention_on_warpgroups(const attention_arguments &a, cudaStream_t stream);
bool attention_backward_on_warpgroups(const attention_arguments &a, cudaStream_t stream);

} // namespace troupe

#endif
