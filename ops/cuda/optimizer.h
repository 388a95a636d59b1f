/* ops/cuda/optimizer.h - the arithmetic of a step after the backward, on a GPU: the norm of all gradients and AdamW
 * over all tensors, three launches whatever their number, and no look back from the host in between.
 * Squares are summed over the blocks of ops/optimizer.h, in double, then in (tensor, block) order: as long as a
 * tensor is whole here, no layout changes a bit. Masters and moments are float32; where a tensor has a bfloat16
 * copy, it is written with the update.
 * Threads: that of the stream.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CUDA_OPTIMIZER_H
#define TROUPE_OPS_CUDA_OPTIMIZER_H

#include "base/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_cuda_tensor {
    float *p, *m, *v; /* master and moments, updated in place; all on the device */
    const float
        *g; /* the sum of its uses' gradients; NULL: at g_offset of the flat gradient given to each call */
    int64_t g_offset;   /* elements */
    void *bf16;         /* the copy that products read, or NULL */
    int64_t n;          /* elements */
    float weight_decay; /* 0 for tensors that are not decayed */
} tr_cuda_tensor;

typedef struct tr_cuda_step_options {
    double lr, beta1, beta2, eps;
    double clip_norm; /* 0: none */
    bool scaled; /* gradients are multiplied by `scale`, whatever the norm, which need not be there then */
    double scale;
    uint32_t step; /* from 1: for the bias correction */
} tr_cuda_step_options;

typedef struct tr_cuda_optimizer tr_cuda_optimizer;

/* Keeps a copy of the table. Errors: TR_ENOMEM, TR_EIO. */
tr_status tr_cuda_optimizer_new(tr_cuda_optimizer **out, tr_stream *stream, const tr_cuda_tensor *tensors,
                                size_t n_tensors, tr_error *err);
void tr_cuda_optimizer_destroy(tr_cuda_optimizer **self); /* NULL-safe */

/* Where the flat gradient lies from the next call on; for tensors whose g is NULL. */
void tr_cuda_optimizer_gradients(tr_cuda_optimizer *self, const float *flat);

/* Queues the sums of squares: one double a block, in order of (tensor, block), on the device. */
tr_status tr_cuda_optimizer_squares(tr_cuda_optimizer *self, tr_error *err);
const double *tr_cuda_optimizer_squares_at(const tr_cuda_optimizer *self, int64_t *n);

/* Queues them and the norm. The result is read through tr_cuda_optimizer_norm_at once the stream is done. */
tr_status tr_cuda_optimizer_norm(tr_cuda_optimizer *self, tr_error *err);
const double *tr_cuda_optimizer_norm_at(const tr_cuda_optimizer *self); /* on the device */

/* Queues the update: gradients are scaled by clip_norm / norm where that is below 1. A norm that is not finite
 * means no update. After tr_cuda_optimizer_norm, unless they are scaled. */
tr_status tr_cuda_optimizer_step(tr_cuda_optimizer *self, const tr_cuda_step_options *options, tr_error *err);

/* a[i] += b[i], n elements on the device: gradients of several uses of a tensor, in graph order. */
tr_status tr_cuda_accumulate(tr_stream *stream, float *a, const float *b, int64_t n, tr_error *err);

/* to[i] = from[i] rounded to bfloat16. */
tr_status tr_cuda_round_bf16(tr_stream *stream, const float *from, void *to, int64_t n, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
