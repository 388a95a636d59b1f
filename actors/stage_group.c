/* actors/stage_group.c - how the replicas of a stage find out whether their devices can hand gradients to each other, and
 * become a group. Each tells replica 0's stage whether it could (OFFER). If all can, replica 0's makes a name and tells it
 * (NAME); all join, and say whether they did (JOINED); if all did, all use it (USE). Otherwise all sum on the host (HOST). The
 * first steps' micro-batches are computed meanwhile. Stages are made anew in every epoch, and so are groups; a word of
 * another epoch never arrives.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_collect_internal.h"

#include "actors/roles.h"
#include "actors/topics.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

typedef enum word { OFFER, NAME, JOINED, USE, HOST } word;

static void copy_text(char to[TR__COLLECT_TEXT_BYTES], const char *text)
{
    snprintf(to, TR__COLLECT_TEXT_BYTES, "%.*s", TR__COLLECT_TEXT_BYTES - 1, text);
}

static void pack(tr_packer *packer, word what, size_t n_more)
{
    tr_packer_init(packer);
    tr_pack_array(packer, 1 + n_more);
    tr_pack_uint(packer, what);
}

static void tell(tr__stage *self, uint32_t replica, tr_packer *packer)
{
    tr_actor_id to = tr_role_find_stage(tr_actor_topology(self->actor), replica, self->spec.stage);
    tr_send_packed(self->actor, to, TR_TOPIC_GROUP, self->step, packer);
}

/* For the log of the run: which way gradients go, and why. */
static void note(tr__stage *self, const char *how)
{
    char text[TR__COLLECT_TEXT_BYTES + 160], turns[96] = "";
    tr_packer packer;
    if (tr__collect_streams(self))
        snprintf(turns, sizeof turns, ", and take turns in %.1f of %.1f MiB",
                 (double)tr__collect_gradient_elements(self) * sizeof(float) / (1 << 20),
                 (double)self->flat * sizeof(float) / (1 << 20));
    snprintf(text, sizeof text, "stage %u: gradients are summed %s%s%s%s", self->spec.stage, how,
             self->collect->text[0] ? ": " : "", self->collect->text, turns);
    tr_log(TR_LOG_INFO, "%s", text);
    tr_actor_id monitor = tr_role_find(tr_actor_topology(self->actor), TR_ROLE_MONITOR);
    if (!monitor) return;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_text(&packer, "reduction");
    tr_pack_text(&packer, text);
    tr_send_packed(self->actor, monitor, TR_TOPIC_NOTE, self->step, &packer);
}

static void stay_on_the_host(tr__stage *self)
{
    self->collect->state = TR__ON_THE_HOST;
    for (uint32_t r = 1; r < self->spec.plan.n_replicas; r++) {
        tr_packer packer;
        pack(&packer, HOST, 0);
        tell(self, r, &packer);
    }
    note(self, "by the host");
}

static void join(tr__stage *self, const uint8_t *name)
{
    tr__collect *c = self->collect;
    tr_error error;
    tr_group_options options = {
        .n_members = self->spec.plan.n_replicas, .member = self->spec.replica, .stream = c->stream};
    memcpy(options.name, name, sizeof options.name);
    c->state = TR__JOINING;
    c->began_ns = tr_actor_clock_ns(self->actor);
    if (self->spec.collectives->join(&c->group, &options, &error)) {
        c->state = TR__JOINED;
        tr__group_answer(self, false, error.message);
    }
}

static bool are_apart(const tr__stage *self)
{
    const tr__collect *c = self->collect;
    for (uint32_t r = 0; r < self->spec.plan.n_replicas && self->spec.device == TR_DEVICE_CUDA; r++)
        for (uint32_t other = 0; other < r; other++)
            if (c->devices[r] == c->devices[other]) return false;
    return true;
}

static void make_group(tr__stage *self)
{
    tr__collect *c = self->collect;
    uint8_t name[TR_GROUP_NAME_BYTES];
    tr_error error;
    if (c->all_can && !are_apart(self)) {
        c->all_can = false;
        snprintf(c->text, sizeof c->text, "replicas share a GPU");
    }
    if (c->all_can && self->spec.collectives->name_group(name, &error)) {
        c->all_can = false;
        copy_text(c->text, error.message);
    }
    if (!c->all_can) {
        stay_on_the_host(self);
        return;
    }
    for (uint32_t r = 1; r < self->spec.plan.n_replicas; r++) {
        tr_packer packer;
        pack(&packer, NAME, 1);
        tr_pack_bytes(&packer, name, sizeof name);
        tell(self, r, &packer);
    }
    join(self, name);
}

static void use_group(tr__stage *self)
{
    for (uint32_t r = 1; r < self->spec.plan.n_replicas; r++) {
        tr_packer packer;
        pack(&packer, USE, 0);
        tell(self, r, &packer);
    }
    self->collect->state = TR__USED;
    note(self, "on the devices");
}

/* In replica 0: one has said what it was asked. When all have, the next thing is. One who could not join decides for all,
 * since the others may then wait for ever. */
static void count_answer(tr__stage *self, bool can, const char *text, bool joined)
{
    tr__collect *c = self->collect;
    if (c->state == TR__ON_THE_HOST) return;
    if (!can && c->all_can) copy_text(c->text, text);
    c->all_can &= can;
    bool all = ++c->n_answers == self->spec.plan.n_replicas;
    if (all) c->n_answers = 0;
    if (joined && !can)
        stay_on_the_host(self);
    else if (all && joined)
        use_group(self);
    else if (all)
        make_group(self);
}

void tr__group_answer(tr__stage *self, bool can, const char *text)
{
    if (self->spec.replica == 0) {
        count_answer(self, can, text, true);
        return;
    }
    tr_packer packer;
    pack(&packer, JOINED, 2);
    tr_pack_uint(&packer, can);
    tr_pack_text(&packer, text);
    tell(self, 0, &packer);
}

void tr__collect_start(tr__stage *self)
{
    tr__collect *c = self->collect;
    tr_error error;
    char text[TR__COLLECT_TEXT_BYTES];
    if (!c) return;
    bool can = self->spec.collectives->describe(text, sizeof text, &error) == TR_OK;
    if (!can) copy_text(text, error.message);
    if (self->spec.replica == 0) {
        if (can) copy_text(c->text, text);
        c->devices[0] = self->spec.device_index;
        count_answer(self, can, text, false);
        return;
    }
    tr_packer packer;
    pack(&packer, OFFER, 4);
    tr_pack_uint(&packer, self->spec.replica);
    tr_pack_uint(&packer, (uint64_t)self->spec.device_index);
    tr_pack_uint(&packer, can);
    tr_pack_text(&packer, text);
    tell(self, 0, &packer);
}

static bool take_offer(tr__stage *self, tr_unpacker *body)
{
    char text[TR__COLLECT_TEXT_BYTES] = "";
    uint32_t replica = (uint32_t)tr_unpack_uint(body, self->spec.plan.n_replicas - 1);
    int32_t device = (int32_t)tr_unpack_uint(body, INT32_MAX);
    bool can = tr_unpack_uint(body, 1) != 0;
    tr_unpack_text(body, text, sizeof text);
    if (tr_unpacker_done(body, "offer", NULL) || self->spec.replica != 0 ||
        self->collect->state != TR__ASKING)
        return false;
    self->collect->devices[replica] = device;
    count_answer(self, can, text, false);
    return true;
}

static bool take_name(tr__stage *self, tr_unpacker *body)
{
    size_t size = 0;
    const void *name = tr_unpack_bytes(body, &size);
    if (tr_unpacker_done(body, "name", NULL) || size != TR_GROUP_NAME_BYTES || self->spec.replica == 0 ||
        self->collect->state != TR__ASKING)
        return false;
    join(self, name);
    return true;
}

static bool take_joined(tr__stage *self, tr_unpacker *body)
{
    char text[TR__COLLECT_TEXT_BYTES] = "";
    bool can = tr_unpack_uint(body, 1) != 0;
    tr_unpack_text(body, text, sizeof text);
    tr__collect_state at = self->collect->state;
    bool asked = at == TR__JOINING || at == TR__JOINED || at == TR__ON_THE_HOST;
    if (tr_unpacker_done(body, "answer", NULL) || self->spec.replica != 0 || !asked) return false;
    count_answer(self, can, text, true);
    return true;
}

static bool take_decision(tr__stage *self, tr_unpacker *body, word what)
{
    tr__collect *c = self->collect;
    bool right = what == HOST ? c->state != TR__USED : c->state == TR__JOINED;
    if (tr_unpacker_done(body, "decision", NULL) || self->spec.replica == 0 || !right) return false;
    c->state = what == USE ? TR__USED : TR__ON_THE_HOST;
    return true;
}

void tr__collect_receive(tr__stage *self, const tr_message *message)
{
    tr_unpacker body;
    bool good = false;
    tr_unpacker_init(&body, tr_message_bytes(message), message->frame.body_bytes);
    (void)tr_unpack_array(&body, 5);
    word what = (word)tr_unpack_uint(&body, HOST);
    if (self->collect && !body.bad) {
        if (what == OFFER) good = take_offer(self, &body);
        if (what == NAME) good = take_name(self, &body);
        if (what == JOINED) good = take_joined(self, &body);
        if (what == USE || what == HOST) good = take_decision(self, &body, what);
    }
    if (!good) tr_fail_for_topic(self->actor, message);
}

bool tr__collect_is_deciding(const tr__stage *self)
{
    return self->collect && self->collect->state < TR__USED;
}

bool tr__collect_is_used(const tr__stage *self)
{
    return self->collect && self->collect->state == TR__USED;
}
