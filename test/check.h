/* test/check.h - the little that every test executable shares: a suite from a table, and an honest exit code
 * (CUnit's own run function returns 0 with failures).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CHECK_H
#define TROUPE_TEST_CHECK_H

#include "base/status.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>

#include "failing_memory.h"

typedef struct check_test {
    const char *name; /* the promise: full_mailbox_keeps_ownership */
    void (*run)(void);
} check_test;

#define CHECK_TEST(function)                                                                                 \
    {                                                                                                        \
#function, function                                                                                  \
    }

/* Fails the test with the error's message where `call` does not return TR_OK. Needs a tr_error named err in scope. */
#define CHECK_OK(call)                                                                                       \
    do {                                                                                                     \
        if ((call) != TR_OK) {                                                                               \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, err.message);                      \
            CU_FAIL(#call);                                                                                  \
        }                                                                                                    \
    } while (0)

/* clang's analyzer knows neither that the fatal ones do not return, nor that nothing counts behind a test that failed. */
#ifdef __clang_analyzer__
#undef CU_ASSERT
#undef CU_ASSERT_FATAL
#undef CU_ASSERT_EQUAL
#undef CU_ASSERT_PTR_NOT_NULL_FATAL
#undef CHECK_OK
#define CU_ASSERT(condition) TR_ASSERT(condition)
#define CU_ASSERT_FATAL(condition) TR_ASSERT(condition)
#define CU_ASSERT_EQUAL(a, b) TR_ASSERT((a) == (b))
#define CU_ASSERT_PTR_NOT_NULL_FATAL(pointer) TR_ASSERT((pointer) != NULL)
#define CHECK_OK(call) ((call) == TR_OK ? (void)0 : tr_assert_failed(err.message, __FILE__, __LINE__))
#endif

/* Each test while memory fails; see failing_memory.h. */
static inline int check_failing(const check_test *tests, size_t n_tests)
{
    uint64_t n_broken = 0, n_each = 0, n_run = 0;
    if (!failing_begin()) return 1;
    const char *only = getenv("TROUPE_FAIL_TEST"); /* NULL: all */
    for (size_t i = 0; i < n_tests; i++) {
        bool each;
        if (only && strcmp(only, tests[i].name) != 0) continue;
        n_broken += failing_test(tests[i].name, tests[i].run, failing_seconds(), &each);
        n_each += each, n_run++;
    }
    printf("%llu of %llu tests with each of their allocations failing, %llu runs broken\n",
           (unsigned long long)n_each, (unsigned long long)n_run, (unsigned long long)n_broken);
    return n_broken ? 1 : 0;
}

static inline int check_run(const char *suite_name, const check_test *tests, size_t n_tests)
{
    if (failing_seconds() > 0) return check_failing(tests, n_tests);
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite(suite_name, NULL, NULL);
    for (size_t i = 0; suite && i < n_tests; i++)
        if (!CU_add_test(suite, tests[i].name, tests[i].run)) suite = NULL;
    if (!suite) return 1;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + CU_get_number_of_tests_failed();
    unsigned ran = CU_get_number_of_tests_run();
    CU_cleanup_registry();
    return failures == 0 && ran == n_tests ? 0 : 1;
}

#define CHECK_MAIN(suite, tests)                                                                             \
    int main(void)                                                                                           \
    {                                                                                                        \
        return check_run(suite, tests, sizeof(tests) / sizeof *(tests));                                     \
    }

#endif
