/* runtime/worker.c - see worker.h. Loading and starting happen in the callback that hears of them: the node
 * calls back one at a time, without locks, and takes a topology while it runs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/worker.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/spin.h"
#include "base/thread_pool.h"
#include "runtime/chaos.h"
#include "runtime/control_messages.h"
#include "runtime/fault.h"
#include "runtime/lease.h"
#include "runtime/worker_memory.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { MEMORY_MS = 10000 };

struct tr_worker {
    const tr_worker_options *options;
    tr_node *node;
    tr_control_load load;       /* what actors' ends need is there before an actor starts */
    tr__worker_memory memory;   /* of this node's actors */
    tr_state_region **states;   /* the same by actor */
    uint32_t epoch, next_epoch; /* 0: the job ends */
    tr_chaos chaos;
    tr_keepsakes keepsakes; /* of actors to their next lives */
    bool heard_load, loaded;
    bool head_lost;        /* and nobody will follow */
    bool waits;            /* it is gone, another one may come */
    bool stopped;          /* by it: the job has ended, or goes on without this worker */
    bool leaves;           /* somebody wants it to end: another one is to take its place */
    uint32_t needs_layout; /* from the next epoch on: see tr__worker_memory */
    tr_lease_word head;
};

bool tr_worker_may_spin(const tr_topology *topology)
{
    int64_t threads = 1 + (int64_t)(topology->n_nodes - 1) * topology->threads_per_node;
    return threads <= tr_cpu_count();
}

void tr_worker_describe_failure(char *text, size_t capacity, const tr_activity_page *activity,
                                tr_actor_id actor, const tr_error *error)
{
    char doing[128] = "";
    if (activity) tr_activity_doing(activity, actor, doing, sizeof doing);
    snprintf(text, capacity, "%s%s%s%s", error->message, doing[0] ? " (" : "", doing, doing[0] ? ")" : "");
}

/* Without the head's control link there is no job. Its links for data it closes at every change of epoch; then what we say of it
 * is of an old one, and of no matter. Otherwise that one broke alone, and the head may never see it. */
static void on_peer_lost(void *context, int32_t peer, bool control, const char *reason)
{
    tr_worker *self = context;
    if (peer == TR_NODE_HEAD && control) {
        if (self->head.epoch > self->epoch) return; /* the next one is known already */
        self->waits = self->options->lease_ms > 0 && !self->stopped;
        self->head_lost = !self->waits;
        self->next_epoch = 0;
        tr_node_stop(self->node);
        return;
    }
    tr_control_note note = {.node = peer, .status = TR_ECLOSED};
    snprintf(note.text, sizeof note.text, "%s", reason);
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_PEER_LOST, &note);
}

static void on_damaged(void *context, int32_t peer, const char *reason)
{
    tr_worker *self = context;
    tr_control_note note = {.node = peer, .status = TR_ECORRUPT};
    snprintf(note.text, sizeof note.text, "%s", reason);
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_DAMAGED, &note);
}

static void on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    tr_worker *self = context;
    tr_control_note note = {.node = self->options->node, .pid = getpid(), .actor = who};
    if (error) {
        note.status = error->status == TR_OK ? TR_EINVAL : error->status;
        tr_worker_describe_failure(note.text, sizeof note.text, self->options->activity, who, error);
    }
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_ACTOR_ENDED, &note);
}

static void on_job_end(void *context, const tr_error *error)
{
    tr_worker *self = context;
    tr_control_note note = {.node = self->options->node, .pid = getpid()};
    if (error) {
        note.status = error->status == TR_OK ? TR_EINVAL : error->status;
        snprintf(note.text, sizeof note.text, "%s", error->message);
    }
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_JOB_ENDED, &note);
}

/* Which region is whose. */
static tr_status assign_regions(tr_worker *self, tr_error *err)
{
    const tr_topology *topology = &self->load.topology;
    int32_t next = 0;
    self->states = tr_alloc_zero(topology->n_actors, sizeof *self->states);
    if (!self->states) return tr_fail(err, TR_ENOMEM, "no memory for %zu state regions", topology->n_actors);
    for (size_t i = 0; i < topology->n_actors && next < self->memory.n_states; i++) {
        const tr_actor_spec *actor = &topology->actors[i];
        if (actor->node != self->options->node || !actor->state_bytes) continue;
        tr_state_region *region = self->memory.regions[next++];
        if (tr_state_region_slot_bytes(region) != actor->state_bytes)
            return tr_fail(err, TR_ECORRUPT, "the state memory of '%s' has slots of %llu bytes, not %llu",
                           actor->name, (unsigned long long)tr_state_region_slot_bytes(region),
                           (unsigned long long)actor->state_bytes);
        self->states[i] = region;
    }
    return TR_OK;
}

static tr_status connect_peers(tr_worker *self, tr_error *err)
{
    for (int32_t peer = 0; peer < self->load.topology.n_nodes; peer++) {
        const tr_control_hello *address = &self->load.addresses[peer];
        if (peer == self->options->node) continue;
        /* The head's control link is there: this order came over it. */
        const char *control = peer == TR_NODE_HEAD ? NULL : address->control_address;
        const char *data = address->data_address[0] ? address->data_address : NULL;
        tr_status status = tr_node_connect(self->node, peer, control, data, err);
        if (status != TR_OK) return tr_fail_within(err, status, "cannot reach node %d", peer);
    }
    return TR_OK;
}

static void load(tr_worker *self, const tr_message *message)
{
    tr_error err = {0};
    if (self->heard_load) return;
    self->heard_load = true;
    tr_status status =
        tr_control_decode_load(&self->load, tr_message_bytes(message), message->frame.body_bytes, &err);
    if (status == TR_OK) status = connect_peers(self, &err);
    if (status == TR_OK) status = assign_regions(self, &err);
    if (status == TR_OK) tr_node_set_epoch(self->node, self->epoch, self->load.generation);
    if (status == TR_OK) status = tr_node_load(self->node, &self->load.topology, self->states, &err);
    tr_keepsakes_clear(&self->keepsakes); /* of who lives elsewhere now */
    self->loaded = status == TR_OK;
    tr_control_note note = {.node = self->options->node, .pid = getpid(), .status = status};
    memcpy(note.text, err.message, sizeof note.text);
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_READY, &note);
    if (status == TR_EDEVICE) tr_node_fail(self->node, &err);
}

static void ask_to_leave(tr_worker *self)
{
    const tr_control_note note = {.node = self->options->node, .pid = getpid()};
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_LEAVING, &note);
}

/* SIGTERM. It goes on until the head says stop: then another one stands by. */
static void on_leave(void *context)
{
    tr_worker *self = context;
    struct signalfd_siginfo info;
    while (read(self->options->leave_descriptor, &info, sizeof info) == sizeof info) self->leaves = true;
    if (self->leaves) ask_to_leave(self);
}

static void suffer(tr_worker *self, const tr_message *message)
{
    tr_fault fault;
    tr_error err;
    if (tr_fault_decode(&fault, tr_message_bytes(message), message->frame.body_bytes, &err) == TR_OK)
        tr_node_suffer(self->node, &fault);
    else
        tr_log(TR_LOG_WARNING, "from the head: %s", err.message);
}

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    tr_worker *self = context;
    tr_control_note note;
    if (peer != TR_NODE_HEAD) return;
    switch (message->frame.edge) {
    case TR_CONTROL_LOAD: load(self, message); break;
    case TR_CONTROL_START:
        if (self->loaded) tr_node_start_actors(self->node);
        if (self->leaves) ask_to_leave(self);
        break;
    case TR_CONTROL_STOP:
        self->stopped = true;
        self->next_epoch = 0;
        tr_node_stop(self->node);
        break;
    case TR_CONTROL_EPOCH:
        if (tr_control_read_note(message, &note, NULL) != TR_OK || note.epoch <= self->epoch) break;
        if (note.epoch < self->next_epoch) break; /* of a head that is dead */
        self->next_epoch = note.epoch;
        self->needs_layout = note.layout;
        tr_node_stop(self->node);
        break;
    case TR_CONTROL_ACTOR_ENDED:
        if (self->loaded && tr_control_read_note(message, &note, NULL) == TR_OK)
            tr_node_actor_ended(self->node, note.actor, note.text);
        break;
    case TR_CONTROL_FAULT: suffer(self, message); break;
    default: tr_log(TR_LOG_WARNING, "the head sent topic %u, which workers do not know", message->frame.edge);
    }
}

/* The agent knows first that the head is dead, and who comes after it. */
static void hear_agent(tr_worker *self)
{
    tr_lease_word word;
    bool gone = false;
    while (tr_lease_hear(self->options->lease_socket, &word, &gone)) {
        if (word.layout) {
            tr__worker_memory_hear(&self->memory, &word);
        } else if (word.epoch == 0) {
            self->waits = true;
            self->next_epoch = 0;
        } else if (word.epoch > self->epoch) {
            self->head = word;
            self->next_epoch = word.epoch;
            self->needs_layout = 0; /* what there is has come before */
            self->waits = false;
        }
    }
    if (self->stopped) self->waits = false;
    if (self->stopped || gone) self->next_epoch = 0;
    if (!gone || !self->options->lease_ms) return; /* without a lease the kernel ends it with its agent */
    self->head_lost = true;
    self->waits = false;
}

/* From an epoch that has hardly begun. */
static bool is_called_away(const tr_worker *self)
{
    return self->waits || self->head_lost || self->next_epoch;
}

static void on_word(void *context)
{
    tr_worker *self = context;
    uint32_t before = self->next_epoch;
    hear_agent(self);
    if (self->waits || self->head_lost || self->next_epoch != before) tr_node_stop(self->node);
}

/* Without a node: nothing of what it did goes on. */
static tr_status await_head(tr_worker *self, tr_error *err)
{
    struct pollfd word = {.fd = self->options->lease_socket, .events = POLLIN};
    int lease_ms = (int)self->options->lease_ms + TR_LEASE_MARGIN_MS;
    while (self->waits) {
        int n = poll(&word, 1, lease_ms); /* from the last word on */
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        hear_agent(self);
    }
    return self->next_epoch ? TR_OK : tr_fail(err, TR_ECLOSED, "the head is gone, and no other one came");
}

static void on_activity(void *context, tr_actor_id who, const char *what, uint32_t step, uint32_t microbatch)
{
    (void)microbatch;
    tr_worker *self = context;
    const tr_actor_spec *actor = tr_topology_actor(&self->load.topology, who);
    int signal = actor ? tr_chaos_strikes(&self->chaos, self->epoch, actor->name, what, step) : 0;
    if (signal == TR_CHAOS_FLIP || signal == TR_CHAOS_NAN || signal == TR_CHAOS_DEVICE)
        tr_node_spoil(self->node, who, signal);
    else if (signal == TR_CHAOS_DAMAGE)
        tr_node_damage_next(self->node);
    else if (signal == TR_CHAOS_LOOP)
        for (volatile uint64_t n = 0;; n++) {
        }
    else if (signal)
        kill(getpid(), signal);
}

void tr_worker_on_tick(void *context, uint64_t now_ns)
{
    (void)now_ns;
    const tr_worker *self = context;
    const bool *must_stop = self->options->must_stop;
    if (self->options->activity) tr_activity_beat(self->options->activity);
    tr_spin_sample();
    if (must_stop && __atomic_load_n(must_stop, __ATOMIC_RELAXED))
        tr_node_stop(self->node); /* orders nothing */
}

static tr_status greet(tr_worker *self, tr_error *err)
{
    const tr_worker_options *options = self->options;
    tr_node_options node = {.node = options->node,
                            .deaths_are_told = true,
                            .incarnation = self->epoch, /* never used twice */
                            .epoch = self->epoch,
                            .n_threads = options->n_threads,
                            .data_transport = options->data_transport,
                            .control_transport = options->control_transport,
                            .bind = options->bind,
                            .key = options->key,
                            .registry = options->registry,
                            .activity = options->activity,
                            .keepsakes = &self->keepsakes,
                            .may_spin = self->memory.may_spin,
                            .context = self,
                            .on_system = on_system,
                            .on_peer_lost = on_peer_lost,
                            .on_damaged = on_damaged,
                            .on_actor_end = on_actor_end,
                            .on_job_end = on_job_end};
    if (options->simulated) {
        node.virtual_ns = options->simulated->virtual_ns;
        node.data_network = options->simulated->data_network;
        node.control_network = options->simulated->control_network;
        node.observe = options->simulated->observe;
        node.observe_slot = options->simulated->observe_slot;
        node.observer = options->simulated->observer;
    }
    if (self->chaos.n_points) node.on_activity = on_activity;
    memcpy(node.job_key, self->head.job_key, sizeof node.job_key);
    tr_status status = tr_node_new(&self->node, &node, err);
    if (status == TR_OK && options->lease_ms)
        status = tr_node_watch(self->node, options->lease_socket, on_word, self, err);
    if (status == TR_OK && options->leave_descriptor > 0)
        status = tr_node_watch(self->node, options->leave_descriptor, on_leave, self, err);
    if (status == TR_OK)
        status = tr_node_connect(self->node, TR_NODE_HEAD, self->head.head_address, NULL, err);
    if (status != TR_OK) return status;
    tr_control_hello hello = {
        .epoch = self->epoch, .member = self->options->member, .has_state = self->memory.n_states > 0};
    for (int32_t i = 0; i < self->memory.n_states; i++)
        hello.n_rotten += (uint32_t)tr_state_discard_rotten(self->memory.regions[i]);
    tr_state_common_generations(self->memory.regions, (size_t)self->memory.n_states, hello.generations);
    return tr_control_send_hello(self->node, TR_NODE_HEAD, &hello, err);
}

tr_status tr_worker_new(tr_worker **out, const tr_worker_options *options, tr_error *err)
{
    tr_worker *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for worker %d", options->node);
    tr_keepsakes_init(&self->keepsakes);
    self->options = options;
    self->next_epoch = options->epoch;
    memcpy(self->head.job_key, options->job_key, sizeof self->head.job_key);
    snprintf(self->head.head_address, sizeof self->head.head_address, "%s", options->head_address);
    tr_status status = tr_chaos_parse(&self->chaos, options->chaos, err);
    if (status == TR_OK)
        status = tr__worker_memory_open(&self->memory, options->first_state_descriptor, options->n_states,
                                        options->regions, options->may_spin, err);
    self->memory.layout = options->layout;
    if (status == TR_OK)
        *out = self;
    else
        tr_worker_destroy(&self);
    return status;
}

/* In another layout its agent sends its memory, which may take until then. Without a head nobody is to be greeted. */
static tr_status take_memory(tr_worker *self, tr_error *err)
{
    struct pollfd word = {.fd = self->options->lease_socket, .events = POLLIN};
    if (word.fd <= 0) return TR_OK; /* it has no agent */
    while (hear_agent(self),
           !is_called_away(self) && !tr__worker_memory_has(&self->memory, self->needs_layout)) {
        int n = poll(&word, 1, MEMORY_MS);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return tr_fail(err, TR_ETIMEDOUT, "the agent did not send the state of layout %u",
                           self->needs_layout);
    }
    return is_called_away(self) ? TR_OK : tr__worker_memory_take(&self->memory, err);
}

tr_status tr_worker_begin_epoch(tr_worker *self, tr_error *err)
{
    self->epoch = self->next_epoch;
    self->next_epoch = 0;
    self->waits = false;
    if (self->options->activity) tr_activity_clear(self->options->activity); /* its actors are gone */
    uint32_t layout = self->memory.layout;
    tr_status status = take_memory(self, err);
    if (self->memory.layout != layout) tr_keepsakes_clear(&self->keepsakes); /* its actors are others now */
    return status == TR_OK && !is_called_away(self) ? greet(self, err) : status;
}

bool tr_worker_waits(const tr_worker *self)
{
    return self->waits;
}

uint32_t tr_worker_epoch(const tr_worker *self)
{
    return self->epoch;
}

bool tr_worker_is_called(const tr_worker *self)
{
    return self->next_epoch != 0;
}

bool tr_worker_hear(tr_worker *self)
{
    struct pollfd word = {.fd = self->options->lease_socket, .events = POLLIN};
    if (poll(&word, 1, 0) != 1) return false;
    hear_agent(self);
    return true;
}

tr_node *tr_worker_node(const tr_worker *self)
{
    return self->node;
}

/* Nothing of one epoch is there in the next but the state's memory and what actors left to their next lives, which nobody
 * reads before those begin: no actor, no link, no message under way. */
bool tr_worker_end_epoch(tr_worker *self)
{
    tr_node_destroy(&self->node);
    tr_free(self->states);
    self->states = NULL;
    tr_control_load_release(&self->load);
    self->heard_load = self->loaded = false;
    return self->next_epoch != 0;
}

void tr_worker_move(tr_worker *self, const tr_worker_options *options)
{
    self->options = options;
}

void tr_worker_destroy(tr_worker **out)
{
    tr_worker *self = *out;
    if (!self) return;
    (void)tr_worker_end_epoch(self);
    tr_keepsakes_release(&self->keepsakes);
    tr__worker_memory_release(&self->memory);
    explicit_bzero(&self->head, sizeof self->head);
    tr_free(self);
    *out = NULL;
}

tr_status tr_worker_run(const tr_worker_options *options, tr_error *err)
{
    tr_worker *self;
    tr_status status = tr_worker_new(&self, options, err);
    if (status != TR_OK) return status;
    for (bool goes_on = true; goes_on;) {
        status = tr_worker_begin_epoch(self, err);
        if (status == TR_OK && self->node) tr_node_run(self->node, TR_WORKER_TICK_MS, tr_worker_on_tick);
        if (status == TR_OK && self->node) status = tr_node_failure(self->node, err);
        if (status == TR_OK && self->head_lost) status = tr_fail(err, TR_ECLOSED, "the head is gone");
        goes_on = tr_worker_end_epoch(self) && status == TR_OK;
        if (status == TR_OK && self->waits) goes_on = (status = await_head(self, err)) == TR_OK;
    }
    tr_worker_destroy(&self);
    return status;
}
