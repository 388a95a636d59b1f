/* pipelines/etcd_http.h - POST of a JSON text to the first of several addresses that answers. The only file that knows libcurl;
 * without it there is none (TR_EUNSUPPORTED).
 * Internal to pipelines/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_ETCD_HTTP_H
#define TROUPE_PIPELINES_ETCD_HTTP_H

#include "base/status.h"

typedef struct tr__etcd_http tr__etcd_http;

typedef struct tr__etcd_reply {
    long http_status;
    const char *bytes; /* until the next request */
    size_t size_bytes;
} tr__etcd_reply;

/* addresses: as tr_etcd_new has checked them. */
tr_status tr__etcd_http_new(tr__etcd_http **out, const char *addresses, tr_error *err);
void tr__etcd_http_destroy(tr__etcd_http **self);
/* Errors: TR_ETIMEDOUT, TR_EIO: nobody answered, or more than TR_ETCD_ANSWER_BYTES; TR_ENOMEM. */
tr_status tr__etcd_http_post(tr__etcd_http *self, const char *path, const char *body, uint32_t timeout_ms,
                             tr__etcd_reply *reply, tr_error *err);

#endif
