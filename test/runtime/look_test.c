/* test/runtime/look_test.c - another process can see what actors do, also of a process that is stopped; and opens nothing
 * else by mistake.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/look.h"

#include "base/clock.h"
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 77, MOST_MS = 20000 };

static tr_topology topology;

/* A child with a page at descriptor PAGE, in which actor 1 does "forward"; beats until it ends. */
static pid_t start_child(void)
{
    int ready[2];
    char byte = 0;
    CU_ASSERT_EQUAL_FATAL(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        tr_activity_page *page;
        int descriptor;
        if (tr_activity_page_new(&page, &descriptor, NULL) != TR_OK || dup2(descriptor, PAGE) != PAGE)
            _exit(1);
        tr_activity_record *record = tr_activity_record_for(page, 1);
        tr_activity_write(record, "forward", 17, 3);
        record->running = 1;
        memcpy(tr_activity_record_for(page, 2)->what, "\x1b[2J", 5); /* no way to a terminal's controls */
        for (;; tr_clock_sleep_ms(20)) {
            tr_activity_beat(page);
            if (!byte && write(ready[1], "x", 1) != 1) _exit(1);
            byte = 1;
        }
    }
    close(ready[1]);
    CU_ASSERT_EQUAL(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* Looks until the process is seen so; false: a while passed. */
static bool becomes(const tr_place_seen *places, tr_process_seen wanted, tr_actor_seen *seen)
{
    for (int waited_ms = 0; waited_ms < MOST_MS; waited_ms += 5) {
        tr_look(&topology, places, tr_clock_ns(), seen);
        if (seen[0].process == wanted) return true;
        tr_clock_sleep_ms(5);
    }
    return false;
}

static void a_living_process_is_seen_at_work(void)
{
    tr_actor_seen seen[2];
    pid_t pid = start_child();
    tr_place_seen places[2] = {{.descriptor = -1}, tr_place_of(pid, PAGE)};
    CU_ASSERT(tr_place_lives(&places[1]));
    tr_look(&topology, places, tr_clock_ns(), seen);
    CU_ASSERT_EQUAL(seen[0].process, TR_PROCESS_WELL);
    CU_ASSERT_EQUAL(seen[0].pid, pid);
    CU_ASSERT_STRING_EQUAL(seen[0].record.what, "forward");
    CU_ASSERT(seen[0].record.running && seen[0].record.step == 17 && seen[0].beat_ns > 0);
    CU_ASSERT_STRING_EQUAL(seen[1].record.what, "?[2J");
    tr_look(&topology, places, tr_clock_ns() + 10000000000u, seen);
    CU_ASSERT_EQUAL(seen[0].process, TR_PROCESS_SILENT);
    end_child(pid);
}

static void a_stopped_and_a_dead_process_are_told_apart(void)
{
    tr_actor_seen seen[2];
    pid_t pid = start_child();
    tr_place_seen places[2] = {{.descriptor = -1}, tr_place_of(pid, PAGE)};
    kill(pid, SIGSTOP);
    CU_ASSERT(becomes(places, TR_PROCESS_STOPPED, seen));
    CU_ASSERT_STRING_EQUAL(seen[0].record.what, "forward");
    kill(pid, SIGCONT);
    CU_ASSERT(becomes(places, TR_PROCESS_WELL, seen));
    kill(pid, SIGKILL); /* and is not reaped yet */
    CU_ASSERT(becomes(places, TR_PROCESS_GONE, seen));
    waitpid(pid, NULL, 0);
    tr_look(&topology, places, tr_clock_ns(), seen);
    CU_ASSERT_EQUAL(seen[0].process, TR_PROCESS_GONE);
    CU_ASSERT_EQUAL(seen[0].record.actor, 0);
}

static void a_later_process_with_the_pid_is_another(void)
{
    tr_actor_seen seen[2];
    pid_t pid = start_child();
    tr_place_seen places[2] = {{.descriptor = -1}, tr_place_of(pid, PAGE)};
    CU_ASSERT(places[1].started > 0);
    places[1].started--;
    CU_ASSERT_FALSE(tr_place_lives(&places[1]));
    tr_look(&topology, places, tr_clock_ns(), seen);
    CU_ASSERT_EQUAL(seen[0].process, TR_PROCESS_GONE);
    end_child(pid);
}

/* Were it opened it would wait for a writer, or be read. */
static void only_pages_are_read(void)
{
    tr_activity_page page;
    tr_error err = {0};
    int ends[2];
    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    CU_ASSERT_EQUAL(tr_activity_page_copy(&page, getpid(), ends[0], &err), TR_ENOTFOUND);
    CU_ASSERT_EQUAL(tr_activity_page_copy(&page, getpid(), 12345, &err), TR_ENOTFOUND);
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CU_ASSERT_EQUAL(tr_activity_page_copy(&page, getpid(), file, &err), TR_ENOTFOUND);
    close(file);
    close(ends[0]);
    close(ends[1]);
    tr_activity_page *own;
    int descriptor;
    CHECK_OK(tr_activity_page_new(&own, &descriptor, &err));
    CHECK_OK(tr_activity_page_copy(&page, getpid(), descriptor, &err));
    CU_ASSERT_EQUAL(ftruncate(descriptor, 100), 0);
    CU_ASSERT_EQUAL(tr_activity_page_copy(&page, getpid(), descriptor, &err), TR_EIO);
    tr_activity_page_unmap(&own);
    close(descriptor);
}

static void waits_are_kept_until_something_is_done(void)
{
    tr_activity_record record = {.actor = 1};
    tr_wait got[TR_ACTIVITY_WAITS],
        many[TR_ACTIVITY_WAITS + 2] = {{TR_WAIT_MESSAGE, 0, 5}, {TR_WAIT_CREDIT, 0, 6}, {TR_WAIT_WORD, 3, 7}};
    CU_ASSERT_EQUAL(tr_activity_waits(&record, got), 0);
    tr_activity_wait(&record, many, 3);
    CU_ASSERT_EQUAL(tr_activity_waits(&record, got), 3);
    CU_ASSERT(memcmp(got, many, 3 * sizeof *got) == 0);
    uint64_t since_ns = record.waits_since_ns;
    CU_ASSERT(since_ns > 0);
    tr_clock_sleep_ms(1);
    tr_activity_wait(&record, many, 3); /* still the same */
    CU_ASSERT_EQUAL(record.waits_since_ns, since_ns);
    tr_activity_write(&record, "forward", 1, 2);
    CU_ASSERT_EQUAL(tr_activity_waits(&record, got), 0);
    tr_activity_wait(&record, many, 3); /* anew */
    CU_ASSERT(record.waits_since_ns > since_ns);
    for (int i = 0; i < TR_ACTIVITY_WAITS + 2; i++) many[i] = (tr_wait){TR_WAIT_WORD, 1, (uint32_t)i + 1};
    tr_activity_wait(&record, many, TR_ACTIVITY_WAITS + 2);
    CU_ASSERT_EQUAL(tr_activity_waits(&record, got), TR_ACTIVITY_WAITS);
    tr_activity_wait(&record, NULL, 0);
    CU_ASSERT_EQUAL(tr_activity_waits(&record, got), 0);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(a_living_process_is_seen_at_work),
        CHECK_TEST(a_stopped_and_a_dead_process_are_told_apart),
        CHECK_TEST(a_later_process_with_the_pid_is_another),
        CHECK_TEST(only_pages_are_read),
        CHECK_TEST(waits_are_kept_until_something_is_done),
    };
    tr_topology_init(&topology, 2);
    if (tr_topology_add_actor(&topology, "one", "x", 1, NULL, 0, 0, NULL, NULL) != TR_OK ||
        tr_topology_add_actor(&topology, "two", "x", 1, NULL, 0, 0, NULL, NULL) != TR_OK)
        return 1;
    int result = check_run("look", tests, sizeof tests / sizeof *tests);
    tr_topology_release(&topology);
    return result;
}
