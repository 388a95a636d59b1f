/* runtime/simulation_processes.h - what the parts of a simulated job share: simulation_job.c (the job, and the workers'
 * processes), simulation_head.c and simulation_agent.c (those of heads and agents), simulation_kernel.c (what an operating
 * system does for them), simulation_faults.c (what goes wrong).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SIMULATION_PROCESSES_H
#define TROUPE_RUNTIME_SIMULATION_PROCESSES_H

#include "runtime/agent_internal.h"
#include "runtime/head.h"
#include "runtime/orphans.h"
#include "runtime/played.h"
#include "runtime/simulation_internal.h"
#include "runtime/simulation_job.h"
#include "runtime/worker.h"

enum {
    TR__MAX_ZOMBIES = 2,
    TR__MAX_FAULTS = 8,
    TR__GONE_ZOMBIE = -1,
    TR__SIMULATED_LEASE_MS = 3000,
    TR__FIRST_PID = 1000000 /* numbers that no real process has here are never used for one */
};

typedef enum tr__process_life {
    TR__PROCESS_REAPED, /* ended, or never was */
    TR__PROCESS_BEGINS, /* an epoch: it will greet */
    TR__PROCESS_RUNS,
    TR__PROCESS_AWAITS /* another head */
} tr__process_life;

/* A worker's process; what it mapped of its state stays mapped until another one takes its place. */
typedef struct tr__process {
    tr__process_life life;
    int32_t pid;
    tr_worker *worker;
    tr_worker_options options;
    tr_node_options simulated;
    char head_address[TR_ADDRESS_CHARS];
    tr_state_region **regions;
    int n_regions;
    int word, life_line; /* its ends; -1: none */
    uint64_t heard_ns;   /* while it awaits a head: when it last heard of its agent */
    /* Its death, when it is drawn to die within an activation. */
    bool dies_next; /* in the next one */
    uint32_t
        dies_at_slot; /* in the one of its so many-th opening or publication of a slot from now on; 0: not */
    bool dying;       /* in this one, */
    uint32_t n_left;  /* after so many frames more */
    uint8_t *image;   /* of its regions at that moment; NULL: it is not over, or not dying */
    uint64_t until_event; /* when it goes on, where it is stopped; when it ends, as a zombie */
    int32_t
        heir_of; /* the zombie at this place still has the memory that the next one will have; 0: none; or it has ended since */
    bool is_hung;         /* stopped, and the agent will say so */
    bool greeting_is_cut; /* the next one: its connection breaks at once */
} tr__process;

typedef enum tr__agent_life {
    TR__AGENT_NONE,
    TR__AGENT_BEGINS,
    TR__AGENT_RUNS,
    TR__AGENT_WAITS,
    TR__AGENT_LEAVES
} tr__agent_life;

typedef struct tr__agent_process {
    tr__agent_life life;
    int32_t pid, parent;
    tr_launch launch;
    tr__agent agent;
    tr__waiting wait;
    int inherited[3]; /* directory, kept, holdings */
    uint64_t looked_ns;
    bool dies_next, dying, has_told_nobody; /* of a worker that it has just started */
    uint32_t dies_at_spawn, n_left;
} tr__agent_process;

typedef enum tr__head_life {
    TR__HEAD_NONE,  /* until somebody starts one, at comes_ns */
    TR__HEAD_CALLS, /* the agent, and waits for what it offers */
    TR__HEAD_FOUND, /* somebody or nobody */
    TR__HEAD_RUNS
} tr__head_life;

typedef struct tr__head_process {
    tr__head_life life;
    int32_t pid;
    tr_job_options job;
    tr_orphans *orphans;
    uint64_t comes_ns, called_ns;
    tr_orphans *intruder; /* who calls the agent without the lock, until_ns, beside the head with this pid */
    int32_t intruder_of;
    uint64_t intruder_until_ns;
    bool dies_next, dying;
    uint32_t n_left;
    uint8_t *image; /* of what is durable, at the moment of its death */
    uint32_t epoch; /* it was in then */
} tr__head_process;

/* Any process, by what stands for its pidfd: a pipe that is closed at its end. */
typedef struct tr__entry {
    int32_t pid, place;
    uint64_t inode;
    int ends[2]; /* [1] -1: it has ended */
    tr_process_end end;
} tr__entry;

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
    TR__FAULT_HEAD,   /* from here on only where another head may come */
    TR__FAULT_HEAD_WITHIN,
    TR__FAULT_AGENT,
    TR__FAULT_AGENT_WITHIN,
    TR__FAULT_AGENT_AT_SPAWN,
    TR__FAULT_BOTH,
    TR__FAULT_CUT_AGENT,
    TR__FAULT_CUT_AGENTS_GREETING, /* the next one, of another than the first */
    TR__FAULT_INTRUDER,
    TR__FAULT_ROT,   /* of a slot whose worker dies; only where `may_rot` */
    TR__FAULT_LEASE, /* is not renewed for a while; only where there is one */
    TR__FAULT_KINDS
} tr__fault_kind;

typedef struct tr__simulated_job {
    tr_simulation base; /* places: the nodes, the agent, zombies */
    const tr_job_simulation_options *options;
    tr_head head; /* of the newest head's process */
    tr__head_process leader;
    tr__agent_process agent;
    int32_t n_nodes;
    tr__process *processes; /* by place */
    uint32_t epoch_before;
    uint32_t *acted;   /* by node: the last epoch in which one of its processes had actors, */
    int32_t *acted_by; /* and which */
    /* the kernel */
    tr__entry *entries;
    size_t n_entries, entries_capacity;
    bool *stirred;  /* by place: what it watches may be readable */
    int32_t acting; /* place of the activation at hand; -1: none */
    tr__played played;
    tr_node_options agents_node;
    /* what is to go wrong */
    uint64_t *published; /* hashes of slots when they were published, by actor and slot; 0: open */
    uint64_t faults[TR__MAX_FAULTS]; /* after how many events */
    uint32_t n_faults, n_struck;
    bool pauses_next; /* the head */
    bool slept;       /* the head, since its lease was renewed last */
    bool agents_greeting_is_cut;
    tr_job_simulation_counters counters;
} tr__simulated_job;

/* simulation_job.c */
void tr__job_trace(const tr__simulated_job *self, const char *what, int32_t place);
void tr__process_release_regions(tr__process *process);
/* A worker is started, with what its agent gives it. */
tr_status tr__process_begin(tr__simulated_job *self, int32_t pid, const tr_launch *launch,
                            const int *descriptors, int count, tr_error *err);
void tr__process_close(tr__process *process); /* its descriptors, as the kernel does at its end */

/* simulation_kernel.c */
tr_status tr__kernel_init(tr__simulated_job *self, tr_error *err);
void tr__kernel_release(tr__simulated_job *self);
tr_status tr__kernel_start(tr__simulated_job *self, int32_t place, int32_t *pid, tr_error *err);
void tr__kernel_end(tr__simulated_job *self, int32_t pid, int32_t exit_code, int32_t signal);
bool tr__kernel_lives(const tr__simulated_job *self, int32_t pid);
void tr__kernel_stir(tr__simulated_job *self);
void tr__kernel_look_at_lines(
    tr__simulated_job *self); /* kills those whose life line nobody holds any more */

/* simulation_head.c */
tr_status tr__head_begin_first(tr__simulated_job *self, tr_error *err);
bool tr__head_can_happen(const tr__simulated_job *self);
uint64_t tr__head_next_ns(const tr__simulated_job *self);
void tr__head_happen(tr__simulated_job *self);
void tr__head_kill(tr__simulated_job *self); /* or whoever is about to be one; another comes later */
void tr__head_intrude(tr__simulated_job *self, uint64_t for_ns); /* somebody calls its agent */
void tr__head_silent(tr__simulated_job *self);       /* its moment of death, within an activation */
void tr__head_end(tr__simulated_job *self);          /* it is done: what it does at its end */
void tr__head_follow_later(tr__simulated_job *self); /* behind its end: it stopped for want of its lease */
void tr__head_lease(tr__simulated_job *self);        /* time has passed: renews, and looks at what it did */

/* simulation_agent.c */
tr_status tr__agent_process_begin(tr__simulated_job *self, int32_t pid, const tr_launch *launch,
                                  const int *descriptors, int count, tr_error *err);
bool tr__agent_can_happen(const tr__simulated_job *self);
uint64_t tr__agent_next_ns(const tr__simulated_job *self);
void tr__agent_happen(tr__simulated_job *self);
void tr__agent_after(tr__simulated_job *self); /* whatever it did: its node may have stopped, or it dies */
void tr__agent_silent(tr__simulated_job *self);
void tr__agent_kill(tr__simulated_job *self);

/* simulation_slots.c */
tr_status tr__slots_init(tr__simulated_job *self, tr_error *err);
void tr__slots_audit(tr__simulated_job *self, int32_t place, tr_actor_id who, int slot, uint64_t generation);
uint8_t *tr__slots_image(const tr__process *process); /* what a death leaves; tr_free it */
void tr__slots_restore(tr__simulated_job *self, int32_t place, const uint8_t *image,
                       tr_state_region *const *into);
/* New memory has nothing published; a zombie has written without being looked at. */
void tr__slots_taken_over(tr__simulated_job *self, int32_t place, bool from_zombie);

/* Flips a bit of a slot that is valid; false: there is none. */
bool tr__slots_rot(tr__simulated_job *self, int32_t place);

/* simulation_faults.c */
void tr__faults_init(tr__simulated_job *self);
void tr__faults_strike(tr__simulated_job *self); /* what is due; between events */
void tr__faults_before(tr__simulated_job *self, int32_t place);
void tr__faults_after(tr__simulated_job *self, int32_t place);
void tr__faults_greeted(tr__simulated_job *self, int32_t place); /* a worker, or the agent */
void tr__faults_on_slot(void *context, int32_t place, tr_actor_id who, int slot, uint64_t generation);
/* From the node's zombie, once: what that writes later is its own. false: there is none. */
bool tr__inherit(tr__simulated_job *self, int32_t node);
void tr__process_kill(tr__simulated_job *self, int32_t place); /* does nothing to one that is dead */
uint64_t tr__faults_pause_ns(tr__simulated_job *self);         /* until somebody starts another head */

#endif
