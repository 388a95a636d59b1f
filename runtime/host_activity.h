/* runtime/host_activity.h - what workers of other hosts do, for who looks on the head's. Their agents tell it twice a second
 * (TR_CONTROL_SEEN), and the head keeps it in pages of its own, one a worker, which are read like those of workers here
 * (look.h): by `troupe ps`, and when the head finds out for whom everybody waits. Times become the head's on arrival, too old
 * by as long as the message took.
 * A page travels as its bytes, up to the last record in use: who joins a job runs the same program file (door.h).
 * Threads: the agent's; the head's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_HOST_ACTIVITY_H
#define TROUPE_RUNTIME_HOST_ACTIVITY_H

#include "runtime/look.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_HOST_SEEN_MS = 500 }; /* between two reports */

typedef struct tr_worker_seen {
    int32_t node, pid;
    tr_process_seen process;
    uint64_t resident_bytes; /* 0: not known */
    uint64_t now_ns;         /* of the clock that the page's times are of */
    tr_activity_page page;
} tr_worker_seen;

tr_status tr_worker_seen_encode(const tr_worker_seen *self, void **bytes, size_t *size_bytes, tr_error *err);
/* Errors: TR_ECORRUPT. */
tr_status tr_worker_seen_decode(tr_worker_seen *self, const void *bytes, size_t size_bytes, tr_error *err);

/* The head's pages, by node. */
typedef struct tr_host_pages tr_host_pages;

tr_status tr_host_pages_new(tr_host_pages **out, int32_t n_nodes, tr_error *err);
void tr_host_pages_destroy(tr_host_pages **self);
/* A process has begun there. Where it is to be seen; nowhere, if there is no memory for a page. */
tr_place_seen tr_host_pages_begin(tr_host_pages *self, int32_t node, int32_t pid, int32_t host,
                                  const char *host_name);
/* What is told of another process than the last that began is dropped. */
void tr_host_pages_take(tr_host_pages *self, const tr_worker_seen *seen, uint64_t now_ns);

#ifdef __cplusplus
}
#endif
#endif
