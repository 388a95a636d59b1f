// ops/cuda/dropout.cu - y = x * mask / (1 - rate), with the masks of ops/dropout.c: a function of the element's index,
// made again in the backward. A thread draws a block of Philox, which is for four elements 16 apart.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/elements.cuh"
#include "ops/dropout.h"

namespace troupe {
namespace {

enum { THREADS = 256, DRAWN = 4, APART = TR_DROPOUT_GROUP / DRAWN };

// base/rng.c's, word for word.
__device__ inline void philox(uint32_t c0, uint32_t c1, const uint32_t *key, uint32_t (&out)[4])
{
    uint32_t c2 = 0, c3 = 0, k0 = key[0], k1 = key[1];
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// Products rather than choices: what is not a number stays so.
template <typename T>
__global__ void __launch_bounds__(THREADS) dropout_kernel(const T *x, T *y, int64_t n, tr_dropout_mask mask)
{
    uint64_t block = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t first = (int64_t)(block / APART * TR_DROPOUT_GROUP + block % APART);
    if (first >= n) return;
    uint32_t words[DRAWN];
    philox((uint32_t)block, (uint32_t)(block >> 32), mask.key, words);
#pragma unroll
    for (int w = 0; w < DRAWN; w++) {
        int64_t i = first + w * APART;
        if (i < n) y[i] = (T)((float)x[i] * (words[w] < mask.threshold ? 0.0f : mask.scale));
    }
}

void run_with(const tr_call *call, int32_t use)
{
    const dropout_attributes *attributes = (const dropout_attributes *)tr_node_attributes(call->node);
    tr_dropout_mask mask;
    int64_t n = tr_shape_elements(input_shape(call, 0));
    if (!tr_dropout_mask_init(&mask, call->random, attributes->rate, use)) {
        size_t bytes = (size_t)n * tr_dtype_bytes(tr_graph_value(call->graph, call->node->inputs[0])->dtype);
        if (call->outputs[0] != call->inputs[0])
            cudaMemcpyAsync(call->outputs[0], call->inputs[0], bytes, cudaMemcpyDefault,
                            tr_cuda_stream(call));
        tr_cuda_launched(call);
        return;
    }
    unsigned blocks =
        blocks_for(n, THREADS * DRAWN) + 1; // the last group may be begun by threads of the next block
    TR_BY_STORAGE(call, 0,
                  (dropout_kernel<T><<<blocks, THREADS, 0, tr_cuda_stream(call)>>>(
                      (const T *)call->inputs[0], (T *)call->outputs[0], n, mask)));
    tr_cuda_launched(call);
}

void run(const tr_call *call)
{
    run_with(call, call->node->use);
}

void run_backward(const tr_call *call)
{
    run_with(call, ((const dropout_attributes *)tr_node_attributes(call->node))->use);
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_dropout_kernels[] = {
    {"dropout", troupe::run, NULL, NULL, NULL, false, true},
    {"dropout_backward", troupe::run_backward, NULL, NULL, NULL, false, true},
    {},
};
