/* test/runtime/state_test.c - state outlives the process that wrote it, and a half-written slot never counts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/state.h"

#include "check.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOT_BYTES = 600001 /* more than one block is hashed of */ };

static tr_state_region *new_region(void)
{
    tr_error err = {0};
    tr_state_region *region = NULL;
    CHECK_OK(tr_state_region_new(&region, "test state", SLOT_BYTES, &err));
    CU_ASSERT_PTR_NOT_NULL_FATAL(region);
    return region;
}

static tr_state_region *open_again(const tr_state_region *region)
{
    tr_error err = {0};
    tr_state_region *again = NULL;
    CHECK_OK(tr_state_region_open(&again, dup(tr_state_region_descriptor(region)), &err));
    CU_ASSERT_PTR_NOT_NULL_FATAL(again);
    return again;
}

static void a_new_region_holds_nothing(void)
{
    tr_state_region *region = new_region();
    CU_ASSERT_EQUAL(tr_state_region_slot_bytes(region), SLOT_BYTES);
    for (int slot = 0; slot < 2; slot++) {
        CU_ASSERT_EQUAL(tr_state_generation(region, slot), 0);
        CU_ASSERT_EQUAL((uintptr_t)tr_state_slot(region, slot) % 4096, 0);
    }
    tr_state_region_destroy(&region);
    CU_ASSERT_PTR_NULL(region);
    tr_state_region_destroy(&region);
}

static void the_slots_do_not_overlap(void)
{
    tr_state_region *region = new_region();
    memset(tr_state_slot(region, 0), 1, SLOT_BYTES);
    memset(tr_state_slot(region, 1), 2, SLOT_BYTES);
    const unsigned char *first = tr_state_slot(region, 0);
    for (int i = 0; i < SLOT_BYTES; i++) CU_ASSERT_FATAL(first[i] == 1);
    CU_ASSERT_EQUAL(tr_state_generation(region, 0), 0);
    tr_state_region_destroy(&region);
}

/* The child publishes generation 6 in slot 0, opens slot 1, writes half
 * of generation 7 into it, and is killed. */
static void write_and_die(const tr_state_region *region)
{
    tr_state_region *mine = NULL;
    if (tr_state_region_open(&mine, dup(tr_state_region_descriptor(region)), NULL) != TR_OK) _exit(1);
    tr_state_publish(mine, 1, 5, NULL);
    memset(tr_state_slot(mine, 0), 6, SLOT_BYTES);
    tr_state_publish(mine, 0, 6, NULL);
    tr_state_open(mine, 1);
    memset(tr_state_slot(mine, 1), 7, SLOT_BYTES / 2);
    kill(getpid(), SIGKILL);
    _exit(1);
}

static void state_survives_its_writer(void)
{
    tr_state_region *region = new_region();
    pid_t pid = fork();
    if (pid == 0) write_and_die(region);
    int status = 0;
    CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
    CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    tr_state_region *successor = open_again(region);
    CU_ASSERT_EQUAL(tr_state_generation(successor, 0), 6);
    CU_ASSERT_EQUAL(tr_state_generation(successor, 1), 0);
    const unsigned char *slot = tr_state_slot(successor, 0);
    for (int i = 0; i < SLOT_BYTES; i++) CU_ASSERT_FATAL(slot[i] == 6);
    tr_state_region_destroy(&region);
    CU_ASSERT_EQUAL(slot[SLOT_BYTES - 1], 6);
    tr_state_region_destroy(&successor);
}

static void opening_one_slot_leaves_the_other(void)
{
    tr_state_region *region = new_region();
    tr_state_publish(region, 0, 1, NULL);
    tr_state_publish(region, 1, 2, NULL);
    tr_state_open(region, 0);
    CU_ASSERT_EQUAL(tr_state_generation(region, 0), 0);
    CU_ASSERT_EQUAL(tr_state_generation(region, 1), 2);
    tr_state_region_destroy(&region);
}

static void what_all_hold_is_found(void)
{
    static const uint64_t held[][2] = {{6, 5}, {5, 6}, {7, 6}, {6, 0}, {9, 8}, {6, 5}};
    tr_state_region *regions[6];
    uint64_t common[2];
    for (int i = 0; i < 6; i++) {
        regions[i] = new_region();
        for (int slot = 0; slot < 2; slot++)
            if (held[i][slot]) tr_state_publish(regions[i], slot, held[i][slot], NULL);
    }
    tr_state_common_generations(regions, 0, common);
    CU_ASSERT(common[0] == 0 && common[1] == 0);
    tr_state_common_generations(regions, 2, common);
    CU_ASSERT(common[0] == 6 && common[1] == 5); /* whichever slot it is in */
    tr_state_common_generations(regions, 3, common);
    CU_ASSERT(common[0] == 6 && common[1] == 0);
    tr_state_common_generations(regions, 4, common);
    CU_ASSERT(common[0] == 6 && common[1] == 0); /* what is empty is held by nobody */
    tr_state_common_generations(regions, 6, common);
    CU_ASSERT(common[0] == 0 && common[1] == 0); /* what was lost on the way does not come back */
    for (int i = 0; i < 6; i++) tr_state_region_destroy(&regions[i]);
}

/* As whoever takes over sees it: a mapping of its own. */
static int rotten_after(tr_state_region *region, uint64_t held[2])
{
    tr_state_region *successor = open_again(region);
    int n = tr_state_discard_rotten(successor);
    tr_state_common_generations(&successor, 1, held);
    tr_state_region_destroy(&successor);
    return n;
}

static void fill_both(tr_state_region *region, tr_thread_pool *pool)
{
    for (int slot = 0; slot < 2; slot++) {
        unsigned char *bytes = tr_state_slot(region, slot);
        for (size_t i = 0; i < SLOT_BYTES; i++) bytes[i] = (unsigned char)(i * 7 + (size_t)slot);
        tr_state_publish(region, slot, 5 + (uint64_t)slot, pool);
    }
}

static void a_slot_with_a_flipped_bit_is_not_held(void)
{
    static const size_t places[] = {0, 1, 4097, SLOT_BYTES / 2, SLOT_BYTES - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        tr_state_region *region = new_region();
        uint64_t held[2];
        fill_both(region, NULL);
        CU_ASSERT_EQUAL(rotten_after(region, held), 0);
        CU_ASSERT(held[0] == 6 && held[1] == 5);
        ((unsigned char *)tr_state_slot(region, 1))[places[i]] ^= 1u << i;
        CU_ASSERT_EQUAL(rotten_after(region, held), 1);
        CU_ASSERT(held[0] == 5 && held[1] == 0);
        CU_ASSERT_EQUAL(rotten_after(region, held), 0); /* marked, and the other one is whole */
        tr_state_region_destroy(&region);
    }
}

/* The numbers stand in the header, in front of the slots: magic, version and page, slot bytes, then they. */
static void a_generation_that_changed_is_not_held(void)
{
    tr_state_region *region = new_region();
    uint64_t held[2], wrong = 5;
    fill_both(region, NULL);
    CU_ASSERT_EQUAL(pwrite(tr_state_region_descriptor(region), &wrong, sizeof wrong, 32), sizeof wrong);
    CU_ASSERT_EQUAL(tr_state_generation(region, 1), 5);
    CU_ASSERT_EQUAL(rotten_after(region, held), 1);
    CU_ASSERT(held[0] == 5 && held[1] == 0);
    CU_ASSERT_EQUAL(tr_state_generation(region, 1), 0);
    tr_state_region_destroy(&region);
}

static void threads_hash_to_the_same(void)
{
    tr_state_region *region = new_region();
    tr_thread_pool *pool = NULL;
    tr_error err;
    uint64_t held[2];
    CHECK_OK(tr_thread_pool_new(&pool, 3, &err));
    fill_both(region, pool);
    CU_ASSERT_EQUAL(rotten_after(region, held), 0);
    CU_ASSERT(held[0] == 6 && held[1] == 5);
    tr_thread_pool_destroy(&pool);
    tr_state_region_destroy(&region);
}

static void a_damaged_header_is_written_anew(void)
{
    for (int place = 0; place < 3; place++) {
        tr_state_region *region = new_region(), *other = NULL;
        fill_both(region, NULL);
        CU_ASSERT(!tr_state_mend_header(region));
        CU_ASSERT_EQUAL(tr_state_generation(region, 0), 5);
        uint64_t wrong = 0x1234;
        CU_ASSERT_EQUAL(pwrite(tr_state_region_descriptor(region), &wrong, sizeof wrong, 8 * place),
                        sizeof wrong);
        int descriptor = dup(tr_state_region_descriptor(region));
        CU_ASSERT_EQUAL(tr_state_region_open(&other, descriptor, NULL), TR_ECORRUPT);
        close(descriptor);
        CU_ASSERT(tr_state_mend_header(region));
        tr_state_region *again = open_again(region);
        CU_ASSERT(tr_state_generation(again, 0) == 0 && tr_state_generation(again, 1) == 0);
        tr_state_region_destroy(&again);
        tr_state_region_destroy(&region);
    }
}

/* Returns in how many steps. */
static int copy_in_steps(tr_state_region *to, const tr_state_region *from, uint64_t most_bytes)
{
    tr_state_copying at = {0};
    int n = 1;
    while (!tr_state_copy_on(to, from, &at, most_bytes) && n < 1000) n++;
    return n;
}

static void a_copy_holds_what_was_published(void)
{
    tr_state_region *from = new_region(), *to = new_region();
    uint64_t size = tr_state_region_slot_bytes(from);
    memset(tr_state_slot(from, 0), 7, size);
    tr_state_publish(from, 0, 4, NULL);
    memset(tr_state_slot(from, 1), 8, size);
    tr_state_publish(from, 1, 5, NULL);
    tr_state_open(from, 1); /* its writer is at work there */
    (void)copy_in_steps(to, from, UINT64_MAX);
    CU_ASSERT(tr_state_generation(to, 0) == 4 && tr_state_generation(to, 1) == 0);
    CU_ASSERT(memcmp(tr_state_slot(to, 0), tr_state_slot(from, 0), size) == 0);
    CU_ASSERT_EQUAL(tr_state_discard_rotten(to), 0);
    ((unsigned char *)tr_state_slot(from, 0))[size / 2] ^= 1; /* rotten where it comes from */
    (void)copy_in_steps(to, from, UINT64_MAX);
    CU_ASSERT_EQUAL(tr_state_generation(to, 0), 0);
    tr_state_region_destroy(&from);
    tr_state_region_destroy(&to);
}

enum { LONG_BYTES = 3 * (256 << 10) + 100, PIECE_BYTES = 200000 }; /* blocks and pieces do not end together */

static tr_state_region *new_long_region(int first)
{
    tr_state_region *region;
    CU_ASSERT_FATAL(tr_state_region_new(&region, "long", LONG_BYTES, NULL) == TR_OK);
    unsigned char *bytes = tr_state_slot(region, 0);
    for (int i = 0; i < LONG_BYTES; i++) bytes[i] = (unsigned char)(first + i * 7 + i / 251);
    return region;
}

/* Whoever else looks at the region between two steps, and whatever is written. */
static void a_copy_in_steps_is_the_same(void)
{
    tr_state_region *from = new_long_region(1), *to = new_long_region(9);
    memset(tr_state_slot(from, 1), 5, LONG_BYTES);
    tr_state_publish(from, 0, 6, NULL);
    tr_state_publish(from, 1, 7, NULL);
    CU_ASSERT_EQUAL(copy_in_steps(to, from, PIECE_BYTES), 2 * ((LONG_BYTES + PIECE_BYTES - 1) / PIECE_BYTES));
    CU_ASSERT(tr_state_find_whole(to, 6) == 0 && tr_state_find_whole(to, 7) == 1);
    tr_state_copying at = {0};
    CU_ASSERT(!tr_state_copy_on(to, from, &at, PIECE_BYTES));
    CU_ASSERT_EQUAL(tr_state_find_whole(to, 7), 1); /* the hashes are of another slot now */
    while (!tr_state_copy_on(to, from, &at, PIECE_BYTES)) CU_ASSERT(at.at_bytes <= LONG_BYTES);
    CU_ASSERT(tr_state_find_whole(to, 6) == 0 && tr_state_find_whole(to, 7) == 1);
    at = (tr_state_copying){0};
    CU_ASSERT(!tr_state_copy_on(to, from, &at, PIECE_BYTES));
    tr_state_open(from, 0); /* its writer goes on */
    memset(tr_state_slot(from, 0), 6, LONG_BYTES);
    tr_state_publish(from, 0, 8, NULL);
    while (!tr_state_copy_on(to, from, &at, PIECE_BYTES)) CU_ASSERT(at.at_bytes <= LONG_BYTES);
    CU_ASSERT(tr_state_generation(to, 0) == 0 && tr_state_find_whole(to, 7) == 1);
    tr_state_region_destroy(&from);
    tr_state_region_destroy(&to);
}

static void a_slot_hashed_in_steps_has_the_same_hash(void)
{
    tr_state_region *one = new_long_region(3), *other = new_long_region(3);
    int n = 1;
    tr_state_publish(one, 0, 4, NULL);
    while (!tr_state_hash_on(other, 0, UINT64_MAX, 1) && n < 1000) n++;
    CU_ASSERT_EQUAL(n, 4); /* a block each, and the last bytes are one */
    tr_state_publish(other, 0, 4, NULL);
    CU_ASSERT_EQUAL(tr_state_hash(one, 0), tr_state_hash(other, 0));
    /* What is written behind an opening, or said to be, is looked at anew; it was not, and its old hash stands. */
    CU_ASSERT(tr_state_hash_on(other, 0, 256 << 10, UINT64_MAX));
    tr_state_open(other, 0);
    ((unsigned char *)tr_state_slot(other, 0))[5] ^= 1;
    tr_state_publish(other, 0, 4, NULL);
    CU_ASSERT(tr_state_hash(one, 0) != tr_state_hash(other, 0));
    CU_ASSERT(tr_state_hash_on(other, 0, UINT64_MAX, UINT64_MAX));
    ((unsigned char *)tr_state_slot(other, 0))[5] ^= 1;
    tr_state_hash_begin(other);
    CU_ASSERT_EQUAL(tr_state_find_whole(other, 4), -1);
    tr_state_region_destroy(&one);
    tr_state_region_destroy(&other);
}

static void only_the_bytes_that_were_published_are_admitted(void)
{
    tr_state_region *from = new_region(), *to = new_region();
    uint64_t size = tr_state_region_slot_bytes(from);
    memset(tr_state_slot(from, 0), 3, size);
    tr_state_publish(from, 0, 9, NULL);
    uint64_t hash = tr_state_hash(from, 0);
    memcpy(tr_state_slot(to, 1), tr_state_slot(from, 0), size - 1);
    CU_ASSERT(!tr_state_admit(to, 1, 9, hash) &&
              tr_state_generation(to, 1) == 0); /* the last byte is missing */
    memcpy(tr_state_slot(to, 1), tr_state_slot(from, 0), size);
    CU_ASSERT(!tr_state_admit(to, 1, 8, hash)); /* of another generation */
    CU_ASSERT(tr_state_admit(to, 1, 9, hash) && tr_state_generation(to, 1) == 9);
    CU_ASSERT_EQUAL(tr_state_discard_rotten(to), 0);
    tr_state_region_destroy(&from);
    tr_state_region_destroy(&to);
}

static void nobody_can_shrink_it(void)
{
    tr_state_region *region = new_region();
    CU_ASSERT_NOT_EQUAL(ftruncate(tr_state_region_descriptor(region), 0), 0);
    tr_state_region_destroy(&region);
}

static void foreign_memory_is_refused(void)
{
    tr_error err = {0};
    tr_state_region *region = NULL, *made = new_region();
    int descriptor = memfd_create("foreign", MFD_CLOEXEC);
    CU_ASSERT_EQUAL(tr_state_region_open(&region, descriptor, &err), TR_ECORRUPT); /* empty */
    CU_ASSERT_EQUAL(ftruncate(descriptor, 4096), 0);
    CU_ASSERT_EQUAL(tr_state_region_open(&region, descriptor, &err), TR_ECORRUPT); /* no magic */
    char header[64];
    CU_ASSERT_EQUAL(pread(tr_state_region_descriptor(made), header, sizeof header, 0), sizeof header);
    CU_ASSERT_EQUAL(pwrite(descriptor, header, sizeof header, 0), sizeof header);
    CU_ASSERT_EQUAL(tr_state_region_open(&region, descriptor, &err), TR_ECORRUPT); /* too short */
    CU_ASSERT_PTR_NULL(region);
    CU_ASSERT_EQUAL(tr_state_region_new(&region, "huge", UINT64_MAX - 4096, &err), TR_ENOMEM);
    close(descriptor);
    tr_state_region_destroy(&made);
}

static const check_test tests[] = {
    CHECK_TEST(a_new_region_holds_nothing),
    CHECK_TEST(the_slots_do_not_overlap),
    CHECK_TEST(state_survives_its_writer),
    CHECK_TEST(opening_one_slot_leaves_the_other),
    CHECK_TEST(what_all_hold_is_found),
    CHECK_TEST(a_slot_with_a_flipped_bit_is_not_held),
    CHECK_TEST(a_generation_that_changed_is_not_held),
    CHECK_TEST(threads_hash_to_the_same),
    CHECK_TEST(a_damaged_header_is_written_anew),
    CHECK_TEST(a_copy_holds_what_was_published),
    CHECK_TEST(a_copy_in_steps_is_the_same),
    CHECK_TEST(a_slot_hashed_in_steps_has_the_same_hash),
    CHECK_TEST(only_the_bytes_that_were_published_are_admitted),
    CHECK_TEST(nobody_can_shrink_it),
    CHECK_TEST(foreign_memory_is_refused),
};
CHECK_MAIN("state", tests)
