/* actors/monitor.c - see monitor.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/monitor.h"

#include "actors/choices.h"
#include "actors/topics.h"
#include "base/memory.h"

enum { TICK_MS = 1000 };

typedef struct monitor {
    const tr_monitor_context *known;
    uint32_t recorded;    /* step of the latest record; 0: none in this life */
    uint32_t awaited;     /* a checkpoint waits for the record of this step; 0: none does */
    tr_actor_id awaiting; /* who asked */
    tr__choices_desk choices;
} monitor;

void tr_step_record_pack(tr_packer *packer, const tr_step_record *record)
{
    tr_packer_init(packer);
    tr_pack_array(packer, 11);
    tr_pack_uint(packer, record->step);
    tr_pack_f64(packer, record->loss);
    tr_pack_f64(packer, record->grad_norm);
    tr_pack_f64(packer, record->lr);
    tr_pack_uint(packer, record->tokens);
    tr_pack_f64(packer, record->step_ms);
    tr_pack_f64(packer, record->tokens_per_s);
    tr_pack_f64(packer, record->stall);
    tr_pack_uint(packer, record->epoch);
    tr_pack_uint(packer, record->has_validation);
    tr_pack_f64(packer, record->validation_loss);
}

bool tr_step_record_unpack(tr_unpacker *body, tr_step_record *record)
{
    record->step = (uint32_t)tr_unpack_uint(body, UINT32_MAX);
    record->loss = tr_unpack_f64(body);
    record->grad_norm = tr_unpack_f64(body);
    record->lr = tr_unpack_f64(body);
    record->tokens = tr_unpack_uint(body, UINT64_MAX);
    record->step_ms = tr_unpack_f64(body);
    record->tokens_per_s = tr_unpack_f64(body);
    record->stall = tr_unpack_f64(body);
    record->epoch = (uint32_t)tr_unpack_uint(body, UINT32_MAX);
    record->has_validation = tr_unpack_uint(body, UINT64_MAX) != 0;
    record->validation_loss = tr_unpack_f64(body);
    return tr_unpacker_done(body, "control message", NULL) == TR_OK;
}

static tr_status monitor_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                              void **state, tr_error *err)
{
    (void)actor, (void)config, (void)config_bytes;
    monitor *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for the monitor");
    self->known = context;
    *state = self;
    return TR_OK;
}

static void monitor_start(tr_actor *actor, void *state)
{
    (void)state;
    tr_actor_timer(actor, TICK_MS, 0);
}

/* --- what arrives; false: it does not read as it should --- */

static void answer(tr_actor *actor, tr_actor_id to, uint32_t topic, uint32_t step)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 0);
    tr_send_packed(actor, to, topic, step, &packer);
}

static void answer_when_recorded(monitor *self, tr_actor *actor)
{
    if (self->awaited == 0 || self->recorded < self->awaited) return;
    if (self->known->sync) self->known->sync(self->known->context);
    answer(actor, self->awaiting, TR_TOPIC_SYNCED, self->awaited);
    self->awaited = 0;
}

static bool take_record(monitor *self, tr_actor *actor, tr_actor_id coordinator, tr_unpacker *body)
{
    tr_step_record record;
    tr_error error;
    if (!tr_step_record_unpack(body, &record)) return false;
    if (self->known->record(self->known->context, &record, &error)) {
        tr_actor_fail(actor, &error);
        return true;
    }
    self->recorded = record.step;
    answer(actor, coordinator, TR_TOPIC_RECORDED, record.step);
    answer_when_recorded(self, actor);
    return true;
}

static bool take_sync(monitor *self, tr_actor *actor, const tr_frame *frame, tr_unpacker *body)
{
    if (tr_unpacker_done(body, "control message", NULL) || self->awaited || frame->step == 0) return false;
    self->awaited = frame->step;
    self->awaiting = frame->source;
    answer_when_recorded(self, actor);
    return true;
}

static bool take_note(const monitor *self, tr_unpacker *body)
{
    char kind[64], text[1024];
    tr_unpack_text(body, kind, sizeof kind);
    tr_unpack_text(body, text, sizeof text);
    if (tr_unpacker_done(body, "control message", NULL)) return false;
    self->known->note(self->known->context, kind, text);
    return true;
}

static bool take_trace(const monitor *self, tr_actor *actor, tr_actor_id who, uint32_t n_fields,
                       tr_unpacker *body)
{
    tr_span spans[TR_TRACE_FRAME_SPANS];
    uint32_t n_spans;
    uint64_t n_dropped;
    if (!tr_trace_unpack(body, n_fields, spans, &n_spans, &n_dropped)) return false;
    if (self->known->trace) self->known->trace(self->known->context, who, spans, n_spans, n_dropped);
    tr_actor_send(actor, who, TR_TOPIC_TRACED, 0, NULL, 0);
    return true;
}

static bool take_finish(tr_actor *actor, tr_unpacker *body)
{
    char why[TR_ERROR_SIZE];
    tr_error error;
    tr_unpack_text(body, why, sizeof why);
    if (tr_unpacker_done(body, "control message", NULL)) return false;
    if (!why[0]) {
        tr_actor_finish_job(actor);
        return true;
    }
    tr_fail(&error, TR_EIO, "%s", why);
    tr_actor_fail_job(actor, &error);
    return true;
}

static void monitor_receive(tr_actor *actor, void *state, tr_message **message)
{
    monitor *self = state;
    const tr_frame *frame = &(*message)->frame;
    if (frame->edge == TR_TOPIC_TIMER) {
        self->known->tick(self->known->context);
        tr_actor_timer(actor, TICK_MS, 0);
        return;
    }
    tr_unpacker body;
    tr_unpacker_init(&body, tr_message_bytes(*message), frame->body_bytes);
    uint32_t n_fields = tr_unpack_array(&body, UINT32_MAX);
    bool good = false;
    switch (frame->edge) {
    case TR_TOPIC_RECORD: good = take_record(self, actor, frame->source, &body); break;
    case TR_TOPIC_SYNC: good = take_sync(self, actor, frame, &body); break;
    case TR_TOPIC_NOTE: good = take_note(self, &body); break;
    case TR_TOPIC_TRACE: good = take_trace(self, actor, frame->source, n_fields, &body); break;
    case TR_TOPIC_CHOICES:
        good = tr__choices_receive(&self->choices, actor, self->known, frame->source, &body);
        break;
    case TR_TOPIC_FINISH: good = take_finish(actor, &body); break;
    default: break;
    }
    if (!good) tr_fail_for_topic(actor, *message);
}

static void monitor_stop(tr_actor *actor, void *state)
{
    (void)actor;
    monitor *self = state;
    if (self) tr__choices_release(&self->choices);
    tr_free(self); /* the context is the job's */
}

const tr_behavior tr_monitor_behavior = {.name = "monitor",
                                         .init = monitor_init,
                                         .start = monitor_start,
                                         .receive = monitor_receive,
                                         .stop = monitor_stop};
