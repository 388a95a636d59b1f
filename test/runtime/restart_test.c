/* Actors that fail and are started again while their neighbours go on, on real nodes with several threads: nothing but what
 * they had in hand is lost, no credit either. The same plays run in simulation_test.c under many more seeds.
 * SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include "base/clock.h"
#include "play.h"
#include "runtime/node.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MAX_NODES = 4, TICK_MS = 100, PATIENCE_NS = 2000000000 };

typedef struct theatre {
    tr_node *nodes[MAX_NODES];
    int n_nodes;
    uint64_t until_ns;
    atomic_bool timed_out;
} theatre;

static void close_theatre(theatre *self)
{
    for (int i = 0; i < self->n_nodes; i++) tr_node_stop(self->nodes[i]);
}

static void on_job_end(void *context, const tr_error *error)
{
    (void)error;
    close_theatre(context);
}

static void on_tick(void *context, uint64_t now_ns)
{
    theatre *self = context;
    if (now_ns < self->until_ns) return;
    self->timed_out = true;
    close_theatre(self);
}

static void *run_node(void *node)
{
    tr_node_run(node, TICK_MS, on_tick);
    return NULL;
}

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        tr_error error_, *err = &error_;                                                                     \
        if ((call) != TR_OK) fprintf(stderr, "%s\n", error_.message), abort();                               \
    } while (0)

static bool perform(play *what, int n_threads)
{
    theatre self = {.n_nodes = what->topology.n_nodes, .until_ns = tr_clock_ns() + (uint64_t)PATIENCE_NS * 5};
    tr_actor_kind kinds[PLAY_KINDS];
    pthread_t threads[MAX_NODES];
    play_kinds(what, kinds);
    const tr_registry registry = {kinds, PLAY_KINDS};
    for (int i = 0; i < self.n_nodes; i++) {
        tr_node_options options = {.node = i,
                                   .incarnation = 1,
                                   .epoch = 1,
                                   .n_threads = n_threads,
                                   .data_transport = "inproc",
                                   .control_transport = "inproc",
                                   .registry = &registry,
                                   .context = &self,
                                   .on_job_end = on_job_end};
        MUST(tr_node_new(&self.nodes[i], &options, err));
    }
    for (int i = 0; i < self.n_nodes; i++)
        for (int j = 0; j < self.n_nodes; j++)
            if (i != j)
                MUST(tr_node_connect(self.nodes[i], j, tr_node_control_address(self.nodes[j]),
                                     tr_node_data_address(self.nodes[j]), err));
    for (int i = 0; i < self.n_nodes; i++) MUST(tr_node_load(self.nodes[i], &what->topology, NULL, err));
    for (int i = 0; i < self.n_nodes; i++) tr_node_start_actors(self.nodes[i]);
    for (int i = 1; i < self.n_nodes; i++) pthread_create(&threads[i], NULL, run_node, self.nodes[i]);
    run_node(self.nodes[0]);
    for (int i = 1; i < self.n_nodes; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < self.n_nodes; i++) tr_node_destroy(&self.nodes[i]);
    if (self.timed_out) fprintf(stderr, "it did not come to its end\n");
    return !self.timed_out;
}

static bool what_fails_on_real_nodes_loses_only_what_it_had_in_hand(uint64_t seed, FILE *trace)
{
    (void)trace;
    play self;
    play_cast(&self, seed, true, false);
    bool good = perform(&self, 1 + (int)(seed % 3)) && play_adds_up(&self);
    tr_topology_release(&self.topology);
    return good;
}

int main(int argc, char **argv)
{
    static const simulate_case cases[] = {{"what_fails_on_real_nodes_loses_only_what_it_had_in_hand", 100,
                                           what_fails_on_real_nodes_loses_only_what_it_had_in_hand}};
    return simulate_main(cases, sizeof cases / sizeof *cases, argc, argv);
}
