/* test/runtime/node_stage.h - one or two nodes, played by threads, on which a test puts actors.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_RUNTIME_NODE_STAGE_H
#define TROUPE_TEST_RUNTIME_NODE_STAGE_H

#include "base/clock.h"
#include "base/thread_pool.h"
#include "check.h"
#include "runtime/node.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct stage {
    tr_node *nodes[2];
    int n_nodes;
    tr_topology topology;
    _Atomic int n_ended, n_peers_lost, n_ticks, n_system;
    _Atomic bool job_ended, timed_out;
    tr_error job_error, end_error;
    uint64_t deadline_ns;
    int n_threads;
} stage;

static stage *on_stage;
static pthread_mutex_t ends_lock = PTHREAD_MUTEX_INITIALIZER;

static inline void stop_all(stage *self)
{
    for (int i = 0; i < self->n_nodes; i++) tr_node_stop(self->nodes[i]);
}

static inline void on_job_end(void *context, const tr_error *error)
{
    stage *self = context;
    if (atomic_exchange(&self->job_ended, true)) return;
    if (error) self->job_error = *error;
    stop_all(self);
}

static inline void on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    stage *self = context;
    (void)who;
    pthread_mutex_lock(&ends_lock); /* two nodes, two threads */
    if (error) self->end_error = *error;
    pthread_mutex_unlock(&ends_lock);
    self->n_ended++;
}

static inline void on_peer_lost(void *context, int32_t peer, bool control, const char *reason)
{
    (void)control;
    (void)peer;
    (void)reason;
    ((stage *)context)->n_peers_lost++;
}

static inline void on_system(void *context, int32_t peer, const tr_message *message)
{
    stage *self = context;
    if (message->frame.edge == 7 && peer >= 0) self->n_system++;
}

static inline void on_tick(void *context, uint64_t now_ns)
{
    stage *self = context;
    self->n_ticks++;
    (void)now_ns;
    if (!CHECK_LATE(self->deadline_ns)) return;
    self->timed_out = true;
    stop_all(self);
}

static inline void *run_node(void *node)
{
    tr_node_run(node, 10, on_tick);
    return NULL;
}

static inline void stage_open(stage *self, int n_nodes, int n_threads, const tr_registry *registry)
{
    tr_error err;
    memset(self, 0, sizeof *self);
    on_stage = self;
    self->n_nodes = n_nodes;
    self->deadline_ns = tr_clock_ns() + 20000000000ull;
    tr_topology_init(&self->topology, n_nodes);
    for (int i = 0; i < n_nodes; i++) {
        tr_node_options options = {.node = i,
                                   .incarnation = 1,
                                   .epoch = 1,
                                   .n_threads = n_threads,
                                   .data_transport = n_nodes > 1 ? "inproc" : NULL,
                                   .control_transport = n_nodes > 1 ? "inproc" : NULL,
                                   .registry = registry,
                                   .context = self,
                                   .on_system = on_system,
                                   .on_peer_lost = on_peer_lost,
                                   .on_actor_end = on_actor_end,
                                   .on_job_end = on_job_end};
        CHECK_OK(tr_node_new(&self->nodes[i], &options, &err));
    }
    for (int i = 0; n_nodes > 1 && i < 2; i++) /* both, since both may be the first to send */
        CHECK_OK(tr_node_connect(self->nodes[i], 1 - i, tr_node_control_address(self->nodes[1 - i]),
                                 tr_node_data_address(self->nodes[1 - i]), &err));
}

static inline tr_actor_id stage_actor(stage *self, const char *name, const char *kind, int node)
{
    tr_error err;
    tr_actor_id id = 0;
    CHECK_OK(tr_topology_add_actor(&self->topology, name, kind, node, NULL, 0, 0, &id, &err));
    return id;
}

static inline void stage_edge(stage *self, const char *name, tr_actor_id from, tr_actor_id to,
                              uint32_t n_slots)
{
    tr_error err;
    CHECK_OK(tr_topology_add_edge(&self->topology, name, from, to, n_slots, 64, NULL, &err));
}

static inline void stage_play(stage *self)
{
    tr_error err;
    pthread_t threads[2];
    for (int i = 0; i < self->n_nodes; i++)
        CHECK_OK(tr_node_load(self->nodes[i], &self->topology, NULL, &err));
    for (int i = 0; i < self->n_nodes; i++) tr_node_start_actors(self->nodes[i]);
    for (int i = 1; i < self->n_nodes; i++) pthread_create(&threads[i], NULL, run_node, self->nodes[i]);
    run_node(self->nodes[0]);
    for (int i = 1; i < self->n_nodes; i++) pthread_join(threads[i], NULL);
    CU_ASSERT(!self->timed_out);
    for (int i = 0; i < self->n_nodes; i++) CU_ASSERT_EQUAL(tr_node_failure(self->nodes[i], NULL), TR_OK);
}

static inline void stage_close(stage *self)
{
    for (int i = 0; i < self->n_nodes; i++) tr_node_destroy(&self->nodes[i]);
    tr_topology_release(&self->topology);
}

#endif
