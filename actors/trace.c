/* actors/trace.c - see trace.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/trace.h"

#include "actors/roles.h"
#include "actors/topics.h"
#include "base/memory.h"

enum { SPAN_FIELDS = 5 };

const char *tr_span_name(tr_span_kind kind)
{
    static const char *const names[TR_SPAN_KINDS] = {
        [TR_SPAN_FORWARD] = "forward",        [TR_SPAN_BACKWARD] = "backward",
        [TR_SPAN_WEIGHT] = "weight gradient", [TR_SPAN_EVALUATION] = "evaluation",
        [TR_SPAN_REDUCE] = "reduce",          [TR_SPAN_UPDATE] = "update",
        [TR_SPAN_SENDING] = "sending",        [TR_SPAN_READING] = "reading",
        [TR_SPAN_SAVING] = "saving",          [TR_SPAN_AUDIT] = "audit"};
    return names[kind];
}

tr_status tr_trace_init(tr_trace *self, tr_actor *actor, bool on, tr_error *err)
{
    *self = (tr_trace){.actor_ = actor};
    if (!on) return TR_OK;
    self->monitor_ = tr_role_find(tr_actor_topology(actor), TR_ROLE_MONITOR);
    self->spans_ = tr_alloc(TR_TRACE_SPANS * sizeof *self->spans_);
    if (!self->spans_) return tr_fail(err, TR_ENOMEM, "no memory for a trace of %d spans", TR_TRACE_SPANS);
    self->on = true;
    return TR_OK;
}

void tr_trace_release(tr_trace *self)
{
    tr_free(self->spans_);
    *self = (tr_trace){0};
}

static void send_frame(tr_trace *self)
{
    uint32_t n = self->n_ < TR_TRACE_FRAME_SPANS ? self->n_ : TR_TRACE_FRAME_SPANS;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 1 + SPAN_FIELDS * (size_t)n);
    tr_pack_uint(&packer, self->n_dropped);
    for (uint32_t i = 0; i < n; i++) {
        const tr_span *span = &self->spans_[(self->first_ + i) % TR_TRACE_SPANS];
        tr_pack_uint(&packer, (uint64_t)span->kind);
        tr_pack_uint(&packer, span->step);
        tr_pack_uint(&packer, span->microbatch);
        tr_pack_uint(&packer, span->begin_ns);
        tr_pack_uint(&packer, span->end_ns - span->begin_ns);
    }
    self->first_ = (self->first_ + n) % TR_TRACE_SPANS;
    self->n_ -= n;
    self->n_under_way_++;
    tr_send_packed(self->actor_, self->monitor_, TR_TOPIC_TRACE, 0, &packer);
}

static void send_frames(tr_trace *self, uint32_t least)
{
    while (self->n_ >= least && self->n_under_way_ < TR_TRACE_FRAMES_UNDER_WAY) send_frame(self);
}

void tr__trace_add(tr_trace *self, const tr_span *span)
{
    if (self->n_ == TR_TRACE_SPANS) {
        self->n_dropped++;
        return;
    }
    self->spans_[(self->first_ + self->n_++) % TR_TRACE_SPANS] = *span;
    send_frames(self, self->eager ? 1 : TR_TRACE_FRAME_SPANS);
}

void tr_trace_ship(tr_trace *self)
{
    if (!self->on) return;
    send_frames(self, 1);
    self->behind_ = self->n_ > 0;
}

void tr_trace_answered(tr_trace *self)
{
    if (self->n_under_way_ > 0) self->n_under_way_--;
    send_frames(self, self->behind_ || self->eager ? 1 : TR_TRACE_FRAME_SPANS);
    if (self->n_ == 0) self->behind_ = false;
}

bool tr_trace_unpack(tr_unpacker *body, uint32_t n_fields, tr_span spans[TR_TRACE_FRAME_SPANS],
                     uint32_t *n_spans, uint64_t *n_dropped)
{
    uint32_t n = n_fields / SPAN_FIELDS;
    if (n_fields % SPAN_FIELDS != 1 || n > TR_TRACE_FRAME_SPANS) return false;
    *n_dropped = tr_unpack_uint(body, UINT64_MAX);
    for (uint32_t i = 0; i < n; i++) {
        spans[i].kind = (tr_span_kind)tr_unpack_uint(body, TR_SPAN_KINDS - 1);
        spans[i].step = (uint32_t)tr_unpack_uint(body, UINT32_MAX);
        spans[i].microbatch = (uint32_t)tr_unpack_uint(body, UINT32_MAX);
        spans[i].begin_ns = tr_unpack_uint(body, INT64_MAX);
        spans[i].end_ns = spans[i].begin_ns + tr_unpack_uint(body, INT64_MAX);
    }
    *n_spans = n;
    return tr_unpacker_done(body, "trace", NULL) == TR_OK;
}
