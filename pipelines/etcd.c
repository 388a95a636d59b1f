/* pipelines/etcd.c - see etcd.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/etcd.h"

#include "base/memory.h"
#include "pipelines/etcd_http.h"

#include <inttypes.h>
#include <string.h>

struct tr_etcd {
    tr__etcd_http *http;
};

/* One address: "http://HOST:PORT" and nothing behind it. */
static bool is_address(const char *text, size_t length)
{
    size_t scheme = strncmp(text, "http://", 7) == 0 ? 7 : strncmp(text, "https://", 8) == 0 ? 8 : 0;
    bool good = scheme && length > scheme;
    for (size_t i = scheme; good && i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        good = c > 32 && c < 127 && !strchr("/?#@\"\\", c);
    }
    return good;
}

tr_status tr_etcd_check_addresses(const char *addresses, tr_error *err)
{
    for (const char *at = addresses;; at++) {
        size_t length = strcspn(at, ",");
        if (!is_address(at, length))
            return tr_fail(err, TR_EINVAL, "'%s' is not http://HOST:PORT, or several with commas between",
                           addresses);
        at += length;
        if (!*at) return TR_OK;
    }
}

tr_status tr_etcd_new(tr_etcd **out, const char *addresses, tr_error *err)
{
    tr_status status = tr_etcd_check_addresses(addresses, err);
    if (status) return status;
    tr_etcd *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory to speak to etcd");
    status = tr__etcd_http_new(&self->http, addresses, err);
    if (status)
        tr_etcd_destroy(&self);
    else
        *out = self;
    return status;
}

void tr_etcd_destroy(tr_etcd **self)
{
    if (!*self) return;
    tr__etcd_http_destroy(&(*self)->http);
    tr_free(*self);
    *self = NULL;
}

/* Takes the body. What is not status 200 is a refusal. */
static tr_status post(tr_etcd *self, const char *path, char *body, uint32_t timeout_ms, tr__etcd_reply *reply,
                      tr_error *err)
{
    if (!body) return tr_fail(err, TR_ENOMEM, "no memory to speak to etcd");
    tr_status status = tr__etcd_http_post(self->http, path, body, timeout_ms, reply, err);
    tr_free(body);
    if (!status && reply->http_status != 200)
        status = tr_etcd_answer_refusal(reply->bytes, reply->size_bytes, reply->http_status, err);
    return status;
}

tr_status tr_etcd_grant(tr_etcd *self, int64_t ttl_s, uint32_t timeout_ms, int64_t *lease, int64_t *granted_s,
                        tr_error *err)
{
    tr__etcd_reply reply;
    tr_status status =
        post(self, "/v3/lease/grant", tr_format("{\"TTL\":\"%" PRId64 "\"}", ttl_s), timeout_ms, &reply, err);
    return status ? status : tr_etcd_answer_grant(reply.bytes, reply.size_bytes, lease, granted_s, err);
}

tr_status tr_etcd_renew(tr_etcd *self, int64_t lease, uint32_t timeout_ms, tr_error *err)
{
    tr__etcd_reply reply;
    int64_t ttl_s = 0;
    tr_status status = post(self, "/v3/lease/keepalive", tr_format("{\"ID\":\"%" PRId64 "\"}", lease),
                            timeout_ms, &reply, err);
    if (!status) status = tr_etcd_answer_alive(reply.bytes, reply.size_bytes, lease, &ttl_s, err);
    return status || ttl_s ? status : tr_fail(err, TR_ENOTFOUND, "etcd has ended the lease");
}

tr_status tr_etcd_revoke(tr_etcd *self, int64_t lease, uint32_t timeout_ms, tr_error *err)
{
    tr__etcd_reply reply;
    return post(self, "/v3/lease/revoke", tr_format("{\"ID\":\"%" PRId64 "\"}", lease), timeout_ms, &reply,
                err);
}

tr_status tr_etcd_get(tr_etcd *self, const char *key, uint32_t timeout_ms, tr_etcd_entry *entry,
                      tr_error *err)
{
    tr__etcd_reply reply;
    char *name = tr_base64_encode(key);
    tr_status status = post(self, "/v3/kv/range", name ? tr_format("{\"key\":\"%s\"}", name) : NULL,
                            timeout_ms, &reply, err);
    tr_free(name);
    return status ? status : tr_etcd_answer_range(reply.bytes, reply.size_bytes, entry, err);
}

/* The second comparison of a transaction, with its comma; "" where there is none. NULL: no memory. Free with tr_free. */
static char *compare_was(const char *was, const char *key)
{
    if (!was) return tr_strdup("");
    if (!*was)
        return tr_format(",{\"result\":\"EQUAL\",\"target\":\"CREATE\",\"key\":\"%s\","
                         "\"create_revision\":\"0\"}",
                         key);
    char *value = tr_base64_encode(was), *text = NULL;
    if (value)
        text = tr_format(",{\"result\":\"EQUAL\",\"target\":\"VALUE\",\"key\":\"%s\",\"value\":\"%s\"}", key,
                         value);
    tr_free(value);
    return text;
}

tr_status tr_etcd_put_if(tr_etcd *self, const tr_etcd_put *put, uint32_t timeout_ms, tr_etcd_outcome *outcome,
                         tr_error *err)
{
    tr__etcd_reply reply;
    char *guard = tr_base64_encode(put->guard), *key = tr_base64_encode(put->key),
         *value = tr_base64_encode(put->value), *was = key ? compare_was(put->was, key) : NULL, *body = NULL;
    if (guard && value && was)
        body = tr_format("{\"compare\":[{\"result\":\"EQUAL\",\"target\":\"CREATE\",\"key\":\"%s\","
                         "\"create_revision\":\"%" PRId64 "\"}%s],"
                         "\"success\":[{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\",\"lease\":\"%" PRId64
                         "\"}}],"
                         "\"failure\":[{\"request_range\":{\"key\":\"%s\"}}]}",
                         guard, put->guard_revision, was, key, value, put->lease, guard);
    tr_free(was);
    tr_free(guard);
    tr_free(key);
    tr_free(value);
    tr_status status = post(self, "/v3/kv/txn", body, timeout_ms, &reply, err);
    return status ? status : tr_etcd_answer_txn(reply.bytes, reply.size_bytes, outcome, err);
}
