/* pipelines/schedule.h - what a step will look like, foretold: the rule by which stages choose (actors/DESIGN.md) on a
 * clock of its own, with given times for the work and none for messages. No actor runs and nothing is computed, so a plan
 * can ask it for many cuts of a model. test/pipelines/schedule_test.c finds that real stages in simulated time do the same,
 * to the nanosecond.
 * Threads: plain functions.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_SCHEDULE_H
#define TROUPE_PIPELINES_SCHEDULE_H

#include "actors/plan.h"
#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a stage takes for one micro-batch, in nanoseconds. */
typedef struct tr_stage_times {
    uint64_t ns[TR_PHASE_COUNT];
} tr_stage_times;

typedef struct tr_schedule_action {
    uint64_t begin_ns, end_ns;
    uint32_t stage, microbatch; /* from 0 for the replica's first */
    tr_phase phase;
} tr_schedule_action;

typedef struct tr_schedule {
    tr_schedule_action *actions; /* owned; in the order in which they begin */
    size_t n_actions;
    uint64_t end_ns; /* of the last; the step begins at 0 */
    double idle;     /* share of the workers' time from 0 to end_ns */
} tr_schedule;

/* One step of a replica, from its first forward to its last weight gradient; times by stage. Errors: TR_ENOMEM. */
tr_status tr_schedule_foretell(tr_schedule *out, const tr_training_plan *plan, uint32_t replica,
                               const tr_stage_times *times, tr_error *err);
void tr_schedule_release(tr_schedule *self);

/* The smallest extra_stash, from 1 on, with which a step is foretold to be at most 0.3% longer than with the best one: *out.
 * Where a backward takes longer than a forward or a weight gradient, one more credit than 1F1B's is too few for the latter
 * to fill the gaps. More never changes a bit, only memory. Errors: TR_ENOMEM. */
tr_status tr_schedule_choose_stash(uint32_t *out, const tr_training_plan *plan, uint32_t replica,
                                   const tr_stage_times *times, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
