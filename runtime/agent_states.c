/* runtime/agent_states.c - what the workers of an agent on one of several hosts begin with: their states lie here already, or as an
 * equal actor's, or come from another agent (agent_transfer.c). A copy from one region here to another goes in pieces, as long as
 * their worker waits, since it may be of any size and this thread has to be heard of; and the head hears that what is awaited comes
 * on, so that it waits as long as it does.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_hosts.h"

#include "base/clock.h"
#include "runtime/control_messages.h"

enum { PIECE_BYTES = 4 << 20, COPY_MS = 30, COMES_ON_MS = 1000 };

typedef tr__agent_hosts hosts;

static const tr_actor_spec *actor_at(const hosts *self, uint32_t i)
{
    return &self->agent->topology.actors[i];
}

/* Nothing has to be done where they are here already. */
tr_status tr__agent_hosts_expect(hosts *self, const tr_state_home *state, tr_error *err)
{
    tr_state_region **regions = self->agent->states;
    const tr_actor_spec *actor = actor_at(self, state->actor);
    const tr__ward *worker = &self->agent->wards[actor->node];
    tr__intake *in = &self->intakes[state->actor];
    if ((worker->pidfd >= 0 && !worker->leaving) || state->source < 0) return TR_OK;
    in->expected = state->source != self->me;
    if (in->expected || state->source_actor == state->actor || !regions[state->source_actor]) return TR_OK;
    in->expected = in->is_here = true;
    in->source = state->source_actor;
    if (regions[state->actor]) return TR_OK;
    return tr_state_region_new(&regions[state->actor], actor->name, actor->state_bytes, err);
}

/* A piece. true: that was all of it. */
static bool copy_piece(hosts *self, uint32_t i)
{
    tr_state_region **regions = self->agent->states;
    tr__intake *in = &self->intakes[i];
    bool done = tr_state_copy_on(regions[i], regions[in->source], &in->copying, PIECE_BYTES);
    self->came_on = true;
    in->is_here = !done;
    if (done) in->expected = false;
    return done;
}

void tr__agent_hosts_copy_on(hosts *self)
{
    uint64_t until_ns = 0;
    bool any_done = false;
    for (uint32_t i = 0; i < self->agent->topology.n_actors;) {
        if (!self->intakes[i].is_here) {
            i++;
            continue;
        }
        if (!until_ns) until_ns = tr_clock_ns() + COPY_MS * 1000000ull;
        if (tr_clock_ns() >= until_ns) break;
        any_done = copy_piece(self, i) || any_done;
    }
    if (any_done) tr__agent_hosts_start(self->agent);
}

void tr__agent_hosts_came_on(hosts *self, tr__intake *in, uint64_t at_bytes, uint64_t slot_bytes)
{
    uint64_t here_bytes = in->n_whole * slot_bytes + at_bytes;
    if (!in->expected || here_bytes <= in->most_bytes) return;
    in->most_bytes = here_bytes;
    self->came_on = true;
}

void tr__agent_hosts_tell_coming(hosts *self, uint64_t now_ns)
{
    if (!self->came_on || now_ns < self->came_on_ns + COMES_ON_MS * 1000000ull) return;
    self->came_on = false;
    self->came_on_ns = now_ns;
    tr_node_send_system(self->agent->node, TR_NODE_HEAD, TR_CONTROL_COMES_ON, NULL, 0);
}
