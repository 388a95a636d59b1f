/* test/runtime/host_activity_test.c - what a worker does on another host is seen on the head's as if it were here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/host_activity.h"

#include "base/clock.h"
#include "base/memory.h"
#include "check.h"

#include <string.h>

enum { SECOND = 1000000000, THERE = 4711 };

static tr_error err;
static tr_topology topology; /* actors 1 and 2 on node 1, on the other host */

/* On a clock of its own, 500 s behind: actor 1 has been in "forward" for 3 s, actor 2 waits for 2 s, the last beat was 0.1 s ago. */
static void make_seen(tr_worker_seen *made, uint64_t there_ns)
{
    const tr_wait wait = {TR_WAIT_WORD, 3, 1};
    *made = (tr_worker_seen){.node = 1, .pid = THERE, .resident_bytes = 77 << 20, .now_ns = there_ns};
    made->page.beat_ns = there_ns - SECOND / 10;
    tr_activity_record *record = tr_activity_record_for(&made->page, 1);
    tr_activity_write(record, "forward", 17, 3);
    record->running = 1;
    record->since_ns = there_ns - 3ull * SECOND;
    record = tr_activity_record_for(&made->page, 2);
    tr_activity_wait(record, &wait, 1);
    record->waits_since_ns = there_ns - 2ull * SECOND;
}

static void carry(const tr_worker_seen *made, tr_worker_seen *read)
{
    void *bytes;
    size_t size;
    CHECK_OK(tr_worker_seen_encode(made, &bytes, &size, &err));
    CU_ASSERT(size < 1024); /* of a page of 8 KiB: only what is in use */
    CHECK_OK(tr_worker_seen_decode(read, bytes, size, &err));
    for (size_t cut = 0; cut < size; cut++)
        CU_ASSERT_EQUAL(tr_worker_seen_decode(&(tr_worker_seen){0}, bytes, cut, &err), TR_ECORRUPT);
    tr_free(bytes);
}

static void a_worker_of_another_host_is_seen_from_here(void)
{
    uint64_t now_ns = tr_clock_ns() + 1000ull * SECOND;
    tr_worker_seen made, read;
    tr_actor_seen seen[2];
    tr_host_pages *pages;
    tr_wait waits[TR_ACTIVITY_WAITS];
    CHECK_OK(tr_host_pages_new(&pages, 3, &err));
    tr_place_seen places[2] = {{.descriptor = -1}, tr_host_pages_begin(pages, 1, THERE, 2, "second\n")};
    CU_ASSERT(tr_place_lives(&places[1]));
    make_seen(&made, now_ns - 500ull * SECOND);
    carry(&made, &read);
    tr_host_pages_take(pages, &read, now_ns);
    tr_look(&topology, places, now_ns, seen);
    CU_ASSERT(seen[0].pid == THERE && seen[0].host == 2 && seen[0].resident_bytes == 77 << 20);
    CU_ASSERT_STRING_EQUAL(seen[0].host_name, "second?"); /* it goes onto terminals */
    CU_ASSERT(seen[0].process == TR_PROCESS_WELL && seen[0].beat_ns == now_ns - SECOND / 10);
    CU_ASSERT_STRING_EQUAL(seen[0].record.what, "forward");
    CU_ASSERT(seen[0].record.running && seen[0].record.since_ns == now_ns - 3ull * SECOND);
    CU_ASSERT(tr_activity_waits(&seen[1].record, waits) == 1 && waits[0].which == 1);
    CU_ASSERT_EQUAL(seen[1].record.waits_since_ns, now_ns - 2ull * SECOND);
    /* Without news it becomes silent, as one here that does not beat. */
    tr_look(&topology, places, now_ns + 10ull * SECOND, seen);
    CU_ASSERT_EQUAL(seen[0].process, TR_PROCESS_SILENT);
    made.process = TR_PROCESS_STOPPED;
    carry(&made, &read);
    tr_host_pages_take(pages, &read, now_ns);
    tr_look(&topology, places, now_ns, seen);
    CU_ASSERT_EQUAL(seen[0].process, TR_PROCESS_STOPPED);
    tr_host_pages_destroy(&pages);
}

static void what_is_told_of_an_earlier_process_is_dropped(void)
{
    uint64_t now_ns = tr_clock_ns();
    tr_worker_seen made;
    tr_actor_seen seen[2];
    tr_host_pages *pages;
    CHECK_OK(tr_host_pages_new(&pages, 2, &err));
    make_seen(&made, now_ns);
    tr_host_pages_take(pages, &made, now_ns); /* before anybody began */
    tr_place_seen places[2] = {{.descriptor = -1}, tr_host_pages_begin(pages, 1, THERE, 1, "second")};
    tr_host_pages_take(pages, &made, now_ns);
    places[1] = tr_host_pages_begin(pages, 1, THERE + 1, 1, "second");
    tr_host_pages_take(pages, &made, now_ns);
    made.node = 2; /* beyond the job */
    tr_host_pages_take(pages, &made, now_ns);
    tr_look(&topology, places, now_ns, seen);
    CU_ASSERT(seen[0].pid == THERE + 1 && seen[0].record.actor == 0);
    tr_host_pages_destroy(&pages);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(a_worker_of_another_host_is_seen_from_here),
        CHECK_TEST(what_is_told_of_an_earlier_process_is_dropped),
    };
    tr_topology_init(&topology, 2);
    if (tr_topology_add_actor(&topology, "one", "x", 1, NULL, 0, 0, NULL, NULL) != TR_OK ||
        tr_topology_add_actor(&topology, "two", "x", 1, NULL, 0, 0, NULL, NULL) != TR_OK)
        return 1;
    int result = check_run("host_activity", tests, sizeof tests / sizeof *tests);
    tr_topology_release(&topology);
    return result;
}
