/* actors/monitor.c - see monitor.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/monitor.h"

#include "actors/topics.h"

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
    record->step = (uint32_t)tr_unpack_uint(body, UINT64_MAX);
    record->loss = tr_unpack_f64(body);
    record->grad_norm = tr_unpack_f64(body);
    record->lr = tr_unpack_f64(body);
    record->tokens = tr_unpack_uint(body, UINT64_MAX);
    record->step_ms = tr_unpack_f64(body);
    record->tokens_per_s = tr_unpack_f64(body);
    record->stall = tr_unpack_f64(body);
    record->epoch = (uint32_t)tr_unpack_uint(body, UINT64_MAX);
    record->has_validation = tr_unpack_uint(body, UINT64_MAX) != 0;
    record->validation_loss = tr_unpack_f64(body);
    return tr_unpacker_done(body, "control message", NULL) == TR_OK;
}

static tr_status monitor_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                              void **state, tr_error *err)
{
    (void)actor, (void)config, (void)config_bytes, (void)err;
    *state = context;
    return TR_OK;
}

enum { TICK_MS = 1000 };

static bool take_trace(tr_actor *actor, const tr_monitor_context *self, tr_actor_id who, uint32_t n_fields,
                       tr_unpacker *body)
{
    tr_span spans[TR_TRACE_FRAME_SPANS];
    uint32_t n_spans;
    uint64_t n_dropped;
    if (!tr_trace_unpack(body, n_fields, spans, &n_spans, &n_dropped)) return false;
    if (self->trace) self->trace(self->context, who, spans, n_spans, n_dropped);
    tr_actor_send(actor, who, TR_TOPIC_TRACED, 0, NULL, 0);
    return true;
}

static void monitor_start(tr_actor *actor, void *state)
{
    (void)state;
    tr_actor_timer(actor, TICK_MS, 0);
}

static void monitor_receive(tr_actor *actor, void *state, tr_message **message)
{
    const tr_monitor_context *self = state;
    const tr_frame *frame = &(*message)->frame;
    if (frame->edge == TR_TOPIC_TIMER) {
        self->tick(self->context);
        tr_actor_timer(actor, TICK_MS, 0);
        return;
    }
    tr_unpacker body;
    tr_unpacker_init(&body, tr_message_bytes(*message), frame->body_bytes);
    uint32_t n_fields = tr_unpack_array(&body, UINT32_MAX);
    tr_error error;
    if (frame->edge == TR_TOPIC_RECORD) {
        tr_step_record record;
        if (!tr_step_record_unpack(&body, &record))
            tr_fail_for_topic(actor, *message);
        else if (self->record(self->context, &record, &error))
            tr_actor_fail(actor, &error);
    } else if (frame->edge == TR_TOPIC_NOTE) {
        char kind[64], text[1024];
        tr_unpack_text(&body, kind, sizeof kind);
        tr_unpack_text(&body, text, sizeof text);
        if (tr_unpacker_done(&body, "control message", NULL) == TR_OK)
            self->note(self->context, kind, text);
        else
            tr_fail_for_topic(actor, *message);
    } else if (frame->edge == TR_TOPIC_TRACE) {
        if (!take_trace(actor, self, frame->source, n_fields, &body)) tr_fail_for_topic(actor, *message);
    } else if (frame->edge == TR_TOPIC_FINISH) {
        char why[TR_ERROR_SIZE];
        tr_unpack_text(&body, why, sizeof why);
        if (tr_unpacker_done(&body, "control message", NULL) != TR_OK) {
            tr_fail_for_topic(actor, *message);
        } else if (why[0]) {
            tr_fail(&error, TR_EIO, "%s", why);
            tr_actor_fail_job(actor, &error);
        } else {
            tr_actor_finish_job(actor);
        }
    } else {
        tr_fail_for_topic(actor, *message);
    }
}

static void monitor_stop(tr_actor *actor, void *state)
{
    (void)actor, (void)state; /* the context is the job's */
}

const tr_behavior tr_monitor_behavior = {.name = "monitor",
                                         .init = monitor_init,
                                         .start = monitor_start,
                                         .receive = monitor_receive,
                                         .stop = monitor_stop};
