/* pipelines/etcd_http.c - see etcd_http.h. No proxies (the way to etcd is direct, whatever the environment says of the web), no
 * redirects, nothing but HTTP and HTTPS, no signals (libcurl's name resolver would use SIGALRM), and no more of an answer than fits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/etcd_http.h"

#include "pipelines/etcd_answer.h"

#ifdef TROUPE_CURL

#include "base/clock.h"
#include "base/memory.h"

#include <curl/curl.h>
#include <pthread.h>
#include <string.h>

enum { MOST_ADDRESSES = 16 };

struct tr__etcd_http {
    CURL *handle;
    struct curl_slist *headers;
    char *addresses[MOST_ADDRESSES];
    int n_addresses, last; /* that answered */
    char *bytes;           /* TR_ETCD_ANSWER_BYTES */
    size_t size_bytes;
    bool too_large;
    char why[CURL_ERROR_SIZE];
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void begin_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t take(char *bytes, size_t one, size_t n, void *context)
{
    tr__etcd_http *self = context;
    (void)one; /* always 1 */
    self->too_large = n > TR_ETCD_ANSWER_BYTES - self->size_bytes;
    if (self->too_large) return 0;
    memcpy(self->bytes + self->size_bytes, bytes, n);
    self->size_bytes += n;
    return n;
}

static bool set_up(tr__etcd_http *self)
{
    CURL *handle = self->handle;
    return curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_NOPROXY, "*") == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_HTTPHEADER, self->headers) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, self->why) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, take) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_WRITEDATA, self) == CURLE_OK;
}

tr_status tr__etcd_http_new(tr__etcd_http **out, const char *addresses, tr_error *err)
{
    tr__etcd_http *self = tr_alloc_zero(1, sizeof *self);
    pthread_once(&once, begin_curl);
    bool good = self && (self->bytes = tr_alloc(TR_ETCD_ANSWER_BYTES)) && (self->handle = curl_easy_init()) &&
                (self->headers = curl_slist_append(NULL, "Content-Type: application/json")) && set_up(self);
    for (const char *at = addresses; good && *at && self->n_addresses < MOST_ADDRESSES;) {
        size_t length = strcspn(at, ",");
        good = (self->addresses[self->n_addresses] = tr_format("%.*s", (int)length, at)) != NULL;
        self->n_addresses += good;
        at += length + (at[length] == ',');
    }
    if (good)
        *out = self;
    else
        tr__etcd_http_destroy(&self);
    return good ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory to speak to etcd");
}

void tr__etcd_http_destroy(tr__etcd_http **out)
{
    tr__etcd_http *self = *out;
    if (!self) return;
    curl_easy_cleanup(self->handle);
    curl_slist_free_all(self->headers);
    for (int i = 0; i < self->n_addresses; i++) tr_free(self->addresses[i]);
    tr_free(self->bytes);
    tr_free(self);
    *out = NULL;
}

static tr_status post_to(tr__etcd_http *self, const char *address, const char *path, const char *body,
                         uint32_t timeout_ms, tr_error *err)
{
    char *url = tr_format("%s%s", address, path);
    if (!url) return tr_fail(err, TR_ENOMEM, "no memory to speak to etcd");
    self->size_bytes = 0;
    self->why[0] = 0;
    self->too_large = false;
    CURLcode code = curl_easy_setopt(self->handle, CURLOPT_URL, url);
    if (!code) code = curl_easy_setopt(self->handle, CURLOPT_POSTFIELDS, body);
    if (!code) code = curl_easy_setopt(self->handle, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    if (!code) code = curl_easy_perform(self->handle);
    tr_free(url);
    if (!code) return TR_OK;
    if (self->too_large)
        return tr_fail(err, TR_ECORRUPT, "%s: its answer is longer than %d bytes, so it is no etcd", address,
                       TR_ETCD_ANSWER_BYTES);
    return tr_fail(err, code == CURLE_OPERATION_TIMEDOUT ? TR_ETIMEDOUT : TR_EIO, "%s: %s", address,
                   self->why[0] ? self->why : curl_easy_strerror(code));
}

tr_status tr__etcd_http_post(tr__etcd_http *self, const char *path, const char *body, uint32_t timeout_ms,
                             tr__etcd_reply *reply, tr_error *err)
{
    uint64_t until_ns = tr_clock_ns() + (uint64_t)timeout_ms * 1000000;
    tr_status status = TR_EIO;
    for (int i = 0; i < self->n_addresses; i++) {
        int at = (self->last + i) % self->n_addresses;
        uint64_t now_ns = tr_clock_ns();
        uint64_t share_ms =
            now_ns < until_ns ? (until_ns - now_ns) / 1000000 / (uint64_t)(self->n_addresses - i) : 0;
        status = post_to(self, self->addresses[at], path, body, share_ms ? (uint32_t)share_ms : 1, err);
        if (status) continue;
        *reply = (tr__etcd_reply){.bytes = self->bytes, .size_bytes = self->size_bytes};
        curl_easy_getinfo(self->handle, CURLINFO_RESPONSE_CODE, &reply->http_status);
        bool ails = reply->http_status >= 500; /* one that ends, or has lost the others, says so at once */
        if (ails && i + 1 < self->n_addresses) continue;
        if (!ails) self->last = at;
        return TR_OK;
    }
    return status;
}

#else

tr_status tr__etcd_http_new(tr__etcd_http **out, const char *addresses, tr_error *err)
{
    (void)out, (void)addresses;
    return tr_fail(err, TR_EUNSUPPORTED,
                   "this troupe was built without libcurl; install libcurl4-openssl-dev and build it again");
}

void tr__etcd_http_destroy(tr__etcd_http **self)
{
    (void)self;
}

tr_status tr__etcd_http_post(tr__etcd_http *self, const char *path, const char *body, uint32_t timeout_ms,
                             tr__etcd_reply *reply, tr_error *err)
{
    (void)self, (void)path, (void)body, (void)timeout_ms, (void)reply;
    return tr_fail(err, TR_EUNSUPPORTED, "this troupe was built without libcurl");
}

#endif
