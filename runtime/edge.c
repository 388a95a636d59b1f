/* runtime/edge.c - see edge.h. Sequence numbers wrap; they are only ever compared by their difference.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/edge.h"

#include "base/memory.h"

#include <string.h>

/* Rings and windows are indexed by the low bits of numbers that wrap. */
static size_t power_of_two(uint32_t at_least)
{
    size_t size = 1;
    while (size < at_least) size *= 2;
    return size;
}

tr_status tr_sender_end_init(tr_sender_end *self, const tr_edge_spec *spec, tr_error *err)
{
    size_t size = power_of_two(spec->n_slots);
    *self = (tr_sender_end){.spec = spec, .mask_ = (uint32_t)size - 1, .returned_ = spec->n_slots};
    self->ring_ = tr_alloc(size * sizeof *self->ring_);
    self->out_ = tr_alloc_zero(spec->n_slots, sizeof *self->out_);
    if (!self->ring_ || !self->out_) {
        tr_sender_end_release(self);
        return tr_fail(err, TR_ENOMEM, "no memory for the %u slots of edge '%s'", spec->n_slots, spec->name);
    }
    for (uint32_t slot = 0; slot < spec->n_slots; slot++) self->ring_[slot] = (uint16_t)slot;
    return TR_OK;
}

void tr_sender_end_release(tr_sender_end *self)
{
    tr_free(self->ring_);
    tr_free(self->out_);
    *self = (tr_sender_end){0};
}

/* Relaxed, here and in tr_sender_end_take: that a slot is out comes before its message is sent, and its credit after that; a
 * repeated one finds another word, whenever it looks. */
static bool is_out_with(const tr_sender_end *self, tr_credit credit)
{
    return __atomic_load_n(&self->out_[credit.slot], __ATOMIC_RELAXED) == (TR__SLOT_OUT | credit.sequence);
}

static tr_credit credit_at(const tr_message *message, uint32_t i)
{
    tr_credit credit = {.sequence = message->frame.sequence, .slot = message->frame.slot};
    if (message->frame.body_bytes)
        memcpy(&credit, (const char *)tr_message_bytes(message) + i * sizeof credit, sizeof credit);
    return credit;
}

uint32_t tr_sender_end_credit_frame(tr_sender_end *self, const tr_message *message)
{
    uint32_t body_bytes = message->frame.body_bytes, n_given = 0;
    uint32_t count = body_bytes ? body_bytes / (uint32_t)sizeof(tr_credit) : 1;
    bool sound = body_bytes % sizeof(tr_credit) == 0 && count <= self->spec->n_slots;
    for (uint32_t i = 0; sound && i < count; i++) sound = credit_at(message, i).slot < self->spec->n_slots;
    if (!sound) {
        self->n_foreign++;
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        tr_credit credit = credit_at(message, i);
        if (!is_out_with(self, credit)) continue;
        __atomic_store_n(&self->out_[credit.slot], 0, __ATOMIC_RELAXED);
        tr_sender_end_give_back(self, credit.slot);
        n_given++;
    }
    if (!n_given) self->n_duplicates++;
    return n_given;
}

tr_status tr_receiver_end_init(tr_receiver_end *self, const tr_edge_spec *spec, bool remote, uint32_t epoch,
                               tr_error *err)
{
    size_t n = spec->n_slots, window = power_of_two(spec->n_slots);
    *self = (tr_receiver_end){.spec = spec, .remote = remote, .epoch = epoch, .mask_ = (uint32_t)window - 1};
    self->held_ = tr_alloc_zero(n, 1);
    bool complete = self->held_ != NULL;
    if (remote) {
        self->window_ = tr_alloc_zero(window, sizeof(void *));
        self->buffers_ = tr_alloc_zero(n, sizeof(void *));
        self->sequences_ = tr_alloc_zero(n, sizeof *self->sequences_);
        self->pending_ = tr_alloc_zero(n, sizeof *self->pending_);
        complete = complete && self->window_ && self->buffers_ && self->sequences_ && self->pending_;
    }
    if (complete) return TR_OK;
    tr_receiver_end_release(self);
    return tr_fail(err, TR_ENOMEM, "no memory for the %u slots of edge '%s'", spec->n_slots, spec->name);
}

void tr_receiver_end_release(tr_receiver_end *self)
{
    for (uint32_t i = 0; self->window_ && i <= self->mask_; i++) tr_message_destroy(&self->window_[i]);
    for (uint32_t i = 0; self->buffers_ && i < self->spec->n_slots; i++)
        tr_buffer_release(&self->buffers_[i]);
    tr_free(self->window_);
    tr_free(self->buffers_);
    tr_free(self->held_);
    tr_free(self->sequences_);
    tr_free(self->pending_);
    *self = (tr_receiver_end){0};
}

/* May this frame still come in? Counts why not. */
static bool admit(tr_receiver_end *self, const tr_frame *frame)
{
    uint32_t n_slots = self->spec->n_slots, ahead = frame->sequence - self->expected_;
    if (frame->epoch != self->epoch ||
        (self->incarnation_known_ && frame->incarnation >> 16 != self->incarnation_)) {
        self->n_stale++;
        return false;
    }
    if (frame->slot >= n_slots || frame->body_bytes > self->spec->slot_bytes ||
        frame->source != self->spec->source || frame->destination != self->spec->destination ||
        (ahead >= n_slots && ahead < UINT32_MAX / 2)) {
        self->n_foreign++;
        return false;
    }
    if (ahead >= n_slots || self->window_[frame->sequence & self->mask_]) {
        self->n_duplicates++;
        return false;
    }
    if (tr__held(self, frame->slot) != TR__NOT_HELD) { /* its sender did not have this slot */
        self->n_foreign++;
        return false;
    }
    return true;
}

tr_status tr_receiver_end_place(tr_receiver_end *self, const tr_frame *frame, tr_buffer **out)
{
    if (!admit(self, frame)) return TR_EREFUSED;
    tr_buffer **buffer = &self->buffers_[frame->slot];
    /* Somebody may have kept the body of the slot's last message, or a repeated
     * frame may be on its way into it. */
    if (*buffer && !tr_buffer_is_unique(*buffer)) tr_buffer_release(buffer);
    if (!*buffer && tr_buffer_new(buffer, self->spec->slot_bytes, NULL) != TR_OK) return TR_ENOMEM;
    *out = tr_buffer_retain(*buffer);
    return TR_OK;
}

/* The message that is expected, out of the window; NULL: it has not come. */
static tr_message *take_turn(tr_receiver_end *self)
{
    tr_message **place = &self->window_[self->expected_ & self->mask_], *turn = *place;
    *place = NULL;
    return turn;
}

tr_message *tr_receiver_end_accept(tr_receiver_end *self, tr_message **message)
{
    const tr_frame *frame = &(*message)->frame;
    if (!admit(self, frame)) {
        tr_message_destroy(message);
        return NULL;
    }
    self->incarnation_known_ = true;
    self->incarnation_ = frame->incarnation >> 16;
    if (frame->sequence != self->expected_) self->n_early++;
    self->window_[frame->sequence & self->mask_] = *message;
    *message = NULL;
    tr_message *first = NULL, **last = &first;
    for (tr_message *turn; (turn = take_turn(self)); self->expected_++) {
        if (tr__held(self, turn->frame.slot) != TR__NOT_HELD) { /* two that came early had the same slot */
            self->n_foreign++;
            tr_message_destroy(&turn);
            continue;
        }
        tr_receiver_end_hold(self, turn->frame.slot);
        self->sequences_[turn->frame.slot] = turn->frame.sequence;
        *last = turn;
        last = &turn->next;
    }
    *last = NULL;
    return first;
}

static void name_credit(tr_receiver_end *self, tr_message *message)
{
    message->frame.kind = TR_FRAME_CREDIT;
    message->frame.edge = self->spec->id;
    message->frame.epoch = self->epoch;
    message->frame.source = self->spec->destination;
    message->frame.destination = self->spec->source;
    message->frame.slot = self->pending_[0].slot;
    message->frame.sequence = self->pending_[0].sequence;
    self->n_pending = 0;
}

void tr_receiver_end_credit_fill(tr_receiver_end *self, tr_message *message)
{
    TR_ASSERT(self->n_pending == 1);
    name_credit(self, message);
}

tr_status tr_receiver_end_credit_frame(tr_receiver_end *self, tr_message **out, tr_error *err)
{
    TR_ASSERT(self->n_pending > 0);
    tr_message *message;
    tr_status status = self->n_pending == 1
                           ? tr_message_new(&message, NULL, 0, err)
                           : tr_message_copy(&message, self->pending_,
                                             self->n_pending * (uint32_t)sizeof *self->pending_, err);
    if (status != TR_OK) return status;
    name_credit(self, message);
    *out = message;
    return TR_OK;
}
