/* runtime/agent_former.c - what an agent on another host than the head's keeps when it loses its head: the states of its
 * workers, and the copies that it has of others'. Its workers have ended by then, so nobody writes them any more, and what is
 * not whole is left out. It tells the next head that it joins, whose first word on homes says whether that goes on from
 * such states: then they are this agent's as if it had never lost a head; otherwise they are dropped.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_hosts.h"

#include "base/log.h"
#include "base/memory.h"
#include "runtime/agent.h"
#include "runtime/control_messages.h"

struct tr_agent_states {
    uint64_t term;
    uint32_t epoch;
    int32_t n_agents;
    tr_topology topology;
    tr_state_region **regions; /* by its actors; NULL: nothing whole */
};

void tr_agent_states_destroy(tr_agent_states **out)
{
    tr_agent_states *self = *out;
    if (!self) return;
    for (size_t i = 0; self->regions && i < self->topology.n_actors; i++)
        tr_state_region_destroy(&self->regions[i]);
    tr_free(self->regions);
    tr_topology_release(&self->topology);
    tr_free(self);
    *out = NULL;
}

/* Returns how many regions hold something. */
static size_t drop_what_is_not_whole(tr_agent_states *self)
{
    size_t n = 0;
    for (size_t i = 0; i < self->topology.n_actors; i++) {
        tr_state_region **region = &self->regions[i];
        if (!*region) continue;
        if (tr_state_mend_header(*region) || tr_state_discard_rotten(*region))
            tr_log(TR_LOG_WARNING, "the state of %s no longer holds what was written; that is not used",
                   self->topology.actors[i].name);
        if (!tr_state_generation(*region, 0) && !tr_state_generation(*region, 1))
            tr_state_region_destroy(region);
        n += *region != NULL;
    }
    return n;
}

tr_agent_states *tr__agent_keep_states(tr__agent *agent)
{
    tr_agent_states *self = agent->former;
    agent->former = NULL;
    if (self) return self; /* the head was lost before it said whether it wanted them */
    if (!agent->hosts || !agent->hosts->settled || !agent->launch->term) return NULL;
    self = tr_alloc_zero(1, sizeof *self);
    if (!self) return NULL; /* the next head finds a checkpoint */
    self->term = agent->launch->term;
    self->epoch = agent->epoch;
    for (int32_t m = 1; m < agent->hosts->homes.n_members; m++)
        self->n_agents += agent->hosts->homes.addresses[m][0] != 0;
    self->topology = agent->topology;
    self->regions = agent->states;
    agent->topology = (tr_topology){0};
    agent->states = NULL;
    size_t n = drop_what_is_not_whole(self);
    tr_log(TR_LOG_INFO, "the states of %zu actors are kept for the next head", n);
    return self;
}

/* How many threads a worker has depends on the host that leads, and no state on that. */
static bool is_of(const tr_agent_states *self, const tr_topology *topology)
{
    tr_topology same = self->topology;
    same.threads_per_node = topology->threads_per_node;
    return tr_topology_has_same_places(&same, topology);
}

void tr__agent_tell_former(tr__agent *agent)
{
    const tr_agent_states *self = agent->former;
    tr_former former = {0};
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_error err;
    former.states = tr_alloc_zero(agent->topology.n_actors + 1, sizeof *former.states);
    tr_status status = former.states ? TR_OK : tr_fail(&err, TR_ENOMEM, "no memory to tell of states");
    if (self) {
        former.term = self->term;
        former.epoch = self->epoch;
        former.n_agents = self->n_agents;
    }
    for (uint32_t i = 0;
         status == TR_OK && self && is_of(self, &agent->topology) && i < self->topology.n_actors; i++) {
        const tr_state_region *region = self->regions[i];
        if (!region) continue;
        tr_former_state *state = &former.states[former.n_states++];
        state->actor = i;
        for (int slot = 0; slot < 2; slot++) {
            state->generations[slot] = tr_state_generation(region, slot);
            state->hashes[slot] = state->generations[slot] ? tr_state_hash(region, slot) : 0;
        }
    }
    if (status == TR_OK) status = tr_former_encode(&former, &bytes, &size_bytes, &err);
    if (status == TR_OK)
        tr_node_send_system(agent->node, TR_NODE_HEAD, TR_CONTROL_FORMER, bytes, (uint32_t)size_bytes);
    else
        tr_node_fail(agent->node, &err); /* the head waits for it */
    tr_free(bytes);
    tr_former_release(&former);
}

void tr__agent_settle_former(tr__agent *agent, bool wanted)
{
    tr_agent_states *self = agent->former;
    if (self && wanted && is_of(self, &agent->topology)) {
        for (size_t i = 0; i < agent->topology.n_actors; i++) {
            if (agent->states[i]) continue;
            agent->states[i] = self->regions[i];
            self->regions[i] = NULL;
        }
    }
    tr_agent_states_destroy(&agent->former);
}
