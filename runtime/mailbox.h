/* runtime/mailbox.h - many senders, one receiver: where an actor's messages wait.
 * Two lanes, so that back-pressure never blocks recovery: data, whose capacity is the sum of the credits
 * granted for the actor's incoming edges (a push never waits; an overflow is a bug in the credits and
 * asserts), and control with a quota.
 * Data is what there is much of. Since it is bounded its lane is a ring of pointers: a push is one atomic addition, which
 * gives it its place, and a pop has none. Control passes its quota where the system itself speaks, so it is a linked queue.
 * Source of the latter: D. Vyukov, "Intrusive MPSC node-based queue", 1024cores.net.
 * Threads: push from any; pop and show only by the one thread that runs the actor now.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_MAILBOX_H
#define TROUPE_RUNTIME_MAILBOX_H

#include "transport/message.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One queue. Senders and receiver write different cache lines. */
typedef struct tr_lane {
    tr_message *newest_; /* of control: senders exchange it */
    uint32_t pushed_;    /* senders count it up; wraps */
    uint32_t capacity;
    tr_message **places_; /* of data: by the low bits of the message's number; NULL: not there (yet) */
    uint32_t mask_;
    bool is_own_; /* of data: pushed to by the thread that pops, alone */
    char pad_[35];
    tr_message *oldest_; /* of control: the receiver's own */
    uint32_t popped_;    /* written by the receiver, read by senders; wraps */
    tr_message stub_;    /* stands in for "empty" */
} tr_lane;

typedef struct tr_mailbox {
    tr_lane control, data;
    uint32_t *shown; /* says what waits in both lanes, for others to see; NULL: nowhere */
} tr_mailbox;

/* shown: where what waits in both lanes is told, from 0; may be NULL. Each push writes it, so that it holds for an actor
 * that is stuck; what was popped since, and the older number of two pushes at one time, are put right by tr_mailbox_show.
 * Errors: TR_ENOMEM. */
tr_status tr_mailbox_init(tr_mailbox *self, uint32_t data_capacity, uint32_t control_quota, uint32_t *shown,
                          tr_error *err);
/* Right after init, where data is only ever pushed by the one thread that pops it: that needs no atomic addition. */
void tr_mailbox_own(tr_mailbox *self);
void tr_mailbox_release(tr_mailbox *self); /* destroys what is left in it */
/* Before long work, and at the end of each activation: since one follows each push, what is shown at rest is right. */
void tr_mailbox_show(const tr_mailbox *self);

/* Takes *message and nulls it. A full lane is a credit bug: asserts. */
void tr_mailbox_push(tr_mailbox *self, tr_message **message);
/* Takes *message and nulls it, or returns false where the quota is used up: the message stays yours. */
bool tr_mailbox_push_control(tr_mailbox *self, tr_message **message);
/* The same beside the quota, for what the system itself has to say (a timer,
 * an end): bounded by who may say it. */
void tr_mailbox_push_notice(tr_mailbox *self, tr_message **message);

/* The oldest message or NULL. NULL may also mean that a sender is between the two halves of its push; it will
 * notify the actor when it is through. */
tr_message *tr_mailbox_pop(tr_mailbox *self);
tr_message *tr_mailbox_pop_control(tr_mailbox *self);

/* false: nothing was pushed to control that was not popped. (Whoever pushes next notifies after.) A cheap look before each pop. */
static inline bool tr_mailbox_has_control(const tr_mailbox *self)
{
    /* Relaxed: what is not seen yet has its notify still to come. popped_ is the receiver's own. */
    return __atomic_load_n(&self->control.pushed_, __ATOMIC_RELAXED) != self->control.popped_;
}

uint32_t tr_mailbox_waiting(const tr_mailbox *self); /* data messages; a snapshot */

#ifdef __cplusplus
}
#endif
#endif
