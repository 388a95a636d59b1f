/* runtime/agent_deal.c - the states of another layout, dealt out of the slots that there are: what is dealt is checked, a slot
 * against the hash that it was published with, each copy against what it was copied from, and the new slot is hashed.
 * It may be as much as the host has memory for, and the agent has one thread, which must be heard of meanwhile and hear who dies:
 * so it goes in pieces, a few milliseconds each, with the event loop between. Whatever is heard there may end it
 * (agent_change.c drops it); nobody writes the slots that it reads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_deal.h"

#include "base/clock.h"
#include "base/memory.h"

#include <string.h>

enum { NOT_LOOKED = -2, PIECE_BYTES = 4 << 20 };

typedef tr__prepared prepared;

/* From another agent, or this one's own. */
static tr_state_region *region_of(const tr__agent *self, tr_actor_id from)
{
    tr_state_region *fetched = self->hosts ? tr__agent_hosts_fetched(self->hosts, from) : NULL;
    if (fetched || !from || from > self->topology.n_actors) return fetched;
    return self->states[from - 1];
}

/* true: it was looked at as a whole, or there is nothing to look at. */
static bool look_on(prepared *next, tr_actor_id from, tr_state_region *region)
{
    int slot = tr_state_generation(region, 1) == next->order.generation;
    if (tr_state_generation(region, slot) != next->order.generation) return true;
    if (next->looked_at != from) tr_state_hash_begin(region);
    next->looked_at = from;
    return tr_state_hash_on(region, slot, UINT64_MAX, PIECE_BYTES);
}

/* Where the generation lies in `from`, whole. *slot NOT_LOOKED: that is not known yet. */
static tr_status find_slot(tr__agent *self, tr_actor_id from, int *slot, tr_error *err)
{
    prepared *next = self->prepared;
    tr_state_region *region = region_of(self, from);
    if (!region)
        return tr_fail(err, TR_ECORRUPT, "a change takes state of actor %llu, which has none",
                       (unsigned long long)from);
    int *found = &next->slots[from - 1];
    if (*found == NOT_LOOKED && look_on(next, from, region))
        *found = tr_state_find_whole(region, next->order.generation);
    if (*found < 0 && *found != NOT_LOOKED)
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

/* The next piece of the move at hand. */
static tr_status copy(tr__agent *self, tr_state_region *to, const tr_state_move *move, tr_error *err)
{
    prepared *next = self->prepared;
    int slot;
    tr_status status = find_slot(self, move->from, &slot, err);
    if (status != TR_OK || slot == NOT_LOOKED) return status;
    const tr_state_region *region = region_of(self, move->from);
    const char *name = self->topology.actors[move->from - 1].name;
    uint64_t there = tr_state_region_slot_bytes(region), at = next->moved_bytes, left = move->bytes - at;
    if (move->bytes > there || move->from_offset > there - move->bytes)
        return tr_fail(err, TR_ECORRUPT, "a change takes more state of %s than there is", name);
    uint64_t n_bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
    char *into = (char *)tr_state_slot(to, 0) + move->to_offset + at;
    const char *from = (const char *)tr_state_slot(region, slot) + move->from_offset + at;
    memcpy(into, from, n_bytes);
    if (memcmp(into, from, n_bytes) != 0)
        return tr_fail(err, TR_ECORRUPT, "a copy of the state of %s is not what it was copied from", name);
    (void)tr_state_hash_on(to, 0, move->to_offset + at + n_bytes,
                           PIECE_BYTES); /* as long as it is in the cache */
    next->moved_bytes += n_bytes;
    if (n_bytes < left) return TR_OK;
    next->n_moved++;
    next->moved_bytes = 0;
    return TR_OK;
}

/* Moves are in the order of actors. */
static void take_up(prepared *self, size_t actor)
{
    const tr_topology *topology = &self->order.topology;
    self->first += self->n_moves;
    self->actor = actor;
    self->n_moves = self->n_moved = 0;
    while (actor < topology->n_actors && self->first + self->n_moves < self->order.n_moves &&
           self->order.moves[self->first + self->n_moves].to == topology->actors[actor].id)
        self->n_moves++;
}

/* A piece of the actor's state. *done: it was the last. */
static tr_status deal(tr__agent *self, const tr_actor_spec *actor, bool *done, tr_error *err)
{
    prepared *next = self->prepared;
    const tr_state_move *moves = next->order.moves + next->first;
    tr_state_region **made = &next->states[actor->id - 1];
    int slot;
    if (is_kept(self, actor, moves, next->n_moves)) {
        tr_status found = find_slot(self, moves->from, &slot, err);
        *done = found == TR_OK && slot != NOT_LOOKED;
        if (*done) next->kept[actor->id - 1] = moves->from;
        return found;
    }
    tr_status status = *made ? TR_OK : tr_state_region_new(made, actor->name, actor->state_bytes, err);
    if (status == TR_OK && next->n_moved < next->n_moves)
        return copy(self, *made, &moves[next->n_moved], err);
    if (status != TR_OK || !tr_state_hash_on(*made, 0, UINT64_MAX, PIECE_BYTES)) return status;
    tr_state_publish(*made, 0, next->order.generation, NULL);
    *done = true;
    return TR_OK;
}

bool tr__agent_deals_for(const tr__agent *self, int32_t node)
{
    const tr_change_order *order = &self->prepared->order;
    return !self->hosts || (order->home && order->home[node] == self->launch->member);
}

/* For workers of its own, and the copies that it is to keep. */
static bool is_dealt_here(const tr__agent *self, size_t actor)
{
    const tr_change_order *order = &self->prepared->order;
    bool copied = self->hosts && order->copy && order->copy[actor] == self->launch->member;
    return copied || tr__agent_deals_for(self, order->topology.actors[actor].node);
}

tr_status tr__agent_begin_deal(tr__agent *self, tr_error *err)
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
    next->dealing = true;
    take_up(next, 0);
    return TR_OK;
}

tr_status tr__agent_deal(tr__agent *self, uint64_t until_ns, bool *more, tr_error *err)
{
    prepared *next = self->prepared;
    const tr_topology *topology = &next->order.topology;
    while (next->actor < topology->n_actors) {
        const tr_actor_spec *actor = &topology->actors[next->actor];
        bool done = !actor->state_bytes || !is_dealt_here(self, next->actor);
        tr_status status = done ? TR_OK : deal(self, actor, &done, err);
        if (status != TR_OK) return status;
        if (done) take_up(next, next->actor + 1);
        *more = true;
        if (!done && tr_clock_ns() >= until_ns) return TR_OK;
    }
    *more = false;
    return TR_OK;
}
