/* transport/sim.c - see sim.h. Bodies are copied into the receiver's place as from a wire, and every frame carries the
 * hash of its body, so that a buffer which was written again too early is seen when the frame lands. The sender's buffer
 * is held while the frame flies, as by a rendezvous, or, every other time, copied at once, as eager messages are.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/sim.h"

#include "base/memory.h"
#include "base/rng.h"
#include "transport/kind.h"

#include <stdio.h>
#include <string.h>

enum { MAX_RESENDS = 3 };

typedef struct sim {
    tr_transport base;
    tr_sim_network *network;
    tr_message *landed; /* one at most; its link_ is the sender's tr_link here */
} sim;

typedef struct flight {
    uint64_t due_ns, order;
    int32_t from, to;
    tr_message *message;
} flight;

struct tr_sim_network {
    const uint64_t *now_ns;
    const tr_sim_faults *faults;
    tr_rng_key key;
    uint64_t n_drawn, n_orders;
    flight *flights;
    size_t n_flights, capacity;
    sim **ends; /* the transports that live */
    size_t n_ends, ends_capacity;
    tr_sim_counters counters;
};

static uint64_t draw(tr_sim_network *self, uint64_t below)
{
    return below ? tr_rng_u64(&self->key, self->n_drawn++) % below : 0;
}

static bool chance(tr_sim_network *self, uint32_t permille)
{
    return draw(self, 1000) < permille;
}

/* ---- the network ---- */

tr_status tr_sim_network_new(tr_sim_network **out, uint64_t seed, const uint64_t *now_ns,
                             const tr_sim_faults *faults, tr_error *err)
{
    tr_sim_network *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a simulated network");
    self->key = (tr_rng_key){.seed = seed, .stream = 0x6e6574};
    self->now_ns = now_ns;
    self->faults = faults;
    *out = self;
    return TR_OK;
}

void tr_sim_network_destroy(tr_sim_network **out)
{
    tr_sim_network *self = *out;
    if (!self) return;
    TR_ASSERT(self->n_ends == 0);
    for (size_t i = 0; i < self->n_flights; i++) tr_message_destroy(&self->flights[i].message);
    tr_free(self->flights);
    tr_free(self->ends);
    tr_free(self);
    *out = NULL;
}

size_t tr_sim_network_flying(const tr_sim_network *self)
{
    return self->n_flights;
}

size_t tr_sim_network_due(const tr_sim_network *self)
{
    size_t n = 0;
    for (size_t i = 0; i < self->n_flights; i++) n += self->flights[i].due_ns <= *self->now_ns;
    return n;
}

uint64_t tr_sim_network_next_ns(const tr_sim_network *self)
{
    uint64_t next = UINT64_MAX;
    for (size_t i = 0; i < self->n_flights; i++)
        if (self->flights[i].due_ns < next) next = self->flights[i].due_ns;
    return next;
}

const tr_frame *tr_sim_network_frame(const tr_sim_network *self, size_t i, const void **body)
{
    TR_ASSERT(i < self->n_flights);
    if (body) *body = tr_message_bytes(self->flights[i].message);
    return &self->flights[i].message->frame;
}

tr_sim_counters tr_sim_network_count(const tr_sim_network *self)
{
    return self->counters;
}

static uint64_t delay(tr_sim_network *self)
{
    const tr_sim_faults *faults = self->faults;
    uint64_t delay_ns = faults->delay_min_ns + draw(self, faults->delay_max_ns - faults->delay_min_ns + 1);
    for (int i = 0; i < MAX_RESENDS && chance(self, faults->lost_permille); i++) {
        self->counters.n_lost++;
        delay_ns += faults->resend_ns << i;
    }
    return delay_ns;
}

static tr_status launch(tr_sim_network *self, int32_t from, int32_t to, tr_message **message, tr_error *err)
{
    tr_status status = tr_array_reserve((void **)&self->flights, &self->capacity, self->n_flights + 1,
                                        sizeof *self->flights, err);
    if (status != TR_OK) return status;
    uint64_t due_ns = *self->now_ns + delay(self);
    for (size_t i = 0; self->faults->in_order && i < self->n_flights; i++) {
        const flight *other = &self->flights[i];
        if (other->from == from && other->to == to && other->due_ns > due_ns) due_ns = other->due_ns;
    }
    self->flights[self->n_flights++] =
        (flight){.due_ns = due_ns, .order = self->n_orders++, .from = from, .to = to, .message = *message};
    self->counters.n_sent++;
    *message = NULL;
    return TR_OK;
}

static bool same_link(const flight *a, const flight *b)
{
    return a->from == b->from && a->to == b->to;
}

static size_t choose(tr_sim_network *self, size_t which)
{
    size_t at = 0;
    for (size_t i = 0; i < self->n_flights; i++) {
        if (self->flights[i].due_ns > *self->now_ns) continue;
        at = i;
        if (which-- == 0) break;
    }
    for (size_t i = 0; i < self->n_flights; i++) {
        if (!same_link(&self->flights[i], &self->flights[at]) ||
            self->flights[i].order >= self->flights[at].order)
            continue;
        if (self->faults->in_order) {
            at = i;
        } else {
            self->counters.n_overtaken++;
            break;
        }
    }
    return at;
}

static sim *find_end(const tr_sim_network *self, int32_t node)
{
    for (size_t i = 0; i < self->n_ends; i++)
        if (self->ends[i]->base.options.node == node) return self->ends[i];
    return NULL;
}

int32_t tr_sim_network_land(tr_sim_network *self, size_t which, tr_frame *frame)
{
    TR_ASSERT(which < tr_sim_network_due(self));
    size_t at = choose(self, which);
    flight landing = self->flights[at];
    self->flights[at] = self->flights[--self->n_flights];
    self->counters.n_landed++;
    *frame = landing.message->frame;
    sim *to = find_end(self, landing.to);
    tr_link *link = to ? tr__link_find(&to->base, landing.from) : NULL;
    if (!link) {
        self->counters.n_vanished++;
        tr_message_destroy(&landing.message);
        return to ? landing.to : -1;
    }
    TR_ASSERT(!to->landed);
    landing.message->link_ = link;
    to->landed = landing.message;
    return landing.to;
}

/* ---- the transport ---- */

static tr_status sim_open(tr_transport *base, tr_error *err)
{
    sim *self = (sim *)base;
    self->network = base->options.network;
    if (!self->network)
        return tr_fail(err, TR_EINVAL, "transport 'sim' needs a network; see transport/sim.h");
    tr_status status = tr_array_reserve((void **)&self->network->ends, &self->network->ends_capacity,
                                        self->network->n_ends + 1, sizeof(sim *), err);
    if (status != TR_OK) return status;
    self->network->ends[self->network->n_ends++] = self;
    base->options.hash_bodies = true;
    snprintf(base->address, sizeof base->address, "sim://%d", base->options.node);
    return TR_OK;
}

/* Greetings do not fly: a link is there, for both, or it is refused. */
static tr_link *greet(sim *self, sim *to, tr_error *err)
{
    tr_message *message;
    if (tr__hello_new(&self->base, to->base.options.node, false, &message, err) != TR_OK) return NULL;
    tr_hello hello;
    tr_link *link = tr__hello_admit(&to->base, &message->frame, tr_message_bytes(message), &hello);
    tr_message_destroy(&message);
    if (link)
        link->state = TR_LINK_OPEN;
    else if (to->base.counters.starved)
        tr_fail(err, TR_ENOMEM, "node %d has no memory for a link", to->base.options.node);
    else
        tr_fail(err, TR_EREFUSED, "node %d refused the greeting", to->base.options.node);
    return link;
}

static tr_status sim_connect(tr_transport *base, tr_link *link, const char *address, tr_error *err)
{
    sim *self = (sim *)base, *to = find_end(self->network, link->peer);
    if (!to || strcmp(to->base.address, address) != 0)
        return tr_fail(err, TR_EIO, "no simulated node listens at '%s'", address);
    if (greet(self, to, err) && greet(to, self, err)) return TR_OK;
    return to->base.counters.starved || self->base.counters.starved ? TR_ENOMEM : TR_EREFUSED;
}

static tr_status copy(const tr_message *message, tr_message **out, tr_error *err)
{
    tr_status status = tr_message_copy(out, tr_message_bytes(message), message->frame.body_bytes, err);
    if (status == TR_OK) (*out)->frame = message->frame;
    return status;
}

static tr_status sim_send(tr_transport *base, tr_link *link, tr_message **message, tr_error *err)
{
    sim *self = (sim *)base;
    tr_sim_network *network = self->network;
    tr_message *other = NULL;
    if (!network->faults->in_order && chance(network, network->faults->repeated_permille)) {
        network->counters.n_repeated++;
        tr_status status = copy(*message, &other, err);
        if (status == TR_OK) status = launch(network, base->options.node, link->peer, &other, err);
        tr_message_destroy(&other);
        if (status != TR_OK) return status;
    }
    if (draw(network, 2)) {
        tr_status status = copy(*message, &other, err);
        if (status != TR_OK) return status;
        tr_message_destroy(message);
        *message = other;
    }
    return launch(network, base->options.node, link->peer, message, err);
}

static int sim_progress(tr_transport *base)
{
    sim *self = (sim *)base;
    tr_message *from_wire = self->landed;
    if (!from_wire) return 0;
    self->landed = NULL;
    tr_link *link = from_wire->link_;
    if (from_wire->frame.kind == TR_FRAME_HELLO) {
        tr__link_goodbye(base, link);
    } else if (tr__frame_admit(base, &from_wire->frame)) {
        if (link->state == TR_LINK_OPENING) link->state = TR_LINK_OPEN;
        tr_message *message = NULL;
        if (link->state != TR_LINK_OPEN)
            tr__refuse(base, "it comes from a peer that did not greet");
        else
            message = tr__message_place(base, link, &from_wire->frame);
        if (message && message->body)
            memcpy(message->body->data, from_wire->body->data, message->frame.body_bytes);
        if (message) tr__message_deliver(base, link, message);
    }
    tr_message_destroy(&from_wire);
    return 1;
}

static int sim_descriptors(const tr_transport *base, int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS])
{
    (void)base, (void)descriptors;
    return 0;
}

static bool sim_arm(tr_transport *base)
{
    return ((sim *)base)->landed == NULL;
}

static size_t sim_unsent(const tr_transport *base)
{
    (void)base;
    return 0;
}

static void sim_drop(tr_transport *base, tr_link *link, bool say_goodbye)
{
    sim *self = (sim *)base;
    tr_message *goodbye;
    if (!say_goodbye || !find_end(self->network, link->peer)) return;
    if (tr__hello_new(base, link->peer, true, &goodbye, NULL) != TR_OK) return;
    launch(self->network, base->options.node, link->peer, &goodbye, NULL);
    tr_message_destroy(&goodbye);
}

static void sim_close(tr_transport *base)
{
    sim *self = (sim *)base;
    tr_message_destroy(&self->landed);
    for (size_t i = 0; i < base->n_links; i++)
        sim_drop(base, base->links[i],
                 base->links[i]->state == TR_LINK_OPEN || base->links[i]->state == TR_LINK_OPENING);
    for (size_t i = 0; i < self->network->n_ends; i++)
        if (self->network->ends[i] == self)
            self->network->ends[i] = self->network->ends[--self->network->n_ends];
}

const tr_transport_kind tr__transport_sim = {
    .name = "sim",
    .self_bytes = sizeof(sim),
    .link_bytes = sizeof(tr_link),
    .open = sim_open,
    .connect = sim_connect,
    .send = sim_send,
    .progress = sim_progress,
    .descriptors = sim_descriptors,
    .arm = sim_arm,
    .unsent = sim_unsent,
    .drop = sim_drop,
    .close = sim_close,
};
