/* runtime/load.c - from a topology to this node's actors and ends of edges.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_internal.h"

#include "base/memory.h"

#include <string.h>

enum { CONTROL_QUOTA = 4096 };

static const tr_actor_kind *find_kind(const tr_registry *registry, const char *name)
{
    for (size_t i = 0; registry && i < registry->n_kinds; i++)
        if (strcmp(registry->kinds[i].name, name) == 0) return &registry->kinds[i];
    return NULL;
}

/* The data lane holds what all senders together may have under way. */
static uint32_t credits_granted(const tr_topology *topology, tr_actor_id id)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < topology->n_edges; i++)
        if (topology->edges[i].destination == id) sum += topology->edges[i].n_slots;
    return sum;
}

static tr_status make_actor(tr__world *world, tr_node *node, const tr_actor_spec *spec,
                            tr_state_region *region, tr_error *err)
{
    const tr_actor_kind *kind = find_kind(node->options.registry, spec->behavior);
    if (!kind)
        return tr_fail(err, TR_ENOTFOUND, "actor '%s' is of kind '%s', which this program does not have",
                       spec->name, spec->behavior);
    tr_actor *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for actor '%s'", spec->name);
    tr_task_init(&self->task, tr__actor_run, true);
    self->task.turn = tr__actor_turn;
    self->node = node;
    self->world = world;
    self->spec = spec;
    self->behavior = kind->behavior;
    self->worker = -1;
    self->incarnation = node->options.incarnation << 16;
    self->record = node->options.activity ? tr_activity_record_for(node->options.activity, spec->id) : NULL;
    if (!self->record) self->record = &self->own_record;
    tr_activity_wait(self->record, NULL, 0);
    world->actors[spec->id - 1] = self; /* from here on destroyed with it */
    tr_status status = tr_mailbox_init(&self->mailbox, credits_granted(world->topology, spec->id),
                                       CONTROL_QUOTA, &self->record->queued, err);
    if (status != TR_OK) return status;
    /* Data comes from this node's actors and from its link, which only scheduler threads progress. */
    if (node->options.n_threads == 1) tr_mailbox_own(&self->mailbox);
    if (region || spec->state_bytes == 0) {
        self->region = region;
        return TR_OK;
    }
    self->owns_region = true;
    return tr_state_region_new(&self->region, spec->name, spec->state_bytes, err);
}

static tr_status make_edge(tr__world *world, tr_node *node, uint32_t edge, tr_error *err)
{
    const tr_edge_spec *spec = &world->topology->edges[edge];
    bool from_here = world->actors[spec->source - 1], to_here = world->actors[spec->destination - 1];
    tr_status status = TR_OK;
    if (from_here != to_here && !node->data.transport)
        return tr_fail(err, TR_EINVAL,
                       "edge '%s' leads to or from another node than '%d', which has no data transport",
                       spec->name, node->options.node);
    if (from_here) {
        tr_sender_end *out = tr_alloc_zero(1, sizeof *out);
        if (!out) return tr_fail(err, TR_ENOMEM, "no memory for edge '%s'", spec->name);
        world->outs[edge] = out;
        status = tr_sender_end_init(out, spec, err);
    }
    if (to_here && status == TR_OK) {
        tr_receiver_end *in = tr_alloc_zero(1, sizeof *in);
        if (!in) return tr_fail(err, TR_ENOMEM, "no memory for edge '%s'", spec->name);
        world->ins[edge] = in;
        status = tr_receiver_end_init(in, spec, !from_here, node->options.epoch, err);
    }
    return status;
}

tr_status tr__actor_init(tr_actor *self, tr_error *err)
{
    const tr_actor_kind *kind = find_kind(self->node->options.registry, self->spec->behavior);
    tr_status status = TR_OK;
    if (self->behavior->init)
        status = self->behavior->init(self, kind->context, self->spec->config, self->spec->config_bytes,
                                      &self->state, err);
    if (status != TR_OK) return tr_fail_within(err, status, "actor '%s' cannot begin", self->spec->name);
    self->initialized = true;
    return TR_OK;
}

tr_status tr__world_new(tr__world **out, tr_node *node, const tr_topology *topology,
                        tr_state_region *const *states, tr_error *err)
{
    tr__world *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a topology");
    tr_status status = TR_OK;
    self->topology = topology;
    self->actors = tr_alloc_zero(topology->n_actors, sizeof(void *));
    self->outs = tr_alloc_zero(topology->n_edges, sizeof(void *));
    self->ins = tr_alloc_zero(topology->n_edges, sizeof(void *));
    if (!self->actors || !self->outs || !self->ins)
        status = tr_fail(err, TR_ENOMEM, "no memory for %zu actors and %zu edges", topology->n_actors,
                         topology->n_edges);
    for (size_t i = 0; i < topology->n_actors && status == TR_OK; i++) {
        TR_ASSERT(topology->actors[i].id == i + 1);
        if (topology->actors[i].node == node->options.node)
            status = make_actor(self, node, &topology->actors[i], states ? states[i] : NULL, err);
    }
    for (uint32_t i = 0; i < topology->n_edges && status == TR_OK; i++)
        status = make_edge(self, node, i, err);
    for (size_t i = 0; i < topology->n_actors && status == TR_OK; i++)
        if (self->actors[i]) status = tr__actor_init(self->actors[i], err);
    if (status != TR_OK) {
        tr__world_stop(self);
        tr__world_destroy(&self);
        return status;
    }
    *out = self;
    return TR_OK;
}

void tr__world_stop(tr__world *self)
{
    for (size_t i = 0; self->actors && i < self->topology->n_actors; i++) {
        tr_actor *actor = self->actors[i];
        if (!actor || !actor->initialized) continue;
        actor->initialized = false;
        if (actor->behavior->stop) actor->behavior->stop(actor, actor->state);
    }
}

static void destroy_actor(tr_actor *self)
{
    if (!self) return;
    tr_mailbox_release(&self->mailbox);
    tr_free(self->watching.items);
    tr_free(self->watchers.items);
    tr_free(self->elders);
    if (self->owns_region) tr_state_region_destroy(&self->region);
    tr_free(self);
}

void tr__world_destroy(tr__world **out)
{
    tr__world *self = *out;
    if (!self) return;
    for (size_t i = 0; self->actors && i < self->topology->n_actors; i++) destroy_actor(self->actors[i]);
    for (size_t i = 0; self->outs && i < self->topology->n_edges; i++) {
        if (self->outs[i]) tr_sender_end_release(self->outs[i]);
        tr_free(self->outs[i]);
    }
    for (size_t i = 0; self->ins && i < self->topology->n_edges; i++) {
        if (self->ins[i]) tr_receiver_end_release(self->ins[i]);
        tr_free(self->ins[i]);
    }
    tr_free(self->actors);
    tr_free(self->outs);
    tr_free(self->ins);
    tr_free(self);
    *out = NULL;
}
