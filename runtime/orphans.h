/* runtime/orphans.h - the agent and the workers of a job whose head died, as a new head finds them (runtime/lease.h).
 * Finding them holds their lease: they wait for as long as it is decided what becomes of them. Then they are taken, in the
 * job that begins with them (tr_job_lease), or dismissed; if neither comes, because this process ends too, their lease
 * begins anew. The caller must be the only one who may lead.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_ORPHANS_H
#define TROUPE_RUNTIME_ORPHANS_H

#include "runtime/lease.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_orphans {
    tr_lease_offer offer;
    int agent; /* its pidfd */
    int kept;  /* the memory that the dead head gave to keep; -1: none */
    int connection;
    uint64_t found_ns;
} tr_orphans;

/* directory: where the agent listens. Errors: TR_ENOTFOUND: nobody is left there; TR_ETIMEDOUT: somebody is and says
 * nothing (then their head lives, or it hangs); TR_ECORRUPT, TR_EIO, TR_ENOMEM. */
tr_status tr_orphans_find(tr_orphans **out, int directory, tr_error *err);
/* The same in two, for who does not wait in it: call, and when its connection is readable hear, which destroys it where it fails. */
tr_status tr_orphans_call(tr_orphans **out, int directory, tr_error *err);
tr_status tr_orphans_hear(tr_orphans **called, tr_error *err);
int32_t tr_orphans_alive(const tr_orphans *self); /* workers */
/* The launch is that of an agent, in an epoch never used before; holdings: its end of a pair of sockets, which stays the
 * caller's. The answer is that they greet, which they
 * do if this is not destroyed before. Errors: TR_ECLOSED: they are
 * gone; TR_EIO, TR_ENOMEM. */
tr_status tr_orphans_take(tr_orphans *self, const tr_launch *launch, int holdings, tr_error *err);
/* Sends them home and waits until all are gone. Errors: TR_ETIMEDOUT. */
tr_status tr_orphans_dismiss(tr_orphans **self, tr_error *err);
void tr_orphans_destroy(tr_orphans **self);

#ifdef __cplusplus
}
#endif
#endif
