/* actors/arbiter.c - see arbiter.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/arbiter.h"

#include "actors/topics.h"

#include <inttypes.h>
#include <stdio.h>

void tr__coordinator_note(tr_actor *actor, tr_actor_id monitor, uint32_t step, const char *kind,
                          const char *text)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_text(&packer, kind);
    tr_pack_text(&packer, text);
    tr_send_packed(actor, monitor, TR_TOPIC_NOTE, step, &packer);
}

static void note(const tr__arbiter *self, uint32_t step, const char *kind, const char *text)
{
    tr__coordinator_note(self->actor, self->monitor, step, kind, text);
}

static const tr_actor_spec *spec_of(const tr__arbiter *self, tr_actor_id who)
{
    return tr_topology_actor(tr_actor_topology(self->actor), who);
}

/* --- how much was computed again --- */

static void take_replayed(tr__arbiter *self, tr_unpacker *body)
{
    self->n_told++;
    self->n_kept += (uint32_t)tr_unpack_uint(body, 1);
    for (int i = 0; i < 3; i++) self->n_computed[i] += tr_unpack_uint(body, UINT32_MAX);
    self->n_sent += tr_unpack_uint(body, UINT32_MAX);
    self->n_compared += tr_unpack_uint(body, UINT32_MAX);
}

void tr__arbiter_commit(tr__arbiter *self, uint32_t step)
{
    char text[300];
    if (self->n_told == 0) return;
    snprintf(text, sizeof text,
             "step %u: %u of %u stages kept their work; computed were %" PRIu64 " forwards, %" PRIu64
             " backwards, %" PRIu64 " weight gradients; %" PRIu64 " messages were sent again, %" PRIu64
             " compared with the first and found the same",
             step + 1, self->n_kept, self->n_stages, self->n_computed[0], self->n_computed[1],
             self->n_computed[2], self->n_sent, self->n_compared);
    note(self, step, "replayed", text);
    self->n_told = 0;
}

static bool take_audited(tr__arbiter *self, tr_unpacker *body)
{
    self->audits->n += tr_unpack_uint(body, UINT32_MAX);
    self->audits->ns += tr_unpack_uint(body, UINT64_MAX);
    return !body->bad;
}

void tr__arbiter_end(tr__arbiter *self, uint32_t step)
{
    char text[200];
    const tr_audit_totals *all = self->audits;
    if (all->n == 0) return;
    snprintf(text, sizeof text,
             "stages computed %" PRIu64
             " micro-batches of others again and found them the same, in %.2f%% of "
             "the time that they computed",
             all->n, all->busy_ns ? 100 * (double)all->ns / (double)all->busy_ns : 0.0);
    note(self, step, "audited", text);
}

/* --- who erred --- */

static void send_empty(const tr__arbiter *self, tr_actor_id to, uint32_t topic, uint32_t step)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 0);
    tr_send_packed(self->actor, to, topic, step, &packer);
}

/* A stage of the worker that has this actor: a data shard lives with one. 0: there is none. */
static tr_actor_id stage_beside(const tr__arbiter *self, tr_actor_id who)
{
    const tr_actor_spec *spec = spec_of(self, who);
    for (uint32_t s = 0; spec && s < self->n_stages; s++)
        if (spec_of(self, self->stages[s])->node == spec->node) return self->stages[s];
    return 0;
}

/* Before its process ends all must have forgotten what may rest on its mistake. */
static void doubt(tr__arbiter *self, uint32_t step, tr_actor_id who)
{
    self->doubted = who;
    self->n_forgotten = 0;
    for (uint32_t s = 0; s < self->n_stages; s++) send_empty(self, self->stages[s], TR_TOPIC_FORGET, step);
}

static bool take_difference(tr__arbiter *self, const tr_frame *frame, tr_unpacker *body)
{
    char text[500], edge[32], what[64];
    tr_actor_id source = tr_unpack_uint(body, UINT64_MAX);
    uint32_t index = (uint32_t)tr_unpack_uint(body, UINT32_MAX);
    tr_unpack_text(body, edge, sizeof edge);
    tr_unpack_text(body, what, sizeof what);
    tr_actor_id doubted = stage_beside(self, source);
    const tr_actor_spec *finder = spec_of(self, frame->source);
    if (body->bad || !doubted || !finder) return false;
    if (self->doubted) return true; /* one at a time: what others found is seen when all have computed */
    static const char next[] = "a processor or memory made a mistake";
    if (what[0])
        snprintf(text, sizeof text,
                 "'%s' computed micro-batch %u of step %u of '%s' again, and another %s came out: %s; worker "
                 "%d is replaced, and all compute the step once more",
                 finder->name, index, frame->step + 1, spec_of(self, source)->name, what, next,
                 spec_of(self, doubted)->node);
    else
        snprintf(text, sizeof text,
                 "'%s' was sent the %s %u of step %u by '%s' again, with other bits than the first time: %s; "
                 "worker %d is replaced, and all compute the step once more",
                 finder->name, edge, index, frame->step + 1, spec_of(self, source)->name, next,
                 spec_of(self, doubted)->node);
    note(self, frame->step, "corruption", text);
    doubt(self, frame->step, doubted);
    return true;
}

static bool take_forgotten(tr__arbiter *self, const tr_frame *frame)
{
    if (!self->doubted) return false;
    if (++self->n_forgotten == self->n_stages) send_empty(self, self->doubted, TR_TOPIC_DOUBTED, frame->step);
    return true;
}

/* An auditor that erred, or may have, is replaced as well. */
static void take_audit_verdict(tr__arbiter *self, const tr_frame *frame, const tr_actor_spec *audited,
                               tr_verdict verdict)
{
    char text[500];
    const tr_actor_spec *auditor = spec_of(self, frame->source);
    if (verdict == TR_VERDICT_FIRST)
        snprintf(text, sizeof text,
                 "the third computation of step %u agrees with the audit: what '%s' computed first, in the "
                 "process that worker %d had then, was wrong; that process is gone",
                 frame->step + 1, audited->name, audited->node);
    else if (verdict == TR_VERDICT_SECOND)
        snprintf(text, sizeof text,
                 "the third computation of step %u agrees with what '%s' computed first: the audit by '%s' "
                 "was wrong; worker %d is replaced as well",
                 frame->step + 1, audited->name, auditor->name, auditor->node);
    else
        snprintf(text, sizeof text,
                 "what '%s' computes step %u from has changed too, so it cannot be told who erred; '%s' in "
                 "worker %d, which audited it, is replaced as well",
                 audited->name, frame->step + 1, auditor->name, auditor->node);
    note(self, frame->step, "corruption_decided", text);
    if (verdict != TR_VERDICT_FIRST && !self->doubted) doubt(self, frame->step, frame->source);
    if (verdict != TR_VERDICT_OTHER_BASIS)
        tr_actor_accuse(self->actor, verdict == TR_VERDICT_FIRST ? audited->node : auditor->node, text);
}

static bool take_verdict(tr__arbiter *self, const tr_frame *frame, tr_unpacker *body)
{
    char text[400];
    tr_actor_id source = tr_unpack_uint(body, UINT64_MAX);
    tr_verdict erred = (tr_verdict)tr_unpack_uint(body, TR_VERDICT_OTHER_BASIS);
    bool audit = tr_unpack_uint(body, 1) != 0;
    const tr_actor_spec *spec = spec_of(self, source);
    if (body->bad || !spec || !spec_of(self, frame->source)) return false;
    if (!audit && erred == TR_VERDICT_OTHER_BASIS) return false;
    if (erred == TR_VERDICT_NONE) {
        tr_error error;
        tr_fail(&error, TR_ECORRUPT,
                "three computations by '%s' of what it sends in step %u gave three results: nothing can be "
                "trusted here; look at the memory and processors of this machine",
                spec->name, frame->step + 1);
        tr_actor_fail_job(self->actor, &error);
        return true;
    }
    if (audit) {
        take_audit_verdict(self, frame, spec, erred);
        return true;
    }
    snprintf(text, sizeof text,
             "the third computation of step %u agrees with the %s: what '%s' sent the %s time, from the "
             "process that worker %d had then, was wrong; that process is gone",
             frame->step + 1, erred == TR_VERDICT_FIRST ? "second" : "first", spec->name,
             erred == TR_VERDICT_FIRST ? "first" : "second", spec->node);
    note(self, frame->step, "corruption_decided", text);
    tr_actor_accuse(self->actor, spec->node, text);
    return true;
}

bool tr__arbiter_receive(tr__arbiter *self, const tr_frame *frame, tr_unpacker *body)
{
    switch (frame->edge) {
    case TR_TOPIC_REPLAYED: take_replayed(self, body); return true;
    case TR_TOPIC_DIFFERS: return take_difference(self, frame, body);
    case TR_TOPIC_FORGOTTEN: return take_forgotten(self, frame);
    case TR_TOPIC_VERDICT: return take_verdict(self, frame, body);
    case TR_TOPIC_AUDITED: return take_audited(self, body);
    default: return false;
    }
}
