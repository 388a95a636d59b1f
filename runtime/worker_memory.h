/* runtime/worker_memory.h - the state regions that a worker has mapped, from the layout it began in to those that follow.
 * They stay mapped from one epoch to the next. Where a change of the layout gives it others, its agent sends them over the
 * socket between the two; the worker takes them when it is told of an epoch of that layout, between two nodes, when nobody
 * writes into what it had.
 * Internal to runtime/. Threads: the worker's own.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_WORKER_MEMORY_H
#define TROUPE_RUNTIME_WORKER_MEMORY_H

#include "runtime/lease.h"
#include "runtime/state.h"

typedef struct tr__worker_memory {
    tr_state_region **regions; /* n_states, of its node's actors, in the topology's order */
    int32_t n_states;
    bool may_spin;   /* see tr_worker_may_spin */
    bool borrowed;   /* the regions are somebody else's */
    uint32_t layout; /* of which they are; 0: that of its start */
    struct {
        uint32_t layout; /* 0: nothing is on its way */
        bool keeps, may_spin;
        int *descriptors; /* n of n_states have come */
        uint32_t n, n_states;
    } next;
} tr__worker_memory;

/* Of the descriptors first .. first+n-1, which it takes, or the regions, which stay the caller's. Release it also when it
 * fails. */
tr_status tr__worker_memory_open(tr__worker_memory *self, int first, int32_t n,
                                 tr_state_region *const *regions, bool may_spin, tr_error *err);
void tr__worker_memory_release(tr__worker_memory *self);
/* A word about memory has come; its descriptors are taken. What it says holds from tr__worker_memory_take on. */
void tr__worker_memory_hear(tr__worker_memory *self, const tr_lease_word *word);
bool tr__worker_memory_has(const tr__worker_memory *self, uint32_t layout); /* or one behind it, whole? */
/* What has come takes the place of what was there. Nothing came: TR_OK. */
tr_status tr__worker_memory_take(tr__worker_memory *self, tr_error *err);

#endif
