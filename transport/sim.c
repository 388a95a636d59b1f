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

enum { MAX_RESENDS = 3, MAX_NOTICE_NS = 300000000 /* of a death; the head's suspicion takes 400 ms */ };

typedef struct sim {
    tr_transport base;
    tr_sim_network *network;
    tr_message *landed; /* one at most; its link_ is the sender's tr_link here */
    bool dead;
    uint32_t *n_left; /* frames that it may still send; NULL: no limit */
} sim;

typedef struct sim_link {
    tr_link base;
    bool cut;
} sim_link;

typedef struct flight {
    uint64_t due_ns, order;
    int32_t from, to;
    uint32_t from_incarnation, to_incarnation; /* whose connection it is on */
    bool is_loss;                              /* no frame: its receiver learns that the connection is gone */
    tr_message *message;
} flight;

struct tr_sim_network {
    const uint64_t *now_ns;
    const tr_sim_faults *faults;
    tr_rng_key key;
    uint64_t n_drawn, n_orders;
    flight *flights;
    size_t n_flights, capacity;
    void (*on_silent)(void *context, const uint32_t *n_left);
    void *on_silent_context;
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

static const tr_frame no_frame; /* of what is no frame */

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
    const tr_message *message = self->flights[i].message;
    if (body) *body = message ? tr_message_bytes(message) : NULL;
    return message ? &message->frame : &no_frame;
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

static bool same_link(const flight *a, const flight *b)
{
    return a->from == b->from && a->to == b->to && a->from_incarnation == b->from_incarnation &&
           a->to_incarnation == b->to_incarnation;
}

static tr_status launch(tr_sim_network *self, flight what, tr_error *err)
{
    tr_status status = tr_array_reserve((void **)&self->flights, &self->capacity, self->n_flights + 1,
                                        sizeof *self->flights, err);
    if (status != TR_OK) {
        tr_message_destroy(&what.message);
        return status;
    }
    what.due_ns += *self->now_ns + delay(self);
    what.order = self->n_orders++;
    for (size_t i = 0; self->faults->in_order && i < self->n_flights; i++) {
        const flight *other = &self->flights[i];
        if (same_link(other, &what) && other->due_ns > what.due_ns) what.due_ns = other->due_ns;
    }
    self->flights[self->n_flights++] = what;
    self->counters.n_sent++;
    return TR_OK;
}

/* What goes from this end to its peer, on the connection that it has. */
static flight flight_of(const tr_transport *base, const tr_link *link, tr_message *message)
{
    return (flight){.from = base->options.node,
                    .from_incarnation = base->options.incarnation,
                    .to = link->peer,
                    .to_incarnation = link->incarnation,
                    .message = message};
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

static sim *find_end(const tr_sim_network *self, int32_t node, uint32_t incarnation)
{
    for (size_t i = 0; i < self->n_ends; i++) {
        const tr_transport_options *options = &self->ends[i]->base.options;
        if (options->node == node && options->incarnation == incarnation && !self->ends[i]->dead)
            return self->ends[i];
    }
    return NULL;
}

static sim *newest_end(const tr_sim_network *self, int32_t node)
{
    sim *newest = NULL;
    for (size_t i = 0; i < self->n_ends; i++) {
        sim *end = self->ends[i];
        if (end->base.options.node == node && !end->dead &&
            (!newest || end->base.options.incarnation > newest->base.options.incarnation))
            newest = end;
    }
    return newest;
}

/* The receiver's link that it came on, NULL: that connection is gone; *to is where it would be. */
static tr_link *link_of(const tr_sim_network *self, const flight *landing, sim **to)
{
    *to = find_end(self, landing->to, landing->to_incarnation);
    tr_link *link = *to ? tr__link_find(&(*to)->base, landing->from) : NULL;
    return link && link->incarnation == landing->from_incarnation ? link : NULL;
}

bool tr_sim_network_is_current(const tr_sim_network *self, size_t i)
{
    sim *to, *from;
    const flight *this = &self->flights[i];
    const flight back = {.from = this->to,
                         .from_incarnation = this->to_incarnation,
                         .to = this->from,
                         .to_incarnation = this->from_incarnation};
    return link_of(self, this, &to) && link_of(self, &back, &from);
}

/* Half of what its connection does not carry any more comes on the next one. */
static tr_link *late_link(tr_sim_network *self, const flight *landing, sim **to)
{
    uint8_t kind = landing->message ? landing->message->frame.kind : 0;
    bool has_epoch = kind == TR_FRAME_DATA || kind == TR_FRAME_CREDIT || kind == TR_FRAME_CONTROL;
    if (!has_epoch || !draw(self, 2)) return NULL;
    *to = newest_end(self, landing->to);
    tr_link *link = *to ? tr__link_find(&(*to)->base, landing->from) : NULL;
    self->counters.n_late += link != NULL;
    return link;
}

void tr_sim_network_limit(tr_sim_network *self, int32_t node, uint32_t incarnation, uint32_t *n_left)
{
    sim *end = find_end(self, node, incarnation);
    if (end) end->n_left = n_left;
}

void tr_sim_network_on_silent(tr_sim_network *self, void (*told)(void *context, const uint32_t *n_left),
                              void *context)
{
    self->on_silent = told;
    self->on_silent_context = context;
}

static void forget(tr_sim_network *self, size_t i)
{
    tr_message_destroy(&self->flights[i].message);
    self->flights[i] = self->flights[--self->n_flights];
    self->counters.n_vanished++;
}

/* Of what is on its way some is lost; where frames keep their order, the last ones. */
static void lose_some(tr_sim_network *self, const flight *like)
{
    uint64_t from = draw(self, 3) ? self->n_orders - draw(self, 8) : UINT64_MAX;
    for (size_t i = 0; i < self->n_flights;) {
        const flight *other = &self->flights[i];
        bool lost = self->faults->in_order ? other->order >= from : draw(self, 3) == 0;
        if (same_link(other, like) && lost)
            forget(self, i);
        else
            i++;
    }
}

static void tell_loss(tr_sim_network *self, flight loss)
{
    loss.is_loss = true;
    loss.due_ns = draw(self, 2) ? draw(self, MAX_NOTICE_NS) : 0;
    launch(self, loss, NULL);
}

void tr_sim_network_kill(tr_sim_network *self, int32_t node, uint32_t incarnation)
{
    sim *end = find_end(self, node, incarnation);
    if (!end) return;
    end->dead = true;
    for (size_t i = 0; i < end->base.n_links; i++) {
        const tr_link *link = end->base.links[i];
        if (link->state != TR_LINK_OPEN && link->state != TR_LINK_OPENING) continue;
        const flight like = flight_of(&end->base, link, NULL);
        lose_some(self, &like);
        if (draw(self, 4)) tell_loss(self, like);
    }
}

static void cut_one_way(tr_sim_network *self, sim *from, int32_t to, bool told)
{
    tr_link *link = from ? tr__link_find(&from->base, to) : NULL;
    if (!link || (link->state != TR_LINK_OPEN && link->state != TR_LINK_OPENING)) return;
    const flight like = flight_of(&from->base, link, NULL);
    ((sim_link *)link)->cut = true;
    lose_some(self, &like);
    if (told) tell_loss(self, like);
}

void tr_sim_network_cut(tr_sim_network *self, int32_t told, int32_t other)
{
    cut_one_way(self, newest_end(self, other), told, true);
    cut_one_way(self, newest_end(self, told), other, draw(self, 2) != 0);
}

int32_t tr_sim_network_land(tr_sim_network *self, size_t which, tr_frame *frame, uint32_t *incarnation)
{
    TR_ASSERT(which < tr_sim_network_due(self));
    size_t at = choose(self, which);
    flight landing = self->flights[at];
    self->flights[at] = self->flights[--self->n_flights];
    self->counters.n_landed++;
    *frame = landing.message ? landing.message->frame : no_frame;
    sim *to;
    tr_link *link = link_of(self, &landing, &to);
    *incarnation = landing.to_incarnation;
    if (link && landing.is_loss) {
        tr__link_fail(&to->base, link, "the connection broke");
        return landing.to;
    }
    if (!link) link = late_link(self, &landing, &to);
    if (link) *incarnation = to->base.options.incarnation;
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
    snprintf(base->address, sizeof base->address, "sim://%d/%u", base->options.node,
             base->options.incarnation);
    return TR_OK;
}

/* Greetings do not fly: a link is there, for both, or it is refused. */
static tr_link *greet(sim *self, sim *to, bool *is_late, tr_error *err)
{
    tr_message *message;
    if (tr__hello_new(&self->base, to->base.options.node, false, &message, err) != TR_OK) return NULL;
    tr_hello hello;
    *is_late = tr__hello_is_late(&to->base, &message->frame);
    tr_link *link =
        *is_late ? NULL : tr__hello_admit(&to->base, &message->frame, tr_message_bytes(message), &hello);
    tr_message_destroy(&message);
    if (link) {
        link->state = TR_LINK_OPEN;
        ((sim_link *)link)->cut = false;
    } else if (*is_late) {
        tr_fail(err, TR_EREFUSED, "node %d left a late greeting without an answer", to->base.options.node);
    } else if (to->base.counters.starved) {
        tr_fail(err, TR_ENOMEM, "node %d has no memory for a link", to->base.options.node);
    } else {
        tr_fail(err, TR_EREFUSED, "node %d refused the greeting", to->base.options.node);
    }
    return link;
}

static tr_status sim_connect(tr_transport *base, tr_link *link, const char *address, tr_error *err)
{
    int32_t node;
    uint32_t incarnation;
    if (sscanf(address, "sim://%d/%u", &node, &incarnation) != 2 || node != link->peer)
        return tr_fail(err, TR_EINVAL, "'%s' is no address of simulated node %d", address, link->peer);
    sim *self = (sim *)base, *to = find_end(self->network, node, incarnation);
    if (!to) { /* as over a wire: it is found out later */
        link->incarnation = incarnation;
        tell_loss(self->network, (flight){.from = node,
                                          .from_incarnation = incarnation,
                                          .to = base->options.node,
                                          .to_incarnation = base->options.incarnation});
        return TR_OK;
    }
    bool is_late = false;
    if (greet(self, to, &is_late, err) && greet(to, self, &is_late, err)) return TR_OK;
    if (is_late) return TR_OK; /* nobody answers it, and it is not told */
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
    bool silent = self->dead || (self->n_left && *self->n_left == 0) || ((sim_link *)link)->cut;
    if (self->n_left && *self->n_left == 0 && network->on_silent)
        network->on_silent(network->on_silent_context, self->n_left);
    if (self->n_left && *self->n_left) --*self->n_left;
    if (silent) {
        network->counters.n_vanished++;
        tr_message_destroy(message);
        return TR_OK;
    }
    if (!network->faults->in_order && chance(network, network->faults->repeated_permille)) {
        network->counters.n_repeated++;
        tr_status status = copy(*message, &other, err);
        if (status == TR_OK) status = launch(network, flight_of(base, link, other), err);
        if (status != TR_OK) return status;
    }
    if (draw(network, 2)) {
        tr_status status = copy(*message, &other, err);
        if (status != TR_OK) return status;
        tr_message_destroy(message);
        *message = other;
    }
    const flight this = flight_of(base, link, *message);
    *message = NULL;
    return launch(network, this, err);
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
    } else if (tr__frame_admit(base, link, &from_wire->frame)) {
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
    bool silent = self->dead || (self->n_left && *self->n_left == 0) || ((sim_link *)link)->cut;
    if (!say_goodbye || silent || !find_end(self->network, link->peer, link->incarnation)) return;
    if (tr__hello_new(base, link->peer, true, &goodbye, NULL) != TR_OK) return;
    launch(self->network, flight_of(base, link, goodbye), NULL);
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
    .link_bytes = sizeof(sim_link),
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
