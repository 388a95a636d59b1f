/* actors/stage_edges.c - which edges a stage has, and where what comes along them is put.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_internal.h"

#include "actors/roles.h"
#include "actors/topics.h"
#include "base/memory.h"

#include <string.h>

tr_message_queue *tr__stage_queue(tr__stage *self, uint32_t edge)
{
    static const struct {
        const char *name;
        size_t queue;
    } table[] = {
        {TR_EDGE_TOKENS, offsetof(tr__stage, inputs)},     {TR_EDGE_ACTIVATION, offsetof(tr__stage, inputs)},
        {TR_EDGE_TARGETS, offsetof(tr__stage, targets)},   {TR_EDGE_GRADIENT, offsetof(tr__stage, gradients)},
        {TR_EDGE_SCATTER, offsetof(tr__stage, scattered)}, {TR_EDGE_GATHER, offsetof(tr__stage, gathered)},
        {TR_EDGE_TIED, offsetof(tr__stage, tied)},         {TR_EDGE_AUDIT, offsetof(tr__stage, audits)},
        {TR_EDGE_PARAMETERS, offsetof(tr__stage, updated)}};
    const char *name = tr_edge_spec_of(self->actor, edge)->name;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return (tr_message_queue *)(void *)((char *)self + table[i].queue);
    return NULL;
}

/* The actors that play a stage are found by their edges; a missing one is TR_NO_EDGE. */
static uint32_t edge_to(const tr__stage *self, const char *name, uint32_t replica, uint32_t stage)
{
    return tr_edge_out(self->actor, name, tr_role_find_stage(tr_actor_topology(self->actor), replica, stage));
}

tr_status tr__stage_find_edges(tr__stage *self, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    uint32_t n_replicas = spec->plan.n_replicas, n_stages = spec->plan.n_stages;
    self->out_activation =
        self->last ? TR_NO_EDGE : edge_to(self, TR_EDGE_ACTIVATION, spec->replica, spec->stage + 1);
    self->out_gradient =
        self->first ? TR_NO_EDGE : edge_to(self, TR_EDGE_GRADIENT, spec->replica, spec->stage - 1);
    self->coordinator = tr_role_find(tr_actor_topology(self->actor), TR_ROLE_COORDINATOR);
    self->out_state = tr_edge_out(self->actor, TR_EDGE_STATE, 0);
    self->out_scatter = tr_alloc(n_replicas * sizeof *self->out_scatter);
    self->out_gather = tr_alloc(n_replicas * sizeof *self->out_gather);
    self->out_tied = tr_alloc(n_stages * sizeof *self->out_tied);
    if (!self->out_scatter || !self->out_gather || !self->out_tied)
        return tr_fail(err, TR_ENOMEM, "no memory for the edges of %u replicas", n_replicas);
    for (uint32_t r = 0; r < n_replicas; r++) {
        self->out_scatter[r] = edge_to(self, TR_EDGE_SCATTER, r, spec->stage);
        self->out_gather[r] = edge_to(self, TR_EDGE_GATHER, r, spec->stage);
    }
    for (uint32_t s = 0; s < n_stages; s++) self->out_tied[s] = edge_to(self, TR_EDGE_TIED, spec->replica, s);
    return TR_OK;
}
