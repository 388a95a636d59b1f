/* test/simulated_jobs.h - what tests share that play jobs whose processes die: a directory where their agents can be found by another
 * head, a temporary one of this process; and what came in all seeds together.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_SIMULATED_JOBS_H
#define TROUPE_TEST_SIMULATED_JOBS_H

#include "runtime/lease.h"
#include "runtime/simulation_job.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int simulated_directory = -1;
static char simulated_directory_path[200];

static inline void simulated_directory_open(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(simulated_directory_path, sizeof simulated_directory_path, "%s/troupe-simulation-XXXXXX",
             parent ? parent : "/tmp");
    if (mkdtemp(simulated_directory_path))
        simulated_directory = open(simulated_directory_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (simulated_directory < 0) perror(simulated_directory_path), exit(1);
}

static inline void simulated_directory_close(void)
{
    unlinkat(simulated_directory, TR_LEASE_SOCKET, 0);
    close(simulated_directory);
    rmdir(simulated_directory_path);
}

static tr_job_simulation_counters seen;

static inline void add_to_seen(const tr_job_simulation_counters *one)
{
    seen.n_events += one->n_events;
    seen.n_deaths += one->n_deaths;
    seen.n_within += one->n_within;
    seen.n_between_epochs += one->n_between_epochs;
    seen.n_stops += one->n_stops;
    seen.n_cuts += one->n_cuts;
    seen.n_zombies += one->n_zombies;
    seen.n_starved += one->n_starved;
    seen.n_spoiled += one->n_spoiled;
    seen.n_rotten += one->n_rotten;
    seen.epoch += one->epoch - 1;
    seen.n_head_deaths += one->n_head_deaths;
    seen.n_at_head += one->n_at_head;
    seen.n_agent_deaths += one->n_agent_deaths;
    seen.n_taken += one->n_taken;
    seen.n_alone += one->n_alone;
    seen.n_replaced += one->n_replaced;
    seen.n_orphaned += one->n_orphaned;
    seen.n_leases += one->n_leases;
    seen.n_intruders += one->n_intruders;
    seen.n_gave_way += one->n_gave_way;
    seen.n_refused += one->n_refused;
    seen.n_over += one->n_over;
    seen.data.n_late += one->data.n_late;
    seen.control.n_late += one->control.n_late;
}

/* The beginning of a line. */
static inline void tell_seen(void)
{
    printf("%u deaths of workers, %u of them within an activation, %u while no epoch ran; %u slots spoiled, "
           "%u rotten; %u stopped, %u cuts, %u zombies, %u starved; %u heads died, %u of them before their "
           "epoch ran, %u others went on with who was left, %u began alone; %u agents died, %u were replaced "
           "by their head, %u leases ended, %u workers ended with their life line, %u called without the "
           "lock; %u changes of epoch; ",
           seen.n_deaths, seen.n_within, seen.n_between_epochs, seen.n_spoiled, seen.n_rotten, seen.n_stops,
           seen.n_cuts, seen.n_zombies, seen.n_starved, seen.n_head_deaths, seen.n_at_head, seen.n_taken,
           seen.n_alone, seen.n_agent_deaths, seen.n_replaced, seen.n_leases, seen.n_orphaned,
           seen.n_intruders, seen.epoch);
}

/* Of many seeds each kind of misfortune must have come, or the test would say less than it seems to. */
static inline bool each_was_seen(bool others)
{
    bool each = others && seen.n_within && seen.n_between_epochs && seen.n_spoiled && seen.n_rotten &&
                seen.n_stops && seen.n_cuts && seen.n_zombies && seen.n_starved && seen.n_at_head &&
                seen.n_taken && seen.n_alone && seen.n_replaced && seen.n_leases && seen.n_orphaned &&
                seen.n_intruders;
    if (seen.n_deaths < 1000 || each) return true;
    fprintf(stderr, "some kind of fault never came\n");
    return false;
}

#endif
