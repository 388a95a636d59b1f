/* runtime/actor.c - what an actor's handlers may call; see actor.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_internal.h"

#include <string.h>

tr_actor_id tr_actor_self(const tr_actor *self)
{
    return self->spec->id;
}

const char *tr_actor_name(const tr_actor *self)
{
    return self->spec->name;
}

const tr_topology *tr_actor_topology(const tr_actor *self)
{
    return self->world->topology;
}

uint32_t tr_actor_incarnation(const tr_actor *self)
{
    return self->incarnation;
}

void tr_actor_defer_start(tr_actor *self)
{
    self->start_deferred = true;
}

uint64_t tr_actor_generation(const tr_actor *self)
{
    return self->node->generation;
}

uint32_t tr_actor_epoch(const tr_actor *self)
{
    return self->node->options.epoch;
}

uint64_t tr_actor_now_ns(const tr_actor *self)
{
    tr_actor *owner =
        (tr_actor *)self; /* asked for at most once a handler, and only if anybody wants to know */
    if (!owner->now_ns) owner->now_ns = tr__node_now(self->node);
    return owner->now_ns;
}

uint64_t tr_actor_clock_ns(const tr_actor *self)
{
    return tr__node_now(self->node);
}

static void send_control(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, tr_message *message)
{
    TR_ASSERT(self->started); /* not from init: the others may not be there yet */
    message->frame.kind = TR_FRAME_CONTROL;
    message->frame.edge = topic;
    message->frame.step = step;
    message->frame.source = self->spec->id;
    message->frame.incarnation = self->incarnation;
    message->frame.destination = to;
    tr__control_route(self->node, self->world, &message);
}

static void send_bytes(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, const void *bytes,
                       uint32_t size_bytes)
{
    tr_message *message = tr__message_new(self->node, self->worker);
    if (!message) return;
    if (size_bytes) {
        if (tr_buffer_new(&message->body, size_bytes, NULL) != TR_OK) {
            tr__message_recycle(self->node, self->worker, &message);
            tr__out_of_memory(self->node, "a control message");
            return;
        }
        memcpy(message->body->data, bytes, size_bytes);
        message->frame.body_bytes = size_bytes;
    }
    send_control(self, to, topic, step, message);
}

void tr_actor_send(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, const void *bytes,
                   uint32_t size_bytes)
{
    TR_ASSERT(topic < TR__TOPIC_FIRST);
    send_bytes(self, to, topic, step, bytes, size_bytes);
}

void tr_child_start(tr_actor *self, tr_actor_id child, const tr_elder *elders, uint32_t n_elders)
{
    send_bytes(self, child, TR__TOPIC_START, 0, elders, n_elders * (uint32_t)sizeof *elders);
}

void tr_child_terminate(tr_actor *self, tr_actor_id child)
{
    send_bytes(self, child, TR__TOPIC_TERMINATE, 0, NULL, 0);
}

void tr_child_forget(tr_actor *self, tr_actor_id child)
{
    send_bytes(self, child, TR__TOPIC_FORGET, 0, NULL, 0);
}

void tr_actor_timer(tr_actor *self, uint32_t milliseconds, uint32_t tag)
{
    bool earliest = false;
    uint64_t due_ns = tr__node_now(self->node) + (uint64_t)milliseconds * 1000000;
    if (tr_timers_add(&self->node->timers, due_ns, self->spec->id, self->incarnation, tag, &earliest, NULL) !=
        TR_OK)
        tr__out_of_memory(self->node, "a timer");
    else if (earliest && self->node->options.n_threads > 1)
        tr_poller_rouse(&self->node->poller); /* it sleeps for too long */
}

static bool is_called(const tr_edge_spec *spec, const char *name, tr_actor_id peer_is, tr_actor_id peer)
{
    return (peer == 0 || peer_is == peer) && strcmp(spec->name, name) == 0;
}

uint32_t tr_edge_out(const tr_actor *self, const char *name, tr_actor_id destination)
{
    const tr_topology *topology = self->world->topology;
    for (uint32_t i = 0; i < topology->n_edges; i++) {
        const tr_edge_spec *spec = &topology->edges[i];
        if (spec->source == self->spec->id && is_called(spec, name, spec->destination, destination)) return i;
    }
    return TR_NO_EDGE;
}

uint32_t tr_edge_in(const tr_actor *self, const char *name, tr_actor_id source)
{
    const tr_topology *topology = self->world->topology;
    for (uint32_t i = 0; i < topology->n_edges; i++) {
        const tr_edge_spec *spec = &topology->edges[i];
        if (spec->destination == self->spec->id && is_called(spec, name, spec->source, source)) return i;
    }
    return TR_NO_EDGE;
}

const tr_edge_spec *tr_edge_spec_of(const tr_actor *self, uint32_t edge)
{
    TR_ASSERT(edge < self->world->topology->n_edges);
    return &self->world->topology->edges[edge];
}

static tr_sender_end *own_out(const tr_actor *self, uint32_t edge)
{
    TR_ASSERT(edge < self->world->topology->n_edges);
    tr_sender_end *out = self->world->outs[edge];
    TR_ASSERT(out && out->spec->source == self->spec->id);
    return out;
}

uint32_t tr_edge_credits(const tr_actor *self, uint32_t edge)
{
    return tr_sender_end_credits(own_out(self, edge));
}

uint16_t tr_edge_slot(const tr_actor *self, uint32_t edge, uint32_t ahead)
{
    return tr_sender_end_next(own_out(self, edge), ahead);
}

void tr_edge_send(tr_actor *self, uint32_t edge, tr_buffer *body, uint32_t size_bytes, uint32_t step,
                  uint32_t microbatch, uint16_t flags)
{
    tr_node *node = self->node;
    tr_sender_end *out = own_out(self, edge);
    TR_ASSERT(self->started);
    TR_ASSERT(size_bytes <= out->spec->slot_bytes && size_bytes <= (body ? body->size_bytes : 0));
    tr_message *message = tr__message_new(node, self->worker);
    uint32_t sequence = out->sequence;
    uint16_t slot = tr_sender_end_take(out); /* in any case: a sender counts on having fewer credits now */
    if (!message) {
        tr_buffer_release(&body);
        return;
    }
    tr_frame *frame = &message->frame;
    message->body = body;
    frame->kind = TR_FRAME_DATA;
    frame->flags = flags;
    frame->sequence = sequence;
    frame->slot = slot;
    frame->epoch = node->options.epoch;
    frame->source = self->spec->id;
    frame->destination = out->spec->destination;
    frame->incarnation = self->incarnation;
    frame->edge = edge;
    frame->step = step;
    frame->microbatch = microbatch;
    frame->body_bytes = size_bytes;
    tr_actor *to = self->world->actors[out->spec->destination - 1];
    if (to) {
        tr_receiver_end_hold(self->world->ins[edge], frame->slot);
        tr_mailbox_push(&to->mailbox, &message);
        tr_scheduler_notify(node->scheduler, &to->task);
        return;
    }
    const tr_actor_spec *peer = tr_topology_actor(self->world->topology, out->spec->destination);
    tr__link_send(&node->data, peer->node, &message); /* to a lost peer: dropped; monitors tell */
}

/* Senders hear of slots that were given back together: before idle and at the end of the activation, or when they are
 * half of all, so that a sender never waits for a batch to fill. */
static void owe(tr_actor *self, tr_receiver_end *in)
{
    if ((in->n_pending + in->n_unsaid) * 2 >= in->spec->n_slots) {
        tr__credits_send(self, in);
    } else if (!in->is_owing) {
        in->is_owing = true;
        in->next_owing = self->owing;
        self->owing = in;
    }
}

void tr__slot_give_back(tr_actor *self, uint32_t edge, uint16_t slot)
{
    tr_receiver_end *in = self->world->ins[edge];
    tr_receiver_end_done(in, slot);
    if (!in->remote) {
        tr_sender_end_give_back(self->world->outs[edge], slot);
        /* Only idle could make something of a credit; of messages an actor hears by themselves. */
        if (!self->world->actors[in->spec->source - 1]->behavior->idle) return;
        in->n_unsaid++;
    }
    owe(self, in);
}

/* The body goes first: a slot that is free again may be written again. */
void tr_edge_release(tr_actor *self, tr_message **message)
{
    if (!*message) return;
    const tr_frame *frame = &(*message)->frame;
    TR_ASSERT(frame->kind == TR_FRAME_DATA && frame->destination == self->spec->id);
    const uint32_t edge = frame->edge;
    const uint16_t slot = frame->slot;
    tr__message_recycle(self->node, self->worker, message);
    tr__slot_give_back(self, edge, slot);
}

static void bond(tr_actor *self, tr_actor_id other, bool linked)
{
    TR_ASSERT(other != self->spec->id);
    tr__bond_add(self->node, &self->watching, other, linked);
    if (linked) tr__bond_add(self->node, &self->watchers, other, false);
    tr_message *message = tr__message_new(self->node, self->worker);
    if (message) send_control(self, other, linked ? TR__TOPIC_LINK : TR__TOPIC_MONITOR, 0, message);
}

void tr_actor_monitor(tr_actor *self, tr_actor_id other)
{
    bond(self, other, false);
}

void tr_actor_link(tr_actor *self, tr_actor_id other)
{
    bond(self, other, true);
}

void tr_actor_exit(tr_actor *self)
{
    self->exiting = true;
}

void tr_actor_fail(tr_actor *self, const tr_error *error)
{
    if (self->failed) return; /* the first reason is the reason */
    self->failed = true;
    self->error = *error;
}

void tr_actor_shutdown(tr_actor *self, const tr_error *why)
{
    if (tr__is_ending(self)) return;
    self->shut_down = true;
    if (why)
        self->error = *why;
    else
        tr_fail(&self->error, TR_ESTOPPED, "shutdown");
}

void tr_actor_finish_job(tr_actor *self)
{
    if (self->job_end <= TR__JOB_AGAIN) self->job_end = TR__JOB_FINISHED;
}

void tr_actor_fail_job(tr_actor *self, const tr_error *error)
{
    if (self->job_end == TR__JOB_FAILED) return;
    self->job_end = TR__JOB_FAILED;
    self->job_error = *error;
}

void tr_actor_run_again(tr_actor *self, const tr_error *why)
{
    if (self->job_end != TR__JOB_GOES_ON) return;
    self->job_end = TR__JOB_AGAIN;
    self->job_error = *why;
}

void tr_actor_accuse(tr_actor *self, int32_t node, const char *text)
{
    tr_message *message = tr__text_message(self->node, 0, TR__TOPIC_ACCUSED, text);
    if (!message) return;
    message->frame.source = self->spec->id;
    message->frame.microbatch = (uint32_t)node;
    tr_mailbox_push_notice(&self->node->inbox, &message);
    tr_scheduler_notify(self->node->scheduler, &self->node->service);
}

void tr_actor_fail_node(tr_actor *self, const tr_error *error)
{
    tr_error words = *error;
    tr_fail_within(&words, error->status, "actor '%s'", self->spec->name);
    tr_node_fail(self->node, &words);
}

void tr_actor_activity(tr_actor *self, const char *what, uint32_t step, uint32_t microbatch)
{
    tr_activity_write(self->record, what, step, microbatch);
    const tr_node_options *options = &self->node->options;
    if (options->on_activity) options->on_activity(options->context, self->spec->id, what, step, microbatch);
}

void tr_actor_leave(tr_actor *self, void *what, void (*destroy)(void *what))
{
    tr_keepsakes *keepsakes = self->node->options.keepsakes;
    if (keepsakes && !self->failed)
        tr_keepsakes_put(keepsakes, (tr_keepsake){self->spec->id, what, destroy});
    else
        destroy(what);
}

void *tr_actor_take_left(tr_actor *self)
{
    tr_keepsakes *keepsakes = self->node->options.keepsakes;
    return keepsakes ? tr_keepsakes_take(keepsakes, self->spec->id) : NULL;
}

int tr_actor_spoil(tr_actor *self)
{
    int how = self->spoil;
    self->spoil = 0;
    return how;
}

void *tr_actor_slot(tr_actor *self, int slot)
{
    return self->region ? tr_state_slot(self->region, slot) : NULL;
}

uint64_t tr_actor_slot_generation(const tr_actor *self, int slot)
{
    return self->region ? tr_state_generation(self->region, slot) : 0;
}

void tr_actor_slot_open(tr_actor *self, int slot)
{
    TR_ASSERT(self->region);
    tr_state_open(self->region, slot);
    const tr_node_options *options = &self->node->options;
    if (options->observe_slot) options->observe_slot(options->observer, self->spec->id, slot, 0);
}

void tr_actor_slot_publish(tr_actor *self, int slot, uint64_t generation, tr_thread_pool *pool)
{
    TR_ASSERT(self->region);
    tr_state_publish(self->region, slot, generation, pool);
    const tr_node_options *options = &self->node->options;
    if (options->observe_slot) options->observe_slot(options->observer, self->spec->id, slot, generation);
}
