/* actors/stage_memory.c - the memory that a stage works in: buffers of messages that are used again, places for micro-batches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/replay.h"
#include "actors/stage_device.h"

#include "base/memory.h"

tr_buffer *tr__buffers_take(tr__buffers *self)
{
    for (size_t i = 0; i < self->n; i++)
        if (tr_buffer_is_unique(self->all[i])) return tr_buffer_retain(self->all[i]);
    void *array = self->all;
    if (tr_array_reserve(&array, &self->capacity, self->n + 1, sizeof *self->all, NULL)) return NULL;
    self->all = array;
    tr_buffer *fresh;
    if (self->device ? tr_device_buffer_new(self->device, self->kind, self->size_bytes, &fresh, NULL)
                     : tr_buffer_new(&fresh, self->size_bytes, NULL))
        return NULL;
    self->all[self->n++] = fresh;
    return tr_buffer_retain(fresh);
}

void tr__buffers_release(tr__buffers *self)
{
    for (size_t i = 0; i < self->n; i++) tr_buffer_release(&self->all[i]);
    tr_free(self->all);
    *self = (tr__buffers){0};
}

void tr__fail_for_memory(tr__stage *self)
{
    tr_error error;
    tr_fail(&error, TR_ENOMEM, "no memory for a message's buffer");
    tr__stage_lacks_memory(self, &error);
}

void tr__release_message(tr__stage *self, tr_message **message)
{
    bool is_old = *message && (*message)->frame.epoch != tr_actor_epoch(self->actor);
    if (is_old)
        tr_message_destroy(message); /* its slot was of another edge */
    else
        tr_edge_release(self->actor, message);
}

static tr_status no_memory_for_work(const tr__stage *self, tr_error *err)
{
    return tr_fail(err, TR_ENOMEM, "no memory for %u micro-batches of %zu bytes in flight",
                   self->spec.stash_credits, tr_program_stash_bytes(self->program));
}

/* In the host's memory, where it computes there. */
static tr_status allocate_work(tr__stage *self, tr_error *err)
{
    self->scratch = tr_alloc_aligned(4096, tr_program_scratch_bytes(self->program));
    bool good = self->scratch != NULL;
    for (uint32_t i = 0; good && i < self->n_flights && !tr__replay_has_work(self); i++) {
        self->flights[i].stash = tr_alloc_aligned(4096, tr_program_stash_bytes(self->program));
        good = self->flights[i].stash != NULL;
    }
    return good ? TR_OK : no_memory_for_work(self, err);
}

tr_status tr__stage_allocate(tr__stage *self, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    uint32_t n_values = (uint32_t)tr_graph_value_count(spec->graph);
    self->bound = tr_alloc_zero(n_values, sizeof *self->bound);
    if (!tr__replay_has_work(self)) {
        self->n_flights = spec->stash_credits + (self->replay ? 1 : 0);
        self->flights = tr_alloc_zero(self->n_flights, sizeof *self->flights);
        self->losses = tr_alloc_zero(self->microbatches.end - self->microbatches.begin, sizeof *self->losses);
    }
    self->ring = tr_plan_steps_ahead(&spec->plan);
    self->tokens = tr_alloc_zero(self->ring, sizeof *self->tokens);
    if (!self->tokens || !self->bound || !self->flights || !self->losses)
        return no_memory_for_work(self, err);
    tr_status status = self->device ? tr__device_allocate_work(self, err) : allocate_work(self, err);
    if (status) return status;
    self->activations.size_bytes = tr__value_bytes(spec->graph, spec->activation_out);
    self->input_gradients.size_bytes = tr__value_bytes(spec->graph, spec->gradient_out);
    self->chunks.size_bytes = TR_STATE_CHUNK_BYTES;
    return TR_OK;
}
