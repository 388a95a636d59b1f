/* pipelines/head_lease.h - the right to lead a job, held in etcd: what the lock on the run's directory is on one host.
 * A key of the job is put only where it is not there (compare and set), and goes with a lease that etcd ends when it is not
 * renewed. Times here are of this host's clock since boot, which goes on while the host sleeps, and count from before the
 * request that was granted was sent, so that they are over before etcd's:
 *
 *   renewed    +1/5    +2/5    +3/5             +9/10      +1 time to live
 *      |---------|-------|-------|-----------------|----------|
 *             renews, or tries   must stop       is over     etcd takes the key away
 *
 * From "must stop" on the holder ends what it does, while it may yet act. "Is over" is told by `lost`, on a thread that does
 * nothing but wait for it; the holder must not act any more, so the program ends there, however long its other threads are
 * in the middle of something. Against a process that did not run at that moment stands the fence: an epoch is won in etcd,
 * under the condition that the key is still the one that this holder made, and every epoch is above all that anybody won.
 * Threads: one owner; is_held and must_stop from any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_HEAD_LEASE_H
#define TROUPE_PIPELINES_HEAD_LEASE_H

#include "pipelines/etcd_answer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_head_lease tr_head_lease;

typedef struct tr_head_lease_options {
    const char *addresses; /* of etcd, see tr_etcd_new */
    const char *job;       /* whose heads are at most one */
    const char *holder;    /* who this is, for the others to read */
    uint32_t ttl_s;
    void *context;
    void (*waits)(
        void *context,
        const char *text); /* once, where another one holds it and that is waited out; NULL: not told */
    void (*lost)(void *context, const char *text); /* on a thread of its own, once */
} tr_head_lease_options;

typedef enum tr_head_lease_patience {
    TR_LEASE_NOW,      /* who finds another holder is refused */
    TR_LEASE_IF_DEAD,  /* after waiting for as long as the lease of one that does not renew it lasts */
    TR_LEASE_FOR_EVER, /* until it is free; etcd may come and go meanwhile */
} tr_head_lease_patience;

/* Errors: TR_EEXIST: somebody else holds it, in a line that says who; TR_ENOTFOUND: etcd does not answer; TR_EINVAL,
 * TR_EUNSUPPORTED: see tr_etcd_new; TR_EIO, TR_ECORRUPT, TR_ENOMEM. */
tr_status tr_head_lease_acquire(tr_head_lease **out, const tr_head_lease_options *options,
                                tr_head_lease_patience patience, tr_error *err);
/* Gives it back, so that others need not wait for its end. */
void tr_head_lease_release(tr_head_lease **self);

bool tr_head_lease_is_held(const tr_head_lease *self);
/* Why its holder has to end what it does; false: it need not. Once true it stays so. */
bool tr_head_lease_must_stop(tr_head_lease *self, char *why, size_t capacity);

/* Of etcd's store when this holder made the key: larger than any holder's before it. */
int64_t tr_head_lease_revision(const tr_head_lease *self);
uint32_t tr_head_lease_last_epoch(const tr_head_lease *self); /* that anybody has won; 0: none */
/* Wins an epoch that is above that; nobody else has it from then on. Waits for an etcd that does not answer until the holder
 * must stop. Errors: TR_ECLOSED: another one holds the lease; TR_EIO: it could not be won in time. */
tr_status tr_head_lease_win_epoch(tr_head_lease *self, uint32_t epoch, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
