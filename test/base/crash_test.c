/* test/base/crash_test.c - a process that crashes says where, and ends by that signal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/crash.h"

#include "check.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Sanitizers have handlers of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { REPORTS = 0 };
#else
enum { REPORTS = 1 };
#endif

static void write_to_nowhere(void)
{
    volatile int *volatile nowhere = NULL;
    *nowhere = 1; // NOLINT(clang-analyzer-core.NullDereference): that is what is wanted
}

static void abort_itself(void)
{
    (abort)(); /* the function, not what check.h makes of it */
}

static void kill_itself(void)
{
    kill(getpid(), SIGSEGV);
}

/* What a child that does this says before it ends by the signal. */
static void expect_report(void (*crash)(void), int signal_number, const char *words)
{
    int output[2], status = 0;
    char text[8192] = "";
    CU_ASSERT_FATAL(pipe(output) == 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_DUMPABLE, 0); /* no core */
        dup2(output[1], STDERR_FILENO);
        tr_crash_report();
        crash();
        _exit(0);
    }
    close(output[1]);
    size_t n = 0;
    for (ssize_t got; n < sizeof text - 1 && (got = read(output[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    close(output[0]);
    CU_ASSERT(waitpid(child, &status, 0) == child);
    CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == signal_number);
    if (!REPORTS) return;
    CU_ASSERT(strstr(text, words) != NULL);
    CU_ASSERT(strstr(text, "base_crash_test") != NULL); /* frames of this program */
}

static void a_crash_tells_its_stack(void)
{
    if (REPORTS) expect_report(write_to_nowhere, SIGSEGV, "got signal 11; it was at:");
    expect_report(abort_itself, SIGABRT, "got signal 6, sent by a process; it was at:");
}

static void a_signal_of_another_process_is_told_too(void)
{
    if (REPORTS) expect_report(kill_itself, SIGSEGV, "got signal 11, sent by a process; it was at:");
}

static const check_test tests[] = {
    CHECK_TEST(a_crash_tells_its_stack),
    CHECK_TEST(a_signal_of_another_process_is_told_too),
};

int main(void)
{
    return check_run("crash", tests, sizeof tests / sizeof *tests);
}
