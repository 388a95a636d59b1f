/* runtime/simulation_processes.h - what simulation_job.c (processes that go well) and simulation_faults.c (and those that do
 * not) share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SIMULATION_PROCESSES_H
#define TROUPE_RUNTIME_SIMULATION_PROCESSES_H

#include "runtime/head.h"
#include "runtime/simulation_internal.h"
#include "runtime/simulation_job.h"
#include "runtime/worker.h"

enum { TR__MAX_ZOMBIES = 2, TR__MAX_FAULTS = 8 };

typedef enum tr__process_life {
    TR__PROCESS_REAPED, /* or never was */
    TR__PROCESS_BEGINS, /* an epoch: it will greet */
    TR__PROCESS_RUNS,
    TR__PROCESS_DEAD /* the agent has not seen it yet */
} tr__process_life;

/* A worker's process; its regions are its node's, and outlive it. */
typedef struct tr__process {
    tr__process_life life;
    bool killed;
    int32_t pid;
    tr_worker *worker;
    tr_worker_options options;
    tr_node_options simulated;
    tr_state_region **regions;
    int n_regions;
    /* Its death, when it is drawn to die within an activation. */
    bool dies_next; /* in the next one */
    uint32_t
        dies_at_slot; /* in the one of its so many-th opening or publication of a slot from now on; 0: not */
    bool dying;       /* in this one, */
    uint32_t n_left;  /* after so many frames more */
    uint8_t *image;   /* of its regions at that moment; NULL: it is not over, or not dying */
    uint64_t until_event; /* when it goes on, where it is stopped; when it ends, as a zombie */
    int32_t heir_of;      /* its regions still get what the zombie at this place has; 0: no */
    bool is_hung;         /* stopped, and the agent will say so */
    bool greeting_is_cut; /* the next one: its connection breaks at once */
} tr__process;

typedef enum tr__fault_kind {
    TR__FAULT_KILL,
    TR__FAULT_KILL_WITHIN,
    TR__FAULT_KILL_AT_SLOT,
    TR__FAULT_STOP,
    TR__FAULT_CUT,
    TR__FAULT_CUT_GREETING, /* the worker's next */
    TR__FAULT_ZOMBIE,
    TR__FAULT_PAUSE,  /* of the head, while somebody dies */
    TR__FAULT_STARVE, /* an actor, while somebody dies */
    TR__FAULT_ROT,    /* of a slot whose worker dies; only where `may_rot` */
    TR__FAULT_KINDS
} tr__fault_kind;

typedef struct tr__simulated_job {
    tr_simulation base; /* places: the nodes, the agent, zombies */
    const tr_job_simulation_options *options;
    tr_head head;
    int32_t n_nodes;
    tr__process *processes; /* by place */
    int32_t n_started;
    uint32_t epoch_before;
    /* the agent */
    uint32_t agent_epoch;
    bool agent_stopping, agent_is_done;
    uint64_t kill_at_ns;
    /* what is to go wrong */
    uint64_t *published; /* hashes of slots when they were published, by actor and slot; 0: open */
    uint64_t faults[TR__MAX_FAULTS]; /* after how many events */
    uint32_t n_faults, n_struck;
    bool pauses_next; /* the head */
    tr_job_simulation_counters counters;
} tr__simulated_job;

/* simulation_job.c */
void tr__job_trace(const tr__simulated_job *self, const char *what, int32_t place);
void tr__agent_reap(tr__simulated_job *self, int32_t node, int signal);
void tr__process_release_regions(tr__process *process);

/* simulation_slots.c */
tr_status tr__slots_init(tr__simulated_job *self, tr_error *err);
void tr__slots_audit(tr__simulated_job *self, int32_t place, tr_actor_id who, int slot, uint64_t generation);
uint8_t *tr__slots_image(const tr__process *process); /* what a death leaves; tr_free it */
void tr__slots_restore(tr__simulated_job *self, int32_t place, const uint8_t *image,
                       tr_state_region *const *into);

/* Flips a bit of a slot that is valid; false: there is none. */
bool tr__slots_rot(tr__simulated_job *self, int32_t place);

/* simulation_faults.c */
void tr__faults_init(tr__simulated_job *self);
void tr__faults_strike(tr__simulated_job *self); /* what is due; between events */
void tr__faults_before(tr__simulated_job *self, int32_t place);
void tr__faults_after(tr__simulated_job *self, int32_t place);
void tr__faults_greeted(tr__simulated_job *self, int32_t place);
void tr__faults_on_slot(void *context, int32_t place, tr_actor_id who, int slot, uint64_t generation);
void tr__inherit(tr__simulated_job *self,
                 int32_t node); /* from the node's zombie, once: what that writes later is its own */
void tr__process_kill(tr__simulated_job *self, int32_t place); /* does nothing to one that is dead */

#endif
