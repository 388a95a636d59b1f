/* runtime/lifecycle.c - the end of an actor and its next beginning.
 * The ends of its edges belong to the node and live on: sequence and credits go on where they were, so a restart can
 * neither lose nor double a credit, wherever the peer is. What the actor had in hand goes back; what waits for it, waits.
 * A supervisor that restarts several actors names them to each other (tr_elder), so that none hears the others' past.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_internal.h"

#include "base/log.h"
#include "base/memory.h"

#include <string.h>

tr_end tr__end_of(const tr_actor *self)
{
    return self->failed ? TR_END_FAILED : self->shut_down ? TR_END_SHUTDOWN : TR_END_NORMAL;
}

static const char *reason_of(const tr_actor *self)
{
    return self->failed || self->shut_down ? self->error.message : "it ended normally";
}

static void tell(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, const char *text)
{
    tr_message *message = tr__text_message(self->node, TR_FRAME_CONTROL, topic, text);
    if (!message) return;
    message->frame.source = self->spec->id;
    message->frame.incarnation = self->incarnation;
    message->frame.destination = to;
    message->frame.step = step;
    tr__control_route(self->node, self->world, &message);
}

void tr__down_send(tr_actor *self, tr_actor_id to)
{
    tell(self, to, TR__TOPIC_DOWN, tr__end_of(self), reason_of(self));
}

/* What whoever runs the node wants to know goes through its inbox, so that the callbacks never come two at a
 * time. */
void tr__report(tr_actor *self, uint32_t topic, const tr_error *error)
{
    tr_message *message = tr__text_message(self->node, 0, topic, error ? error->message : "");
    if (!message) return;
    message->frame.source = self->spec->id;
    message->frame.step = error ? error->status : TR_OK;
    tr_mailbox_push_notice(&self->node->inbox, &message);
    tr_scheduler_notify(self->node->scheduler, &self->node->service);
}

/* The slots of messages that the behaviour kept and forgot: they are the senders', whatever became of the messages. */
static void reclaim(tr_actor *self)
{
    for (uint32_t edge = 0; edge < self->world->topology->n_edges; edge++) {
        tr_receiver_end *in = self->world->ins[edge];
        if (!in || in->spec->destination != self->spec->id) continue;
        for (uint32_t slot = 0; slot < in->spec->n_slots; slot++)
            if (tr_receiver_end_is_in_hand(in, (uint16_t)slot))
                tr__slot_give_back(self, edge, (uint16_t)slot);
    }
}

void tr__actor_end(tr_actor *self)
{
    if (self->failed) {
        tr_fail_within(&self->error, TR_EIO, "actor '%s' failed", self->spec->name);
        tr_log(TR_LOG_INFO, "%s", self->error.message);
    }
    if (self->behavior->stop) self->behavior->stop(self, self->state);
    self->state = NULL;
    self->initialized = false;
    self->ended = true;
    reclaim(self);
    for (size_t i = 0; i < self->watchers.count; i++) tr__down_send(self, self->watchers.items[i].other);
    self->watchers.count = self->watching.count = 0;
    if (self->spec->supervisor)
        tell(self, self->spec->supervisor, TR_TOPIC_CHILD_ENDED, tr__end_of(self), reason_of(self));
    else
        tr__report(self, TR__TOPIC_ACTOR_END, self->failed || self->shut_down ? &self->error : NULL);
}

static void keep_elder(tr_actor *self, tr_elder elder)
{
    uint32_t at = 0;
    while (at < self->n_elders && self->elders[at].id != elder.id) at++;
    if (at == self->n_elders) {
        void *elders = tr_realloc(self->elders, (at + 1) * sizeof elder);
        if (!elders) { /* without it it would listen to the dead */
            tr__out_of_memory(self->node, "the name of an elder");
            return;
        }
        self->elders = elders;
        self->n_elders++;
    }
    self->elders[at] = elder;
}

static void keep_elders(tr_actor *self, const tr_message *message)
{
    tr_elder elder;
    for (size_t at = 0; at + sizeof elder <= message->frame.body_bytes; at += sizeof elder) {
        memcpy(&elder, (const char *)tr_message_bytes(message) + at, sizeof elder);
        keep_elder(self, elder);
    }
}

void tr_actor_started(tr_actor *self)
{
    self->start_deferred = false;
    tell(self, self->spec->supervisor, TR_TOPIC_CHILD_STARTED, TR_OK, "");
}

/* Another life: as new, but for its edges, what waits for it and its state slots. */
void tr__actor_begin(tr_actor *self, const tr_message *message)
{
    if (message->frame.source != self->spec->supervisor) return;
    tr_error error = {.status = TR_OK};
    if (self->ended) {
        keep_elders(self, message);
        TR_ASSERT((self->incarnation & 0xffff) != 0xffff); /* it would pass for another node's */
        self->incarnation++;
        if (tr__actor_init(self, &error) == TR_OK) {
            self->ended = self->exiting = self->failed = self->shut_down = self->forgotten = false;
            self->start_deferred = false;
            self->now_ns = 0;
            if (self->behavior->start) self->behavior->start(self, self->state);
            tr__end_job_if_asked(self);
        }
    }
    if (!self->start_deferred)
        tell(self, self->spec->supervisor, TR_TOPIC_CHILD_STARTED, error.status,
             error.status ? error.message : "");
}

void tr__actor_terminate(tr_actor *self)
{
    if (self->ended || tr__is_ending(self)) return;
    self->now_ns = 0;
    if (self->behavior->terminate)
        self->behavior->terminate(self, self->state);
    else
        tr_actor_shutdown(self, NULL);
}

void tr__children_lost(tr_actor *self, int32_t node, const char *reason)
{
    const tr_topology *topology = self->world->topology;
    for (size_t i = 0; i < topology->n_actors; i++) {
        if (topology->actors[i].supervisor != self->spec->id || topology->actors[i].node != node) continue;
        tr_message *message = tr__text_message(self->node, TR_FRAME_CONTROL, TR_TOPIC_CHILD_LOST, reason);
        if (!message) return;
        message->frame.source = topology->actors[i].id;
        message->frame.destination = self->spec->id;
        tr__control_push(self, &message);
    }
}

bool tr__is_of_earlier_life(const tr_actor *self, const tr_frame *frame)
{
    if (frame->kind == TR_FRAME_CONTROL && frame->edge >= TR__TOPIC_FIRST) return false;
    for (uint32_t i = 0; i < self->n_elders; i++)
        if (self->elders[i].id == frame->source) return frame->incarnation < self->elders[i].incarnation;
    return false;
}
