/* actors/dispute.h - two computations of one thing that gave different bits, as a stage sees it, and what a stage leaves to its
 * next life so that a third computation can decide (arbiter.h has the coordinator's part). There are two ways to see one: a
 * message comes again in another epoch (replay.h), or another worker has computed a micro-batch once more (stage_audit.h).
 * Internal to the stage. `self->disputes` is NULL where neither is done.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_DISPUTE_H
#define TROUPE_ACTORS_DISPUTE_H

#include "actors/stage_internal.h"

typedef struct tr__dispute {
    bool is, told; /* told: in this life; then the step does not end */
    uint32_t edge, step, index;
    uint32_t part;          /* of an audit: the first result that differs */
    uint64_t first, second; /* hashes */
    uint64_t basis;         /* hash of what both were computed from; 0 where nobody looked */
} tr__dispute;

struct tr__disputes {
    uint64_t config; /* hash of what the stage was told */
    bool survivor;   /* this process had a life of the stage before */
    tr__dispute replayed, audited;
    tr__replay *replay; /* between two lives; NULL: nothing is kept for a recovery */
};

/* In init, first: takes what an earlier life left, where the stage is told the same again. */
tr_status tr__disputes_init(tr__stage *self, const void *config, size_t config_bytes, tr_error *err);
/* In stop, last: leaves it to the next life. */
void tr__disputes_leave(tr__stage *self);

/* TR_FRAME_SURVIVOR or 0, for what the stage sends. */
uint16_t tr__disputes_flags(const tr__stage *self);

/* `message` stands for its sender's part. Tells the coordinator, once in a life; `what`: of an audit, what differs, else "". */
void tr__dispute_begin(tr__stage *self, tr__dispute *about, const tr_message *message, const char *what);
/* The same thing was computed a third time: tells the coordinator with whom it agrees, if `about` is about it. */
void tr__dispute_decide(tr__stage *self, tr__dispute *about, const tr_message *message, uint64_t third,
                        uint64_t basis);

#endif
