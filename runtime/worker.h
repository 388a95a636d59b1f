/* runtime/worker.h - the life of a worker node: greet the head, load, be ready, start, run until told to
 * stop. The same for a worker that is a process and for one that is a thread of the head's process.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_WORKER_H
#define TROUPE_RUNTIME_WORKER_H

#include "runtime/activity.h"
#include "runtime/node.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_worker_options {
    int32_t node;
    int32_t member; /* its agent's: see tr_control_hello */
    uint32_t epoch; /* it begins in */
    int32_t n_threads;
    bool may_spin;
    const char *control_transport, *data_transport;
    const char *head_address; /* of the head's control transport */
    const char *bind;         /* see tr_node_options */
    const tr_curve_key *key;  /* the same */
    uint8_t job_key[TR_JOB_KEY_BYTES];
    const tr_registry *registry;
    tr_activity_page *activity;
    const bool *must_stop; /* atomic, may be NULL: true stops it also where no message comes through */
    const char *chaos;     /* points, NULL: none */
    uint32_t layout;       /* of which its state regions are; see tr_control_note */
    int first_state_descriptor,
        n_states; /* of its actors with state, in the topology's order; 0: in own memory */
    /* When the head is gone it waits so long for word of another (tr_lease_tell); 0: it ends. Every word renews that. */
    uint32_t lease_ms;
    int lease_socket;     /* over which its agent speaks */
    int leave_descriptor; /* a signalfd: who signals wants the worker to leave; 0: nobody can */
    /* Simulation (runtime/simulation_job.h): regions that are mapped already, the caller's, in place of descriptors; and
     * what its nodes get beside the above. NULL: neither. */
    tr_state_region *const *regions;
    const tr_node_options *simulated;
} tr_worker_options;

/* Returns TR_OK when the head said stop; TR_ECLOSED when the head is gone and no other came. What goes wrong with actors is
 * told to the head. */
tr_status tr_worker_run(const tr_worker_options *options, tr_error *err);

/* The same step by step, for a caller who runs the nodes otherwise: new, then begin_epoch, the node until it is stopped,
 * end_epoch, as long as that says that there is another. */
typedef struct tr_worker tr_worker;
tr_status tr_worker_new(tr_worker **out, const tr_worker_options *options, tr_error *err);
tr_status tr_worker_begin_epoch(tr_worker *self, tr_error *err); /* a node that greets the head */
tr_node *tr_worker_node(const tr_worker *self);                  /* NULL between epochs */
bool tr_worker_end_epoch(tr_worker *self);                       /* true: another one is to begin */
void tr_worker_on_tick(void *context, uint64_t now_ns);          /* of its nodes, every TR_WORKER_TICK_MS */
void tr_worker_move(tr_worker *self, const tr_worker_options *options); /* the same ones lie elsewhere now */
/* Without a head, between two epochs: does it wait for another one? Then hear, until that is no more so or it is called; a lease
 * that ends is the caller's to see. */
bool tr_worker_waits(const tr_worker *self);
bool tr_worker_hear(tr_worker *self);            /* takes what its agent has said; true: something new */
uint32_t tr_worker_epoch(const tr_worker *self); /* that it is in, or was last */
bool tr_worker_is_called(const tr_worker *self); /* to another epoch */
void tr_worker_destroy(tr_worker **self);
enum { TR_WORKER_TICK_MS = 100 };

/* Do the threads of all nodes of a topology find a processor each on this host?
 * The agent sleeps and is not counted. */
bool tr_worker_may_spin(const tr_topology *topology);

/* "actor 'stage 1 of replica 0' failed: <why> (in forward of step 17, micro-batch 3)";
 * the node names the actor. */
void tr_worker_describe_failure(char *text, size_t capacity, const tr_activity_page *activity,
                                tr_actor_id actor, const tr_error *error);

#ifdef __cplusplus
}
#endif
#endif
