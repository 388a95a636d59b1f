// ops/cuda/elements.cuh - what the kernels share: storage of either type read as float, warps that agree on a sum.
// Storage is float32 or bfloat16; arithmetic is float32 always. All buffers begin on a cache line, so a row whose
// width is a multiple of V elements is read in packs of V.
// Sums are by butterflies, whose order is the lanes' alone: the same bits in every run.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_ELEMENTS_CUH
#define TROUPE_OPS_CUDA_ELEMENTS_CUH

#include "ops/attributes.h"
#include "ops/cuda/context.h"
#include "ops/infer.h"

#include <cuda_bf16.h>
#include <stdint.h>

namespace troupe {

typedef __nv_bfloat16 bf16;

enum { WARP = 32 };

// As many elements as 16 bytes hold.
template <typename T> constexpr int PACK = 16 / (int)sizeof(T);

template <int V, typename T> struct alignas(V * sizeof(T)) pack {
    T at[V];
};

template <int V, typename T> __device__ inline void load(const T *from, float (&x)[V])
{
    pack<V, T> p = *reinterpret_cast<const pack<V, T> *>(from);
#pragma unroll
    for (int i = 0; i < V; i++) x[i] = (float)p.at[i];
}

template <int V, typename T> __device__ inline void store(T *to, const float (&x)[V])
{
    pack<V, T> p;
#pragma unroll
    for (int i = 0; i < V; i++) p.at[i] = (T)x[i];
    *reinterpret_cast<pack<V, T> *>(to) = p;
}

// All lanes get the sum.
__device__ inline float warp_sum(float x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ inline float warp_max(float x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

__device__ inline double warp_sum(double x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// Blocks of `each` for n of something; a grid is never empty.
static inline unsigned blocks_for(int64_t n, int64_t each)
{
    int64_t blocks = (n + each - 1) / each;
    return (unsigned)(blocks > 0 ? blocks : 1);
}

static inline const tr_shape *input_shape(const tr_call *call, int i)
{
    return tr_input_shape(call->graph, call->node, i);
}

static inline const tr_shape *output_shape(const tr_call *call, int i)
{
    return &tr_graph_value(call->graph, call->node->outputs[i])->shape;
}

static inline bool is_bf16(const tr_call *call, int input)
{
    return tr_graph_value(call->graph, call->node->inputs[input])->dtype == TR_BF16;
}

} // namespace troupe

// Runs the statement with T as the storage type of that input.
#define TR_BY_STORAGE(call, input, ...)                                                                      \
    do {                                                                                                     \
        if (troupe::is_bf16(call, input)) {                                                                  \
            typedef troupe::bf16 T;                                                                          \
            __VA_ARGS__;                                                                                     \
        } else {                                                                                             \
            typedef float T;                                                                                 \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)

#endif
