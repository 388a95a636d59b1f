/* runtime/agent_hosts.c - an agent in a job on several hosts: which workers are its, states that it gets from other agents and
 * those that it sends them, and its lease, which each word of the head renews.
 * States go slot by slot, in parts, a window of them under way; the receiver writes them into the slot that it needs least,
 * compares the hash of the whole with that of its writer, and publishes it only then. So a transfer that ends anywhere leaves
 * the other slot, and one that reads a slot which is overwritten meanwhile is seen and begun again. Two kinds: what a new home
 * begins with is handed over once, before its worker is started; a copy against the loss of this host follows each generation.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_hosts.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/control_messages.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>

enum { WINDOW_PARTS = 4, RECONNECT_MS = 500, STUCK_MS = 3000, MIN_BEAT_MS = 100 };

typedef struct stream {
    uint32_t actor, from; /* the receiver's, and whose slots are read */
    int32_t member;
    bool goes_on, ended;
    int slot; /* under way; -1: none */
    uint64_t generation, hash, offset_bytes, taken_bytes;
    uint64_t moved_ns; /* when it last went on */
    uint64_t sent[2];  /* generations, the last one first */
} stream;

typedef struct intake { /* by actor */
    bool expected;      /* its worker waits for it */
    int slot;
    uint64_t generation, hash, at_bytes; /* generation 0: nothing is under way */
} intake;

struct tr__agent_hosts {
    tr__agent *agent;
    tr_homes homes;
    int32_t me;
    bool settled; /* homes were heard of */
    stream *streams;
    size_t n_streams, streams_capacity;
    intake *intakes;
    bool *linked;          /* by member */
    uint64_t *unlinked_ns; /* when its link broke */
    uint64_t heard_ns, beat_ns;
    uint64_t refilled_ns, budget_bytes; /* what may go out for copies now */
    uint64_t n_copied, copied_bytes;    /* whole slots, for people */
};

typedef tr__agent_hosts hosts;

static int32_t node_of_member(const hosts *self, int32_t m)
{
    return self->agent->launch->node - self->me + m;
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
    return self->settled && self->homes.home[node] == self->me;
}

tr_status tr__agent_hosts_new(tr__agent_hosts **out, tr__agent *agent, tr_error *err)
{
    hosts *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for an agent");
    self->agent = agent;
    self->me = agent->launch->member;
    self->heard_ns = self->refilled_ns = tr_clock_ns();
    self->intakes = tr_alloc_zero(agent->topology.n_actors + 1, sizeof *self->intakes);
    self->linked = tr_alloc_zero(TR_MAX_MEMBERS, sizeof *self->linked);
    self->unlinked_ns = tr_alloc_zero(TR_MAX_MEMBERS, sizeof *self->unlinked_ns);
    *out = self;
    if (self->intakes && self->linked && self->unlinked_ns) return TR_OK;
    tr__agent_hosts_destroy(out);
    return tr_fail(err, TR_ENOMEM, "no memory for an agent");
}

static double seconds(struct timeval user, struct timeval system)
{
    return (double)(user.tv_sec + system.tv_sec) + (double)(user.tv_usec + system.tv_usec) * 1e-6;
}

/* What it cost: bench/copies reads this. */
static void tell_cost(const hosts *self)
{
    struct rusage own, workers;
    if (getrusage(RUSAGE_SELF, &own) != 0 || getrusage(RUSAGE_CHILDREN, &workers) != 0) return;
    tr_log(TR_LOG_INFO, "sent %llu state slots, %.1f MiB; processor time: agent %.3f s, workers %.3f s",
           (unsigned long long)self->n_copied, (double)self->copied_bytes / (1 << 20),
           seconds(own.ru_utime, own.ru_stime), seconds(workers.ru_utime, workers.ru_stime));
}

void tr__agent_hosts_destroy(tr__agent_hosts **out)
{
    hosts *self = *out;
    if (!self) return;
    tell_cost(self);
    tr_homes_release(&self->homes);
    tr_free(self->streams);
    tr_free(self->intakes);
    tr_free(self->linked);
    tr_free(self->unlinked_ns);
    tr_free(self);
    *out = NULL;
}

/* --- sending --- */

/* Of two agents the later one connects, so that they do not take each other's place. The earlier one knows that there is a
 * link when it hears something. */
static void link_to(hosts *self, int32_t m, uint64_t now_ns)
{
    tr_error err;
    int32_t peer = node_of_member(self, m);
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

/* The slot that goes next: handed over are both, the older one first; of those copied the newest. */
static int next_slot(const stream *self, const tr_state_region *region)
{
    uint64_t a = tr_state_generation(region, 0), b = tr_state_generation(region, 1);
    int newest = b > a, oldest = 1 - newest;
    uint64_t of_newest = newest ? b : a, of_oldest = newest ? a : b;
    if (self->goes_on) return of_newest > self->sent[0] ? newest : -1;
    if (of_oldest && !was_sent(self, of_oldest)) return oldest;
    return of_newest && !was_sent(self, of_newest) ? newest : -1;
}

static void send_part(hosts *self, const stream *to, const tr_slot_part *part)
{
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_error err;
    if (tr_slot_part_encode(part, &bytes, &size_bytes, &err) == TR_OK)
        tr_node_send_system(self->agent->node, node_of_member(self, to->member), TR_CONTROL_SLOT, bytes,
                            (uint32_t)size_bytes);
    else
        tr_node_fail(self->agent->node, &err);
    tr_free(bytes);
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
    if (!to->goes_on && !to->ended) {
        const tr_slot_part end = {.actor = to->actor};
        to->ended = true;
        send_part(self, to, &end);
    }
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
        send_part(self, to, &(tr_slot_part){.actor = to->actor});
        to->ended = true;
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

static void hear_taken(hosts *self, int32_t member, const tr_slot_part *taken)
{
    for (size_t i = 0; i < self->n_streams; i++) {
        stream *to = &self->streams[i];
        if (to->member != member || to->actor != taken->actor || to->slot < 0 ||
            to->generation != taken->generation)
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
    int32_t to = topic == TR_CONTROL_HELD ? TR_NODE_HEAD : node_of_member(self, member);
    if (tr_slot_part_encode(part, &bytes, &size_bytes, &err) == TR_OK)
        tr_node_send_system(self->agent->node, to, topic, bytes, (uint32_t)size_bytes);
    else
        tr_node_fail(self->agent->node, &err);
    tr_free(bytes);
}

/* A whole slot is there. */
static void finish(hosts *self, int32_t member, const tr_slot_part *part)
{
    const tr_slot_part taken = {.actor = part->actor,
                                .generation = part->generation,
                                .offset_bytes = slot_bytes(self, part->actor),
                                .good = true};
    answer(self, member, TR_CONTROL_SLOT_TAKEN, &taken);
    if (!self->intakes[part->actor].expected) answer(self, member, TR_CONTROL_HELD, &taken);
}

static int slot_holding(const tr_state_region *region, const tr_slot_part *part)
{
    for (int slot = 0; slot < 2; slot++)
        if (tr_state_generation(region, slot) == part->generation &&
            tr_state_hash(region, slot) == part->hash)
            return slot;
    return -1;
}

static bool begin_intake(hosts *self, intake *in, const tr_state_region *region, const tr_slot_part *part)
{
    (void)self;
    in->slot = tr_state_generation(region, 1) < tr_state_generation(region, 0);
    in->generation = part->generation;
    in->hash = part->hash;
    in->at_bytes = 0;
    return true;
}

static void take_bytes(hosts *self, int32_t member, const tr_slot_part *part)
{
    tr_error err;
    intake *in = &self->intakes[part->actor];
    tr_state_region **region = &self->agent->states[part->actor];
    uint64_t total = slot_bytes(self, part->actor);
    if (!*region && tr_state_region_new(region, actor_at(self, part->actor)->name, total, &err) != TR_OK) {
        tr_log(TR_LOG_ERROR, "no copy of %s: %s", actor_at(self, part->actor)->name, err.message);
        return;
    }
    if (part->offset_bytes == 0 && slot_holding(*region, part) >= 0) { /* it was sent before */
        finish(self, member, part);
        return;
    }
    if (part->offset_bytes == 0 && begin_intake(self, in, *region, part)) tr_state_open(*region, in->slot);
    bool fits = in->generation == part->generation && in->hash == part->hash &&
                in->at_bytes == part->offset_bytes && part->n_bytes <= total - in->at_bytes;
    if (!fits) return; /* of a transfer that was begun again */
    memcpy((char *)tr_state_slot(*region, in->slot) + in->at_bytes, part->bytes, part->n_bytes);
    in->at_bytes += part->n_bytes;
    tr_slot_part taken = {.actor = part->actor, .generation = part->generation, .offset_bytes = in->at_bytes};
    if (in->at_bytes < total) {
        taken.good = true;
        answer(self, member, TR_CONTROL_SLOT_TAKEN, &taken);
        return;
    }
    in->generation = 0;
    if (tr_state_admit(*region, in->slot, part->generation, part->hash)) {
        finish(self, member, part);
        return;
    }
    tr_log(TR_LOG_INFO, "the state of %s did not arrive as it was sent; once more",
           actor_at(self, part->actor)->name);
    answer(self, member, TR_CONTROL_SLOT_TAKEN, &taken);
}

static void hear_part(hosts *self, int32_t member, const tr_slot_part *part)
{
    if (!self->settled || part->actor >= self->agent->topology.n_actors || !slot_bytes(self, part->actor))
        return;
    intake *in = &self->intakes[part->actor];
    int32_t node = actor_at(self, part->actor)->node;
    if (is_mine(self, node) && !in->expected) return; /* a worker of ours writes there */
    if (part->generation) {
        take_bytes(self, member, part);
    } else if (in->expected) {
        in->expected = false;
        tr__agent_hosts_start(self->agent);
    }
}

/* --- homes --- */

/* What its states begin with: nothing has to be done where they are here already. */
static tr_status prepare_state(hosts *self, const tr_state_home *state, tr_error *err)
{
    tr_state_region **regions = self->agent->states;
    const tr__ward *worker = &self->agent->wards[actor_at(self, state->actor)->node];
    intake *in = &self->intakes[state->actor];
    if (worker->pidfd >= 0 || state->source < 0) return TR_OK;
    in->expected = state->source != self->me;
    if (in->expected || state->source_actor == state->actor || !regions[state->source_actor]) return TR_OK;
    tr_status status = TR_OK;
    if (!regions[state->actor])
        status = tr_state_region_new(&regions[state->actor], actor_at(self, state->actor)->name,
                                     slot_bytes(self, state->actor), err);
    if (status == TR_OK) tr_state_copy(regions[state->actor], regions[state->source_actor]);
    return status;
}

static tr_status add_stream(hosts *self, const tr_state_home *state, int32_t member, bool goes_on,
                            tr_error *err)
{
    tr_status status = tr_array_reserve((void **)&self->streams, &self->streams_capacity, self->n_streams + 1,
                                        sizeof *self->streams, err);
    if (status != TR_OK) return status;
    self->streams[self->n_streams++] = (stream){.actor = state->actor,
                                                .from = goes_on ? state->actor : state->source_actor,
                                                .member = member,
                                                .goes_on = goes_on,
                                                .slot = -1};
    return TR_OK;
}

static tr_status begin_transfers(hosts *self, tr_error *err)
{
    tr_status status = TR_OK;
    self->n_streams = 0;
    memset(self->intakes, 0, self->agent->topology.n_actors * sizeof *self->intakes);
    for (uint32_t i = 0; i < self->homes.n_states && status == TR_OK; i++) {
        const tr_state_home *state = &self->homes.states[i];
        int32_t home = self->homes.home[actor_at(self, state->actor)->node];
        if (home == self->me) {
            status = prepare_state(self, state, err);
            if (status == TR_OK && state->copy >= 0 && state->copy != self->me)
                status = add_stream(self, state, state->copy, true, err);
        } else if (home >= 0 && state->source == self->me) {
            status = add_stream(self, state, home, false, err);
        }
    }
    return status;
}

/* Another member may have come under an address that was another's. */
static void forget_links(hosts *self, const tr_homes *next)
{
    for (int32_t m = 0; m < next->n_members; m++) {
        bool known = m < self->homes.n_members && strcmp(self->homes.addresses[m], next->addresses[m]) == 0;
        if (known || m == self->me) continue;
        if (self->linked[m]) tr_node_disconnect(self->agent->node, node_of_member(self, m));
        self->linked[m] = false;
        self->unlinked_ns[m] = 0;
    }
}

static void take_homes(hosts *self, const tr_message *message)
{
    tr__agent *agent = self->agent;
    tr_homes next;
    tr_error err;
    tr_status status =
        tr_homes_decode(&next, tr_message_bytes(message), message->frame.body_bytes, &agent->topology, &err);
    if (status == TR_OK && (next.epoch < agent->epoch || agent->stopping)) {
        tr_homes_release(&next);
        return;
    }
    if (status == TR_OK) {
        forget_links(self, &next);
        tr_homes_release(&self->homes);
        self->homes = next;
        self->settled = true;
        agent->epoch = next.epoch;
        status = begin_transfers(self, &err);
    }
    if (status == TR_OK)
        tr__agent_hosts_start(agent);
    else
        tr__agent_tell_failure(agent, &err);
}

bool tr__agent_hosts_are_ready(const tr__agent_hosts *self, int32_t node)
{
    if (!is_mine(self, node)) return false;
    for (uint32_t i = 0; i < self->agent->topology.n_actors; i++)
        if (self->intakes[i].expected && actor_at(self, i)->node == node) return false;
    return true;
}

/* --- what comes in, and the time --- */

void tr__agent_hosts_heard(tr__agent_hosts *self)
{
    self->heard_ns = tr_clock_ns();
}

bool tr__agent_hosts_hear(tr__agent_hosts *self, int32_t peer, const tr_message *message)
{
    tr_slot_part part;
    uint32_t topic = message->frame.edge;
    int32_t member = peer - node_of_member(self, 0);
    if (peer == TR_NODE_HEAD) {
        if (topic == TR_CONTROL_HOMES) take_homes(self, message);
        return topic == TR_CONTROL_HOMES || topic == TR_CONTROL_BEAT;
    }
    bool known =
        self->settled && member >= 0 && member < self->homes.n_members && self->homes.addresses[member][0];
    if (known && !self->linked[member]) {
        self->linked[member] = true;
        tr_node_found(self->agent->node, peer);
    }
    if (!known || (topic != TR_CONTROL_SLOT && topic != TR_CONTROL_SLOT_TAKEN)) return true;
    if (tr_slot_part_decode(&part, tr_message_bytes(message), message->frame.body_bytes, NULL) != TR_OK)
        return true;
    if (topic == TR_CONTROL_SLOT)
        hear_part(self, member, &part);
    else
        hear_taken(self, member, &part);
    return true;
}

void tr__agent_hosts_lost_link(tr__agent_hosts *self, int32_t peer)
{
    int32_t m = peer - node_of_member(self, 0);
    if (m < 0 || m >= TR_MAX_MEMBERS) return;
    self->linked[m] = false;
    self->unlinked_ns[m] = tr_clock_ns();
    for (size_t i = 0; i < self->n_streams; i++) {
        if (self->streams[i].member != m) continue;
        begin_again(&self->streams[i]);
        self->streams[i].ended = false;
    }
}

static void refill(hosts *self, uint64_t now_ns)
{
    uint64_t rate = (uint64_t)self->agent->launch->copy_mib_per_s << 20;
    uint64_t most = rate / 10 > TR_SLOT_PART_BYTES ? rate / 10 : TR_SLOT_PART_BYTES;
    self->budget_bytes += (uint64_t)((double)(now_ns - self->refilled_ns) * 1e-9 * (double)rate);
    if (self->budget_bytes > most) self->budget_bytes = most;
    self->refilled_ns = now_ns;
}

static void beat_to(const hosts *self, int32_t peer)
{
    tr_node_send_system(self->agent->node, peer, TR_CONTROL_BEAT, NULL, 0);
}

bool tr__agent_hosts_on_tick(tr__agent_hosts *self, uint64_t now_ns)
{
    uint32_t silence_ms = self->agent->launch->silence_ms, every_ms = silence_ms / 8;
    if (every_ms < MIN_BEAT_MS) every_ms = MIN_BEAT_MS;
    refill(self, now_ns);
    for (int32_t m = 0; m < self->homes.n_members; m++) link_to(self, m, now_ns);
    for (size_t i = 0; i < self->n_streams; i++) {
        stream *to = &self->streams[i];
        bool waits = to->slot >= 0 && to->offset_bytes > to->taken_bytes;
        if (waits && now_ns > to->moved_ns + (uint64_t)STUCK_MS * 1000000)
            begin_again(to); /* it was not heard */
        pump(self, to);
    }
    if (now_ns > self->beat_ns + (uint64_t)every_ms * 1000000) {
        self->beat_ns = now_ns;
        for (int32_t m = 0; m < self->homes.n_members; m++)
            if (self->linked[m] && m != self->me) beat_to(self, node_of_member(self, m));
        if (silence_ms) beat_to(self, TR_NODE_HEAD);
    }
    if (!silence_ms) return true;
    if (now_ns < self->heard_ns + (uint64_t)silence_ms * 1000000) return true;
    tr_log(TR_LOG_WARNING,
           "nothing was heard of the head for %.1f s: the lease of this host is over, its workers end",
           (double)(now_ns - self->heard_ns) * 1e-9);
    return false;
}
