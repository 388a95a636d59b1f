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
    int first_state_descriptor,
        n_states; /* of its actors with state, in the topology's order; 0: in own memory */
} tr_worker_options;

/* Returns TR_OK when the head said stop; TR_ECLOSED when the head is gone. What goes wrong with actors is
 * told to the head. */
tr_status tr_worker_run(const tr_worker_options *options, tr_error *err);

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
