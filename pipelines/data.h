/* pipelines/data.h - where rows of tokens come from: a text cut into windows, or a tensor of ids.
 * A row is `sequence` tokens and, for each, the one that follows it. Which row it is depends on (seed, step,
 * micro-batch, index) alone, never on who asks: any layout, and any run that was interrupted, sees the same.
 * Threads: after tr_data_open nothing changes any more; all functions from any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_DATA_H
#define TROUPE_PIPELINES_DATA_H

#include "pipelines/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_data tr_data;

/* Opens what recipe->data names; takes copies of what it needs of the recipe. Every id is checked against the
 * vocabulary here. Errors: TR_ENOTFOUND, TR_EIO, TR_ENOMEM, TR_ECORRUPT, TR_EINVAL (too short, wrong shape,
 * an id outside). */
tr_status tr_data_open(tr_data **out, const tr_recipe *recipe, int32_t vocabulary, tr_error *err);

/* Bytes of any text file as one held-out part, for `eval`. */
tr_status tr_data_open_text(tr_data **out, const char *path, int32_t sequence, int32_t vocabulary,
                            tr_error *err);
void tr_data_close(tr_data **self);

/* Row `index` of micro-batch `microbatch` (counted over all replicas) of step `step`.   tokens, targets (T).
 * Text: the window that starts at a random byte of the training part. Tokens: row (step*accumulate +
 * microbatch)*B + index of the training rows, from the first again behind the last. */
void tr_data_fill_training(const tr_data *self, uint32_t step, uint32_t microbatch, uint32_t index,
                           int32_t *tokens, int32_t *targets);

/* Windows of the held-out part; together they predict every held-out token but the first exactly once.
 * 0 where nothing is held out. The rest of the last window has token 0 and target -1, which counts nothing. */
int64_t tr_data_validation_count(const tr_data *self);
void tr_data_fill_validation(const tr_data *self, int64_t window, int32_t *tokens, int32_t *targets);
/* Predictions in it: T, or fewer in the last. */
int64_t tr_data_validation_targets(const tr_data *self, int64_t window);

/* At most n windows spread evenly over the held-out part, always the same; returns how many. The last,
 * shorter window is left out where there are enough others. */
int64_t tr_data_validation_windows(const tr_data *self, int64_t n, int64_t *windows);

int64_t tr_data_training_tokens(const tr_data *self); /* text: bytes of each part; tokens: ids of its rows */
int64_t tr_data_heldout_tokens(const tr_data *self);

#ifdef __cplusplus
}
#endif
#endif
