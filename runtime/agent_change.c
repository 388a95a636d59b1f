/* runtime/agent_change.c - the agent's part in a change of the layout (change.h): it deals the state of the old one out into
 * regions of the new one. What is dealt is checked: a slot against the hash that it was published with, each copy against
 * what it was copied from. An actor that keeps its name, its size and its bytes keeps its region, with the generation before
 * as well, whatever worker it is on now.
 * All of it lies beside what there is until the epoch begins; then workers that stay are told of their memory, those that
 * are not needed any more are waited for, and killed where they do not go.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_hosts.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/control_messages.h"
#include "runtime/lease.h"
#include "runtime/worker.h"

#include <string.h>
#include <unistd.h>

enum { LEAVE_MS = 2000, NOT_LOOKED = -2 };

typedef struct tr__prepared {
    tr_change_order order;
    tr_state_region **states; /* by actor of the new topology; NULL: kept, or it has none */
    tr_actor_id *kept;        /* whose region it has; 0: a new one */
    int *slots;               /* by actor of the old topology: which holds the generation */
} prepared;

void tr__agent_drop_prepared(tr__agent *self)
{
    prepared *dropped = self->prepared;
    if (self->hosts) tr__agent_hosts_forget_fetched(self->hosts);
    if (!dropped) return;
    for (size_t i = 0; dropped->states && i < dropped->order.topology.n_actors; i++)
        tr_state_region_destroy(&dropped->states[i]);
    tr_free(dropped->states);
    tr_free(dropped->kept);
    tr_free(dropped->slots);
    tr_change_order_release(&dropped->order);
    tr_free(dropped);
    self->prepared = NULL;
}

/* ---- the deal ---- */

/* From another agent, or this one's own. */
static tr_state_region *region_of(const tr__agent *self, tr_actor_id from)
{
    tr_state_region *fetched = self->hosts ? tr__agent_hosts_fetched(self->hosts, from) : NULL;
    if (fetched || !from || from > self->topology.n_actors) return fetched;
    return self->states[from - 1];
}

/* Where the generation lies in `from`, whole. */
static tr_status find_slot(tr__agent *self, tr_actor_id from, int *slot, tr_error *err)
{
    prepared *next = self->prepared;
    if (!region_of(self, from))
        return tr_fail(err, TR_ECORRUPT, "a change takes state of actor %llu, which has none",
                       (unsigned long long)from);
    int *found = &next->slots[from - 1];
    if (*found == NOT_LOOKED) *found = tr_state_find_whole(region_of(self, from), next->order.generation);
    if (*found < 0)
        return tr_fail(err, TR_ECORRUPT, "the state of %s does not hold generation %llu whole",
                       self->topology.actors[from - 1].name, (unsigned long long)next->order.generation);
    *slot = *found;
    return TR_OK;
}

static bool is_kept(const tr__agent *self, const tr_actor_spec *actor, const tr_state_move *moves, size_t n)
{
    const tr_actor_spec *from = n == 1 ? tr_topology_actor(&self->topology, moves->from) : NULL;
    bool is_ours = from && region_of(self, from->id) == self->states[from->id - 1];
    return is_ours && from->state_bytes == actor->state_bytes && strcmp(from->name, actor->name) == 0 &&
           !moves->to_offset && !moves->from_offset && moves->bytes == actor->state_bytes;
}

static tr_status copy(tr__agent *self, tr_state_region *to, const tr_state_move *move, tr_error *err)
{
    int slot;
    tr_status status = find_slot(self, move->from, &slot, err);
    if (status != TR_OK) return status;
    const tr_state_region *region = region_of(self, move->from);
    uint64_t there = tr_state_region_slot_bytes(region);
    if (move->bytes > there || move->from_offset > there - move->bytes)
        return tr_fail(err, TR_ECORRUPT, "a change takes more state of %s than there is",
                       self->topology.actors[move->from - 1].name);
    char *into = (char *)tr_state_slot(to, 0) + move->to_offset;
    const char *from = (const char *)tr_state_slot(region, slot) + move->from_offset;
    memcpy(into, from, move->bytes);
    if (memcmp(into, from, move->bytes) == 0) return TR_OK;
    return tr_fail(err, TR_ECORRUPT, "a copy of the state of %s is not what it was copied from",
                   self->topology.actors[move->from - 1].name);
}

static tr_status deal(tr__agent *self, const tr_actor_spec *actor, const tr_state_move *moves, size_t n,
                      tr_error *err)
{
    prepared *next = self->prepared;
    int slot;
    if (is_kept(self, actor, moves, n)) {
        next->kept[actor->id - 1] = moves->from;
        return find_slot(self, moves->from, &slot, err);
    }
    tr_state_region **made = &next->states[actor->id - 1];
    tr_status status = tr_state_region_new(made, actor->name, actor->state_bytes, err);
    for (size_t i = 0; i < n && status == TR_OK; i++) status = copy(self, *made, &moves[i], err);
    if (status == TR_OK) tr_state_publish(*made, 0, next->order.generation, NULL);
    return status;
}

/* On several hosts each agent deals out for its own workers, and the copies that it is to keep. */
static bool is_for_us(const tr__agent *self, int32_t node)
{
    const tr_change_order *order = &self->prepared->order;
    return !self->hosts || (order->home && order->home[node] == self->launch->member);
}

static bool is_dealt_here(const tr__agent *self, size_t actor)
{
    const tr_change_order *order = &self->prepared->order;
    bool copied = self->hosts && order->copy && order->copy[actor] == self->launch->member;
    return copied || is_for_us(self, order->topology.actors[actor].node);
}

static tr_status deal_all(tr__agent *self, tr_error *err)
{
    prepared *next = self->prepared;
    const tr_topology *topology = &next->order.topology;
    if (topology->n_nodes > self->launch->node)
        return tr_fail(err, TR_EINVAL, "%d workers are more than the %d that this job may have",
                       topology->n_nodes - 1, self->launch->node - 1);
    next->states = tr_alloc_zero(topology->n_actors, sizeof(void *));
    next->kept = tr_alloc_zero(topology->n_actors, sizeof *next->kept);
    next->slots = tr_alloc(self->topology.n_actors * sizeof *next->slots);
    if (!next->states || !next->kept || !next->slots)
        return tr_fail(err, TR_ENOMEM, "no memory for another layout");
    for (size_t i = 0; i < self->topology.n_actors; i++) next->slots[i] = NOT_LOOKED;
    tr_status status = TR_OK;
    size_t at = 0; /* moves are in the order of actors */
    for (size_t i = 0; i < topology->n_actors && status == TR_OK; i++) {
        const tr_actor_spec *actor = &topology->actors[i];
        size_t n = 0;
        while (at + n < next->order.n_moves && next->order.moves[at + n].to == actor->id) n++;
        if (actor->state_bytes && is_dealt_here(self, i))
            status = deal(self, actor, next->order.moves + at, n, err);
        at += n;
    }
    return status;
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
    tr_status status = deal_all(self, &err);
    if (status == TR_OK) status = hand_over(self, &err);
    answer(self, epoch, layout, status, &err);
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
        if (!worker->leaving && (!self->hosts || is_for_us(self, node)))
            tell_memory(self, worker, has_the_same(self, &old_topology, old_states, node));
    }
    for (size_t i = 0; i < old_topology.n_actors; i++)
        if (old_states[i] && !is_used(self, old_states[i])) tr_state_region_destroy(&old_states[i]);
    tr_free(old_states);
    tr_topology_release(&old_topology);
}

void tr__agent_settle(tr__agent *self, uint32_t layout)
{
    if (self->prepared && self->prepared->order.layout == layout) change(self);
    tr__agent_drop_prepared(self);
    tr__agent_hand_settled(self);
}
