/* runtime/poller.h - sleeping in poll(2) on descriptors, with a way to be roused (an eventfd).
 * Watched descriptors are level-triggered: one that was found readable is not polled again before its
 * callback has run.
 * Threads: rouse, watch and unwatch from any; wait by whoever gets its lock, dispatch by one thread at a time.
 * Callbacks are called without locks and may watch and unwatch.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_POLLER_H
#define TROUPE_RUNTIME_POLLER_H

#include "base/status.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_watch {
    int descriptor;
    int state_; /* polled, readable, or in its callback */
    void (*ready)(void *context);
    void *context;
} tr_watch;

typedef struct tr_poller {
    int event_;
    pthread_mutex_t polling_; /* held while in poll(2), and over polled_ */
    struct pollfd *polled_;
    size_t polled_capacity_;
    pthread_mutex_t lock_; /* of what follows */
    tr_watch *watches_;
    size_t n_watches_, watches_capacity_;
} tr_poller;

tr_status tr_poller_init(tr_poller *self, tr_error *err); /* Errors: TR_EIO */
void tr_poller_release(tr_poller *self);
void tr_poller_rouse(tr_poller *self); /* the wait under way, or the next one, ends at once */
tr_status tr_poller_watch(tr_poller *self, int descriptor, void (*ready)(void *context), void *context,
                          tr_error *err);
void tr_poller_unwatch(tr_poller *self, int descriptor);

/* Waits until one of `others`, a watched one, or the time says so. Does nothing where somebody else is
 * waiting already. true: a watched descriptor is readable, so dispatch has something to do. */
bool tr_poller_wait(tr_poller *self, const int *others, int n_others, uint64_t timeout_ns);
void tr_poller_dispatch(tr_poller *self); /* calls the callbacks of those that wait found readable */

#ifdef __cplusplus
}
#endif
#endif
