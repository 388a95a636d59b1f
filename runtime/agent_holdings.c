/* runtime/agent_holdings.c - an agent that may die: what it has is handed to the head as soon as it is there, and the agent that
 * follows begins with that (holdings.h). Of the workers that live it is not the parent: their ends are seen by pidfd all the
 * same, and how they ended is the head's to find out, which is their parent where the kernel gave them one (crew.c).
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_internal.h"

#include "base/log.h"
#include "base/memory.h"
#include "runtime/holdings.h"
#include "runtime/played.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

enum { HAND_OVER_MS = 10000 };

/* ---- to the head ---- */

static void not_heard(const tr__agent *self, int32_t node)
{
    if (!self->head_lost)
        tr_log(TR_LOG_WARNING, "the head cannot keep what worker %d needs: it would end with this agent",
               node);
}

void tr__agent_hand_states(const tr__agent *self, int32_t node, uint32_t layout, const tr_topology *topology,
                           tr_state_region *const *regions)
{
    if (self->holdings < 0) return;
    uint32_t n = 0;
    int *descriptors = tr_alloc((topology->n_actors + 1) * sizeof *descriptors);
    for (size_t i = 0; descriptors && i < topology->n_actors; i++)
        if (topology->actors[i].node == node && regions[i])
            descriptors[n++] = tr_state_region_descriptor(regions[i]);
    if (!descriptors || !tr_holdings_tell_states(self->holdings, node, layout, descriptors, n))
        not_heard(self, node);
    tr_free(descriptors);
}

void tr__agent_hand_worker(const tr__agent *self, const tr__ward *worker)
{
    if (self->holdings < 0) return;
    const tr_held_worker held = {.pid = worker->pidfd >= 0 ? worker->pid : 0,
                                 .pidfd = worker->pidfd,
                                 .word = worker->word,
                                 .life = worker->life,
                                 .activity = worker->activity_descriptor};
    if (!tr_holdings_tell_worker(self->holdings, worker->node, &held)) {
        not_heard(self, worker->node);
        return;
    }
    tr__agent_hand_states(self, worker->node, self->layout, &self->topology, self->states);
}

void tr__agent_hand_all(const tr__agent *self)
{
    if (self->holdings < 0) return;
    if (!tr_holdings_tell_begin(self->holdings, self->layout)) return; /* that head is gone already */
    for (int32_t i = 1; i < self->launch->node; i++) tr__agent_hand_worker(self, &self->wards[i]);
}

void tr__agent_hand_settled(const tr__agent *self)
{
    if (self->holdings >= 0) (void)tr_holdings_tell_settled(self->holdings, self->layout);
}

/* ---- from the head ---- */

static tr_status hear_all(tr_holdings *held, int socket, tr_error *err)
{
    uint64_t until_ns = tr__process_now_ns() + (uint64_t)HAND_OVER_MS * 1000000;
    struct pollfd word = {.fd = socket, .events = POLLIN};
    while (!held->ended) {
        uint64_t now_ns = tr__process_now_ns();
        if (now_ns >= until_ns)
            return tr_fail(err, TR_ETIMEDOUT, "the head did not say what there is of an agent before");
        (void)poll(&word, 1, (int)((until_ns - now_ns) / 1000000) + 1);
        if (!tr_holdings_hear(held, socket) && !held->ended)
            return tr_fail(err, TR_ECLOSED, "the head is gone");
    }
    return TR_OK;
}

static int move(int *descriptor)
{
    int moved = *descriptor;
    *descriptor = -1;
    return moved;
}

/* The regions of a node's actors. false: they do not fit, and what is missing is made anew. */
static bool take_states(tr__agent *self, int32_t node, tr_held_states *states)
{
    uint32_t next = 0;
    bool good = true;
    for (size_t i = 0; i < self->topology.n_actors && good; i++) {
        const tr_actor_spec *actor = &self->topology.actors[i];
        tr_error err;
        if (actor->node != node || !actor->state_bytes) continue;
        good = next < states->n_came;
        if (good && tr_state_region_open(&self->states[i], states->descriptors[next], &err) != TR_OK) {
            tr_log(TR_LOG_WARNING, "the state of %s: %s; what it held is not used", actor->name, err.message);
            good = false;
        } else if (good) {
            states->descriptors[next++] = -1;
            good = tr_state_region_slot_bytes(self->states[i]) == actor->state_bytes;
            if (!good) tr_state_region_destroy(&self->states[i]);
        }
    }
    return good && next == states->n_came;
}

static void take_worker(tr__agent *self, tr_holdings *held, int32_t node)
{
    tr__ward *ward = &self->wards[node];
    tr_held_worker *worker = &held->workers[node];
    tr_error err;
    if (worker->activity >= 0 && tr_activity_page_open(&ward->activity, worker->activity, &err) == TR_OK)
        ward->activity_descriptor = move(&worker->activity);
    bool fits = node < self->topology.n_nodes && tr_holdings_have_states(held, node) &&
                take_states(self, node, &held->states[node]);
    if (worker->pidfd < 0) return;
    ward->pid = worker->pid;
    ward->pidfd = move(&worker->pidfd);
    ward->word = move(&worker->word);
    ward->life = move(&worker->life);
    self->n_alive++;
    if (!fits || !ward->activity) tr_process_kill(ward->pidfd, SIGKILL); /* its end is told as any */
}

tr_status tr__agent_inherit(tr__agent *self, tr_error *err)
{
    tr_holdings held;
    tr_status status = tr_holdings_init(&held, self->launch->node, err);
    if (status == TR_OK) status = hear_all(&held, self->holdings, err);
    if (status == TR_OK) self->layout = held.layout;
    for (int32_t i = 1; status == TR_OK && i < self->launch->node; i++) take_worker(self, &held, i);
    tr_holdings_release(&held);
    return status;
}
