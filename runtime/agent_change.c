/* runtime/agent_change.c - the agent's part in a change of the layout (change.h): it deals the state of the old one out into
 * regions of the new one. What is dealt is checked: a slot against the hash that it was published with, each copy against
 * what it was copied from. An actor that keeps its name, its size and its bytes keeps its region, with the generation before
 * as well, whatever worker it is on now.
 * How it is dealt stands in agent_deal.c.
 * All of it lies beside what there is until the epoch begins; then workers that stay are told of their memory, those that
 * are not needed any more are waited for, and killed where they do not go.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_deal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/control_messages.h"
#include "runtime/lease.h"
#include "runtime/worker.h"

#include <string.h>
#include <unistd.h>

enum {
    LEAVE_MS = 2000,
    DEAL_MS = 30 /* and then it listens again */
};

typedef tr__prepared prepared;

void tr__agent_drop_prepared(tr__agent *self)
{
    prepared *dropped = self->prepared;
    if (self->hosts) tr__agent_hosts_forget_fetched(self->hosts);
    if (!dropped) return;
    for (size_t i = 0; dropped->states && i < dropped->order.topology.n_actors; i++)
        tr_state_region_let_go(&dropped->states[i]);
    tr_free(dropped->states);
    tr_free(dropped->kept);
    tr_free(dropped->slots);
    tr_change_order_release(&dropped->order);
    tr_free(dropped);
    self->prepared = NULL;
}

/* Before the answer: behind it the head may begin the epoch, and this agent die. */
static tr_status hand_over(tr__agent *self, tr_error *err)
{
    const prepared *next = self->prepared;
    const tr_topology *topology = &next->order.topology;
    tr_state_region **regions = tr_alloc_zero(topology->n_actors, sizeof(void *));
    if (!regions) return tr_fail(err, TR_ENOMEM, "no memory for another layout");
    for (size_t i = 0; i < topology->n_actors; i++)
        regions[i] = next->kept[i] ? self->states[next->kept[i] - 1] : next->states[i];
    for (int32_t node = 1; node < self->launch->node; node++)
        tr__agent_hand_states(self, node, next->order.layout, topology, regions);
    tr_free(regions);
    return TR_OK;
}

static void answer(tr__agent *self, uint32_t epoch, uint32_t layout, tr_status status, const tr_error *err)
{
    tr_control_note note = {
        .node = self->launch->node, .pid = getpid(), .epoch = epoch, .layout = layout, .status = status};
    if (status != TR_OK) tr__agent_drop_prepared(self);
    if (status != TR_OK) memcpy(note.text, err->message, sizeof note.text);
    if (!self->head_lost) tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_PREPARED, &note);
}

void tr__agent_go_on_preparing(tr__agent *self)
{
    tr_error err = {0};
    if (!self->prepared) return;
    uint32_t epoch = self->prepared->order.epoch, layout = self->prepared->order.layout;
    bool more = false;
    tr_status status =
        self->prepared->dealing ? TR_OK : tr__agent_begin_deal(self, &err); /* from then on with each tick */
    if (status == TR_OK) status = tr__agent_deal(self, tr_clock_ns() + DEAL_MS * 1000000ull, &more, &err);
    if (status == TR_OK && more) return;
    self->prepared->dealing = false;
    if (status == TR_OK) status = hand_over(self, &err);
    answer(self, epoch, layout, status, &err);
}

void tr__agent_go_on_dealing(tr__agent *self)
{
    if (self->prepared && self->prepared->dealing) tr__agent_go_on_preparing(self);
}

void tr__agent_prepare(tr__agent *self, const tr_message *message)
{
    tr_change_order order = {0};
    tr_error err = {0};
    size_t n_awaited = 0;
    tr__agent_drop_prepared(self);
    tr_status status = tr_change_decode(&order, tr_message_bytes(message), message->frame.body_bytes, &err);
    uint32_t epoch = order.epoch, layout = order.layout;
    if (status == TR_OK) {
        self->prepared = tr_alloc_zero(1, sizeof *self->prepared);
        if (self->prepared) {
            self->prepared->order = order;
        } else {
            tr_change_order_release(&order);
            status = tr_fail(&err, TR_ENOMEM, "no memory for another layout");
        }
    }
    if (status == TR_OK && self->hosts)
        status = tr__agent_hosts_fetch(self->hosts, &self->prepared->order, &n_awaited, &err);
    if (status != TR_OK)
        answer(self, epoch, layout, status, &err);
    else if (!n_awaited)
        tr__agent_go_on_preparing(self);
}

tr_status tr__agent_adopt(tr__agent *self, const void *topology, size_t topology_bytes, uint32_t layout,
                          tr_error *err)
{
    tr__agent_drop_prepared(self);
    prepared *next = tr_alloc_zero(1, sizeof *next);
    if (!next) return tr_fail(err, TR_ENOMEM, "no memory for another layout");
    next->order.layout = layout;
    tr_status status = tr_topology_decode(&next->order.topology, topology, topology_bytes, err);
    size_t n_actors = status == TR_OK ? next->order.topology.n_actors : 0;
    self->prepared = next;
    if (status == TR_OK && next->order.topology.n_nodes > self->launch->node)
        status = tr_fail(err, TR_ECORRUPT, "%d workers are more than this job may have",
                         next->order.topology.n_nodes - 1);
    if (status == TR_OK) {
        next->states = tr_alloc_zero(n_actors + 1, sizeof(void *));
        next->kept = tr_alloc_zero(n_actors + 1, sizeof *next->kept);
        if (!next->states || !next->kept) status = tr_fail(err, TR_ENOMEM, "no memory for another layout");
    }
    if (status == TR_OK)
        tr__agent_settle(self, layout);
    else
        tr__agent_drop_prepared(self);
    return status;
}

/* ---- the change ---- */

/* The next of the node's regions behind actor *at; NULL: there is none. */
static tr_state_region *next_region(const tr_topology *topology, tr_state_region *const *states, int32_t node,
                                    size_t *at)
{
    while (*at < topology->n_actors) {
        size_t i = (*at)++;
        if (topology->actors[i].node == node && states[i]) return states[i];
    }
    return NULL;
}

static bool has_the_same(const tr__agent *self, const tr_topology *old, tr_state_region *const *states,
                         int32_t node)
{
    size_t before = 0, now = 0;
    tr_state_region *left, *right;
    do {
        left = next_region(old, states, node, &before);
        right = next_region(&self->topology, self->states, node, &now);
    } while (left && left == right);
    return left == right;
}

/* A worker that misses what it is told here does not come back, and is replaced. */
static void tell_memory(const tr__agent *self, const tr__ward *worker, bool keeps)
{
    tr_lease_word word = {
        .layout = self->layout, .keeps = keeps, .may_spin = tr_worker_may_spin(&self->topology)};
    size_t at = 0;
    bool told = true;
    while (next_region(&self->topology, self->states, worker->node, &at)) word.n_states++;
    at = 0;
    do {
        tr_state_region *region = NULL;
        word.at += (uint32_t)word.n_descriptors;
        word.n_descriptors = 0;
        while (!keeps && word.n_descriptors < TR_LEASE_MEMORY_MAX &&
               (region = next_region(&self->topology, self->states, worker->node, &at)))
            word.descriptors[word.n_descriptors++] = tr_state_region_descriptor(region);
        told = told && tr_lease_tell(worker->word, &word);
    } while (word.n_descriptors == TR_LEASE_MEMORY_MAX);
    if (!told) tr_log(TR_LOG_WARNING, "worker %d cannot be told of its memory", worker->node);
}

void tr__agent_tell_memory(const tr__agent *self, const tr__ward *worker)
{
    tell_memory(self, worker, false);
}

static void let_go(tr__agent *self, int32_t node)
{
    tr__ward *worker = &self->wards[node];
    if (worker->pidfd < 0) return;
    worker->leaving = true;
    worker->leave_until_ns = tr_clock_ns() + (uint64_t)LEAVE_MS * 1000000;
}

/* From here on the new topology is the agent's. */
static void take_over(tr__agent *self, tr_topology *old_topology, tr_state_region ***old_states)
{
    prepared *next = self->prepared;
    *old_topology = self->topology;
    *old_states = self->states;
    self->topology = next->order.topology;
    self->states = next->states;
    self->layout = next->order.layout;
    next->order.topology = (tr_topology){0};
    next->states = NULL;
    for (size_t i = 0; i < self->topology.n_actors; i++)
        if (next->kept[i]) self->states[i] = (*old_states)[next->kept[i] - 1];
}

static bool is_used(const tr__agent *self, const tr_state_region *region)
{
    for (size_t i = 0; i < self->topology.n_actors; i++)
        if (self->states[i] == region) return true;
    return false;
}

static void change(tr__agent *self)
{
    tr_topology old_topology;
    tr_state_region **old_states;
    take_over(self, &old_topology, &old_states);
    for (size_t i = 0; i < self->prepared->order.n_leaving; i++)
        let_go(self, self->prepared->order.leaving[i]);
    for (int32_t node = 1; node < self->launch->node; node++) {
        tr__ward *worker = &self->wards[node];
        if (worker->pidfd < 0) continue;
        if (node >= self->topology.n_nodes && !worker->leaving) let_go(self, node);
        if (!worker->leaving && (!self->hosts || tr__agent_deals_for(self, node)))
            tell_memory(self, worker, has_the_same(self, &old_topology, old_states, node));
    }
    for (size_t i = 0; i < old_topology.n_actors; i++)
        if (old_states[i] && !is_used(self, old_states[i])) tr_state_region_let_go(&old_states[i]);
    tr_free(old_states);
    tr_topology_release(&old_topology);
}

void tr__agent_settle(tr__agent *self, uint32_t layout)
{
    /* What was not dealt out when the others had done their part was not for this agent's workers. */
    bool is_whole = self->prepared && !self->prepared->dealing;
    if (is_whole && self->prepared->order.layout == layout) change(self);
    tr__agent_drop_prepared(self);
    tr__agent_hand_settled(self);
}
