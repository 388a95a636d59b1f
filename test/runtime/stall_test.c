/* test/runtime/stall_test.c - who is to blame is found by following who waits for whom, on records that are made up.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/stall.h"

#include "check.h"

#include <string.h>

/* A pipeline of three stages with a coordinator: edges 0 "forward" 1 -> 2, 1 "forward" 2 -> 3, 2 "backward" 3 -> 2,
 * 3 "backward" 2 -> 1. Everybody on a node of its own, the coordinator (4) on the head; 5 shares the node of 1. */
enum { ACTORS = 5, SECOND = 1000000000 };
static const uint64_t NOW = 100ull * SECOND;

typedef struct scene {
    tr_topology topology;
    tr_actor_seen seen[ACTORS];
} scene;

static void set_scene(scene *self)
{
    static const char *const names[] = {"one", "two", "three", "clock", "feeder"};
    static const int32_t nodes[] = {1, 2, 3, 0, 1};
    tr_error err = {0};
    memset(self, 0, sizeof *self);
    tr_topology_init(&self->topology, 4);
    for (int i = 0; i < ACTORS; i++) {
        CHECK_OK(tr_topology_add_actor(&self->topology, names[i], "x", nodes[i], NULL, 0, 0, NULL, &err));
        self->seen[i].pid = 1000 + nodes[i];
        self->seen[i].beat_ns = NOW - SECOND / 10;
        self->seen[i].record.actor = (uint64_t)i + 1;
    }
    CHECK_OK(tr_topology_add_edge(&self->topology, "forward", 1, 2, 2, 8, NULL, &err));
    CHECK_OK(tr_topology_add_edge(&self->topology, "forward", 2, 3, 2, 8, NULL, &err));
    CHECK_OK(tr_topology_add_edge(&self->topology, "backward", 3, 2, 2, 8, NULL, &err));
    CHECK_OK(tr_topology_add_edge(&self->topology, "backward", 2, 1, 2, 8, NULL, &err));
    CHECK_OK(tr_topology_add_edge(&self->topology, "food", 5, 1, 2, 8, NULL, &err));
}

static void waits(scene *self, tr_actor_id who, int age_s, tr_wait_kind kind, uint32_t which)
{
    tr_activity_record *record = &self->seen[who - 1].record;
    tr_wait wait = {.kind = kind, .topic = kind == TR_WAIT_WORD ? 7 : 0, .which = which};
    tr_activity_wait(record, &wait, 1);
    record->waits_since_ns = NOW - (uint64_t)age_s * SECOND;
}

static void runs(scene *self, tr_actor_id who, const char *what, int age_s)
{
    tr_activity_record *record = &self->seen[who - 1].record;
    tr_activity_write(record, what, 17, 3);
    record->running = 1;
    record->since_ns = NOW - (uint64_t)age_s * SECOND;
}

static const char *topic_name(uint32_t topic)
{
    return topic == 7 ? "the vote" : NULL;
}

/* Finds, compares, tells. */
static void expect(scene *self, tr_stall_kind kind, tr_actor_id who, uint32_t n_waiting, const char *text)
{
    char told[1024] = "";
    tr_stall stall = {0};
    bool found = tr_stall_find(&stall, &self->topology, self->seen);
    CU_ASSERT(found);
    CU_ASSERT_EQUAL(stall.kind, kind);
    CU_ASSERT_EQUAL(stall.who, who);
    CU_ASSERT_EQUAL(stall.n_waiting, n_waiting);
    if (found) tr_stall_describe(&stall, &self->topology, self->seen, topic_name, NOW, told, sizeof told);
    CU_ASSERT_STRING_EQUAL(told, text);
    if (strcmp(told, text) != 0) fprintf(stderr, "\ngot '%s'\n", told);
    tr_topology_release(&self->topology);
}

/* Feeder -> one -> two -> three, and the clock waits for the vote of one. */
static void everybody_waits(scene *self)
{
    set_scene(self);
    waits(self, 1, 40, TR_WAIT_MESSAGE, 3);
    waits(self, 2, 41, TR_WAIT_MESSAGE, 2);
    waits(self, 4, 42, TR_WAIT_WORD, 1);
    waits(self, 5, 39, TR_WAIT_CREDIT, 4);
}

static void the_chain_is_followed_to_its_end(void)
{
    scene self;
    everybody_waits(&self);
    runs(&self, 3, "backward", 43);
    expect(
        &self, TR_STALL_BUSY, 3, 4,
        "three (worker 3, pid 1003), which is in backward of step 17, micro-batch 3, for 43.0 s; two waits "
        "for backward from three, for 41.0 s");
}

static void the_stopped_is_named_whatever_it_waited_for(void)
{
    scene self;
    everybody_waits(&self);
    waits(&self, 3, 50, TR_WAIT_MESSAGE, 1);
    self.seen[2].process = TR_PROCESS_STOPPED;
    self.seen[2].beat_ns = NOW - 44ull * SECOND;
    expect(&self, TR_STALL_STOPPED, 3, 4,
           "three (worker 3, pid 1003), whose process was stopped 44.0 s ago; it waits for forward from two "
           "for 50.0 s; two waits for backward from three, for 41.0 s");
}

static void what_is_broken_counts_before_what_works(void)
{
    scene self;
    everybody_waits(&self);
    runs(&self, 3, "backward", 43); /* two wait for it, */
    waits(&self, 4, 42, TR_WAIT_WORD, 5);
    self.seen[4].process = TR_PROCESS_GONE; /* one for this */
    expect(&self, TR_STALL_GONE, 5, 1,
           "feeder (worker 1, pid 1001), whose process is gone; it waits for a credit of food from one for "
           "39.0 s; "
           "clock waits for the vote from feeder, for 42.0 s");
}

static void a_circle_is_told_link_by_link(void)
{
    scene self;
    everybody_waits(&self);
    waits(&self, 3, 50, TR_WAIT_CREDIT, 2); /* of backward, which two has no reason to keep */
    expect(
        &self, TR_STALL_CIRCLE, 3, 4,
        "three (worker 3, pid 1003), in a circle, three waits for a credit of backward from two for 50.0 s; "
        "two waits for backward from three for 41.0 s");
}

static void one_whose_mailbox_is_not_looked_at_is_named(void)
{
    scene self;
    everybody_waits(&self);
    waits(&self, 3, 50, TR_WAIT_MESSAGE, 1);
    self.seen[2].record.queued = 4;
    expect(&self, TR_STALL_QUEUED, 3, 4,
           "three (worker 3, pid 1003), for which 4 messages wait; it waits for forward from two for 50.0 s; "
           "two waits for backward from three, for 41.0 s");
}

/* The process is silent because the feeder keeps its only thread: then it is the feeder's doing, not that of "one". */
static void who_keeps_the_thread_is_named_not_its_neighbour(void)
{
    scene self;
    set_scene(&self);
    waits(&self, 1, 60, TR_WAIT_MESSAGE, 4);
    waits(&self, 2, 41, TR_WAIT_MESSAGE, 0);
    waits(&self, 4, 42, TR_WAIT_WORD, 2);
    runs(&self, 5, "reading", 61);
    self.seen[0].process = self.seen[4].process = TR_PROCESS_SILENT;
    self.seen[0].beat_ns = self.seen[4].beat_ns = NOW - 61ull * SECOND;
    expect(
        &self, TR_STALL_BUSY, 5, 3,
        "feeder (worker 1, pid 1001), which is in reading of step 17, micro-batch 3, for 61.0 s; one waits "
        "for food from feeder, for 60.0 s");
}

static void a_silent_process_is_named(void)
{
    scene self;
    everybody_waits(&self);
    self.seen[2].process = TR_PROCESS_SILENT;
    self.seen[2].beat_ns = NOW - 30ull * SECOND;
    expect(&self, TR_STALL_SILENT, 3, 4,
           "three (worker 3, pid 1003), whose process lives and has done nothing for 30.0 s; two waits for "
           "backward from three, for 41.0 s");
}

static void any_of_several_waits_may_be_the_one(void)
{
    scene self;
    set_scene(&self);
    const tr_wait both[] = {{TR_WAIT_MESSAGE, 0, 0}, {TR_WAIT_CREDIT, 0, 1}}; /* from one, from three */
    tr_activity_wait(&self.seen[1].record, both, 2);
    self.seen[1].record.waits_since_ns = NOW - 9ull * SECOND;
    runs(&self, 3, "forward", 12);
    expect(&self, TR_STALL_BUSY, 3, 1,
           "three (worker 3, pid 1003), which is in forward of step 17, micro-batch 3, for 12.0 s; two waits "
           "for a credit of forward from three, for 9.0 s");
}

static void one_that_says_nothing_is_the_last_to_be_suspected(void)
{
    scene self;
    set_scene(&self);
    waits(&self, 2, 41, TR_WAIT_MESSAGE, 2);
    tr_activity_write(&self.seen[2].record, "done", TR_ACTIVITY_NONE, TR_ACTIVITY_NONE);
    self.seen[2].record.since_ns = NOW - 5ull * SECOND;
    expect(&self, TR_STALL_IDLE, 3, 1,
           "three (worker 3, pid 1003), which waits for nobody; it was last in done; two waits for backward "
           "from three, for 41.0 s");
}

static void a_word_from_outside_of_the_actors_is_told(void)
{
    scene self;
    set_scene(&self);
    waits(&self, 2, 41, TR_WAIT_MESSAGE, 2);
    waits(&self, 3, 40, TR_WAIT_WORD, 0); /* of no actor */
    strcpy(self.seen[2].host_name, "second");
    expect(&self, TR_STALL_IDLE, 3, 1,
           "three (worker 3, pid 1003 on second), which waits for no actor; it waits for the vote for 40.0 "
           "s; two "
           "waits for backward from three, for 41.0 s");
}

static void where_nobody_waits_there_is_no_stall(void)
{
    scene self;
    tr_stall stall;
    set_scene(&self);
    runs(&self, 1, "forward", 100);
    CU_ASSERT_FALSE(tr_stall_find(&stall, &self.topology, self.seen));
    waits(&self, 2, 41, TR_WAIT_MESSAGE, 99); /* no such edge, no such actor: from a page of who knows whom */
    waits(&self, 3, 41, TR_WAIT_WORD, 99);
    self.seen[3].record.waits[0] = UINT64_MAX;
    CU_ASSERT_FALSE(tr_stall_find(&stall, &self.topology, self.seen));
    tr_topology_release(&self.topology);
}

static void a_long_report_is_cut(void)
{
    scene self;
    char told[40];
    tr_stall stall = {0};
    everybody_waits(&self);
    CU_ASSERT(tr_stall_find(&stall, &self.topology, self.seen));
    tr_stall_describe(&stall, &self.topology, self.seen, NULL, NOW, told, sizeof told);
    CU_ASSERT_EQUAL(strlen(told), sizeof told - 1);
    tr_topology_release(&self.topology);
}

static const check_test tests[] = {
    CHECK_TEST(the_chain_is_followed_to_its_end),
    CHECK_TEST(the_stopped_is_named_whatever_it_waited_for),
    CHECK_TEST(what_is_broken_counts_before_what_works),
    CHECK_TEST(a_circle_is_told_link_by_link),
    CHECK_TEST(one_whose_mailbox_is_not_looked_at_is_named),
    CHECK_TEST(who_keeps_the_thread_is_named_not_its_neighbour),
    CHECK_TEST(a_silent_process_is_named),
    CHECK_TEST(any_of_several_waits_may_be_the_one),
    CHECK_TEST(one_that_says_nothing_is_the_last_to_be_suspected),
    CHECK_TEST(a_word_from_outside_of_the_actors_is_told),
    CHECK_TEST(where_nobody_waits_there_is_no_stall),
    CHECK_TEST(a_long_report_is_cut),
};
CHECK_MAIN("stall", tests)
