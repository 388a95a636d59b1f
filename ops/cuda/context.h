/* ops/cuda/context.h - what CUDA kernels are launched with. Internal to ops/cuda/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CUDA_CONTEXT_H
#define TROUPE_OPS_CUDA_CONTEXT_H

#include "ops/cuda/kernels.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tr_cuda_context {
    tr_stream *stream;
    cudaStream_t native;
    void *blas;      /* cublasLtHandle_t */
    void *dnn;       /* of attention (dnn.h); NULL as long as nobody asked for it, or where it is not */
    void *workspace; /* of cuBLASLt */
    size_t workspace_bytes;
    float *numbers;              /* 0 and 1, on the device: what scaled products multiply C by */
    tr_product_choices *choices; /* NULL: the library's own */
    char *spare;                 /* to measure in */
    size_t spare_bytes;
    tr_error error; /* the first that a launch met */
};

/* Notes a launch or a call that failed; `what` is the operation. */
void tr_cuda_note(tr_cuda_context *self, cudaError_t code, const char *what);
void tr_cuda_note_text(tr_cuda_context *self, const char *what, const char *text);

/* After every launch of `call`'s operation. */
static inline void tr_cuda_launched(const tr_call *call)
{
    cudaError_t code = cudaGetLastError();
    if (code != cudaSuccess) tr_cuda_note((tr_cuda_context *)call->device, code, call->node->op->name);
}

static inline cudaStream_t tr_cuda_stream(const tr_call *call)
{
    return ((tr_cuda_context *)call->device)->native;
}

#ifdef __cplusplus
}
#endif
#endif
