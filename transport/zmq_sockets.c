/* transport/zmq_sockets.c - see zmq_internal.h: how the sockets are made, and what is sent through them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/zmq_internal.h"

#include "base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A job that somebody stopped at the terminal for a while, or a machine that swaps, is not dead: its agent and the kernel
 * tell of deaths at once, so heartbeats only have to find what nobody else sees. */
enum { HEARTBEAT_TIMEOUT_MS = 30000, HEARTBEATS = 8 /* within that */, LINGER_MS = 100 };

tr_status tr__zmq_fail(tr_error *err, const char *what)
{
    return tr_fail(err, TR_EIO, "zmq cannot %s: %s", what, zmq_strerror(zmq_errno()));
}

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

/* No high-water marks: credits bound what is under way. At one of the receiver's ZeroMQ would stop reading the connection,
 * heartbeats included, so that a peer that lives is lost; and where it dies meanwhile, our next heartbeat would abort the
 * process (an assertion of libzmq 4.3.4, stream_engine_base.cpp:331: a timer writes to a connection given up). It may also do so
 * in the moment between the close of a socket and that of its connections, if a peer goes as well: hence few heartbeats. */
static bool set_common(const tr__zmq *self, const char *address, void *socket)
{
    bool six = strncmp(address, "tcp://[", 7) == 0;
    uint32_t given = self->base.options.heartbeat_timeout_ms;
    int timeout_ms = given ? (int)given : HEARTBEAT_TIMEOUT_MS;
    return set_int(socket, ZMQ_LINGER, LINGER_MS) && set_int(socket, ZMQ_SNDHWM, 0) &&
           set_int(socket, ZMQ_RCVHWM, 0) && set_int(socket, ZMQ_IPV6, six) &&
           set_int(socket, ZMQ_HEARTBEAT_IVL, timeout_ms / HEARTBEATS) &&
           set_int(socket, ZMQ_HEARTBEAT_TIMEOUT, timeout_ms) &&
           set_int(socket, ZMQ_HEARTBEAT_TTL, timeout_ms);
}

tr_status tr__zmq_router_bind(tr__zmq *self, tr_error *err)
{
    /* A body beyond what is taken is refused politely;
     * twice that cuts the connection before the memory is spent. */
    int64_t most_bytes = 2 * (int64_t)self->base.options.max_body_bytes + TR_HELLO_MAX_BYTES;
    char chosen[64];
    snprintf(chosen, sizeof chosen, "ipc://@troupe-%ld-%llx", (long)getpid(),
             (unsigned long long)tr_clock_ns());
    const char *bind = self->base.options.bind ? self->base.options.bind : chosen;
    tr_status status = tr__zmq_check_address(self, bind, "listen at", err);
    if (status != TR_OK) return status;
    self->router = zmq_socket(self->context, ZMQ_ROUTER);
    if (!self->router || !set_common(self, bind, self->router) ||
        !set_int(self->router, ZMQ_ROUTER_MANDATORY, 1) ||
        zmq_setsockopt(self->router, ZMQ_MAXMSGSIZE, &most_bytes, sizeof most_bytes) != 0)
        return tr__zmq_fail(err, "make a ROUTER");
    int events = ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    if (zmq_socket_monitor(self->router, "inproc://monitor", events) != 0)
        return tr__zmq_fail(err, "watch its ROUTER");
    self->monitor = zmq_socket(self->context, ZMQ_PAIR);
    if (!self->monitor || !set_int(self->monitor, ZMQ_LINGER, 0) || !set_int(self->monitor, ZMQ_RCVHWM, 0) ||
        zmq_connect(self->monitor, "inproc://monitor") != 0)
        return tr__zmq_fail(err, "watch its ROUTER");
    status = tr__zmq_secure_router(self, err);
    if (status != TR_OK) return status;
    if (zmq_bind(self->router, bind) != 0)
        return tr_fail(err, TR_EIO, "zmq cannot listen at '%s': %s", bind, zmq_strerror(zmq_errno()));
    size_t size = sizeof self->base.address;
    if (zmq_getsockopt(self->router, ZMQ_LAST_ENDPOINT, self->base.address, &size) != 0)
        return tr__zmq_fail(err, "tell its address");
    return TR_OK;
}

/* Counts what was ever handed to an I/O thread. ZeroMQ's queues order the hand-over; this says so in our own words, which
 * ThreadSanitizer can read: the release in transmit pairs with the acquire in give_back. */
static _Atomic uint64_t n_handed_over;

static void give_back(void *data, void *hint)
{
    (void)data;
    (void)atomic_load_explicit(&n_handed_over, memory_order_acquire);
    tr_message *message = hint;
    tr__zmq *self = message->link_; /* outlives all of ZeroMQ's messages: its context ends first */
    tr_message_destroy(&message);
    __atomic_sub_fetch(&self->n_in_flight, 1, __ATOMIC_RELAXED);
}

bool tr__zmq_transmit(tr__zmq *self, void *socket, tr_message *message)
{
    zmq_msg_t header, body;
    if (zmq_msg_init_size(&header, TR_FRAME_BYTES) != 0) return false;
    memcpy(zmq_msg_data(&header), &message->frame, TR_FRAME_BYTES);
    if (zmq_msg_send(&header, socket, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&header);
        return false;
    }
    message->link_ = self;
    __atomic_add_fetch(&self->n_in_flight, 1, __ATOMIC_RELAXED);
    void *bytes = message->body ? message->body->data : message;
    size_t body_bytes = message->frame.body_bytes;
    atomic_fetch_add_explicit(&n_handed_over, 1, memory_order_release); /* the last touch of ours */
    if (zmq_msg_init_data(&body, bytes, body_bytes, give_back, message) != 0) {
        give_back(NULL, message);
        zmq_msg_init(&body); /* an empty part ends the frame; the receiver refuses it by its length */
    }
    if (zmq_msg_send(&body, socket, ZMQ_DONTWAIT) < 0) zmq_msg_close(&body);
    return true;
}

static void enqueue(tr__zmq *self, tr__zmq_link *link, tr_message *message)
{
    message->next = NULL;
    *(link->first ? &link->last->next : &link->first) = message;
    link->last = message;
    self->n_queued++;
}

int tr__zmq_flush(tr__zmq *self, tr__zmq_link *link)
{
    int n_sent = 0;
    while (link->first) {
        tr_message *message = link->first, *next = message->next;
        if (!tr__zmq_transmit(self, link->dealer, message)) break;
        link->first = next;
        self->n_queued--;
        n_sent++;
    }
    return n_sent;
}

tr_status tr__zmq_send(tr_transport *base, tr_link *base_link, tr_message **message, tr_error *err)
{
    tr__zmq *self = (tr__zmq *)base;
    tr__zmq_link *link = (tr__zmq_link *)base_link;
    if (link->first || !tr__zmq_transmit(self, link->dealer, *message)) {
        if (!link->first && zmq_errno() != EAGAIN) {
            tr__link_fail(base, base_link, "zmq cannot send: %s", zmq_strerror(zmq_errno()));
            return tr__zmq_fail(err, "send");
        }
        enqueue(self, link, *message);
    }
    *message = NULL;
    return TR_OK;
}

/* Node and incarnation, and what no two DEALERs share: a ROUTER ignores a second peer of the same name. */
static void make_identity(const tr__zmq *self, uint8_t identity[TR__ZMQ_IDENTITY_BYTES])
{
    static _Atomic uint32_t n_made; /* relaxed: only has to differ */
    uint32_t serial = atomic_fetch_add_explicit(&n_made, 1, memory_order_relaxed), pid = (uint32_t)getpid();
    identity[0] = 'T'; /* names that begin with 0 are ZeroMQ's own */
    memcpy(identity + 1, &self->base.options.node, 4);
    memcpy(identity + 5, &self->base.options.incarnation, 4);
    memcpy(identity + 9, &pid, 4);
    memcpy(identity + 13, &serial, 4);
}

tr_status tr__zmq_connect(tr_transport *base, tr_link *base_link, const char *address, tr_error *err)
{
    tr__zmq *self = (tr__zmq *)base;
    tr__zmq_link *link = (tr__zmq_link *)base_link;
    if (strncmp(address, "ipc://", 6) != 0 && strncmp(address, "tcp://", 6) != 0)
        return tr_fail(err, TR_EINVAL, "'%s' is no address for zmq; give ipc://... or tcp://...", address);
    tr_message *hello;
    tr_status status = tr__zmq_check_address(self, address, "connect to", err);
    if (status == TR_OK) status = tr__hello_new(base, base_link->peer, false, &hello, err);
    if (status != TR_OK) return status;
    uint8_t identity[TR__ZMQ_IDENTITY_BYTES];
    make_identity(self, identity);
    int64_t most_bytes = 4096; /* only handshakes and a goodbye come back */
    void *dealer = link->dealer = zmq_socket(self->context, ZMQ_DEALER);
    if (dealer) tr__zmq_watch_dealer(self, link);
    if (!dealer || !set_common(self, address, dealer) || !set_int(dealer, ZMQ_RECONNECT_IVL, -1) ||
        zmq_setsockopt(dealer, ZMQ_MAXMSGSIZE, &most_bytes, sizeof most_bytes) != 0 ||
        zmq_setsockopt(dealer, ZMQ_ROUTING_ID, identity, sizeof identity) != 0 ||
        !tr__zmq_secure_dealer(self, dealer) || zmq_connect(dealer, address) != 0) {
        status = tr_fail(err, zmq_errno() == EINVAL ? TR_EINVAL : TR_EIO, "zmq cannot connect to '%s': %s",
                         address, zmq_strerror(zmq_errno()));
        tr__zmq_unwatch_dealer(link);
        if (dealer) zmq_close(dealer);
        link->dealer = NULL;
        tr_message_destroy(&hello);
        return status;
    }
    /* Where the handshake has failed already there is nothing to send through; its monitor tells. */
    if (!tr__zmq_transmit(self, dealer, hello)) enqueue(self, link, hello);
    link->opened_ns = tr_clock_ns();
    link->descriptor = -1;
    return TR_OK;
}

void tr__zmq_drop(tr_transport *base, tr_link *base_link, bool say_goodbye)
{
    tr__zmq *self = (tr__zmq *)base;
    tr__zmq_link *link = (tr__zmq_link *)base_link;
    tr_message *goodbye;
    if (link->dealer && say_goodbye) {
        tr__zmq_flush(self, link);
        if (tr__hello_new(base, base_link->peer, true, &goodbye, NULL) == TR_OK &&
            !tr__zmq_transmit(self, link->dealer, goodbye))
            tr_message_destroy(&goodbye);
    }
    while (link->first) {
        tr_message *message = link->first;
        link->first = message->next;
        tr_message_destroy(&message);
        self->n_queued--;
    }
    tr__zmq_unwatch_dealer(link);
    if (link->dealer) {
        if (!say_goodbye) set_int(link->dealer, ZMQ_LINGER, 0);
        zmq_close(link->dealer);
    }
    if (link->is_cut) self->n_cut--;
    link->dealer = NULL;
    link->is_cut = link->is_identified = false;
    link->descriptor = -1;
}
