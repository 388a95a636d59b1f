/* runtime/timers.h - what is to happen later: a heap ordered by time, then by order of setting.
 * Threads: all functions from any; one lock inside. tr_timers_next is one atomic load.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_TIMERS_H
#define TROUPE_RUNTIME_TIMERS_H

#include "runtime/topology.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_timer {
    uint64_t due_ns;
    uint64_t order;
    tr_actor_id actor;
    uint32_t tag;
    uint32_t incarnation; /* of the actor that set it */
} tr_timer;

typedef struct tr_timers {
    pthread_mutex_t lock_;
    tr_timer *heap_;
    size_t n_, capacity_;
    uint64_t n_set_;
    uint64_t next_ns_; /* atomic */
} tr_timers;

void tr_timers_init(tr_timers *self);
void tr_timers_release(tr_timers *self);
/* *earliest: it is the next one now. Errors: TR_ENOMEM. */
tr_status tr_timers_add(tr_timers *self, uint64_t due_ns, tr_actor_id actor, uint32_t incarnation,
                        uint32_t tag, bool *earliest, tr_error *err);
uint64_t tr_timers_next(const tr_timers *self);                       /* UINT64_MAX: none */
bool tr_timers_take(tr_timers *self, uint64_t now_ns, tr_timer *out); /* the next one, if it is due */

#ifdef __cplusplus
}
#endif
#endif
