/* test/pipelines/stall_watch_test.c - a stall is told once, when it is one; and its end is told once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/stall_watch.h"

#include "actors/topics.h"
#include "check.h"

#include <string.h>

static const uint64_t SECOND = 1000000000u;

static tr_topology topology;
static tr_actor_seen seen[2]; /* a clock that waits for a stage's word */
static char text[1024];

static void set_scene(uint64_t stage_began_ns)
{
    const tr_wait word = {TR_WAIT_WORD, TR_TOPIC_READY, 2};
    memset(seen, 0, sizeof seen);
    seen[0].record.actor = 1;
    seen[1].record.actor = 2;
    tr_activity_wait(&seen[0].record, &word, 1);
    tr_activity_write(&seen[1].record, "forward", 4, 1);
    seen[1].record.running = 1;
    seen[1].record.since_ns = stage_began_ns;
}

static bool judge(tr_stall_watch *watch, uint64_t now_ns)
{
    text[0] = 0;
    return tr_stall_watch_judge(watch, &topology, seen, now_ns, text, sizeof text);
}

static void it_is_told_once_and_so_is_its_end(void)
{
    tr_stall_watch watch;
    tr_stall_watch_init(&watch, 60, 1 * SECOND);
    CU_ASSERT_FALSE(tr_stall_watch_step(&watch, 4, 10, 100 * SECOND, text, sizeof text));
    set_scene(101 * SECOND);
    CU_ASSERT_FALSE(judge(&watch, 159 * SECOND));
    CU_ASSERT(judge(&watch, 161 * SECOND));
    CU_ASSERT(strstr(text,
                     "no step has ended for 61.0 s: 1 actor waits for stage (worker 1, pid 0), which is in "
                     "forward of step 4, micro-batch 1, for 60.0 s; clock waits for word that gradients "
                     "are reduced from stage") == text);
    CU_ASSERT_FALSE(judge(&watch, 162 * SECOND));
    CU_ASSERT_FALSE(judge(&watch, 900 * SECOND));
    CU_ASSERT(tr_stall_watch_step(&watch, 5, 10, 901 * SECOND, text, sizeof text));
    CU_ASSERT_STRING_EQUAL(text, "going on: step 5 ended, 801.0 s after the one before it");
    CU_ASSERT_FALSE(tr_stall_watch_step(&watch, 6, 10, 902 * SECOND, text, sizeof text));
    CU_ASSERT(judge(&watch, 963 * SECOND)); /* another one */
}

static void long_steps_are_given_ten_times_their_median(void)
{
    tr_stall_watch watch;
    tr_stall_watch_init(&watch, 60, 0);
    CU_ASSERT_EQUAL(tr_stall_watch_limit_ns(&watch), 60 * SECOND);
    for (uint32_t i = 0; i < 200; i++) /* the median, whatever a few of them took; and of the last ones */
        tr_stall_watch_step(&watch, i, i < 100 ? 1e6 : i % 5 == 0 ? 1e7 : 20000, SECOND, text, sizeof text);
    CU_ASSERT_EQUAL(tr_stall_watch_limit_ns(&watch), 200 * SECOND);
    set_scene(1 * SECOND);
    CU_ASSERT_FALSE(judge(&watch, 200 * SECOND));
    CU_ASSERT(judge(&watch, 202 * SECOND));
}

static void who_gets_on_does_not_stall(void)
{
    tr_stall_watch watch;
    tr_stall_watch_init(&watch, 60, 0);
    for (uint64_t now = 61; now < 500; now += 5) {
        set_scene((now - 14) * SECOND);
        CU_ASSERT_FALSE(judge(&watch, now * SECOND));
    }
    CU_ASSERT(judge(&watch, 502 * SECOND)); /* at the same for a quarter of the limit */
}

static void who_is_stopped_stalls_at_once(void)
{
    tr_stall_watch watch;
    tr_stall_watch_init(&watch, 60, 0);
    set_scene(60 * SECOND);
    seen[1].process = TR_PROCESS_STOPPED;
    seen[1].beat_ns = 60 * SECOND;
    CU_ASSERT(judge(&watch, 61 * SECOND));
}

static void after_a_recovery_the_time_begins_anew(void)
{
    tr_stall_watch watch;
    tr_stall_watch_init(&watch, 60, 1 * SECOND);
    set_scene(1 * SECOND);
    CU_ASSERT(judge(&watch, 61 * SECOND));
    tr_stall_watch_begin(&watch, 70 * SECOND);
    set_scene(71 * SECOND);
    CU_ASSERT_FALSE(judge(&watch, 129 * SECOND));
    CU_ASSERT(judge(&watch, 131 * SECOND)); /* by another one, perhaps */
    CU_ASSERT(tr_stall_watch_step(&watch, 1, 10, 140 * SECOND, text, sizeof text));
    CU_ASSERT_STRING_EQUAL(text, "going on: step 1 ended, 139.0 s after the one before it");
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(it_is_told_once_and_so_is_its_end),
        CHECK_TEST(long_steps_are_given_ten_times_their_median),
        CHECK_TEST(who_gets_on_does_not_stall),
        CHECK_TEST(who_is_stopped_stalls_at_once),
        CHECK_TEST(after_a_recovery_the_time_begins_anew),
    };
    tr_topology_init(&topology, 2);
    if (tr_topology_add_actor(&topology, "clock", "x", 0, NULL, 0, 0, NULL, NULL) != TR_OK ||
        tr_topology_add_actor(&topology, "stage", "x", 1, NULL, 0, 0, NULL, NULL) != TR_OK)
        return 1;
    int result = check_run("stall_watch", tests, sizeof tests / sizeof *tests);
    tr_topology_release(&topology);
    return result;
}
