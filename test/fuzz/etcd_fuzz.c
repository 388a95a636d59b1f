/* test/fuzz/etcd_fuzz.c - what a peer that may be no etcd answers. The first byte says to which question. What is taken has a
 * lease, a time, a revision that can be used; values are printable texts; base64 means the same encoded again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/etcd_answer.h"

#include "fuzz.h"

static void check_entry(const tr_etcd_entry *entry)
{
    if (!entry->found) return;
    FUZZ_PROMISE(entry->create_revision > 0);
    size_t n = strlen(entry->value);
    FUZZ_PROMISE(n < sizeof entry->value);
    for (size_t i = 0; i < n; i++)
        FUZZ_PROMISE((unsigned char)entry->value[i] >= 32 && entry->value[i] != 127);
}

static void check_base64(const char *text)
{
    char decoded[TR_ETCD_VALUE_CHARS], again[TR_ETCD_VALUE_CHARS];
    if (!tr_base64_decode(text, decoded, sizeof decoded)) return;
    char *encoded = tr_base64_encode(decoded); /* up to its first NUL */
    FUZZ_PROMISE(encoded && tr_base64_decode(encoded, again, sizeof again) && strcmp(decoded, again) == 0);
    tr_free(encoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    if (size_bytes < 1) return 0;
    const char *answer = (const char *)bytes + 1;
    size_t n = size_bytes - 1;
    tr_error err = {0};
    int64_t lease, ttl_s;
    tr_etcd_entry entry;
    tr_etcd_outcome outcome;
    tr_status status = TR_OK;
    switch (bytes[0] % 6) { /* '0' is 0 */
    case 0:
        status = tr_etcd_answer_grant(answer, n, &lease, &ttl_s, &err);
        if (!status) FUZZ_PROMISE(lease && ttl_s > 0);
        break;
    case 1:
        status = tr_etcd_answer_alive(answer, n, 77, &ttl_s, &err);
        if (!status) FUZZ_PROMISE(ttl_s >= 0);
        break;
    case 2:
        status = tr_etcd_answer_range(answer, n, &entry, &err);
        if (!status) check_entry(&entry);
        break;
    case 3:
        status = tr_etcd_answer_txn(answer, n, &outcome, &err);
        if (!status) FUZZ_PROMISE(outcome.revision > 0);
        if (!status && !outcome.done) check_entry(&outcome.guard);
        break;
    case 4: {
        status = tr_etcd_answer_refusal(answer, n, 500, &err);
        FUZZ_PROMISE(status == TR_EIO || status == TR_ENOTFOUND);
        FUZZ_PROMISE(err.message[0] && !strchr(err.message, '\n'));
        return 0;
    }
    default: {
        char *text = fuzz_text((const uint8_t *)answer, n);
        check_base64(text);
        tr_free(text);
    }
    }
    if (status) fuzz_refused(status, &err);
    return 0;
}
