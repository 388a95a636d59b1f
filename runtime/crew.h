/* runtime/crew.h - who makes the workers of a job, and knows when all of them have ended.
 * It is an agent process, or threads here. The head speaks with workers in the same way in both cases; only
 * their making, their death and their end differ.
 * Threads: the head's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_CREW_H
#define TROUPE_RUNTIME_CREW_H

#include "runtime/actor.h"
#include "runtime/job.h"
#include "runtime/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_crew tr_crew;

typedef struct tr_crew_options {
    const tr_topology *topology;
    const tr_registry *registry; /* threads only: a process has its own */
    bool processes;
    int32_t max_nodes;         /* that the topology, or a later one, may have; 0: as it has */
    tr_launch launch;          /* what every child must know; the crew adds role, node and topology */
    const tr_job_lease *lease; /* where launch.lease_ms is not 0 */
} tr_crew_options;

/* Starts an agent, which will start the workers, or takes one over with those it has; or starts one thread a worker. */
tr_status tr_crew_new(tr_crew **out, const tr_crew_options *options, tr_error *err);
int tr_crew_descriptor(const tr_crew *self);    /* readable when all have ended, or a thread has failed */
int32_t tr_crew_agent_pid(const tr_crew *self); /* 0: there is none */
bool tr_crew_was_taken(const tr_crew *self);    /* from a head that died */
/* All ended? Then *end says how the agent did (exit code 0 without one). */
bool tr_crew_ended(tr_crew *self, tr_process_end *end);
/* Has a worker that is a thread ended with an error? Of processes the agent tells. */
bool tr_crew_failed(tr_crew *self, tr_error *err);
/* A worker's pid became known. It is watched from here too, for the case that the agent dies. */
void tr_crew_add_worker(tr_crew *self, int32_t node, int32_t pid);
int tr_crew_page_of_thread(const tr_crew *self, int32_t node); /* the activity page's descriptor; -1: none */
/* The agent saw its end. true: it was a child of this process, as those of an agent that died are, and *end says how it
 * ended; the agent cannot know that. */
bool tr_crew_remove_worker(tr_crew *self, int32_t node, int32_t pid, tr_process_end *end);
int32_t tr_crew_worker_pid(const tr_crew *self, int32_t node); /* 0: none is known */
/* What the agent hands over for the case that it dies (runtime/holdings.h) comes here; -1: it hands over nothing. */
int tr_crew_holdings_descriptor(const tr_crew *self);
bool tr_crew_hear_holdings(tr_crew *self); /* false: no more will come of this agent */
/* After the agent ended. Has this worker ended too, or must it, because not all that it needs is here? Then it is no more:
 * *pid and *end say who it was and how it ended (exit code -1: nobody here knows). On several hosts all must. */
bool tr_crew_has_lost_worker(tr_crew *self, int32_t node, int32_t *pid, tr_process_end *end);
void tr_crew_end_worker(tr_crew *self, int32_t node); /* and wait */
/* Then: a new agent, which goes on with the workers that are left and starts new ones for the others, in this epoch. */
tr_status tr_crew_replace_agent(tr_crew *self, uint32_t epoch, tr_error *err);
/* Of a new agent, from now on. The agent that there is has prepared the layout. */
void tr_crew_change_topology(tr_crew *self, const tr_topology *topology, uint32_t layout);
void tr_crew_drop_layout(tr_crew *self); /* what it has prepared is not wanted */
void tr_crew_kill_agent(tr_crew *self);
/* Kills and reaps what is left of processes, waiting at most 500 ms for each;
 * joins threads, however long they take. */
void tr_crew_destroy(tr_crew **self);
/* Simulation: the head's process is gone, and with it what it holds, without a word to anybody. Destroy it then. */
void tr_crew_forsake(tr_crew *self);

#ifdef __cplusplus
}
#endif
#endif
