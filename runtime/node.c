/* runtime/node.c - the life of a node: its parts, its sleep, its callbacks.
 * All callbacks to whoever runs the node come from one task, the service: never two at a time, on a
 * scheduler thread, without locks held.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#include <stddef.h>
#include <string.h>

enum {
    LOOK_AT_WATCHED_NS = 1000000, /* while there is always work */
    BESIDE_DATA_TICKS =
        16384, /* 4 to 8 us between looks at all else while there is data, or somebody spins for it */
    UNSENT_SLEEP_NS = 1000000 /* longest sleep while a transport has something to send */
};

uint64_t tr_node_now_ns(const tr_node *self)
{
    return tr__node_now(self);
}

uint64_t tr__node_now(const tr_node *self)
{
    return self->options.virtual_ns ? *self->options.virtual_ns : tr_clock_ns();
}

/* ---- the service: callbacks ---- */

static void call_back(tr_node *self, const tr_message *message)
{
    const tr_node_options *options = &self->options;
    const tr_frame *frame = &message->frame;
    tr_error error = {0}, *reason = NULL;
    if (frame->kind == TR_FRAME_SYSTEM) {
        if (options->on_system) options->on_system(options->context, (int32_t)frame->source, message);
        return;
    }
    const char *text = tr_message_bytes(message);
    if (frame->step != TR_OK) {
        tr_fail(&error, (tr_status)frame->step, "%s", text);
        reason = &error;
    }
    switch (frame->edge) {
    case TR__TOPIC_NODE_LOST:
        if (options->on_peer_lost)
            options->on_peer_lost(options->context, (int32_t)frame->source, frame->microbatch != 0, text);
        return;
    case TR__TOPIC_ACTOR_END:
        if (options->on_actor_end) options->on_actor_end(options->context, frame->source, reason);
        return;
    case TR__TOPIC_JOB_END:
        if (options->on_job_end) options->on_job_end(options->context, reason);
        return;
    case TR__TOPIC_ACCUSED:
        if (options->on_accused) options->on_accused(options->context, (int32_t)frame->microbatch, text);
        return;
    case TR__TOPIC_DAMAGED:
        if (options->on_damaged) options->on_damaged(options->context, (int32_t)frame->source, text);
        return;
    case TR__TOPIC_RUN_AGAIN:
        if (options->on_run_again)
            options->on_run_again(options->context, &error);
        else if (options->on_job_end)
            options->on_job_end(options->context, &error);
        return;
    default: TR_ASSERT(false && "a message from here with such a topic");
    }
}

static void service_inbox(tr_node *self, bool is_stopped)
{
    for (tr_message *message; (message = tr_mailbox_pop_control(&self->inbox)); tr_message_destroy(&message))
        if (!is_stopped || message->frame.kind != TR_FRAME_SYSTEM) call_back(self, message);
}

static bool run_service(tr_task *task, int worker)
{
    (void)worker;
    tr_node *self = (tr_node *)((char *)task - offsetof(tr_node, service));
    service_inbox(self, false);
    tr_poller_dispatch(&self->poller);
    if (__atomic_exchange_n(&self->tick_due, false, __ATOMIC_RELAXED) &&
        self->on_tick) /* ordered by the notify */
        self->on_tick(self->options.context, tr__node_now(self));
    return false;
}

/* ---- what the scheduler asks for ---- */

static bool expire(tr_node *self, uint64_t now_ns)
{
    bool some = false;
    tr__world *world = __atomic_load_n(&self->world, __ATOMIC_ACQUIRE);
    for (tr_timer timer; tr_timers_take(&self->timers, now_ns, &timer); some = true) {
        tr_actor *actor = tr__actor_here(world, timer.actor);
        tr_message *message = tr__message_new(self, tr_scheduler_worker(self->scheduler));
        if (!message) continue;
        message->frame.kind = TR_FRAME_CONTROL;
        message->frame.edge = TR_TOPIC_TIMER;
        message->frame.step = timer.tag;
        message->frame.incarnation = timer.incarnation;
        message->frame.destination = timer.actor;
        tr__control_push(actor, &message);
    }
    uint64_t tick = __atomic_load_n(&self->next_tick_ns, __ATOMIC_RELAXED);
    if (now_ns >= tick && __atomic_compare_exchange_n(&self->next_tick_ns, &tick, now_ns + self->tick_ns,
                                                      false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        __atomic_store_n(&self->tick_due, true, __ATOMIC_RELAXED);
        tr_scheduler_notify(self->scheduler, &self->service);
        some = true;
    }
    return some;
}

static void look_at_watched(tr_node *self, uint64_t now_ns)
{
    if (now_ns - __atomic_load_n(&self->polled_ns, __ATOMIC_RELAXED) < LOOK_AT_WATCHED_NS) return;
    __atomic_store_n(&self->polled_ns, now_ns, __ATOMIC_RELAXED);
    if (tr_poller_wait(&self->poller, NULL, 0, 0)) tr_scheduler_notify(self->scheduler, &self->service);
}

/* Data is looked for each time. All else can wait for some microseconds, and costs more than a message does: a clock, timers,
 * and over zmq a system call. */
static bool on_progress(void *context)
{
    tr_node *self = context;
    bool some = tr__link_progress(&self->data) > 0;
    uint64_t now = tr_clock_ticks();
    if (now - __atomic_load_n(&self->looked, __ATOMIC_RELAXED) < BESIDE_DATA_TICKS) return some;
    __atomic_store_n(&self->looked, now, __ATOMIC_RELAXED);
    some = tr__link_progress(&self->control) > 0 || some;
    uint64_t now_ns = tr__node_now(self);
    some = expire(self, now_ns) || some;
    look_at_watched(self, now_ns);
    return some;
}

/* true: the link is ready for a sleep on its descriptors, which are added to `all`. */
static bool arm(tr__link *self, int *all, int *n, bool *unsent)
{
    if (!self->transport) return true;
    pthread_mutex_lock(&self->lock);
    self->armed = tr_transport_arm(self->transport);
    bool armed = self->armed;
    *n += tr_transport_descriptors(self->transport, all + *n);
    *unsent = *unsent || tr_transport_unsent(self->transport) > 0;
    pthread_mutex_unlock(&self->lock);
    return armed;
}

static void disarm(tr__link *self)
{
    if (!self->transport) return;
    pthread_mutex_lock(&self->lock);
    self->armed = false;
    pthread_mutex_unlock(&self->lock);
}

static void on_sleep(void *context)
{
    tr_node *self = context;
    int descriptors[2 * TR_TRANSPORT_MAX_DESCRIPTORS], n = 0;
    bool unsent = false;
    __atomic_store_n(&self->looked, 0, __ATOMIC_RELAXED); /* whatever ends the sleep is looked at */
    if (arm(&self->data, descriptors, &n, &unsent) && arm(&self->control, descriptors, &n, &unsent)) {
        /* A timer set from now on rouses us; one set before is seen here. */
        uint64_t due_ns = tr_timers_next(&self->timers), now_ns = tr__node_now(self);
        uint64_t tick_ns = __atomic_load_n(&self->next_tick_ns, __ATOMIC_RELAXED), timeout_ns = UINT64_MAX;
        if (tick_ns < due_ns) due_ns = tick_ns;
        if (due_ns != UINT64_MAX) timeout_ns = due_ns > now_ns ? due_ns - now_ns : 0;
        if (unsent && timeout_ns > UNSENT_SLEEP_NS) timeout_ns = UNSENT_SLEEP_NS;
        if (tr_poller_wait(&self->poller, descriptors, n, timeout_ns))
            tr_scheduler_notify(self->scheduler, &self->service);
    }
    disarm(&self->data);
    disarm(&self->control);
}

static void on_rouse(void *context)
{
    tr_poller_rouse(&((tr_node *)context)->poller);
}

/* ---- life ---- */

static tr_status open_link(tr__link *self, const char *kind, const tr_node_options *options, bool is_control,
                           tr_error *err)
{
    if (!kind) return TR_OK;
    tr_transport_options transport = {
        .node = options->node,
        .incarnation = options->incarnation,
        .bind = options->bind,
        .key = options->key,
        .deaths_are_told = options->deaths_are_told,
    };
    /* Bodies on edges are held to their slots by tr__on_place. */
    if (!is_control) transport.max_body_bytes = UINT32_MAX;
    transport.network = is_control ? options->control_network : options->data_network;
    memcpy(transport.job_key, options->job_key, sizeof transport.job_key);
    tr_transport_events events = {.context = self,
                                  .place = tr__on_place,
                                  .deliver = tr__on_deliver,
                                  .peer_lost = tr__on_peer_lost,
                                  .damaged = tr__on_damaged};
    return tr_transport_new(&self->transport, kind, &transport, &events, err);
}

tr_status tr_node_new(tr_node **out, const tr_node_options *options, tr_error *err)
{
    tr_node *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a node");
    tr_scheduler_hooks hooks = {
        .context = self, .progress = on_progress, .sleep = on_sleep, .rouse = on_rouse};
    self->options = *options;
    self->next_tick_ns = UINT64_MAX;
    tr_status status = tr_poller_init(&self->poller, err);
    if (status != TR_OK) goto no_poller;
    tr_timers_init(&self->timers);
    tr_mailbox_init(&self->inbox, 0, 0, NULL, NULL); /* without a data lane: it cannot fail */
    tr_task_init(&self->service, run_service, false);
    pthread_mutex_init(&self->peers_lock, NULL);
    self->data.node = self->control.node = self;
    pthread_mutex_init(&self->data.lock, NULL);
    pthread_mutex_init(&self->control.lock, NULL);
    status = tr_scheduler_new(&self->scheduler, options->n_threads, options->may_spin, &hooks, err);
    if (status != TR_OK) goto failed;
    self->caches = tr_alloc_zero((size_t)options->n_threads, sizeof *self->caches);
    if (!self->caches) status = tr_fail(err, TR_ENOMEM, "no memory for a node");
    if (status == TR_OK) status = open_link(&self->data, options->data_transport, options, false, err);
    if (status == TR_OK) status = open_link(&self->control, options->control_transport, options, true, err);
    self->options.key = NULL; /* the caller's; the transports have copies */
    if (status != TR_OK) goto failed;
    *out = self;
    return TR_OK;
failed:
    tr_node_destroy(&self);
    return status;
no_poller:
    tr_free(self);
    return status;
}

const char *tr_node_control_address(const tr_node *self)
{
    return self->control.transport ? tr_transport_address(self->control.transport) : "";
}

const char *tr_node_data_address(const tr_node *self)
{
    return self->data.transport ? tr_transport_address(self->data.transport) : "";
}

static tr_status connect_link(tr__link *self, int32_t peer, const char *address, tr_error *err)
{
    if (!address || !self->transport) return TR_OK;
    pthread_mutex_lock(&self->lock);
    tr_status status = tr_transport_connect(self->transport, peer, address, err);
    if (self->armed && !tr_transport_arm(self->transport)) tr_poller_rouse(&self->node->poller);
    pthread_mutex_unlock(&self->lock);
    return status;
}

tr_status tr_node_connect(tr_node *self, int32_t peer, const char *control_address, const char *data_address,
                          tr_error *err)
{
    tr_status status = connect_link(&self->control, peer, control_address, err);
    return status == TR_OK ? connect_link(&self->data, peer, data_address, err) : status;
}

static void disconnect_link(tr__link *self, int32_t peer)
{
    if (!self->transport) return;
    pthread_mutex_lock(&self->lock);
    tr_transport_disconnect(self->transport, peer);
    if (self->armed && !tr_transport_arm(self->transport)) tr_poller_rouse(&self->node->poller);
    pthread_mutex_unlock(&self->lock);
}

void tr_node_disconnect(tr_node *self, int32_t peer)
{
    disconnect_link(&self->control, peer);
    disconnect_link(&self->data, peer);
}

tr_status tr_node_load(tr_node *self, const tr_topology *topology, tr_state_region *const *states,
                       tr_error *err)
{
    TR_ASSERT(!self->world);
    tr__world *world;
    tr_status status = tr__world_new(&world, self, topology, states, err);
    if (status == TR_OK)
        __atomic_store_n(&self->world, world, __ATOMIC_RELEASE); /* whole, for every acquire of it */
    return status;
}

tr_status tr_node_unload(tr_node *self, uint32_t next_epoch, tr_error *err)
{
    tr_scheduler_clear(self->scheduler);
    if (self->world) tr__world_stop(self->world);
    tr_scheduler_clear(self->scheduler); /* their last words to each other */
    if (!tr_task_is_running(
            &self->service)) /* it may have been among what was dropped, and would never run again */
        tr_task_init(&self->service, run_service, false);
    tr__world *world = self->world;
    __atomic_store_n(&self->world, NULL, __ATOMIC_RELEASE);
    tr__world_destroy(&world);
    tr_timers_release(&self->timers);
    tr_timers_init(&self->timers);
    tr_status status = tr__link_renew(&self->data, next_epoch, err);
    tr__peers_forget(self, -1);
    tr_scheduler_notify(self->scheduler, &self->service);
    return status;
}

void tr_node_set_epoch(tr_node *self, uint32_t epoch, uint64_t generation)
{
    TR_ASSERT(!self->world && epoch >= self->options.epoch);
    self->options.epoch = epoch;
    self->generation = generation;
}

void tr_node_found(tr_node *self, int32_t peer)
{
    tr__peers_forget(self, peer);
}

void tr_node_damage_next(tr_node *self)
{
    if (!self->data.transport) return;
    pthread_mutex_lock(&self->data.lock);
    tr_transport_damage_next(self->data.transport);
    pthread_mutex_unlock(&self->data.lock);
}

void tr_node_spoil(tr_node *self, tr_actor_id who, int how)
{
    tr_actor *actor = tr__actor_here(self->world, who);
    if (actor) actor->spoil = how;
}

void tr_node_start_actors(tr_node *self)
{
    tr__world *world = self->world;
    TR_ASSERT(world);
    for (size_t i = 0; i < world->topology->n_actors; i++)
        if (world->actors[i]) tr_scheduler_launch(self->scheduler, &world->actors[i]->task);
}

void tr_node_begin(tr_node *self, uint32_t tick_ms, void (*on_tick)(void *context, uint64_t now_ns))
{
    self->on_tick = on_tick;
    self->tick_ns = (uint64_t)tick_ms * 1000000;
    uint64_t first = on_tick && tick_ms ? tr__node_now(self) + self->tick_ns : UINT64_MAX;
    __atomic_store_n(&self->next_tick_ns, first, __ATOMIC_RELAXED);
}

void tr_node_finish(tr_node *self)
{
    service_inbox(self, true);      /* whoever ended just before the stop is told of */
    tr__link_progress(&self->data); /* a last word that an actor or callback may have sent */
    tr__link_progress(&self->control);
}

void tr_node_run(tr_node *self, uint32_t tick_ms, void (*on_tick)(void *context, uint64_t now_ns))
{
    tr_error err;
    tr_node_begin(self, tick_ms, on_tick);
    if (tr_scheduler_run(self->scheduler, &err) != TR_OK) tr_log(TR_LOG_ERROR, "%s", err.message);
    tr_node_finish(self);
}

bool tr_node_is_stopped(const tr_node *self)
{
    return tr_scheduler_is_stopped(self->scheduler);
}

uint32_t tr_node_runnable(const tr_node *self)
{
    return tr_scheduler_queued(self->scheduler);
}

void tr_node_step(tr_node *self, uint32_t which)
{
    tr_scheduler_step(self->scheduler, which);
}

static bool progress_links(tr_node *self)
{
    bool some = tr__link_progress(&self->data) > 0;
    return tr__link_progress(&self->control) > 0 || some;
}

void tr_node_look(tr_node *self)
{
    if (tr_poller_wait(&self->poller, NULL, 0, 0)) tr_scheduler_notify(self->scheduler, &self->service);
}

bool tr_node_progress(tr_node *self)
{
    bool some = progress_links(self);
    return expire(self, tr__node_now(self)) || some;
}

uint64_t tr_node_next_timer_ns(const tr_node *self)
{
    uint64_t timer_ns = tr_timers_next(&self->timers);
    uint64_t tick_ns = __atomic_load_n(&self->next_tick_ns, __ATOMIC_RELAXED);
    return timer_ns < tick_ns ? timer_ns : tick_ns;
}

void tr_node_stop(tr_node *self)
{
    tr_scheduler_stop(self->scheduler);
}

void tr_node_fail(tr_node *self, const tr_error *error)
{
    uint32_t not_yet = TR__FAIL_NOT;
    /* Relaxed: it only chooses who writes. */
    if (__atomic_compare_exchange_n(&self->failing, &not_yet, TR__FAIL_BEGUN, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
        self->failure = *error;
        /* release: pairs with the acquire in tr_node_failure */
        __atomic_store_n(&self->failing, TR__FAIL_TOLD, __ATOMIC_RELEASE);
    }
    tr_node_stop(self);
}

tr_status tr_node_failure(const tr_node *self, tr_error *err)
{
    if (__atomic_load_n(&self->failing, __ATOMIC_ACQUIRE) != TR__FAIL_TOLD) return TR_OK;
    if (err) *err = self->failure;
    return self->failure.status;
}

void tr__out_of_memory(tr_node *self, const char *what)
{
    tr_error error;
    tr_fail(&error, TR_ENOMEM, "out of memory: node %d cannot allocate %s, and ends", self->options.node,
            what);
    tr_node_fail(self, &error);
}

tr_status tr_node_watch(tr_node *self, int descriptor, void (*ready)(void *context), void *context,
                        tr_error *err)
{
    return tr_poller_watch(&self->poller, descriptor, ready, context, err);
}

void tr_node_unwatch(tr_node *self, int descriptor)
{
    tr_poller_unwatch(&self->poller, descriptor);
}

void tr_node_send_system(tr_node *self, int32_t peer, uint32_t topic, const void *bytes, uint32_t size_bytes)
{
    tr_message *message;
    if (tr_message_copy(&message, bytes, size_bytes, NULL) != TR_OK) {
        tr__out_of_memory(self, "a message between nodes");
        return;
    }
    message->frame.kind = TR_FRAME_SYSTEM;
    message->frame.edge = topic;
    message->frame.epoch = self->options.epoch;
    message->frame.incarnation = self->options.incarnation;
    message->frame.source = (uint64_t)(uint32_t)self->options.node;
    message->frame.destination = (uint64_t)(uint32_t)peer;
    if (peer != self->options.node) {
        tr__link_send(&self->control, peer, &message); /* on_peer_lost tells of a peer that is gone */
        return;
    }
    tr_mailbox_push_notice(&self->inbox, &message);
    tr_scheduler_notify(self->scheduler, &self->service);
}

void tr_node_post(tr_node *self, tr_actor_id to, uint32_t topic, const void *bytes, uint32_t size_bytes)
{
    tr_message *message;
    if (tr_message_copy(&message, bytes, size_bytes, NULL) != TR_OK) {
        tr__out_of_memory(self, "a control message");
        return;
    }
    message->frame.kind = TR_FRAME_CONTROL;
    message->frame.edge = topic;
    message->frame.destination = to;
    tr__control_route(self, __atomic_load_n(&self->world, __ATOMIC_ACQUIRE), &message);
}

void tr_node_actor_ended(tr_node *self, tr_actor_id who, const char *reason)
{
    tr__notice_all(self, TR__TOPIC_DOWN, who, reason);
}

void tr_node_destroy(tr_node **out)
{
    tr_node *self = *out;
    if (!self) return;
    if (self->world) tr__world_stop(self->world);
    tr_transport_destroy(&self->data.transport);
    tr_transport_destroy(&self->control.transport);
    tr__world_destroy(&self->world);
    tr_mailbox_release(&self->inbox);
    for (int i = 0; self->caches && i < self->options.n_threads; i++) {
        for (tr_message *message; (message = self->caches[i].first);) {
            self->caches[i].first = message->next;
            tr_message_destroy(&message);
        }
    }
    tr_free(self->caches);
    tr_free(self->lost);
    tr_scheduler_destroy(&self->scheduler);
    tr_timers_release(&self->timers);
    tr_poller_release(&self->poller);
    pthread_mutex_destroy(&self->peers_lock);
    pthread_mutex_destroy(&self->data.lock);
    pthread_mutex_destroy(&self->control.lock);
    tr_free(self);
    *out = NULL;
}
