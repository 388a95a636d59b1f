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
uint32_t tr_sender_end_credits(const tr_sender_end *self);
/* Takes a slot for the message numbered self->sequence, and counts that up; asserts that there is a credit. */
uint16_t tr_sender_end_take(tr_sender_end *self);
void tr_sender_end_give_back(tr_sender_end *self, uint16_t slot);
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
void tr_receiver_end_hold(tr_receiver_end *self, uint16_t slot);
/* A held message goes from the lane into the receiver's hands. */
void tr_receiver_end_hand_over(tr_receiver_end *self, uint16_t slot);
bool tr_receiver_end_is_in_hand(const tr_receiver_end *self, uint16_t slot);
/* The receiver is done with a slot; asserts that it held it.
 * A remote edge keeps it in pending for credit_frame. */
void tr_receiver_end_done(tr_receiver_end *self, uint16_t slot);
/* A CREDIT frame with all that is pending (there must be something).
 * Errors: TR_ENOMEM, then they stay pending. */
tr_status tr_receiver_end_credit_frame(tr_receiver_end *self, tr_message **out, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
