/* transport/zmq_internal.h - what zmq.c (arrivals, progress) and zmq_sockets.c (sockets, sending) share; nobody
 * else includes it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_ZMQ_INTERNAL_H
#define TROUPE_TRANSPORT_ZMQ_INTERNAL_H

#include "transport/kind.h"

#include <zmq.h>

enum { TR__ZMQ_IDENTITY_BYTES = 17 };

typedef struct tr__zmq {
    tr_transport base;
    void *context, *router, *monitor;
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

/* Functions of the kind. */
tr_status tr__zmq_send(tr_transport *base, tr_link *base_link, tr_message **message, tr_error *err);
tr_status tr__zmq_connect(tr_transport *base, tr_link *base_link, const char *address, tr_error *err);
void tr__zmq_drop(tr_transport *base, tr_link *base_link, bool say_goodbye);

#endif
