/* pipelines/processes.h - RUN/processes.json: where the actors of a running job are to be seen, for `troupe ps` and `top`.
 * The head replaces it whenever a process begins and takes it away at the end. It holds what looking needs: pids with their
 * start times, the descriptors of activity pages, names of actors and edges. It is written without fsync: behind a crash of
 * the host it is worth nothing, and no epoch shall wait for a disk. That the processes named are still these is checked.
 * Threads: any; nothing is kept.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_PROCESSES_H
#define TROUPE_PIPELINES_PROCESSES_H

#include "runtime/look.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_HOST_CHARS = 128 };

typedef struct tr_processes {
    char host[TR_HOST_CHARS];
    uint32_t epoch, n_steps;
    uint64_t began_ns; /* the head's, monotonic */
    tr_topology topology;
    tr_place_seen *places; /* by node */
} tr_processes;

/* places NULL: only the head is there, this process. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_processes_write(const char *run, const tr_topology *topology, const tr_place_seen *places,
                             uint32_t epoch, uint32_t n_steps, uint64_t began_ns, tr_error *err);
void tr_processes_remove(const char *run);
/* Errors: TR_ENOTFOUND: there is none; TR_ECORRUPT, TR_EIO, TR_ENOMEM. *out is the caller's to release. */
tr_status tr_processes_read(tr_processes *out, const char *run, tr_error *err);
void tr_processes_release(tr_processes *self);

#ifdef __cplusplus
}
#endif
#endif
