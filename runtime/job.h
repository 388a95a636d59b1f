/* runtime/job.h - a whole job: the head, one agent, its workers, until the work is done or something failed.
 * With processes: the head starts the agent, the agent starts and watches one worker process for each node 1 .. n-1, each
 * loads the same topology. The program is executed again for them, so its main must begin with
 *     if (tr_job_is_child(argc, argv)) return tr_job_child_main(argc, argv, &registry);
 * Without processes the nodes are threads of this one, joined by "inproc".
 * When a worker dies or an actor fails the job ends within two seconds: everything is stopped, nothing is left behind.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_JOB_H
#define TROUPE_RUNTIME_JOB_H

#include "runtime/actor.h"
#include "transport/curve.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_job_event_kind {
    TR_JOB_WORKER_STARTED,
    TR_JOB_RUNNING, /* every node is ready, actors start */
    TR_JOB_WORKER_DIED,
    TR_JOB_ACTOR_FAILED,
    TR_JOB_STOPPING /* a person asked for it */
} tr_job_event_kind;

typedef struct tr_job_event {
    tr_job_event_kind kind;
    uint64_t monotonic_ns;
    int32_t node; /* -1: none */
    int32_t pid;  /* 0: none */
    uint32_t epoch;
    const char *text; /* one line */
} tr_job_event;

typedef struct tr_job_options {
    const tr_topology *topology;
    const tr_registry *registry; /* of the head's own actors, and of all without processes */
    bool processes;
    const char *transport; /* of the edges: "ucx" or "zmq"; without processes "inproc" */
    /* Where processes listen, with transport "zmq" alone: a bind of transport/address.h, or NULL: on this machine, unseen
     * by others. Beyond it a key is required. Both are copied. */
    const char *bind;
    const tr_curve_key *key; /* NULL: none */
    /* Gets TR_TOPIC_STOP_REQUESTED at SIGINT or SIGTERM; 0: the job just ends. A second signal ends it at once. */
    tr_actor_id stop_actor;
    void *context;
    void (*on_event)(void *context, const tr_job_event *event); /* on the head's thread; may be NULL */
} tr_job_options;

/* Runs to the end. TR_OK: an actor called tr_actor_finish_job. Otherwise *err says which actor failed and what it was doing. */
tr_status tr_job_run(const tr_job_options *options, tr_error *err);

bool tr_job_is_child(int argc, char **argv);
int tr_job_child_main(int argc, char **argv, const tr_registry *registry); /* the process's exit code */

#ifdef __cplusplus
}
#endif
#endif
