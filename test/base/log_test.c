/* test/base/log_test.c - lines are whole, named, and chosen by level.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "check.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What `run` writes to stderr in a process of its own, whose environment has TROUPE_LOG=level (NULL: unset). */
static char *said_by(void (*run)(void), const char *level)
{
    static char said[1 << 18];
    FILE *file = tmpfile();
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    pid_t child = fork();
    if (child == 0) {
        dup2(fileno(file), STDERR_FILENO);
        if (level)
            setenv("TROUPE_LOG", level, 1);
        else
            unsetenv("TROUPE_LOG");
        run();
        _exit(0);
    }
    int status = -1;
    CU_ASSERT(waitpid(child, &status, 0) == child && status == 0);
    rewind(file);
    said[fread(said, 1, sizeof said - 1, file)] = 0;
    fclose(file);
    return said;
}

static void say_all(void)
{
    tr_log(TR_LOG_DEBUG, "a%d", 1);
    tr_log(TR_LOG_INFO, "b%d", 2);
    tr_log(TR_LOG_WARNING, "c%d", 3);
    tr_log(TR_LOG_ERROR, "d%d", 4);
}

static void environment_chooses_the_level(void)
{
    static const struct {
        const char *level, *said;
    } known[] = {
        {"debug", "troupe: debug: a1\ntroupe: info: b2\ntroupe: warning: c3\ntroupe: error: d4\n"},
        {"info", "troupe: info: b2\ntroupe: warning: c3\ntroupe: error: d4\n"},
        {"warning", "troupe: warning: c3\ntroupe: error: d4\n"},
        {"error", "troupe: error: d4\n"},
        {"nonsense", "troupe: warning: c3\ntroupe: error: d4\n"},
        {NULL, "troupe: warning: c3\ntroupe: error: d4\n"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        CU_ASSERT_STRING_EQUAL(said_by(say_all, known[i].level), known[i].said);
}

static void say_as_worker(void)
{
    tr_log_set_role("worker 2");
    tr_log_set_level(TR_LOG_ERROR); /* stronger than the environment */
    say_all();
}

static void role_and_level_can_be_set(void)
{
    CU_ASSERT_STRING_EQUAL(said_by(say_as_worker, "debug"), "troupe[worker 2]: error: d4\n");
}

static void say_much(void)
{
    tr_log_set_role("a role whose name is much longer than any role of ours has ever been");
    for (int length = 1960; length < 2060; length++) tr_log(TR_LOG_ERROR, "%0*d", length, 0);
    tr_log(TR_LOG_ERROR, "end");
}

static void long_lines_are_cut_and_end(void)
{
    char *said = said_by(say_much, NULL);
    int lines = 0;
    for (char *end; (end = strchr(said, '\n')); said = end + 1, lines++) {
        CU_ASSERT(end - said < 2048);
        CU_ASSERT(strncmp(said, "troupe[a role whose", 19) == 0);
    }
    CU_ASSERT_EQUAL(lines, 101);
    CU_ASSERT_EQUAL(*said, 0);
}

enum { N_THREADS = 4, N_LINES = 200 };

static void *say_lines(void *argument)
{
    const char *letter = argument;
    char text[100];
    memset(text, *letter, 99);
    text[99] = 0;
    for (int i = 0; i < N_LINES; i++) tr_log(TR_LOG_WARNING, "%s", text);
    return NULL;
}

static void say_from_threads(void)
{
    static char letters[] = "abcd";
    pthread_t threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) pthread_create(&threads[i], NULL, say_lines, &letters[i]);
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
}

static void lines_of_threads_do_not_mix(void)
{
    char *said = said_by(say_from_threads, NULL);
    int lines = 0;
    for (char *end; (end = strchr(said, '\n')); said = end + 1, lines++) {
        CU_ASSERT_EQUAL_FATAL(end - said, 17 + 99);
        for (char *at = said + 17; at < end; at++) CU_ASSERT_EQUAL(*at, said[17]);
    }
    CU_ASSERT_EQUAL(lines, N_THREADS * N_LINES);
}

static const check_test tests[] = {
    CHECK_TEST(environment_chooses_the_level),
    CHECK_TEST(role_and_level_can_be_set),
    CHECK_TEST(long_lines_are_cut_and_end),
    CHECK_TEST(lines_of_threads_do_not_mix),
};
CHECK_MAIN("log", tests)
