/* actors/stage_waits.c - what a stage waits for when it can do nothing: the other side of the conditions in stage.c,
 * stage_reduce.c and stage_update.c. For people and reports of stalls; nothing is decided by it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/replay.h"
#include "actors/stage_audit.h"
#include "actors/stage_collect.h"
#include "actors/stage_zero.h"

#include "actors/roles.h"
#include "actors/topics.h"

#include <string.h>

typedef struct list {
    const tr__stage *stage;
    tr_wait *waits;
    uint32_t n, capacity;
} list;

static void add(list *self, tr_wait_kind kind, uint32_t which)
{
    if (which != TR_NO_EDGE && self->n < self->capacity)
        self->waits[self->n++] = (tr_wait){.kind = kind, .which = which};
}

static void add_word(list *self, uint32_t topic)
{
    if (self->n < self->capacity)
        self->waits[self->n++] =
            (tr_wait){.kind = TR_WAIT_WORD, .topic = topic, .which = (uint32_t)self->stage->coordinator};
}

/* Of the monitor, at which others stand before it. */
static void add_word_of_monitor(list *self)
{
    tr_actor_id from = tr_role_find(tr_actor_topology(self->stage->actor), TR_ROLE_MONITOR);
    if (self->n < self->capacity)
        self->waits[self->n++] =
            (tr_wait){.kind = TR_WAIT_WORD, .topic = TR_TOPIC_CHOICES, .which = (uint32_t)from};
}

/* From replica 0, which waits for one of the others. */
static void add_word_of_group(list *self)
{
    const tr_stage_spec *spec = &self->stage->spec;
    const tr_topology *topology = tr_actor_topology(self->stage->actor);
    tr_actor_id from = tr_role_find_stage(topology, spec->replica == 0, spec->stage);
    if (self->n < self->capacity)
        self->waits[self->n++] =
            (tr_wait){.kind = TR_WAIT_WORD, .topic = TR_TOPIC_GROUP, .which = (uint32_t)from};
}

static void add_message(list *self, const char *edge)
{
    add(self, TR_WAIT_MESSAGE, tr_edge_in(self->stage->actor, edge, 0));
}

static void add_credit(list *self, uint32_t edge)
{
    if (edge != TR_NO_EDGE && tr_edge_credits(self->stage->actor, edge) == 0) add(self, TR_WAIT_CREDIT, edge);
}

/* Those of whom not all slots are back. */
static void add_slots(list *self, const uint32_t *edges, uint32_t n)
{
    const tr_actor *actor = self->stage->actor;
    for (uint32_t i = 0; i < n; i++)
        if (edges[i] != TR_NO_EDGE &&
            tr_edge_credits(actor, edges[i]) < tr_edge_spec_of(actor, edges[i])->n_slots)
            add(self, TR_WAIT_CREDIT, edges[i]);
}

/* Incoming edges of this name on which less than `awaited` of each has come for this step. */
static void add_senders(list *self, const char *name, const tr_message_queue *queue,
                        uint32_t (*awaited)(const tr__stage *stage, tr_actor_id from))
{
    const tr__stage *stage = self->stage;
    const tr_topology *topology = tr_actor_topology(stage->actor);
    for (uint32_t e = 0; e < topology->n_edges; e++) {
        const tr_edge_spec *edge = &topology->edges[e];
        if (edge->destination != tr_actor_self(stage->actor) || strcmp(edge->name, name) != 0) continue;
        uint32_t came = 0;
        for (const tr_message *message = queue->head; message; message = message->next)
            came += message->frame.edge == e && message->frame.step == stage->step;
        if (came < awaited(stage, edge->source)) add(self, TR_WAIT_MESSAGE, e);
    }
}

/* Messages: of each block one for each stretch of the own shard. */
static uint32_t blocks_of(const tr__stage *stage, tr_actor_id from)
{
    const uint32_t *first = stage->first_stretch + stage->spec.replica;
    for (uint32_t r = 0; r < stage->spec.plan.n_replicas; r++) {
        uint32_t back = stage->out_scatter[r];
        if (back != TR_NO_EDGE && tr_edge_spec_of(stage->actor, back)->destination == from)
            return tr_plan_blocks(&stage->spec.plan, r, NULL) * (first[1] - first[0]);
    }
    return 0;
}

static uint32_t one_of(const tr__stage *stage, tr_actor_id from)
{
    (void)stage, (void)from;
    return 1;
}

static const tr__flight *oldest_in_flight(const tr__stage *self, uint32_t *n_used)
{
    const tr__flight *oldest = NULL;
    *n_used = 0;
    for (uint32_t i = 0; i < self->spec.stash_credits; i++) {
        const tr__flight *flight = &self->flights[i];
        *n_used += flight->state != TR__FREE;
        if (flight->state == TR__FORWARD_DONE && (!oldest || flight->microbatch < oldest->microbatch))
            oldest = flight;
    }
    return oldest;
}

/* Backwards first: they are what a full stash waits for. */
static void while_computing(list *out)
{
    const tr__stage *self = out->stage;
    uint32_t n_used;
    const tr__flight *flight = oldest_in_flight(self, &n_used);
    if (tr__zero_awaits(self)) add_senders(out, TR_EDGE_PARAMETERS, &self->updated, one_of);
    for (uint32_t i = 0; i < self->spec.stash_credits; i++)
        if (self->flights[i].state == TR__BACKWARD_DONE && self->flights[i].audit)
            add_credit(out, tr_edge_out(self->actor, TR_EDGE_AUDIT, 0));
    if (flight) {
        add_credit(out, self->out_gradient);
        if (!self->last && !self->gradients.head) add_message(out, TR_EDGE_GRADIENT);
        if (self->last && self->tokens[self->step % self->ring] == 0) add_word(out, TR_TOPIC_TOKENS);
    }
    bool more = self->next_weight + n_used < self->microbatches.end && n_used < self->spec.stash_credits;
    if (!more) return;
    const tr_message *input = self->inputs.head;
    if (!input) add_message(out, self->first ? TR_EDGE_TOKENS : TR_EDGE_ACTIVATION);
    if (self->last && !self->targets.head) add_message(out, TR_EDGE_TARGETS);
    add_credit(out, self->out_activation);
}

/* What was sent before is sent again, and comes again. */
static void while_passing(list *out)
{
    const tr__stage *self = out->stage;
    const tr_topology *topology = tr_actor_topology(self->actor);
    for (uint32_t e = 0; e < topology->n_edges; e++) {
        if (!tr__replay_awaits(self, e)) continue;
        bool sends = topology->edges[e].source == tr_actor_self(self->actor);
        if (sends)
            add_credit(out, e);
        else
            add(out, TR_WAIT_MESSAGE, e);
    }
}

uint32_t tr__stage_waits(const tr_actor *actor, const void *state, tr_wait *waits, uint32_t capacity)
{
    (void)actor;
    const tr__stage *self = state;
    list out = {.stage = self, .waits = waits, .capacity = capacity};
    const tr_training_plan *plan = &self->spec.plan;
    if (self->is_choosing) {
        add_word_of_monitor(&out);
        return out.n;
    }
    switch (self->phase) {
    case TR__COMPUTING:
        while_computing(&out);
        if (self->zero && tr__collect_is_deciding(self)) add_word_of_group(&out);
        break;
    case TR__PASSING: while_passing(&out); break;
    case TR__STARTING:
        if (tr__collect_is_deciding(self))
            add_word_of_group(&out);
        else
            add_slots(&out, self->out_scatter, plan->n_replicas);
        break;
    case TR__SCATTERING:
        add_senders(&out, TR_EDGE_SCATTER, &self->scattered, blocks_of);
        add_slots(&out, self->out_gather, plan->n_replicas);
        break;
    case TR__GATHERING:
        add_senders(&out, TR_EDGE_GATHER, &self->gathered, one_of);
        add_slots(&out, self->out_tied, plan->n_stages);
        break;
    case TR__TYING:
        add_senders(&out, TR_EDGE_TIED, &self->tied, one_of);
        if (!tr__stage_audit_is_settled(self)) add_message(&out, TR_EDGE_AUDIT);
        break;
    case TR__COMMITTING:
        if (!self->committed) add_word(&out, TR_TOPIC_COMMIT);
        break;
    }
    if (self->streaming || self->n_wanted) add_credit(&out, self->out_state);
    return out.n;
}
