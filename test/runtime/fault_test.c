/* test/runtime/fault_test.c
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/fault.h"

#include "base/memory.h"
#include "check.h"

#include <string.h>

enum { NODES = 5 };
static tr_error err;

static void kinds_are_read_by_their_names(void)
{
    uint32_t kinds = 0;
    char names[TR_FAULT_NAMES], few[16];
    CHECK_OK(tr_faults_parse(NULL, &kinds, &err));
    CU_ASSERT_EQUAL(kinds, TR_FAULTS_ALL);
    CHECK_OK(tr_faults_parse(" ,", &kinds, &err));
    CU_ASSERT_EQUAL(kinds, TR_FAULTS_ALL);
    CHECK_OK(tr_faults_parse("stop,failed_fsync, kill", &kinds, &err));
    CU_ASSERT_EQUAL(kinds, TR_FAULT_BIT(TR_FAULT_STOP) | TR_FAULT_BIT(TR_FAULT_FAILED_FSYNC) |
                               TR_FAULT_BIT(TR_FAULT_KILL));
    tr_faults_names(TR_FAULTS_ALL, names, sizeof names);
    CU_ASSERT(strlen(names) < sizeof names - 1);
    CHECK_OK(tr_faults_parse(names, &kinds, &err));
    CU_ASSERT_EQUAL(kinds, TR_FAULTS_ALL);
    tr_faults_names(TR_FAULTS_ALL, few, sizeof few);
    CU_ASSERT(strlen(few) < sizeof few);
    for (int kind = 0; kind < TR_FAULT_KINDS; kind++) {
        CHECK_OK(tr_faults_parse(tr_fault_name((tr_fault_kind)kind), &kinds, &err));
        CU_ASSERT_EQUAL(kinds, TR_FAULT_BIT(kind));
    }
    static const char *const bad[] = {"kil", "kills", "stop;cut", "-", "kill,stop_and", "KILL"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(tr_faults_parse(bad[i], &kinds, &err), TR_EINVAL);
    CU_ASSERT(strstr(err.message, "'KILL'") && strstr(err.message, "stop_and_continue"));
}

static bool is_same(const tr_fault *a, const tr_fault *b)
{
    return a->kind == b->kind && a->victim == b->victim && a->peer == b->peer && a->for_ms == b->for_ms &&
           a->seed == b->seed;
}

static void draws_are_the_seeds(void)
{
    uint32_t same = 0, hits[NODES] = {0};
    double sum_s = 0;
    for (uint32_t n = 0; n < 6000; n++) {
        const tr_fault a = tr_fault_draw(7, TR_FAULTS_ALL, n, NODES),
                       b = tr_fault_draw(7, TR_FAULTS_ALL, n, NODES),
                       other = tr_fault_draw(8, TR_FAULTS_ALL, n, NODES);
        CU_ASSERT(is_same(&a, &b));
        same += is_same(&a, &other);
        if (a.victim) hits[a.victim]++;
        sum_s += (double)tr_fault_pause_ns(7, 6, n) * 1e-9;
        CU_ASSERT_EQUAL(tr_fault_pause_ns(7, 6, n), tr_fault_pause_ns(7, 6, n));
    }
    CU_ASSERT_EQUAL(same, 0);
    CU_ASSERT_EQUAL(tr_fault_pause_ns(7, 1e-300, 0), (uint64_t)1e18);
    /* As in chaos_test: five deviations. */
    CU_ASSERT(sum_s / 6000 > 9.3 && sum_s / 6000 < 10.7);
    for (int i = 1; i < NODES; i++) CU_ASSERT(hits[i] > 1000 && hits[i] < 1400);
}

/* In each round every kind that is wanted, and no other; whoever is named is there. */
static void each_kind_comes_once_a_round(void)
{
    static const uint32_t wanted[] = {TR_FAULTS_ALL, TR_FAULTS_OF_DISK, TR_FAULT_BIT(TR_FAULT_DEAF),
                                      TR_FAULTS_OF_RECOVERY};
    uint32_t orders[2] = {0};
    for (size_t w = 0; w < sizeof wanted / sizeof *wanted; w++) {
        uint32_t count = (uint32_t)__builtin_popcount(wanted[w]);
        for (uint32_t n = 0; n < 200 * count; n += count) {
            uint32_t seen = 0;
            for (uint32_t i = 0; i < count; i++) {
                const tr_fault fault = tr_fault_draw(3, wanted[w], n + i, NODES);
                seen |= TR_FAULT_BIT(fault.kind);
                if (w == 0 && n < 2 * count) orders[n / count] = orders[n / count] * 13 + fault.kind;
                bool on_disk = TR_FAULTS_OF_DISK & TR_FAULT_BIT(fault.kind);
                CU_ASSERT(fault.victim >= (on_disk || fault.kind == TR_FAULT_DELAY ? 0 : 1) &&
                          fault.victim < (on_disk ? 1 : NODES));
                if (fault.kind == TR_FAULT_CUT || fault.kind == TR_FAULT_DEAF)
                    CU_ASSERT(fault.peer >= 0 && fault.peer < NODES && fault.peer != fault.victim);
            }
            CU_ASSERT_EQUAL(seen, wanted[w]);
        }
    }
    CU_ASSERT_NOT_EQUAL(orders[0], orders[1]);
    for (uint32_t n = 0; n < 100; n++) { /* one worker alone */
        const tr_fault fault = tr_fault_draw(3, TR_FAULTS_ALL, n, 2);
        CU_ASSERT(fault.victim <= 1 && fault.peer == 0);
    }
}

static void a_cut_is_of_any_link(void)
{
    int n_data = 0, n_control = 0, n_both = 0;
    for (uint32_t n = 0; n < 300; n++) {
        const tr_fault fault = tr_fault_draw(5, TR_FAULT_BIT(TR_FAULT_CUT), n, NODES);
        bool data = tr_fault_hits_data(&fault), control = tr_fault_hits_control(&fault);
        CU_ASSERT(data || control);
        n_both += data && control;
        n_data += data && !control;
        n_control += control && !data;
    }
    CU_ASSERT(n_data > 60 && n_control > 60 && n_both > 60);
}

static void what_was_written_is_read(void)
{
    for (uint32_t n = 0; n < 100; n++) {
        const tr_fault fault = tr_fault_draw(9, TR_FAULTS_ALL, n, NODES);
        tr_fault read = {0};
        void *bytes;
        size_t size;
        char text[256] = "";
        if (tr_fault_encode(&fault, &bytes, &size, &err) != TR_OK) return; /* no memory */
        CHECK_OK(tr_fault_decode(&read, bytes, size, &err));
        CU_ASSERT(is_same(&fault, &read));
        for (size_t cut = 0; cut < size; cut++)
            CU_ASSERT_EQUAL(tr_fault_decode(&read, bytes, cut, &err), TR_ECORRUPT);
        ((uint8_t *)bytes)[1] = TR_FAULT_KINDS; /* a small number is its own byte */
        CU_ASSERT_EQUAL(tr_fault_decode(&read, bytes, size, &err), TR_ECORRUPT);
        tr_fault_describe(&fault, text, sizeof text);
        CU_ASSERT(strlen(text) > 10 && strlen(text) < sizeof text - 1);
        tr_free(bytes);
    }
}

static const check_test tests[] = {
    CHECK_TEST(kinds_are_read_by_their_names), CHECK_TEST(draws_are_the_seeds),
    CHECK_TEST(each_kind_comes_once_a_round),  CHECK_TEST(a_cut_is_of_any_link),
    CHECK_TEST(what_was_written_is_read),
};

CHECK_MAIN("runtime/fault", tests)
