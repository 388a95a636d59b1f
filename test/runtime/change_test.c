/* test/runtime/change_test.c - what an agent is told of another layout comes over whole or not at all, and so does the memory
 * that a worker has from then on.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/change.h"

#include "base/memory.h"
#include "check.h"
#include "runtime/state.h"
#include "runtime/worker_memory.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static tr_error err;

static const tr_state_move moves[] = {{1, 2, 0, 64, 32}, {1, 1, 32, 0, 32}, {3, 9, 8, 0, 24}};
static const int32_t leaving[] = {2};

static void make_topology(tr_topology *topology)
{
    tr_topology_init(topology, 4);
    CHECK_OK(tr_topology_add_actor(topology, "one", "kind", 1, "config", 6, 64, NULL, &err));
    CHECK_OK(tr_topology_add_actor(topology, "two", "kind", 2, NULL, 0, 0, NULL, &err));
    CHECK_OK(tr_topology_add_actor(topology, "three", "kind", 3, NULL, 0, 32, NULL, &err));
}

static tr_status try_moves(const tr_state_move *tried, size_t n, const int32_t *nodes, size_t n_nodes)
{
    tr_topology topology;
    tr_change_order order;
    void *bytes;
    size_t size;
    make_topology(&topology);
    const tr_change change = {.topology = &topology,
                              .generation = 7,
                              .moves = tried,
                              .n_moves = n,
                              .leaving = nodes,
                              .n_leaving = n_nodes};
    CHECK_OK(tr_change_encode(&change, 3, 4, &bytes, &size, &err));
    tr_status status = tr_change_decode(&order, bytes, size, &err);
    if (!status) tr_change_order_release(&order);
    tr_free(bytes);
    tr_topology_release(&topology);
    return status;
}

static void a_change_comes_over_whole_or_not_at_all(void)
{
    tr_topology topology;
    tr_change_order order;
    unsigned char *bytes;
    size_t size, before = tr_memory_blocks();
    make_topology(&topology);
    const tr_change change = {.topology = &topology,
                              .generation = 7,
                              .moves = moves,
                              .n_moves = 3,
                              .leaving = leaving,
                              .n_leaving = 1};
    CHECK_OK(tr_change_encode(&change, 3, 4, (void **)&bytes, &size, &err));
    CHECK_OK(tr_change_decode(&order, bytes, size, &err));
    CU_ASSERT(order.epoch == 3 && order.layout == 4 && order.generation == 7);
    CU_ASSERT(order.n_moves == 3 && memcmp(order.moves, moves, sizeof moves) == 0);
    CU_ASSERT(order.n_leaving == 1 && order.leaving[0] == 2);
    CU_ASSERT(tr_topology_has_same_places(&order.topology, &topology));
    tr_change_order_release(&order);
    for (size_t n = 0; n < size; n++) CU_ASSERT_EQUAL(tr_change_decode(&order, bytes, n, &err), TR_ECORRUPT);
    for (size_t i = 0; i < size; i++) { /* whatever it is then, it is read safely */
        bytes[i] ^= 0x81;
        if (tr_change_decode(&order, bytes, size, &err) == TR_OK) tr_change_order_release(&order);
        bytes[i] ^= 0x81;
    }
    tr_free(bytes);
    tr_topology_release(&topology);
    CU_ASSERT_EQUAL(tr_memory_blocks(), before);
}

static tr_status try_homes(const int32_t *home, const tr_state_fetch *fetches, size_t n,
                           tr_change_order *order)
{
    static const int32_t copy[3] = {1, -1, 0};
    tr_topology topology;
    void *bytes;
    size_t size;
    make_topology(&topology);
    const tr_change change = {.topology = &topology,
                              .generation = 7,
                              .home = home,
                              .copy = copy,
                              .fetches = fetches,
                              .n_fetches = n};
    CHECK_OK(tr_change_encode(&change, 3, 4, &bytes, &size, &err));
    tr_status status = tr_change_decode(order, bytes, size, &err);
    for (size_t cut = 0; cut < size; cut++) {
        tr_change_order damaged;
        CU_ASSERT_EQUAL(tr_change_decode(&damaged, bytes, cut, &err), TR_ECORRUPT);
    }
    tr_free(bytes);
    tr_topology_release(&topology);
    return status;
}

static void on_several_hosts_homes_and_transfers_come_with_it(void)
{
    static const int32_t home[4] = {-1, 0, 2, 1}, nowhere[4] = {-1, 0, -1, 1};
    static const tr_state_fetch fetches[] = {{1, 0, 2}, {3, 1, 0}}, to_itself[] = {{1, 2, 2}},
                                nobody[] = {{0, 0, 1}};
    tr_change_order order;
    size_t before = tr_memory_blocks();
    CHECK_OK(try_homes(home, fetches, 2, &order));
    CU_ASSERT(memcmp(order.home, home, sizeof home) == 0);
    CU_ASSERT(order.copy[0] == 1 && order.copy[1] == -1 && order.copy[2] == 0);
    CU_ASSERT(order.n_fetches == 2 && order.fetches[0].actor == 1 && order.fetches[0].from == 0 &&
              order.fetches[0].to == 2 && order.fetches[1].actor == 3 && order.fetches[1].to == 0);
    tr_change_order_release(&order);
    CU_ASSERT_EQUAL(try_homes(nowhere, fetches, 2, &order), TR_ECORRUPT);
    CU_ASSERT_EQUAL(try_homes(home, to_itself, 1, &order), TR_ECORRUPT);
    CU_ASSERT_EQUAL(try_homes(home, nobody, 1, &order), TR_ECORRUPT);
    CU_ASSERT_EQUAL(try_homes(NULL, fetches, 2, &order), TR_ECORRUPT); /* between whom? */
    CHECK_OK(try_homes(NULL, NULL, 0, &order));
    CU_ASSERT(!order.home && !order.copy && !order.n_fetches);
    tr_change_order_release(&order);
    CU_ASSERT_EQUAL(tr_memory_blocks(), before);
}

static void ranges_beyond_a_slot_are_refused(void)
{
    static const tr_state_move bad[][2] = {
        {{1, 1, 0, 0, 65}},                   /* longer than the slot */
        {{1, 1, 33, 0, 32}},                  /* out at its end */
        {{1, 1, (uint64_t)1 << 46, 0, 32}},   /* far out */
        {{1, 1, 0, 0, 0}},                    /* nothing */
        {{2, 1, 0, 0, 8}},                    /* into an actor without state */
        {{4, 1, 0, 0, 8}},                    /* into nobody */
        {{1, 0, 0, 0, 8}},                    /* from nobody */
        {{1, 1, 0, 0, 32}, {1, 1, 31, 0, 8}}, /* over what was just dealt */
        {{3, 1, 0, 0, 32}, {1, 1, 0, 0, 8}},  /* in another order than actors are */
    };
    static const int32_t nobody[] = {4}, head[] = {0};
    CU_ASSERT_EQUAL(try_moves(moves, 3, leaving, 1), TR_OK);
    CU_ASSERT_EQUAL(try_moves(NULL, 0, NULL, 0), TR_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(try_moves(bad[i], bad[i][1].to ? 2 : 1, NULL, 0), TR_ECORRUPT);
    CU_ASSERT_EQUAL(try_moves(NULL, 0, nobody, 1), TR_ECORRUPT);
    CU_ASSERT_EQUAL(try_moves(NULL, 0, head, 1), TR_ECORRUPT);
}

static void a_slot_is_whole_only_with_the_bytes_that_were_published(void)
{
    tr_state_region *region;
    CHECK_OK(tr_state_region_new(&region, "state", 1000, &err));
    CU_ASSERT_EQUAL(tr_state_find_whole(region, 0), -1);
    tr_state_open(region, 1);
    memset(tr_state_slot(region, 1), 5, 1000);
    tr_state_publish(region, 1, 9, NULL);
    CU_ASSERT_EQUAL(tr_state_find_whole(region, 9), 1);
    CU_ASSERT_EQUAL(tr_state_find_whole(region, 8), -1);
    ((char *)tr_state_slot(region, 1))[999] ^= 1;
    CU_ASSERT_EQUAL(tr_state_find_whole(region, 9), -1);
    tr_state_region_destroy(&region);
}

static void hear_all(tr__worker_memory *memory, int socket)
{
    tr_lease_word word;
    bool gone;
    while (tr_lease_hear(socket, &word, &gone)) tr__worker_memory_hear(memory, &word);
    CU_ASSERT(!gone);
}

static int count_descriptors(void)
{
    int n = 0;
    for (int i = 0; i < 1024; i++) n += fcntl(i, F_GETFD) >= 0;
    return n;
}

/* More than go with one word, so that a part may be there alone. */
static void memory_is_taken_when_all_of_it_has_come(void)
{
    enum { N = TR_LEASE_MEMORY_MAX + 3 };
    int before = count_descriptors(), ends[2];
    CU_ASSERT_FATAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    tr__worker_memory memory;
    CHECK_OK(tr__worker_memory_open(&memory, 0, 0, NULL, true, &err));
    CU_ASSERT(tr__worker_memory_has(&memory, 0) && !tr__worker_memory_has(&memory, 4));
    tr_state_region *regions[N];
    for (int i = 0; i < N; i++) CHECK_OK(tr_state_region_new(&regions[i], "state", 64 + i, &err));
    tr_lease_word word = {.layout = 4, .n_states = N, .n_descriptors = TR_LEASE_MEMORY_MAX};
    for (int i = 0; i < TR_LEASE_MEMORY_MAX; i++)
        word.descriptors[i] = tr_state_region_descriptor(regions[i]);
    CU_ASSERT(tr_lease_tell(ends[0], &word));
    hear_all(&memory, ends[1]);
    CU_ASSERT(!tr__worker_memory_has(&memory, 4));
    CHECK_OK(tr__worker_memory_take(&memory, &err)); /* nothing yet */
    CU_ASSERT(memory.n_states == 0 && memory.may_spin);
    word.at = TR_LEASE_MEMORY_MAX;
    word.n_descriptors = N - TR_LEASE_MEMORY_MAX;
    for (int i = 0; i < word.n_descriptors; i++)
        word.descriptors[i] = tr_state_region_descriptor(regions[TR_LEASE_MEMORY_MAX + i]);
    CU_ASSERT(tr_lease_tell(ends[0], &word));
    hear_all(&memory, ends[1]);
    CU_ASSERT(tr__worker_memory_has(&memory, 4) && !tr__worker_memory_has(&memory, 5));
    CHECK_OK(tr__worker_memory_take(&memory, &err));
    CU_ASSERT(memory.n_states == N && memory.layout == 4 && !memory.may_spin);
    for (int i = 0; i < memory.n_states; i++) { /* the same memory, in the same order */
        CU_ASSERT_EQUAL(tr_state_region_slot_bytes(memory.regions[i]), 64u + (unsigned)i);
        memset(tr_state_slot(regions[i], 0), i, 64);
        CU_ASSERT(((unsigned char *)tr_state_slot(memory.regions[i], 0))[63] == i);
    }
    CU_ASSERT(tr_lease_tell(ends[0], &(tr_lease_word){.layout = 6, .keeps = true, .n_states = N}));
    hear_all(&memory, ends[1]);
    CHECK_OK(tr__worker_memory_take(&memory, &err));
    CU_ASSERT(memory.n_states == N && tr__worker_memory_has(&memory, 6));
    word.layout = 7; /* one that is overtaken */
    CU_ASSERT(tr_lease_tell(ends[0], &word));
    CU_ASSERT(tr_lease_tell(ends[0], &(tr_lease_word){.layout = 8}));
    hear_all(&memory, ends[1]);
    CHECK_OK(tr__worker_memory_take(&memory, &err));
    CU_ASSERT(memory.n_states == 0 && memory.layout == 8);
    for (int i = 0; i < N; i++) tr_state_region_destroy(&regions[i]);
    tr__worker_memory_release(&memory);
    close(ends[0]), close(ends[1]);
    CU_ASSERT_EQUAL(count_descriptors(), before);
}

/* By an agent that dies between two words, and then by the one that follows it, from the beginning. */
static void memory_that_was_told_in_part_is_told_anew(void)
{
    enum { N = 2 * TR_LEASE_MEMORY_MAX };
    int before = count_descriptors(), ends[2];
    CU_ASSERT_FATAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    tr__worker_memory memory;
    CHECK_OK(tr__worker_memory_open(&memory, 0, 0, NULL, true, &err));
    tr_state_region *regions[N];
    for (int i = 0; i < N; i++) CHECK_OK(tr_state_region_new(&regions[i], "state", 64 + i, &err));
    static const uint32_t said[] = {0, 0, TR_LEASE_MEMORY_MAX, N}; /* the last one says that this was all */
    for (size_t k = 0; k < sizeof said / sizeof *said; k++) {
        tr_lease_word word = {.layout = 4, .n_states = N, .at = said[k]};
        for (; word.n_descriptors < TR_LEASE_MEMORY_MAX && word.at < N; word.n_descriptors++)
            word.descriptors[word.n_descriptors] =
                tr_state_region_descriptor(regions[word.at + (uint32_t)word.n_descriptors]);
        CU_ASSERT(!tr__worker_memory_has(&memory, 4) || k == 3);
        CU_ASSERT(tr_lease_tell(ends[0], &word));
        hear_all(&memory, ends[1]);
    }
    CU_ASSERT(tr__worker_memory_has(&memory, 4));
    CHECK_OK(tr__worker_memory_take(&memory, &err));
    CU_ASSERT_FATAL(memory.n_states == N);
    for (int i = 0; i < N; i++)
        CU_ASSERT_EQUAL(tr_state_region_slot_bytes(memory.regions[i]), 64u + (unsigned)i);
    for (int i = 0; i < N; i++) tr_state_region_destroy(&regions[i]);
    tr__worker_memory_release(&memory);
    close(ends[0]), close(ends[1]);
    CU_ASSERT_EQUAL(count_descriptors(), before);
}

static const check_test tests[] = {
    CHECK_TEST(a_change_comes_over_whole_or_not_at_all),
    CHECK_TEST(on_several_hosts_homes_and_transfers_come_with_it),
    CHECK_TEST(ranges_beyond_a_slot_are_refused),
    CHECK_TEST(a_slot_is_whole_only_with_the_bytes_that_were_published),
    CHECK_TEST(memory_is_taken_when_all_of_it_has_come),
    CHECK_TEST(memory_that_was_told_in_part_is_told_anew),
};
CHECK_MAIN("runtime/change", tests)
