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

/* Runs them, while memory fails if the environment says so (failing_memory.h); what main returns. */
int check_run(const char *suite_name, const check_test *tests, size_t n_tests);

#define CHECK_MAIN(suite, tests)                                                                             \
    int main(void)                                                                                           \
    {                                                                                                        \
        return check_run(suite, tests, sizeof(tests) / sizeof *(tests));                                     \
    }

#endif
