/* pipelines/model.h - a model, from its configuration to its forward graph and the list of its parameters.
 * The graph is cut into units, the only places where a pipeline may cut it: unit 0 is the embedding, units 1
 * to L are the decoder layers, unit L+1 is the last norm, the head and the loss. From one unit to the next
 * goes ONE value, the residual stream, beside the inputs that any unit may read (tokens, targets, position).
 * Families are a table (model_family.h): adding one is a file and a line.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_MODEL_H
#define TROUPE_PIPELINES_MODEL_H

#include "pipelines/model_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_model_kind {
    TR_MODEL_TRAINING,  /* tokens, targets -> loss (1) f64, the sum over the rows that have a target */
    TR_MODEL_LOGITS,    /* tokens -> logits (B,T,V) */
    TR_MODEL_GENERATION /* B = 1: T tokens at `position` -> logits (1,T,V); keys and values in caches */
} tr_model_kind;

typedef struct tr_model_options {
    tr_model_kind kind;
    int32_t batch;      /* B */
    int32_t sequence;   /* T, at most the configuration's longest sequence */
    int32_t cache_rows; /* GENERATION: rows of every cache, from T to the configuration's positions */
    tr_dtype dtype;     /* of matrices and activations: TR_F32 or TR_BF16; all else is float32 always */
    int32_t length;     /* GENERATION: of the sequence that rotary frequencies are made for; 0: cache_rows */
} tr_model_options;

/* The named values of the graph; TR_NO_VALUE where the kind has none. Caches are the states "cache.N.k" and
 * "cache.N.v" (cache_rows,K*D) of layer N, from 0. */
typedef struct tr_model_values {
    tr_value tokens;   /* (B,T) i32 */
    tr_value targets;  /* (B,T) i32; negative: the row has none */
    tr_value position; /* (1) i32: position of the first of the T tokens */
    tr_value logits;   /* (B,T,V) */
    tr_value loss;     /* (1) f64, in nats */
} tr_model_values;

/* *graph is the caller's to destroy.
 * Errors: TR_EINVAL (options and configuration do not go together), TR_ENOMEM. */
tr_status tr_model_graph(const tr_model_config *config, const tr_model_options *options, tr_graph **graph,
                         tr_model_values *values, tr_error *err);

typedef struct tr_model_parameter {
    char *name;     /* as transformers saves it */
    tr_shape shape; /* as transformers saves it */
    float mean;     /* fresh weights: all `mean` where std is 0 (norms 1, biases 0), */
    float std;      /* else normal around it */
    bool decays;    /* rank 2 and more: weight decay applies */
} tr_model_parameter;

/* Every parameter once, in the order in which the forward first uses them: the i-th is also the i-th
 * TR_VALUE_PARAMETER of every graph of the model, and i is its index wherever one is asked for. */
typedef struct tr_model_parameters {
    tr_model_parameter *items; /* owned */
    size_t count, capacity_;
} tr_model_parameters;

tr_status tr_model_parameters_list(tr_model_parameters *out, const tr_model_config *config, tr_error *err);
void tr_model_parameters_release(tr_model_parameters *self);

#ifdef __cplusplus
}
#endif
#endif
