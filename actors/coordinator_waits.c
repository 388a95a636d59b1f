/* actors/coordinator_waits.c - the other side of the coordinator's conditions: what it waits for, and from whom.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/coordinator_internal.h"

#include "actors/roles.h"
#include "actors/topics.h"

/* The word of those stages that have not given it yet, the last ones of the pipeline first: the others wait for them. */
static uint32_t missing(const tr__coordinator *self, const bool *given, uint32_t topic, tr_wait *waits,
                        uint32_t capacity)
{
    uint32_t n = 0;
    for (uint32_t s = self->n_stages_all; s-- > 0 && n < capacity;)
        if (!given[s])
            waits[n++] = (tr_wait){.kind = TR_WAIT_WORD, .topic = topic, .which = (uint32_t)self->stages[s]};
    return n;
}

uint32_t tr__coordinator_waits(const tr_actor *actor, const void *state, tr_wait *waits, uint32_t capacity)
{
    const tr__coordinator *self = state;
    const tr_training_plan *plan = &self->known->plan;
    uint32_t n = 0;
    if (self->ended || self->paused) return 0;
    for (uint32_t r = 0; self->record_held && r < plan->n_replicas && n < capacity; r++)
        waits[n++] = (tr_wait){.kind = TR_WAIT_WORD,
                               .topic = TR_TOPIC_EVALUATED,
                               .which = (uint32_t)self->stages[(r + 1) * plan->n_stages - 1]};
    if (tr__coordinator_is_far_ahead(self) && n < capacity)
        waits[n++] =
            (tr_wait){.kind = TR_WAIT_WORD, .topic = TR_TOPIC_RECORDED, .which = (uint32_t)self->monitor};
    bool counted =
        self->step >= plan->n_steps || self->n_counted[self->step % self->ring] == plan->n_replicas;
    for (uint32_t r = 0; !counted && r < plan->n_replicas && n < capacity; r++) {
        char name[TR_NAME_BYTES];
        tr_role_name_shard(name, r);
        waits[n++] = (tr_wait){.kind = TR_WAIT_WORD,
                               .topic = TR_TOPIC_COUNT,
                               .which = (uint32_t)tr_role_find(tr_actor_topology(actor), name)};
    }
    bool ends = self->step >= plan->n_steps || (self->stopping && self->last_checkpoint == self->step);
    if (ends && self->n_checkpoints && n < capacity)
        waits[n++] = (tr_wait){
            .kind = TR_WAIT_WORD, .topic = TR_TOPIC_CHECKPOINTED, .which = (uint32_t)self->checkpoint};
    bool all_ready = self->n_ready == self->n_stages_all;
    if (!ends && all_ready && tr__coordinator_waits_for_copies(self) && n < capacity)
        waits[n++] = (tr_wait){.kind = TR_WAIT_WORD, .topic = TR_TOPIC_COPIED}; /* the runtime tells it */
    if (ends && self->n_updated < self->n_stages_all)
        return n + missing(self, self->has_voted, TR_TOPIC_UPDATED, waits + n, capacity - n);
    return ends ? n : n + missing(self, self->is_ready, TR_TOPIC_READY, waits + n, capacity - n);
}
