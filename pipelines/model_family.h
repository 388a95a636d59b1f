/* pipelines/model_family.h - what a family of models is: three functions that write its forward operations.
 * Internal to pipelines/. To add a family: its value in tr_family with what model_config.c reads of
 * config.json, a file such as llama.c, and a line in the table of model.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_MODEL_FAMILY_H
#define TROUPE_PIPELINES_MODEL_FAMILY_H

#include "pipelines/model.h"

typedef struct tr_model_builder {
    tr_graph *graph;
    const tr_model_config *config;
    const tr_model_options *options;
    tr_value tokens;                 /* (B,T) i32 */
    tr_value position;               /* (1) i32, or TR_NO_VALUE where sequences begin at 0 */
    tr_model_parameters *parameters; /* the list that weights are added to, or NULL */
} tr_model_builder;

typedef struct tr_model_family {
    tr_family family;
    const char *prefix; /* of tensor names; files of the bare model lack it */
    /* Ends of tensor names that old files hold beside the weights and that mean nothing, NULL behind them. */
    const char *const *harmless;
    tr_value (*embed)(tr_model_builder *b);                            /* -> x (B,T,C) */
    tr_value (*layer)(tr_model_builder *b, tr_value x, int32_t layer); /* -> x (B,T,C); layer counts from 0 */
    tr_value (*head)(tr_model_builder *b, tr_value x);                 /* -> logits (B,T,V) */
} tr_model_family;

extern const tr_model_family tr__llama, tr__gpt2;

const tr_model_family *tr__model_family(tr_family family); /* asserts that the table has it */

/* How a fresh parameter begins. */
typedef enum tr_model_init {
    TR_INIT_NORMAL,   /* N(0, initializer_range) */
    TR_INIT_RESIDUAL, /* the same over sqrt(2 L): what adds to the residual stream (Radford et al., 2019) */
    TR_INIT_ONES,
    TR_INIT_ZEROS
} tr_model_init;

/* The parameter of that name, made at its first use. */
tr_value tr__model_parameter(tr_model_builder *b, tr_model_init init, tr_shape shape, const char *format, ...)
    TR_PRINTF(4, 5);

/* y = x w + b with the parameters NAME.weight and, where has_bias, NAME.bias.
 * The weight has `outputs` columns in the given layout. */
tr_value tr__model_linear(tr_model_builder *b, tr_value x, int64_t outputs, tr_weight_layout layout,
                          tr_model_init init, bool has_bias, const char *name);

/* x with dropout where the model is built for training. */
tr_value tr__model_dropout(tr_model_builder *b, tr_value x, double rate);

/* Causal attention of a layer over whole sequences, or over the layer's caches when generating. */
tr_value tr__model_attention(tr_model_builder *b, tr_value q, tr_value k, tr_value v, int32_t layer);

#endif
