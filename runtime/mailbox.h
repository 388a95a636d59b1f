/* runtime/mailbox.h - many senders, one receiver: where an actor's messages wait.
 * Two lanes, so that back-pressure never blocks recovery: data, whose capacity is the sum of the credits
 * granted for the actor's incoming edges (a push never waits; an overflow is a bug in the credits and
 * asserts), and control with a quota.
 * Source of the queue: D. Vyukov, "Intrusive MPSC node-based queue", 1024cores.net.
 * Threads: push from any; pop only by the one thread that runs the actor now.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_MAILBOX_H
#define TROUPE_RUNTIME_MAILBOX_H

#include "transport/message.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One queue. Senders and receiver write different cache lines. */
typedef struct tr_lane {
    tr_message *newest_; /* senders exchange it */
    uint32_t pushed_;    /* senders count it up; wraps */
    uint32_t capacity;
    char pad_[48];
    tr_message *oldest_; /* the receiver's own */
    uint32_t popped_;    /* written by the receiver, read by senders; wraps */
    tr_message stub_;    /* stands in for "empty" */
} tr_lane;

typedef struct tr_mailbox {
    tr_lane control, data;
    uint32_t *shown; /* counts what waits in both lanes, for others to see; relaxed; NULL: nowhere */
} tr_mailbox;

/* shown: where what waits in both lanes is counted, from 0; may be NULL. */
void tr_mailbox_init(tr_mailbox *self, uint32_t data_capacity, uint32_t control_quota, uint32_t *shown);
void tr_mailbox_release(tr_mailbox *self); /* destroys what is left in it */

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

uint32_t tr_mailbox_waiting(const tr_mailbox *self); /* data messages; a snapshot */

#ifdef __cplusplus
}
#endif
#endif
