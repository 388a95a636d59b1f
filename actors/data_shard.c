/* actors/data_shard.c - see data_shard.h. One call of idle sends one micro-batch, if both edges have a
 * credit.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/data_shard.h"

#include "actors/roles.h"
#include "actors/topics.h"
#include "actors/trace.h"
#include "base/memory.h"

#include <string.h>

typedef struct shard {
    tr_actor *actor;
    const tr_shard_source *source;
    tr_shard_spec spec;
    uint32_t tokens, targets; /* edges */
    tr_actor_id coordinator;
    tr_range microbatches;
    uint32_t step;      /* updates done when this is worked on */
    uint32_t next;      /* micro-batch of the step, or evaluation */
    bool evaluating;    /* after `step` updates */
    uint32_t announced; /* steps whose targets the coordinator knows, from first_step */
    tr_trace trace;
} shard;

static void begin_step(shard *self)
{
    self->evaluating = false;
    self->next = self->microbatches.begin;
}

static void begin_evaluation(shard *self)
{
    self->evaluating = true;
    self->next = self->spec.replica;
}

/* How many targets count in this replica's share of a step: asked of the source
 * row by row, since rows may be padded. */
static tr_status announce(shard *self, uint32_t step)
{
    const tr_training_plan *plan = &self->spec.plan;
    int32_t *row = tr_alloc((size_t)plan->sequence * 2 * sizeof *row);
    tr_error error;
    if (!row) {
        tr_fail(&error, TR_ENOMEM, "no memory for a row of %u tokens", plan->sequence);
        tr_actor_fail(self->actor, &error);
        return TR_ENOMEM;
    }
    uint64_t count = 0;
    for (uint32_t m = self->microbatches.begin; m < self->microbatches.end; m++) {
        for (uint32_t i = 0; i < plan->rows; i++) {
            self->source->training_row(&self->spec, step, m, i, row, row + plan->sequence);
            for (uint32_t t = 0; t < plan->sequence; t++) count += row[plan->sequence + t] >= 0;
        }
    }
    tr_free(row);
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 1);
    tr_pack_uint(&packer, count);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_COUNT, step, &packer);
    return TR_OK;
}

static void fill(shard *self, int32_t *tokens, int32_t *targets)
{
    const tr_training_plan *plan = &self->spec.plan;
    uint32_t n_windows = tr_plan_windows_after(plan, self->step);
    for (uint32_t i = 0; i < plan->rows; i++, tokens += plan->sequence, targets += plan->sequence) {
        uint32_t window = self->next * plan->rows + i;
        if (!self->evaluating) {
            self->source->training_row(&self->spec, self->step, self->next, i, tokens, targets);
        } else if (window < n_windows) {
            self->source->window_row(&self->spec, n_windows, window, tokens, targets);
        } else {
            memset(tokens, 0, plan->sequence * sizeof *tokens);
            memset(targets, 0xff, plan->sequence * sizeof *targets); /* -1 */
        }
    }
}

static bool send_microbatch(shard *self)
{
    const tr_training_plan *plan = &self->spec.plan;
    uint32_t size = plan->rows * plan->sequence * (uint32_t)sizeof(int32_t);
    tr_buffer *tokens = NULL, *targets = NULL;
    tr_error error;
    if (tr_buffer_new(&tokens, size, &error) || tr_buffer_new(&targets, size, &error)) {
        tr_buffer_release(&tokens);
        tr_actor_fail(self->actor, &error);
        return false;
    }
    uint32_t step = self->step + !self->evaluating; /* as spans count them */
    uint64_t begin_ns = tr_trace_begin(&self->trace);
    tr_actor_activity(self->actor, "reading", self->step, self->next);
    fill(self, tokens->data, targets->data);
    tr_trace_end(&self->trace, TR_SPAN_READING, begin_ns, step, self->next);
    begin_ns = tr_trace_begin(&self->trace);
    uint16_t flags = self->evaluating ? TR_FRAME_EVALUATION : 0;
    tr_edge_send(self->actor, self->tokens, tokens, size, self->step, self->next, flags);
    tr_edge_send(self->actor, self->targets, targets, size, self->step, self->next, flags);
    tr_trace_end(&self->trace, TR_SPAN_SENDING, begin_ns, step, self->next);
    return true;
}

/* Moves on to what comes next in the plan; false when all is done. */
static bool settle(shard *self)
{
    const tr_training_plan *plan = &self->spec.plan;
    for (;;) {
        if (self->evaluating) {
            if (self->next < tr_plan_evaluations_after(plan, self->step)) return true;
            begin_step(self);
        }
        if (self->step >= tr_plan_last_step(plan)) return false;
        if (self->next < self->microbatches.end) return true;
        self->step++;
        self->trace.eager = self->step == plan->n_steps;
        tr_trace_ship(&self->trace);
        begin_evaluation(self);
    }
}

static bool shard_idle(tr_actor *actor, void *state)
{
    shard *self = state;
    const tr_training_plan *plan = &self->spec.plan;
    if (self->announced < tr_plan_last_step(plan) && self->announced < self->step + 2) {
        if (announce(self, self->announced)) return false;
        self->announced++;
        return true;
    }
    if (!settle(self)) {
        tr_actor_activity(actor, "done", self->step, 0);
        return false;
    }
    if (tr_edge_credits(actor, self->tokens) == 0 || tr_edge_credits(actor, self->targets) == 0) {
        tr_actor_activity(actor, "waiting", self->step, self->next);
        return false;
    }
    if (!send_microbatch(self)) return false;
    self->next += self->evaluating ? plan->n_replicas : 1;
    return true;
}

static uint32_t shard_waits(const tr_actor *actor, const void *state, tr_wait *waits, uint32_t capacity)
{
    const shard *self = state;
    uint32_t n = 0;
    if (self->step >= tr_plan_last_step(&self->spec.plan) && !self->evaluating) return 0;
    if (n < capacity && tr_edge_credits(actor, self->tokens) == 0)
        waits[n++] = (tr_wait){.kind = TR_WAIT_CREDIT, .which = self->tokens};
    if (n < capacity && tr_edge_credits(actor, self->targets) == 0)
        waits[n++] = (tr_wait){.kind = TR_WAIT_CREDIT, .which = self->targets};
    return n;
}

static tr_status shard_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                            void **state, tr_error *err)
{
    shard *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a data shard");
    self->actor = actor;
    self->source = context;
    tr_status status = self->source->open(self->source->context, config, config_bytes, &self->spec, err);
    if (status) {
        tr_free(self);
        return status;
    }
    status = tr_trace_init(&self->trace, actor, self->spec.plan.trace, err);
    if (status) {
        self->source->close(&self->spec);
        tr_free(self);
        return status;
    }
    const tr_topology *topology = tr_actor_topology(actor);
    const tr_training_plan *plan = &self->spec.plan;
    uint32_t replica = self->spec.replica;
    self->tokens = tr_edge_out(actor, TR_EDGE_TOKENS, tr_role_find_stage(topology, replica, 0));
    self->targets =
        tr_edge_out(actor, TR_EDGE_TARGETS, tr_role_find_stage(topology, replica, plan->n_stages - 1));
    self->coordinator = tr_role_find(topology, TR_ROLE_COORDINATOR);
    self->microbatches = tr_plan_microbatches(plan, replica);
    uint64_t generation = tr_actor_generation(actor);
    self->step = self->announced = generation ? (uint32_t)generation - 1 : plan->first_step;
    if (self->step > plan->first_step || plan->again) /* what was to be measured then may have been lost */
        begin_evaluation(self);
    else
        begin_step(self);
    *state = self;
    return TR_OK;
}

static void shard_receive(tr_actor *actor, void *state, tr_message **message)
{
    shard *self = state;
    if ((*message)->frame.kind == TR_FRAME_CONTROL && (*message)->frame.edge == TR_TOPIC_TRACED)
        tr_trace_answered(&self->trace);
    else
        tr_fail_for_topic(actor, *message); /* nobody has anything else to tell a data shard */
}

static void shard_stop(tr_actor *actor, void *state)
{
    (void)actor;
    shard *self = state;
    if (!self) return;
    self->source->close(&self->spec);
    tr_trace_release(&self->trace);
    tr_free(self);
}

const tr_behavior tr_data_shard_behavior = {.name = "data_shard",
                                            .init = shard_init,
                                            .receive = shard_receive,
                                            .idle = shard_idle,
                                            .waits = shard_waits,
                                            .stop = shard_stop};
