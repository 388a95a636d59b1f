/* actors/monitor.c - see monitor.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/monitor.h"

#include "actors/topics.h"

void tr_step_record_pack(tr_packer *packer, const tr_step_record *record)
{
    tr_pack_begin(packer, 11);
    tr_pack_u64(packer, record->step);
    tr_pack_f64(packer, record->loss);
    tr_pack_f64(packer, record->grad_norm);
    tr_pack_f64(packer, record->lr);
    tr_pack_u64(packer, record->tokens);
    tr_pack_f64(packer, record->step_ms);
    tr_pack_f64(packer, record->tokens_per_s);
    tr_pack_f64(packer, record->stall);
    tr_pack_u64(packer, record->epoch);
    tr_pack_u64(packer, record->has_validation);
    tr_pack_f64(packer, record->validation_loss);
}

bool tr_step_record_unpack(tr_unpacker *body, tr_step_record *record)
{
    record->step = (uint32_t)tr_unpack_u64(body);
    record->loss = tr_unpack_f64(body);
    record->grad_norm = tr_unpack_f64(body);
    record->lr = tr_unpack_f64(body);
    record->tokens = tr_unpack_u64(body);
    record->step_ms = tr_unpack_f64(body);
    record->tokens_per_s = tr_unpack_f64(body);
    record->stall = tr_unpack_f64(body);
    record->epoch = (uint32_t)tr_unpack_u64(body);
    record->has_validation = tr_unpack_u64(body) != 0;
    record->validation_loss = tr_unpack_f64(body);
    return tr_unpack_done(body);
}

static tr_status monitor_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                              void **state, tr_error *err)
{
    (void)actor, (void)config, (void)config_bytes, (void)err;
    *state = context;
    return TR_OK;
}

static void monitor_receive(tr_actor *actor, void *state, tr_message **message)
{
    const tr_monitor_context *self = state;
    const tr_frame *frame = &(*message)->frame;
    tr_unpacker body;
    tr_unpack_begin(&body, tr_message_bytes(*message), frame->body_bytes);
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
        if (tr_unpack_done(&body))
            self->note(self->context, kind, text);
        else
            tr_fail_for_topic(actor, *message);
    } else {
        tr_fail_for_topic(actor, *message);
    }
}

static void monitor_stop(tr_actor *actor, void *state)
{
    (void)actor, (void)state; /* the context is the job's */
}

const tr_behavior tr_monitor_behavior = {
    .name = "monitor", .init = monitor_init, .receive = monitor_receive, .stop = monitor_stop};
