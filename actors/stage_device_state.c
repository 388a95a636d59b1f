/* actors/stage_device_state.c - see stage_device.h: the state on a device, from a slot at the beginning, updated at the end of a step
 * and copied to the other slot beside the next one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_device_internal.h"

#include "actors/stage_zero.h"
#include "base/log.h"

#include <string.h>

/* --- the end of a step --- */

static tr_status make_update(tr__stage *self, tr_error *err)
{
    tr__device *d = self->device;
    uint32_t n = 0;
    tr_update_tensor *tensors = tr_alloc_zero(self->spec.n_parameters + 1, sizeof *tensors);
    if (!tensors) return tr_fail(err, TR_ENOMEM, "no memory for a table of tensors");
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        float *at = d->state + parameter->offset;
        tr_bf16 *rounded = parameter->rounded;
        if (tr__part_elements(parameter) == 0) continue;
        tensors[n++] = (tr_update_tensor){
            .p = at,
            .m = at + self->slot_elements,
            .v = at + 2 * self->slot_elements,
            .rounded = rounded ? rounded + parameter->part.begin : NULL,
            .gradient = parameter->total,
            .gradient_offset = parameter->total ? 0 : parameter->sums[0],
            .n = tr__part_elements(parameter),
            .weight_decay = parameter->spec->decayed ? self->spec.optimizer.weight_decay : 0};
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
        status = tr_update_round(
            self->device->stream, self->pool, self->device->state + self->parameters[i].offset,
            at + self->parameters[i].part.begin, tr__part_elements(&self->parameters[i]), err);
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
    if (!status && self->zero) return tr__zero_bind(self, d->state, err);
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
    if (!tr__device_good(self, tr_update_square_sums(d->update, tr__floats(self->sum), d->sums, &error),
                         &error) ||
        !tr__device_wait(self))
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
    tr_status status = options ? tr_update_apply(d->update, tr__floats(self->sum), options, &error) : TR_OK;
    if (status || into == TR__NO_SLOT) return tr__device_good(self, status, &error);
    if (!status) status = tr_event_record(d->updated, d->stream, &error);
    if (!status) status = tr_stream_wait(d->copier, d->updated, &error);
    if (!status)
        status =
            tr_stream_copy(d->copier, tr_actor_slot(self->actor, into), d->state, slot_bytes(self), &error);
    if (!status) status = tr_event_record(d->copied, d->copier, &error);
    d->copying = !status;
    return tr__device_good(self, status, &error);
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
    if (!tr__device_good(self, tr_event_await(self->device->copied, &error), &error)) return false;
    self->device->copying = false;
    return true;
}
