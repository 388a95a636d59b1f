/* pipelines/rope_scaling.h - how fast each pair of a head turns with the position: the kinds of RoPE scaling that
 * transformers has for llama. Everything is computed in double; transformers computes in float32, so both agree
 * to its precision.
 * Only two kinds depend on the length of a sequence: dynamic, where it exceeds the model's positions, and
 * longrope, which has one list of factors up to its original positions and another beyond.
 * Sources: Su et al., 2021; Peng et al., 2023 (yarn, dynamic); Ding et al., 2024 (longrope); the Llama 3.1
 * release (llama3); transformers 5, modeling_rope_utils.py, for names, defaults and formulas.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_ROPE_SCALING_H
#define TROUPE_PIPELINES_ROPE_SCALING_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_rope_kind {
    TR_ROPE_DEFAULT,
    TR_ROPE_LINEAR,
    TR_ROPE_DYNAMIC,
    TR_ROPE_YARN,
    TR_ROPE_LONGROPE,
    TR_ROPE_LLAMA3,
    TR_ROPE_PROPORTIONAL
} tr_rope_kind;

/* Each member has a meaning for the kinds named; all have a theta. */
typedef struct tr_rope_scaling {
    tr_rope_kind kind;
    double theta;
    double factor;               /* all but default and longrope */
    int32_t positions;           /* dynamic: up to here nothing is scaled */
    int32_t original_positions;  /* yarn, longrope, llama3: what the model was first trained on */
    double magnitude;            /* multiplies cosines and sines: 1, save for yarn and longrope */
    double beta_fast, beta_slow; /* yarn: turns over the original positions, at the ends of its ramp */
    bool truncate;               /* yarn: the ramp begins and ends at whole pairs */
    double low_freq_factor, high_freq_factor; /* llama3: the same in original positions a turn */
    double rotated_share;                     /* proportional: of the pairs; the others stand still */
    double *short_factors, *long_factors;     /* longrope: (D/2) each, owned */
} tr_rope_scaling;

/* frequencies[i] (head_size/2): radians that pair i turns in a position, in a sequence of that length. */
void tr_rope_scaling_frequencies(const tr_rope_scaling *self, int32_t head_size, int32_t sequence,
                                 double *frequencies);

/* The longest sequence with the frequencies that one of `sequence` has; INT32_MAX where there is no limit. */
int32_t tr_rope_scaling_reach(const tr_rope_scaling *self, int32_t sequence);

const char *tr_rope_kind_name(tr_rope_kind kind); /* transformers' rope_type; NULL behind the last */

/* Frees the lists. */
void tr_rope_scaling_release(tr_rope_scaling *self);

#ifdef __cplusplus
}
#endif
#endif
