/* actors/stage_audit.c - see stage_audit.h.
 * What travels is one message a micro-batch: hashes of the results, then the inputs of the three phases, each at a cache line:
 * what came in a forward, the targets, what came in a backward, and, unless the micro-batch is the first of its reduction group, the
 * sum of gradients that its own were added to. Bytes between them are zero, since a message that comes again is compared.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_audit.h"

#include "actors/dispute.h"
#include "actors/replay.h"
#include "actors/stage_zero.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "base/hash.h"
#include "ops/optimizer.h"

#include <string.h>

/* In the order in which each may depend on those before: a wrong activation comes back as another gradient. */
enum { ACTIVATION, LOSS, GRADIENT, SUMS, N_RESULTS };

typedef struct heading {
    uint64_t results[N_RESULTS]; /* hashes; 0: this stage has none */
    uint64_t has_sums;
    uint64_t unused[3];
} heading;
_Static_assert(sizeof(heading) == TR_CACHE_LINE, "inputs begin at a cache line");

/* Where what lies in a body, in bytes. */
typedef struct places {
    uint64_t input, targets, gradient, sums, end;
} places;

struct tr__stage_audit {
    uint32_t out, in; /* edges */
    places at;
    tr__buffers bodies;
    uint64_t ns;                  /* taken by all this, until it is told */
    uint32_t counted_step, n_due; /* of the replica that is looked at */
    /* The micro-batch that is computed again. */
    tr_message *message; /* NULL: none is */
    tr_phase next;
    void *stash;
    tr_buffer *output, *input_gradient, *sums;
    double loss;
    float factor;
    uint64_t results[N_RESULTS];
};

/* --- memory --- */

static uint64_t up(uint64_t bytes)
{
    return (bytes + TR_CACHE_LINE - 1) / TR_CACHE_LINE * TR_CACHE_LINE;
}

static uint64_t flat_bytes(const tr_stage_spec *spec)
{
    return (uint64_t)tr_stage_gradient_elements(spec->parameters, spec->n_parameters) * sizeof(float);
}

static tr_value input_of(const tr_stage_spec *spec)
{
    return spec->stage == 0 ? spec->tokens : spec->activation_in;
}

static places places_of(const tr_stage_spec *spec)
{
    places at = {.input = sizeof(heading)};
    at.targets = at.input + up(tr__value_bytes(spec->graph, input_of(spec)));
    at.gradient = at.targets + up(tr__value_bytes(spec->graph, spec->targets));
    at.sums = at.gradient + up(tr__value_bytes(spec->graph, spec->gradient_in));
    at.end = at.sums + up(flat_bytes(spec));
    return at;
}

uint64_t tr_stage_audit_message_bytes(const tr_stage_spec *spec)
{
    return places_of(spec).end;
}

uint64_t tr_stage_audit_bytes(const tr_stage_spec *spec, const tr_program *program)
{
    uint64_t held = (spec->stash_credits + TR_STAGE_AUDIT_SLOTS) * tr_stage_audit_message_bytes(spec);
    return held + tr_program_stash_bytes(program) + tr__value_bytes(spec->graph, spec->activation_out) +
           tr__value_bytes(spec->graph, spec->gradient_out) + flat_bytes(spec);
}

tr_status tr__stage_audit_init(tr__stage *self, tr_error *err)
{
    const tr_training_plan *plan = &self->spec.plan;
    if (!self->disputes || !plan->audit || plan->n_replicas < 2) return TR_OK;
    tr__stage_audit *audit = tr_alloc_zero(1, sizeof *audit);
    self->audit = audit;
    if (audit) audit->stash = tr_alloc_aligned(4096, tr_program_stash_bytes(self->program));
    if (!audit || !audit->stash) return tr_fail(err, TR_ENOMEM, "no memory for audits");
    audit->out = tr_edge_out(self->actor, TR_EDGE_AUDIT, 0);
    audit->in = tr_edge_in(self->actor, TR_EDGE_AUDIT, 0);
    TR_ASSERT(audit->out != TR_NO_EDGE && audit->in != TR_NO_EDGE);
    audit->at = places_of(&self->spec);
    audit->bodies.size_bytes = audit->at.end;
    audit->counted_step = UINT32_MAX;
    return TR_OK;
}

static void end_work(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    tr_edge_release(self->actor, &audit->message);
    tr_buffer_release(&audit->output);
    tr_buffer_release(&audit->input_gradient);
    tr_buffer_release(&audit->sums);
}

void tr__stage_audit_release(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    if (!audit) return;
    end_work(self);
    tr__buffers_release(&audit->bodies);
    tr_free(audit->stash);
    tr_free(audit);
    self->audit = NULL;
}

static void count_time(tr__stage *self, uint64_t begin_ns)
{
    uint64_t ns = tr_clock_ns() - begin_ns;
    self->audit->ns += ns;
    self->busy_ns += ns;
}

/* --- the one who is looked at --- */

static void put(tr_buffer *body, uint64_t at, const void *bytes, uint64_t size)
{
    char *to = (char *)body->data + at;
    memcpy(to, bytes, size);
    memset(to + size, 0, up(size) - size);
}

static void put_message(tr_buffer *body, uint64_t at, const tr_message *message)
{
    if (message) put(body, at, tr_message_bytes(message), message->frame.body_bytes);
}

static bool put_inputs(tr__stage *self, tr__flight *flight)
{
    const tr__stage_audit *audit = self->audit;
    flight->audit = tr__buffers_take(&self->audit->bodies);
    if (!flight->audit) {
        tr__fail_for_memory(self);
        return false;
    }
    memset(flight->audit->data, 0, sizeof(heading));
    put_message(flight->audit, audit->at.input, flight->input);
    put_message(flight->audit, audit->at.targets, flight->targets);
    return true;
}

/* What its gradients are added to. The first of a group begins with nothing. */
static void put_sums(tr__stage *self, tr__flight *flight)
{
    heading *head = flight->audit->data;
    if (flight->microbatch == tr_plan_group(&self->spec.plan, self->group).begin) return;
    head->has_sums = 1;
    put(flight->audit, self->audit->at.sums, self->accumulating->data, flat_bytes(&self->spec));
}

/* With which its gradients are added. */
static tr_phase last_phase(const tr__stage *self)
{
    return self->is_fused ? TR_PHASE_BACKWARD : TR_PHASE_WEIGHT;
}

static bool is_sampled(const tr__stage *self, const tr__flight *flight)
{
    return self->audit && !flight->evaluation &&
           tr_plan_is_audited(&self->spec.plan, self->spec.seed, flight->step, flight->microbatch);
}

bool tr__stage_audit_before(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    if (phase == TR_PHASE_FORWARD ? !is_sampled(self, flight) : !flight->audit) return true;
    uint64_t begin = tr_clock_ns();
    bool good = true;
    if (phase == TR_PHASE_FORWARD) good = put_inputs(self, flight);
    if (phase == TR_PHASE_BACKWARD) put_message(flight->audit, self->audit->at.gradient, flight->gradient);
    if (phase == last_phase(self)) put_sums(self, flight);
    count_time(self, begin);
    return good;
}

static uint64_t hash_of(const tr_buffer *buffer)
{
    return buffer ? tr_hash64(buffer->data, buffer->size_bytes) : 0;
}

static void note_results(const tr__stage *self, tr_phase phase, const tr_buffer *activation,
                         const tr_buffer *gradient, const tr_buffer *sums, const double *loss,
                         uint64_t results[N_RESULTS])
{
    if (phase == TR_PHASE_FORWARD) results[ACTIVATION] = hash_of(activation);
    if (phase == TR_PHASE_BACKWARD) {
        results[LOSS] = self->last ? tr_hash64(loss, sizeof *loss) : 0; /* ops/chunk_logits.h */
        results[GRADIENT] = hash_of(gradient);
    }
    if (phase == last_phase(self)) results[SUMS] = hash_of(sums);
}

void tr__stage_audit_after(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    if (!flight->audit) return;
    uint64_t begin = tr_clock_ns();
    heading *head = flight->audit->data;
    note_results(self, phase, flight->output, flight->input_gradient, self->accumulating, &flight->loss,
                 head->results);
    count_time(self, begin);
}

bool tr__stage_audit_may_send(const tr__stage *self, const tr__flight *flight)
{
    return !flight->audit || (tr_edge_credits(self->actor, self->audit->out) > 0 &&
                              !tr__replay_goes_first(self, self->audit->out));
}

void tr__stage_audit_send(tr__stage *self, tr__flight *flight)
{
    if (!flight->audit) return;
    const heading *head = flight->audit->data;
    const places *at = &self->audit->at;
    uint32_t size = (uint32_t)(head->has_sums ? at->end : at->sums);
    tr__replay_note_sent(self, self->audit->out, flight->audit, size, flight->microbatch);
    tr_edge_send(self->actor, self->audit->out, flight->audit, size, flight->step, flight->microbatch,
                 tr__disputes_flags(self));
    flight->audit = NULL;
}

/* --- the one who looks --- */

static const tr_message *at_work(const tr__stage *self)
{
    return self->audit->message ? self->audit->message : self->audits.head;
}

bool tr__stage_audit_is_possible(const tr__stage *self)
{
    const tr_message *message = self->audit ? at_work(self) : NULL;
    if (!message || message->frame.step != self->step || tr__replay_is_ahead(self)) return false;
    if (!tr__zero_is_whole(self)) return false;
    return !self->last || self->tokens[self->step % self->ring] != 0;
}

uint32_t tr__stage_audit_microbatch(const tr__stage *self)
{
    return at_work(self)->frame.microbatch;
}

static bool begin_work(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    if (!self->last) audit->output = tr__buffers_take(&self->activations);
    if (!self->first) audit->input_gradient = tr__buffers_take(&self->input_gradients);
    if ((!self->last && !audit->output) || (!self->first && !audit->input_gradient)) {
        tr__fail_for_memory(self);
        return false;
    }
    audit->message = tr_message_queue_pop(&self->audits);
    audit->next = TR_PHASE_FORWARD;
    memset(audit->results, 0, sizeof audit->results);
    /* Its own count, not the other's. */
    if (self->last) audit->factor = (float)(1.0 / (double)self->tokens[self->step % self->ring]);
    return true;
}

/* The sum that the gradients are added to, and the graph's gradients bound to it. */
static bool begin_sums(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    const heading *head = tr_message_bytes(audit->message);
    audit->sums = tr__take_host_flat(self);
    if (!audit->sums) return false;
    if (head->has_sums)
        memcpy(audit->sums->data, (const char *)(const void *)head + audit->at.sums, flat_bytes(&self->spec));
    else
        tr_clear(tr__floats(audit->sums), self->flat, self->pool);
    tr__reduce_bind(self, audit->sums);
    return true;
}

static void bind(tr__stage *self, tr_value value, const void *memory)
{
    if (value != TR_NO_VALUE) self->bound[value] = (void *)(uintptr_t)memory;
}

static void bind_body(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    const tr_stage_spec *spec = &self->spec;
    const char *body = tr_message_bytes(audit->message);
    bind(self, input_of(spec), body + audit->at.input);
    bind(self, spec->targets, body + audit->at.targets);
    bind(self, spec->gradient_in, body + audit->at.gradient);
    bind(self, spec->activation_out, audit->output ? audit->output->data : NULL);
    bind(self, spec->gradient_out, audit->input_gradient ? audit->input_gradient->data : NULL);
    bind(self, spec->factor, &audit->factor);
    bind(self, spec->loss, &audit->loss);
}

/* Chaos, as in the stage's own work. */
static void spoil(tr__stage *self, int how)
{
    const tr__stage_audit *audit = self->audit;
    const tr_buffer *out = audit->next == TR_PHASE_FORWARD    ? audit->output
                           : audit->next == TR_PHASE_BACKWARD ? audit->input_gradient
                                                              : audit->sums;
    if (out) tr__stage_spoil(self, how, out->data, out->size_bytes);
    if (!out && audit->next == TR_PHASE_FORWARD)
        tr__stage_spoil(self, how, &self->audit->loss, sizeof audit->loss);
}

static bool run_again(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    const tr_frame *frame = &audit->message->frame;
    bool weight = audit->next == last_phase(self);
    tr_actor_activity(self->actor, "audit", frame->step, frame->microbatch);
    bind_body(self);
    if (weight && !begin_sums(self)) return false;
    tr_bindings bindings = {
        .values = self->bound,
        .stash = audit->stash,
        .scratch = self->scratch,
        .pool = self->pool,
        .weights = (uint64_t)self->step + 1,
        .random = {
            .training = true, .seed = self->spec.seed, .step = frame->step, .microbatch = frame->microbatch}};
    tr_program_run(self->program, audit->next, &bindings);
    if (weight && self->accumulating) tr__reduce_bind_group(self);
    int how = tr_actor_spoil(self->actor);
    if (how) spoil(self, how);
    note_results(self, audit->next, audit->output, audit->input_gradient, audit->sums, &audit->loss,
                 audit->results);
    return true;
}

/* Of what a result was computed from; all of it lies before these places. */
static uint64_t hash_of_basis(const tr__stage *self, const tr_message *message, uint32_t result)
{
    const places *at = &self->audit->at;
    const char *body = tr_message_bytes(message);
    uint64_t end = result <= LOSS ? at->gradient : result == GRADIENT ? at->sums : message->frame.body_bytes;
    return tr_hash64(body + at->input, end - at->input);
}

static void compare(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    const tr_message *message = audit->message;
    const heading *head = tr_message_bytes(message);
    static const char *const names[N_RESULTS] = {"activation", "loss", "gradient", "weight gradient"};
    tr__dispute *about = &self->disputes->audited;
    if (about->is)
        tr__dispute_decide(self, about, message, head->results[about->part],
                           hash_of_basis(self, message, about->part));
    uint32_t part = 0;
    while (part < N_RESULTS && head->results[part] == audit->results[part]) part++;
    if (part == N_RESULTS) {
        tr__replay_note_used(self, message);
        self->n_audited++;
    } else if (!about->told) {
        *about = (tr__dispute){.part = part,
                               .first = head->results[part],
                               .second = audit->results[part],
                               .basis = hash_of_basis(self, message, part)};
        tr__dispute_begin(self, about, message, names[part]);
    }
}

bool tr__stage_audit_advance(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    uint64_t begin = tr_clock_ns(), traced_ns = tr_trace_begin(&self->trace);
    if (!audit->message && !begin_work(self)) return false;
    const tr_frame frame = audit->message->frame;
    if (!run_again(self)) return false;
    if (audit->next == last_phase(self)) {
        compare(self);
        end_work(self);
    } else {
        audit->next++;
    }
    count_time(self, begin);
    tr_trace_end(&self->trace, TR_SPAN_AUDIT, traced_ns, frame.step + 1, frame.microbatch);
    return true;
}

static uint32_t count_due(const tr__stage *self)
{
    const tr_training_plan *plan = &self->spec.plan;
    uint32_t other = (self->spec.replica + plan->n_replicas - 1) % plan->n_replicas;
    tr_range theirs = tr_plan_microbatches(plan, other);
    uint32_t n = 0;
    for (uint32_t m = theirs.begin; m < theirs.end; m++)
        n += tr_plan_is_audited(plan, self->spec.seed, self->step, m);
    return n;
}

bool tr__stage_audit_is_settled(const tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    if (!audit) return true;
    if (audit->counted_step != self->step) {
        audit->n_due = count_due(self);
        audit->counted_step = self->step;
    }
    return self->n_audited >= audit->n_due && !self->disputes->audited.told;
}

void tr__stage_audit_report(tr__stage *self)
{
    tr__stage_audit *audit = self->audit;
    if (!audit || self->n_audited == 0) return;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_uint(&packer, self->n_audited);
    tr_pack_uint(&packer, audit->ns);
    audit->ns = 0;
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_AUDITED, self->step, &packer);
}
