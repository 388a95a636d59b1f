/* test/runtime/host_messages_test.c - what hosts say to each other arrives whole or not at all, and who would compute other
 * bits is told what differs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/host_messages.h"

#include "base/memory.h"
#include "check.h"

#include <string.h>

static tr_error err;
static tr_actor_spec actors[3] = {
    {.id = 1, .node = 0}, {.id = 2, .node = 1, .state_bytes = 64}, {.id = 3, .node = 2, .state_bytes = 64}};
static const tr_topology topology = {.n_nodes = 3, .threads_per_node = 1, .actors = actors, .n_actors = 3};

static void encode(const tr_homes *homes, void **bytes, size_t *size)
{
    CHECK_OK(tr_homes_encode(homes, bytes, size, &err));
}

static void homes_come_over_whole_or_not_at_all(void)
{
    int32_t home[3] = {-1, 0, 1};
    char addresses[2][TR_BIND_CHARS] = {"tcp://10.0.0.5:1", "tcp://10.0.0.6:1"};
    tr_state_home states[2] = {{.actor = 1, .source = 0, .source_actor = 1, .copy = -1},
                               {.actor = 2, .source = 0, .source_actor = 1, .copy = 0}};
    tr_homes made = {.epoch = 3,
                     .layout = 2,
                     .topology = "plan",
                     .topology_bytes = 4,
                     .n_members = 2,
                     .n_nodes = 3,
                     .n_states = 2,
                     .addresses = addresses,
                     .home = home,
                     .states = states,
                     .takes_former = true},
             read;
    void *bytes;
    size_t size;
    encode(&made, &bytes, &size);
    CHECK_OK(tr_homes_decode(&read, bytes, size, &topology, &err));
    CU_ASSERT(read.epoch == 3 && read.n_members == 2 && read.n_nodes == 3 && read.n_states == 2);
    CU_ASSERT(read.takes_former);
    CU_ASSERT(memcmp(read.home, home, sizeof home) == 0);
    CU_ASSERT_STRING_EQUAL(read.addresses[1], addresses[1]);
    CU_ASSERT(read.states[1].actor == 2 && read.states[1].source_actor == 1 && read.states[1].copy == 0);
    tr_homes_release(&read);
    CHECK_OK(tr_homes_peek(&read, bytes, size, &err)); /* before it is known which topology it is of */
    CU_ASSERT(read.epoch == 3 && read.layout == 2 && read.topology_bytes == 4 &&
              memcmp(read.topology, "plan", 4) == 0);
    CU_ASSERT_EQUAL(tr_homes_peek(&read, bytes, 3, &err), TR_ECORRUPT);
    for (size_t cut = 0; cut < size; cut++)
        CU_ASSERT_EQUAL(tr_homes_decode(&read, bytes, cut, &topology, &err), TR_ECORRUPT);
    tr_free(bytes);

    states[1].source_actor = 0; /* which has no state */
    encode(&made, &bytes, &size);
    CU_ASSERT_EQUAL(tr_homes_decode(&read, bytes, size, &topology, &err), TR_ECORRUPT);
    tr_free(bytes);
    states[1].source_actor = 1;
    home[2] = 2; /* a member that is none */
    encode(&made, &bytes, &size);
    CU_ASSERT_EQUAL(tr_homes_decode(&read, bytes, size, &topology, &err), TR_ECORRUPT);
    tr_free(bytes);
}

static void what_was_held_before_comes_over_whole_or_not_at_all(void)
{
    tr_former_state states[2] = {{.actor = 1, .generations = {4, 3}, .hashes = {44, 33}},
                                 {.actor = 2, .generations = {0, 5}, .hashes = {0, 55}}};
    const tr_former made = {.term = 1ull << 40, .epoch = 9, .n_agents = 2, .n_states = 2, .states = states};
    tr_former read;
    void *bytes;
    size_t size;
    CHECK_OK(tr_former_encode(&made, &bytes, &size, &err));
    CHECK_OK(tr_former_decode(&read, bytes, size, &topology, &err));
    CU_ASSERT(read.term == made.term && read.epoch == 9 && read.n_agents == 2 && read.n_states == 2);
    for (int i = 0; i < 2; i++)
        CU_ASSERT(read.states[i].actor == states[i].actor &&
                  memcmp(read.states[i].generations, states[i].generations, 16) == 0 &&
                  memcmp(read.states[i].hashes, states[i].hashes, 16) == 0);
    tr_former_release(&read);
    for (size_t cut = 0; cut < size; cut++)
        CU_ASSERT_EQUAL(tr_former_decode(&read, bytes, cut, &topology, &err), TR_ECORRUPT);
    tr_free(bytes);
    for (uint32_t actor = 0; actor < 4; actor++) { /* it has no state, is not in order, there is none */
        if (actor == 2) continue;
        states[1].actor = actor;
        CHECK_OK(tr_former_encode(&made, &bytes, &size, &err));
        CU_ASSERT_EQUAL(tr_former_decode(&read, bytes, size, &topology, &err), TR_ECORRUPT);
        tr_free(bytes);
    }
}

static void a_part_points_into_its_message(void)
{
    const tr_slot_part made = {.layout = 9,
                               .fetched = true,
                               .actor = 2,
                               .generation = 5,
                               .hash = 77,
                               .offset_bytes = 32,
                               .bytes = "abc",
                               .n_bytes = 3,
                               .good = true};
    tr_slot_part read;
    void *bytes;
    size_t size;
    CHECK_OK(tr_slot_part_encode(&made, &bytes, &size, &err));
    CHECK_OK(tr_slot_part_decode(&read, bytes, size, &err));
    CU_ASSERT(read.actor == 2 && read.generation == 5 && read.hash == 77 && read.offset_bytes == 32 &&
              read.good && read.layout == 9 && read.fetched);
    CU_ASSERT(read.n_bytes == 3 && memcmp(read.bytes, "abc", 3) == 0);
    CU_ASSERT((const char *)read.bytes > (const char *)bytes &&
              (const char *)read.bytes < (const char *)bytes + size);
    for (size_t cut = 0; cut < size; cut++)
        CU_ASSERT_EQUAL(tr_slot_part_decode(&read, bytes, cut, &err), TR_ECORRUPT);
    tr_free(bytes);
}

static void refused_for(tr_join_request theirs, const tr_join_request *mine, const char *words)
{
    tr_join_request read;
    void *bytes;
    size_t size;
    CHECK_OK(tr_join_request_encode(&theirs, &bytes, &size, &err));
    CHECK_OK(tr_join_request_decode(&read, bytes, size, &err));
    tr_free(bytes);
    CU_ASSERT_EQUAL(tr_join_request_compare(mine, &read, &err), TR_EREFUSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, words));
}

static void who_may_not_join_hears_why(void)
{
    tr_join_request mine, theirs;
    CHECK_OK(tr_join_request_describe(&mine, "1.2.3", &err));
    strcpy(mine.run, "runs/first");
    strcpy(mine.plan, "0123456789abcdef");
    CU_ASSERT(mine.program != 0 && strstr(mine.numerics, "instructions") && strstr(mine.numerics, "glibc"));
    theirs = mine;
    theirs.run[0] = theirs.plan[0] = 0; /* whichever is there */
    CHECK_OK(tr_join_request_compare(&mine, &theirs, &err));
    strcpy(theirs.version, "1.2.4");
    refused_for(theirs, &mine, "version '1.2.4', this job's is '1.2.3'");
    theirs = mine;
    theirs.program++;
    refused_for(theirs, &mine, "another build");
    theirs = mine;
    theirs.numerics[strlen("instructions ")] ^= 1;
    refused_for(theirs, &mine, "its numbers could differ");
    theirs = mine;
    strcpy(theirs.run, "runs/second");
    refused_for(theirs, &mine, "wants to join the run 'runs/second', this is 'runs/first'");
    theirs = mine;
    theirs.plan[0] = 'f';
    refused_for(theirs, &mine, "expects plan 'f123456789abcdef'");
}

static void a_name_from_elsewhere_stays_on_its_line(void)
{
    tr_join_request made = {.version = "1", .name = "a\nb\x7f"}, read;
    void *bytes;
    size_t size;
    CHECK_OK(tr_join_request_encode(&made, &bytes, &size, &err));
    CHECK_OK(tr_join_request_decode(&read, bytes, size, &err));
    CU_ASSERT_STRING_EQUAL(read.name, "a?b?");
    tr_free(bytes);
}

static const check_test tests[] = {
    CHECK_TEST(homes_come_over_whole_or_not_at_all),
    CHECK_TEST(what_was_held_before_comes_over_whole_or_not_at_all),
    CHECK_TEST(a_part_points_into_its_message),
    CHECK_TEST(who_may_not_join_hears_why),
    CHECK_TEST(a_name_from_elsewhere_stays_on_its_line),
};
CHECK_MAIN("host_messages", tests)
