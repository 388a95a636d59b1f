/* test/pipelines/etcd_answer_test.c - what etcd answers is understood, what anybody else answers is refused in a line.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/etcd_answer.h"

#include "base/memory.h"
#include "check.h"

#include <string.h>

static tr_error err;

/* From a real one (3.4.23). */
#define HEADER                                                                                               \
    "\"header\":{\"cluster_id\":\"324952591200643719\",\"member_id\":\"3319814642761637952\",\"revision\":"  \
    "\"2\",\"raft_term\":\"2\"}"
#define KEY                                                                                                  \
    "\"kvs\":[{\"key\":\"dHJvdXBlL3g=\",\"create_revision\":\"2\",\"mod_revision\":\"3\",\"version\":\"1\"," \
    "\"value\":\"cHJvY2VzcyA3\",\"lease\":\"2324035555861188618\"}],\"count\":\"1\""

static void answers_of_etcd_are_understood(void)
{
    int64_t lease, ttl;
    tr_etcd_entry entry;
    tr_etcd_outcome outcome;
    const char *grant = "{" HEADER ",\"ID\":\"2324035555861188614\",\"TTL\":\"3\"}",
               *alive = "{\"result\":{" HEADER ",\"ID\":\"77\",\"TTL\":\"3\"}}\n",
               *ended = "{\"result\":{" HEADER ",\"ID\":\"77\"}}\n", *key = "{" HEADER "," KEY "}",
               *put = "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{\"header\":{}}}]}",
               *kept = "{" HEADER ",\"responses\":[{\"response_range\":{\"header\":{}," KEY "}}]}";
    CHECK_OK(tr_etcd_answer_grant(grant, strlen(grant), &lease, &ttl, &err));
    CU_ASSERT(lease == 2324035555861188614 && ttl == 3);
    CHECK_OK(tr_etcd_answer_alive(alive, strlen(alive), 77, &ttl, &err));
    CU_ASSERT(ttl == 3);
    CHECK_OK(tr_etcd_answer_alive(ended, strlen(ended), 77, &ttl, &err));
    CU_ASSERT(ttl == 0);
    CHECK_OK(tr_etcd_answer_range(key, strlen(key), &entry, &err));
    CU_ASSERT(entry.found && entry.create_revision == 2 && entry.lease == 2324035555861188618);
    CU_ASSERT_STRING_EQUAL(entry.value, "process 7");
    CHECK_OK(tr_etcd_answer_range("{" HEADER "}", strlen("{" HEADER "}"), &entry, &err));
    CU_ASSERT(!entry.found);
    CHECK_OK(tr_etcd_answer_txn(put, strlen(put), &outcome, &err));
    CU_ASSERT(outcome.done && outcome.revision == 2);
    CHECK_OK(tr_etcd_answer_txn(kept, strlen(kept), &outcome, &err));
    CU_ASSERT(!outcome.done && outcome.guard.found && outcome.guard.create_revision == 2);
    const char *no_lease = "{\"error\":\"etcdserver: requested lease not found\",\"code\":5}",
               *full = "{\"error\":\"etcdserver: mvcc: database space exceeded\",\"code\":8}";
    CU_ASSERT(tr_etcd_answer_refusal(no_lease, strlen(no_lease), 404, &err) == TR_ENOTFOUND);
    CU_ASSERT(tr_etcd_answer_refusal(full, strlen(full), 503, &err) == TR_EIO &&
              strstr(err.message, "space exceeded"));
    CU_ASSERT(tr_etcd_answer_refusal("Not Found", 9, 404, &err) == TR_EIO && strstr(err.message, "404"));
}

static bool is_refused(tr_status status)
{
    return status == TR_ECORRUPT && err.message[0] && !strchr(err.message, '\n');
}

static void what_nobody_can_use_is_refused(void)
{
    static const char *const rubbish[] = {"",
                                          "{",
                                          "[]",
                                          "null",
                                          "17",
                                          "\"x\"",
                                          "{}",
                                          "<html>",
                                          "{\"ID\":{}}",
                                          "{\"ID\":\"0\",\"TTL\":\"3\"}",
                                          "{\"ID\":\"7\",\"TTL\":\"-3\"}",
                                          "{\"ID\":\"7x\",\"TTL\":\"3\"}",
                                          "{\"ID\":\"7\",\"TTL\":3.5}",
                                          "{\"ID\":\"99999999999999999999\",\"TTL\":\"3\"}",
                                          "{\"ID\":\"7\"}",
                                          "{\"ID\":\"7\",\"ID\":\"8\",\"TTL\":\"3\"}",
                                          "{\"ID\":\"\",\"TTL\":\"3\"}"};
    static const char *const keys[] = {
        "{\"kvs\":[]}",
        "{\"header\":{},\"kvs\":7}",
        "{\"header\":{},\"kvs\":[7]}",
        "{\"header\":{},\"kvs\":[{}]}",
        "{\"header\":{},\"kvs\":[{\"create_revision\":\"2\",\"value\":7}]}",
        "{\"header\":{},\"kvs\":[{\"create_revision\":\"2\",\"value\":\"a*==\"}]}",
        "{\"header\":{},\"kvs\":[{\"create_revision\":\"-2\",\"value\":\"YQ==\"}]}"};
    static const char *const outcomes[] = {
        "{\"succeeded\":true}",
        "{" HEADER ",\"succeeded\":true}",
        "{" HEADER ",\"succeeded\":true,\"responses\":[]}",
        "{" HEADER ",\"succeeded\":\"true\",\"responses\":[{\"response_put\":{}}]}",
        "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_range\":{}}]}",
        "{\"header\":{\"revision\":\"0\"},\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}"};
    int64_t lease = 5, ttl = 5;
    tr_etcd_entry entry;
    tr_etcd_outcome outcome;
    for (size_t i = 0; i < sizeof rubbish / sizeof *rubbish; i++) {
        CU_ASSERT(is_refused(tr_etcd_answer_grant(rubbish[i], strlen(rubbish[i]), &lease, &ttl, &err)));
        CU_ASSERT(is_refused(tr_etcd_answer_alive(rubbish[i], strlen(rubbish[i]), 7, &ttl, &err)));
        CU_ASSERT(is_refused(tr_etcd_answer_range(rubbish[i], strlen(rubbish[i]), &entry, &err)));
        CU_ASSERT(is_refused(tr_etcd_answer_txn(rubbish[i], strlen(rubbish[i]), &outcome, &err)));
    }
    CU_ASSERT(lease == 5 && ttl == 5);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        CU_ASSERT(is_refused(tr_etcd_answer_range(keys[i], strlen(keys[i]), &entry, &err)));
    for (size_t i = 0; i < sizeof outcomes / sizeof *outcomes; i++)
        CU_ASSERT(is_refused(tr_etcd_answer_txn(outcomes[i], strlen(outcomes[i]), &outcome, &err)));
    const char *other = "{\"result\":{\"ID\":\"78\",\"TTL\":\"3\"}}";
    CU_ASSERT(is_refused(tr_etcd_answer_alive(other, strlen(other), 77, &ttl, &err)));
    static char deep[TR_ETCD_ANSWER_BYTES];
    memset(deep, '[', sizeof deep);
    CU_ASSERT(is_refused(tr_etcd_answer_range(deep, sizeof deep, &entry, &err)));
}

static void values_are_shown_without_control_characters(void)
{
    tr_etcd_entry entry;
    const char *nasty =
        "{\"header\":{},\"kvs\":[{\"create_revision\":\"2\",\"value\":\"YRtbMkpiCmM=\"}]}"; /* a ESC [2J b \n c */
    CHECK_OK(tr_etcd_answer_range(nasty, strlen(nasty), &entry, &err));
    CU_ASSERT_STRING_EQUAL(entry.value, "a?[2Jb?c");
    char *long_value = tr_alloc(4 * TR_ETCD_VALUE_CHARS + 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(long_value);
    memset(long_value, 'A', 4 * TR_ETCD_VALUE_CHARS);
    long_value[4 * TR_ETCD_VALUE_CHARS] = 0;
    char *answer =
        tr_format("{\"header\":{},\"kvs\":[{\"create_revision\":\"2\",\"value\":\"%s\"}]}", long_value);
    CU_ASSERT_PTR_NOT_NULL_FATAL(answer);
    CU_ASSERT(is_refused(tr_etcd_answer_range(answer, strlen(answer), &entry, &err)));
    tr_free(answer);
    tr_free(long_value);
}

static void base64_is_that_of_rfc_4648(void)
{
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"},
                                           {"\xff\xfe\xfb", "//77"}};
    static const char *const wrong[] = {
        "Z", "Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Z g=", "Zm9\x80", "=Zg="};
    char out[16];
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char *encoded = tr_base64_encode(pairs[i][0]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(encoded);
        CU_ASSERT_STRING_EQUAL(encoded, pairs[i][1]);
        tr_free(encoded);
        CU_ASSERT(tr_base64_decode(pairs[i][1], out, sizeof out) && strcmp(out, pairs[i][0]) == 0);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CU_ASSERT(!tr_base64_decode(wrong[i], out, sizeof out));
    CU_ASSERT(tr_base64_decode("Zm9v", out, 4) && !tr_base64_decode("Zm9v", out, 3));
}

static const check_test tests[] = {
    CHECK_TEST(answers_of_etcd_are_understood),
    CHECK_TEST(what_nobody_can_use_is_refused),
    CHECK_TEST(values_are_shown_without_control_characters),
    CHECK_TEST(base64_is_that_of_rfc_4648),
};

CHECK_MAIN("etcd_answer", tests)
