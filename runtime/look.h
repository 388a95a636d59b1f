/* runtime/look.h - what every actor of a job does right now, seen from outside: by the head, or by another process of the
 * same user on this host. It only reads: the activity pages (memfds) through /proc/PID/fd, and the state of processes. So
 * it needs no word with the job, sees those that are stuck or stopped, and disturbs nobody. The kernel lets no other user in.
 * What workers of other hosts do lies in pages of the head, as their agents tell it (host_activity.h).
 * Threads: any; nothing is kept.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_LOOK_H
#define TROUPE_RUNTIME_LOOK_H

#include "runtime/activity.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a node of a job can be seen. */
typedef struct tr_place_seen {
    int32_t pid;        /* 0: there is none yet */
    int32_t descriptor; /* of its activity page in that process; -1: none */
    uint64_t started; /* when the process began, in ticks since the host's start: tells it from a later one */
} tr_place_seen;

typedef enum tr_process_seen {
    TR_PROCESS_WELL,
    TR_PROCESS_SILENT,  /* lives, and has not beaten for a while */
    TR_PROCESS_STOPPED, /* by SIGSTOP or a debugger */
    TR_PROCESS_GONE
} tr_process_seen;

typedef struct tr_actor_seen {
    tr_process_seen process;
    int32_t pid;               /* on its host */
    int32_t host;              /* 0: the head's */
    char host_name[64];        /* "" for the head's */
    uint64_t resident_bytes;   /* of its process; 0: not known */
    uint64_t beat_ns;          /* the process's last; 0: unknown */
    tr_activity_record record; /* actor 0: nothing is known of it */
} tr_actor_seen;

/* Of the process; started 0 where there is none. */
tr_place_seen tr_place_of(int32_t pid, int32_t descriptor);
bool tr_place_lives(const tr_place_seen *self); /* the very process, and no zombie */
/* Of a process of this host: does it live, is it stopped, and how much memory has it? */
tr_process_seen tr_process_look(int32_t pid, uint64_t *resident_bytes);

/* places: by node. out: by actor id - 1. */
void tr_look(const tr_topology *topology, const tr_place_seen *places, uint64_t now_ns, tr_actor_seen *out);

#ifdef __cplusplus
}
#endif
#endif
