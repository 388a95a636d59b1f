/* actors/stage.c - the stage's life with micro-batches: what arrives is put in queues, `idle` chooses.
 * One call of idle does one piece of work, so that whatever arrived meanwhile is seen before the next choice.
 * The choice is the design's: state out and updates first (they are short and others wait for them), then
 * backward, forward, weight gradients as filler, and audits of another replica behind them. By `urgency` the pieces that
 * share a worker choose among each other in the same way. Weight gradients are taken in the order of micro-batches, always:
 * they are a left fold.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_collect.h"
#include "actors/stage_depart.h"

#include "actors/dispute.h"
#include "actors/replay.h"
#include "actors/roles.h"
#include "actors/stage_audit.h"
#include "actors/stage_choices.h"
#include "actors/stage_examine.h"
#include "actors/stage_link.h"
#include "actors/stage_zero.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "base/memory.h"

#include <string.h>

/* --- running phases --- */

static void bind(tr__stage *self, tr_value value, const void *memory)
{
    if (value != TR_NO_VALUE) self->bound[value] = (void *)(uintptr_t)memory;
}

static void trace_phase(tr__stage *self, const tr__flight *flight, tr_phase phase, uint64_t begin_ns)
{
    static const tr_span_kind kinds[] = {TR_SPAN_FORWARD, TR_SPAN_BACKWARD, TR_SPAN_WEIGHT};
    bool evaluation = flight->evaluation;
    tr_trace_end(&self->trace, evaluation ? TR_SPAN_EVALUATION : kinds[phase], begin_ns,
                 flight->step + !evaluation, flight->microbatch);
}

/* Messages are where they came, what is sent is computed where it goes from. */
static void bind_messages(tr__stage *self, tr__flight *flight)
{
    const tr_stage_spec *spec = &self->spec;
    bind(self, spec->tokens, self->first && flight->input ? tr_message_bytes(flight->input) : NULL);
    bind(self, spec->activation_in, !self->first && flight->input ? tr_message_bytes(flight->input) : NULL);
    bind(self, spec->targets, flight->targets ? tr_message_bytes(flight->targets) : NULL);
    bind(self, spec->gradient_in, flight->gradient ? tr_message_bytes(flight->gradient) : NULL);
    bind(self, spec->activation_out, flight->output ? flight->output->data : NULL);
    bind(self, spec->gradient_out, flight->input_gradient ? flight->input_gradient->data : NULL);
    bind(self, spec->factor, &self->factor);
    bind(self, spec->loss, &flight->loss);
}

/* The micro-batches whose gradients are added up in place at the moment. */
static tr_range group_of(const tr__stage *self)
{
    return tr_plan_group(&self->spec.plan, self->group);
}

/* false: the device has failed, and so will the node. */
static bool run_phase(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    static const char *const names[] = {"forward", "backward", "weight"};
    uint64_t traced_ns = tr_trace_begin(&self->trace);
    tr_actor_activity(self->actor, flight->evaluation ? "evaluation" : names[phase], flight->step,
                      flight->microbatch);
    if (!tr__stage_audit_before(self, flight, phase)) return false;
    uint64_t begin = tr_clock_ns();
    if (!self->device)
        bind_messages(self, flight);
    else if (!tr__device_bind(self, flight, phase))
        return false;
    tr_bindings bindings = {.values = self->bound,
                            .stash = flight->stash,
                            .scratch = self->scratch,
                            .pool = self->pool,
                            .weights = (uint64_t)self->step + 1,
                            .random = {.training = !flight->evaluation,
                                       .seed = self->spec.seed,
                                       .step = flight->step,
                                       .microbatch = flight->microbatch}};
    if (phase == (self->is_fused ? TR_PHASE_BACKWARD : TR_PHASE_WEIGHT)) {
        bindings.begin_gradients = self->device && flight->microbatch == group_of(self).begin;
        tr__collect_overlap(self, &bindings);
    }
    tr__examine(self, flight, phase, &bindings);
    tr_program_run(self->program, phase, &bindings);
    if (self->device && !tr__device_collect(self, flight, phase)) return false;
    if (!tr__stage_spoil_phase(self, flight, phase)) return false;
    self->busy_ns += tr_clock_ns() - begin;
    tr__stage_audit_after(self, flight, phase);
    if (!flight->evaluation) tr__replay_note_computed(self, phase);
    if (self->is_fused && phase == TR_PHASE_BACKWARD) tr__replay_note_computed(self, TR_PHASE_WEIGHT);
    trace_phase(self, flight, phase, traced_ns);
    return true;
}

static bool send_on(tr__stage *self, uint32_t edge, const tr__flight *flight, tr_buffer *body, uint16_t flags)
{
    tr__departure what = {edge, flight->step, flight->microbatch, flags, body};
    return tr__depart(self, &what);
}

/* A device has a copy of its own. */
static bool is_read_later(const tr__stage *self, tr_value value, tr_phase done)
{
    return value != TR_NO_VALUE && !self->device && tr_program_last_reader(self->program, value) > done;
}

static void drop_message(tr__stage *self, tr_message **message, tr_value value, tr_phase done)
{
    if (*message && !is_read_later(self, value, done)) tr__release_message(self, message);
}

static void drop_buffer(tr__stage *self, tr_buffer **buffer, tr_value value, tr_phase done)
{
    if (*buffer && !is_read_later(self, value, done)) tr_buffer_release(buffer);
}

/* Gives back what no phase after `done` reads. */
static void let_go(tr__stage *self, tr__flight *flight, tr_phase done)
{
    const tr_stage_spec *spec = &self->spec;
    drop_message(self, &flight->input, self->first ? spec->tokens : spec->activation_in, done);
    drop_message(self, &flight->targets, spec->targets, done);
    drop_message(self, &flight->gradient, spec->gradient_in, done);
    drop_buffer(self, &flight->output, spec->activation_out, done);
    drop_buffer(self, &flight->input_gradient, spec->gradient_out, done);
}

/* An evaluation may come while all are taken by what an earlier life had in hand, and would wait for it for ever. */
static tr__flight *free_flight(const tr__stage *self, bool evaluation)
{
    if (evaluation && self->replay) return &self->flights[self->spec.stash_credits];
    for (uint32_t i = 0; i < self->spec.stash_credits; i++)
        if (self->flights[i].state == TR__FREE) return &self->flights[i];
    return NULL;
}

/* The oldest one in this state. */
static tr__flight *oldest_flight(const tr__stage *self, tr__flight_state state)
{
    tr__flight *oldest = NULL;
    for (uint32_t i = 0; i < self->spec.stash_credits; i++) {
        tr__flight *flight = &self->flights[i];
        if (flight->state == state && (!oldest || flight->microbatch < oldest->microbatch)) oldest = flight;
    }
    return oldest;
}

static uint64_t count_targets(const tr__stage *self, const tr_message *targets)
{
    const int32_t *ids = tr_message_bytes(targets);
    uint64_t count = 0;
    for (uint64_t i = 0; i < (uint64_t)self->spec.plan.rows * self->spec.plan.sequence; i++)
        count += ids[i] >= 0;
    return count;
}

static void finish_evaluation(tr__stage *self, tr__flight *flight)
{
    if (self->last) {
        tr_packer packer;
        tr_packer_init(&packer);
        tr_pack_array(&packer, 3);
        tr_pack_uint(&packer, flight->microbatch);
        tr_pack_f64(&packer, flight->loss);
        tr_pack_uint(&packer, count_targets(self, flight->targets));
        tr_send_packed(self->actor, self->coordinator, TR_TOPIC_EVALUATED, flight->step, &packer);
    }
    let_go(self, flight, TR_PHASE_WEIGHT);
    flight->state = TR__FREE;
    tr__replay_note_evaluation(self);
}

static bool is_evaluation(const tr_message *input)
{
    return (input->frame.flags & TR_FRAME_EVALUATION) != 0;
}

static bool forward_is_possible(const tr__stage *self)
{
    const tr_message *input = self->inputs.head, *targets = self->targets.head;
    if (!input || input->frame.step != self->step || self->is_choosing) return false;
    if (self->last && !targets) return false;
    if (!is_evaluation(input) && tr__replay_goes_first(self, self->out_activation)) return false;
    if (!tr__zero_is_whole(self)) return false;
    return (self->last || tr__may_send(self, self->out_activation)) &&
           free_flight(self, is_evaluation(input)) && tr__may_queue(self, TR_PHASE_FORWARD);
}

static bool do_forward(tr__stage *self)
{
    tr__flight *flight = free_flight(self, is_evaluation(self->inputs.head));
    if (!self->last && !(flight->output = tr__links_take(self, self->out_activation))) {
        tr__fail_for_memory(self);
        return false;
    }
    flight->input = tr_message_queue_pop(&self->inputs);
    if (self->last) {
        flight->targets = tr_message_queue_pop(&self->targets);
        TR_ASSERT(flight->targets->frame.step == flight->input->frame.step &&
                  flight->targets->frame.microbatch == flight->input->frame.microbatch);
        tr__replay_note_used(self, flight->targets);
    }
    tr__replay_note_used(self, flight->input);
    const tr_frame frame = flight->input->frame;
    bool evaluation = is_evaluation(flight->input);
    flight->step = frame.step;
    flight->microbatch = frame.microbatch;
    flight->evaluation = evaluation;
    if (!run_phase(self, flight, TR_PHASE_FORWARD)) return false;
    uint16_t flags = evaluation ? TR_FRAME_EVALUATION : 0;
    if (!self->last && !send_on(self, self->out_activation, flight, flight->output, flags)) return false;
    if (evaluation) {
        finish_evaluation(self, flight);
        return true;
    }
    let_go(self, flight, TR_PHASE_FORWARD);
    flight->state = TR__FORWARD_DONE;
    return true;
}

static bool backward_is_possible(const tr__stage *self)
{
    const tr__flight *flight = oldest_flight(self, TR__FORWARD_DONE);
    if (!flight || tr__replay_is_ahead(self)) return false;
    if (self->is_fused && !tr__stage_audit_may_send(self, flight)) return false;
    if (!self->first &&
        (!tr__may_send(self, self->out_gradient) || tr__replay_goes_first(self, self->out_gradient)))
        return false;
    if (!tr__may_queue(self, TR_PHASE_BACKWARD)) return false;
    return self->last ? self->tokens[flight->step % self->ring] != 0 : self->gradients.head != NULL;
}

/* Weight gradients of a micro-batch are about to be added. */
static bool begin_weight(tr__stage *self, const tr__flight *flight)
{
    TR_ASSERT(flight->microbatch == self->next_weight);
    return flight->microbatch != group_of(self).begin || tr__reduce_begin_group(self, self->group);
}

static bool end_weight(tr__stage *self, tr__flight *flight)
{
    uint32_t end = group_of(self).end;
    tr__stage_audit_send(self, flight);
    let_go(self, flight, TR_PHASE_WEIGHT);
    flight->state = TR__FREE;
    self->next_weight++;
    if (self->next_weight == end && !tr__reduce_end_group(self)) return false;
    if (self->next_weight == self->microbatches.end) tr__reduce_start(self);
    return true;
}

static bool do_backward(tr__stage *self)
{
    tr__flight *flight = oldest_flight(self, TR__FORWARD_DONE);
    if (self->is_fused && !begin_weight(self, flight)) return false;
    if (self->last) self->factor = (float)(1.0 / (double)self->tokens[flight->step % self->ring]);
    if (!self->first && !(flight->input_gradient = tr__links_take(self, self->out_gradient))) {
        tr__fail_for_memory(self);
        return false;
    }
    if (!self->last) {
        flight->gradient = tr_message_queue_pop(&self->gradients);
        TR_ASSERT(flight->gradient->frame.step == flight->step &&
                  flight->gradient->frame.microbatch == flight->microbatch);
        tr__replay_note_used(self, flight->gradient);
    }
    if (!run_phase(self, flight, TR_PHASE_BACKWARD)) return false;
    if (self->last && !self->device) /* the backward may have made it (ops/chunk_logits.h) */
        self->losses[flight->microbatch - self->microbatches.begin] = flight->loss;
    if (!self->first && !send_on(self, self->out_gradient, flight, flight->input_gradient, 0)) return false;
    if (self->is_fused) return end_weight(self, flight);
    let_go(self, flight, TR_PHASE_BACKWARD);
    flight->state = TR__BACKWARD_DONE;
    return true;
}

static bool weight_is_possible(const tr__stage *self)
{
    const tr__flight *flight = oldest_flight(self, TR__BACKWARD_DONE);
    return flight && !tr__replay_is_ahead(self) && tr__stage_audit_may_send(self, flight);
}

static bool do_weight(tr__stage *self)
{
    tr__flight *flight = oldest_flight(self, TR__BACKWARD_DONE);
    return begin_weight(self, flight) && run_phase(self, flight, TR_PHASE_WEIGHT) && end_weight(self, flight);
}

/* The design's classes, the most urgent first. What a device has finished goes at once. What ends a step is short, and others
 * wait for it. A new state on its way to
 * its slot is published when it has come, and waited for when there is nothing else to do. An exchange between devices, which
 * may never end, is looked at again and again. */
typedef enum work {
    DEPART,
    PUBLISH,
    STREAM,
    UPDATE,
    GATHER,
    REDUCE,
    REPLAY,
    BACKWARD,
    FORWARD,
    WEIGHT,
    AUDIT,
    LOOK,
    AWAIT,
    NOTHING
} work;

/* The first from `from` on that is possible. */
static work choose(const tr__stage *self, work from)
{
    if (tr__departure_is_ready(self)) return DEPART;
    if (tr__device_has_copied(self)) return PUBLISH;
    if (from <= STREAM && tr__stream_is_possible(self)) return STREAM;
    if (tr__update_is_possible(self)) return UPDATE;
    if (tr__zero_is_possible(self)) return GATHER;
    if (self->n_departures == 0 && tr__reduce_is_possible(self))
        return REDUCE; /* it may wait for the device */
    if (tr__replay_is_possible(self)) return REPLAY;
    if (backward_is_possible(self)) return BACKWARD;
    if (forward_is_possible(self)) return FORWARD;
    if (weight_is_possible(self) && tr__may_queue(self, TR_PHASE_WEIGHT)) return WEIGHT;
    if (tr__stage_audit_is_possible(self)) return AUDIT;
    if (tr__departures_are_busy(self) || tr__collect_is_busy(self)) return LOOK;
    return tr__device_is_copying(self) ? AWAIT : NOTHING;
}

static bool stage_idle(tr_actor *actor, void *state)
{
    (void)actor;
    tr__stage *self = state;
    work next = choose(self, DEPART);
    if (next == STREAM && tr__stream_advance(self)) return true;
    if (next == STREAM) next = choose(self, UPDATE); /* none of it was ours */
    switch (next) {
    case DEPART: return tr__depart_ready(self);
    case PUBLISH:
    case AWAIT: return tr__device_end_copy(self) && tr__update_end(self);
    case UPDATE: return tr__update_apply(self);
    case GATHER: return tr__zero_advance(self);
    case REDUCE: return tr__reduce_advance(self);
    case REPLAY: return tr__replay_advance(self);
    case BACKWARD: return do_backward(self);
    case FORWARD: return do_forward(self);
    case WEIGHT: return do_weight(self);
    case AUDIT: return tr__stage_audit_advance(self);
    case LOOK: return !tr__collect_is_busy(self) || tr__collect_look(self);
    default: return false;
    }
}

/* Between the pieces of a worker: by class, then the oldest micro-batch first (what has waited longest lets go of its stash
 * soonest), and of one micro-batch the later stage. */
static uint64_t stage_urgency(tr_actor *actor, void *state)
{
    (void)actor;
    const tr__stage *self = state;
    work next = choose(self, DEPART);
    uint64_t step = self->step, microbatch = 0, training = 1;
    switch (next) {
    case BACKWARD: microbatch = oldest_flight(self, TR__FORWARD_DONE)->microbatch; break;
    case WEIGHT: microbatch = oldest_flight(self, TR__BACKWARD_DONE)->microbatch; break;
    case AUDIT: microbatch = tr__stage_audit_microbatch(self); break;
    case FORWARD: {
        const tr_frame *input = &self->inputs.head->frame;
        training = !(input->flags & TR_FRAME_EVALUATION); /* those of a step come before its training */
        microbatch = input->microbatch;
        break;
    }
    case NOTHING: return TR_NO_WORK;
    default: break;
    }
    /* A step that is cut off is out of turn, once. */
    enum { STAGE_BITS = 12, MICROBATCH_BITS = 26, STEP_BITS = 20, WORK_BITS = 64 - 1 - 12 - 26 - 20 };
    _Static_assert(NOTHING < 1 << WORK_BITS, "every kind of work has its urgency");
    uint64_t stage = (1u << STAGE_BITS) - 1 - self->spec.stage % (1u << STAGE_BITS);
    uint64_t urgency = (uint64_t)next << STEP_BITS | step % (1u << STEP_BITS);
    urgency = (urgency << 1 | training) << MICROBATCH_BITS | microbatch % (1u << MICROBATCH_BITS);
    return urgency << STAGE_BITS | stage;
}

/* --- messages --- */

/* What it sent differs from what was sent before: a third computation, by another process, is to tell who erred. */
static void end_process(tr__stage *self)
{
    tr_error error;
    tr_fail(&error, TR_ECORRUPT, "what it computed is doubted");
    tr_actor_fail_node(self->actor, &error);
}

static void receive_control(tr__stage *self, const tr_message *message)
{
    tr_unpacker body;
    tr_unpacker_init(&body, tr_message_bytes(message), message->frame.body_bytes);
    (void)tr_unpack_array(&body, UINT32_MAX);
    uint32_t step = message->frame.step;
    switch (message->frame.edge) {
    case TR_TOPIC_GROUP: tr__collect_receive(self, message); return;
    case TR_TOPIC_LINK: tr__links_receive(self, message); return;
    case TR_TOPIC_CHOICES: tr__stage_choices_receive(self, message); return;
    case TR_TOPIC_TRACED: tr_trace_answered(&self->trace); return;
    default: break;
    }
    switch (message->frame.edge) {
    case TR_TOPIC_TOKENS:
        body.bad |= step - self->step >= self->ring;
        self->tokens[step % self->ring] = tr_unpack_uint(&body, UINT64_MAX);
        break;
    case TR_TOPIC_COMMIT:
        body.bad |= step != self->step || self->phase != TR__COMMITTING;
        self->scale = (float)tr_unpack_f64(&body);
        self->learning_rate = (float)tr_unpack_f64(&body);
        self->holds = tr_unpack_uint(&body, 1) != 0;
        self->leaves_out = tr_unpack_uint(&body, 1) != 0;
        body.bad |= !self->device && !self->holds; /* every update goes into a slot */
        self->committed = !body.bad;
        tr__replay_committed(self, step);
        break;
    case TR_TOPIC_FORGET: tr__replay_forget(self); break;
    case TR_TOPIC_DOUBTED: end_process(self); break;
    case TR_TOPIC_CHECKPOINT:
        (void)tr_unpack_uint(&body, UINT64_MAX);
        body.bad |= self->n_wanted == TR__MAX_WANTED;
        if (!body.bad) self->wanted[self->n_wanted++] = step;
        break;
    default: body.bad = true;
    }
    if (tr_unpacker_done(&body, "control message", NULL)) tr_fail_for_topic(self->actor, message);
}

static void stage_receive(tr_actor *actor, void *state, tr_message **message)
{
    (void)actor;
    tr__stage *self = state;
    if ((*message)->frame.kind != TR_FRAME_DATA) {
        receive_control(self, *message);
        return;
    }
    tr_message_queue *queue = tr__stage_queue(self, (*message)->frame.edge);
    TR_ASSERT(queue);
    if (tr__replay_receive(self, message)) return;
    tr_message_queue_push(queue, *message);
    *message = NULL;
}

/* --- beginning and end --- */

static void stage_start(tr_actor *actor, void *state)
{
    (void)actor;
    tr__collect_start(state);
    tr__links_start(state);
    tr__stage_choices_start(state);
}

static void empty(tr__stage *self, tr_message_queue *queue)
{
    for (tr_message *message; (message = tr_message_queue_pop(queue));)
        tr_edge_release(self->actor, &message);
}

static void stage_stop(tr_actor *actor, void *state)
{
    (void)actor;
    tr__stage *self = state;
    if (!self) return;
    bool apart = self->device != NULL; /* its memory goes with the device */
    tr__collect_release(self);
    if (apart) tr__device_settle(self);
    tr_message_queue *queues[] = {&self->inputs,   &self->targets, &self->gradients, &self->scattered,
                                  &self->gathered, &self->tied,    &self->audits,    &self->updated};
    for (size_t i = 0; i < sizeof queues / sizeof *queues; i++) empty(self, queues[i]);
    tr__stage_audit_release(self);
    tr_free(self->finding);
    tr__replay_leave(self);
    tr__disputes_leave(self);
    for (uint32_t i = 0; self->flights && i < self->n_flights; i++) {
        tr__flight *flight = &self->flights[i];
        tr_edge_release(self->actor, &flight->input);
        tr_edge_release(self->actor, &flight->targets);
        tr_edge_release(self->actor, &flight->gradient);
        tr_buffer_release(&flight->output);
        tr_buffer_release(&flight->input_gradient);
        tr_buffer_release(&flight->audit);
        if (!apart) tr_free(flight->stash);
    }
    for (int i = 0; i < TR__MOST_DEPARTURES; i++) tr_buffer_release(&self->departures[i].body);
    tr__buffers_release(&self->activations);
    tr__buffers_release(&self->input_gradients);
    tr__buffers_release(&self->chunks);
    tr__reduce_release(self);
    tr__zero_release(self);
    tr_trace_release(&self->trace);
    tr_program_destroy(&self->program);
    tr__stage_choices_release(self);
    tr__device_release(self);
    tr_thread_pool_destroy(&self->pool);
    tr_free(self->flights);
    tr_free(self->losses);
    tr_free(self->tokens);
    if (!apart) tr_free(self->scratch);
    tr_free(self->rounded);
    tr_free(self->bound);
    tr_free(self->out_scatter);
    tr_free(self->out_gather);
    tr_free(self->out_tied);
    self->source->close(&self->spec);
    tr_free(self);
}

static tr_status stage_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                            void **state, tr_error *err)
{
    tr__stage *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a stage");
    self->actor = actor;
    self->source = context;
    tr_status status = self->source->open(self->source->context, config, config_bytes, &self->spec, err);
    if (status) {
        tr_free(self);
        return status;
    }
    const tr_stage_spec *spec = &self->spec;
    self->first = spec->stage == 0;
    self->last = spec->stage + 1 == spec->plan.n_stages;
    uint64_t generation = tr_actor_generation(actor);
    self->step = generation ? (uint32_t)generation - 1 : spec->plan.first_step;
    self->microbatches = tr_plan_microbatches(&spec->plan, spec->replica);
    self->next_weight = self->microbatches.begin;
    self->group = tr_plan_groups(&spec->plan, spec->replica).begin;
    /* In slots each update overwrites the state before the last, so one that is held for longer is apart from them. */
    bool apart = spec->device != TR_DEVICE_CPU || spec->apart || spec->plan.hold_every > 1;
    if (apart) status = tr__device_open(self, err);
    if (!apart && (spec->plan.replay || spec->plan.audit))
        status = tr__disputes_init(self, config, config_bytes, err);
    if (!apart && spec->plan.replay && !status) status = tr__replay_init(self, err);
    tr_program_options options = {
        .device = spec->device, .n_threads = spec->n_threads, .graphs = spec->cuda_graphs};
    if (spec->device != TR_DEVICE_CPU && !status) options.stream = tr__device_stream(self);
    if (!status) status = tr_program_new(&self->program, spec->graph, &options, err);
    self->is_fused = !status && !tr_program_has_phase(self->program, TR_PHASE_WEIGHT);
    if (!status) status = tr_thread_pool_new(&self->pool, tr__update_threads(spec), err);
    if (!status) status = tr__stage_find_edges(self, err);
    if (!status) status = tr__stage_allocate(self, err);
    if (!status) status = tr_trace_init(&self->trace, actor, spec->plan.trace, err);
    if (!status) status = tr__reduce_init(self, err);
    if (!status) status = tr__zero_init(self, err);
    if (!status) status = tr__stage_audit_init(self, err);
    if (!status) status = tr__examine_init(self, err);
    if (!status) status = tr__collect_init(self, err);
    if (!status) status = tr__update_init(self, err);
    if (!status) tr__replay_bind(self);
    if (status) {
        status = tr__device_blame(self, status, err);
        stage_stop(actor, self);
        return status;
    }
    tr_actor_activity(actor, "waiting", self->step, TR_ACTIVITY_NONE);
    *state = self;
    return TR_OK;
}

const tr_behavior tr_stage_behavior = {.name = "stage",
                                       .init = stage_init,
                                       .start = stage_start,
                                       .receive = stage_receive,
                                       .idle = stage_idle,
                                       .urgency = stage_urgency,
                                       .waits = tr__stage_waits,
                                       .stop = stage_stop};
