/* runtime/simulation_lease.h - the right to lead as etcd gives it, played: for the heads of a simulated job that have it beside the
 * lock. Times are those of pipelines/head_lease.h: from 6/10 of its life behind the last renewal that was granted a holder must stop,
 * at 9/10 its process is ended, when it runs, and at the whole of it etcd takes the key away.
 * The owner of the job asks it as a real one is asked: in may_lead, in record_epoch, and before it writes what lasts. The seed takes
 * etcd away for a while, from then on or since a while ago; and a head of another host, of which nothing is simulated but
 * that it wins epochs, may have the key when it is free.
 * Threads: the simulation's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SIMULATION_LEASE_H
#define TROUPE_RUNTIME_SIMULATION_LEASE_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The owner gives ttl_ns, and zeroes. */
typedef struct tr_played_lease {
    uint64_t ttl_ns;
    uint64_t *now_ns;       /* the simulation's clock */
    uint64_t revision;      /* of etcd's store */
    uint64_t mine, key;     /* the present head's revision, and that of who has the key; 0: none */
    uint64_t renewed_ns;    /* of mine, the last time that was granted */
    uint64_t away_until_ns; /* until then etcd does not answer */
    uint64_t key_until_ns;  /* etcd takes the key away then */
    uint64_t other_for_ns;  /* another host's head wants it for so long; 0: none does */
    uint32_t last_epoch;    /* that anybody has won */
    uint32_t won;           /* the last one of the present head */
    bool lost, refused;     /* it must stop; an epoch, or a write, was refused to it */
} tr_played_lease;

bool tr_played_lease_must_stop(const tr_played_lease *self);
bool tr_played_lease_is_held(const tr_played_lease *self); /* as far as its holder can know */
/* Before an epoch begins. Waits for an etcd that does not answer, in the simulation's time. Errors: TR_ECLOSED: another one has the
 * key; TR_EIO: it could not be won in time; TR_ECORRUPT: somebody had it before. */
tr_status tr_played_lease_win(tr_played_lease *self, uint32_t epoch, tr_error *err);

/* Private, for the simulation. */
void tr__lease_acquire(tr_played_lease *self);
void tr__lease_release(tr_played_lease *self);
uint64_t
tr__lease_free_ns(const tr_played_lease *self); /* when another head may acquire it, as far as is known now */
uint64_t tr__lease_over_ns(
    const tr_played_lease *self); /* when the holder's process is ended; UINT64_MAX: it renews */
void tr__lease_go_on(tr_played_lease *self, bool runs); /* time has passed; runs: the holder's threads did */
/* Nothing was granted for so long, and nothing is for the time that follows. */
void tr__lease_cut(tr_played_lease *self, uint64_t since_ns, uint64_t for_ns);

#ifdef __cplusplus
}
#endif
#endif
