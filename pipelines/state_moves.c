/* pipelines/state_moves.c - see state_moves.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/state_moves.h"

#include "actors/roles.h"
#include "base/memory.h"

#include <string.h>

/* The tensors of a stage, as its slots have them: by their index in the model. */
typedef struct cut {
    const tr_job_plan *plan;
    int32_t *tensors;  /* of all stages, one after another */
    int64_t *elements; /* of each of them */
    uint32_t *first;   /* of each stage; one more for the end */
} cut;

static void cut_release(cut *self)
{
    tr_free(self->tensors);
    tr_free(self->elements);
    tr_free(self->first);
}

/* Uses are listed by (parameter, use), so a stage's come in the order of tensors. */
static tr_status cut_init(cut *self, const tr_job_plan *plan, tr_error *err)
{
    const tr_model_plan *model = &plan->model;
    uint32_t n_stages = plan->training.n_stages, n = 0;
    *self = (cut){.plan = plan};
    self->tensors = tr_alloc((model->n_uses + 1) * sizeof *self->tensors);
    self->elements = tr_alloc((model->n_uses + 1) * sizeof *self->elements);
    self->first = tr_alloc((n_stages + 1) * sizeof *self->first);
    if (!self->tensors || !self->elements || !self->first)
        return tr_fail(err, TR_ENOMEM, "no memory to deal out the state of %u stages", n_stages);
    for (uint32_t s = 0; s < n_stages; s++) {
        self->first[s] = n;
        for (size_t i = 0; i < model->n_uses; i++) {
            const tr_parameter_use *use = &model->uses[i];
            bool again = n > self->first[s] && self->tensors[n - 1] == use->parameter;
            if (use->stage != (int32_t)s || again) continue;
            self->tensors[n] = use->parameter;
            self->elements[n++] = plan->n_elements[use->parameter];
        }
    }
    self->first[n_stages] = n;
    return TR_OK;
}

static uint32_t count_of(const cut *self, uint32_t stage)
{
    return self->first[stage + 1] - self->first[stage];
}

static bool is_same_stage(const cut *left, const cut *right, uint32_t stage)
{
    if (stage >= left->plan->training.n_stages || count_of(left, stage) != count_of(right, stage))
        return false;
    return memcmp(left->tensors + left->first[stage], right->tensors + right->first[stage],
                  count_of(left, stage) * sizeof *left->tensors) == 0;
}

/* The first stage that has the tensor, and where. */
static uint32_t find_tensor(const cut *self, int32_t tensor, uint32_t *at)
{
    for (uint32_t s = 0; s < self->plan->training.n_stages; s++)
        for (*at = 0; *at < count_of(self, s); ++*at)
            if (self->tensors[self->first[s] + *at] == tensor) return s;
    TR_ASSERT(!"a tensor of the model is in no stage");
    return 0;
}

typedef struct list {
    tr_state_move *items;
    size_t n, capacity;
} list;

static tr_status add(list *self, const tr_state_move *move, tr_error *err)
{
    tr_status status =
        tr_array_reserve((void **)&self->items, &self->capacity, self->n + 1, sizeof *self->items, err);
    if (!status) self->items[self->n++] = *move;
    return status;
}

static tr_status deal_tensor(list *out, const cut *from, const cut *to, uint32_t replica, uint32_t stage,
                             uint32_t at, int part, tr_state_move move, tr_error *err)
{
    uint64_t to_part, from_part, to_offset, from_offset;
    uint32_t first = to->first[stage], there;
    uint32_t source = find_tensor(from, to->tensors[first + at], &there);
    tr_stage_slot_place(to->elements + first, count_of(to, stage), at, &to_offset, &to_part);
    tr_stage_slot_place(from->elements + from->first[source], count_of(from, source), there, &from_offset,
                        &from_part);
    move.from = tr_role_find_stage(&from->plan->topology, replica, source);
    move.to_offset = (uint64_t)part * to_part + to_offset;
    move.from_offset = (uint64_t)part * from_part + from_offset;
    move.bytes = (uint64_t)to->elements[first + at] * sizeof(float);
    return add(out, &move, err);
}

static tr_status deal_stage(list *out, const cut *from, const cut *to, uint32_t replica, uint32_t stage,
                            tr_error *err)
{
    uint32_t giver = replica % from->plan->training.n_replicas;
    tr_state_move move = {.to = tr_role_find_stage(&to->plan->topology, replica, stage)};
    tr_status status = TR_OK;
    if (is_same_stage(from, to, stage)) {
        move.from = tr_role_find_stage(&from->plan->topology, giver, stage);
        move.bytes = tr_topology_actor(&to->plan->topology, move.to)->state_bytes;
        return add(out, &move, err);
    }
    for (int part = 0; part < TR_STAGE_SLOT_PARTS; part++)
        for (uint32_t at = 0; !status && at < count_of(to, stage); at++)
            status = deal_tensor(out, from, to, giver, stage, at, part, move, err);
    return status;
}

tr_status tr_state_moves(const tr_job_plan *from, const tr_job_plan *to, tr_state_move **moves,
                         size_t *n_moves, tr_error *err)
{
    cut old = {0}, next = {0};
    list out = {0};
    tr_status status = cut_init(&old, from, err);
    if (!status) status = cut_init(&next, to, err);
    for (uint32_t r = 0; r < to->training.n_replicas; r++)
        for (uint32_t s = 0; !status && s < to->training.n_stages; s++)
            status = deal_stage(&out, &old, &next, r, s, err);
    cut_release(&old);
    cut_release(&next);
    if (status) {
        tr_free(out.items);
        return status;
    }
    *moves = out.items;
    *n_moves = out.n;
    return TR_OK;
}
