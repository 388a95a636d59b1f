/* transport/zmq_internal.h - what zmq.c (arrivals, progress), zmq_sockets.c (sockets, sending) and zmq_curve.c (keys,
 * handshakes) share; nobody else includes it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_ZMQ_INTERNAL_H
#define TROUPE_TRANSPORT_ZMQ_INTERNAL_H

#include "transport/curve.h"
#include "transport/kind.h"

#include <zmq.h>

enum { TR__ZMQ_IDENTITY_BYTES = 17 };

/* What may have something for us: bits of `ready`, and what its descriptors are for, in this order. */
enum { TR__ZMQ_ROUTER = 1, TR__ZMQ_MONITOR = 2, TR__ZMQ_TIMER = 4, TR__ZMQ_ZAP = 8 };

typedef struct tr__zmq {
    tr_transport base;
    void *context, *router, *monitor;
    void *zap; /* where ZeroMQ asks whether a key may come in; NULL: we have none */
    tr_curve_key key;
    bool is_keyed;
    uint32_t n_strangers, n_watched; /* refused at the handshake; monitors ever made, for their names */
    /* A socket's bit is cleared when it said that it has nothing; from then on its descriptor tells. Asking the
     * sockets costs a system call each, so nobody asks one whose bit is not set. */
    unsigned ready;
    int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS], n_descriptors;
    int timer;
    bool is_ticking;
    size_t n_queued; /* over all links */
    size_t n_cut;    /* links whose connection is gone but whose last frames may still lie in the ROUTER */
    /* Given to ZeroMQ and not yet given back. Its I/O thread counts down; relaxed: it is only ever shown,
     * what the message held was released by the buffer's own count. */
    size_t n_in_flight; /* atomic */
} tr__zmq;

typedef struct tr__zmq_link {
    tr_link base;
    void *dealer;
    void *watch;                              /* its monitor until the peer has greeted us */
    tr_message *first, *last;                 /* what the DEALER would not take yet */
    uint8_t identity[TR__ZMQ_IDENTITY_BYTES]; /* of the peer's DEALER, since its greeting */
    bool is_identified, is_cut;
    int descriptor; /* of the peer's connection to our ROUTER */
    uint64_t opened_ns;
} tr__zmq_link;

/* TR_EIO with ZeroMQ's words. */
tr_status tr__zmq_fail(tr_error *err, const char *what);
/* Makes ROUTER and monitor and fills in the address. */
tr_status tr__zmq_router_bind(tr__zmq *self, tr_error *err);
/* False with errno EAGAIN: nothing was sent, the message is still the caller's. True: it is ZeroMQ's. */
bool tr__zmq_transmit(tr__zmq *self, void *socket, tr_message *message);
/* Sends what the DEALER would not take before. Returns how many messages. */
int tr__zmq_flush(tr__zmq *self, tr__zmq_link *link);

/* zmq_curve.c */
/* May we bind or connect there? verb: "listen at". Errors: TR_EINVAL. */
tr_status tr__zmq_check_address(const tr__zmq *self, const char *address, const char *verb, tr_error *err);
/* Before it is bound, and before it connects. */
tr_status tr__zmq_secure_router(tr__zmq *self, tr_error *err);
bool tr__zmq_secure_dealer(const tr__zmq *self, void *dealer);
/* An event of the ROUTER's monitor: somebody was not let in. Counts and tells it. */
void tr__zmq_on_handshake(tr__zmq *self, uint16_t event, uint32_t value);
int tr__zmq_answer_questions(tr__zmq *self); /* returns how many */
/* Finds out early where nobody will greet us. */
void tr__zmq_watch_dealer(tr__zmq *self, tr__zmq_link *link);
void tr__zmq_unwatch_dealer(tr__zmq_link *link);
void tr__zmq_look_at_dealer(tr__zmq *self, tr__zmq_link *link);

/* Functions of the kind. */
tr_status tr__zmq_send(tr_transport *base, tr_link *base_link, tr_message **message, tr_error *err);
tr_status tr__zmq_connect(tr_transport *base, tr_link *base_link, const char *address, tr_error *err);
void tr__zmq_drop(tr_transport *base, tr_link *base_link, bool say_goodbye);

#endif
