/* test/runtime/activity_test.c - what a dead worker was doing can be told by somebody else.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/activity.h"

#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void fill(tr_topology *topology)
{
    tr_topology_init(topology, 1);
    CU_ASSERT_EQUAL(tr_topology_add_actor(topology, "shard 0", "x", 0, NULL, 0, 0, NULL, NULL), TR_OK);
    CU_ASSERT_EQUAL(tr_topology_add_actor(topology, "stage 1", "x", 0, NULL, 0, 0, NULL, NULL), TR_OK);
}

static tr_activity_page *new_page(int *descriptor)
{
    tr_error err = {0};
    tr_activity_page *page = NULL;
    CHECK_OK(tr_activity_page_new(&page, descriptor, &err));
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    return page;
}

static void expect(const tr_activity_page *page, const char *expected)
{
    char text[200];
    tr_topology topology;
    fill(&topology);
    tr_activity_describe(page, &topology, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, expected);
    if (strcmp(text, expected) != 0) fprintf(stderr, "got '%s'\n", text);
    tr_topology_release(&topology);
}

static void the_dead_are_described(void)
{
    int descriptor;
    tr_activity_page *page = new_page(&descriptor);
    pid_t pid = fork();
    if (pid == 0) {
        tr_activity_page *mine = NULL;
        if (tr_activity_page_open(&mine, descriptor, NULL) != TR_OK) _exit(1);
        tr_activity_record *record = tr_activity_record_for(mine, 2);
        record->running = 1;
        tr_activity_write(record, "forward", 17, 3);
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, NULL, 0);
    expect(page, "stage 1 was in forward of step 17, micro-batch 3");
    tr_activity_page_unmap(&page);
    CU_ASSERT_PTR_NULL(page);
    close(descriptor);
}

static void the_running_one_is_told_before_the_last(void)
{
    int descriptor;
    char text[64];
    tr_activity_page *page = new_page(&descriptor);
    expect(page, "");
    tr_activity_record *one = tr_activity_record_for(page, 1), *two = tr_activity_record_for(page, 2);
    expect(page, "");
    tr_activity_write(two, "backward", 4, TR_ACTIVITY_NONE);
    tr_activity_write(one, "reading", TR_ACTIVITY_NONE, TR_ACTIVITY_NONE);
    expect(page, "shard 0 was last in reading, stage 1 was last in backward of step 4");
    two->running = 1;
    expect(page, "stage 1 was in backward of step 4, shard 0 was last in reading");
    two->running = 0;
    one->running = 1;
    tr_activity_write(two, "update", 5, TR_ACTIVITY_NONE);
    expect(page, "shard 0 was in reading, stage 1 was last in update of step 5");
    tr_activity_doing(page, 1, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "in reading");
    tr_activity_doing(page, 9, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "");
    tr_activity_page_unmap(&page);
    close(descriptor);
}

static void a_crowd_is_counted(void)
{
    int descriptor;
    tr_activity_page *page = new_page(&descriptor);
    for (tr_actor_id actor = 5; actor >= 1; actor--)
        tr_activity_write(tr_activity_record_for(page, actor), "reading", (uint32_t)actor, TR_ACTIVITY_NONE);
    expect(page,
           "shard 0 was last in reading of step 1, stage 1 was last in reading of step 2, an unknown actor "
           "was last in reading of step 3, and 2 more");
    tr_activity_record_for(page, 2)->running = 1;
    char text[40]; /* cut, never behind its end */
    tr_topology topology;
    fill(&topology);
    tr_activity_describe(page, &topology, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "stage 1 was in reading of step 2, shard");
    tr_topology_release(&topology);
    tr_activity_page_unmap(&page);
    close(descriptor);
}

static void a_long_activity_is_cut(void)
{
    int descriptor;
    tr_activity_page *page = new_page(&descriptor);
    tr_activity_record *record = tr_activity_record_for(page, 1);
    tr_activity_write(record, "a description far longer than its field", 1, 2);
    expect(page, "shard 0 was last in a description far longe of step 1, micro-batch 2");
    CU_ASSERT_EQUAL(record->step, 1);
    tr_activity_page_unmap(&page);
    close(descriptor);
}

static pthread_barrier_t together;

static void *claim(void *page)
{
    pthread_barrier_wait(&together);
    for (tr_actor_id actor = 1; actor <= TR_ACTIVITY_RECORDS; actor++) tr_activity_record_for(page, actor);
    return NULL;
}

static void every_actor_has_one_record_until_it_is_full(void)
{
    pthread_t threads[4];
    pthread_barrier_init(&together, NULL, 4);
    for (int round = 0; round < 300; round++) {
        int descriptor;
        tr_activity_page *page = new_page(&descriptor);
        for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, claim, page);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL(page->n_records, TR_ACTIVITY_RECORDS);
        CU_ASSERT_PTR_NULL(tr_activity_record_for(page, TR_ACTIVITY_RECORDS + 1));
        for (tr_actor_id actor = 1; actor <= TR_ACTIVITY_RECORDS; actor++) {
            const tr_activity_record *record = tr_activity_record_for(page, actor);
            CU_ASSERT(record && record->actor == actor);
        }
        tr_activity_page_unmap(&page);
        close(descriptor);
    }
    pthread_barrier_destroy(&together);
}

static void only_who_runs_and_shows_no_progress_is_stuck(void)
{
    int descriptor;
    const uint64_t s = 1000000000;
    tr_activity_watch watch = {0};
    tr_activity_page *page = new_page(&descriptor);
    tr_activity_record *record = tr_activity_record_for(page, 1);
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 1 * s), 0);
    tr_activity_write(record, "waiting", 1, 0);
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 2 * s), 0);
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 90 * s), 0); /* it waits */
    CU_ASSERT_FALSE(tr_activity_has_begun(page));
    record->running = 1;
    CU_ASSERT(tr_activity_has_begun(page));
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 100 * s),
                    0); /* just began, whatever it wrote long ago */
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 103 * s), 3 * s);
    record->handled++;
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 104 * s), 0);
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 111 * s), 7 * s);
    tr_activity_write(record, "forward", 1, 0);
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 112 * s), 0);
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 120 * s), 8 * s);
    record->running = 0;
    CU_ASSERT_EQUAL(tr_activity_stuck_ns(page, &watch, 130 * s), 0);
    tr_activity_page_unmap(&page);
    close(descriptor);
}

static void foreign_memory_is_refused(void)
{
    tr_error err = {0};
    tr_activity_page *page = NULL;
    int descriptor = memfd_create("foreign", MFD_CLOEXEC);
    CU_ASSERT_EQUAL(tr_activity_page_open(&page, descriptor, &err), TR_ECORRUPT);
    CU_ASSERT_EQUAL(tr_activity_page_open(&page, -1, &err), TR_EIO);
    close(descriptor);
}

static const check_test tests[] = {
    CHECK_TEST(the_dead_are_described),
    CHECK_TEST(the_running_one_is_told_before_the_last),
    CHECK_TEST(a_long_activity_is_cut),
    CHECK_TEST(every_actor_has_one_record_until_it_is_full),
    CHECK_TEST(foreign_memory_is_refused),
    CHECK_TEST(a_crowd_is_counted),
    CHECK_TEST(only_who_runs_and_shows_no_progress_is_stuck),
};
CHECK_MAIN("activity", tests)
