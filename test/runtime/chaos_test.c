/* test/runtime/chaos_test.c
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/chaos.h"

#include "check.h"

#include <signal.h>

static tr_error err;

static void points_are_read_and_strike_where_they_say(void)
{
    tr_chaos chaos = {0};
    CHECK_OK(tr_chaos_parse(&chaos, "1/stage 1 of replica 0/backward/5/KILL, 2/data shard 0/reading/any/STOP",
                            &err));
    CU_ASSERT_EQUAL(chaos.n_points, 2);
    CU_ASSERT_EQUAL(tr_chaos_strikes(&chaos, 1, "stage 1 of replica 0", "backward", 5), SIGKILL);
    CU_ASSERT_EQUAL(tr_chaos_strikes(&chaos, 2, "stage 1 of replica 0", "backward", 5), 0);
    CU_ASSERT_EQUAL(tr_chaos_strikes(&chaos, 1, "stage 0 of replica 0", "backward", 5), 0);
    CU_ASSERT_EQUAL(tr_chaos_strikes(&chaos, 1, "stage 1 of replica 0", "forward", 5), 0);
    CU_ASSERT_EQUAL(tr_chaos_strikes(&chaos, 1, "stage 1 of replica 0", "backward", 6), 0);
    CU_ASSERT_EQUAL(tr_chaos_strikes(&chaos, 2, "data shard 0", "reading", 77), SIGSTOP);
    CHECK_OK(tr_chaos_parse(&chaos, "1/stage 0 of replica 0/weight/3/DEVICE", &err));
    CU_ASSERT_EQUAL(tr_chaos_strikes(&chaos, 1, "stage 0 of replica 0", "weight", 3), TR_CHAOS_DEVICE);
    CHECK_OK(tr_chaos_parse(&chaos, "", &err));
    CHECK_OK(tr_chaos_parse(&chaos, NULL, &err));
    CU_ASSERT_EQUAL(chaos.n_points, 0);
}

static void what_is_no_point_is_refused(void)
{
    static const char *const bad[] = {"x",
                                      "1/a/b/5",
                                      "1/a/b/5/TERM",
                                      "1/a/b/x/KILL",
                                      "/a/b/5/KILL",
                                      "1/a/b/-1/KILL",
                                      "-1/a/b/5/KILL",
                                      "1/a/b/4294967295/KILL",
                                      "1/a/b/99999999999/KILL",
                                      "1//b/5/KILL",
                                      "1/a/b/5/KILL/more",
                                      "1/a/b/5x/KILL",
                                      "1/a/b/5/KILL,",
                                      "1/a/b/5/KILL,,2/a/b/5/KILL"};
    tr_chaos chaos;
    for (size_t i = 0; i < sizeof bad / sizeof *bad - 2; i++)
        CU_ASSERT_EQUAL(tr_chaos_parse(&chaos, bad[i], &err), TR_EINVAL);
    CHECK_OK(tr_chaos_parse(&chaos, bad[12], &err));
    CU_ASSERT_EQUAL(tr_chaos_parse(&chaos, bad[13], &err), TR_EINVAL);
    char many[TR_CHAOS_POINTS * 16 + 32] = "";
    for (int i = 0; i <= TR_CHAOS_POINTS; i++) strcat(many, i ? ",1/a/b/5/KILL" : "1/a/b/5/KILL");
    CU_ASSERT_EQUAL(tr_chaos_parse(&chaos, many, &err), TR_EINVAL);
}

static void chance_is_the_seeds(void)
{
    const tr_chaos chaos = {.seed = 7, .kills_per_minute = 6}, other = {.seed = 8, .kills_per_minute = 6};
    double sum_s = 0;
    uint32_t hits[4] = {0}, same = 0;
    for (uint32_t n = 0; n < 4000; n++) {
        CU_ASSERT_EQUAL(tr_chaos_pause_ns(&chaos, n), tr_chaos_pause_ns(&chaos, n));
        same += tr_chaos_pause_ns(&chaos, n) == tr_chaos_pause_ns(&other, n);
        sum_s += (double)tr_chaos_pause_ns(&chaos, n) * 1e-9;
        hits[tr_chaos_victim(&chaos, n, 4)]++;
    }
    CU_ASSERT_EQUAL(same, 0);
    const tr_chaos rare = {.seed = 7, .kills_per_minute = 1e-300};
    CU_ASSERT_EQUAL(tr_chaos_pause_ns(&rare, 0), (uint64_t)1e18);
    /* The mean of 4000 exponential pauses of 10 s has a deviation of 0.16 s; a count of 1000 one of 27. Five of them. */
    CU_ASSERT(sum_s / 4000 > 9.2 && sum_s / 4000 < 10.8);
    for (int i = 0; i < 4; i++) CU_ASSERT(hits[i] > 860 && hits[i] < 1140);
}

static const check_test tests[] = {
    CHECK_TEST(points_are_read_and_strike_where_they_say),
    CHECK_TEST(what_is_no_point_is_refused),
    CHECK_TEST(chance_is_the_seeds),
};

CHECK_MAIN("runtime/chaos", tests)
