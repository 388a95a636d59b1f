/* transport/zmq.c - links over ZeroMQ: ipc on a host, tcp between hosts.
 * Each node binds one ROUTER on which it only receives, and has one DEALER for each peer on which it only
 * sends; who is greeted connects back. So both directions look alike, the queue of a dead peer dies with its
 * DEALER, and one monitor (the ROUTER's) sees every peer go: the greeting tells which descriptor is whose.
 * Only a refusal goes back through the ROUTER, to a peer we would not connect to. ZeroMQ's silent habits are
 * off: no reconnecting (it would lose frames unseen), no dropping at a high-water mark, heartbeats. Bodies
 * are sent from where they lie: its I/O thread gives back the message when it is gone.
 * Sources: zmq_setsockopt(3), zmq_socket_monitor(3), https://rfc.zeromq.org/spec/37/ (heartbeats).
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/kind.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <zmq.h>

enum {
    HEARTBEAT_MS = 500,
    HEARTBEAT_TIMEOUT_MS = 3000,
    GREETING_TIMEOUT_MS = 30000, /* generous: the peer answers from between its handlers */
    TICK_MS = 50,                /* while something is to be looked at that no descriptor tells */
    LINGER_MS = 100,
    BATCH = 256, /* frames handled in one progress */
    N_PARTS = 3, /* identity, header, body */
    IDENTITY_BYTES = 17
};

typedef struct zmq {
    tr_transport base;
    void *context, *router, *monitor;
    int timer;
    bool is_ticking;
    size_t n_queued; /* over all links */
    size_t n_cut;    /* links whose connection is gone but whose last frames may still lie in the ROUTER */
    /* Given to ZeroMQ and not yet given back. Its I/O thread counts down; relaxed: it is only ever shown,
     * what the message held was released by the buffer's own count. */
    _Atomic size_t n_in_flight;
} zmq;

typedef struct zmq_link {
    tr_link base;
    void *dealer;
    tr_message *first, *last;         /* what the DEALER would not take yet */
    uint8_t identity[IDENTITY_BYTES]; /* of the peer's DEALER, since its greeting */
    bool is_identified, is_cut;
    int descriptor; /* of the peer's connection to our ROUTER */
    uint64_t opened_ns;
} zmq_link;

static tr_status fail_zmq(tr_error *err, const char *what)
{
    return tr_fail(err, TR_EIO, "zmq cannot %s: %s", what, zmq_strerror(zmq_errno()));
}

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static bool set_common(void *socket)
{
    return set_int(socket, ZMQ_LINGER, LINGER_MS) && set_int(socket, ZMQ_SNDHWM, 0) &&
           set_int(socket, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) &&
           set_int(socket, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) &&
           set_int(socket, ZMQ_HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS);
}

static tr_status bind_router(zmq *self, tr_error *err)
{
    /* A body beyond what is taken is refused politely;
     * twice that cuts the connection before the memory is spent. */
    int64_t most_bytes = 2 * (int64_t)self->base.options.max_body_bytes + TR_HELLO_MAX_BYTES;
    self->router = zmq_socket(self->context, ZMQ_ROUTER);
    if (!self->router || !set_common(self->router) || !set_int(self->router, ZMQ_ROUTER_MANDATORY, 1) ||
        zmq_setsockopt(self->router, ZMQ_MAXMSGSIZE, &most_bytes, sizeof most_bytes) != 0)
        return fail_zmq(err, "make a ROUTER");
    if (zmq_socket_monitor(self->router, "inproc://monitor", ZMQ_EVENT_DISCONNECTED) != 0)
        return fail_zmq(err, "watch its ROUTER");
    self->monitor = zmq_socket(self->context, ZMQ_PAIR);
    if (!self->monitor || !set_int(self->monitor, ZMQ_LINGER, 0) || !set_int(self->monitor, ZMQ_RCVHWM, 0) ||
        zmq_connect(self->monitor, "inproc://monitor") != 0)
        return fail_zmq(err, "watch its ROUTER");
    char chosen[64];
    snprintf(chosen, sizeof chosen, "ipc://@troupe-%ld-%llx", (long)getpid(),
             (unsigned long long)tr_clock_ns());
    const char *bind = self->base.options.bind ? self->base.options.bind : chosen;
    if (zmq_bind(self->router, bind) != 0)
        return tr_fail(err, TR_EIO, "zmq cannot listen at '%s': %s", bind, zmq_strerror(zmq_errno()));
    size_t size = sizeof self->base.address;
    if (zmq_getsockopt(self->router, ZMQ_LAST_ENDPOINT, self->base.address, &size) != 0)
        return fail_zmq(err, "tell its address");
    return TR_OK;
}

static void release_all(zmq *self)
{
    if (self->router) zmq_socket_monitor(self->router, NULL, 0);
    if (self->monitor) zmq_close(self->monitor);
    if (self->router) zmq_close(self->router);
    if (self->context) zmq_ctx_term(self->context); /* returns when the sockets' linger times are over */
    if (self->timer >= 0) close(self->timer);
}

static tr_status zmq_open(tr_transport *base, tr_error *err)
{
    zmq *self = (zmq *)base;
    atomic_init(&self->n_in_flight, 0);
    self->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    self->context = zmq_ctx_new();
    tr_status status = TR_OK;
    if (self->timer < 0)
        status = tr_fail(err, TR_EIO, "cannot make a timer: %s", strerror(errno));
    else
        status = self->context ? bind_router(self, err) : fail_zmq(err, "make a context");
    if (status != TR_OK) release_all(self);
    return status;
}

static void give_back(void *data, void *hint)
{
    (void)data;
    tr_message *message = hint;
    zmq *self = message->link_; /* outlives all of ZeroMQ's messages: its context ends first */
    tr_message_destroy(&message);
    atomic_fetch_sub_explicit(&self->n_in_flight, 1, memory_order_relaxed);
}

/* False with errno EAGAIN: nothing was sent, the message is still the caller's. True: it is ZeroMQ's. */
static bool transmit(zmq *self, void *socket, tr_message *message)
{
    zmq_msg_t header, body;
    if (zmq_msg_init_size(&header, TR_FRAME_BYTES) != 0) return false;
    memcpy(zmq_msg_data(&header), &message->frame, TR_FRAME_BYTES);
    if (zmq_msg_send(&header, socket, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&header);
        return false;
    }
    message->link_ = self;
    atomic_fetch_add_explicit(&self->n_in_flight, 1, memory_order_relaxed);
    void *bytes = message->body ? message->body->data : message;
    if (zmq_msg_init_data(&body, bytes, message->frame.body_bytes, give_back, message) != 0) {
        give_back(NULL, message);
        zmq_msg_init(&body); /* an empty part ends the frame; the receiver refuses it by its length */
    }
    if (zmq_msg_send(&body, socket, ZMQ_DONTWAIT) < 0) zmq_msg_close(&body);
    return true;
}

static void enqueue(zmq *self, zmq_link *link, tr_message *message)
{
    message->next = NULL;
    *(link->first ? &link->last->next : &link->first) = message;
    link->last = message;
    self->n_queued++;
}

static int flush(zmq *self, zmq_link *link)
{
    int n_sent = 0;
    while (link->first) {
        tr_message *message = link->first, *next = message->next;
        if (!transmit(self, link->dealer, message)) break;
        link->first = next;
        self->n_queued--;
        n_sent++;
    }
    return n_sent;
}

static tr_status zmq_send_message(tr_transport *base, tr_link *base_link, tr_message **message, tr_error *err)
{
    zmq *self = (zmq *)base;
    zmq_link *link = (zmq_link *)base_link;
    if (link->first || !transmit(self, link->dealer, *message)) {
        if (!link->first && zmq_errno() != EAGAIN) {
            tr__link_fail(base, base_link, "zmq cannot send: %s", zmq_strerror(zmq_errno()));
            return fail_zmq(err, "send");
        }
        enqueue(self, link, *message);
    }
    *message = NULL;
    return TR_OK;
}

/* Node and incarnation, and what no two DEALERs share: a ROUTER ignores a second peer of the same name. */
static void make_identity(const zmq *self, uint8_t identity[IDENTITY_BYTES])
{
    static _Atomic uint32_t n_made; /* relaxed: only has to differ */
    uint32_t serial = atomic_fetch_add_explicit(&n_made, 1, memory_order_relaxed), pid = (uint32_t)getpid();
    identity[0] = 'T'; /* names that begin with 0 are ZeroMQ's own */
    memcpy(identity + 1, &self->base.options.node, 4);
    memcpy(identity + 5, &self->base.options.incarnation, 4);
    memcpy(identity + 9, &pid, 4);
    memcpy(identity + 13, &serial, 4);
}

static tr_status zmq_connect_link(tr_transport *base, tr_link *base_link, const char *address, tr_error *err)
{
    zmq *self = (zmq *)base;
    zmq_link *link = (zmq_link *)base_link;
    if (strncmp(address, "ipc://", 6) != 0 && strncmp(address, "tcp://", 6) != 0)
        return tr_fail(err, TR_EINVAL, "'%s' is no address for zmq; give ipc://... or tcp://...", address);
    tr_message *hello;
    tr_status status = tr__hello_new(base, base_link->peer, false, &hello, err);
    if (status != TR_OK) return status;
    uint8_t identity[IDENTITY_BYTES];
    make_identity(self, identity);
    void *dealer = zmq_socket(self->context, ZMQ_DEALER);
    if (!dealer || !set_common(dealer) || !set_int(dealer, ZMQ_RECONNECT_IVL, -1) ||
        zmq_setsockopt(dealer, ZMQ_ROUTING_ID, identity, sizeof identity) != 0 ||
        zmq_connect(dealer, address) != 0 || !transmit(self, dealer, hello)) {
        status = tr_fail(err, zmq_errno() == EINVAL ? TR_EINVAL : TR_EIO, "zmq cannot connect to '%s': %s",
                         address, zmq_strerror(zmq_errno()));
        if (dealer) zmq_close(dealer);
        tr_message_destroy(&hello);
        return status;
    }
    link->dealer = dealer;
    link->opened_ns = tr_clock_ns();
    link->descriptor = -1;
    return TR_OK;
}

static void zmq_drop(tr_transport *base, tr_link *base_link, bool say_goodbye)
{
    zmq *self = (zmq *)base;
    zmq_link *link = (zmq_link *)base_link;
    tr_message *goodbye;
    if (link->dealer && say_goodbye) {
        flush(self, link);
        if (tr__hello_new(base, base_link->peer, true, &goodbye, NULL) == TR_OK &&
            !transmit(self, link->dealer, goodbye))
            tr_message_destroy(&goodbye);
    }
    while (link->first) {
        tr_message *message = link->first;
        link->first = message->next;
        tr_message_destroy(&message);
        self->n_queued--;
    }
    if (link->dealer) {
        if (!say_goodbye) set_int(link->dealer, ZMQ_LINGER, 0);
        zmq_close(link->dealer);
    }
    if (link->is_cut) self->n_cut--;
    link->dealer = NULL;
    link->is_cut = link->is_identified = false;
    link->descriptor = -1;
}

/* Notes which connections are gone. Whatever they still brought lies in the ROUTER and is delivered first. */
static int read_monitor(zmq *self)
{
    int n_events = 0;
    for (;;) {
        uint8_t event[6], address[256];
        int size = zmq_recv(self->monitor, event, sizeof event, ZMQ_DONTWAIT);
        if (size < 0) return n_events;
        zmq_recv(self->monitor, address, sizeof address, ZMQ_DONTWAIT);
        int32_t descriptor;
        memcpy(&descriptor, event + 2, sizeof descriptor);
        for (size_t i = 0; i < self->base.n_links; i++) {
            zmq_link *link = (zmq_link *)self->base.links[i];
            if (!link->is_identified || link->is_cut || link->descriptor != descriptor) continue;
            link->is_cut = true;
            self->n_cut++;
        }
        n_events++;
    }
}

static void fail_cut_links(zmq *self)
{
    for (size_t i = 0; self->n_cut && i < self->base.n_links; i++) {
        zmq_link *link = (zmq_link *)self->base.links[i];
        if (!link->is_cut) continue;
        link->is_cut = false;
        self->n_cut--;
        tr__link_fail(&self->base, &link->base, "the connection broke or its heartbeat stopped");
    }
}

/* Parts of one arrival. */
typedef struct arrival {
    zmq_msg_t parts[N_PARTS];
    int n_parts; /* may be more than were kept */
} arrival;

static bool receive(void *socket, arrival *in)
{
    in->n_parts = 0;
    for (;;) {
        zmq_msg_t surplus, *part = in->n_parts < N_PARTS ? &in->parts[in->n_parts] : &surplus;
        zmq_msg_init(part);
        if (zmq_msg_recv(part, socket, ZMQ_DONTWAIT) < 0) { /* only ever before the first part */
            zmq_msg_close(part);
            return false;
        }
        in->n_parts++;
        bool is_last = !zmq_msg_more(part);
        if (part == &surplus) zmq_msg_close(part);
        if (is_last) return true;
    }
}

static void release_arrival(arrival *in)
{
    for (int i = 0; i < N_PARTS && i < in->n_parts; i++) zmq_msg_close(&in->parts[i]);
}

/* Reads header and body from the parts behind `first`. False: refused. */
static bool parse(zmq *self, arrival *in, int first, tr_frame *frame)
{
    if (in->n_parts != first + 2 || zmq_msg_size(&in->parts[first]) != TR_FRAME_BYTES) {
        tr__refuse(&self->base, "it has %d parts, not a header of 64 bytes and a body", in->n_parts - first);
        return false;
    }
    memcpy(frame, zmq_msg_data(&in->parts[first]), TR_FRAME_BYTES);
    if (!tr__frame_admit(&self->base, frame)) return false;
    if (zmq_msg_size(&in->parts[first + 1]) == frame->body_bytes) return true;
    tr__refuse(&self->base, "its body has %zu bytes, its header says %u", zmq_msg_size(&in->parts[first + 1]),
               frame->body_bytes);
    return false;
}

/* Through the ROUTER: a refused peer's own address is not to be trusted. */
static void turn_away(zmq *self, arrival *in)
{
    tr_message *goodbye;
    if (tr__hello_new(&self->base, -1, true, &goodbye, NULL) != TR_OK) return;
    zmq_msg_t *identity = &in->parts[0];
    if (zmq_send(self->router, zmq_msg_data(identity), zmq_msg_size(identity), ZMQ_SNDMORE | ZMQ_DONTWAIT) <
            0 ||
        !transmit(self, self->router, goodbye))
        tr_message_destroy(&goodbye);
}

static void handle_hello(zmq *self, arrival *in, const tr_frame *frame)
{
    tr_hello hello;
    tr_link *base_link = NULL;
    tr_error err;
    size_t identity_bytes = zmq_msg_size(&in->parts[0]);
    if (identity_bytes == IDENTITY_BYTES)
        base_link = tr__hello_admit(&self->base, frame, zmq_msg_data(&in->parts[2]), &hello);
    if (!base_link) {
        turn_away(self, in);
        return;
    }
    zmq_link *link = (zmq_link *)base_link;
    if (base_link->state == TR_LINK_OPEN) {
        tr__link_fail(&self->base, base_link, "the peer connected anew");
        tr__link_report(&self->base, base_link);
    }
    if (!link->dealer && zmq_connect_link(&self->base, base_link, hello.address, &err) != TR_OK) {
        tr_log(TR_LOG_WARNING, "node %d cannot answer node %d: %s", self->base.options.node, hello.node,
               err.message);
        turn_away(self, in);
        return;
    }
    /* A descriptor's number is used again: forget what its last owner's end
     * has to say before it names this peer. */
    read_monitor(self);
    memcpy(link->identity, zmq_msg_data(&in->parts[0]), IDENTITY_BYTES);
    link->descriptor = zmq_msg_get(&in->parts[2], ZMQ_SRCFD);
    link->is_identified = true;
    base_link->state = TR_LINK_OPEN;
}

static zmq_link *link_of(zmq *self, zmq_msg_t *identity)
{
    int32_t peer;
    const uint8_t *bytes = zmq_msg_data(identity);
    if (zmq_msg_size(identity) != IDENTITY_BYTES) return NULL;
    memcpy(&peer, bytes + 1, sizeof peer);
    zmq_link *link = (zmq_link *)tr__link_find(&self->base, peer);
    return link && link->is_identified && memcmp(link->identity, bytes, IDENTITY_BYTES) == 0 ? link : NULL;
}

static void handle(zmq *self, arrival *in)
{
    tr_frame frame;
    if (!parse(self, in, 1, &frame)) return;
    zmq_link *link = link_of(self, &in->parts[0]);
    if (frame.kind == TR_FRAME_HELLO && frame.body_bytes) {
        handle_hello(self, in, &frame);
    } else if (!link || link->base.state != TR_LINK_OPEN) {
        if (frame.kind != TR_FRAME_HELLO) tr__refuse(&self->base, "it comes from a peer that did not greet");
    } else if (frame.kind == TR_FRAME_HELLO) {
        tr__link_goodbye(&self->base, &link->base);
    } else {
        tr_message *message = tr__message_place(&self->base, &link->base, &frame);
        if (!message) return;
        if (frame.body_bytes) memcpy(message->body->data, zmq_msg_data(&in->parts[2]), frame.body_bytes);
        tr__message_deliver(&self->base, &link->base, message);
    }
}

/* What no descriptor tells: peers that do not answer, refusals that come
 * back to a DEALER, frames that did not go. */
static int look_at_links(zmq *self)
{
    int n_happened = 0;
    bool must_tick = false;
    uint64_t now_ns = 0;
    for (size_t i = 0; i < self->base.n_links; i++) {
        zmq_link *link = (zmq_link *)self->base.links[i];
        if (link->first) n_happened += flush(self, link);
        if (link->base.state == TR_LINK_OPENING) {
            arrival in;
            tr_frame frame;
            if (!now_ns) now_ns = tr_clock_ns();
            if (receive(link->dealer, &in)) {
                if (parse(self, &in, 0, &frame) && frame.kind == TR_FRAME_HELLO && frame.body_bytes == 0)
                    tr__link_goodbye(&self->base, &link->base);
                release_arrival(&in);
            } else if (now_ns - link->opened_ns > GREETING_TIMEOUT_MS * 1000000ull) {
                tr__link_fail(&self->base, &link->base, "nobody answered within %d s",
                              GREETING_TIMEOUT_MS / 1000);
            }
        }
        must_tick = must_tick || link->first || link->base.state == TR_LINK_OPENING;
    }
    if (must_tick != self->is_ticking) {
        long period_ns = must_tick ? TICK_MS * 1000000L : 0;
        const struct itimerspec every = {{0, period_ns}, {0, period_ns}};
        timerfd_settime(self->timer, 0, &every, NULL);
        self->is_ticking = must_tick;
    }
    return n_happened;
}

static int zmq_progress(tr_transport *base)
{
    zmq *self = (zmq *)base;
    uint64_t n_ticks;
    if (self->is_ticking && read(self->timer, &n_ticks, sizeof n_ticks) < 0) n_ticks = 0;
    int n_happened = read_monitor(self) + look_at_links(self);
    arrival in;
    for (int i = 0; i < BATCH; i++) {
        size_t n_cut = self->n_cut;
        if (!receive(self->router, &in)) {
            if (n_cut) fail_cut_links(self);
            break;
        }
        handle(self, &in);
        release_arrival(&in);
        n_happened++;
    }
    return n_happened;
}

static int zmq_descriptors(const tr_transport *base, int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS])
{
    const zmq *self = (const zmq *)base;
    size_t size = sizeof *descriptors;
    zmq_getsockopt(self->router, ZMQ_FD, &descriptors[0], &size);
    zmq_getsockopt(self->monitor, ZMQ_FD, &descriptors[1], &size);
    descriptors[2] = self->timer;
    return 3;
}

/* The descriptors are edge-triggered: they tell of the next event only after
 * ZMQ_EVENTS said that there is none now. */
static bool is_quiet(void *socket)
{
    int events = 0;
    size_t size = sizeof events;
    return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) == 0 && !(events & ZMQ_POLLIN);
}

static bool zmq_arm(tr_transport *base)
{
    zmq *self = (zmq *)base;
    look_at_links(self); /* a connect or send since the last progress may need the timer */
    return base->n_failed == 0 && self->n_cut == 0 && is_quiet(self->monitor) && is_quiet(self->router);
}

static size_t zmq_unsent(const tr_transport *base)
{
    const zmq *self = (const zmq *)base;
    return self->n_queued + atomic_load_explicit(&self->n_in_flight, memory_order_relaxed);
}

static void zmq_close_transport(tr_transport *base)
{
    for (size_t i = 0; i < base->n_links; i++) zmq_drop(base, base->links[i], true);
    release_all((zmq *)base);
}

const tr_transport_kind tr__transport_zmq = {
    .name = "zmq",
    .self_bytes = sizeof(zmq),
    .link_bytes = sizeof(zmq_link),
    .open = zmq_open,
    .connect = zmq_connect_link,
    .send = zmq_send_message,
    .progress = zmq_progress,
    .descriptors = zmq_descriptors,
    .arm = zmq_arm,
    .unsent = zmq_unsent,
    .drop = zmq_drop,
    .close = zmq_close_transport,
};
