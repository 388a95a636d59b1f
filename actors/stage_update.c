/* actors/stage_update.c - the end of a step: square sums for the norm, AdamW from one state slot into the
 * other, and the streaming of a slot to the checkpoint actor while training goes on. A slot of generation g
 * holds the state after g - 1 updates (0 means "nothing valid"). The update to u+1 updates writes the slot
 * that held u-1; it waits while that slot is still being streamed. So the newest state is always whole.
 * With ZeRO a slot holds a replica's shard, which that replica alone updates, and streams (stage_zero.c has the rest).
 * Slots are float32. Parameters that the graph reads as bfloat16 have a rounded copy beside the slots, written in
 * the same pass as the update: one copy is enough, since nothing reads parameters while they are updated.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_device.h"

#include "actors/replay.h"
#include "actors/stage_audit.h"
#include "actors/stage_examine.h"
#include "actors/stage_zero.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "base/memory.h"
#include "ops/optimizer.h"

#include <string.h>
#include <unistd.h>

enum { N_PARTS = TR_STAGE_SLOT_PARTS };

uint64_t tr_stage_state_bytes(const int64_t *n_elements, uint32_t n_parameters)
{
    int64_t total = 0;
    for (uint32_t i = 0; i < n_parameters; i++) total += tr__stage_aligned(n_elements[i]);
    return (uint64_t)total * N_PARTS * sizeof(float);
}

void tr_stage_slot_place(const int64_t *n_elements, uint32_t n_parameters, uint32_t which,
                         uint64_t *offset_bytes, uint64_t *part_bytes)
{
    *offset_bytes = tr_stage_state_bytes(n_elements, which) / N_PARTS;
    *part_bytes = tr_stage_state_bytes(n_elements, n_parameters) / N_PARTS;
}

float *tr__stage_part(tr__stage *self, int slot, int part)
{
    return (float *)tr_actor_slot(self->actor, slot) + part * self->slot_elements;
}

static void bind_parameters(tr__stage *self)
{
    if (self->zero) return; /* once, to what is gathered */
    float *values = tr__stage_part(self, self->slot, 0);
    for (uint32_t i = 0; i < self->spec.n_parameters; i++)
        self->bound[self->spec.parameters[i].value] = self->parameters[i].rounded
                                                          ? (void *)self->parameters[i].rounded
                                                          : (void *)(values + self->parameters[i].offset);
}

int64_t tr__rounded_elements(const tr_graph *graph, const tr_stage_parameter *parameter)
{
    bool rounded = tr_graph_value(graph, parameter->value)->dtype == TR_BF16;
    return rounded ? 2 * tr__stage_aligned((parameter->n_elements + 1) / 2) : 0;
}

uint64_t tr_stage_rounded_bytes(const tr_stage_spec *spec)
{
    int64_t total = 0;
    for (uint32_t i = 0; i < spec->n_parameters; i++)
        total += tr__rounded_elements(spec->graph, &spec->parameters[i]);
    return (uint64_t)total * sizeof(tr_bf16);
}

/* The copies of the state that is computed with. */
static void fill_rounded(tr__stage *self)
{
    for (uint32_t i = 0; i < self->spec.n_parameters; i++)
        if (self->parameters[i].rounded)
            tr_round_to_bf16(tr__stage_part(self, self->slot, 0) + self->parameters[i].offset,
                             self->parameters[i].rounded + self->parameters[i].part.begin,
                             tr__part_elements(&self->parameters[i]), self->pool);
}

static tr_status make_rounded(tr__stage *self, tr_error *err)
{
    uint64_t bytes = tr_stage_rounded_bytes(&self->spec);
    if (bytes == 0) return TR_OK;
    self->rounded = tr_alloc_aligned(TR_CACHE_LINE, bytes);
    if (!self->rounded)
        return tr_fail(err, TR_ENOMEM, "no memory for %llu bytes of rounded parameters",
                       (unsigned long long)bytes);
    tr_bf16 *at = self->rounded;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        int64_t n = tr__rounded_elements(self->spec.graph, &self->spec.parameters[i]);
        if (n == 0) continue;
        self->parameters[i].rounded = at;
        at += n;
    }
    fill_rounded(self);
    return TR_OK;
}

/* After a change of epoch: the slot that holds the generation, wherever it is. */
static tr_status adopt_slot(tr__stage *self, uint64_t generation, tr_error *err)
{
    tr_actor_activity(self->actor, "restoring", (uint32_t)generation - 1, TR_ACTIVITY_NONE);
    self->slot = 0;
    while (self->slot < 2 && tr_actor_slot_generation(self->actor, self->slot) != generation) self->slot++;
    if (self->slot == 2)
        return tr_fail(err, TR_ENOTFOUND, "no state slot holds generation %llu",
                       (unsigned long long)generation);
    /* What is newer was made before the change and is made again, or, with all that it was made of kept, stays. */
    uint64_t other = tr_actor_slot_generation(self->actor, 1 - self->slot);
    bool ahead = tr__replay_is_ahead(self);
    if (other > generation && !ahead) tr_actor_slot_open(self->actor, 1 - self->slot);
    self->held[self->slot] = (uint32_t)generation - 1;
    self->held[1 - self->slot] = other && (other < generation || ahead) ? (uint32_t)other - 1 : TR__NOT_HELD;
    return TR_OK;
}

/* A source knows whole tensors: of one that this replica has a part of, it takes that. */
static tr_status load_part(tr__stage *self, const tr__parameter *parameter, float *const into[N_PARTS],
                           tr_error *err)
{
    int64_t n = parameter->spec->n_elements, own = tr__part_elements(parameter);
    if (own == 0) return TR_OK;
    if (own == n) return self->source->load(&self->spec, parameter->spec, into[0], into[1], into[2], err);
    float *whole = tr_alloc((size_t)n * N_PARTS * sizeof *whole);
    if (!whole) return tr_fail(err, TR_ENOMEM, "no memory to load '%s'", parameter->spec->name);
    tr_status status = self->source->load(&self->spec, parameter->spec, whole, whole + n, whole + 2 * n, err);
    for (int part = 0; !status && part < N_PARTS; part++)
        memcpy(into[part], whole + part * n + parameter->part.begin, (size_t)own * sizeof *whole);
    tr_free(whole);
    return status;
}

/* As the source has it after first_step updates. */
static tr_status load_slot(tr__stage *self, tr_error *err)
{
    self->slot = 0;
    tr_actor_slot_open(self->actor, 0);
    tr_actor_slot_open(self->actor, 1);
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        float *into[N_PARTS];
        for (int part = 0; part < N_PARTS; part++)
            into[part] = tr__stage_part(self, 0, part) + self->parameters[i].offset;
        tr_status status = load_part(self, &self->parameters[i], into, err);
        if (status) return status;
    }
    tr_actor_slot_publish(self->actor, 0, (uint64_t)self->step + 1, self->pool);
    self->held[0] = self->step;
    self->held[1] = TR__NOT_HELD;
    return TR_OK;
}

tr_status tr__update_init(tr__stage *self, tr_error *err)
{
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        self->parameters[i].offset = self->slot_elements;
        self->slot_elements += tr__stage_aligned(tr__part_elements(&self->parameters[i]));
    }
    tr__zero_begin(self);
    uint64_t generation = tr_actor_generation(self->actor);
    tr_status status = generation ? adopt_slot(self, generation, err) : load_slot(self, err);
    if (status || self->device) return status ? status : tr__device_load_state(self, err);
    status = make_rounded(self, err);
    if (!status && self->zero) return tr__zero_bind(self, NULL, err);
    if (!status) bind_parameters(self);
    return status;
}

static const float *total_gradient(const tr__stage *self, const tr__parameter *parameter)
{
    return parameter->total ? parameter->total : tr__floats(self->reduced) + parameter->reduced[0];
}

/* Losses of the last stage, in order of micro-batches. */
static void report_losses(tr__stage *self, const double *losses)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_uint(&packer, self->microbatches.begin);
    tr_pack_bytes(&packer, losses, (self->microbatches.end - self->microbatches.begin) * sizeof *losses);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_LOSSES, self->step, &packer);
}

static bool reports_squares(const tr__stage *self, const tr__parameter *parameter)
{
    if (!parameter->spec->owned) return false;
    return self->zero ? tr__part_elements(parameter) > 0 : self->spec.replica == 0;
}

static void report_ready(tr__stage *self, const double *sums)
{
    const tr_stage_spec *spec = &self->spec;
    uint32_t n_owned = 0;
    for (uint32_t i = 0; i < spec->n_parameters; i++) n_owned += reports_squares(self, &self->parameters[i]);
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 1 + 3 * n_owned);
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        int64_t n = tr_norm_block_count(tr__part_elements(parameter));
        if (reports_squares(self, parameter)) {
            tr_pack_uint(&packer, parameter->spec->index);
            tr_pack_uint(&packer, (uint64_t)(parameter->part.begin / TR_NORM_BLOCK));
            tr_pack_bytes(&packer, sums, (size_t)n * sizeof *sums);
        }
        sums += n;
    }
    tr_pack_uint(&packer, self->busy_ns);
    self->busy_ns = 0;
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_READY, self->step, &packer);
}

/* Of all parameters in their order; those that nobody asks for are left out. NULL: no memory, the actor has failed. */
static double *square_sums(tr__stage *self)
{
    const tr_stage_spec *spec = &self->spec;
    int64_t n = 1;
    for (uint32_t i = 0; i < spec->n_parameters; i++)
        n += tr_norm_block_count(spec->parameters[i].n_elements);
    double *sums = tr_alloc((size_t)n * sizeof *sums), *at = sums;
    if (!sums) {
        tr_error error;
        tr_fail(&error, TR_ENOMEM, "no memory for the square sums of a gradient");
        tr_actor_fail(self->actor, &error);
        return NULL;
    }
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        if (reports_squares(self, parameter))
            tr_square_sums(total_gradient(self, parameter), tr__part_elements(parameter), at, self->pool);
        at += tr_norm_block_count(tr__part_elements(parameter));
    }
    return sums;
}

void tr__update_report_again(tr__stage *self, const double *losses, const double *sums)
{
    tr__replay_report(self);
    if (self->last) report_losses(self, losses);
    report_ready(self, sums);
}

bool tr__update_report(tr__stage *self)
{
    uint64_t begin = tr_clock_ns();
    double *own = NULL;
    const double *sums = NULL;
    if (self->device && !tr__device_read_step(self, &sums)) return false;
    if (!self->device && !(sums = own = square_sums(self))) return false;
    self->busy_ns += tr_clock_ns() - begin;
    tr__replay_keep_report(self, sums);
    tr__stage_audit_report(self);
    tr__examine_report(self);
    tr__update_report_again(self, self->losses, sums);
    tr_free(own);
    return true;
}

static tr_adamw_options adamw_options(const tr__stage *self)
{
    const tr_stage_optimizer *known = &self->spec.optimizer;
    return (tr_adamw_options){.lr = self->learning_rate,
                              .beta1 = known->beta1,
                              .beta2 = known->beta2,
                              .eps = known->eps,
                              .gradient_scale = self->scale,
                              .step = self->step + 1};
}

static void update_parameter(tr__stage *self, uint32_t i, int from, int into)
{
    const tr__parameter *parameter = &self->parameters[i];
    tr_adamw_options options = adamw_options(self);
    if (tr__part_elements(parameter) == 0) return;
    options.weight_decay = parameter->spec->decayed ? self->spec.optimizer.weight_decay : 0;
    int64_t at = parameter->offset;
    tr_adamw(tr__stage_part(self, from, 0) + at, tr__stage_part(self, from, 1) + at,
             tr__stage_part(self, from, 2) + at, total_gradient(self, parameter),
             tr__stage_part(self, into, 0) + at, tr__stage_part(self, into, 1) + at,
             tr__stage_part(self, into, 2) + at,
             parameter->rounded ? parameter->rounded + parameter->part.begin : NULL,
             tr__part_elements(parameter), &options, self->pool);
}

/* No update: the state stays, under its next generation. */
static void keep_state(tr__stage *self, int from, int into)
{
    for (int part = 0; part < N_PARTS; part++)
        memcpy(tr__stage_part(self, into, part), tr__stage_part(self, from, part),
               (size_t)self->slot_elements * sizeof(float));
}

/* Where a GPU computes, threads only hash states that are held: as many as get it done within a step, so that nothing waits
 * for it. */
int tr__update_threads(const tr_stage_spec *spec)
{
    enum { MOST_HASHING = 16 };
    if (spec->device == TR_DEVICE_CPU) return spec->n_threads;
    long share = sysconf(_SC_NPROCESSORS_ONLN) / (long)(spec->plan.n_replicas * tr_plan_workers(&spec->plan));
    if (share > MOST_HASHING) share = MOST_HASHING;
    return share > spec->n_threads ? (int)share : spec->n_threads;
}

static void publish(tr__stage *self)
{
    uint64_t begin = tr_clock_ns();
    tr_actor_slot_publish(self->actor, self->slot, (uint64_t)self->held[self->slot] + 1, self->pool);
    self->busy_ns += tr_clock_ns() - begin;
}

static void vote(tr__stage *self)
{
    self->trace.eager = self->step == self->spec.plan.n_steps;
    tr_trace_ship(&self->trace); /* before the vote: the job may end with it */
    tr_actor_activity(self->actor, "voting", self->step - 1, TR_ACTIVITY_NONE);
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 0);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_UPDATED, self->step - 1, &packer);
    tr_actor_activity(self->actor, "waiting", self->step, TR_ACTIVITY_NONE);
}

/* Is the slot that the next held state goes into still to be streamed? */
static bool is_wanted(const tr__stage *self, int slot)
{
    if (self->streaming && self->stream_slot == slot) return true;
    for (uint32_t i = 0; i < self->n_wanted; i++)
        if (self->wanted[i] == self->held[slot]) return true;
    return false;
}

bool tr__update_is_possible(const tr__stage *self)
{
    bool writes = self->holds && !tr__replay_is_ahead(self);
    return self->committed && !(writes && is_wanted(self, 1 - self->slot));
}

/* The state that an earlier life made is in the other slot: it is gone on from. */
static bool apply_again(tr__stage *self)
{
    if (!tr__replay_commit_is_same(self)) {
        tr_error error;
        tr_fail(&error, TR_ECORRUPT, "the update of step %u came again with another factor or learning rate",
                self->step + 1);
        tr_actor_fail_job(self->actor, &error);
        return false;
    }
    self->tokens[self->step % self->ring] = 0;
    self->committed = false;
    self->step++;
    self->slot = 1 - self->slot;
    fill_rounded(self);
    bind_parameters(self);
    vote(self);
    tr__replay_pass(self);
    return true;
}

bool tr__update_apply(tr__stage *self)
{
    if (!tr__update_is_possible(self)) return false;
    if (tr__replay_is_ahead(self)) return apply_again(self);
    int into = 1 - self->slot;
    uint64_t traced_ns = tr_trace_begin(&self->trace);
    tr_actor_activity(self->actor, "update", self->step, TR_ACTIVITY_NONE);
    uint64_t begin = tr_clock_ns();
    if (self->holds) tr_actor_slot_open(self->actor, into);
    tr_adamw_options options = adamw_options(self);
    if (self->device &&
        !tr__device_update(self, self->leaves_out ? NULL : &options, self->holds ? into : TR__NO_SLOT))
        return false;
    if (!self->device && self->leaves_out) keep_state(self, self->slot, into);
    for (uint32_t i = 0; i < self->spec.n_parameters && !self->device && !self->leaves_out; i++)
        update_parameter(self, i, self->slot, into);
    self->tokens[self->step % self->ring] = 0;
    self->committed = false;
    tr__replay_finish_step(self);
    self->step++;
    if (self->holds) {
        self->slot = into;
        self->held[into] = self->step;
    }
    if (!self->device) bind_parameters(self);
    tr__reduce_finish_step(self);
    tr__zero_begin(self);
    self->busy_ns += tr_clock_ns() - begin;
    tr_trace_end(&self->trace, TR_SPAN_UPDATE, traced_ns, self->step, 0);
    if (tr__device_is_copying(self)) return true; /* the vote comes behind it */
    if (!self->device) publish(self);
    vote(self);
    return true;
}

bool tr__update_end(tr__stage *self)
{
    publish(self);
    vote(self);
    return true;
}

/* --- checkpoints --- */

/* Skips parameters that go into the checkpoint from another stage, or replica. */
static void settle_stream(tr__stage *self)
{
    const tr_stage_spec *spec = &self->spec;
    while (self->stream_parameter < spec->n_parameters &&
           (!spec->parameters[self->stream_parameter].owned ||
            tr__part_elements(&self->parameters[self->stream_parameter]) == 0))
        self->stream_parameter++;
    if (self->stream_parameter == spec->n_parameters) self->streaming = false;
}

/* Where the next wanted state is held. */
static int slot_wanted(const tr__stage *self)
{
    return self->wanted[0] == self->held[self->slot] ? self->slot : 1 - self->slot;
}

static bool begin_stream(tr__stage *self)
{
    if (self->n_wanted == 0 || self->wanted[0] > self->step) return false;
    self->stream_slot = slot_wanted(self);
    TR_ASSERT(self->held[self->stream_slot] == self->wanted[0]);
    self->n_wanted--;
    memmove(self->wanted, self->wanted + 1, self->n_wanted * sizeof *self->wanted);
    self->streaming = true;
    self->stream_parameter = self->stream_part = 0;
    self->stream_offset = 0;
    settle_stream(self);
    return self->streaming;
}

static void advance_stream(tr__stage *self, uint64_t sent, uint64_t total)
{
    self->stream_offset += sent;
    if (self->stream_offset < total) return;
    self->stream_offset = 0;
    if (++self->stream_part < N_PARTS) return;
    self->stream_part = 0;
    self->stream_parameter++;
    settle_stream(self);
}

bool tr__stream_is_possible(const tr__stage *self)
{
    bool wanted = self->n_wanted > 0 && self->wanted[0] <= self->step;
    if (!self->streaming && !wanted) return false;
    int slot = self->streaming ? self->stream_slot : slot_wanted(self);
    if (slot == self->slot && tr__device_is_copying(self)) return false; /* it is not there yet */
    return tr_edge_credits(self->actor, self->out_state) > 0;
}

bool tr__stream_advance(tr__stage *self)
{
    if (!self->streaming && !begin_stream(self)) return false;
    if (tr_edge_credits(self->actor, self->out_state) == 0) return false;
    tr_buffer *body = tr__buffers_take(&self->chunks);
    if (!body) { /* the next message, with which to try again, may be what waits for this */
        tr__fail_for_memory(self);
        return false;
    }
    uint64_t begin = tr_trace_begin(&self->trace);
    tr_actor_activity(self->actor, "saving", self->step, TR_ACTIVITY_NONE);
    const tr__parameter *parameter = &self->parameters[self->stream_parameter];
    uint64_t total = (uint64_t)tr__part_elements(parameter) * sizeof(float);
    uint64_t size = total - self->stream_offset;
    if (size > TR_STATE_CHUNK_BYTES - sizeof(tr_state_chunk))
        size = TR_STATE_CHUNK_BYTES - sizeof(tr_state_chunk);
    tr_state_chunk head = {parameter->spec->index, self->stream_part,
                           (uint64_t)parameter->part.begin * sizeof(float) + self->stream_offset};
    memcpy(body->data, &head, sizeof head);
    const float *tensor = tr__stage_part(self, self->stream_slot, (int)self->stream_part) + parameter->offset;
    memcpy((char *)body->data + sizeof head, (const char *)tensor + self->stream_offset, size);
    uint32_t updates = (uint32_t)(tr_actor_slot_generation(self->actor, self->stream_slot) - 1);
    tr_edge_send(self->actor, self->out_state, body, (uint32_t)(size + sizeof head), updates, 0, 0);
    tr_trace_end(&self->trace, TR_SPAN_SAVING, begin, updates, 0);
    advance_stream(self, size, total);
    return true;
}
