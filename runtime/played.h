/* runtime/played.h - processes that are none: a simulation (simulation_job.h) plays those of a job on one thread, and with
 * them what the kernel does for them. Whoever starts, watches or ends a process (launch.c, look.c, leftovers.c) asks here first;
 * head, crew, agent and workers do not know the difference. Descriptors are real: sockets, memory, and in place of a pidfd
 * something that becomes readable at the process's end.
 * Threads: of the thread that sets it, and of no other.
 * Internal to runtime/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_PLAYED_H
#define TROUPE_RUNTIME_PLAYED_H

#include "runtime/launch.h"
#include "runtime/node.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr__played {
    void *context;
    tr_status (*spawn)(void *context, const tr_launch *launch, const int *descriptors, int count, int *pid,
                       int *pidfd, tr_error *err);
    int (*open)(void *context,
                int32_t pid); /* as pidfd_open; a pid of no played process is the newest head's */
    bool (*ended)(void *context, int pidfd, tr_process_end *end);
    void (*kill)(void *context, int pidfd);
    bool (*lives)(void *context, int32_t pid);
    const tr_node_options *agent; /* clock and network of the agent's nodes */
} tr__played;

extern __thread const tr__played *tr__play; /* NULL: processes are processes */

/* CLOCK_MONOTONIC, or the played clock. */
uint64_t tr__process_now_ns(void);

#ifdef __cplusplus
}
#endif
#endif
