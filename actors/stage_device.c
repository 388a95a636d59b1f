/* actors/stage_device.c - see stage_device.h. Weights, moments, gradients, stashes and scratch are on the device; what
 * travels goes through pinned memory of the host, so that a copy holds up nobody: what comes is put into one of two places
 * that take turns, what goes is a message's own memory. Everything is queued on one stream, in the order in which it would
 * have been computed, and the host waits only where it needs a result: for what the coordinator is told, and for a place
 * whose last copy is not yet done. The new state is copied to its slot on a stream of its own while the next step computes,
 * which only reads it; it is there before the next READY. The CPU is a device too: tests run this with it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_device_internal.h"
#include "actors/stage_link.h"

#include <string.h>

static bool copy(tr__stage *self, void *to, const void *from, size_t size_bytes)
{
    tr_error error;
    return tr__device_good(self, tr_stream_copy(self->device->stream, to, from, size_bytes, &error), &error);
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
    tr__buffers *pinned[] = {&self->activations, &self->input_gradients, &d->host_flats, &self->sum_flats};
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++) {
        pinned[i]->device = d->device;
        pinned[i]->kind = TR_MEMORY_PINNED;
    }
    self->flats.device = d->device;
    self->flats.kind = d->shards.kind = TR_MEMORY_DEVICE;
    d->shards.device = d->device;
    return tr__links_init(self, err);
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
    tr__links_release(self);
    tr_buffer_release(&self->sum);
    tr__buffers_release(&d->host_flats);
    tr__buffers_release(&d->shards);
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

/* The message may go as soon as this returns; one whose body is on a device has been taken. */
static bool enter(tr__stage *self, const tr__flight *flight, place p, tr_message **from)
{
    tr__device *d = self->device;
    const tr_message *message = *from;
    if (d->values[p] == TR_NO_VALUE || !message) return true;
    if (message->frame.flags & TR_FRAME_DESCRIPTOR) {
        size_t index = index_of(self, flight);
        return tr__links_enter(self, from, (uint32_t)index, d->at[p][index], d->bytes[p]);
    }
    TR_ASSERT(message->frame.body_bytes >= d->bytes[p]);
    landing *at = &d->landings[p][d->turn[p]++ % TURNS];
    tr_error error;
    if (!tr__device_good(self, tr_event_await(at->copied, &error), &error)) return false;
    memcpy(at->memory, tr_message_bytes(message), d->bytes[p]);
    return copy(self, d->at[p][index_of(self, flight)], at->memory, d->bytes[p]) &&
           tr__device_good(self, tr_event_record(at->copied, d->stream, &error), &error);
}

bool tr__device_bind(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    tr__device *d = self->device;
    const tr_stage_spec *spec = &self->spec;
    bool well = true;
    if (phase == TR_PHASE_FORWARD)
        well = enter(self, flight, IN, &flight->input) && enter(self, flight, TARGETS, &flight->targets);
    if (phase == TR_PHASE_BACKWARD) {
        well = enter(self, flight, GRADIENT_IN, &flight->gradient);
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
    void *slot = tr__links_place(self, to);
    return copy(self, slot ? slot : to->data, d->at[p][index_of(self, flight)], d->bytes[p]);
}

bool tr__device_mark(tr__stage *self, uint32_t mark)
{
    tr_error error;
    return tr__device_good(self, tr_event_record(self->device->marks[mark], self->device->stream, &error),
                           &error);
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
    return tr__device_good(self, status, &error);
}

bool tr__device_collect(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    if (!tr__links_note_phase(self, (uint32_t)index_of(self, flight))) return false;
    if (phase == TR_PHASE_FORWARD && flight->output) return leave(self, flight, OUT, flight->output);
    if (self->last && phase == (flight->evaluation ? TR_PHASE_FORWARD : TR_PHASE_BACKWARD)) {
        double *at = host_loss_of(self, flight);
        if (!copy(self, at, loss_of(self, flight), sizeof *at)) return false;
        if (flight->evaluation && !tr__device_wait(self))
            return false; /* others are read at the end of the step */
        if (flight->evaluation) flight->loss = *at;
    }
    if (phase == TR_PHASE_BACKWARD && flight->input_gradient)
        return leave(self, flight, GRADIENT_OUT, flight->input_gradient);
    return true;
}

/* --- gradients --- */

bool tr__device_accumulate(tr__stage *self, tr_buffer *into, const tr_buffer *from)
{
    tr_error error;
    return tr__device_good(self,
                           tr_update_accumulate(self->device->stream, self->pool, tr__floats(into),
                                                tr__floats(from), self->flat, &error),
                           &error);
}

tr_buffer *tr__take_host_flat(tr__stage *self)
{
    tr__device *d = self->device;
    if (d) d->host_flats.size_bytes = (size_t)self->flat * sizeof(float);
    tr_buffer *flat = tr__buffers_take(d ? &d->host_flats : &self->flats);
    if (!flat) {
        tr_error error;
        tr_fail(&error, TR_ENOMEM, "no memory for a gradient of %lld elements", (long long)self->flat);
        tr__stage_lacks_memory(self, &error);
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
        !tr__device_good(self, tr_stream_fill(self->device->stream, flat->data, 0, flat->size_bytes, &error),
                         &error))
        tr_buffer_release(&flat);
    if (flat || is_new) return flat;
    tr_fail(&error, TR_ENOMEM, "no memory on device '%s:%d' for a gradient of %lld elements",
            tr_device_kind_name(self->spec.device), self->spec.device_index, (long long)self->flat);
    tr__device_failed(self, &error);
    return NULL;
}

tr_buffer *tr__device_take_shard(tr__stage *self)
{
    self->device->shards.size_bytes = self->sum_flats.size_bytes;
    return tr__buffers_take(&self->device->shards);
}

/* Where every tensor is dealt out by itself what each replica sums comes to lie together (tr_shard_stretches). */
static bool block_to_host(tr__stage *self, float *to, const float *from)
{
    if (!tr_shard_is_even(&self->spec)) return copy(self, to, from, (size_t)self->flat * sizeof *to);
    for (uint32_t r = 0; r < self->spec.plan.n_replicas; r++) {
        tr_shard shard;
        tr_shard_begin(&shard, &self->spec, r);
        for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
            const tr__parameter *parameter = &self->parameters[i];
            tr_stretch part = tr_shard_next(&shard);
            int64_t n = tr__stage_aligned(part.end - part.begin);
            for (uint32_t u = 0; n > 0 && u < parameter->spec->n_uses; u++) {
                int64_t at = parameter->gradients[u];
                if (at < 0) continue;
                if (!copy(self, to, from + at + part.begin, (size_t)n * sizeof *to)) return false;
                to += n;
            }
        }
    }
    return true;
}

bool tr__device_blocks_to_host(tr__stage *self)
{
    tr_buffer *left[TR_MAX_BLOCKS] = {NULL};
    bool well = true;
    for (uint32_t b = 0; well && b < self->n_blocks; b++) {
        tr_buffer *host = tr__take_host_flat(self);
        well = host && block_to_host(self, tr__floats(host), tr__floats(self->blocks[b].memory));
        if (!host) break;
        left[b] = self->blocks[b].memory;
        self->blocks[b].memory = host;
    }
    well = well && tr__device_wait(self);
    for (uint32_t b = 0; b < TR_MAX_BLOCKS; b++) tr_buffer_release(&left[b]);
    return well;
}

bool tr__device_take_sum(tr__stage *self)
{
    self->sum = tr__device_take_flat(self);
    if (!self->sum) return false;
    if (!tr_shard_is_even(&self->spec))
        return copy(self, self->sum->data, self->reduced->data, self->reduced->size_bytes);
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        size_t bytes = (size_t)tr__part_elements(parameter) * sizeof(float);
        for (uint32_t u = 0; bytes > 0 && u < parameter->spec->n_uses; u++)
            if (parameter->sums[u] >= 0 && !copy(self, tr__floats(self->sum) + parameter->sums[u],
                                                 tr__floats(self->reduced) + parameter->reduced[u], bytes))
                return false;
    }
    return true;
}

bool tr__device_tied_to_host(tr__stage *self)
{
    self->reduced = tr__take_host_sum(self);
    if (!self->reduced) return false;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        size_t bytes = (size_t)tr__part_elements(parameter) * sizeof(float);
        for (uint32_t u = 0; parameter->shared && bytes > 0 && u < parameter->spec->n_uses; u++)
            if (parameter->sums[u] >= 0 && !copy(self, tr__floats(self->reduced) + parameter->reduced[u],
                                                 tr__floats(self->sum) + parameter->sums[u], bytes))
                return false;
    }
    return tr__device_wait(self);
}

static bool take_use(tr__stage *self, const tr_message *message, float *to, size_t size_bytes)
{
    TR_ASSERT(message);
    if (message->frame.flags & TR_FRAME_DESCRIPTOR) return tr__links_copy(self, message, to, size_bytes);
    return copy(self, to, tr_message_bytes(message), size_bytes);
}

/* One that came is copied to the device first; the stream keeps it there until it has been added. */
static bool add_use(tr__stage *self, const tr__parameter *parameter, uint32_t u)
{
    tr__device *d = self->device;
    int64_t at = parameter->sums[u], n = tr__part_elements(parameter);
    const float *use = at >= 0 ? tr__floats(self->sum) + at : d->visitor;
    size_t bytes = (size_t)n * sizeof(float);
    if (at < 0 &&
        !take_use(self, tr__tied_use(self, parameter, u), u == 0 ? parameter->total : d->visitor, bytes))
        return false;
    if (u == 0) return at < 0 || copy(self, parameter->total, use, bytes);
    tr_error error;
    return tr__device_good(
        self, tr_update_accumulate(d->stream, self->pool, parameter->total, use, n, &error), &error);
}

bool tr__device_tie(tr__stage *self)
{
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        bool ties = parameter->total && tr__part_elements(parameter) > 0;
        for (uint32_t u = 0; ties && u < parameter->spec->n_uses; u++)
            if (!add_use(self, parameter, u)) return false;
    }
    return self->n_tied_awaited == 0 || tr__device_wait(self); /* the messages go next */
}
