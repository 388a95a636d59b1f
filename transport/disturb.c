/* transport/disturb.c - see disturb.h. Between the kinds of transport and transport.c: what arrives is looked at when its body
 * is there and sound, what is sent when it is sealed. What is late lies here until it is due; while anything does, nobody
 * sleeps.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/disturb.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "transport/kind.h"

#include <string.h>

typedef struct late {
    tr_message *message;
    tr_link *link;
    uint64_t due_ns;
} late;

struct tr__disturbed {
    tr_disturbance what;
    uint64_t until_ns;
    uint64_t n_drawn;
    uint64_t ordered_ns; /* when the last frame is due that none may overtake */
    late *late;          /* n_late, in the order in which they came */
    size_t n_late, capacity;
    tr_message *echo; /* the second of a frame that was sent, to go behind the next; NULL: none */
    int32_t echo_peer;
};

static uint64_t draw(struct tr__disturbed *self, uint64_t below)
{
    const tr_rng_key key = {.seed = self->what.seed, .stream = 0x57495245 /* "WIRE" */};
    return tr_rng_u64(&key, self->n_drawn++) % below;
}

/* Nothing above a transport numbers control messages, so they come once and in order. */
static bool is_numbered(const tr_frame *frame)
{
    return frame->kind == TR_FRAME_DATA || frame->kind == TR_FRAME_CREDIT;
}

static void take_out(struct tr__disturbed *self, size_t i)
{
    self->n_late--;
    memmove(self->late + i, self->late + i + 1, (self->n_late - i) * sizeof *self->late);
}

/* The one that is due first, of several the one that came first; false: none is due by then. */
static bool deliver_next(tr_transport *transport, uint64_t by_ns)
{
    struct tr__disturbed *self = transport->disturbed;
    size_t first = 0;
    for (size_t i = 1; i < self->n_late; i++)
        if (self->late[i].due_ns < self->late[first].due_ns) first = i;
    if (first == self->n_late || self->late[first].due_ns > by_ns) return false;
    const late next = self->late[first];
    take_out(self, first);
    tr__message_hand_over(transport, next.link, next.message);
    return true;
}

static void destroy(tr_transport *transport)
{
    struct tr__disturbed *self = transport->disturbed;
    __atomic_store_n(&transport->disturbed, NULL, __ATOMIC_RELAXED); /* see tr_transport_quiet */
    for (size_t i = 0; i < self->n_late; i++) tr_message_destroy(&self->late[i].message);
    tr_message_destroy(&self->echo);
    tr_free(self->late);
    tr_free(self);
}

static void end(tr_transport *transport)
{
    struct tr__disturbed *self = transport->disturbed;
    tr_link *link = self->what.kind == TR_DISTURB_DEAF ? tr__link_find(transport, self->what.peer) : NULL;
    while (deliver_next(transport, UINT64_MAX)) {
    }
    if (link) tr__link_fail(transport, link, "nothing came from it for %u ms", self->what.for_ms);
    destroy(transport);
}

void tr_transport_disturb(tr_transport *transport, const tr_disturbance *what)
{
    tr_link *link = tr__link_find(transport, what->peer);
    bool of_a_link = what->kind == TR_DISTURB_CUT || what->kind == TR_DISTURB_DEAF;
    if (transport->disturbed) end(transport);
    if (of_a_link && !link) return;
    if (what->kind == TR_DISTURB_CUT) {
        tr__link_fail(transport, link, "it was cut");
        return;
    }
    struct tr__disturbed *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return;
    self->what = *what;
    self->until_ns = tr_clock_ns() + (uint64_t)what->for_ms * 1000000;
    __atomic_store_n(&transport->disturbed, self, __ATOMIC_RELAXED); /* the same */
}

bool tr__disturbed_arrival(tr_transport *transport, tr_link *link, tr_message **message)
{
    struct tr__disturbed *self = transport->disturbed;
    if (self->what.kind == TR_DISTURB_DEAF && link->peer == self->what.peer) {
        tr_message_destroy(message);
        return true;
    }
    if (self->what.kind != TR_DISTURB_DELAY ||
        tr_array_reserve((void **)&self->late, &self->capacity, self->n_late + 1, sizeof *self->late, NULL))
        return false;
    uint64_t due_ns = tr_clock_ns() + draw(self, TR_DISTURB_LATE_MS * 1000000);
    if (!is_numbered(&(*message)->frame)) {
        if (due_ns < self->ordered_ns) due_ns = self->ordered_ns;
        self->ordered_ns = due_ns;
    }
    self->late[self->n_late++] = (late){.message = *message, .link = link, .due_ns = due_ns};
    *message = NULL;
    return true;
}

/* One that cannot be copied goes once. */
tr_message *tr__disturbed_copy(const tr_transport *transport, const tr_message *message)
{
    tr_message *copy = NULL;
    bool readable = !message->body || message->body->kind != TR_MEMORY_DEVICE;
    if (transport->disturbed->what.kind != TR_DISTURB_DUPLICATE || !readable ||
        !is_numbered(&message->frame) ||
        tr_message_copy(&copy, tr_message_bytes(message), message->frame.body_bytes, NULL))
        return NULL;
    copy->frame = message->frame;
    return copy;
}

static void send_echo(tr_transport *transport, int32_t peer, tr_message **echo)
{
    tr_link *link = *echo ? tr__link_find(transport, peer) : NULL;
    if (link && tr__link_is_up(link)) transport->kind->send(transport, link, echo, NULL);
    tr_message_destroy(echo);
}

void tr__disturbed_departure(tr_transport *transport, int32_t peer, tr_message *copy)
{
    struct tr__disturbed *self = transport->disturbed;
    send_echo(transport, self->echo_peer, &self->echo);
    if (draw(self, 2)) {
        send_echo(transport, peer, &copy);
    } else {
        self->echo = copy;
        self->echo_peer = peer;
    }
}

int tr__disturbed_progress(tr_transport *transport)
{
    uint64_t now_ns = tr_clock_ns();
    int n_happened = 0;
    while (deliver_next(transport, now_ns)) n_happened++;
    if (now_ns < transport->disturbed->until_ns) return n_happened;
    end(transport);
    return n_happened + 1;
}

bool tr__disturbed_is_busy(const tr_transport *transport)
{
    return transport->disturbed->n_late > 0;
}

void tr__disturbed_drop(tr_transport *transport, const tr_link *link)
{
    struct tr__disturbed *self = transport->disturbed;
    for (size_t i = self->n_late; i-- > 0;) {
        if (self->late[i].link != link) continue;
        tr_message_destroy(&self->late[i].message);
        take_out(self, i);
    }
    if (self->echo && self->echo_peer == link->peer) tr_message_destroy(&self->echo);
    if (self->what.kind == TR_DISTURB_DEAF && self->what.peer == link->peer) destroy(transport);
}

void tr__disturbed_destroy(tr_transport *transport)
{
    destroy(transport);
}
