/* runtime/poller.c - see poller.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/poller.h"

#include "base/memory.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { POLLED, READABLE, IN_CALLBACK };

tr_status tr_poller_init(tr_poller *self, tr_error *err)
{
    *self = (tr_poller){.event_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    if (self->event_ < 0) return tr_fail(err, TR_EIO, "cannot make an event descriptor: %s", strerror(errno));
    pthread_mutex_init(&self->polling_, NULL);
    pthread_mutex_init(&self->lock_, NULL);
    return TR_OK;
}

void tr_poller_release(tr_poller *self)
{
    close(self->event_);
    pthread_mutex_destroy(&self->polling_);
    pthread_mutex_destroy(&self->lock_);
    tr_free(self->polled_);
    tr_free(self->watches_);
}

void tr_poller_rouse(tr_poller *self)
{
    uint64_t one = 1;
    ssize_t written =
        write(self->event_, &one, sizeof one); /* full means that it is readable, which is all we want */
    (void)written;
}

static tr_watch *find(tr_poller *self, int descriptor)
{
    for (size_t i = 0; i < self->n_watches_; i++)
        if (self->watches_[i].descriptor == descriptor) return &self->watches_[i];
    return NULL;
}

tr_status tr_poller_watch(tr_poller *self, int descriptor, void (*ready)(void *context), void *context,
                          tr_error *err)
{
    pthread_mutex_lock(&self->lock_);
    tr_status status = TR_OK;
    if (find(self, descriptor))
        status = tr_fail(err, TR_EEXIST, "descriptor %d is watched already", descriptor);
    else
        status = tr_array_reserve((void **)&self->watches_, &self->watches_capacity_, self->n_watches_ + 1,
                                  sizeof *self->watches_, err);
    if (status == TR_OK) self->watches_[self->n_watches_++] = (tr_watch){descriptor, POLLED, ready, context};
    pthread_mutex_unlock(&self->lock_);
    if (status == TR_OK) tr_poller_rouse(self); /* whoever sleeps does not know of it yet */
    return status;
}

void tr_poller_unwatch(tr_poller *self, int descriptor)
{
    pthread_mutex_lock(&self->lock_);
    tr_watch *watch = find(self, descriptor);
    if (watch) *watch = self->watches_[--self->n_watches_];
    pthread_mutex_unlock(&self->lock_);
}

static size_t fill(tr_poller *self, const int *others, int n_others)
{
    size_t n = 0;
    pthread_mutex_lock(&self->lock_);
    size_t needed = 1 + (size_t)n_others + self->n_watches_;
    if (tr_array_reserve((void **)&self->polled_, &self->polled_capacity_, needed, sizeof *self->polled_,
                         NULL) == TR_OK) {
        self->polled_[n++] = (struct pollfd){.fd = self->event_, .events = POLLIN};
        for (int i = 0; i < n_others; i++)
            self->polled_[n++] = (struct pollfd){.fd = others[i], .events = POLLIN};
        for (size_t i = 0; i < self->n_watches_; i++)
            if (self->watches_[i].state_ == POLLED)
                self->polled_[n++] = (struct pollfd){.fd = self->watches_[i].descriptor, .events = POLLIN};
    }
    pthread_mutex_unlock(&self->lock_);
    return n;
}

static bool mark_readable(tr_poller *self, const struct pollfd *watched, size_t n)
{
    bool some = false;
    pthread_mutex_lock(&self->lock_);
    for (size_t i = 0; i < n; i++) {
        tr_watch *watch = watched[i].revents ? find(self, watched[i].fd) : NULL;
        if (!watch || watch->state_ != POLLED) continue;
        watch->state_ = READABLE;
        some = true;
    }
    pthread_mutex_unlock(&self->lock_);
    return some;
}

bool tr_poller_wait(tr_poller *self, const int *others, int n_others, uint64_t timeout_ns)
{
    if (pthread_mutex_trylock(&self->polling_) != 0) return false;
    bool some = false;
    size_t n = fill(self, others, n_others);
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000),
                               .tv_nsec = (long)(timeout_ns % 1000000000)};
    if (n > 0 && ppoll(self->polled_, n, timeout_ns == UINT64_MAX ? NULL : &timeout, NULL) > 0) {
        uint64_t count;
        /* A mere look leaves the rouse to the thread that it was meant for, which may be about to sleep. */
        if (timeout_ns > 0 && self->polled_[0].revents && read(self->event_, &count, sizeof count) < 0)
            count = 0; /* was taken already */
        size_t first = 1 + (size_t)n_others;
        some = mark_readable(self, self->polled_ + first, n - first);
    }
    pthread_mutex_unlock(&self->polling_);
    return some;
}

static bool take_readable(tr_poller *self, tr_watch *out)
{
    bool found = false;
    pthread_mutex_lock(&self->lock_);
    for (size_t i = 0; i < self->n_watches_ && !found; i++) {
        if (self->watches_[i].state_ != READABLE) continue;
        self->watches_[i].state_ = IN_CALLBACK;
        *out = self->watches_[i];
        found = true;
    }
    pthread_mutex_unlock(&self->lock_);
    return found;
}

void tr_poller_dispatch(tr_poller *self)
{
    tr_watch watch;
    bool some = false;
    while (take_readable(self, &watch)) {
        watch.ready(watch.context);
        pthread_mutex_lock(&self->lock_);
        tr_watch *again = find(self, watch.descriptor); /* gone if the callback unwatched it */
        if (again && again->state_ == IN_CALLBACK) again->state_ = POLLED;
        pthread_mutex_unlock(&self->lock_);
        some = true;
    }
    if (some) tr_poller_rouse(self); /* to poll these again */
}
