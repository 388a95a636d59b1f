/* actors/stage_shard.h - which part of a stage each of its replicas has where they share the work of the update (ZeRO, Rajbhandari
 * et al., 2020; tr_training_plan.zero): of each tensor a range, of which the replica holds the parameters and both
 * moments and sums the gradient. A function of the plan and the stage's tensors, so that nobody has to be told.
 * Ranges begin at blocks of the norm (TR_NORM_BLOCK), so that each block is summed by one replica, and its sum has the same bits
 * as without shards. A tensor that is used more than once is dealt out by itself, for the stages that use it have other
 * neighbours of it; all others follow one another, and a replica has one stretch of them. On devices that hand gradients to each
 * other every tensor is dealt out by itself, for what is sent behind a node shall be shared by all evenly.
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_SHARD_H
#define TROUPE_ACTORS_STAGE_SHARD_H

#include "actors/stage.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of a tensor, or of a flat gradient; in elements. */
typedef struct tr_stretch {
    int64_t begin, end; /* end is not in it */
} tr_stretch;

/* Goes over the tensors of a stage in their order. */
typedef struct tr_shard {
    const tr_stage_spec *spec;
    uint32_t replica, next;
    /* Of tensors that are used once: elements of all, and of those before `next` elements, or where each is dealt out by itself
     * blocks. */
    int64_t total, before;
} tr_shard;
void tr_shard_begin(tr_shard *self, const tr_stage_spec *spec, uint32_t replica);
/* Of the next tensor; all of it where replicas share nothing. Call it spec->n_parameters times. */
tr_stretch tr_shard_next(tr_shard *self);

/* Is every tensor dealt out by itself? */
bool tr_shard_is_even(const tr_stage_spec *spec);

/* Bytes of a state slot of this replica. */
uint64_t tr_shard_state_bytes(const tr_stage_spec *spec, uint32_t replica);
/* Of its part as the stage computes with it: what it sends to the others after an update. */
uint64_t tr_shard_message_bytes(const tr_stage_spec *spec, uint32_t replica);
/* Of all parameters as the stage computes with them, beside the slots and without the rounded ones; 0 where it computes in
 * the slots. */
uint64_t tr_shard_whole_bytes(const tr_stage_spec *spec);

/* What the replica sums of the flat gradient: stretches in order, at least one, which may be empty; neighbours are one. Returns how
 * many; `out`, of so many, may be NULL. Where every tensor is dealt out by itself it is of a flat gradient in another order, in
 * which what replica 0 sums comes first, then that of replica 1: so that few messages carry it. None of those stretches is longer
 * than TR_SHARD_MOST_ELEMENTS. */
enum { TR_SHARD_MOST_ELEMENTS = 256 << 20 };
uint32_t tr_shard_stretches(const tr_stage_spec *spec, uint32_t replica, tr_stretch *out);
/* Of them together, and of the longest. */
int64_t tr_shard_sum_elements(const tr_stage_spec *spec, uint32_t replica);
int64_t tr_shard_longest(const tr_stage_spec *spec, uint32_t replica);

#ifdef __cplusplus
}
#endif
#endif
