/* actors/stage_audit.h - micro-batches that another worker computes again, to find processors and memory that make mistakes
 * while nobody dies (supervision.audit). Which ones is a function of seed, step and micro-batch (tr_plan_is_audited), so that
 * all know it without words. Behind its weight gradient a stage sends what it computed a sampled micro-batch from, with hashes of
 * what came out, to the same stage of the next replica, which has the same weights: the auditor. That one does forward,
 * backward and weight gradient again when it has nothing more urgent, compares, and says READY only when all that it has to
 * look at in this step agreed. So a step with a difference is never committed. docs/recovery.md says what follows.
 * Internal to the stage. `self->audit` is NULL where nothing is audited; then every function here does nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_AUDIT_H
#define TROUPE_ACTORS_STAGE_AUDIT_H

#include "actors/stage_internal.h"

/* In init, when edges, program and gradients are there. */
tr_status tr__stage_audit_init(tr__stage *self, tr_error *err);
void tr__stage_audit_release(tr__stage *self);

/* The one who is looked at. Around each phase of a micro-batch; false: no memory, the actor has failed. */
bool tr__stage_audit_before(tr__stage *self, tr__flight *flight, tr_phase phase);
void tr__stage_audit_after(tr__stage *self, tr__flight *flight, tr_phase phase);
bool tr__stage_audit_may_send(const tr__stage *self, const tr__flight *flight);
void tr__stage_audit_send(tr__stage *self, tr__flight *flight); /* behind its weight gradient */

/* The one who looks. */
bool tr__stage_audit_is_possible(const tr__stage *self);
uint32_t tr__stage_audit_microbatch(const tr__stage *self); /* where it is possible */
bool tr__stage_audit_advance(tr__stage *self);              /* one phase. false: as above */
bool tr__stage_audit_is_settled(const tr__stage *self);     /* all of this step agreed */
void tr__stage_audit_report(tr__stage *self);               /* how many, and how long it took */

#endif
