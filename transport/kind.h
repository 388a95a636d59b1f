/* transport/kind.h - private: the seam between transport.c, which every kind shares, and the kinds.
 * A kind embeds tr_transport at the beginning of its own struct, and tr_link at the beginning of its
 * own link. transport.c allocates both, knows which peers there are, checks frames and greetings, and is the
 * only one that calls the user back. A link is never freed before the transport: it is reused when its peer
 * comes again, so pointers to it stay good.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_KIND_H
#define TROUPE_TRANSPORT_KIND_H

#include "transport/handshake.h"

typedef enum tr_link_state {
    TR_LINK_NONE,    /* never connected, or disconnected by us */
    TR_LINK_OPENING, /* we connected; the peer has not greeted us yet */
    TR_LINK_OPEN,    /* greeted: its frames are taken */
    TR_LINK_FAILED,  /* broken; the user does not know yet */
    TR_LINK_LOST     /* broken; the user was told */
} tr_link_state;

typedef struct tr_link {
    int32_t peer;
    uint32_t incarnation; /* as its last greeting said; older ones are refused from then on */
    bool was_greeted;     /* incarnation means something */
    uint64_t sought;      /* hash of the address we connected to last */
    tr_link_state state;
    bool is_replaced; /* another took its place: the peer is told, as it may live */
    char reason[200]; /* why it failed */
    bool is_damaged;  /* a frame of it was, which the user does not know yet */
    char damage[120];
} tr_link;

typedef struct tr_transport_kind {
    const char *name;
    size_t self_bytes, link_bytes;
    bool within_process; /* frames are handed over where they lie: they need no checksum */
    /* Fills in the address; releases its own parts on failure. */
    tr_status (*open)(tr_transport *self, tr_error *err);
    /* Greets the peer. */
    tr_status (*connect)(tr_transport *self, tr_link *link, const char *address, tr_error *err);
    /* A sealed frame. */
    tr_status (*send)(tr_transport *self, tr_link *link, tr_message **message, tr_error *err);
    int (*progress)(tr_transport *self);
    /* Would progress find nothing? Asked without the caller's lock, so that whoever spins need not take it. NULL: not known. */
    bool (*quiet)(const tr_transport *self);
    int (*descriptors)(const tr_transport *self, int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS]);
    bool (*arm)(tr_transport *self);
    size_t (*unsent)(const tr_transport *self);
    void (*drop)(tr_transport *self, tr_link *link, bool say_goodbye); /* the link holds nothing afterwards */
    /* Without links: what a dead peer may have left in it must not be there any more; the address may be another. NULL:
     * nothing can be left. On failure it is as before. */
    tr_status (*renew)(tr_transport *self, tr_error *err);
    void (*close)(tr_transport *self); /* every link was dropped before; waits at most 100 ms */
} tr_transport_kind;

extern const tr_transport_kind tr__transport_inproc, tr__transport_sim, tr__transport_ucx, tr__transport_zmq;

struct tr_transport {
    const tr_transport_kind *kind;
    tr_transport_options options;
    tr_transport_events events;
    tr_transport_counters counters;
    tr_link **links; /* searched in order: nodes are few */
    size_t n_links, links_capacity;
    uint32_t oldest; /* the first incarnation that may greet: see tr_transport_renew */
    size_t
        n_failed; /* links whose loss is still to be reported; relaxed where it is asked for without a lock */
    size_t n_damaged;                /* links with is_damaged */
    bool damages_next;               /* see tr_transport_damage_next */
    struct tr__disturbed *disturbed; /* disturb.c; NULL, nearly always: not. Relaxed, as n_failed */
    char address[TR_ADDRESS_CHARS];
};

/* The link of a peer, or NULL. */
tr_link *tr__link_find(tr_transport *self, int32_t peer);

/* Marks a link as broken; dropped and reported at the end of the next progress.
 * Only the first reason is kept. */
void tr__link_fail(tr_transport *self, tr_link *link, const char *format, ...) TR_PRINTF(3, 4);

/* The same, for want of memory for `what`; counted. */
void tr__link_starve(tr_transport *self, tr_link *link, const char *what);

/* The peer said goodbye. One that never greeted us has refused us: that is worth a warning. */
void tr__link_goodbye(tr_transport *self, tr_link *link);

/* Drops a broken link and tells the user now; outside the callbacks of libraries only. */
void tr__link_report(tr_transport *self, tr_link *link);

/* A sealed HELLO to `peer` that says who and where we are; goodbye has no body. Errors: TR_ENOMEM. */
tr_status tr__hello_new(tr_transport *self, int32_t peer, bool goodbye, tr_message **out, tr_error *err);

/* A HELLO (with a body) that was said before the last renewal and has come behind it? Counted as refused. It gets no answer:
 * its sender's end of the link is gone, or goes as soon as it hears why we began anew. Taken, it would stand for the
 * peer's next life, and its end would look like that one's. */
bool tr__hello_is_late(tr_transport *self, const tr_frame *frame);

/* Judges a HELLO with a body. Returns the peer's link, made if need be, with its incarnation noted but its
 * state unchanged, or NULL when the peer is refused (counted and logged). A link to an older incarnation is
 * reported lost first. */
tr_link *tr__hello_admit(tr_transport *self, const tr_frame *frame, const void *body, tr_hello *hello);

/* A peer greets anew under the number and incarnation of one that we have a link to: it began again before its old
 * connection broke, or there are two. The last one counts: the link to the first is reported lost. */
void tr__link_replace(tr_transport *self, tr_link *link);

/* Counts and logs (at info level: it may come in floods) a frame that is not taken. */
void tr__refuse(tr_transport *self, const char *format, ...) TR_PRINTF(2, 3);

/* Header right and body within bounds? Refuses it otherwise: what came over a link (NULL: of nobody that is known) is damaged. */
bool tr__frame_admit(tr_transport *self, tr_link *link, const tr_frame *frame);
/* What came over it was not what was sent: told at the end of the next progress. link may be NULL. */
void tr__link_damaged(tr_transport *self, tr_link *link, const char *what);

/* A message for an admitted frame, with a buffer placed for its body but not yet filled. NULL: refused; without memory the
 * link is broken as well, so that nobody waits for what was dropped. */
tr_message *tr__message_place(tr_transport *self, tr_link *link, const tr_frame *frame);

/* Verifies the body's hash, counts and delivers; takes the message. */
void tr__message_deliver(tr_transport *self, tr_link *link, tr_message *message);
void tr__message_hand_over(tr_transport *self, tr_link *link,
                           tr_message *message); /* the same of a sound one */

bool tr__link_is_up(const tr_link *link);

/* disturb.c, each with self->disturbed. What arrives: true where it was taken, to be delivered later or never. What is sent: a
 * copy that goes as well, or NULL; given back when the first is gone. */
bool tr__disturbed_arrival(tr_transport *self, tr_link *link, tr_message **message);
tr_message *tr__disturbed_copy(const tr_transport *self, const tr_message *message);
void tr__disturbed_departure(tr_transport *self, int32_t peer, tr_message *copy);
int tr__disturbed_progress(tr_transport *self);
bool tr__disturbed_is_busy(
    const tr_transport *self); /* something is to be done of which no descriptor tells */
void tr__disturbed_drop(tr_transport *self, const tr_link *link); /* what it has of a link that is gone */
void tr__disturbed_destroy(tr_transport *self);

#endif
