/* runtime/topology.c - building, checking and carrying the plan. Decoding goes through the same add functions
 * as building, so that what came over a wire obeys the same rules as what was made here. As MessagePack:
 * [format, nodes, threads, [[name, behavior, node, config, state bytes, supervisor], ...],
 *                  [[name, source, destination, slots, slot bytes], ...]].
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/topology.h"

#include "base/memory.h"
#include "base/pack.h"

#include <string.h>

enum {
    FORMAT = 2,
    MAX_NODES = 1 << 16,
    MAX_THREADS = 256,
    MAX_ACTORS = 1 << 20,
    MAX_EDGES = 1 << 22,
    MAX_SLOTS = 65535
};

void tr_topology_init(tr_topology *self, int32_t n_nodes)
{
    TR_ASSERT(n_nodes >= 1 && n_nodes <= MAX_NODES);
    memset(self, 0, sizeof *self);
    self->n_nodes = n_nodes;
    self->threads_per_node = 1;
}

void tr_topology_release(tr_topology *self)
{
    for (size_t i = 0; i < self->n_actors; i++) tr_free(self->actors[i].config);
    tr_free(self->actors);
    tr_free(self->edges);
    memset(self, 0, sizeof *self);
}

static tr_status check_name(const char *what, const char *name, tr_error *err)
{
    if (!name[0]) return tr_fail(err, TR_EINVAL, "%s without a name", what);
    if (strlen(name) >= TR_NAME_BYTES)
        return tr_fail(err, TR_EINVAL, "the name of %s '%.80s' is longer than %d characters", what, name,
                       TR_NAME_BYTES - 1);
    for (const unsigned char *c = (const unsigned char *)name; *c;
         c++) /* names go into messages of one line */
        if (*c < 0x20 || *c == 0x7F)
            return tr_fail(err, TR_EINVAL, "the name of %s has a control character, byte %d", what, *c);
    return TR_OK;
}

tr_status tr_topology_add_actor(tr_topology *self, const char *name, const char *behavior, int32_t node,
                                const void *config, size_t config_bytes, uint64_t state_bytes,
                                tr_actor_id *id, tr_error *err)
{
    tr_status status = check_name("an actor", name, err);
    if (status == TR_OK) status = check_name("a behavior", behavior, err);
    if (status != TR_OK) return status;
    if (node < 0 || node >= self->n_nodes)
        return tr_fail(err, TR_EINVAL, "actor '%s' is placed on node %d of 0 .. %d", name, node,
                       self->n_nodes - 1);
    if (self->n_actors >= MAX_ACTORS) return tr_fail(err, TR_EINVAL, "more than %d actors", MAX_ACTORS);
    status = tr_array_reserve((void **)&self->actors, &self->actors_capacity_, self->n_actors + 1,
                              sizeof *self->actors, err);
    if (status != TR_OK) return status;

    tr_actor_spec *actor = &self->actors[self->n_actors];
    memset(actor, 0, sizeof *actor);
    if (config_bytes) {
        actor->config = tr_alloc(config_bytes);
        if (!actor->config) return tr_fail(err, TR_ENOMEM, "no memory for the configuration of '%s'", name);
        memcpy(actor->config, config, config_bytes);
    }
    strcpy(actor->name, name);
    strcpy(actor->behavior, behavior);
    actor->node = node;
    actor->config_bytes = config_bytes;
    actor->state_bytes = state_bytes;
    actor->id = ++self->n_actors;
    if (id) *id = actor->id;
    return TR_OK;
}

static tr_status check_edge(const tr_topology *self, const char *name, tr_actor_id source,
                            tr_actor_id destination, uint32_t n_slots, tr_error *err)
{
    tr_status status = check_name("an edge", name, err);
    if (status != TR_OK) return status;
    if (!tr_topology_actor(self, source) || !tr_topology_actor(self, destination))
        return tr_fail(err, TR_EINVAL, "edge '%s' from actor %llu to %llu: there are actors 1 .. %zu only",
                       name, (unsigned long long)source, (unsigned long long)destination, self->n_actors);
    if (n_slots < 1 || n_slots > MAX_SLOTS)
        return tr_fail(err, TR_EINVAL, "edge '%s' has %u slots; give 1 .. %d", name, n_slots, MAX_SLOTS);
    if (self->n_edges >= MAX_EDGES) return tr_fail(err, TR_EINVAL, "more than %d edges", MAX_EDGES);
    for (size_t i = 0; i < self->n_edges; i++) {
        const tr_edge_spec *other = &self->edges[i];
        if (other->source == source && other->destination == destination && strcmp(other->name, name) == 0)
            return tr_fail(err, TR_EINVAL, "two edges '%s' from '%s' to '%s'", name,
                           tr_topology_actor(self, source)->name, tr_topology_actor(self, destination)->name);
    }
    return TR_OK;
}

tr_status tr_topology_add_edge(tr_topology *self, const char *name, tr_actor_id source,
                               tr_actor_id destination, uint32_t n_slots, uint32_t slot_bytes, uint32_t *edge,
                               tr_error *err)
{
    tr_status status = check_edge(self, name, source, destination, n_slots, err);
    if (status != TR_OK) return status;
    status = tr_array_reserve((void **)&self->edges, &self->edges_capacity_, self->n_edges + 1,
                              sizeof *self->edges, err);
    if (status != TR_OK) return status;
    tr_edge_spec *added = &self->edges[self->n_edges];
    memset(added, 0, sizeof *added);
    added->id = (uint32_t)self->n_edges++;
    strcpy(added->name, name);
    added->source = source;
    added->destination = destination;
    added->n_slots = n_slots;
    added->slot_bytes = slot_bytes;
    if (edge) *edge = added->id;
    return TR_OK;
}

tr_status tr_topology_supervise(tr_topology *self, tr_actor_id supervisor, tr_actor_id child, tr_error *err)
{
    const tr_actor_spec *above = tr_topology_actor(self, supervisor), *below = tr_topology_actor(self, child);
    if (!above || !below || above == below)
        return tr_fail(err, TR_EINVAL, "actor %llu cannot supervise actor %llu: there are actors 1 .. %zu",
                       (unsigned long long)supervisor, (unsigned long long)child, self->n_actors);
    if (below->supervisor) return tr_fail(err, TR_EINVAL, "actor '%s' has a supervisor already", below->name);
    /* While a topology is decoded those further on are not checked yet: there may be rings elsewhere. */
    for (size_t i = 0; above && i < self->n_actors; i++, above = tr_topology_actor(self, above->supervisor))
        if (above == below)
            return tr_fail(err, TR_EINVAL, "actor '%s' would be its own supervisor's supervisor",
                           below->name);

    self->actors[child - 1].supervisor = supervisor;
    return TR_OK;
}

const tr_actor_spec *tr_topology_actor(const tr_topology *self, tr_actor_id id)
{
    return id >= 1 && id <= self->n_actors ? &self->actors[id - 1] : NULL;
}

bool tr_topology_has_same_places(const tr_topology *left, const tr_topology *right)
{
    bool same = left->n_nodes == right->n_nodes && left->threads_per_node == right->threads_per_node &&
                left->n_actors == right->n_actors;
    for (size_t i = 0; same && i < left->n_actors; i++) {
        const tr_actor_spec *a = &left->actors[i], *b = &right->actors[i];
        same = a->node == b->node && a->state_bytes == b->state_bytes && strcmp(a->name, b->name) == 0 &&
               strcmp(a->behavior, b->behavior) == 0;
    }
    return same;
}

tr_status tr_topology_encode(const tr_topology *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 5);
    tr_pack_uint(&packer, FORMAT);
    tr_pack_int(&packer, self->n_nodes);
    tr_pack_int(&packer, self->threads_per_node);
    tr_pack_array(&packer, self->n_actors);
    for (size_t i = 0; i < self->n_actors; i++) {
        const tr_actor_spec *actor = &self->actors[i];
        tr_pack_array(&packer, 6);
        tr_pack_text(&packer, actor->name);
        tr_pack_text(&packer, actor->behavior);
        tr_pack_int(&packer, actor->node);
        tr_pack_bytes(&packer, actor->config, actor->config_bytes);
        tr_pack_uint(&packer, actor->state_bytes);
        tr_pack_uint(&packer, actor->supervisor);
    }
    tr_pack_array(&packer, self->n_edges);
    for (size_t i = 0; i < self->n_edges; i++) {
        const tr_edge_spec *edge = &self->edges[i];
        tr_pack_array(&packer, 5);
        tr_pack_text(&packer, edge->name);
        tr_pack_uint(&packer, edge->source);
        tr_pack_uint(&packer, edge->destination);
        tr_pack_uint(&packer, edge->n_slots);
        tr_pack_uint(&packer, edge->slot_bytes);
    }
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

static tr_status decode_actor(tr_topology *self, tr_unpacker *unpacker, tr_error *err)
{
    char name[TR_NAME_BYTES], behavior[TR_NAME_BYTES];
    size_t config_bytes;
    if (tr_unpack_array(unpacker, 6) != 6) unpacker->bad = true;
    tr_unpack_text(unpacker, name, sizeof name);
    tr_unpack_text(unpacker, behavior, sizeof behavior);
    int32_t node = (int32_t)tr_unpack_int(unpacker, 0, MAX_NODES);
    const void *config = tr_unpack_bytes(unpacker, &config_bytes);
    uint64_t state_bytes = tr_unpack_uint(unpacker, UINT64_MAX);
    uint64_t supervisor = tr_unpack_uint(unpacker, MAX_ACTORS);
    if (unpacker->bad) return TR_OK; /* told at the end */
    tr_status status =
        tr_topology_add_actor(self, name, behavior, node, config, config_bytes, state_bytes, NULL, err);
    if (status == TR_OK) self->actors[self->n_actors - 1].supervisor = supervisor;
    return status;
}

static tr_status decode_edge(tr_topology *self, tr_unpacker *unpacker, tr_error *err)
{
    char name[TR_NAME_BYTES];
    if (tr_unpack_array(unpacker, 5) != 5) unpacker->bad = true;
    tr_unpack_text(unpacker, name, sizeof name);
    uint64_t source = tr_unpack_uint(unpacker, UINT64_MAX);
    uint64_t destination = tr_unpack_uint(unpacker, UINT64_MAX);
    uint32_t n_slots = (uint32_t)tr_unpack_uint(unpacker, MAX_SLOTS);
    uint32_t slot_bytes = (uint32_t)tr_unpack_uint(unpacker, UINT32_MAX);
    if (unpacker->bad) return TR_OK;
    return tr_topology_add_edge(self, name, source, destination, n_slots, slot_bytes, NULL, err);
}

tr_status tr_topology_decode(tr_topology *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    uint32_t fields = tr_unpack_array(&unpacker, 5);
    uint64_t format = tr_unpack_uint(&unpacker, UINT64_MAX);
    if (fields != 5 || unpacker.bad || format != FORMAT)
        return tr_fail(err, TR_ECORRUPT, "a topology whose bytes are damaged or foreign");
    int32_t n_nodes = (int32_t)tr_unpack_int(&unpacker, 1, MAX_NODES);
    int32_t n_threads = (int32_t)tr_unpack_int(&unpacker, 1, MAX_THREADS);

    tr_topology read;
    tr_topology_init(&read, unpacker.bad ? 1 : n_nodes);
    read.threads_per_node = n_threads;
    tr_status status = TR_OK;
    uint32_t n_actors = tr_unpack_array(&unpacker, MAX_ACTORS);
    for (uint32_t i = 0; i < n_actors && !unpacker.bad && status == TR_OK; i++)
        status = decode_actor(&read, &unpacker, err);
    for (size_t i = 0; i < read.n_actors && status == TR_OK; i++) {
        tr_actor_id supervisor = read.actors[i].supervisor;
        read.actors[i].supervisor = 0; /* set again, with the checks, now that all actors are there */
        if (supervisor) status = tr_topology_supervise(&read, supervisor, i + 1, err);
    }
    uint32_t n_edges = status == TR_OK ? tr_unpack_array(&unpacker, MAX_EDGES) : 0;
    for (uint32_t i = 0; i < n_edges && !unpacker.bad && status == TR_OK; i++)
        status = decode_edge(&read, &unpacker, err);
    if (status == TR_OK) status = tr_unpacker_done(&unpacker, "topology", err);
    if (status == TR_EINVAL) {
        status =
            TR_ECORRUPT; /* broken rules in bytes from elsewhere are corruption, not a person's mistake */
        if (err) err->status = status;
    }
    if (status != TR_OK) {
        tr_topology_release(&read);
        return status;
    }
    *self = read;
    return TR_OK;
}
