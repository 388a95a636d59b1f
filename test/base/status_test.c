/* test/base/status_test.c - errors are complete, bounded, and asserts die loudly.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#include "check.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail_writes_status_and_message(void)
{
    tr_error err = {0};
    CU_ASSERT_EQUAL(tr_fail(&err, TR_EEXIST, "'%s' is there %d times", "x", 2), TR_EEXIST);
    CU_ASSERT_EQUAL(err.status, TR_EEXIST);
    CU_ASSERT_STRING_EQUAL(err.message, "'x' is there 2 times");
    CU_ASSERT_EQUAL(tr_fail(NULL, TR_EIO, "nobody %s", "listens"), TR_EIO);
}

static void context_stands_in_front(void)
{
    tr_error err = {0};
    tr_fail(&err, TR_EINVAL, "'3' is odd");
    CU_ASSERT_EQUAL(tr_fail_within(&err, TR_EIO, "recipe.yaml:%d", 12), TR_EINVAL);
    CU_ASSERT_EQUAL(err.status, TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "recipe.yaml:12: '3' is odd");
    CU_ASSERT_EQUAL(tr_fail_within(NULL, TR_EIO, "somewhere"), TR_EIO);
    tr_error fresh = {0};
    CU_ASSERT_EQUAL(tr_fail_within(&fresh, TR_EIO, "here"), TR_EIO);
    CU_ASSERT_EQUAL(fresh.status, TR_EIO);
}

/* Whatever is too long is cut, and what lies behind the error stays as it was. */
static void long_messages_are_cut_and_terminated(void)
{
    struct {
        tr_error err;
        char guard[16];
    } boxed;
    memset(&boxed, 0x5a, sizeof boxed);
    char text[3 * TR_ERROR_SIZE];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    for (int length = TR_ERROR_SIZE - 3; length <= TR_ERROR_SIZE + 3; length++) {
        tr_fail(&boxed.err, TR_EINVAL, "%.*s", length, text);
        size_t expected = length < TR_ERROR_SIZE ? (size_t)length : TR_ERROR_SIZE - 1;
        CU_ASSERT_EQUAL(strlen(boxed.err.message), expected);
        tr_fail_within(&boxed.err, TR_EINVAL, "c");
        CU_ASSERT_EQUAL(strlen(boxed.err.message), TR_ERROR_SIZE - 1);
        CU_ASSERT(strncmp(boxed.err.message, "c: aaa", 6) == 0);
        tr_fail_within(&boxed.err, TR_EINVAL, "%.*s", length, text);
        CU_ASSERT_EQUAL(strlen(boxed.err.message), TR_ERROR_SIZE - 1);
    }
    for (size_t i = 0; i < sizeof boxed.guard; i++) CU_ASSERT_EQUAL(boxed.guard[i], 0x5a);
}

static void every_status_has_its_own_name(void)
{
    for (int a = TR_OK; a <= TR_EDEVICE; a++) {
        CU_ASSERT_STRING_NOT_EQUAL(tr_status_name((tr_status)a), "unknown status");
        for (int b = TR_OK; b < a; b++)
            CU_ASSERT_STRING_NOT_EQUAL(tr_status_name((tr_status)a), tr_status_name((tr_status)b));
    }
    CU_ASSERT_STRING_EQUAL(tr_status_name((tr_status)4711), "unknown status");
}

static void assert_prints_the_promise_and_aborts(void)
{
    int ends[2];
    CU_ASSERT_FATAL(pipe(ends) == 0);
    int line = __LINE__ + 7;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        TR_ASSERT(ends[0] == -7);
        _exit(0);
    }
    close(ends[1]);
    char said[512] = "", expected[64];
    ssize_t got = read(ends[0], said, sizeof said - 1);
    close(ends[0]);
    int status;
    CU_ASSERT(waitpid(child, &status, 0) == child);
    CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    snprintf(expected, sizeof expected, "status_test.c:%d: ", line);
    CU_ASSERT(got > 0 && strstr(said, expected) && strstr(said, "ends[0] == -7"));
    TR_ASSERT(got > 0); /* and one that holds does nothing */
}

static const check_test tests[] = {
    CHECK_TEST(fail_writes_status_and_message),       CHECK_TEST(context_stands_in_front),
    CHECK_TEST(long_messages_are_cut_and_terminated), CHECK_TEST(every_status_has_its_own_name),
    CHECK_TEST(assert_prints_the_promise_and_aborts),
};
CHECK_MAIN("status", tests)
