/* actors/arbiter.h - the coordinator's part in recovery by replay and in audits: tells how much was computed again, and finds out
 * who erred where a message came again with other bits than the first time, or an audit found others. Then all forget what they kept of the step, the one who
 * sent last is replaced, and the step is computed a third time, by a process that had no part in it: whom the third agrees
 * with was right; an auditor that was not is replaced then. Nothing of the step is committed meanwhile.
 * Internal to the coordinator.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_ARBITER_H
#define TROUPE_ACTORS_ARBITER_H

#include "actors/coordinator.h"
#include "base/pack.h"
#include "runtime/actor.h"

typedef struct tr__arbiter {
    tr_actor *actor; /* the coordinator */
    tr_actor_id monitor;
    const tr_actor_id *stages;
    uint32_t n_stages;
    /* of the first step behind a change of epoch */
    uint32_t n_told, n_kept;
    uint64_t n_computed[3], n_sent, n_compared;
    tr_audit_totals *audits; /* of the run */
    tr_actor_id doubted;     /* 0: nobody is */
    uint32_t n_forgotten;
} tr__arbiter;

/* One of the topics that are its own; false: it does not read as it should. */
bool tr__arbiter_receive(tr__arbiter *self, const tr_frame *frame, tr_unpacker *body);
/* All stages are ready with the step. */
void tr__arbiter_commit(tr__arbiter *self, uint32_t step);
/* The run ends: tells how much was audited. */
void tr__arbiter_end(tr__arbiter *self, uint32_t step);
/* For events.jsonl. */
void tr__coordinator_note(tr_actor *actor, tr_actor_id monitor, uint32_t step, const char *kind,
                          const char *text);

#endif
