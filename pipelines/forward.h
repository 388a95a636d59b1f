/* pipelines/forward.h - a model directory in memory, and forward programs over its weights.
 * Internal to pipelines/: what generation, evaluation and tests share. Training has its own (actors/).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_FORWARD_H
#define TROUPE_PIPELINES_FORWARD_H

#include "ops/program.h"
#include "pipelines/model.h"

typedef struct tr_loaded_model {
    tr_model_config config;
    tr_model_parameters parameters;
    float **weights; /* by parameter, cache-line aligned */
} tr_loaded_model;

/* Errors: those of tr_model_config_read and tr_weights_open, TR_ENOMEM. */
tr_status tr__loaded_model_open(tr_loaded_model *out, const char *directory, tr_error *err);
void tr__loaded_model_release(tr_loaded_model *self);

/* A forward graph with its program and memory. The caller binds inputs, outputs and states by storing
 * pointers in `bound`; weights are bound already. */
typedef struct tr_forward {
    tr_graph *graph;
    tr_model_values values;
    tr_program *program;
    void **bound; /* by value */
    void *stash, *scratch;
} tr_forward;

/* `model` must outlive it. Errors: those of tr_model_graph and tr_program_new. */
tr_status tr__forward_init(tr_forward *out, const tr_loaded_model *model, const tr_model_options *options,
                           int n_threads, tr_error *err);
void tr__forward_release(tr_forward *self);
void tr__forward_run(tr_forward *self, tr_thread_pool *pool);

/* Cache-line aligned and zero; NULL when there is no memory. Free with tr_free. */
void *tr__alloc_tensor(int64_t elements, size_t element_bytes);

#endif
