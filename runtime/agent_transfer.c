/* runtime/agent_transfer.c - state slots on their way between the agents of a job's hosts.
 * They go in parts, a window of them under way; the receiver writes them into the slot that it needs least,
 * compares the hash of the whole with that of its writer, and publishes it only then. So a transfer that ends anywhere leaves
 * the other slot, and one that reads a slot which is overwritten meanwhile is seen and begun again. Three kinds: what a new home
 * begins with is handed over once, before its worker is started; a copy against the loss of this host follows each generation;
 * what another agent needs to deal out a new layout (agent_change.c) is one generation, which lies apart there.
 * Who is told of another layout first sends what the other does not know yet: it is dropped, and sent again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_hosts.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/control_messages.h"

#include <string.h>

enum { WINDOW_PARTS = 4, RECONNECT_MS = 500, STUCK_MS = 3000 };

typedef tr__stream stream;
typedef tr__intake intake;
typedef tr__agent_hosts hosts;

int32_t tr__agent_hosts_node(const hosts *self, int32_t member)
{
    return self->agent->launch->node - self->me + member;
}

static const tr_actor_spec *actor_at(const hosts *self, uint32_t i)
{
    return &self->agent->topology.actors[i];
}

static uint64_t slot_bytes(const hosts *self, uint32_t i)
{
    return actor_at(self, i)->state_bytes;
}

static bool is_mine(const hosts *self, int32_t node)
{
    return self->settled && node < self->homes.n_nodes && self->homes.home[node] == self->me;
}

/* --- sending --- */

/* Of two agents the later one connects, so that they do not take each other's place. The earlier one knows that there is a
 * link when it hears something. */
static void link_to(hosts *self, int32_t m, uint64_t now_ns)
{
    tr_error err;
    int32_t peer = tr__agent_hosts_node(self, m);
    if (m >= self->me || self->linked[m] || !self->homes.addresses[m][0]) return;
    if (self->unlinked_ns[m] && now_ns < self->unlinked_ns[m] + (uint64_t)RECONNECT_MS * 1000000) return;
    tr_node_found(self->agent->node, peer);
    self->linked[m] = tr_node_connect(self->agent->node, peer, self->homes.addresses[m], NULL, &err) == TR_OK;
    if (self->linked[m]) return; /* its end is told otherwise */
    tr_log(TR_LOG_WARNING, "cannot reach the agent at %s: %s", self->homes.addresses[m], err.message);
    self->unlinked_ns[m] = now_ns;
}

static void begin_again(stream *self)
{
    self->slot = -1;
    self->generation = self->offset_bytes = self->taken_bytes = 0;
}

static bool was_sent(const stream *self, uint64_t generation)
{
    return generation == self->sent[0] || generation == self->sent[1];
}

/* The slot that goes next: both, the older one first, since everybody may go back to that. Of those copied only what is
 * newer than what has gone; for a change the one. */
static int next_slot(const stream *self, const tr_state_region *region)
{
    uint64_t a = tr_state_generation(region, 0), b = tr_state_generation(region, 1);
    int newest = b > a, oldest = 1 - newest;
    uint64_t of_newest = newest ? b : a, of_oldest = newest ? a : b;
    if (self->change && was_sent(self, self->wanted)) return -1;
    if (self->change) return of_newest == self->wanted ? newest : of_oldest == self->wanted ? oldest : -1;
    if (self->goes_on && of_oldest > self->sent[0]) return oldest;
    if (self->goes_on) return of_newest > self->sent[0] ? newest : -1;
    if (of_oldest && !was_sent(self, of_oldest)) return oldest;
    return of_newest && !was_sent(self, of_newest) ? newest : -1;
}

static void send_part(hosts *self, const stream *to, const tr_slot_part *what)
{
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_error err;
    tr_slot_part part = *what;
    part.layout = to->change ? to->change : self->agent->layout;
    part.fetched = to->change != 0;
    if (tr_slot_part_encode(&part, &bytes, &size_bytes, &err) == TR_OK)
        tr_node_send_system(self->agent->node, tr__agent_hosts_node(self, to->member), TR_CONTROL_SLOT, bytes,
                            (uint32_t)size_bytes);
    else
        tr_node_fail(self->agent->node, &err);
    tr_free(bytes);
}

/* That all is handed over. */
static void send_end(hosts *self, stream *to)
{
    to->ended = true;
    to->moved_ns = tr_clock_ns();
    send_part(self, to, &(tr_slot_part){.actor = to->actor});
}

static bool begin_slot(hosts *self, stream *to, const tr_state_region *region)
{
    to->slot = next_slot(to, region);
    if (to->slot >= 0) {
        to->generation = tr_state_generation(region, to->slot);
        to->hash = tr_state_hash(region, to->slot);
        to->offset_bytes = to->taken_bytes = 0;
        to->moved_ns = tr_clock_ns();
        return true;
    }
    if (!to->goes_on && !to->ended) send_end(self, to);
    return false;
}

static bool may_send(hosts *self, const stream *to, uint64_t n_bytes)
{
    if (!self->agent->launch->copy_mib_per_s || !to->goes_on) return true;
    if (self->budget_bytes < n_bytes) return false;
    self->budget_bytes -= n_bytes;
    return true;
}

static void pump(hosts *self, stream *to)
{
    const tr_state_region *region = self->agent->states[to->from];
    if (!self->linked[to->member] || to->ended) return;
    if (!region && to->goes_on) return; /* it is on its way to us */
    if (!region) {                      /* nothing was ever there: it begins with nothing */
        send_end(self, to);
        return;
    }
    if (to->slot < 0 && !begin_slot(self, to, region)) return;
    uint64_t total = slot_bytes(self, to->from);
    while (to->offset_bytes < total &&
           to->offset_bytes - to->taken_bytes < (uint64_t)WINDOW_PARTS * TR_SLOT_PART_BYTES) {
        uint64_t left = total - to->offset_bytes;
        uint64_t n_bytes = left < TR_SLOT_PART_BYTES ? left : TR_SLOT_PART_BYTES;
        if (!may_send(self, to, n_bytes)) return;
        const tr_slot_part part = {.actor = to->actor,
                                   .generation = to->generation,
                                   .hash = to->hash,
                                   .offset_bytes = to->offset_bytes,
                                   .bytes = (const char *)tr_state_slot(region, to->slot) + to->offset_bytes,
                                   .n_bytes = n_bytes};
        send_part(self, to, &part);
        to->offset_bytes += n_bytes;
    }
}

tr_status tr__agent_hosts_send(hosts *self, const stream *added, tr_error *err)
{
    tr_status status = tr_array_reserve((void **)&self->streams, &self->streams_capacity, self->n_streams + 1,
                                        sizeof *self->streams, err);
    if (status == TR_OK) self->streams[self->n_streams++] = *added;
    return status;
}

void tr__agent_hosts_forget_streams(hosts *self, bool of_change)
{
    size_t n = 0;
    for (size_t i = 0; i < self->n_streams; i++)
        if ((self->streams[i].change != 0) != of_change) self->streams[n++] = self->streams[i];
    self->n_streams = n;
}

static void refill(hosts *self, uint64_t now_ns)
{
    uint64_t rate = (uint64_t)self->agent->launch->copy_mib_per_s << 20;
    uint64_t most = rate / 10 > TR_SLOT_PART_BYTES ? rate / 10 : TR_SLOT_PART_BYTES;
    self->budget_bytes += (uint64_t)((double)(now_ns - self->refilled_ns) * 1e-9 * (double)rate);
    if (self->budget_bytes > most) self->budget_bytes = most;
    self->refilled_ns = now_ns;
}

void tr__agent_hosts_pump(hosts *self, uint64_t now_ns)
{
    refill(self, now_ns);
    for (int32_t m = 0; m < self->homes.n_members; m++) link_to(self, m, now_ns);
    for (size_t i = 0; i < self->n_streams; i++) {
        stream *to = &self->streams[i];
        bool waits = to->slot >= 0 && to->offset_bytes > to->taken_bytes;
        bool stuck = now_ns > to->moved_ns + (uint64_t)STUCK_MS * 1000000;
        if (waits && stuck) begin_again(to); /* it was not heard */
        if (to->ended && stuck)
            to->ended = false; /* nobody answers that; it came for nothing where the head was not heard yet */
        pump(self, to);
    }
}

void tr__agent_hosts_lost_link(hosts *self, int32_t peer)
{
    int32_t m = peer - tr__agent_hosts_node(self, 0);
    if (m < 0 || m >= TR_MAX_MEMBERS) return;
    self->linked[m] = false;
    self->unlinked_ns[m] = tr_clock_ns();
    tr__agent_hosts_broke(self, m);
    for (size_t i = 0; i < self->n_streams; i++) {
        if (self->streams[i].member != m) continue;
        begin_again(&self->streams[i]);
        self->streams[i].ended = false;
    }
}

void tr__agent_hosts_taken(hosts *self, int32_t member, const tr_slot_part *taken)
{
    for (size_t i = 0; i < self->n_streams; i++) {
        stream *to = &self->streams[i];
        uint32_t layout = to->change ? to->change : self->agent->layout;
        if (to->member != member || to->actor != taken->actor || to->slot < 0 || layout != taken->layout ||
            (to->change != 0) != taken->fetched || to->generation != taken->generation)
            continue;
        to->moved_ns = tr_clock_ns();
        if (!taken->good) { /* it was overwritten while it was read, or damaged on its way */
            begin_again(to);
        } else if (taken->offset_bytes >= slot_bytes(self, to->from)) {
            self->n_copied++;
            self->copied_bytes += slot_bytes(self, to->from);
            to->sent[1] = to->sent[0];
            to->sent[0] = to->generation;
            begin_again(to);
        } else if (taken->offset_bytes > to->taken_bytes) {
            to->taken_bytes = taken->offset_bytes;
        }
        pump(self, to);
        return;
    }
}

/* --- receiving --- */

static void answer(hosts *self, int32_t member, tr_control_topic topic, const tr_slot_part *part)
{
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_error err;
    int32_t to = topic == TR_CONTROL_HELD ? TR_NODE_HEAD : tr__agent_hosts_node(self, member);
    if (tr_slot_part_encode(part, &bytes, &size_bytes, &err) == TR_OK)
        tr_node_send_system(self->agent->node, to, topic, bytes, (uint32_t)size_bytes);
    else
        tr_node_fail(self->agent->node, &err);
    tr_free(bytes);
}

/* What is at an actor that other parts may follow: the answer to `part`. */
static tr_slot_part answer_to(const tr_slot_part *part, uint64_t at_bytes, bool good)
{
    return (tr_slot_part){.layout = part->layout,
                          .fetched = part->fetched,
                          .actor = part->actor,
                          .generation = part->generation,
                          .offset_bytes = at_bytes,
                          .good = good};
}

/* A whole slot is there. */
static void finish(hosts *self, int32_t member, const tr_slot_part *part)
{
    const tr_slot_part taken = answer_to(part, slot_bytes(self, part->actor), true);
    answer(self, member, TR_CONTROL_SLOT_TAKEN, &taken);
    if (!part->fetched && !self->intakes[part->actor].expected) answer(self, member, TR_CONTROL_HELD, &taken);
}

static int slot_holding(const tr_state_region *region, const tr_slot_part *part)
{
    for (int slot = 0; slot < 2; slot++)
        if (tr_state_generation(region, slot) == part->generation &&
            tr_state_hash(region, slot) == part->hash)
            return slot;
    return -1;
}

static void begin_intake(intake *in, tr_state_region *region, const tr_slot_part *part)
{
    in->slot = tr_state_generation(region, 1) < tr_state_generation(region, 0);
    in->generation = part->generation;
    in->hash = part->hash;
    in->at_bytes = 0;
    tr_state_open(region, in->slot);
}

/* true: the slot is whole now. */
static bool take_bytes(hosts *self, int32_t member, const tr_slot_part *part, intake *in,
                       tr_state_region **region)
{
    tr_error err;
    uint64_t total = slot_bytes(self, part->actor);
    if (!*region && tr_state_region_new(region, actor_at(self, part->actor)->name, total, &err) != TR_OK) {
        tr_log(TR_LOG_ERROR, "no copy of %s: %s", actor_at(self, part->actor)->name, err.message);
        return false;
    }
    if (part->offset_bytes == 0 && slot_holding(*region, part) >= 0) { /* it was sent before */
        finish(self, member, part);
        return true;
    }
    if (part->offset_bytes == 0) begin_intake(in, *region, part);
    bool fits = in->generation == part->generation && in->hash == part->hash &&
                in->at_bytes == part->offset_bytes && part->n_bytes <= total - in->at_bytes;
    if (!fits) return false; /* of a transfer that was begun again */
    memcpy((char *)tr_state_slot(*region, in->slot) + in->at_bytes, part->bytes, part->n_bytes);
    in->at_bytes += part->n_bytes;
    (void)tr_state_hash_on(*region, in->slot, in->at_bytes, 2 * TR_SLOT_PART_BYTES); /* not all at the end */
    tr__agent_hosts_came_on(self, in, in->at_bytes, total);
    tr_slot_part taken = answer_to(part, in->at_bytes, in->at_bytes < total);
    if (in->at_bytes < total) {
        answer(self, member, TR_CONTROL_SLOT_TAKEN, &taken);
        return false;
    }
    in->generation = 0;
    if (tr_state_admit(*region, in->slot, part->generation, part->hash)) {
        in->n_whole++;
        finish(self, member, part);
        return true;
    }
    tr_log(TR_LOG_INFO, "the state of %s did not arrive as it was sent; once more",
           actor_at(self, part->actor)->name);
    answer(self, member, TR_CONTROL_SLOT_TAKEN, &taken);
    return false;
}

/* For a change that this agent prepares. What the other one does not have is seen when it is dealt out. */
static void take_fetched(hosts *self, int32_t member, const tr_slot_part *part)
{
    size_t n_missing = 0;
    bool news = false;
    for (size_t i = 0; i < self->n_fetched && part->layout == self->fetched_for; i++) {
        tr__fetched *one = &self->fetched[i];
        if (one->actor == part->actor && one->member == member && !one->whole) {
            one->whole = !part->generation || take_bytes(self, member, part, &one->in, &one->region);
            news = one->whole;
        } else if (one->actor == part->actor && one->member == member && part->generation &&
                   !part->offset_bytes) {
            finish(self, member, part); /* the answer was lost */
        }
        n_missing += !one->whole;
    }
    if (news && !n_missing) tr__agent_go_on_preparing(self->agent);
}

void tr__agent_hosts_part(hosts *self, int32_t member, const tr_slot_part *part)
{
    if (!self->settled || part->actor >= self->agent->topology.n_actors || !slot_bytes(self, part->actor))
        return;
    if (part->fetched) {
        take_fetched(self, member, part);
        return;
    }
    if (part->layout != self->agent->layout) {
        const tr_slot_part refused = answer_to(part, 0, false);
        if (part->layout > self->agent->layout && part->generation && !part->offset_bytes)
            answer(self, member, TR_CONTROL_SLOT_TAKEN, &refused); /* the head's word is on its way to us */
        return;
    }
    intake *in = &self->intakes[part->actor];
    int32_t node = actor_at(self, part->actor)->node;
    if (is_mine(self, node) && !in->expected) return; /* a worker of ours writes there */
    if (part->generation) {
        (void)take_bytes(self, member, part, in, &self->agent->states[part->actor]);
    } else if (in->expected) {
        in->expected = false;
        tr__agent_hosts_start(self->agent);
    }
}

/* --- for a change --- */

static tr_status check_fetch(const hosts *self, const tr_state_fetch *fetch, tr_error *err)
{
    bool known = self->settled && fetch->actor <= self->agent->topology.n_actors &&
                 slot_bytes(self, (uint32_t)fetch->actor - 1) && fetch->from < self->homes.n_members &&
                 fetch->to < self->homes.n_members;
    return known ? TR_OK : tr_fail(err, TR_ECORRUPT, "a change of the layout moves what there is not");
}

tr_status tr__agent_hosts_fetch(hosts *self, const tr_change_order *order, size_t *n_awaited, tr_error *err)
{
    tr_status status = TR_OK;
    tr__agent_hosts_forget_fetched(self);
    self->fetched = tr_alloc_zero(order->n_fetches + 1, sizeof *self->fetched);
    if (!self->fetched) return tr_fail(err, TR_ENOMEM, "no memory for %zu transfers", order->n_fetches);
    self->fetched_for = order->layout;
    for (size_t i = 0; i < order->n_fetches && status == TR_OK; i++) {
        const tr_state_fetch *fetch = &order->fetches[i];
        uint32_t actor = (uint32_t)fetch->actor - 1;
        status = check_fetch(self, fetch, err);
        if (status == TR_OK && fetch->to == self->me)
            self->fetched[self->n_fetched++] = (tr__fetched){.actor = actor, .member = fetch->from};
        const tr__stream sent = {.actor = actor,
                                 .from = actor,
                                 .member = fetch->to,
                                 .change = order->layout,
                                 .wanted = order->generation,
                                 .slot = -1};
        if (status == TR_OK && fetch->from == self->me) status = tr__agent_hosts_send(self, &sent, err);
    }
    *n_awaited = self->n_fetched;
    return status;
}

tr_state_region *tr__agent_hosts_fetched(const hosts *self, tr_actor_id actor)
{
    for (size_t i = 0; i < self->n_fetched; i++)
        if (self->fetched[i].actor + 1 == actor) return self->fetched[i].region;
    return NULL;
}

void tr__agent_hosts_forget_fetched(hosts *self)
{
    for (size_t i = 0; i < self->n_fetched; i++) tr_state_region_let_go(&self->fetched[i].region);
    tr_free(self->fetched);
    self->fetched = NULL;
    self->n_fetched = 0;
    self->fetched_for = 0;
    tr__agent_hosts_forget_streams(self, true);
}
