/* test/chaos/faults.h - things that go wrong in a job, done to a running one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CHAOS_FAULTS_H
#define TROUPE_TEST_CHAOS_FAULTS_H

#include "bench/watched_run.h"

typedef enum fault_kind {
    FAULT_KILL,
    FAULT_TWICE, /* another one during that recovery */
    FAULT_ALL,   /* every worker at once */
    FAULT_SEGV,
    FAULT_ABRT,
    FAULT_STOP,
    FAULT_ZOMBIE, /* stopped, and continued when it is being replaced */
    FAULT_PAUSE,  /* stopped for 300 ms: nobody is to be killed */
    FAULT_ROT,    /* a bit of the newest state slot flips, and its worker dies */
    FAULT_ROT_BOTH,
    FAULT_AGENT,
    FAULT_AGENT_AND_WORKER,
    FAULT_HEAD,            /* and --resume while its workers wait */
    FAULT_HEAD_AND_WORKER, /* the same, with one worker less */
    FAULT_HEAD_LATE,       /* and --resume when the lease has ended */
    FAULT_TWO_HEADS,
    FAULT_KINDS
} fault_kind;

typedef struct fault_info {
    const char *name;
    int row;       /* of the fault matrix */
    double weight; /* how often, of those that are not counted out */
} fault_info;

enum { FAULT_LEASE_S = 4 }; /* of the jobs that faults are done to */

extern const fault_info fault_infos[FAULT_KINDS];

typedef struct fault_job {
    watched_run run;
    const char *troupe, *directory, *recipe;
    uint64_t seed;
    uint32_t n_drawn;
    uint32_t n_zombies_met; /* SIGCONT reached a process that was being replaced */
    int32_t *agents;        /* every one there was; n_agents of them */
    size_t n_agents, agents_capacity;
    int output;
    char what[512]; /* what was done, or went wrong */
} fault_job;

/* Starts the job: anew, or with --resume. */
void fault_start(fault_job *self, bool resume);
/* 0 .. n-1. */
uint32_t fault_draw(fault_job *self, uint32_t n);
int32_t fault_agent(fault_job *self); /* the pid; 0: not known now */
/* Does it and waits until the job is well again, at most that long. False: it is not, `what` says what was seen. */
bool fault_do(fault_job *self, fault_kind kind, double seconds);

#endif
