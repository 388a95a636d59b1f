/* pipelines/sampling.h - chooses the next token from the logits.
 * Deterministic: the choice is a function of the logits, the options and the position.
 * Equal logits go to the lower id.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_SAMPLING_H
#define TROUPE_PIPELINES_SAMPLING_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_sampler tr_sampler; /* holds the workspace for one vocabulary; one thread at a time */

typedef struct tr_sampling_options {
    double temperature; /* 0: the most likely token, always */
    int32_t top_k;      /* only the k most likely; 0: all */
    double top_p;       /* of those the fewest that reach this share of their probability; 1: all */
    uint64_t seed;
} tr_sampling_options;

/* Errors: TR_EINVAL (an option out of range, vocabulary < 1), TR_ENOMEM. */
tr_status tr_sampler_new(tr_sampler **out, int32_t vocabulary, const tr_sampling_options *options,
                         tr_error *err);
void tr_sampler_destroy(tr_sampler **self);

/* logits (V) f32. `position` is the index of the token that is chosen: it keys the random number. A logit
 * that is no number is never chosen; where none is one, token 0 comes back. */
int32_t tr_sampler_choose(tr_sampler *self, const float *logits, uint32_t position);

#ifdef __cplusplus
}
#endif
#endif
