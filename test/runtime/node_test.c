/* Nodes with actors on them: the first promises. SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "base/clock.h"
#include "base/thread_pool.h"
#include "runtime/node.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 20000 };

/* ---- one or two nodes as threads ---- */

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

static void stop_all(stage *self)
{
    for (int i = 0; i < self->n_nodes; i++) tr_node_stop(self->nodes[i]);
}

static void on_job_end(void *context, const tr_error *error)
{
    stage *self = context;
    if (atomic_exchange(&self->job_ended, true)) return;
    if (error) self->job_error = *error;
    stop_all(self);
}

static void on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    stage *self = context;
    (void)who;
    if (error) self->end_error = *error;
    self->n_ended++;
}

static void on_peer_lost(void *context, int32_t peer, const char *reason)
{
    (void)peer;
    (void)reason;
    ((stage *)context)->n_peers_lost++;
}

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    stage *self = context;
    if (message->frame.edge == 7 && peer >= 0) self->n_system++;
}

static void on_tick(void *context, uint64_t now_ns)
{
    stage *self = context;
    self->n_ticks++;
    if (now_ns < self->deadline_ns) return;
    self->timed_out = true;
    stop_all(self);
}

static void *run_node(void *node)
{
    tr_node_run(node, 10, on_tick);
    return NULL;
}

static void stage_open(stage *self, int n_nodes, int n_threads, const tr_registry *registry)
{
    tr_error err;
    memset(self, 0, sizeof *self);
    on_stage = self;
    self->n_nodes = n_nodes;
    self->deadline_ns = tr_clock_ns() + 20000000000u;
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
    if (n_nodes > 1)
        CHECK_OK(tr_node_connect(self->nodes[0], 1, tr_node_control_address(self->nodes[1]),
                                 tr_node_data_address(self->nodes[1]), &err));
}

static tr_actor_id stage_actor(stage *self, const char *name, const char *kind, int node)
{
    tr_error err;
    tr_actor_id id = 0;
    CHECK_OK(tr_topology_add_actor(&self->topology, name, kind, node, NULL, 0, 0, &id, &err));
    return id;
}

static void stage_edge(stage *self, const char *name, tr_actor_id from, tr_actor_id to, uint32_t n_slots)
{
    tr_error err;
    CHECK_OK(tr_topology_add_edge(&self->topology, name, from, to, n_slots, 64, NULL, &err));
}

static void stage_play(stage *self)
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
}

static void stage_close(stage *self)
{
    for (int i = 0; i < self->n_nodes; i++) tr_node_destroy(&self->nodes[i]);
    tr_topology_release(&self->topology);
}

/* ---- ping and pong ---- */

typedef struct ball {
    uint32_t out;
    uint32_t rounds;
} ball;

static ball balls[2];

static tr_status ping_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                           void **state, tr_error *err)
{
    (void)config, (void)config_bytes, (void)err;
    ball *mine = &balls[(size_t)context];
    *mine = (ball){.out = tr_edge_out(self, "ball", 0)};
    *state = mine;
    return TR_OK;
}

static void ping_start(tr_actor *self, void *state)
{
    ball *mine = state;
    if (mine == &balls[0]) tr_edge_send(self, mine->out, NULL, 0, 0, 0, 0);
}

static void ping_receive(tr_actor *self, void *state, tr_message **message)
{
    ball *mine = state;
    if (mine == &balls[0] && ++mine->rounds == ROUNDS) {
        tr_actor_finish_job(self);
        return;
    }
    tr_edge_release(self, message);
    tr_edge_send(self, mine->out, NULL, 0, 0, 0, 0);
}

static const tr_behavior ping = {
    .name = "ping", .init = ping_init, .start = ping_start, .receive = ping_receive};
static const tr_actor_kind ping_kinds[] = {{"ping", &ping, (void *)0}, {"pong", &ping, (void *)1}};
static const tr_registry ping_registry = {ping_kinds, 2};

static void ping_pong(int n_nodes, int n_threads)
{
    stage s;
    stage_open(&s, n_nodes, n_threads, &ping_registry);
    tr_actor_id a = stage_actor(&s, "ping", "ping", 0), b = stage_actor(&s, "pong", "pong", n_nodes - 1);
    stage_edge(&s, "ball", a, b, 2);
    stage_edge(&s, "ball", b, a, 2);
    uint64_t begin = tr_clock_ns();
    stage_play(&s);
    printf(" [%.0f ns a message] ", (double)(tr_clock_ns() - begin) / (2.0 * ROUNDS));
    CU_ASSERT(s.job_ended && balls[0].rounds == ROUNDS);
    stage_close(&s);
}

static void a_message_goes_to_and_fro_on_one_node(void)
{
    ping_pong(1, 1);
    ping_pong(1, 2);
}

static void a_message_goes_to_and_fro_between_nodes(void)
{
    ping_pong(2, 1);
    ping_pong(2, 2);
}

static const check_test tests[] = {
    CHECK_TEST(a_message_goes_to_and_fro_on_one_node),
    CHECK_TEST(a_message_goes_to_and_fro_between_nodes),
};
CHECK_MAIN("node", tests)
