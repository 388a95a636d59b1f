/* test/transport/fixture.h - a node as conformance.h plays it: a transport, what arrived at it, and patience. The
 * includer defines CONFORMANCE_KIND, and CONFORMANCE_KEY where nodes listen at loopback's TCP and have a key.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_FIXTURE_H
#define TROUPE_TEST_TRANSPORT_FIXTURE_H

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "check.h"
#include "transport/transport.h"

#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_MS = 20000, MAX_BODY_BYTES = 8 << 20, MAX_NODES = 8 };

typedef struct node {
    tr_transport *transport;
    int32_t number;
    tr_message *first, *last; /* what arrived and was not taken yet */
    int n_arrived, n_lost, n_damaged;
    int n_arrived_when_lost; /* the last time */
    int32_t last_peer, lost_peer;
    char lost_reason[256];
    bool places_nothing;
} node;

static inline tr_buffer *place(void *context, int32_t peer, const tr_frame *frame)
{
    (void)peer;
    tr_buffer *body = NULL;
    if (!((node *)context)->places_nothing) tr_buffer_new(&body, frame->body_bytes, NULL);
    return body;
}

static inline void deliver(void *context, int32_t peer, tr_message *message)
{
    node *self = context;
    message->next = NULL;
    *(self->first ? &self->last->next : &self->first) = message;
    self->last = message;
    self->n_arrived++;
    self->last_peer = peer;
}

static inline void lose(void *context, int32_t peer, const char *reason)
{
    node *self = context;
    self->n_lost++;
    self->lost_peer = peer;
    self->n_arrived_when_lost = self->n_arrived;
    snprintf(self->lost_reason, sizeof self->lost_reason, "%s", reason);
}

static inline void hear_of_damage(void *context, int32_t peer, const char *reason)
{
    node *self = context;
    self->n_damaged++;
    self->lost_peer = peer;
    snprintf(self->lost_reason, sizeof self->lost_reason, "%s", reason);
}

#ifdef CONFORMANCE_KEY
/* For tests alone: everybody can read it here. */
static const tr_curve_key the_key = {"22T0y&vr]6(esT\?qH#ml1]S5m>X2heIcVpK<!GsO",
                                     "-btSSn8!lPwk2(z6*InaX14]]@A>nO4q@UTQbjtA"};
#endif

static inline tr_transport_options options_of(int32_t number)
{
    return (tr_transport_options){
#ifdef CONFORMANCE_KEY
        .bind = "tcp://127.0.0.1:*",
        .key = &the_key,
#endif
        .heartbeat_timeout_ms = 2000,
        .node = number,
        .incarnation = 1,
        .job_key = "one job's key..",
        .max_body_bytes = MAX_BODY_BYTES};
}

static inline node *node_with(const tr_transport_options *options)
{
    tr_error err;
    node *self = tr_alloc_zero(1, sizeof *self);
    self->number = options->node;
    const tr_transport_events events = {self, place, deliver, lose, hear_of_damage};
    if (tr_transport_new(&self->transport, CONFORMANCE_KIND, options, &events, &err) != TR_OK) {
        fprintf(stderr, "cannot make a transport: %s\n", err.message);
        abort();
    }
    return self;
}

static inline node *node_new(int32_t number)
{
    const tr_transport_options options = options_of(number);
    return node_with(&options);
}

static inline tr_message *node_take(node *self)
{
    tr_message *message = self->first;
    if (message) self->first = message->next;
    return message;
}

static inline void node_drain(node *self)
{
    for (tr_message *message; (message = node_take(self));) tr_message_destroy(&message);
}

static inline void node_destroy(node **self)
{
    tr_transport_destroy(&(*self)->transport);
    node_drain(*self);
    tr_free(*self);
    *self = NULL;
}

static inline void node_connect(node *from, const node *to)
{
    tr_error err;
    CHECK_OK(tr_transport_connect(from->transport, to->number, tr_transport_address(to->transport), &err));
}

static inline tr_status try_send(node *from, int32_t to, uint32_t sequence, const void *bytes,
                                 uint32_t size_bytes)
{
    tr_message *message;
    if (tr_message_copy(&message, bytes, size_bytes, NULL) != TR_OK) return TR_ENOMEM;
    message->frame.kind = TR_FRAME_DATA;
    message->frame.source = (uint64_t)from->number;
    message->frame.edge = 1;
    message->frame.sequence = sequence;
    tr_status status = tr_transport_send(from->transport, to, &message, NULL);
    TR_ASSERT(!message);
    return status;
}

static inline void node_send(node *from, const node *to, uint32_t sequence, const void *bytes,
                             uint32_t size_bytes)
{
    CU_ASSERT_EQUAL(try_send(from, to->number, sequence, bytes, size_bytes), TR_OK);
}

static inline void progress_all(node **nodes)
{
    int n_happened = 0;
    for (; *nodes; nodes++) n_happened += tr_transport_progress((*nodes)->transport);
    if (!n_happened) sched_yield();
}

#define PROGRESS_UNTIL(condition, patience_ms, ...)                                                          \
    do {                                                                                                     \
        node *nodes_[] = {__VA_ARGS__, NULL};                                                                \
        uint64_t end_ns_ = tr_clock_ns() + (uint64_t)(patience_ms)*1000000;                                  \
        while (!(condition) && !CHECK_LATE(end_ns_)) progress_all(nodes_);                                   \
        CU_ASSERT(condition);                                                                                \
    } while (0)

/* Sleeps as a worker does: arms, then polls, beside one more descriptor (-1: none). Returns false after patience_ms in vain. */
static inline bool sleep_until_either(tr_transport *transport, int other, int patience_ms)
{
    if (!tr_transport_arm(transport)) return true;
    int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS];
    struct pollfd polled[TR_TRANSPORT_MAX_DESCRIPTORS + 1];
    int n = tr_transport_descriptors(transport, descriptors);
    for (int i = 0; i < n; i++) polled[i] = (struct pollfd){.fd = descriptors[i], .events = POLLIN};
    polled[n] = (struct pollfd){.fd = other, .events = POLLIN};
    return poll(polled, (nfds_t)n + 1, patience_ms) != 0;
}

static inline bool sleep_until_woken(tr_transport *transport, int patience_ms)
{
    return sleep_until_either(transport, -1, patience_ms);
}

#endif
