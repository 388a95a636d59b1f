/* pipelines/head_lease.c - see head_lease.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/head_lease.h"

#include "base/log.h"
#include "base/memory.h"
#include "pipelines/etcd.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_MS = 5000, LOOK_MS = 500, WATCH_MS = 50, RETRY_MS = 100, FAREWELL_MS = 1000, LEAST_MS = 50 };

struct tr_head_lease {
    tr_head_lease_options options;
    char *job, *holder, *head_key, *epoch_key;
    tr_etcd *etcd;     /* the owner's */
    tr_etcd *renewals; /* the renewer's */
    int64_t lease, revision;
    uint32_t last_epoch;
    char last_value[16]; /* as the key of epochs has it; "": there is none */
    uint64_t ttl_ns;
    _Atomic uint64_t renewed_ns; /* 0: it is over, whatever the time */
    _Atomic bool stops;          /* said once that the holder must stop */
    pthread_mutex_t guard;       /* of why */
    char why[TR_ERROR_SIZE];     /* the last renewal failed; "": it did not */
    int ending;                  /* an eventfd: readable when both threads are to end; -1: none */
    bool renews, watches;        /* the threads are there */
    pthread_t renewer, watcher;
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A share of the time to live, in tenths, after the last renewal. Relaxed: the moment is all that is told. */
static uint64_t after_ns(const tr_head_lease *self, uint64_t tenths)
{
    uint64_t renewed_ns = atomic_load_explicit(&self->renewed_ns, memory_order_relaxed);
    return renewed_ns ? renewed_ns + self->ttl_ns / 10 * tenths : 0;
}

bool tr_head_lease_is_held(const tr_head_lease *self)
{
    return now_ns() < after_ns(self, 9);
}

static void tell_why(tr_head_lease *self, char *why, size_t capacity)
{
    pthread_mutex_lock(&self->guard);
    snprintf(why, capacity, "the lease of job '%s' in etcd could not be renewed%s%s", self->job,
             self->why[0] ? ": " : "", self->why);
    pthread_mutex_unlock(&self->guard);
}

bool tr_head_lease_must_stop(tr_head_lease *self, char *why, size_t capacity)
{
    if (now_ns() >= after_ns(self, 6)) atomic_store_explicit(&self->stops, true, memory_order_relaxed);
    if (!atomic_load_explicit(&self->stops, memory_order_relaxed)) return false;
    tell_why(self, why, capacity);
    return true;
}

int64_t tr_head_lease_revision(const tr_head_lease *self)
{
    return self->revision;
}

uint32_t tr_head_lease_last_epoch(const tr_head_lease *self)
{
    return self->last_epoch;
}

/* true: both threads are to end. */
static bool nap(const tr_head_lease *self, uint64_t for_ns)
{
    struct pollfd ending = {.fd = self->ending, .events = POLLIN};
    int left_ms = (int)(for_ns / 1000000) + 1;
    return poll(&ending, 1, left_ms) == 1;
}

/* --- the two threads --- */

static void note(tr_head_lease *self, const char *why)
{
    pthread_mutex_lock(&self->guard);
    snprintf(self->why, sizeof self->why, "%s", why);
    pthread_mutex_unlock(&self->guard);
}

/* The lease lives and the key is still ours: a person may have taken it away. */
static tr_status renew_once(tr_head_lease *self, uint32_t timeout_ms, tr_error *err)
{
    tr_etcd_entry entry;
    tr_status status = tr_etcd_renew(self->renewals, self->lease, timeout_ms, err);
    if (!status) status = tr_etcd_get(self->renewals, self->head_key, timeout_ms, &entry, err);
    if (status || (entry.found && entry.create_revision == self->revision)) return status;
    return tr_fail(err, TR_ENOTFOUND, "the key '%s' is %s", self->head_key,
                   entry.found ? "another head's" : "gone");
}

static void *renew(void *context)
{
    tr_head_lease *self = context;
    tr_error err;
    uint64_t wait_ns = self->ttl_ns / 5;
    uint32_t timeout_ms = (uint32_t)(self->ttl_ns / 1000000 / 5);
    while (!nap(self, wait_ns)) {
        uint64_t asked_ns = now_ns();
        tr_status status = renew_once(self, timeout_ms, &err);
        note(self, status ? err.message : "");
        if (status == TR_ENOTFOUND) { /* what does not come back */
            atomic_store_explicit(&self->renewed_ns, 0, memory_order_relaxed);
            break;
        }
        if (!status) atomic_store_explicit(&self->renewed_ns, asked_ns, memory_order_relaxed);
        wait_ns = status ? (uint64_t)RETRY_MS * 1000000 : self->ttl_ns / 5;
    }
    return NULL;
}

static void *watch(void *context)
{
    tr_head_lease *self = context;
    while (tr_head_lease_is_held(self))
        if (nap(self, (uint64_t)WATCH_MS * 1000000)) return NULL;
    char why[TR_ERROR_SIZE + 128];
    atomic_store_explicit(&self->stops, true, memory_order_relaxed);
    tell_why(self, why, sizeof why);
    self->options.lost(self->options.context, why);
    return NULL;
}

/* Without signals: those are for whoever runs the job. */
static tr_status start_threads(tr_head_lease *self, tr_error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int result = pthread_create(&self->watcher, NULL, watch, self);
    self->watches = result == 0;
    if (result == 0) result = pthread_create(&self->renewer, NULL, renew, self);
    self->renews = self->watches && result == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result == 0 ? TR_OK : tr_fail(err, TR_EIO, "cannot start a thread: %s", strerror(result));
}

/* --- beginning --- */

static uint32_t request_ms(const tr_head_lease *self)
{
    return self->options.ttl_s * 1000 / 3;
}

/* Puts the key with a new lease. *other: who has it already. */
static tr_status claim(tr_head_lease *self, tr_etcd_entry *other, tr_error *err)
{
    int64_t granted_s;
    tr_etcd_outcome outcome;
    uint64_t asked_ns = now_ns();
    tr_status status =
        tr_etcd_grant(self->etcd, self->options.ttl_s, request_ms(self), &self->lease, &granted_s, err);
    if (status) return status;
    if (granted_s > self->options.ttl_s)
        granted_s = self->options.ttl_s; /* its least may be more: that is no harm */
    const tr_etcd_put put = {
        .guard = self->head_key, .key = self->head_key, .value = self->holder, .lease = self->lease};
    status = tr_etcd_put_if(self->etcd, &put, request_ms(self), &outcome, err);
    if (status) status = tr_etcd_put_if(self->etcd, &put, request_ms(self), &outcome, err);
    if (status) return status;
    bool was_done =
        !outcome.done && outcome.guard.found && outcome.guard.lease == self->lease; /* unanswered */
    self->revision = outcome.done ? outcome.revision : was_done ? outcome.guard.create_revision : 0;
    if (!self->revision) {
        *other = outcome.guard;
        (void)tr_etcd_revoke(self->etcd, self->lease, request_ms(self), NULL);
        return TR_OK;
    }
    self->ttl_ns = (uint64_t)granted_s * 1000000000;
    atomic_store_explicit(&self->renewed_ns, asked_ns, memory_order_relaxed);
    return TR_OK;
}

static tr_status read_last_epoch(tr_head_lease *self, tr_error *err)
{
    tr_etcd_entry entry;
    tr_status status = tr_etcd_get(self->etcd, self->epoch_key, request_ms(self), &entry, err);
    if (status) return status;
    char *end = entry.value;
    unsigned long epoch = entry.found ? strtoul(entry.value, &end, 10) : 0;
    if (entry.found &&
        (end == entry.value || *end || epoch > UINT32_MAX || strlen(entry.value) >= sizeof self->last_value))
        return tr_fail(err, TR_ECORRUPT, "the key '%s' in etcd holds '%s' and no epoch", self->epoch_key,
                       entry.value);
    self->last_epoch = (uint32_t)epoch;
    snprintf(self->last_value, sizeof self->last_value, "%s", entry.value);
    return TR_OK;
}

/* One look: takes it where it is free, and says who has it where it is not. */
static tr_status try_once(tr_head_lease *self, tr_etcd_entry *other, tr_error *err)
{
    tr_status status =
        tr_etcd_get(self->etcd, self->head_key, FIRST_MS, other, err); /* it may just be electing */
    return status || other->found ? status : claim(self, other, err);
}

static tr_status refused(const tr_head_lease *self, const tr_etcd_entry *other, tr_error *err)
{
    return tr_fail(err, TR_EEXIST,
                   "job '%s' is led by %s; wait for its end, or name this one differently with head.job=NAME",
                   self->job, other->value[0] ? other->value : "somebody else");
}

static void tell_waiting(const tr_head_lease *self, const tr_etcd_entry *other,
                         tr_head_lease_patience patience)
{
    char text[TR_ERROR_SIZE];
    const char *who = other->value[0] ? other->value : "somebody else";
    if (!self->options.waits) return;
    if (patience == TR_LEASE_FOR_EVER)
        snprintf(text, sizeof text, "waits: job '%.500s' is led by %s", self->job, who);
    else
        snprintf(text, sizeof text, "waits up to %u s: job '%.500s' was led by %s, and may be yet",
                 self->options.ttl_s + 2, self->job, who);
    self->options.waits(self->options.context, text);
}

static tr_status wait_and_claim(tr_head_lease *self, tr_head_lease_patience patience, tr_error *err)
{
    /* A dead holder's key goes within its time to live, which is mostly ours. etcd looks for ended leases twice a second. */
    uint64_t until_ns = now_ns() + (uint64_t)(self->options.ttl_s + 2) * 1000000000;
    bool answered = false, said = false, told = false;
    tr_error why;
    for (;;) {
        tr_etcd_entry other = {0};
        tr_status status = try_once(self, &other, &why);
        if (!status && self->revision) return TR_OK;
        answered = answered || !status;
        bool waits =
            patience == TR_LEASE_FOR_EVER ? answered : patience == TR_LEASE_IF_DEAD && now_ns() < until_ns;
        if (!status && !waits) return refused(self, &other, err);
        if (!status && !told) tell_waiting(self, &other, patience);
        told = told || !status;
        if (status && !(answered && waits))
            return tr_fail(err, status == TR_ECORRUPT || status == TR_ENOMEM ? status : TR_ENOTFOUND,
                           "head.etcd: cannot ask for the lease of job '%s': %s", self->job, why.message);
        if (status && !said)
            tr_log(TR_LOG_WARNING, "etcd does not answer, and is asked again: %s", why.message);
        said = status != TR_OK;
        poll(NULL, 0, LOOK_MS);
    }
}

static tr_status set_up(tr_head_lease *self, tr_error *err)
{
    tr_status status = TR_OK;
    self->job = tr_strdup(self->options.job);
    self->holder = tr_strdup(self->options.holder);
    self->head_key = tr_format("troupe/%s/head", self->options.job);
    self->epoch_key = tr_format("troupe/%s/epoch", self->options.job);
    if (!self->job || !self->holder || !self->head_key || !self->epoch_key)
        return tr_fail(err, TR_ENOMEM, "no memory for a lease");
    self->ending = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (self->ending < 0) status = tr_fail(err, TR_EIO, "cannot make an eventfd: %s", strerror(errno));
    if (!status) status = tr_etcd_new(&self->etcd, self->options.addresses, err);
    if (!status) status = tr_etcd_new(&self->renewals, self->options.addresses, err);
    return status ? tr_fail_within(err, status, "head.etcd") : TR_OK;
}

tr_status tr_head_lease_acquire(tr_head_lease **out, const tr_head_lease_options *options,
                                tr_head_lease_patience patience, tr_error *err)
{
    tr_head_lease *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a lease");
    self->options = *options;
    self->ending = -1;
    pthread_mutex_init(&self->guard, NULL);
    tr_status status = set_up(self, err);
    if (!status) status = wait_and_claim(self, patience, err);
    if (!status) status = start_threads(self, err);
    if (!status) status = read_last_epoch(self, err);
    if (status)
        tr_head_lease_release(&self);
    else
        *out = self;
    return status;
}

void tr_head_lease_release(tr_head_lease **out)
{
    tr_head_lease *self = *out;
    if (!self) return;
    if (self->ending >= 0 && eventfd_write(self->ending, 1) != 0)
        tr_log(TR_LOG_WARNING, "cannot wake the threads of a lease: %s", strerror(errno));
    if (self->renews) pthread_join(self->renewer, NULL);
    if (self->watches) pthread_join(self->watcher, NULL);
    if (self->revision)
        (void)tr_etcd_revoke(self->etcd, self->lease, FAREWELL_MS, NULL); /* or it ends by itself */
    tr_etcd_destroy(&self->etcd);
    tr_etcd_destroy(&self->renewals);
    if (self->ending >= 0) close(self->ending);
    pthread_mutex_destroy(&self->guard);
    tr_free(self->job);
    tr_free(self->holder);
    tr_free(self->head_key);
    tr_free(self->epoch_key);
    tr_free(self);
    *out = NULL;
}

/* --- epochs --- */

/* Nobody else writes while the guard is ours: it was done by one that was not answered. */
static tr_status was_put(tr_head_lease *self, const char *value, uint32_t timeout_ms, tr_error *err)
{
    tr_etcd_entry entry;
    tr_status status = tr_etcd_get(self->etcd, self->epoch_key, timeout_ms, &entry, err);
    if (status || (entry.found && strcmp(entry.value, value) == 0)) return status;
    return tr_fail(err, TR_ECORRUPT,
                   "the key '%s' in etcd holds '%.40s', which no head of this job put there", self->epoch_key,
                   entry.value);
}

/* One that was not answered may be sent again: it puts the same. It may also be done late, so what is put follows what was there:
 * behind a later epoch it does nothing. */
static tr_status put_epoch(tr_head_lease *self, uint32_t epoch, uint32_t timeout_ms, tr_error *err)
{
    char value[sizeof self->last_value];
    tr_etcd_outcome outcome;
    snprintf(value, sizeof value, "%u", epoch);
    const tr_etcd_put put = {.guard = self->head_key,
                             .guard_revision = self->revision,
                             .was = self->last_value,
                             .key = self->epoch_key,
                             .value = value};
    tr_status status = tr_etcd_put_if(self->etcd, &put, timeout_ms, &outcome, err);
    if (!status && !outcome.done && outcome.guard.create_revision == self->revision)
        status = was_put(self, value, timeout_ms, err);
    else if (!status && !outcome.done)
        status = TR_ECLOSED;
    if (!status) memcpy(self->last_value, value, sizeof value);
    if (status != TR_ECLOSED) return status;
    const char *who = outcome.guard.value[0] ? outcome.guard.value : "somebody else";
    return tr_fail(err, TR_ECLOSED, "epoch %u may not begin: job '%s' is not led by this head any more%s%s",
                   epoch, self->job, outcome.guard.found ? ", but by " : "", outcome.guard.found ? who : "");
}

tr_status tr_head_lease_win_epoch(tr_head_lease *self, uint32_t epoch, tr_error *err)
{
    tr_error why = {0};
    uint64_t until_ns =
        after_ns(self, 6); /* not later ones: it may renew and yet put nothing, when its disk is full */
    if (epoch <= self->last_epoch)
        return tr_fail(err, TR_EINVAL, "epoch %u was won before; the last was %u", epoch, self->last_epoch);
    for (;;) {
        uint64_t at_ns = now_ns();
        uint64_t left_ms = at_ns < until_ns ? (until_ns - at_ns) / 1000000 : 0;
        if (left_ms < LEAST_MS)
            return tr_fail(err, TR_EIO,
                           "epoch %u could not be won in etcd while the lease of job '%s' lasts%s%s", epoch,
                           self->job, why.message[0] ? ": " : "", why.message);
        tr_status status = put_epoch(self, epoch, (uint32_t)left_ms, &why);
        if (!status) {
            self->last_epoch = epoch;
            return TR_OK;
        }
        if (status == TR_ECLOSED) return tr_fail(err, status, "%s", why.message);
        poll(NULL, 0, RETRY_MS);
    }
}
