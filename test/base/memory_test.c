/* test/base/memory_test.c - the door to the heap: alignment, zeroes, and failing on demand.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"

#include "check.h"

#include <string.h>

static void aligned_memory_is_aligned(void)
{
    for (size_t alignment = 1; alignment <= 8192; alignment *= 2) {
        for (size_t size = 0; size < 300; size += 37) {
            char *memory = tr_alloc_aligned(alignment, size);
            CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
            CU_ASSERT_EQUAL((uintptr_t)memory % alignment, 0);
            memset(memory, 0xee, size);
            tr_free(memory);
        }
    }
}

static void zeroed_memory_is_zero_and_sizes_do_not_wrap(void)
{
    unsigned char *memory = tr_alloc_zero(33, 7);
    for (int i = 0; i < 33 * 7; i++) CU_ASSERT_EQUAL(memory[i], 0);
    tr_free(memory);
    volatile size_t huge = SIZE_MAX / 2 + 2; /* twice this wraps to 2 */
#ifndef TROUPE_SANITIZED                     /* there calloc itself stops the program */
    CU_ASSERT_PTR_NULL(tr_alloc_zero(huge, 2));
#endif
    (void)huge;
}

static void nothing_is_something_and_freeing_nothing_is_fine(void)
{
    void *all[] = {tr_alloc(0), tr_alloc_zero(0, 0), tr_alloc_zero(0, 8), tr_realloc(NULL, 0),
                   tr_alloc_aligned(64, 0)};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CU_ASSERT_PTR_NOT_NULL(all[i]);
        tr_free(all[i]);
    }
    tr_free(NULL);
}

static void texts_are_copied_whole(void)
{
    char *copy = tr_strdup("troupe"), *empty = tr_strdup(""), *made = tr_format("%s-%05d", "step", 42);
    CU_ASSERT_STRING_EQUAL(copy, "troupe");
    CU_ASSERT_STRING_EQUAL(empty, "");
    CU_ASSERT_STRING_EQUAL(made, "step-00042");
    char *wide = tr_format("%5000s", "x");
    CU_ASSERT_EQUAL(strlen(wide), 5000);
    tr_free(copy), tr_free(empty), tr_free(made), tr_free(wide);
}

/* Each way to allocate counts as one, the n-th fails, and only that one. */
static void only_the_nth_allocation_fails(void)
{
    for (uint64_t n = 1; n <= 7; n++) {
        tr_memory_fail_after(n);
        void *all[] = {tr_alloc(1),    tr_alloc_zero(1, 1),  tr_realloc(NULL, 1), tr_alloc_aligned(64, 1),
                       tr_strdup("a"), tr_format("%s", "a"), tr_alloc(1)};
        tr_memory_fail_after(0);
        for (uint64_t i = 0; i < 7; i++) {
            CU_ASSERT_EQUAL(all[i] == NULL, i + 1 == n);
            tr_free(all[i]);
        }
    }
    void *memory = tr_alloc(1);
    CU_ASSERT_PTR_NOT_NULL(memory);
    tr_memory_fail_after(1);
    CU_ASSERT_PTR_NULL(tr_realloc(memory, 100)); /* and memory is still ours */
    tr_memory_fail_after(0);
    tr_free(memory);
}

static void arrays_grow_and_keep_their_contents(void)
{
    void *array = NULL;
    size_t capacity = 0, changes = 0, last = 0;
    tr_error err = {0};
    for (size_t n = 1; n <= 1000; n++) {
        CHECK_OK(tr_array_reserve(&array, &capacity, n, sizeof(uint32_t), &err));
        CU_ASSERT_FATAL(capacity >= n);
        changes += capacity != last;
        last = capacity;
        ((uint32_t *)array)[n - 1] = (uint32_t)n;
    }
    CU_ASSERT(changes <= 8); /* doubling from 8 */
    for (uint32_t n = 1; n <= 1000; n++) CU_ASSERT_EQUAL(((uint32_t *)array)[n - 1], n);
    CHECK_OK(tr_array_reserve(&array, &capacity, 5, sizeof(uint32_t), &err));
    CU_ASSERT_EQUAL(capacity, last); /* never shrinks */

    void *before = array;
    tr_memory_fail_after(1);
    CU_ASSERT_EQUAL(tr_array_reserve(&array, &capacity, last + 1, sizeof(uint32_t), &err), TR_ENOMEM);
    tr_memory_fail_after(0);
    CU_ASSERT(array == before && capacity == last);
    CU_ASSERT_EQUAL(((uint32_t *)array)[999], 1000);
    tr_free(array);
}

static void arrays_beyond_the_address_space_are_refused(void)
{
    const size_t needed[] = {SIZE_MAX, SIZE_MAX / 2 + 2, SIZE_MAX / 16 + 2, SIZE_MAX / 32 + 2};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        void *array = NULL;
        size_t capacity = 0;
        tr_error err = {0};
        CU_ASSERT_EQUAL(tr_array_reserve(&array, &capacity, needed[i], 32, &err), TR_ENOMEM);
        CU_ASSERT(array == NULL && capacity == 0);
    }
}

static const check_test tests[] = {
    CHECK_TEST(aligned_memory_is_aligned),
    CHECK_TEST(zeroed_memory_is_zero_and_sizes_do_not_wrap),
    CHECK_TEST(nothing_is_something_and_freeing_nothing_is_fine),
    CHECK_TEST(texts_are_copied_whole),
    CHECK_TEST(only_the_nth_allocation_fails),
    CHECK_TEST(arrays_grow_and_keep_their_contents),
    CHECK_TEST(arrays_beyond_the_address_space_are_refused),
};
CHECK_MAIN("memory", tests)
