/* actors/dispute.c - see dispute.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/dispute.h"

#include "actors/replay.h"
#include "actors/topics.h"
#include "base/hash.h"

static void destroy(void *what)
{
    struct tr__disputes *self = what;
    tr__replay_destroy(&self->replay);
    tr_free(self);
}

tr_status tr__disputes_init(tr__stage *self, const void *config, size_t config_bytes, tr_error *err)
{
    struct tr__disputes *left = tr_actor_take_left(self->actor);
    uint64_t hash = tr_hash64(config, config_bytes);
    bool survivor = left != NULL;
    if (left && left->config != hash) { /* another plan: nothing of the old one is to be decided */
        destroy(left);
        left = NULL;
    }
    if (!left) left = tr_alloc_zero(1, sizeof *left);
    if (!left) return tr_fail(err, TR_ENOMEM, "no memory for what a stage keeps");
    left->config = hash;
    left->survivor = survivor;
    left->replayed.told = left->audited.told = false;
    self->disputes = left;
    return TR_OK;
}

void tr__disputes_leave(tr__stage *self)
{
    struct tr__disputes *left = self->disputes;
    self->disputes = NULL;
    if (left) tr_actor_leave(self->actor, left, destroy);
}

uint16_t tr__disputes_flags(const tr__stage *self)
{
    return self->disputes && self->disputes->survivor ? TR_FRAME_SURVIVOR : 0;
}

void tr__dispute_begin(tr__stage *self, tr__dispute *about, const tr_message *message, const char *what)
{
    const tr_frame *frame = &message->frame;
    if (about->told) return;
    about->is = about->told = true;
    about->edge = frame->edge;
    about->step = frame->step;
    about->index = frame->microbatch;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 4);
    tr_pack_uint(&packer, frame->source);
    tr_pack_uint(&packer, frame->microbatch);
    tr_pack_text(&packer, tr_edge_spec_of(self->actor, frame->edge)->name);
    tr_pack_text(&packer, what);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_DIFFERS, frame->step, &packer);
}

/* The third must be of a process that had no part in the two, which a death in between may have kept from being replaced: then it
 * is asked for again. Only where a message came again and agrees with the first, whoever sent it was right then, for the second
 * was by another process. */
static bool is_independent(const tr__stage *self, const tr__dispute *about, const tr_frame *frame,
                           uint64_t third)
{
    if (!(frame->flags & TR_FRAME_SURVIVOR)) return true;
    return about == &self->disputes->replayed && third == about->first;
}

void tr__dispute_decide(tr__stage *self, tr__dispute *about, const tr_message *message, uint64_t third,
                        uint64_t basis)
{
    const tr_frame *frame = &message->frame;
    bool audit = about == &self->disputes->audited;
    if (!about->is || about->told || about->edge != frame->edge || about->step != frame->step ||
        about->index != frame->microbatch)
        return;
    if (!is_independent(self, about, frame, third)) {
        if (!audit) about->second = third;
        tr__dispute_begin(self, about, message, audit ? "the process that answers for it" : "");
        return;
    }
    tr_verdict verdict = basis != about->basis    ? TR_VERDICT_OTHER_BASIS
                         : third == about->first  ? TR_VERDICT_SECOND
                         : third == about->second ? TR_VERDICT_FIRST
                                                  : TR_VERDICT_NONE;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 3);
    tr_pack_uint(&packer, frame->source);
    tr_pack_uint(&packer, verdict);
    tr_pack_uint(&packer, audit);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_VERDICT, frame->step, &packer);
    /* Whoever audited and erred is replaced, and what it has computed in this life counts no more than before. */
    if (audit && verdict != TR_VERDICT_FIRST)
        about->told = true;
    else
        *about = (tr__dispute){0};
}
