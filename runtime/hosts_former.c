/* runtime/hosts_former.c - a head that follows one which was lost with its host: what agents that are left still hold of the
 * job's states, and whether it can go on with that.
 * Each agent tells it behind its greeting. A generation is complete where every state, or one that is always equal to it,
 * is whole with somebody who is here, and all who have it have the same bytes of it. The newest complete one within the
 * bounds that the job's owner gave is gone on from; agents then send one another what their workers lack, as behind the
 * loss of any host. If there is none, the owner says from where the job begins.
 * Who is waited for: the hosts of the plan, and, as long as no generation is complete, those who by an agent's word
 * were there under the head before. Both end with the time that hosts have to come.
 * What somebody tells of a head that this job never had, or of an epoch that is not in its log, counts for nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>

static bool is_equal(const tr_hosts *self, size_t a, size_t b)
{
    return a == b || (self->equals && self->equals[a] && self->equals[a] == self->equals[b]);
}

/* The hash under which the agent has this generation of the state; 0: it has not. */
static uint64_t hash_at(const tr_former_state *state, uint64_t generation)
{
    for (int slot = 0; slot < 2; slot++)
        if (generation && state->generations[slot] == generation) return state->hashes[slot];
    return 0;
}

bool tr__hosts_has_former(const tr_hosts *self, int32_t m, size_t i, uint32_t *as)
{
    bool found = false;
    for (size_t f = 0; f < self->n_formers && self->takes_former; f++) {
        const tr__former_of *from = &self->formers[f];
        for (uint32_t k = 0; from->member == m && k < from->what.n_states; k++) {
            const tr_former_state *state = &from->what.states[k];
            bool better = !found || state->actor == i; /* its own need not be copied */
            if (!better || !is_equal(self, state->actor, i) || !hash_at(state, self->former_generation))
                continue;
            *as = state->actor;
            found = true;
        }
    }
    return found;
}

/* Does everybody who has this state have the same bytes, and does anybody? */
static bool is_somewhere(const tr_hosts *self, size_t i, uint64_t generation)
{
    uint64_t known = 0;
    for (size_t f = 0; f < self->n_formers; f++) {
        const tr__former_of *from = &self->formers[f];
        for (uint32_t k = 0; tr__hosts_is_here(self, from->member) && k < from->what.n_states; k++) {
            const tr_former_state *state = &from->what.states[k];
            uint64_t hash = is_equal(self, state->actor, i) ? hash_at(state, generation) : 0;
            if (hash && known && hash != known) return false;
            if (hash) known = hash;
        }
    }
    return known != 0;
}

static bool is_complete(const tr_hosts *self, uint64_t generation)
{
    for (size_t i = 0; i < self->head->topology->n_actors; i++)
        if (self->head->topology->actors[i].state_bytes && !is_somewhere(self, i, generation)) return false;
    return true;
}

void tr__hosts_choose_former(tr_hosts *self)
{
    const tr_job_former *options = &self->options->former;
    self->former_generation = 0;
    for (size_t f = 0; f < self->n_formers && self->takes_former; f++) {
        const tr_former *what = &self->formers[f].what;
        for (uint32_t k = 0; tr__hosts_is_here(self, self->formers[f].member) && k < 2 * what->n_states;
             k++) {
            uint64_t generation = what->states[k / 2].generations[k % 2];
            if (generation <= self->former_generation || generation < options->least ||
                generation > options->most || !is_complete(self, generation))
                continue;
            self->former_generation = generation;
        }
    }
}

static void warn_of_differences(const tr_hosts *self, const tr_former *told)
{
    for (uint32_t k = 0; k < 2 * told->n_states; k++) {
        const tr_former_state *state = &told->states[k / 2];
        uint64_t generation = state->generations[k % 2];
        if (generation && !is_somewhere(self, state->actor, generation))
            tr_log(TR_LOG_WARNING, "hosts hold different states of %s, generation %llu: it is not used",
                   self->head->topology->actors[state->actor].name, (unsigned long long)generation);
    }
}

bool tr__hosts_hear_former(tr_hosts *self, int32_t m, const tr_message *message)
{
    const tr_job_former *options = &self->options->former;
    tr__former_of told = {.member = m};
    tr_error err;
    if (message->frame.edge != TR_CONTROL_FORMER) return false;
    if (!self->takes_former || self->members[m].told_former) return true;
    self->members[m].told_former = true;
    tr_status status = tr_former_decode(&told.what, tr_message_bytes(message), message->frame.body_bytes,
                                        self->head->topology, &err);
    bool known = status == TR_OK && told.what.epoch &&
                 options->led(self->head->options->context, told.what.term, told.what.epoch);
    if (status == TR_OK && told.what.epoch && !known)
        tr_log(TR_LOG_WARNING, "host '%s' has states of another job, which are not used",
               self->members[m].name);
    if (known)
        status = tr_array_reserve((void **)&self->formers, &self->formers_capacity, self->n_formers + 1,
                                  sizeof *self->formers, &err);
    if (status != TR_OK)
        tr_log(TR_LOG_WARNING, "what host '%s' has is not used: %s", self->members[m].name, err.message);
    if (!known || status != TR_OK) {
        tr_former_release(&told.what);
        return true;
    }
    self->formers[self->n_formers++] = told;
    warn_of_differences(self, &told.what);
    return true;
}

/* Of those who were there when the head before was last heard: has everybody come who can? */
static bool have_all_come_again(const tr_hosts *self)
{
    uint32_t newest = 0;
    int32_t n_then = 0, n_now = 0;
    for (size_t f = 0; f < self->n_formers; f++) {
        const tr_former *what = &self->formers[f].what;
        if (what->epoch > newest) n_then = 0;
        if (what->epoch >= newest && what->n_agents > n_then) n_then = what->n_agents;
        if (what->epoch > newest) newest = what->epoch;
        n_now += tr__hosts_is_here(self, self->formers[f].member);
    }
    return n_now >= n_then;
}

bool tr__hosts_are_complete(tr_hosts *self)
{
    if (!self->members[0].present || tr__hosts_missing(self) >= 0) return false;
    if (!self->takes_former) return true;
    for (int32_t m = 1; m < self->n_members; m++)
        if (self->members[m].present && !self->members[m].told_former) return false; /* it is on its way */
    tr__hosts_choose_former(self);
    return self->former_generation || have_all_come_again(self);
}

void tr__hosts_forget_former(tr_hosts *self)
{
    self->takes_former = false;
    self->former_generation = 0;
    while (self->n_formers) tr_former_release(&self->formers[--self->n_formers].what);
    tr_free(self->formers);
    self->formers = NULL;
    self->formers_capacity = 0;
}
