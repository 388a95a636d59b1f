/* transport/zmq.c - links over ZeroMQ: ipc on a host, tcp between hosts.
 * Each node binds one ROUTER on which it only receives, and has one DEALER for each peer on which it only
 * sends; who is greeted connects back. So both directions look alike, the queue of a dead peer dies with its
 * DEALER, and one monitor (the ROUTER's) sees every peer go: the greeting tells which descriptor is whose.
 * Only a refusal goes back through the ROUTER, to a peer we would not connect to. ZeroMQ's silent habits are
 * off: no reconnecting (it would lose frames unseen), no dropping at a high-water mark, heartbeats. Bodies
 * are sent from where they lie: its I/O thread gives back the message when it is gone.
 * Sources: zmq_setsockopt(3), zmq_socket_monitor(3), https://rfc.zeromq.org/spec/37/ (heartbeats).
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/zmq_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    GREETING_TIMEOUT_MS = 30000, /* generous: the peer answers from between its handlers */
    TICK_MS = 50,                /* while something is to be looked at that no descriptor tells */
    BATCH = 256,                 /* frames handled in one progress */
    N_PARTS = 3                  /* identity, header, body */
};

static void release_all(tr__zmq *self)
{
    if (self->router) zmq_socket_monitor(self->router, NULL, 0);
    if (self->monitor) zmq_close(self->monitor);
    if (self->router) zmq_close(self->router);
    if (self->zap) zmq_close(self->zap);
    if (self->context) zmq_ctx_term(self->context); /* returns when the sockets' linger times are over */
    if (self->timer >= 0) close(self->timer);
    tr_curve_key_wipe(&self->key);
}

static int descriptor_of(void *socket)
{
    int descriptor = -1;
    size_t size = sizeof descriptor;
    zmq_getsockopt(socket, ZMQ_FD, &descriptor, &size);
    return descriptor;
}

static void note_descriptors(tr__zmq *self)
{
    self->descriptors[0] = descriptor_of(self->router);
    self->descriptors[1] = descriptor_of(self->monitor);
    self->descriptors[2] = self->timer;
    self->n_descriptors = 3;
    if (self->zap) self->descriptors[self->n_descriptors++] = descriptor_of(self->zap);
    self->ready =
        TR__ZMQ_ROUTER | TR__ZMQ_MONITOR | (self->zap ? TR__ZMQ_ZAP : 0u); /* nobody has asked them yet */
}

static tr_status zmq_open(tr_transport *base, tr_error *err)
{
    tr__zmq *self = (tr__zmq *)base;
    self->is_keyed = base->options.key != NULL;
    if (self->is_keyed) self->key = *base->options.key;
    base->options.key = NULL; /* the caller's */
    self->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    self->context = zmq_ctx_new();
    tr_status status = TR_OK;
    if (self->timer < 0)
        status = tr_fail(err, TR_EIO, "cannot make a timer: %s", strerror(errno));
    else
        status = self->context ? tr__zmq_router_bind(self, err) : tr__zmq_fail(err, "make a context");
    if (status == TR_OK)
        note_descriptors(self);
    else
        release_all(self);
    return status;
}

/* Notes which connections are gone. Whatever they still brought lies in the ROUTER and is delivered first. */
static int read_monitor(tr__zmq *self)
{
    int n_events = 0;
    while (self->ready & TR__ZMQ_MONITOR) {
        uint8_t event[6], address[256];
        int size = zmq_recv(self->monitor, event, sizeof event, ZMQ_DONTWAIT);
        if (size < 0) {
            self->ready &= ~TR__ZMQ_MONITOR;
            break;
        }
        zmq_recv(self->monitor, address, sizeof address, ZMQ_DONTWAIT);
        n_events++;
        uint16_t kind;
        uint32_t value;
        int32_t descriptor;
        memcpy(&kind, event, sizeof kind);
        memcpy(&value, event + 2, sizeof value);
        memcpy(&descriptor, event + 2, sizeof descriptor);
        if (kind != ZMQ_EVENT_DISCONNECTED) {
            tr__zmq_on_handshake(self, kind, value);
            continue;
        }
        for (size_t i = 0; i < self->base.n_links; i++) {
            tr__zmq_link *link = (tr__zmq_link *)self->base.links[i];
            if (!link->is_identified || link->is_cut || link->descriptor != descriptor) continue;
            link->is_cut = true;
            self->n_cut++;
            self->ready |= TR__ZMQ_ROUTER; /* to be emptied before the loss is told */
        }
    }
    return n_events;
}

static void fail_cut_links(tr__zmq *self)
{
    for (size_t i = 0; self->n_cut && i < self->base.n_links; i++) {
        tr__zmq_link *link = (tr__zmq_link *)self->base.links[i];
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
static bool parse(tr__zmq *self, arrival *in, int first, tr_link *link, tr_frame *frame)
{
    if (in->n_parts != first + 2 || zmq_msg_size(&in->parts[first]) != TR_FRAME_BYTES) {
        tr__refuse(&self->base, "it has %d parts, not a header of 64 bytes and a body", in->n_parts - first);
        return false;
    }
    memcpy(frame, zmq_msg_data(&in->parts[first]), TR_FRAME_BYTES);
    if (!tr__frame_admit(&self->base, link, frame)) return false;
    if (zmq_msg_size(&in->parts[first + 1]) == frame->body_bytes) return true;
    tr__refuse(&self->base, "its body has %zu bytes, its header says %u", zmq_msg_size(&in->parts[first + 1]),
               frame->body_bytes);
    tr__link_damaged(&self->base, link, "its body has another size than its header says");
    return false;
}

/* Through the ROUTER: a refused peer's own address is not to be trusted. */
static void turn_away(tr__zmq *self, arrival *in)
{
    tr_message *goodbye;
    if (tr__hello_new(&self->base, -1, true, &goodbye, NULL) != TR_OK) return;
    zmq_msg_t *identity = &in->parts[0];
    self->ready |= TR__ZMQ_ROUTER; /* whatever uses a socket may take its descriptor's word */
    if (zmq_send(self->router, zmq_msg_data(identity), zmq_msg_size(identity), ZMQ_SNDMORE | ZMQ_DONTWAIT) <
            0 ||
        !tr__zmq_transmit(self, self->router, goodbye))
        tr_message_destroy(&goodbye);
}

static void handle_hello(tr__zmq *self, arrival *in, const tr_frame *frame)
{
    tr_hello hello;
    tr_link *base_link = NULL;
    tr_error err;
    size_t identity_bytes = zmq_msg_size(&in->parts[0]);
    if (tr__hello_is_late(&self->base, frame)) return;
    if (identity_bytes == TR__ZMQ_IDENTITY_BYTES)
        base_link = tr__hello_admit(&self->base, frame, zmq_msg_data(&in->parts[2]), &hello);
    else
        tr__refuse(&self->base, "it greets with a name of %zu bytes, as no node does", identity_bytes);
    if (!base_link) {
        turn_away(self, in);
        return;
    }
    tr__zmq_link *link = (tr__zmq_link *)base_link;
    if (base_link->state == TR_LINK_OPEN) tr__link_replace(&self->base, base_link);
    if (!link->dealer && tr__zmq_connect(&self->base, base_link, hello.address, &err) != TR_OK) {
        tr_log(TR_LOG_WARNING, "node %d cannot answer node %d: %s", self->base.options.node, hello.node,
               err.message);
        turn_away(self, in);
        return;
    }
    /* A descriptor's number is used again: forget what its last owner's end
     * has to say before it names this peer. */
    self->ready |= TR__ZMQ_MONITOR;
    read_monitor(self);
    tr__zmq_unwatch_dealer(link);
    memcpy(link->identity, zmq_msg_data(&in->parts[0]), TR__ZMQ_IDENTITY_BYTES);
    link->descriptor = zmq_msg_get(&in->parts[2], ZMQ_SRCFD);
    link->is_identified = true;
    base_link->state = TR_LINK_OPEN;
}

static tr__zmq_link *link_of(tr__zmq *self, zmq_msg_t *identity)
{
    int32_t peer;
    const uint8_t *bytes = zmq_msg_data(identity);
    if (zmq_msg_size(identity) != TR__ZMQ_IDENTITY_BYTES) return NULL;
    memcpy(&peer, bytes + 1, sizeof peer);
    tr__zmq_link *link = (tr__zmq_link *)tr__link_find(&self->base, peer);
    return link && link->is_identified && memcmp(link->identity, bytes, TR__ZMQ_IDENTITY_BYTES) == 0 ? link
                                                                                                     : NULL;
}

static void handle(tr__zmq *self, arrival *in)
{
    tr_frame frame;
    tr__zmq_link *link = link_of(self, &in->parts[0]);
    if (!parse(self, in, 1, link ? &link->base : NULL, &frame)) return;
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

/* What has not greeted us yet: has it refused us, or is nobody there? */
static void look_at_greeting(tr__zmq *self, tr__zmq_link *link, uint64_t now_ns)
{
    arrival in;
    tr_frame frame;
    if (receive(link->dealer, &in)) {
        if (parse(self, &in, 0, &link->base, &frame) && frame.kind == TR_FRAME_HELLO && frame.body_bytes == 0)
            tr__link_goodbye(&self->base, &link->base);
        release_arrival(&in);
    } else if (now_ns - link->opened_ns > GREETING_TIMEOUT_MS * 1000000ull) {
        tr__link_fail(&self->base, &link->base, "nobody answered within %d s", GREETING_TIMEOUT_MS / 1000);
    } else {
        tr__zmq_look_at_dealer(self, link);
    }
}

/* What no descriptor tells: peers that do not answer, refusals that come back to a DEALER, frames that did not go.
 * Greetings are looked at when the timer says so; it runs while there is something to look at. */
static int look_at_links(tr__zmq *self)
{
    int n_happened = 0;
    bool must_tick = false, has_ticked = (self->ready & TR__ZMQ_TIMER) != 0;
    uint64_t now_ns = has_ticked ? tr_clock_ns() : 0, n_ticks;
    if (has_ticked && read(self->timer, &n_ticks, sizeof n_ticks) < 0) n_ticks = 0;
    self->ready &= ~TR__ZMQ_TIMER;
    for (size_t i = 0; i < self->base.n_links; i++) {
        tr__zmq_link *link = (tr__zmq_link *)self->base.links[i];
        if (link->first) n_happened += tr__zmq_flush(self, link);
        if (link->base.state == TR_LINK_OPENING && has_ticked) look_at_greeting(self, link, now_ns);
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

/* Asks the descriptors of those that had nothing, all at once. ZeroMQ's are edge-triggered only in that they fall
 * silent when a socket is used: one that said EAGAIN and was not used since is readable when it has something. */
static void look_at_descriptors(tr__zmq *self)
{
    static const unsigned bits[] = {TR__ZMQ_ROUTER, TR__ZMQ_MONITOR, TR__ZMQ_TIMER, TR__ZMQ_ZAP};
    struct pollfd polled[TR_TRANSPORT_MAX_DESCRIPTORS];
    for (int i = 0; i < self->n_descriptors; i++)
        polled[i] = (struct pollfd){.fd = self->descriptors[i], .events = POLLIN};
    if (poll(polled, (nfds_t)self->n_descriptors, 0) <= 0) return;
    for (int i = 0; i < self->n_descriptors; i++)
        if (polled[i].revents) self->ready |= bits[i];
}

static int zmq_progress(tr_transport *base)
{
    tr__zmq *self = (tr__zmq *)base;
    look_at_descriptors(self);
    int n_happened = tr__zmq_answer_questions(self) + read_monitor(self) + look_at_links(self);
    arrival in;
    for (int i = 0; i < BATCH && (self->ready & TR__ZMQ_ROUTER); i++) {
        if (!receive(self->router, &in)) {
            self->ready &= ~TR__ZMQ_ROUTER;
            if (self->n_cut) fail_cut_links(self); /* noted before this look: nothing of theirs is left */
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
    const tr__zmq *self = (const tr__zmq *)base;
    memcpy(descriptors, self->descriptors, sizeof self->descriptors);
    return self->n_descriptors;
}

static bool zmq_arm(tr_transport *base)
{
    tr__zmq *self = (tr__zmq *)base;
    look_at_links(self); /* a connect or send since the last progress may need the timer */
    return base->n_failed == 0 && self->n_cut == 0 && self->ready == 0;
}

static size_t zmq_unsent(const tr_transport *base)
{
    const tr__zmq *self = (const tr__zmq *)base;
    return self->n_queued + __atomic_load_n(&self->n_in_flight, __ATOMIC_RELAXED);
}

static void zmq_close_transport(tr_transport *base)
{
    for (size_t i = 0; i < base->n_links; i++) tr__zmq_drop(base, base->links[i], true);
    release_all((tr__zmq *)base);
}

const tr_transport_kind tr__transport_zmq = {
    .name = "zmq",
    .self_bytes = sizeof(tr__zmq),
    .link_bytes = sizeof(tr__zmq_link),
    .open = zmq_open,
    .connect = tr__zmq_connect,
    .send = tr__zmq_send,
    .progress = zmq_progress,
    .descriptors = zmq_descriptors,
    .arm = zmq_arm,
    .unsent = zmq_unsent,
    .drop = tr__zmq_drop,
    .close = zmq_close_transport,
};
