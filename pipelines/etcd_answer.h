/* pipelines/etcd_answer.h - what etcd's JSON gateway (/v3/) answers, read with suspicion: it comes over a network, from whoever
 * listens there. 64-bit numbers are texts in it, keys and values are base64. What is missing and would be zero may be left out
 * (protobuf), so an answer has to name what only a right one names.
 * Threads: plain functions.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_ETCD_ANSWER_H
#define TROUPE_PIPELINES_ETCD_ANSWER_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TR_ETCD_VALUE_CHARS = 256,       /* of values that are ours */
    TR_ETCD_ANSWER_BYTES = 64 * 1024 /* ours are some hundreds */
};

/* A key and what it holds. */
typedef struct tr_etcd_entry {
    bool found;
    int64_t create_revision; /* of etcd's store, when the key was made; never the same for two makings */
    int64_t lease;           /* that it goes with; 0: none */
    char value[TR_ETCD_VALUE_CHARS]; /* a printable text */
} tr_etcd_entry;

typedef struct tr_etcd_outcome {
    bool done;           /* the condition held, and the key was put */
    int64_t revision;    /* of the store behind it */
    tr_etcd_entry guard; /* where it did not hold: the key that the condition is about */
} tr_etcd_outcome;

/* Errors everywhere: TR_ECORRUPT, in a line. */
tr_status tr_etcd_answer_grant(const char *bytes, size_t size_bytes, int64_t *lease, int64_t *ttl_s,
                               tr_error *err);
/* *ttl_s 0: the lease has ended. */
tr_status tr_etcd_answer_alive(const char *bytes, size_t size_bytes, int64_t lease, int64_t *ttl_s,
                               tr_error *err);
tr_status tr_etcd_answer_range(const char *bytes, size_t size_bytes, tr_etcd_entry *entry, tr_error *err);
tr_status tr_etcd_answer_txn(const char *bytes, size_t size_bytes, tr_etcd_outcome *outcome, tr_error *err);
/* Of an HTTP status other than 200: etcd's own words in *err, or that there are none. TR_ENOTFOUND: there is no such lease;
 * else TR_EIO. */
tr_status tr_etcd_answer_refusal(const char *bytes, size_t size_bytes, long http_status, tr_error *err);

/* Standard base64 with padding. Free with tr_free; NULL: no memory. */
char *tr_base64_encode(const char *text);
/* A NUL behind it. false: not base64, or it does not fit. */
bool tr_base64_decode(const char *text, char *out, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
