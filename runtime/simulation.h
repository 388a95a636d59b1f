/* runtime/simulation.h - a whole job on one thread, with a clock that only moves when nothing is left to do before, and a
 * seed that decides what happens next. The nodes, actors, edges, credits, timers and lanes are those of runtime/node.h;
 * only the clock, the network (transport/sim.h) and the choice of the next activation are others, so what is found here is
 * in the code that runs.
 * After every event the invariants are audited: order on each edge; every slot of an edge in exactly one place; lanes
 * within what credits and quotas allow; no actor asleep with a message waiting. A job that comes to rest before an actor
 * finished it is a deadlock, one that never comes to rest a livelock.
 * Idea: FoundationDB's simulation, TigerBeetle's VOPR.
 * Threads: everything on one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SIMULATION_H
#define TROUPE_RUNTIME_SIMULATION_H

#include "runtime/node.h"
#include "transport/sim.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_simulation tr_simulation;

typedef struct tr_simulation_options {
    uint64_t seed;
    const tr_topology *topology; /* outlives the simulation, as do the next two */
    const tr_registry *registry; /* of every node */
    tr_sim_faults data,
        control; /* control keeps its order, as the transports chosen for it do: set in_order */
    uint64_t activation_max_ns; /* virtual time that an activation takes: from 0 to this, drawn */
    uint64_t max_events;        /* more of them are a livelock */
    tr_actor_id starved;        /* 0, or an actor that has no turn before all others wait, once */
    /* NULL, or the virtual time that a piece of work takes, asked for when an actor says that it begins
     * (tr_actor_activity; what takes no time is 0). Then time is simulated, not interleavings: each node works for so
     * long while the others go on, what it sends leaves when it is done, its actors have their turns as in a scheduler, activation_max_ns is not drawn, and what has
     * arrived is handed over before anybody chooses. */
    uint64_t (*duration_ns)(void *context, tr_actor_id who, const char *what, uint32_t step,
                            uint32_t microbatch);
    FILE *trace; /* NULL, or where every event is told */
    void *context;
    void (*on_actor_end)(void *context, tr_actor_id who, const tr_error *error); /* may be NULL */
    void (*observe)(void *context, tr_actor_id to, const tr_message *message);   /* may be NULL; see node.h */
} tr_simulation_options;

typedef struct tr_simulation_counters {
    uint64_t n_events, n_activations, virtual_ns;
    uint64_t fingerprint; /* of all events in order: the same for the same seed */
    tr_sim_counters data, control;
} tr_simulation_counters;

/* Delays up to 100 us, a tenth of the frames late, repeated or lost: a bad day, drawn from the seed. */
void tr_simulation_faults(uint64_t seed, tr_sim_faults *data, tr_sim_faults *control);

/* Makes and connects the nodes, loads the topology, starts the actors. */
tr_status tr_simulation_new(tr_simulation **out, const tr_simulation_options *options, tr_error *err);

/* Until an actor finishes the job and all that was under way has come to rest (timers do not count). Errors: that of
 * tr_actor_fail_job; TR_ECORRUPT: an invariant is broken; TR_ETIMEDOUT: a deadlock or livelock, with who waits for what. */
tr_status tr_simulation_run(tr_simulation *self, tr_error *err);
tr_simulation_counters tr_simulation_count(const tr_simulation *self);
tr_node *tr_simulation_node(const tr_simulation *self, int32_t node);
void tr_simulation_destroy(tr_simulation **self);

#ifdef __cplusplus
}
#endif
#endif
