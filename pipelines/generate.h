/* pipelines/generate.h - what a trained model says, and how well: `troupe sample` and `troupe eval`.
 * All of it runs in one process.
 * A generator holds the weights of a model directory and two forward programs over the same key-value caches:
 * one that reads a chunk of rows at once, for prompts, and one for single rows. When the caches are full it
 * starts them anew with the last half of what it has read: positions are then counted from there.
 * Threads: a generator belongs to one thread; kernels spread over its pool.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_GENERATE_H
#define TROUPE_PIPELINES_GENERATE_H

#include "pipelines/model_config.h"
#include "pipelines/sampling.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_generator tr_generator;

/* DIRECTORY is a model directory or a checkpoint of Troupe, which is one. cache_rows 0: as many as the model
 * has positions, 4096 at most; never more than it has. Errors: those of tr_model_config_read and
 * tr_weights_open, TR_EINVAL, TR_ENOMEM. */
tr_status tr_generator_open(tr_generator **out, const char *directory, int32_t cache_rows, int n_threads,
                            tr_error *err);
void tr_generator_close(tr_generator **self); /* NULL-safe, nulls the pointer */
const tr_model_config *tr_generator_config(const tr_generator *self);

/* Forgets what was read. */
void tr_generator_reset(tr_generator *self);

/* Reads n tokens behind those read before. logits (V): of the last one, valid until the next call. Errors:
 * TR_EINVAL (no token, or one outside the vocabulary: none is read then), TR_ENOMEM. */
tr_status tr_generator_read(tr_generator *self, const int32_t *tokens, size_t n, const float **logits,
                            tr_error *err);

/* A token was chosen; false ends the generation. */
typedef bool (*tr_token_function)(void *context, int32_t token);

/* Reads the prompt (at least one token) from a fresh start and chooses n_new tokens one after the other. The
 * result depends on weights, prompt and options alone.
 * Errors: those of tr_sampler_new and tr_generator_read. */
tr_status tr_generator_run(tr_generator *self, const int32_t *prompt, size_t n_prompt, int32_t n_new,
                           const tr_sampling_options *options, tr_token_function on_token, void *context,
                           tr_error *err);

typedef struct tr_evaluation {
    double loss;    /* mean over the predictions, in nats */
    int64_t tokens; /* predictions: all bytes but the first */
} tr_evaluation;

/* Called from time to time with how much is done. May be NULL. */
typedef void (*tr_progress_function)(void *context, int64_t windows_done, int64_t windows);

/* The loss of a text under the model in DIRECTORY, over windows of `sequence` tokens as pipelines/data.h cuts
 * them (0: as many as the model has positions, 1024 at most). Errors: as tr_generator_open and
 * tr_data_open_text. */
tr_status tr_evaluate(tr_evaluation *out, const char *directory, const char *text_path, int32_t sequence,
                      int n_threads, tr_progress_function progress, void *context, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
