/* pipelines/model_config.h - what a model is: its family, sizes and options, from a Hugging Face config.json,
 * a preset, or the sizes in a recipe. Every option that would change the numbers and that Troupe does not
 * compute is refused by name: training something else than what the file says would be the worst failure of
 * all. Key names of both old and new transformers are read.
 * Source: transformers, configuration_gpt2.py and configuration_llama.py (documentation of the configs).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_MODEL_CONFIG_H
#define TROUPE_PIPELINES_MODEL_CONFIG_H

#include "ops/operations.h"
#include "pipelines/rope_scaling.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tr_recipe;

typedef enum tr_family { TR_FAMILY_LLAMA, TR_FAMILY_GPT2 } tr_family;

typedef struct tr_model_config {
    tr_family family;
    int32_t layers;       /* decoder layers */
    int32_t width;        /* C: channels of the residual stream */
    int32_t heads;        /* H: query heads */
    int32_t kv_heads;     /* K, divides heads; gpt2: = heads */
    int32_t head_size;    /* D; heads * head_size need not be width for llama */
    int32_t inner;        /* width inside the feed-forward part */
    int32_t vocabulary;   /* V: rows of the embedding */
    int32_t positions;    /* longest sequence; gpt2: rows of the learned positions */
    tr_rope_scaling rope; /* llama: rotary positions */
    float norm_eps;
    bool tied; /* the output projection is the embedding */
    tr_activation activation;
    bool attention_bias;           /* llama: q, k, v, o have biases (gpt2 always has) */
    bool mlp_bias;                 /* llama: gate, up, down have biases (gpt2 always has) */
    bool scale_attention;          /* gpt2: scores are divided by sqrt(D); llama: true */
    bool scale_attention_by_layer; /* gpt2: scores are further divided by layer + 1 */
    double attention_dropout; /* shares in [0,1) that are dropped in training; evaluation drops nothing */
    double embedding_dropout, residual_dropout; /* gpt2; llama: 0 */
    float initializer_range;                    /* standard deviation of fresh weights */
    char *json;                                 /* the text of config.json as it was read or made; owned */
} tr_model_config;

/* Reads DIRECTORY/config.json. Errors: TR_ENOTFOUND, TR_EIO, TR_ENOMEM, TR_EINVAL (not JSON, a size missing
 * or wrong), TR_EUNSUPPORTED (another model_type, an option that is not computed; by name). *out is the
 * caller's to release. */
tr_status tr_model_config_read(tr_model_config *out, const char *directory, tr_error *err);
/* The same from text; `path` is for messages. */
tr_status tr_model_config_parse(tr_model_config *out, const char *json, const char *path, tr_error *err);
/* By name: gpt2-124m, gpt2-355m, gpt2-774m, llama-15m, llama-42m, llama-160m.
 * Errors: TR_EINVAL (lists the names), TR_ENOMEM. */
tr_status tr_model_config_preset(tr_model_config *out, const char *name, tr_error *err);
const char *tr_model_config_preset_name(size_t i); /* NULL behind the last */
/* From whichever of the three a recipe names.
 * It is checked against train.sequence, layout.pipeline and layout.stages. */
tr_status tr_model_config_from_recipe(tr_model_config *out, const struct tr_recipe *recipe, tr_error *err);
void tr_model_config_release(tr_model_config *self);

/* Every dropout of the family becomes `rate`, also in the text, which stays as it is where they are that already.
 * Errors: TR_ENOMEM, and self is as it was. */
tr_status tr_model_config_set_dropout(tr_model_config *self, double rate, tr_error *err);

/* DIRECTORY/config.json, byte for byte as it was read (save a dtype, which becomes float32, and dropout that was
 * set), or made such that transformers loads it. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_model_config_write(const tr_model_config *self, const char *directory, tr_error *err);

/* Parameters of the model; a tied tensor counts once. */
int64_t tr_model_config_parameter_count(const tr_model_config *self);

/* What multiplies q.k in a layer: 1/sqrt(D), 1, and divided by layer+1, as the options say. */
float tr_model_config_attention_scale(const tr_model_config *self, int32_t layer);

/* That can be trained or measured on: the positions, or more where the frequencies are stretched to any length.
 * Generation ends at the positions in any case. */
int32_t tr_model_config_longest_sequence(const tr_model_config *self);

const char *tr_family_name(tr_family family); /* "llama", "gpt2": also transformers' model_type */

#ifdef __cplusplus
}
#endif
#endif
