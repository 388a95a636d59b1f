/* actors/coordinator.h - the step clock: gathers what belongs to a step, decides its update, and says so to
 * all. For each step it adds the targets that the shards announce, adds the losses of all micro-batches in
 * their order and the square sums of the gradient in (tensor, block) order, both in double, whatever the
 * layout; then commits with one factor for clipping and one learning rate. A norm or loss that is not finite
 * updates nothing: see non_finite.h.
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

/* As many steps as a job may go back, and the two around them. */
enum { TR_COORDINATOR_RECORDS = 2 * TR_MAX_HOLD_EVERY + 2 };

/* So many records at most are on their way to the monitor: with that many nothing is committed until it has taken one.
 * It is less than the journal holds, so whatever a death loses on the way can be told again. */
enum { TR_COORDINATOR_UNTOLD = TR_COORDINATOR_RECORDS / 2 };

/* What audits there were. */
typedef struct tr_audit_totals {
    uint64_t n;           /* micro-batches of a stage that another one computed again */
    uint64_t ns, busy_ns; /* what it took, and all computing */
} tr_audit_totals;

/* A step whose result was no number, and is run again to see whether that was a mistake of a processor. */
typedef struct tr_non_finite {
    uint32_t step; /* plus 1, as in its record; 0: there is none */
    uint32_t n;    /* how many times it has been run */
    uint64_t bits; /* hash of losses and square sums of the last time */
} tr_non_finite;

/* What a coordinator that begins again must know of its life before: kept by whoever runs the job, in the head's process or
 * where it outlives that one. All zero before the job. A record is there before its commit goes out, so that one which was
 * torn by a death belongs to a commit that nobody has applied, or is that of an evaluation which is measured again. */
typedef struct tr_coordinator_journal {
    /* Of the steps committed last, at step % TR_COORDINATOR_RECORDS; step 0: none. A commit may be out that no stage has
     * applied, and each holds two states before it, hold_every updates apart: any of them may be gone back to, and tells
     * the one before. */
    tr_step_record records[TR_COORDINATOR_RECORDS];
    uint32_t saved;    /* updates in the newest checkpoint that was written */
    uint32_t asked[2]; /* and in the two asked for last, the last one first */
    tr_audit_totals audits;
    tr_non_finite non_finite;
} tr_coordinator_journal;

uint32_t tr_coordinator_newest(const tr_coordinator_journal *journal); /* step committed last; 0: none */

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
    /* Where a result is no number: can the step be run again (tr_actor_run_again), and what if it is none again: is the update left
     * out, or does the job end? */
    bool runs_again, leaves_out;
    uint32_t most_untold; /* less than TR_COORDINATOR_UNTOLD, which 0 says */
    /* After TR_TOPIC_PAUSE: the state after `step` updates is in a slot of every stage, its record told, no checkpoint is
     * being written, and nobody is told to update until it hears TR_TOPIC_GO_ON or begins again. On the actor's thread,
     * within a handler. NULL: it never pauses. */
    void (*paused)(void *pausing, uint32_t step);
    void *pausing;
} tr_coordinator_context;

extern const tr_behavior tr_coordinator_behavior;

#ifdef __cplusplus
}
#endif
#endif
