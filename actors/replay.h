/* actors/replay.h - what a stage keeps so that a worker's death does not make it compute again (recovery: replay).
 * For each step that may have to be gone back to it keeps the messages that it sent and the hashes of those that it used. When
 * its node ends with the epoch, it leaves that to its next life, and what it had computed with it. That life sends the kept
 * messages again, in the order of each edge and under its credits; computes what was not computed; and compares what is sent
 * to it again with the hash of the first. Whatever an actor sends again is the whole step, from the first micro-batch on, so
 * the n-th message of an edge in one life is the n-th in the other. docs/recovery.md says why the bits are the same.
 * Internal to the stage. `self->replay` is NULL where recovery is by step; then every function here does nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_REPLAY_H
#define TROUPE_ACTORS_REPLAY_H

#include "actors/stage_internal.h"

/* In init, before there is memory for micro-batches: takes over what was left, where it serves the generation that the job goes on from. */
tr_status tr__replay_init(tr__stage *self, tr_error *err);
/* When parameters and program are there: what was taken over is bound. */
void tr__replay_bind(tr__stage *self);
/* In stop: flights, gradients and losses go out of the stage, into its disputes, to its next life. */
void tr__replay_leave(tr__stage *self);
void tr__replay_destroy(tr__replay **self);

/* This step was finished in an earlier life, its update is in the other slot; what is in hand is of the step after. */
bool tr__replay_is_ahead(const tr__stage *self);
bool tr__replay_has_work(const tr__stage *self); /* micro-batches or gradients were taken over */

/* What is sent, and what is used, for the first time. */
void tr__replay_note_sent(tr__stage *self, uint32_t edge, tr_buffer *body, uint32_t size_bytes,
                          uint32_t index);
void tr__replay_note_used(tr__stage *self, const tr_message *message);
void tr__replay_note_computed(tr__stage *self, tr_phase phase);
void tr__replay_note_evaluation(tr__stage *self);

/* A message that has come: true where its content is not needed, since an earlier life has used it; then it is gone. One that
 * differs from the first is told the coordinator (arbiter.h), and the step does not end. */
bool tr__replay_receive(tr__stage *self, tr_message **message);
/* Kept messages of this edge go before any new one. */
bool tr__replay_goes_first(const tr__stage *self, uint32_t edge);
bool tr__replay_is_possible(const tr__stage *self);
bool tr__replay_advance(tr__stage *self); /* one kept message, or the report of a step that was finished */
bool tr__replay_awaits(const tr__stage *self,
                       uint32_t edge); /* something of it is still to be sent, or to come, again */
void tr__replay_forget(
    tr__stage *self); /* nothing is left to the next life but what a third computation decides */
/* All of this step that was there before has been sent again, and come again. */
bool tr__replay_is_settled(const tr__stage *self);

/* The end of a step. */
void tr__replay_report(tr__stage *self); /* how much was computed again, once a life */
void tr__replay_keep_report(tr__stage *self, const double *sums); /* what the coordinator is told */
void tr__replay_finish_step(tr__stage *self);                     /* the update is in its slot */
bool tr__replay_commit_is_same(const tr__stage *self);            /* as the one that was applied */
void tr__replay_pass(tr__stage *self); /* the other slot is the state now: on with what is in hand */
void tr__replay_committed(tr__stage *self, uint32_t step); /* all hold the state that it computes with */

#endif
