/* actors/stage_device.c - see stage_device.h. Weights, moments, gradients, stashes and scratch are on the device; what
 * travels goes through pinned memory of the host, so that a copy holds up nobody: what comes is put into one of two places
 * that take turns, what goes is a message's own memory. Everything is queued on one stream, in the order in which it would
 * have been computed, and the host waits only where it needs a result: for what the coordinator is told, and for a place
 * whose last copy is not yet done. The new state is copied to its slot on a stream of its own while the next step computes,
 * which only reads it; it is there before the next READY. The CPU is a device too: tests run this with it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_device.h"

#include "base/clock.h"
#include "base/log.h"
#include "ops/update.h"

#include <string.h>

/* What enters or leaves a piece with a micro-batch. */
typedef enum place { IN, TARGETS, GRADIENT_IN, N_ENTER, OUT = N_ENTER, GRADIENT_OUT, N_PLACES } place;
enum { TURNS = 2 };

/* Pinned memory for what comes; `copied`: it has been read. */
typedef struct landing {
    void *memory;
    tr_event *copied;
} landing;

typedef struct owned {
    tr_memory_kind kind;
    void *memory;
} owned;

struct tr__device {
    tr_device *device;
    tr_stream *stream; /* of all work */
    tr_stream *copier; /* of states on their way to a slot */
    tr_event *updated, *copied;
    tr_event *marks[TR__MOST_DEPARTURES];
    owned *owned;
    size_t n_owned, owned_capacity;
    /* micro-batches */
    tr_value values[N_PLACES];
    size_t bytes[N_PLACES];
    void **at[N_PLACES]; /* on the device, by flight; outputs that no later phase reads share one place */
    landing landings[N_ENTER][TURNS];
    uint32_t turn[N_ENTER];
    float *factor, *host_factor;  /* of the loss: the device's, and pinned */
    double *losses, *host_losses; /* on the device by flight, so that kernels write where they wrote before */
    uint32_t n_losses;            /* micro-batches of a step; behind them the one that is measured */
    /* state and gradients */
    float *state; /* laid out as a slot is */
    bool pinned[2];
    bool copying;
    tr__buffers host_flats;
    float *visitor; /* a use of a tied parameter that came in a message */
    tr_update *update;
    double *sums; /* pinned */
};

static bool good(tr__stage *self, tr_status status, const tr_error *error)
{
    if (status == TR_OK) return true;
    tr_actor_fail_node(self->actor, error);
    return false;
}

/* All that was queued is done, and went well. */
static bool wait(tr__stage *self)
{
    tr_error error;
    tr_status status = tr_program_synchronize(self->program, &error);
    if (status == TR_OK) status = tr_stream_synchronize(self->device->stream, &error);
    return good(self, status, &error);
}

static bool copy(tr__stage *self, void *to, const void *from, size_t size_bytes)
{
    tr_error error;
    return good(self, tr_stream_copy(self->device->stream, to, from, size_bytes, &error), &error);
}

/* --- beginning and end --- */

tr_stream *tr__device_stream(const tr__stage *self)
{
    return self->device->stream;
}

tr_status tr__device_open(tr__stage *self, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    tr__device *d = self->device = tr_alloc_zero(1, sizeof *d);
    if (!d) return tr_fail(err, TR_ENOMEM, "no memory for a device's description");
    tr_status status = tr_device_open(&d->device, spec->device, spec->device_index, err);
    if (!status) status = tr_stream_new(&d->stream, d->device, err);
    if (!status) status = tr_stream_new(&d->copier, d->device, err);
    if (!status) status = tr_event_new(&d->updated, d->device, false, err);
    if (!status) status = tr_event_new(&d->copied, d->device, false, err);
    for (int i = 0; !status && i < TR__MOST_DEPARTURES; i++)
        status = tr_event_new(&d->marks[i], d->device, false, err);
    return status;
}

tr_status tr__device_memory(tr__stage *self, tr_memory_kind kind, size_t size_bytes, void **out,
                            tr_error *err)
{
    tr__device *d = self->device;
    void *array = d->owned;
    tr_status status = tr_array_reserve(&array, &d->owned_capacity, d->n_owned + 1, sizeof *d->owned, err);
    d->owned = array;
    if (!status) status = tr_device_allocate(d->device, kind, size_bytes, out, err);
    if (!status) d->owned[d->n_owned++] = (owned){kind, *out};
    return status;
}

static const tr_value *values_of(const tr_stage_spec *spec, tr_value values[N_PLACES])
{
    values[IN] = spec->tokens != TR_NO_VALUE ? spec->tokens : spec->activation_in;
    values[TARGETS] = spec->targets;
    values[GRADIENT_IN] = spec->gradient_in;
    values[OUT] = spec->activation_out;
    values[GRADIENT_OUT] = spec->gradient_out;
    return values;
}

/* Inputs stay until their last phase has read them; an output mostly only until it has been copied. */
static bool is_shared(const tr_program *program, const tr_value *values, place p)
{
    tr_phase written = p == GRADIENT_OUT ? TR_PHASE_BACKWARD : TR_PHASE_FORWARD;
    return p >= N_ENTER && tr_program_last_reader(program, values[p]) <= written;
}

void tr_stage_device_bytes(const tr_stage_spec *spec, const tr_program *program, uint64_t *places,
                           uint64_t *pinned)
{
    tr_value values[N_PLACES];
    uint64_t n = spec->stash_credits;
    *places = *pinned = 0;
    values_of(spec, values);
    for (place p = IN; p < N_PLACES; p++) {
        if (values[p] == TR_NO_VALUE) continue;
        uint64_t bytes = tr__value_bytes(spec->graph, values[p]);
        *places += is_shared(program, values, p) ? bytes : n * bytes;
        *pinned +=
            p < N_ENTER ? TURNS * bytes : n * bytes; /* messages on their way: as many as may be in flight */
    }
    for (uint32_t i = 0; i < spec->n_parameters; i++)
        if (spec->parameters[i].n_uses > 1)
            *places += (uint64_t)spec->parameters[i].n_elements * sizeof(float);
    if (spec->device == TR_DEVICE_CUDA) *places += TR_PROGRAM_LIBRARY_BYTES;
}

static tr_status allocate_place(tr__stage *self, place p, tr_error *err)
{
    tr__device *d = self->device;
    tr_status status = TR_OK;
    if (d->values[p] == TR_NO_VALUE) return TR_OK;
    uint32_t n = self->spec.stash_credits;
    d->bytes[p] = tr__value_bytes(self->spec.graph, d->values[p]);
    d->at[p] = tr_alloc_zero(n, sizeof *d->at[p]);
    if (!d->at[p]) return tr_fail(err, TR_ENOMEM, "no memory for the places of %u micro-batches", n);
    bool one = is_shared(self->program, d->values, p);
    for (uint32_t i = 0; !status && i < n; i++)
        if (one && i > 0)
            d->at[p][i] = d->at[p][0];
        else
            status = tr__device_memory(self, TR_MEMORY_DEVICE, d->bytes[p], &d->at[p][i], err);
    for (int t = 0; !status && p < N_ENTER && t < TURNS; t++) {
        status = tr__device_memory(self, TR_MEMORY_PINNED, d->bytes[p], &d->landings[p][t].memory, err);
        if (!status) status = tr_event_new(&d->landings[p][t].copied, d->device, false, err);
    }
    return status;
}

tr_status tr__device_allocate_work(tr__stage *self, tr_error *err)
{
    tr__device *d = self->device;
    const tr_stage_spec *spec = &self->spec;
    values_of(spec, d->values);
    d->n_losses = self->microbatches.end - self->microbatches.begin;
    size_t losses = (d->n_losses + 1) * sizeof(double);
    tr_status status = TR_OK;
    for (place p = IN; !status && p < N_PLACES; p++) status = allocate_place(self, p, err);
    for (uint32_t i = 0; !status && i < spec->stash_credits; i++)
        status = tr__device_memory(self, TR_MEMORY_DEVICE, tr_program_stash_bytes(self->program),
                                   &self->flights[i].stash, err);
    if (!status)
        status = tr__device_memory(self, TR_MEMORY_DEVICE, tr_program_scratch_bytes(self->program),
                                   &self->scratch, err);
    if (!status)
        status = tr__device_memory(self, TR_MEMORY_DEVICE, sizeof *d->factor, (void **)&d->factor, err);
    if (!status)
        status = tr__device_memory(self, TR_MEMORY_PINNED, sizeof *d->factor, (void **)&d->host_factor, err);
    if (!status)
        status = tr__device_memory(self, TR_MEMORY_DEVICE, spec->stash_credits * sizeof *d->losses,
                                   (void **)&d->losses, err);
    if (!status) status = tr__device_memory(self, TR_MEMORY_PINNED, losses, (void **)&d->host_losses, err);
    if (status) return status;
    *d->host_factor = 0;
    tr__buffers *pinned[] = {&self->activations, &self->input_gradients, &d->host_flats};
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++) {
        pinned[i]->device = d->device;
        pinned[i]->kind = TR_MEMORY_PINNED;
    }
    self->flats.device = d->device;
    self->flats.kind = TR_MEMORY_DEVICE;
    return TR_OK;
}

void tr__device_settle(tr__stage *self)
{
    tr__device *d = self->device;
    if (d && d->stream) tr_stream_synchronize(d->stream, NULL);
    if (d && d->copier) tr_stream_synchronize(d->copier, NULL);
}

void tr__device_release(tr__stage *self)
{
    tr__device *d = self->device;
    if (!d) return;
    tr__device_settle(self);
    tr_buffer_release(&self->sum);
    tr__buffers_release(&d->host_flats);
    tr_update_destroy(&d->update);
    for (int slot = 0; slot < 2; slot++)
        if (d->pinned[slot]) tr_device_unpin(d->device, tr_actor_slot(self->actor, slot));
    for (int p = 0; p < N_PLACES; p++) tr_free(d->at[p]);
    for (int p = 0; p < N_ENTER; p++)
        for (int t = 0; t < TURNS; t++) tr_event_destroy(&d->landings[p][t].copied);
    for (size_t i = 0; i < d->n_owned; i++) tr_device_free(d->device, d->owned[i].kind, d->owned[i].memory);
    tr_free(d->owned);
    tr_event_destroy(&d->updated);
    tr_event_destroy(&d->copied);
    for (int i = 0; i < TR__MOST_DEPARTURES; i++) tr_event_destroy(&d->marks[i]);
    tr_stream_destroy(&d->copier);
    tr_stream_destroy(&d->stream);
    tr_device_close(&d->device);
    tr_free(d);
    self->device = NULL;
}

/* --- micro-batches --- */

static size_t index_of(const tr__stage *self, const tr__flight *flight)
{
    return (size_t)(flight - self->flights);
}

static double *loss_of(const tr__stage *self, const tr__flight *flight)
{
    return self->device->losses + index_of(self, flight);
}

static double *host_loss_of(const tr__stage *self, const tr__flight *flight)
{
    return self->device->host_losses +
           (flight->evaluation ? self->device->n_losses : flight->microbatch - self->microbatches.begin);
}

/* The message may go as soon as this returns. */
static bool enter(tr__stage *self, const tr__flight *flight, place p, const tr_message *message)
{
    tr__device *d = self->device;
    if (d->values[p] == TR_NO_VALUE || !message) return true;
    TR_ASSERT(message->frame.body_bytes >= d->bytes[p]);
    landing *at = &d->landings[p][d->turn[p]++ % TURNS];
    tr_error error;
    if (!good(self, tr_event_await(at->copied, &error), &error)) return false;
    memcpy(at->memory, tr_message_bytes(message), d->bytes[p]);
    return copy(self, d->at[p][index_of(self, flight)], at->memory, d->bytes[p]) &&
           good(self, tr_event_record(at->copied, d->stream, &error), &error);
}

bool tr__device_bind(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    tr__device *d = self->device;
    const tr_stage_spec *spec = &self->spec;
    bool well = true;
    if (phase == TR_PHASE_FORWARD)
        well = enter(self, flight, IN, flight->input) && enter(self, flight, TARGETS, flight->targets);
    if (phase == TR_PHASE_BACKWARD) {
        well = enter(self, flight, GRADIENT_IN, flight->gradient);
        if (well && self->last &&
            *d->host_factor != self->factor) { /* of a new step: nothing reads the old one */
            *d->host_factor = self->factor;
            well = copy(self, d->factor, d->host_factor, sizeof *d->factor);
        }
    }
    for (int p = 0; p < N_PLACES; p++)
        if (d->values[p] != TR_NO_VALUE) self->bound[d->values[p]] = d->at[p][index_of(self, flight)];
    if (spec->factor != TR_NO_VALUE) self->bound[spec->factor] = d->factor;
    if (spec->loss != TR_NO_VALUE) self->bound[spec->loss] = loss_of(self, flight);
    return well;
}

static bool may_enter(const tr__device *d, place p)
{
    bool done = true;
    const landing *at = &d->landings[p][d->turn[p] % TURNS];
    return d->values[p] == TR_NO_VALUE || tr_event_done(at->copied, &done, NULL) != TR_OK || done;
}

bool tr__device_may_bind(const tr__stage *self, tr_phase phase)
{
    const tr__device *d = self->device;
    if (phase == TR_PHASE_FORWARD) return may_enter(d, IN) && may_enter(d, TARGETS);
    return phase != TR_PHASE_BACKWARD || may_enter(d, GRADIENT_IN);
}

static bool leave(tr__stage *self, const tr__flight *flight, place p, tr_buffer *to)
{
    tr__device *d = self->device;
    return copy(self, to->data, d->at[p][index_of(self, flight)], d->bytes[p]);
}

bool tr__device_mark(tr__stage *self, uint32_t mark)
{
    tr_error error;
    return good(self, tr_event_record(self->device->marks[mark], self->device->stream, &error), &error);
}

bool tr__device_is_past(const tr__stage *self, uint32_t mark)
{
    bool done = false;
    return tr_event_done(self->device->marks[mark], &done, NULL) != TR_OK || done;
}

bool tr__device_check(tr__stage *self, uint32_t mark)
{
    tr_error error;
    bool done;
    tr_status status = tr_program_check(self->program, &error);
    if (!status) status = tr_event_done(self->device->marks[mark], &done, &error);
    return good(self, status, &error);
}

bool tr__device_collect(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    if (phase == TR_PHASE_FORWARD && flight->output) return leave(self, flight, OUT, flight->output);
    if (phase == TR_PHASE_FORWARD && self->last) {
        double *at = host_loss_of(self, flight);
        if (!copy(self, at, loss_of(self, flight), sizeof *at)) return false;
        if (!flight->evaluation) return true; /* read at the end of the step */
        if (!wait(self)) return false;
        flight->loss = *at;
    }
    if (phase == TR_PHASE_BACKWARD && flight->input_gradient)
        return leave(self, flight, GRADIENT_OUT, flight->input_gradient);
    return true;
}

/* --- gradients --- */

bool tr__device_accumulate(tr__stage *self, tr_buffer *into, const tr_buffer *from)
{
    tr_error error;
    return good(self,
                tr_update_accumulate(self->device->stream, self->pool, tr__floats(into), tr__floats(from),
                                     self->flat, &error),
                &error);
}

tr_buffer *tr__take_host_flat(tr__stage *self)
{
    tr__device *d = self->device;
    if (d) d->host_flats.size_bytes = self->flats.size_bytes;
    tr_buffer *flat = tr__buffers_take(d ? &d->host_flats : &self->flats);
    if (!flat) {
        tr_error error;
        tr_fail(&error, TR_ENOMEM, "no memory for a gradient of %lld elements", (long long)self->flat);
        tr_actor_fail(self->actor, &error);
    }
    return flat;
}

/* What no node writes, between tensors and for parameters without a gradient, is 0 from the beginning, and so are sums of it. */
tr_buffer *tr__device_take_flat(tr__stage *self)
{
    tr_error error;
    size_t n_before = self->flats.n;
    tr_buffer *flat = tr__buffers_take(&self->flats);
    bool is_new = self->flats.n > n_before;
    if (flat && is_new &&
        !good(self, tr_stream_fill(self->device->stream, flat->data, 0, flat->size_bytes, &error), &error))
        tr_buffer_release(&flat);
    if (flat || is_new) return flat;
    tr_fail(&error, TR_ENOMEM, "no memory on device '%s:%d' for a gradient of %lld elements",
            tr_device_kind_name(self->spec.device), self->spec.device_index, (long long)self->flat);
    tr_actor_fail_node(self->actor, &error);
    return NULL;
}

bool tr__device_blocks_to_host(tr__stage *self)
{
    tr_buffer *left[TR_MAX_BLOCKS] = {NULL};
    bool well = true;
    for (uint32_t b = 0; well && b < self->n_blocks; b++) {
        tr_buffer *host = tr__take_host_flat(self);
        well = host && copy(self, host->data, self->blocks[b].memory->data, host->size_bytes);
        if (!host) break;
        left[b] = self->blocks[b].memory;
        self->blocks[b].memory = host;
    }
    well = well && wait(self);
    for (uint32_t b = 0; b < TR_MAX_BLOCKS; b++) tr_buffer_release(&left[b]);
    return well;
}

bool tr__device_take_sum(tr__stage *self)
{
    self->sum = tr__device_take_flat(self);
    return self->sum && copy(self, self->sum->data, self->reduced->data, self->sum->size_bytes);
}

bool tr__device_tied_to_host(tr__stage *self)
{
    self->reduced = tr__take_host_flat(self);
    if (!self->reduced) return false;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        for (uint32_t u = 0; parameter->shared && u < parameter->spec->n_uses; u++) {
            int64_t at = parameter->gradients[u];
            size_t bytes = (size_t)parameter->spec->n_elements * sizeof(float);
            if (at >= 0 && !copy(self, tr__floats(self->reduced) + at, tr__floats(self->sum) + at, bytes))
                return false;
        }
    }
    return wait(self);
}

/* One that came is copied to the device first; the stream keeps it there until it has been added. */
static bool add_use(tr__stage *self, const tr__parameter *parameter, uint32_t u)
{
    tr__device *d = self->device;
    int64_t at = parameter->gradients[u], n = parameter->spec->n_elements;
    const float *use = at >= 0 ? tr__floats(self->sum) + at : tr__tied_use(self, parameter, u);
    TR_ASSERT(use);
    size_t bytes = (size_t)n * sizeof(float);
    if (u == 0) return copy(self, parameter->total, use, bytes);
    if (at < 0) {
        if (!copy(self, d->visitor, use, bytes)) return false;
        use = d->visitor;
    }
    tr_error error;
    return good(self, tr_update_accumulate(d->stream, self->pool, parameter->total, use, n, &error), &error);
}

bool tr__device_tie(tr__stage *self)
{
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        for (uint32_t u = 0; parameter->total && u < parameter->spec->n_uses; u++)
            if (!add_use(self, parameter, u)) return false;
    }
    return self->n_tied_awaited == 0 || wait(self); /* the messages go next */
}

/* --- the end of a step --- */

static tr_status make_update(tr__stage *self, tr_error *err)
{
    tr__device *d = self->device;
    uint32_t n = self->spec.n_parameters;
    tr_update_tensor *tensors = tr_alloc_zero(n + 1, sizeof *tensors);
    if (!tensors) return tr_fail(err, TR_ENOMEM, "no memory for a table of %u tensors", n);
    for (uint32_t i = 0; i < n; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        float *at = d->state + parameter->offset;
        tensors[i] = (tr_update_tensor){.p = at,
                                        .m = at + self->slot_elements,
                                        .v = at + 2 * self->slot_elements,
                                        .rounded = parameter->rounded,
                                        .gradient = parameter->total,
                                        .gradient_offset = parameter->total ? 0 : parameter->gradients[0],
                                        .n = parameter->spec->n_elements,
                                        .weight_decay =
                                            parameter->spec->decayed ? self->spec.optimizer.weight_decay : 0};
    }
    tr_status status = tr_update_new(&d->update, d->stream, self->pool, tensors, n, err);
    tr_free(tensors);
    if (status) return status;
    return tr__device_memory(self, TR_MEMORY_PINNED, (size_t)tr_update_sum_count(d->update) * sizeof *d->sums,
                             (void **)&d->sums, err);
}

/* Elements of the rounded copies take lines of their own, as beside slots. */
static tr_status place_rounded(tr__stage *self, tr_error *err)
{
    uint64_t bytes = tr_stage_rounded_bytes(&self->spec);
    if (bytes == 0) return TR_OK;
    void *memory = NULL;
    tr_status status = tr__device_memory(self, TR_MEMORY_DEVICE, bytes, &memory, err);
    tr_bf16 *at = memory;
    for (uint32_t i = 0; !status && i < self->spec.n_parameters; i++) {
        int64_t n = tr__rounded_elements(self->spec.graph, &self->spec.parameters[i]);
        if (n == 0) continue;
        self->parameters[i].rounded = at;
        status = tr_update_round(self->device->stream, self->pool,
                                 self->device->state + self->parameters[i].offset, at,
                                 self->spec.parameters[i].n_elements, err);
        at += n;
    }
    return status;
}

static size_t slot_bytes(const tr__stage *self)
{
    return (size_t)self->slot_elements * 3 * sizeof(float);
}

/* Slots that cannot be pinned are copied to all the same, but the host waits. */
static void pin_slots(tr__stage *self)
{
    tr__device *d = self->device;
    tr_error error;
    for (int slot = 0; slot < 2; slot++) {
        d->pinned[slot] =
            tr_device_pin(d->device, tr_actor_slot(self->actor, slot), slot_bytes(self), &error) == TR_OK;
        if (!d->pinned[slot])
            tr_log(TR_LOG_WARNING, "%s: its state is copied more slowly: %s", tr_actor_name(self->actor),
                   error.message);
    }
}

tr_status tr__device_load_state(tr__stage *self, tr_error *err)
{
    tr__device *d = self->device;
    int64_t most = 1;
    bool visited = false;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        int64_t n = self->spec.parameters[i].n_elements;
        visited |= self->parameters[i].shared;
        if (self->parameters[i].shared && n > most) most = n;
    }
    pin_slots(self);
    tr_status status = tr__device_memory(self, TR_MEMORY_DEVICE, slot_bytes(self), (void **)&d->state, err);
    if (!status)
        status = tr_stream_copy(d->stream, d->state, tr_actor_slot(self->actor, self->slot), slot_bytes(self),
                                err);
    if (!status && visited)
        status = tr__device_memory(self, TR_MEMORY_DEVICE, (size_t)most * sizeof(float), (void **)&d->visitor,
                                   err);
    if (!status) status = place_rounded(self, err);
    if (!status) status = make_update(self, err);
    if (!status) status = tr_stream_synchronize(d->stream, err);
    for (uint32_t i = 0; !status && i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        self->bound[parameter->spec->value] =
            parameter->rounded ? (void *)parameter->rounded : (void *)(d->state + parameter->offset);
    }
    return status;
}

bool tr__device_read_step(tr__stage *self, const double **sums)
{
    tr__device *d = self->device;
    tr_error error;
    if (!good(self, tr_update_square_sums(d->update, tr__floats(self->sum), d->sums, &error), &error) ||
        !wait(self))
        return false;
    if (self->last) memcpy(self->losses, d->host_losses, d->n_losses * sizeof *self->losses);
    *sums = d->sums;
    return true;
}

bool tr__device_update(tr__stage *self, const tr_adamw_options *options, int into)
{
    tr__device *d = self->device;
    tr_error error;
    TR_ASSERT(!d->copying); /* else the state would change while it is copied */
    tr_status status = tr_update_apply(d->update, tr__floats(self->sum), options, &error);
    if (status || into == TR__NO_SLOT) return good(self, status, &error);
    if (!status) status = tr_event_record(d->updated, d->stream, &error);
    if (!status) status = tr_stream_wait(d->copier, d->updated, &error);
    if (!status)
        status =
            tr_stream_copy(d->copier, tr_actor_slot(self->actor, into), d->state, slot_bytes(self), &error);
    if (!status) status = tr_event_record(d->copied, d->copier, &error);
    d->copying = !status;
    return good(self, status, &error);
}

bool tr__device_is_copying(const tr__stage *self)
{
    return self->device && self->device->copying;
}

bool tr__device_has_copied(const tr__stage *self)
{
    bool done = true;
    if (!tr__device_is_copying(self)) return false;
    return tr_event_done(self->device->copied, &done, NULL) != TR_OK ||
           done; /* an error is told by who waits */
}

bool tr__device_end_copy(tr__stage *self)
{
    tr_error error;
    if (!good(self, tr_event_await(self->device->copied, &error), &error)) return false;
    self->device->copying = false;
    return true;
}
