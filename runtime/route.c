/* runtime/route.c - the ways of messages: from a sender to a lane on this node or to a link, and from a link
 * to a lane.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_internal.h"

#include "base/log.h"
#include "base/memory.h"
#include "runtime/fault.h"
#include "transport/disturb.h"

#include <string.h>

#ifdef TROUPE_SANITIZED
enum { CACHED_MESSAGES = 0 }; /* so that AddressSanitizer sees every use after the end */
#else
enum { CACHED_MESSAGES = 256 };
#endif

tr_message *tr__message_new(tr_node *self, int worker)
{
    tr__message_cache *cache = worker >= 0 ? &self->caches[worker] : NULL;
    tr_message *message = cache ? cache->first : NULL;
    if (message) {
        cache->first = message->next;
        cache->count--;
        memset(message, 0, sizeof *message);
        return message;
    }
    if (tr_message_new(&message, NULL, 0, NULL) == TR_OK) return message;
    tr__out_of_memory(self, "a message"); /* one that is lost alone would be a silent stop */
    return NULL;
}

void tr__message_recycle(tr_node *self, int worker, tr_message **out)
{
    tr_message *message = *out;
    tr__message_cache *cache = worker >= 0 ? &self->caches[worker] : NULL;
    if (!cache || cache->count + 1 > CACHED_MESSAGES) {
        tr_message_destroy(out);
        return;
    }
    *out = NULL;
    tr_buffer_release(&message->body);
    message->next = cache->first;
    cache->first = message;
    cache->count++;
}

tr_message *tr__text_message(tr_node *self, uint8_t kind, uint32_t topic, const char *text)
{
    tr_message *message;
    if (tr_message_copy(&message, text, (uint32_t)strlen(text) + 1, NULL) != TR_OK) {
        tr__out_of_memory(self, "the word of an end"); /* which must not go unheard */
        return NULL;
    }
    message->frame.kind = kind;
    message->frame.edge = topic;
    return message;
}

tr_actor *tr__actor_here(const tr__world *world, tr_actor_id id)
{
    return world && id >= 1 && id <= world->topology->n_actors ? world->actors[id - 1] : NULL;
}

static void count(uint64_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* What the system says never counts against the quota, so that back-pressure cannot hide an end. */
void tr__control_push(tr_actor *to, tr_message **message)
{
    if ((*message)->frame.edge >= TR__TOPIC_FIRST) {
        tr_mailbox_push_notice(&to->mailbox, message);
    } else if (!tr_mailbox_push_control(&to->mailbox, message)) {
        __atomic_store_n(&to->overflowed, true, __ATOMIC_RELAXED); /* ordered by the notify */
        tr_message_destroy(message);
    }
    tr_scheduler_notify(to->node->scheduler, &to->task);
}

/* The answer to a monitor or link that finds nobody. */
static void answer_down(tr_node *self, const tr__world *world, const tr_frame *asked, const char *reason)
{
    tr_message *down = tr__text_message(self, TR_FRAME_CONTROL, TR__TOPIC_DOWN, reason);
    if (!down) return;
    down->frame.source = asked->destination;
    down->frame.destination = asked->source;
    down->frame.step = TR_END_FAILED;
    tr__control_route(self, world, &down);
}

void tr__control_route(tr_node *self, const tr__world *world, tr_message **message)
{
    tr_frame frame = (*message)->frame;
    bool asks = frame.edge == TR__TOPIC_MONITOR || frame.edge == TR__TOPIC_LINK;
    tr_actor *here = tr__actor_here(world, frame.destination);
    if (here) {
        tr__control_push(here, message);
        return;
    }
    const tr_actor_spec *spec = world ? tr_topology_actor(world->topology, frame.destination) : NULL;
    if (!spec) {
        count(&self->counters.n_dropped_unknown);
        tr_message_destroy(message);
        if (asks) answer_down(self, world, &frame, "there is no such actor");
        return;
    }
    (*message)->frame.kind = TR_FRAME_CONTROL;
    (*message)->frame.epoch = self->options.epoch;
    if (!frame.incarnation) (*message)->frame.incarnation = self->options.incarnation << 16; /* nobody's */
    bool lost = tr__peer_is_lost(self, spec->node);
    if (lost)
        tr_message_destroy(message);
    else
        lost = tr__link_send(&self->control, spec->node, message) != TR_OK;
    if (lost && asks) answer_down(self, world, &frame, "its node is lost");
}

void tr__notice_all(tr_node *self, uint32_t topic, uint64_t source, const char *reason)
{
    tr__world *world = __atomic_load_n(&self->world, __ATOMIC_ACQUIRE);
    for (size_t i = 0; world && i < world->topology->n_actors; i++) {
        tr_actor *actor = world->actors[i];
        if (!actor) continue;
        tr_message *message = tr__text_message(self, TR_FRAME_CONTROL, topic, reason);
        if (!message) return;
        message->frame.source = source;
        message->frame.destination = actor->spec->id;
        message->frame.step = TR_END_FAILED;
        tr__control_push(actor, &message);
    }
}

/* After the transport was used behind the back of a thread that sleeps on its descriptors: arms it again, or
 * wakes that thread where something has arrived. Under the lock. */
static void rearm(tr__link *self)
{
    if (self->armed && !tr_transport_arm(self->transport)) tr_poller_rouse(&self->node->poller);
}

tr_status tr__link_send(tr__link *self, int32_t peer, tr_message **message)
{
    if (!self->transport) {
        tr_message_destroy(message);
        return TR_ECLOSED;
    }
    pthread_mutex_lock(&self->lock);
    tr_error err;
    tr_status status = tr_transport_send(self->transport, peer, message, &err);
    rearm(self);
    pthread_mutex_unlock(&self->lock);
    /* To a lost peer that is no news, and at the end of a job its loss may not be heard of yet. To one that was never
     * connected it is a bug of whoever runs the job, who finds it here. */
    if (status == TR_ENOMEM)
        tr__out_of_memory(self->node, "what a message is sent with");
    else if (status != TR_OK && !tr__peer_is_lost(self->node, peer))
        tr_log(TR_LOG_INFO, "not sent: %s", err.message);
    return status;
}

static void disturb(tr__link *self, const tr_disturbance *what)
{
    if (!self->transport) return;
    pthread_mutex_lock(&self->lock);
    tr_transport_disturb(self->transport, what);
    rearm(self);
    pthread_mutex_unlock(&self->lock);
}

void tr_node_suffer(tr_node *self, const tr_fault *fault)
{
    tr_disturbance what = {.peer = fault->peer, .for_ms = fault->for_ms, .seed = fault->seed};
    switch (fault->kind) {
    case TR_FAULT_FLIP_FRAME: tr_node_damage_next(self); return;
    case TR_FAULT_CUT: what.kind = TR_DISTURB_CUT; break;
    case TR_FAULT_DEAF: what.kind = TR_DISTURB_DEAF; break;
    case TR_FAULT_DELAY: what.kind = TR_DISTURB_DELAY; break;
    case TR_FAULT_DUPLICATE: what.kind = TR_DISTURB_DUPLICATE; break;
    default: return; /* of processes and disks */
    }
    if (tr_fault_hits_data(fault)) disturb(&self->data, &what);
    if (tr_fault_hits_control(fault)) disturb(&self->control, &what);
}

int tr__link_progress(tr__link *self)
{
    if (!self->transport || tr_transport_quiet(self->transport) || pthread_mutex_trylock(&self->lock) != 0)
        return 0;
    int happened = tr_transport_progress(self->transport);
    bool starved = happened && tr_transport_count(self->transport).starved > 0;
    rearm(self); /* also when nothing happened: looking may have disarmed it */
    pthread_mutex_unlock(&self->lock);
    if (starved) tr__out_of_memory(self->node, "a message that arrived");
    return happened;
}

bool tr__peer_is_lost(tr_node *self, int32_t peer)
{
    /* acquire: pairs with the release in mark_lost; zero, nearly always, saves the lock. */
    if (__atomic_load_n(&self->n_lost, __ATOMIC_ACQUIRE) == 0) return false;
    bool found = false;
    pthread_mutex_lock(&self->peers_lock);
    for (size_t i = 0; i < self->n_lost; i++) found = found || self->lost[i].peer == peer;
    pthread_mutex_unlock(&self->peers_lock);
    return found;
}

/* WORSE: its link for control, where one for data was lost, or once more: it had connected anew, and whoever hears of that
 * has not come to look yet, so that the mark of its last life still stands. */
typedef enum loss { KNOWN, WORSE, FIRST } loss;

static loss mark_lost(tr_node *self, int32_t peer, bool control)
{
    pthread_mutex_lock(&self->peers_lock);
    size_t at = 0;
    while (at < self->n_lost && self->lost[at].peer != peer) at++;
    loss what = at == self->n_lost ? FIRST : control ? WORSE : KNOWN;
    if (what == FIRST && tr_array_reserve((void **)&self->lost, &self->lost_capacity, self->n_lost + 1,
                                          sizeof *self->lost, NULL) != TR_OK) {
        tr__out_of_memory(self, "the name of a lost node");
    } else if (what == FIRST) {
        self->lost[at] = (tr__lost){.peer = peer, .control = control};
        __atomic_store_n(&self->n_lost, self->n_lost + 1, __ATOMIC_RELEASE);
    } else if (what == WORSE) {
        self->lost[at].control = true;
    }
    pthread_mutex_unlock(&self->peers_lock);
    return what;
}

void tr__peers_forget(tr_node *self, int32_t peer)
{
    pthread_mutex_lock(&self->peers_lock);
    size_t n = 0;
    for (size_t i = 0; i < self->n_lost; i++)
        if (peer >= 0 && self->lost[i].peer != peer) self->lost[n++] = self->lost[i];
    __atomic_store_n(&self->n_lost, n, __ATOMIC_RELEASE); /* see tr__peer_is_lost */
    pthread_mutex_unlock(&self->peers_lock);
}

tr_status tr__link_renew(tr__link *self, uint32_t oldest, tr_error *err)
{
    if (!self->transport) return TR_OK;
    pthread_mutex_lock(&self->lock);
    tr_status status = tr_transport_renew(self->transport, oldest, err);
    rearm(self);
    pthread_mutex_unlock(&self->lock);
    return status;
}

/* Marked before the actors are told: an actor that asks in between finds the mark, one that asked before
 * finds the notice in its lane. */
void tr__on_peer_lost(void *context, int32_t peer, const char *reason)
{
    tr_node *self = ((tr__link *)context)->node;
    bool control = context == &self->control;
    loss what = mark_lost(self, peer, control);
    if (what == KNOWN) return;
    if (what == FIRST) tr__notice_all(self, TR__TOPIC_NODE_LOST, (uint64_t)(uint32_t)peer, reason);
    tr_message *message =
        tr__text_message(self, 0, TR__TOPIC_NODE_LOST, reason); /* no frame has kind 0: it is from here */
    if (!message) return;
    message->frame.source = (uint64_t)(uint32_t)peer;
    message->frame.microbatch = control;
    tr_mailbox_push_notice(&self->inbox, &message);
    tr_scheduler_notify(self->scheduler, &self->service);
}

void tr__on_damaged(void *context, int32_t peer, const char *reason)
{
    tr_node *self = ((tr__link *)context)->node;
    tr_message *message = tr__text_message(self, 0, TR__TOPIC_DAMAGED, reason);
    if (!message) return;
    message->frame.source = (uint64_t)(uint32_t)peer;
    tr_mailbox_push_notice(&self->inbox, &message);
    tr_scheduler_notify(self->scheduler, &self->service);
}

static int32_t node_of(const tr__world *world, tr_actor_id id)
{
    const tr_actor_spec *spec = tr_topology_actor(world->topology, id);
    return spec ? spec->node : -1;
}

/* The receiving end that a DATA frame from this peer may come to. */
static tr_receiver_end *end_for_data(const tr__world *world, int32_t peer, const tr_frame *frame)
{
    tr_receiver_end *in = world && frame->edge < world->topology->n_edges ? world->ins[frame->edge] : NULL;
    return in && in->remote && node_of(world, in->spec->source) == peer ? in : NULL;
}

static tr_sender_end *end_for_credit(const tr__world *world, int32_t peer, const tr_frame *frame)
{
    tr_sender_end *out = world && frame->edge < world->topology->n_edges ? world->outs[frame->edge] : NULL;
    return out && peer >= 0 && node_of(world, out->spec->destination) == peer ? out : NULL;
}

tr_buffer *tr__on_place(void *context, int32_t peer, const tr_frame *frame)
{
    tr_node *self = ((tr__link *)context)->node;
    if (frame->kind == TR_FRAME_DATA) {
        tr_receiver_end *in = end_for_data(__atomic_load_n(&self->world, __ATOMIC_ACQUIRE), peer, frame);
        if (!in) count(&self->counters.n_dropped_unknown);
        tr_buffer *slot = NULL;
        if (in && tr_receiver_end_place(in, frame, &slot) == TR_ENOMEM)
            tr__out_of_memory(self, "the buffer of a slot");
        return slot;
    }
    tr_buffer *buffer = NULL;
    if (tr_buffer_new(&buffer, frame->body_bytes, NULL) != TR_OK)
        tr__out_of_memory(self, "the body of a control message");
    return buffer;
}

static void deliver_data(tr_node *self, const tr__world *world, int32_t peer, tr_message *message)
{
    tr_receiver_end *in = end_for_data(world, peer, &message->frame);
    if (!in) {
        count(&self->counters.n_dropped_unknown);
        tr_message_destroy(&message);
        return;
    }
    tr_message *next = tr_receiver_end_accept(in, &message);
    if (!next) return;
    tr_actor *to = world->actors[in->spec->destination - 1];
    while ((message = next)) {
        next = message->next;
        tr_mailbox_push(&to->mailbox, &message);
    }
    tr_scheduler_notify(self->scheduler, &to->task);
}

static void deliver_credit(tr_node *self, const tr__world *world, int32_t peer, tr_message *message)
{
    tr_sender_end *out = end_for_credit(world, peer, &message->frame);
    if (!out) {
        count(&self->counters.n_dropped_unknown);
    } else if (message->frame.epoch != self->options.epoch) {
        count(&self->counters.n_dropped_stale);
    } else if (tr_sender_end_credit_frame(out, message)) {
        tr_actor *source = world->actors[out->spec->source - 1];
        if (source->behavior->idle) tr_scheduler_notify(self->scheduler, &source->task);
    }
    tr__message_recycle(self, tr_scheduler_worker(self->scheduler), &message);
}

static void deliver_control(tr_node *self, const tr__world *world, tr_message *message)
{
    uint32_t topic = message->frame.edge;
    tr_actor *to = tr__actor_here(world, message->frame.destination);
    if (message->frame.epoch != self->options.epoch) {
        count(&self->counters.n_dropped_stale);
    } else if (!to || topic == TR__TOPIC_NODE_LOST || topic == TR_TOPIC_TIMER) {
        count(&self->counters.n_dropped_unknown);
    } else {
        tr__control_push(to, &message);
    }
    tr_message_destroy(&message);
}

/* Under the link's lock. */
void tr__on_deliver(void *context, int32_t peer, tr_message *message)
{
    tr_node *self = ((tr__link *)context)->node;
    tr__world *world = __atomic_load_n(&self->world, __ATOMIC_ACQUIRE);
    switch (message->frame.kind) {
    case TR_FRAME_DATA: deliver_data(self, world, peer, message); return;
    case TR_FRAME_CREDIT: deliver_credit(self, world, peer, message); return;
    case TR_FRAME_CONTROL: deliver_control(self, world, message); return;
    case TR_FRAME_SYSTEM:
        message->frame.source = (uint64_t)(uint32_t)peer;
        tr_mailbox_push_notice(&self->inbox, &message);
        tr_scheduler_notify(self->scheduler, &self->service);
        return;
    default: count(&self->counters.n_dropped_unknown); tr_message_destroy(&message);
    }
}
