/* runtime/simulation_job.h - a whole job with its processes on one thread, under a seed that kills them. The head (head.c,
 * recovery.c, crew.c, holdings.c, readopt.c), the agent (agent.c, agent_holdings.c, agent_lease.c) and the workers (worker.c) are
 * those that run, with their own sockets and descriptors between them; played are the processes (played.h), the network and the
 * clock, and whoever starts another head.
 * What the seed may do, at any event: kill a worker between two activations or within one, after any of the frames that it
 * sends or slots that it opens or publishes; kill the head or the agent in the same way, or the agent between starting a worker
 * and telling of it, or both; call the agent without the lock; kill two; kill again while an epoch changes, or while a job has no head; stop a worker for a while,
 * as by SIGSTOP, with the agent saying that it hangs or not; cut a connection; let a zombie, whose death was told, run on; and
 * give the head, or one actor, no turn for long. Another head comes after a while, mostly within the lease.
 * With a lease it may be taken away from the head at any moment, and given to another one.
 * Where `may_rot`, a bit may flip in a slot of a worker that dies.
 * A killed worker leaves what had been sent, of which some is lost, and its state regions, in which slots that were open are
 * filled with NaNs; a killed head what its owner had on the disk or gave the agent to keep. See runtime/DESIGN.md for what is
 * not simulated.
 * Threads: everything on one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SIMULATION_JOB_H
#define TROUPE_RUNTIME_SIMULATION_JOB_H

#include "runtime/job.h"
#include "runtime/simulation.h"
#include "runtime/simulation_lease.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_job_simulation_span {
    void *bytes;
    size_t size_bytes;
} tr_job_simulation_span;

typedef struct tr_job_simulation_options {
    uint64_t seed;
    /* As for tr_job_run: topology, registry (of all nodes here), recovery, points of chaos that are FLIP, lease.kept, on_event
     * and context; the rest is not looked at. */
    const tr_job_options *job;
    tr_sim_faults data, control; /* see tr_simulation_options, as for the next two */
    uint64_t activation_max_ns, max_events;
    uint32_t n_faults;     /* at most so many; 0: an undisturbed run */
    uint64_t faults_until; /* the first of them comes within so many events */
    bool may_rot;          /* then it may be that no generation is left that all hold */
    /* Another head begins. *job is the last one's, to be made what a process gives that resumes the run, with an epoch that was
     * never used: orphans are those whom it finds, NULL: nobody. NULL: neither head nor agent dies. */
    tr_status (*succeed)(void *context, const struct tr_orphans *orphans, tr_job_options *job, tr_error *err);
    /* What of the owner's outlives a head, files or memory that the agent keeps: the which-th; bytes NULL: there is no more. */
    tr_job_simulation_span (*durable)(void *context, int which);
    int directory; /* a descriptor: where agents listen for another head */
    /* Heads need it too, from before they look for anybody to the end; the owner asks it (simulation_lease.h). One that
     * stops for want of it is followed by another. NULL: the lock is all. */
    tr_played_lease *lease;
    /* A job that ended well behind such a stop: has it done all that it had to? NULL: it has. */
    bool (*is_done)(void *context);
    FILE *trace; /* NULL, or where every event is told */
} tr_job_simulation_options;

typedef struct tr_job_simulation_counters {
    uint64_t n_events, fingerprint;
    uint32_t n_deaths, n_within, n_between_epochs; /* within an activation; while no epoch ran */
    uint32_t n_stops, n_cuts, n_zombies, n_starved;
    uint32_t n_spoiled; /* slots that were open at a death */
    uint32_t n_rotten;  /* slots of which a bit flipped */
    uint32_t n_head_deaths, n_agent_deaths;
    uint32_t n_at_head;        /* of the heads while no epoch ran, or before they were one */
    uint32_t n_taken, n_alone; /* heads that went on with what they found, and that found nobody */
    uint32_t n_replaced;       /* agents, by their head */
    uint32_t n_orphaned;       /* workers that ended with their life line */
    uint32_t n_leases;         /* that ended */
    uint32_t n_intruders;      /* who called an agent without the lock */
    uint32_t n_gave_way, n_refused,
        n_over;     /* heads that stopped for want of their lease, that could win no epoch or write
                                               nothing, whose process was ended */
    uint32_t epoch; /* the last one */
    tr_sim_counters data, control;
} tr_job_simulation_counters;

/* Until the head is done. Errors: the job's; TR_ECORRUPT: an invariant is broken (runtime/simulation.h; an epoch that goes back;
 * a message of another epoch handled); TR_ETIMEDOUT: it hangs. counters may be NULL. */
tr_status tr_simulate_job(const tr_job_simulation_options *options, tr_job_simulation_counters *counters,
                          tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
