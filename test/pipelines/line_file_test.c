/* test/pipelines/line_file_test.c - lines arrive whole, once and in order, however often and wherever in a line the disk is
 * full. Full is a limit on the size of a file (RLIMIT_FSIZE), which fails the same call with another number;
 * cli/full_disk has a disk.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/line_file.h"

#include "check.h"
#include "pipelines/files.h"

#include <signal.h>
#include <sys/resource.h>

static tr_error err;

/* No file may grow past this many bytes; RLIM_INFINITY: any may. */
static void limit(rlim_t bytes)
{
    struct rlimit now;
    signal(SIGXFSZ, SIG_IGN);
    TR_ASSERT(getrlimit(RLIMIT_FSIZE, &now) == 0);
    now.rlim_cur = bytes;
    TR_ASSERT(setrlimit(RLIMIT_FSIZE, &now) == 0);
}

static bool holds(const char *path, const char *expected)
{
    char *text = NULL;
    size_t size = 0;
    CHECK_OK(tr_file_read(path, &text, &size, &err));
    bool same = strcmp(text, expected) == 0;
    tr_free(text);
    return same;
}

static void what_finds_no_room_waits_and_is_written_once(void)
{
    static const char whole[] = "one\ntwo\nthree\n";
    for (rlim_t room = 0; room < sizeof whole; room++) {
        char *directory = enter_directory(), *path = path_in(directory, "lines");
        tr_line_file *file = NULL;
        CHECK_OK(tr_line_file_open(&file, path, &err));
        limit(room);
        tr_status added[3] = {tr_line_file_add(file, "one", &err), tr_line_file_add(file, "two", &err),
                              tr_line_file_add(file, "three", &err)};
        bool waits = tr_line_file_waits(file);
        tr_status full = tr_line_file_flush(file, &err);
        limit(RLIM_INFINITY);
        for (int i = 0; i < 3; i++) CHECK_OK(added[i]);
        CU_ASSERT_EQUAL(waits, room < sizeof whole - 1);
        CU_ASSERT_EQUAL(full, waits ? TR_EIO : TR_OK);
        if (waits) CU_ASSERT(strstr(err.message, path) && strstr(err.message, "File too large"));
        CHECK_OK(tr_line_file_flush(file, &err));
        CU_ASSERT_FALSE(tr_line_file_waits(file));
        CU_ASSERT(holds(path, whole));
        CHECK_OK(tr_line_file_flush(file, &err)); /* nothing twice */
        tr_line_file_close(&file);
        CU_ASSERT_PTR_NULL(file);
        CU_ASSERT(holds(path, whole));
        tr_free(path);
        leave_directory(directory);
    }
}

static void closing_writes_what_waited_and_opening_appends(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "lines");
    tr_line_file *file = NULL;
    for (int round = 0; round < 2; round++) {
        CHECK_OK(tr_line_file_open(&file, path, &err));
        limit(1);
        tr_status added = tr_line_file_add(file, round ? "second" : "first", &err);
        limit(RLIM_INFINITY);
        CHECK_OK(added);
        tr_line_file_close(&file);
    }
    CU_ASSERT(holds(path, "first\nsecond\n"));
    tr_free(path);
    leave_directory(directory);
}

/* A disk that stays full ends it before memory does; the lines taken until then are not lost. */
static void what_waits_is_bounded(void)
{
    enum { LONG = 1 << 20 };
    char *directory = enter_directory(), *path = path_in(directory, "lines");
    char *line = tr_alloc(LONG), *text = NULL;
    size_t taken = 0, size = 0;
    tr_line_file *file = NULL;
    memset(line, 'x', LONG);
    line[LONG - 1] = 0;
    CHECK_OK(tr_line_file_open(&file, path, &err));
    limit(0);
    tr_status status = TR_OK;
    while (taken < 100 && !(status = tr_line_file_add(file, line, &err))) taken++;
    limit(RLIM_INFINITY);
    CU_ASSERT_EQUAL(status, TR_EIO);
    CU_ASSERT_EQUAL(taken, TR_LINES_MOST_WAITING / LONG);
    tr_line_file_close(&file);
    CHECK_OK(tr_file_read(path, &text, &size, &err));
    CU_ASSERT_EQUAL(size, taken * LONG);
    tr_free(text);
    tr_free(line);
    tr_free(path);
    leave_directory(directory);
}

static void what_cannot_be_opened_is_refused(void)
{
    char *directory = enter_directory();
    tr_line_file *file = NULL;
    CU_ASSERT_EQUAL(tr_line_file_open(&file, directory, &err), TR_EIO);
    CU_ASSERT(strstr(err.message, directory) != NULL);
    CU_ASSERT_PTR_NULL(file);
    tr_line_file_close(&file);
    leave_directory(directory);
}

static void no_allocation_that_fails_loses_a_line(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "lines");
    for (uint64_t n = 1;; n++) {
        tr_line_file *file = NULL;
        tr_memory_fail_after(n);
        tr_status status = tr_line_file_open(&file, path, &err);
        if (!status) status = tr_line_file_add(file, "line", &err);
        tr_memory_fail_after(0);
        tr_line_file_close(&file);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
    CU_ASSERT(holds(path, "line\n"));
    tr_free(path);
    leave_directory(directory);
}

static const check_test tests[] = {
    CHECK_TEST(what_finds_no_room_waits_and_is_written_once),
    CHECK_TEST(closing_writes_what_waited_and_opening_appends),
    CHECK_TEST(what_waits_is_bounded),
    CHECK_TEST(what_cannot_be_opened_is_refused),
    CHECK_TEST(no_allocation_that_fails_loses_a_line),
};
CHECK_MAIN("line_file", tests)
