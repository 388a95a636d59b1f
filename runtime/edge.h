/* runtime/edge.h - the two ends of an edge: slot tokens at the sender, order and slot buffers at the receiver.
 * A credit is a slot: a number below n_slots that is either free at the sender, under way, or held by the
 * receiver. The sender sends only with a free slot, so that nothing behind it (mailbox, window, credit ring)
 * can overflow.
 * The wire may repeat, reorder and bring old things: a window of n_slots puts messages in order; repeated and
 * old ones are dropped and counted. A credit names the message that it answers, so it counts once whenever it
 * comes: the sender knows which message each slot is out with. (Numbering the CREDIT frames is not enough: one
 * that is late lets any number of others pass it, with the other slots, and no window is wide enough.)
 * Threads: take and credits by the source actor; give_back by one thread at a time (the destination actor on
 * the same node, otherwise whoever holds the data link's lock); place and accept under that lock; release and
 * credit_frame by the destination actor.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_EDGE_H
#define TROUPE_RUNTIME_EDGE_H

#include "runtime/topology.h"
#include "transport/message.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The free slots are a ring: given back at `returned_`, taken at `taken_`. It has room for all. */
typedef struct tr_sender_end {
    const tr_edge_spec *spec;
    uint32_t sequence;  /* of the next message */
    uint32_t taken_;    /* the sender's own; wraps */
    uint32_t returned_; /* written by who gives back, read by the sender; wraps */
    uint32_t mask_;
    uint16_t *ring_;
    uint64_t *out_;                   /* by slot: the sequence it is out with, and bit 32; 0: it is free */
    uint64_t n_duplicates, n_foreign; /* CREDIT frames dropped */
} tr_sender_end;

tr_status tr_sender_end_init(tr_sender_end *self, const tr_edge_spec *spec, tr_error *err);
void tr_sender_end_release(tr_sender_end *self);
static inline uint32_t tr_sender_end_credits(const tr_sender_end *self);
/* Takes a slot for the message numbered self->sequence, and counts that up; asserts that there is a credit. */
static inline uint16_t tr_sender_end_take(tr_sender_end *self);
/* The slot that tr_sender_end_take will give behind `ahead` others. */
static inline uint16_t tr_sender_end_next(const tr_sender_end *self, uint32_t ahead);
static inline void tr_sender_end_give_back(tr_sender_end *self, uint16_t slot);
/* Gives back what a CREDIT frame holds: with an empty body the one of frame.slot and frame.sequence, otherwise
 * tr_credits. Returns how many; 0 for a repeated or damaged one, which is counted. */
uint32_t tr_sender_end_credit_frame(tr_sender_end *self, const tr_message *message);

/* What a CREDIT frame of several consists of. */
typedef struct tr_credit {
    uint32_t sequence; /* of the message that took the slot */
    uint16_t slot, zero_;
} tr_credit;

typedef struct tr_receiver_end {
    const tr_edge_spec *spec;
    bool remote; /* the source is on another node */
    bool incarnation_known_;
    uint32_t epoch;        /* frames of any other are dropped */
    uint32_t incarnation_; /* of the source's node, fixed by the first frame of the epoch; a restarted actor
                              sends on where its earlier life ended */
    uint32_t expected_;    /* sequence of the next message in order */
    uint32_t mask_;
    tr_message **window_; /* those that came early */
    tr_buffer **buffers_; /* n_slots: made at first use; remote edges only */
    uint8_t *held_;       /* n_slots: on this side of the edge, in the lane or in hand */
    uint32_t *sequences_; /* n_slots: of the message that holds it; remote edges only */
    tr_credit *pending_;  /* to give back with the next CREDIT frame */
    uint32_t n_pending;
    uint32_t n_unsaid; /* slots of a local edge that are free again, of which its source was not told yet */
    struct tr_receiver_end *next_owing; /* the actor's list of edges that owe credits, */
    bool is_owing;                      /* and whether this one is on it */
    uint64_t n_duplicates, n_stale,
        n_foreign;    /* dropped: repeated; of another epoch or incarnation; impossible */
    uint64_t n_early; /* came before their turn */
} tr_receiver_end;

tr_status tr_receiver_end_init(tr_receiver_end *self, const tr_edge_spec *spec, bool remote, uint32_t epoch,
                               tr_error *err);
void tr_receiver_end_release(tr_receiver_end *self);

/* Where the body of a DATA frame goes: the slot's buffer with a reference for the caller. Errors: TR_EREFUSED (which is
 * counted), TR_ENOMEM. */
tr_status tr_receiver_end_place(tr_receiver_end *self, const tr_frame *frame, tr_buffer **out);
/* Takes a DATA message that came over a transport.
 * Returns those whose turn has come, in order, linked by `next`. */
tr_message *tr_receiver_end_accept(tr_receiver_end *self, tr_message **message);
/* The same for a message of a local sender, which cannot be anything but right: marks its slot as held. */
static inline void tr_receiver_end_hold(tr_receiver_end *self, uint16_t slot);
/* A held message goes from the lane into the receiver's hands. */
static inline void tr_receiver_end_hand_over(tr_receiver_end *self, uint16_t slot);
static inline bool tr_receiver_end_is_in_hand(const tr_receiver_end *self, uint16_t slot);
/* The receiver is done with a slot; asserts that it held it.
 * A remote edge keeps it in pending for credit_frame. */
static inline void tr_receiver_end_done(tr_receiver_end *self, uint16_t slot);
/* A CREDIT frame with all that is pending (there must be something).
 * Errors: TR_ENOMEM, then they stay pending. */
tr_status tr_receiver_end_credit_frame(tr_receiver_end *self, tr_message **out, tr_error *err);
/* The same for one that is pending alone, into a new message of the caller's. */
void tr_receiver_end_credit_fill(tr_receiver_end *self, tr_message *message);

/* ---- what every message of a node's own edges goes through ---- */

#define TR__SLOT_OUT (1ull << 32)
enum { TR__NOT_HELD, TR__IN_LANE, TR__IN_HAND }; /* values of held_ */

static inline uint32_t tr_sender_end_credits(const tr_sender_end *self)
{
    /* acquire: pairs with the release in give_back;
     * the slot's number, and all its last holder did, come before. */
    return __atomic_load_n(&self->returned_, __ATOMIC_ACQUIRE) - self->taken_;
}

static inline uint16_t tr_sender_end_take(tr_sender_end *self)
{
    TR_ASSERT(tr_sender_end_credits(self) > 0);
    uint16_t slot = self->ring_[self->taken_++ & self->mask_];
    __atomic_store_n(&self->out_[slot], TR__SLOT_OUT | self->sequence++,
                     __ATOMIC_RELAXED); /* see is_out_with in edge.c */
    return slot;
}

static inline uint16_t tr_sender_end_next(const tr_sender_end *self, uint32_t ahead)
{
    TR_ASSERT(tr_sender_end_credits(self) > ahead);
    return self->ring_[(self->taken_ + ahead) & self->mask_];
}

static inline void tr_sender_end_give_back(tr_sender_end *self, uint16_t slot)
{
    uint32_t returned =
        __atomic_load_n(&self->returned_, __ATOMIC_RELAXED); /* one writer at a time: ourselves */
    self->ring_[returned & self->mask_] = slot;
    __atomic_store_n(&self->returned_, returned + 1, __ATOMIC_RELEASE); /* see tr_sender_end_credits */
}

/* Relaxed: who changes a slot's state is told by that state (out of TR__NOT_HELD the one who delivers, out of the others
 * the receiver), and handed over with the message or its credit. Others only ask whether
 * a slot is theirs, and nothing that happens meanwhile makes it so. */
static inline uint8_t tr__held(const tr_receiver_end *self, uint16_t slot)
{
    return __atomic_load_n(&self->held_[slot], __ATOMIC_RELAXED);
}

static inline void tr__set_held(tr_receiver_end *self, uint16_t slot, uint8_t state)
{
    __atomic_store_n(&self->held_[slot], state, __ATOMIC_RELAXED);
}

static inline void tr_receiver_end_hold(tr_receiver_end *self, uint16_t slot)
{
    TR_ASSERT(tr__held(self, slot) == TR__NOT_HELD);
    tr__set_held(self, slot, TR__IN_LANE);
}

static inline void tr_receiver_end_hand_over(tr_receiver_end *self, uint16_t slot)
{
    TR_ASSERT(tr__held(self, slot) == TR__IN_LANE);
    tr__set_held(self, slot, TR__IN_HAND);
}

static inline bool tr_receiver_end_is_in_hand(const tr_receiver_end *self, uint16_t slot)
{
    return tr__held(self, slot) == TR__IN_HAND;
}

static inline void tr_receiver_end_done(tr_receiver_end *self, uint16_t slot)
{
    TR_ASSERT(slot < self->spec->n_slots && tr__held(self, slot) != TR__NOT_HELD);
    if (self->remote) {
        tr_credit *pending = &self->pending_[self->n_pending++];
        pending->sequence = self->sequences_[slot];
        pending->slot = slot;
        pending->zero_ = 0;
    }
    tr__set_held(self, slot, TR__NOT_HELD);
}

#ifdef __cplusplus
}
#endif
#endif
