/* pipelines/etcd_answer.c - see etcd_answer.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/etcd_answer.h"

#include "base/memory.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *tr_base64_encode(const char *text)
{
    size_t n = strlen(text);
    const unsigned char *from = (const unsigned char *)text;
    char *out = tr_alloc((n + 2) / 3 * 4 + 1), *to = out;
    if (!out) return NULL;
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t group = (uint32_t)from[i] << 16 | (uint32_t)(left > 1 ? from[i + 1] : 0) << 8 |
                         (uint32_t)(left > 2 ? from[i + 2] : 0);
        for (size_t k = 0; k < 4; k++) *to++ = digits[group >> (18 - 6 * k) & 63];
        if (left < 3) to[-1] = '=';
        if (left < 2) to[-2] = '=';
    }
    *to = 0;
    return out;
}

bool tr_base64_decode(const char *text, char *out, size_t capacity)
{
    size_t n = strlen(text), at = 0, padding = 0;
    if (n % 4) return false;
    while (padding < 2 && padding < n && text[n - 1 - padding] == '=') padding++;
    if (n / 4 * 3 - padding + 1 > capacity) return false;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t group = 0;
        size_t missing = i + 4 == n ? padding : 0;
        for (size_t k = 0; k < 4; k++) {
            const char *digit = k < 4 - missing ? strchr(digits, text[i + k]) : digits;
            if (!digit) return false;
            group = group << 6 | (uint32_t)(digit - digits);
        }
        for (size_t k = 0; k < 3 - missing; k++) out[at++] = (char)(group >> (16 - 8 * k) & 255);
    }
    out[at] = 0;
    return true;
}

static tr_status damaged(tr_error *err, const char *what)
{
    return tr_fail(err, TR_ECORRUPT, "what answers there is no etcd 3.4 or later: %s", what);
}

/* An object, and nothing that counts behind it. */
static tr_status parse(json_t **out, const char *bytes, size_t size_bytes, tr_error *err)
{
    *out = size_bytes <= TR_ETCD_ANSWER_BYTES
               ? json_loadb(bytes, size_bytes, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, NULL)
               : NULL;
    return *out ? TR_OK : damaged(err, "its answer is no JSON");
}

/* Absent is 0, as protobuf has it; *good is cleared where it is no number. */
static int64_t number(const json_t *object, const char *key, bool *good)
{
    const json_t *value = json_object_get(object, key);
    if (!value) return 0;
    if (json_is_integer(value)) return json_integer_value(value);
    const char *text = json_string_value(value);
    char *end = NULL;
    errno = 0;
    long long read = text ? strtoll(text, &end, 10) : 0;
    if (!text || !*text || *end || errno) *good = false;
    return read;
}

tr_status tr_etcd_answer_grant(const char *bytes, size_t size_bytes, int64_t *lease, int64_t *ttl_s,
                               tr_error *err)
{
    json_t *answer;
    bool good = true;
    tr_status status = parse(&answer, bytes, size_bytes, err);
    if (status) return status;
    int64_t id = number(answer, "ID", &good), ttl = number(answer, "TTL", &good);
    json_decref(answer);
    if (!good || !id || ttl < 1) return damaged(err, "it grants a lease without an ID or a time");
    *lease = id;
    *ttl_s = ttl;
    return TR_OK;
}

tr_status tr_etcd_answer_alive(const char *bytes, size_t size_bytes, int64_t lease, int64_t *ttl_s,
                               tr_error *err)
{
    json_t *answer;
    bool good = true;
    tr_status status = parse(&answer, bytes, size_bytes, err);
    if (status) return status;
    const json_t *result = json_object_get(answer, "result");
    int64_t id = number(result, "ID", &good), ttl = number(result, "TTL", &good);
    json_decref(answer);
    if (!good || id != lease || ttl < 0)
        return damaged(err, "it renews another lease than the one asked for");
    *ttl_s = ttl;
    return TR_OK;
}

/* Whatever it is, it is shown to people. */
static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 32 || *text == 127) *text = '?';
}

static bool read_entry(const json_t *range, tr_etcd_entry *entry)
{
    bool good = true;
    const json_t *list = json_object_get(range, "kvs"), *first = json_array_get(list, 0);
    *entry = (tr_etcd_entry){0};
    if (!list || (json_is_array(list) && !first)) return true;
    if (!json_is_object(first)) return false;
    const json_t *value = json_object_get(first, "value");
    entry->found = true;
    entry->create_revision = number(first, "create_revision", &good);
    entry->lease = number(first, "lease", &good);
    if (value && (!json_is_string(value) ||
                  !tr_base64_decode(json_string_value(value), entry->value, sizeof entry->value)))
        good = false;
    make_printable(entry->value);
    return good && entry->create_revision > 0;
}

tr_status tr_etcd_answer_range(const char *bytes, size_t size_bytes, tr_etcd_entry *entry, tr_error *err)
{
    json_t *answer;
    tr_etcd_entry read;
    tr_status status = parse(&answer, bytes, size_bytes, err);
    if (status) return status;
    bool good = json_is_object(json_object_get(answer, "header")) && read_entry(answer, &read);
    json_decref(answer);
    if (!good) return damaged(err, "it tells of a key what nobody can read");
    *entry = read;
    return TR_OK;
}

tr_status tr_etcd_answer_txn(const char *bytes, size_t size_bytes, tr_etcd_outcome *outcome, tr_error *err)
{
    json_t *answer;
    bool good = true;
    tr_etcd_outcome read = {0};
    tr_status status = parse(&answer, bytes, size_bytes, err);
    if (status) return status;
    const json_t *first = json_array_get(json_object_get(answer, "responses"), 0);
    const json_t *put = json_object_get(first, "response_put"),
                 *range = json_object_get(first, "response_range");
    read.done = json_is_true(json_object_get(answer, "succeeded"));
    read.revision = number(json_object_get(answer, "header"), "revision", &good);
    good = good && read.revision > 0 && (read.done ? json_is_object(put) : json_is_object(range));
    if (good && !read.done) good = read_entry(range, &read.guard);
    json_decref(answer);
    if (!good) return damaged(err, "its answer to a transaction is not whole");
    *outcome = read;
    return TR_OK;
}

tr_status tr_etcd_answer_refusal(const char *bytes, size_t size_bytes, long http_status, tr_error *err)
{
    enum { NOT_FOUND = 5 }; /* gRPC's */
    json_t *answer;
    char words[TR_ETCD_VALUE_CHARS] = "";
    bool good = true;
    if (parse(&answer, bytes, size_bytes, NULL))
        return tr_fail(err, TR_EIO, "it answers with HTTP status %ld and no word of etcd's", http_status);
    const char *text = json_string_value(json_object_get(answer, "error"));
    bool no_lease = number(answer, "code", &good) == NOT_FOUND && text && strstr(text, "lease not found");
    if (text) snprintf(words, sizeof words, "%s", text);
    make_printable(words);
    json_decref(answer);
    return tr_fail(err, no_lease ? TR_ENOTFOUND : TR_EIO, "it refuses: %s",
                   words[0] ? words : "it does not say why");
}
