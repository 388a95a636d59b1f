/* actors/coordinator.h - the step clock: gathers what belongs to a step, decides its update, and says so to
 * all. For each step it adds the targets that the shards announce, adds the losses of all micro-batches in
 * their order and the square sums of the gradient in (tensor, block) order, both in double, whatever the
 * layout; then commits with one factor for clipping and one learning rate. A norm or loss that is not finite
 * ends the run before anything is updated.
 * In a later epoch it begins with the step that the slots' generation is for, tells the record of the step before once
 * more (whoever writes the log compares it with what was written), and asks again for a checkpoint that was lost.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_COORDINATOR_H
#define TROUPE_ACTORS_COORDINATOR_H

#include "actors/monitor.h"
#include "actors/plan.h"
#include "runtime/actor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a coordinator that begins again must know of its life before: kept by whoever runs the job, in the head's process.
 * All zero before the job. */
typedef struct tr_coordinator_journal {
    tr_step_record records[2]; /* of the steps committed last, at step % 2; step 0: none */
    uint32_t saved;            /* updates in the newest checkpoint that was written */
    uint32_t asked[2];         /* and in the two asked for last, the last one first */
} tr_coordinator_journal;

/* From which of the generations that every slot holds whole (the newest first; 0: none) to go on: the newest, but the one
 * before it where its checkpoint was asked for and not written: that one is made again then. */
uint64_t tr_coordinator_generation(const tr_coordinator_journal *journal, const uint64_t held[2]);

/* Context of the registry entry: a const tr_coordinator_context *, which outlives the job.
 * The actor lives in the head. */
typedef struct tr_coordinator_context {
    tr_training_plan plan;
    const int64_t *n_elements; /* of each parameter of the whole model */
    uint32_t n_parameters;
    uint64_t tokens_before; /* seen in the steps before first_step */
    void *context;
    double (*learning_rate)(void *context, uint32_t step);
    tr_coordinator_journal *journal; /* NULL: it never begins again */
} tr_coordinator_context;

extern const tr_behavior tr_coordinator_behavior;

#ifdef __cplusplus
}
#endif
#endif
