/* runtime/agent_hosts.c - an agent in a job on several hosts: which workers are its, and its lease, which each word of the head
 * renews. Who sends whose state to whom follows from the homes that the head tells; agent_transfer.c does it.
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

enum { MIN_BEAT_MS = 100 };

typedef tr__agent_hosts hosts;

static const tr_actor_spec *actor_at(const hosts *self, uint32_t i)
{
    return &self->agent->topology.actors[i];
}

static bool is_mine(const hosts *self, int32_t node)
{
    return self->settled && node < self->homes.n_nodes && self->homes.home[node] == self->me;
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
    self->met_ns = tr_alloc_zero(TR_MAX_MEMBERS, sizeof *self->met_ns);
    self->broken_ns = tr_alloc_zero(TR_MAX_MEMBERS, sizeof *self->broken_ns);
    *out = self;
    if (self->intakes && self->linked && self->unlinked_ns && self->met_ns && self->broken_ns) return TR_OK;
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
    tr__agent_hosts_forget_fetched(self);
    tr_free(self->streams);
    tr_free(self->intakes);
    tr_free(self->linked);
    tr_free(self->unlinked_ns);
    tr_free(self->met_ns);
    tr_free(self->broken_ns);
    tr_free(self);
    *out = NULL;
}

/* --- homes --- */

static tr_status add_stream(hosts *self, const tr_state_home *state, int32_t member, bool goes_on,
                            tr_error *err)
{
    const tr__stream added = {.actor = state->actor,
                              .from = goes_on ? state->actor : state->source_actor,
                              .member = member,
                              .goes_on = goes_on,
                              .slot = -1};
    return tr__agent_hosts_send(self, &added, err);
}

static tr_status begin_transfers(hosts *self, tr_error *err)
{
    tr_status status = TR_OK;
    tr__agent_hosts_forget_streams(self, false);
    memset(self->intakes, 0, self->agent->topology.n_actors * sizeof *self->intakes);
    for (uint32_t i = 0; i < self->homes.n_states && status == TR_OK; i++) {
        const tr_state_home *state = &self->homes.states[i];
        int32_t home = self->homes.home[actor_at(self, state->actor)->node];
        if (home == self->me) {
            status = tr__agent_hosts_expect(self, state, err);
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
        if (self->linked[m]) tr_node_disconnect(self->agent->node, tr__agent_hosts_node(self, m));
        self->linked[m] = false;
        self->unlinked_ns[m] = self->met_ns[m] = self->broken_ns[m] = 0;
    }
}

/* The layout is this agent's from here on: the one that it prepared, or another that it had no part in. */
static tr_status take_layout(hosts *self, const tr_homes *next, tr_error *err)
{
    tr__agent *agent = self->agent;
    tr_status status = TR_OK;
    if (next->epoch > agent->epoch || !self->settled) tr__agent_settle(agent, next->layout);
    if (agent->layout != next->layout)
        status = tr__agent_adopt(agent, next->topology, next->topology_bytes, next->layout, err);
    tr__intake *intakes =
        status == TR_OK ? tr_alloc_zero(agent->topology.n_actors + 1, sizeof *intakes) : NULL;
    if (!intakes) return status != TR_OK ? status : tr_fail(err, TR_ENOMEM, "no memory for an agent");
    tr_free(self->intakes);
    self->intakes = intakes;
    return TR_OK;
}

static void take_homes(hosts *self, const tr_message *message)
{
    tr__agent *agent = self->agent;
    const void *bytes = tr_message_bytes(message);
    size_t size_bytes = message->frame.body_bytes;
    tr_homes next;
    tr_error err;
    tr_status status = tr_homes_peek(&next, bytes, size_bytes, &err);
    if (status == TR_OK && (next.epoch < agent->epoch || agent->stopping)) return;
    if (status == TR_OK) status = take_layout(self, &next, &err);
    if (status == TR_OK) status = tr_homes_decode(&next, bytes, size_bytes, &agent->topology, &err);
    if (status == TR_OK) {
        next.topology = NULL; /* which is the message's */
        forget_links(self, &next);
        tr_homes_release(&self->homes);
        self->homes = next;
        if (!self->settled) tr__agent_settle_former(agent, next.takes_former);
        self->settled = true;
        agent->epoch = next.epoch;
        status = begin_transfers(self, &err);
    }
    if (status != TR_OK) {
        tr__agent_tell_failure(agent, &err);
        return;
    }
    tr__agent_hosts_start(agent);
    tr__agent_hosts_copy_on(self);
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
    int32_t member = peer - tr__agent_hosts_node(self, 0);
    if (peer == TR_NODE_HEAD) {
        if (topic == TR_CONTROL_HOMES) take_homes(self, message);
        if (topic == TR_CONTROL_FORGET) tr__agent_drop_prepared(self->agent);
        return topic == TR_CONTROL_HOMES || topic == TR_CONTROL_BEAT || topic == TR_CONTROL_FORGET;
    }
    bool known =
        self->settled && member >= 0 && member < self->homes.n_members && self->homes.addresses[member][0];
    if (known && !self->linked[member]) {
        self->linked[member] = true;
        tr_node_found(self->agent->node, peer);
    }
    if (known) tr__agent_hosts_met(self, member);
    if (!known || (topic != TR_CONTROL_SLOT && topic != TR_CONTROL_SLOT_TAKEN)) return true;
    if (tr_slot_part_decode(&part, tr_message_bytes(message), message->frame.body_bytes, NULL) != TR_OK)
        return true;
    if (topic == TR_CONTROL_SLOT)
        tr__agent_hosts_part(self, member, &part);
    else
        tr__agent_hosts_taken(self, member, &part);
    return true;
}

static void beat_to(const hosts *self, int32_t peer)
{
    tr_node_send_system(self->agent->node, peer, TR_CONTROL_BEAT, NULL, 0);
}

bool tr__agent_hosts_on_tick(tr__agent_hosts *self, uint64_t now_ns)
{
    uint32_t silence_ms = self->agent->launch->silence_ms, every_ms = silence_ms / 8;
    if (every_ms < MIN_BEAT_MS) every_ms = MIN_BEAT_MS;
    tr__agent_hosts_pump(self, now_ns);
    tr__agent_hosts_copy_on(self);
    tr__agent_hosts_tell_coming(self, now_ns);
    tr__agent_hosts_look_for_others(self, now_ns);
    if (now_ns > self->beat_ns + (uint64_t)every_ms * 1000000) {
        self->beat_ns = now_ns;
        for (int32_t m = 0; m < self->homes.n_members; m++)
            if (self->linked[m] && m != self->me) beat_to(self, tr__agent_hosts_node(self, m));
        if (silence_ms) beat_to(self, TR_NODE_HEAD);
    }
    if (!silence_ms) return true;
    if (now_ns < self->heard_ns + (uint64_t)silence_ms * 1000000) return true;
    tr_log(TR_LOG_WARNING,
           "nothing was heard of the head for %.1f s: the lease of this host is over, its workers end",
           (double)(now_ns - self->heard_ns) * 1e-9);
    return false;
}
