/* runtime/worker.c - see worker.h. Loading and starting happen in the callback that hears of them: the node
 * calls back one at a time, without locks, and takes a topology while it runs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/worker.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/spin.h"
#include "base/thread_pool.h"
#include "runtime/control_messages.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct worker {
    const tr_worker_options *options;
    tr_node *node;
    tr_control_load load; /* what actors' ends need is there before an actor starts */
    tr_state_region **states;
    bool heard_load, loaded, head_lost;
} worker;

enum { SAMPLE_MS = 100 };

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

static void on_peer_lost(void *context, int32_t peer, const char *reason)
{
    worker *self = context;
    if (peer == TR_NODE_HEAD) {
        self->head_lost = true;
        tr_node_stop(self->node);
        return;
    }
    tr_control_note note = {.node = peer, .status = TR_ECLOSED};
    snprintf(note.text, sizeof note.text, "%s", reason);
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_PEER_LOST, &note);
}

static void on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    worker *self = context;
    tr_control_note note = {.node = self->options->node, .pid = getpid(), .actor = who};
    if (error) {
        note.status = error->status == TR_OK ? TR_EINVAL : error->status;
        tr_worker_describe_failure(note.text, sizeof note.text, self->options->activity, who, error);
    }
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_ACTOR_ENDED, &note);
}

static void on_job_end(void *context, const tr_error *error)
{
    worker *self = context;
    tr_control_note note = {.node = self->options->node, .pid = getpid()};
    if (error) {
        note.status = error->status == TR_OK ? TR_EINVAL : error->status;
        snprintf(note.text, sizeof note.text, "%s", error->message);
    }
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_JOB_ENDED, &note);
}

/* The regions of this node's actors, in the topology's order; their descriptors came in the same order. */
static tr_status open_states(worker *self, tr_error *err)
{
    const tr_topology *topology = &self->load.topology;
    int descriptor = self->options->first_state_descriptor;
    self->states = tr_alloc_zero(topology->n_actors, sizeof *self->states);
    if (!self->states) return tr_fail(err, TR_ENOMEM, "no memory for %zu state regions", topology->n_actors);
    for (size_t i = 0; i < topology->n_actors && descriptor >= 0; i++) {
        const tr_actor_spec *actor = &topology->actors[i];
        if (actor->node != self->options->node || actor->state_bytes == 0) continue;
        tr_status status = tr_state_region_open(&self->states[i], descriptor, err);
        if (status != TR_OK) return tr_fail_within(err, status, "%s", actor->name);
        descriptor++;
    }
    return TR_OK;
}

static tr_status connect_peers(worker *self, tr_error *err)
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

static void load(worker *self, const tr_message *message)
{
    tr_error err = {0};
    if (self->heard_load) return;
    self->heard_load = true;
    tr_status status =
        tr_control_decode_load(&self->load, tr_message_bytes(message), message->frame.body_bytes, &err);
    if (status == TR_OK) status = connect_peers(self, &err);
    if (status == TR_OK) status = open_states(self, &err);
    if (status == TR_OK) status = tr_node_load(self->node, &self->load.topology, self->states, &err);
    self->loaded = status == TR_OK;
    tr_control_note note = {.node = self->options->node, .pid = getpid(), .status = status};
    memcpy(note.text, err.message, sizeof note.text);
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_READY, &note);
}

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    worker *self = context;
    tr_control_note note;
    if (peer != TR_NODE_HEAD) return;
    switch (message->frame.edge) {
    case TR_CONTROL_LOAD: load(self, message); break;
    case TR_CONTROL_START:
        if (self->loaded) tr_node_start_actors(self->node);
        break;
    case TR_CONTROL_STOP: tr_node_stop(self->node); break;
    case TR_CONTROL_ACTOR_ENDED:
        if (self->loaded && tr_control_read_note(message, &note, NULL) == TR_OK)
            tr_node_actor_ended(self->node, note.actor, note.text);
        break;
    default: tr_log(TR_LOG_WARNING, "the head sent topic %u, which workers do not know", message->frame.edge);
    }
}

static void on_tick(void *context, uint64_t now_ns)
{
    (void)context, (void)now_ns;
    tr_spin_sample();
}

static tr_status greet(worker *self, tr_error *err)
{
    const tr_worker_options *options = self->options;
    tr_node_options node = {.node = options->node,
                            .incarnation = options->incarnation,
                            .epoch = options->epoch,
                            .n_threads = options->n_threads,
                            .data_transport = options->data_transport,
                            .control_transport = options->control_transport,
                            .bind = options->bind,
                            .key = options->key,
                            .registry = options->registry,
                            .activity = options->activity,
                            .may_spin = options->may_spin,
                            .context = self,
                            .on_system = on_system,
                            .on_peer_lost = on_peer_lost,
                            .on_actor_end = on_actor_end,
                            .on_job_end = on_job_end};
    memcpy(node.job_key, options->job_key, sizeof node.job_key);
    tr_status status = tr_node_new(&self->node, &node, err);
    if (status == TR_OK) status = tr_node_connect(self->node, TR_NODE_HEAD, options->head_address, NULL, err);
    if (status == TR_OK) status = tr_control_send_hello(self->node, TR_NODE_HEAD, err);
    return status;
}

tr_status tr_worker_run(const tr_worker_options *options, tr_error *err)
{
    worker self = {.options = options};
    tr_status status = greet(&self, err);
    if (status == TR_OK) tr_node_run(self.node, SAMPLE_MS, on_tick);
    if (status == TR_OK && self.head_lost) status = tr_fail(err, TR_ECLOSED, "the head is gone");
    tr_node_destroy(&self.node);
    for (size_t i = 0; self.states && i < self.load.topology.n_actors; i++)
        tr_state_region_destroy(&self.states[i]);
    tr_free(self.states);
    tr_control_load_release(&self.load);
    return status;
}
