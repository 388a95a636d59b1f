/* bench/gpu/training.h - a whole model trained on one GPU by hand, without actors: what the measurements time and
 * what holds the GPU's arithmetic to the golden cases. The graph, program and optimizer are the project's own.
 * float32 masters and moments; a bfloat16 model has bfloat16 copies of its matrices beside them.
 * Nothing waits for the GPU but reading.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BENCH_GPU_TRAINING_H
#define TROUPE_BENCH_GPU_TRAINING_H

#include "base/device.h"
#include "ops/program.h"
#include "pipelines/forward.h"

typedef struct gpu_training gpu_training;

typedef struct gpu_training_options {
    int32_t batch, sequence; /* of a micro-batch */
    tr_dtype dtype;          /* TR_F32 or TR_BF16 */
    double beta1, beta2, eps, weight_decay, clip_norm;
    bool fp8;       /* products of the layers (ops/use_fp8.h) */
    int64_t logits; /* tokens whose logits exist at a time; 0: as tr_graph_chunk_logits thinks fit */
    bool time_kernels;
    tr_product_choices *choices; /* as tr_program_options has */
} gpu_training_options;

/* Takes the weights of `model`, which must outlive it. Errors: the device's, TR_ENOMEM. */
tr_status gpu_training_new(gpu_training **out, tr_device *device, const tr_loaded_model *model,
                           const gpu_training_options *options, tr_error *err);
void gpu_training_destroy(gpu_training **self); /* NULL-safe */

/* Queues forward, backward and weight gradients of (batch,sequence) tokens, in host memory that stays until the next
 * gpu_training_read. `factor`: of the summed loss. The first micro-batch of a step begins its sums. */
tr_status gpu_training_microbatch(gpu_training *self, const int32_t *tokens, const int32_t *targets,
                                  float factor, bool first, tr_error *err);
/* Queues the norm of the gradients and AdamW; step counts from 1. */
tr_status gpu_training_update(gpu_training *self, double lr, uint32_t step, tr_error *err);
/* Waits. The loss summed over the step's micro-batches, and the norm before clipping. */
tr_status gpu_training_read(gpu_training *self, double *loss, double *norm, tr_error *err);
/* Waits. Master of parameter `index`. */
tr_status gpu_training_weights(gpu_training *self, size_t index, float *out, tr_error *err);

/* What a step does beside its graph, with time_kernels: ms since it was made, as of the last gpu_training_read. */
typedef struct gpu_training_times {
    double norm; /* with the sums of several uses */
    double adamw;
} gpu_training_times;
gpu_training_times gpu_training_other_times(const gpu_training *self);

size_t gpu_training_device_bytes(const gpu_training *self); /* that it allocated */
const tr_program *gpu_training_program(const gpu_training *self);
tr_stream *gpu_training_stream(gpu_training *self);

#endif
