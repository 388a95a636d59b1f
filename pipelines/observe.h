/* pipelines/observe.h - what a run is doing, or how it ended, seen from another process: `troupe ps` and `top`. Reads files of the
 * run directory and the activity pages of the job's processes; writes nothing, takes no lock, asks the job nothing.
 * Threads: any; nothing is kept.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_OBSERVE_H
#define TROUPE_PIPELINES_OBSERVE_H

#include "pipelines/processes.h"
#include "runtime/stall.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_observation {
    bool runs;
    char ended[TR_ERROR_SIZE +
               64]; /* where it does not run: how it ended, or why it cannot be seen from here */
    uint64_t now_ns;
    /* the newest line of log.jsonl; step 0: there is none */
    uint32_t step, epoch;
    double loss, tokens_per_s;
    /* where it runs */
    tr_processes processes;
    tr_actor_seen *actors; /* by id - 1 */
    bool held_up;          /* somebody has been waited for, at the same thing, for some seconds */
    tr_stall stall;
} tr_observation;

/* Errors: TR_ENOTFOUND: there is no such run; TR_EIO: it is another user's; TR_ECORRUPT, TR_ENOMEM. Release *out. */
tr_status tr_observe(tr_observation *out, const char *run, tr_error *err);
void tr_observation_release(tr_observation *self);

/* What one actor is at: "forward", "waits for gradient from stage 1 of replica 0", "its process is stopped"; and since when (0: unknown). */
uint64_t tr_observation_doing(const tr_observation *self, tr_actor_id actor, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
