/* pipelines/etcd.h - as much of etcd as a lease needs: granting one, renewing it, and putting a key only if another one is still
 * what it was (compare and set). Over the JSON gateway of etcd 3.4 and later, by libcurl; there is no C client of its gRPC.
 * Several addresses are those of one cluster: each request begins with the one that answered last, and tries the others where
 * nobody answers, or says that it cannot now (HTTP status 500 and above). Whether a request that was not answered was done is not known; all of these may be made once more.
 * Threads: one at a time for each object.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_ETCD_H
#define TROUPE_PIPELINES_ETCD_H

#include "pipelines/etcd_answer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_etcd tr_etcd;

/* "http://10.0.0.7:2379", or several with commas between. Nothing is asked yet. Errors: TR_EINVAL (no such addresses),
 * TR_EUNSUPPORTED (built without libcurl), TR_ENOMEM. */
tr_status tr_etcd_new(tr_etcd **out, const char *addresses, tr_error *err);
void tr_etcd_destroy(tr_etcd **self);
/* Only looks at the text. Errors: TR_EINVAL. */
tr_status tr_etcd_check_addresses(const char *addresses, tr_error *err);

/* Errors of all, within timeout_ms: TR_ETIMEDOUT or TR_EIO: nobody answered; TR_EIO: it refused; TR_ECORRUPT: it is no etcd;
 * TR_ENOMEM. */
tr_status tr_etcd_grant(tr_etcd *self, int64_t ttl_s, uint32_t timeout_ms, int64_t *lease, int64_t *granted_s,
                        tr_error *err);
/* TR_ENOTFOUND: the lease has ended. */
tr_status tr_etcd_renew(tr_etcd *self, int64_t lease, uint32_t timeout_ms, tr_error *err);
tr_status tr_etcd_revoke(tr_etcd *self, int64_t lease, uint32_t timeout_ms, tr_error *err);
tr_status tr_etcd_get(tr_etcd *self, const char *key, uint32_t timeout_ms, tr_etcd_entry *entry,
                      tr_error *err);

typedef struct tr_etcd_put {
    const char *guard;      /* puts only if this key was made at */
    int64_t guard_revision; /* this revision; 0: only if it is not there */
    const char *was;        /* and only if `key` holds this; "": is not there; NULL: whatever it holds */
    const char *key, *value;
    int64_t lease; /* with which the key goes; 0: it stays. TR_ENOTFOUND: it has ended */
} tr_etcd_put;

tr_status tr_etcd_put_if(tr_etcd *self, const tr_etcd_put *put, uint32_t timeout_ms, tr_etcd_outcome *outcome,
                         tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
