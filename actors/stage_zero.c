/* actors/stage_zero.c - see stage_zero.h. After an update a replica has the new parameters of its shard, in its slot. It sends them to
 * the other replicas, in the form in which the stage computes with them, and takes theirs: an all-gather by messages. What is
 * gathered lies beside the slots, one copy of each parameter; one is enough, for all micro-batches of a step are done when its
 * update begins. Behind a change of epoch it is the same, from the slots of the generation that all hold: so nothing of a replica
 * but its slot is needed to go on.
 * Devices that hand memory to each other (stage_collect.h) do so with parameters, too: nothing is sent before it is known whether they
 * will, so that all choose the same way.
 * What is gathered is a function of the slots, hence of the step; who sends first changes nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_zero.h"

#include "actors/roles.h"
#include "actors/stage_collect.h"
#include "actors/stage_device.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "base/memory.h"

#include <string.h>

typedef enum zero_state { WHOLE, TO_SEND, AWAITING, EXCHANGING } zero_state;

struct tr__zero {
    zero_state state;
    uint32_t *out;     /* edges by replica */
    tr__buffers parts; /* of own messages */
    tr_transfer *transfers;
    float *values;      /* memory of what is not rounded; a device's goes with it */
    const float *apart; /* the state that is computed with; NULL: the newest slot */
};

static bool is_other(const tr__stage *self, uint32_t replica)
{
    return replica != self->spec.replica;
}

tr_status tr__zero_init(tr__stage *self, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    const tr_topology *topology = tr_actor_topology(self->actor);
    if (!spec->plan.zero) return TR_OK;
    tr__zero *zero = self->zero = tr_alloc_zero(1, sizeof *zero);
    if (zero) zero->out = tr_alloc(spec->plan.n_replicas * sizeof *zero->out);
    size_t n_transfers = (size_t)spec->n_parameters * 2 * spec->plan.n_replicas;
    if (zero && self->device) zero->transfers = tr_alloc_zero(n_transfers, sizeof *zero->transfers);
    if (!zero || !zero->out || (self->device && !zero->transfers))
        return tr_fail(err, TR_ENOMEM, "no memory for the shards of %u replicas", spec->plan.n_replicas);
    for (uint32_t r = 0; r < spec->plan.n_replicas; r++)
        zero->out[r] =
            tr_edge_out(self->actor, TR_EDGE_PARAMETERS, tr_role_find_stage(topology, r, spec->stage));
    zero->parts.size_bytes = (size_t)tr_shard_message_bytes(spec, spec->replica) + TR_CACHE_LINE;
    return TR_OK;
}

void tr__zero_release(tr__stage *self)
{
    tr__zero *zero = self->zero;
    if (!zero) return;
    tr__buffers_release(&zero->parts);
    if (!self->device) tr_free(zero->values);
    tr_free(zero->transfers);
    tr_free(zero->out);
    tr_free(zero);
    self->zero = NULL;
}

static tr_status whole_memory(tr__stage *self, size_t size_bytes, float **out, tr_error *err)
{
    void *memory = NULL;
    if (self->device) {
        self->zero->parts.device = tr_stream_device(tr__device_stream(self));
        self->zero->parts.kind = TR_MEMORY_PINNED;
        tr_status status = tr__device_memory(self, TR_MEMORY_DEVICE, size_bytes, &memory, err);
        if (status) return status;
    } else if (!(memory = tr_alloc_aligned(TR_CACHE_LINE, size_bytes))) {
        return tr_fail(err, TR_ENOMEM, "no memory for %zu bytes of parameters", size_bytes);
    }
    *out = self->zero->values = memory;
    return TR_OK;
}

tr_status tr__zero_bind(tr__stage *self, const float *apart, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    uint64_t bytes = tr_shard_whole_bytes(spec);
    float *at = NULL;
    tr_status status = whole_memory(self, (size_t)bytes + TR_CACHE_LINE, &at, err);
    if (status) return status;
    self->zero->apart = apart;
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        tr__parameter *parameter = &self->parameters[i];
        if (!parameter->rounded) {
            parameter->value = at;
            at += tr__stage_aligned(spec->parameters[i].n_elements);
        }
        self->bound[spec->parameters[i].value] =
            parameter->rounded ? (void *)parameter->rounded : (void *)parameter->value;
    }
    return TR_OK;
}

/* --- all from all --- */

void tr__zero_begin(tr__stage *self)
{
    if (self->zero) self->zero->state = TO_SEND;
}

bool tr__zero_is_whole(const tr__stage *self)
{
    return !self->zero || self->zero->state == WHOLE;
}

bool tr__zero_awaits(const tr__stage *self)
{
    return self->zero && self->zero->state == AWAITING;
}

static uint32_t count_arrived(const tr__stage *self)
{
    uint32_t n = 0;
    for (const tr_message *message = self->updated.head; message; message = message->next)
        n += message->frame.step == self->step;
    return n;
}

/* The others gave back what was sent before the last commit; that it came does not mean that the credits have. */
static bool may_send(const tr__stage *self)
{
    for (uint32_t r = 0; r < self->spec.plan.n_replicas; r++)
        if (is_other(self, r) && tr_edge_credits(self->actor, self->zero->out[r]) == 0) return false;
    return true;
}

bool tr__zero_is_possible(const tr__stage *self)
{
    if (tr__zero_is_whole(self)) return false;
    if (self->zero->state == EXCHANGING) return tr__collect_is_done(self);
    if (self->zero->state == TO_SEND)
        return !tr__collect_is_deciding(self) && (tr__collect_is_used(self) || may_send(self));
    return count_arrived(self) + 1 == self->spec.plan.n_replicas;
}

static void *place_of(const tr__parameter *parameter, tr_stretch part)
{
    return parameter->rounded ? (void *)(parameter->rounded + part.begin)
                              : (void *)(parameter->value + part.begin);
}

/* Within the memory that the stage computes in, or between that and a message. */
static tr_status move(tr__stage *self, void *to, const void *from, size_t size_bytes, tr_error *err)
{
    if (self->device) return tr_stream_copy(tr__device_stream(self), to, from, size_bytes, err);
    memcpy(to, from, size_bytes);
    return TR_OK;
}

/* All of it is there. false: the device has failed. */
static bool settle(tr__stage *self, tr_status status, tr_error *error)
{
    if (!status && self->device) status = tr_stream_synchronize(tr__device_stream(self), error);
    if (status) tr__device_failed(self, error);
    return status == TR_OK;
}

/* The own part: rounded by the update already, or copied from the state. */
static tr_status fill_own(tr__stage *self, const tr__parameter *parameter, tr_error *err)
{
    if (!parameter->value) return TR_OK;
    const float *state = self->zero->apart ? self->zero->apart : tr__stage_part(self, self->slot, 0);
    return move(self, parameter->value + parameter->part.begin, state + parameter->offset,
                (size_t)tr__part_elements(parameter) * sizeof *state, err);
}

static bool pack_own(tr__stage *self, char *at)
{
    tr_error error;
    tr_status status = TR_OK;
    for (uint32_t i = 0; !status && i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        int64_t n = tr__part_elements(parameter);
        uint64_t bytes = tr__shard_bytes(&self->spec, i, n);
        size_t each = parameter->rounded ? sizeof(tr_bf16) : sizeof(float);
        if (n == 0) continue;
        memset(at + (size_t)n * each, 0,
               (size_t)bytes - (size_t)n * each); /* it is sent, so it is something */
        status = fill_own(self, parameter, &error);
        if (!status) status = move(self, at, place_of(parameter, parameter->part), (size_t)n * each, &error);
        at += bytes;
    }
    return settle(self, status, &error);
}

static void add(tr__stage *self, size_t *n, uint32_t peer, bool sends, const tr__parameter *parameter,
                tr_stretch part)
{
    size_t each = parameter->rounded ? sizeof(tr_bf16) : sizeof(float);
    if (part.end > part.begin)
        self->zero->transfers[(*n)++] =
            (tr_transfer){peer, sends, place_of(parameter, part), (size_t)(part.end - part.begin) * each};
}

/* From device to device; of two of them both have the same tensors in the same order. */
static bool exchange_all(tr__stage *self)
{
    const tr_stage_spec *spec = &self->spec;
    tr_error error;
    tr_status status = TR_OK;
    size_t n = 0;
    for (uint32_t i = 0; !status && i < spec->n_parameters; i++)
        if (tr__part_elements(&self->parameters[i]) > 0)
            status = fill_own(self, &self->parameters[i], &error);
    for (uint32_t r = 0; r < spec->plan.n_replicas; r++) {
        tr_shard shard;
        tr_shard_begin(&shard, spec, r);
        for (uint32_t i = 0; is_other(self, r) && i < spec->n_parameters; i++) {
            const tr__parameter *parameter = &self->parameters[i];
            add(self, &n, r, true, parameter, parameter->part);
            add(self, &n, r, false, parameter, tr_shard_next(&shard));
        }
    }
    if (status) tr__device_failed(self, &error);
    self->zero->state = EXCHANGING;
    tr_actor_activity(self->actor, "gathering parameters", self->step, TR_ACTIVITY_NONE);
    return !status && tr__collect_share(self, self->zero->transfers, n);
}

static bool end_exchange(tr__stage *self)
{
    tr__collect_end_sharing(self);
    self->zero->state = WHOLE;
    tr_actor_activity(self->actor, "waiting", self->step, TR_ACTIVITY_NONE);
    return true;
}

static bool send_own(tr__stage *self)
{
    const tr_stage_spec *spec = &self->spec;
    tr__zero *zero = self->zero;
    tr_buffer *body = tr__buffers_take(&zero->parts);
    if (!body) {
        tr__fail_for_memory(self);
        return false;
    }
    tr_actor_activity(self->actor, "sending parameters", self->step, TR_ACTIVITY_NONE);
    bool well = pack_own(self, body->data);
    uint32_t size = (uint32_t)tr_shard_message_bytes(spec, spec->replica);
    for (uint32_t r = 0; well && r < spec->plan.n_replicas; r++)
        if (is_other(self, r))
            tr_edge_send(self->actor, zero->out[r], size ? tr_buffer_retain(body) : NULL, size, self->step,
                         spec->replica, 0);
    tr_buffer_release(&body);
    zero->state = AWAITING;
    return well;
}

static tr_status take(tr__stage *self, const tr_message *message, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    uint32_t from = message->frame.microbatch;
    TR_ASSERT(from < spec->plan.n_replicas && is_other(self, from));
    TR_ASSERT(message->frame.body_bytes == tr_shard_message_bytes(spec, from));
    const char *at = tr_message_bytes(message);
    tr_status status = TR_OK;
    tr_shard shard;
    tr_shard_begin(&shard, spec, from);
    for (uint32_t i = 0; !status && i < spec->n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        tr_stretch part = tr_shard_next(&shard);
        int64_t n = part.end - part.begin;
        size_t each = parameter->rounded ? sizeof(tr_bf16) : sizeof(float);
        TR_ASSERT(n == 0 || at);
        if (n > 0) status = move(self, place_of(parameter, part), at, (size_t)n * each, err);
        at += tr__shard_bytes(spec, i, n);
    }
    return status;
}

static bool take_others(tr__stage *self)
{
    tr_message_queue kept = {0};
    tr_error error;
    tr_status status = TR_OK;
    tr_actor_activity(self->actor, "gathering parameters", self->step, TR_ACTIVITY_NONE);
    for (const tr_message *message = self->updated.head; !status && message; message = message->next)
        if (message->frame.step == self->step) status = take(self, message, &error);
    if (!settle(self, status, &error)) return false;
    for (tr_message *message; (message = tr_message_queue_pop(&self->updated));) {
        if (message->frame.step == self->step)
            tr_edge_release(self->actor, &message);
        else
            tr_message_queue_push(&kept, message);
    }
    self->updated = kept;
    self->zero->state = WHOLE;
    tr_actor_activity(self->actor, "waiting", self->step, TR_ACTIVITY_NONE);
    return true;
}

bool tr__zero_advance(tr__stage *self)
{
    uint64_t begin = tr_trace_begin(&self->trace), began_ns = tr_clock_ns();
    bool sends = self->zero->state == TO_SEND, well;
    if (sends)
        well = tr__collect_is_used(self) ? exchange_all(self) : send_own(self);
    else
        well = self->zero->state == EXCHANGING ? end_exchange(self) : take_others(self);
    if (!well) return false;
    self->busy_ns += tr_clock_ns() - began_ns;
    tr_trace_end(&self->trace, sends ? TR_SPAN_SENDING : TR_SPAN_UPDATE, begin, self->step, 0);
    return true;
}
