/* test/check.c - see check.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

/* Each test while memory fails; see failing_memory.h. */
static int check_failing(const check_test *tests, size_t n_tests)
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

int check_run(const char *suite_name, const check_test *tests, size_t n_tests)
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
