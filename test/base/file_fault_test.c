/* test/base/file_fault_test.c
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file_fault.h"

#include "base/file.h"
#include "check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static tr_error err;
static char home[] = "/tmp/troupe-file-fault-XXXXXX";

static tr_status write_to(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", home, name);
    return tr_file_write(path, "words", 5, &err);
}

static void set(tr_file_fault fault, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s%s%s", home, name[0] ? "/" : "", name);
    CHECK_OK(tr_file_fault_set(fault, path, &err));
}

static void only_what_is_below_fails_and_leaves_nothing(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/in/deeper", home);
    CHECK_OK(tr_directory_make(path, &err));
    set(TR_FILE_FULL, "in");
    CU_ASSERT_EQUAL(write_to("in/file"), TR_EIO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, strerror(ENOSPC)));
    CU_ASSERT_EQUAL(write_to("in/deeper/file"), TR_EIO);
    CHECK_OK(write_to("inside"));
    CHECK_OK(write_to("file"));
    CHECK_OK(tr_directory_sync(path, &err)); /* which needs no room */
    set(TR_FILE_UNSYNCED, "in");
    CU_ASSERT_EQUAL(write_to("in/file"), TR_EIO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, strerror(EIO)));
    CU_ASSERT_EQUAL(tr_directory_sync(path, &err), TR_EIO);
    CHECK_OK(write_to("file"));
    CU_ASSERT_EQUAL(tr_file_fault_now(), TR_FILE_UNSYNCED);
    CHECK_OK(tr_file_fault_set(TR_FILE_SOUND, NULL, &err));
    CHECK_OK(rmdir(path) ? TR_EIO : TR_OK); /* nothing was left in it */
    CHECK_OK(write_to("in/file"));
    CHECK_OK(tr_directory_remove_tree(home, &err));
    CHECK_OK(tr_directory_make(home, &err));
}

static void a_path_that_is_too_long_changes_nothing(void)
{
    char path[5000];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = 0;
    set(TR_FILE_FULL, "in");
    CU_ASSERT_EQUAL(tr_file_fault_set(TR_FILE_UNSYNCED, path, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_file_fault_now(), TR_FILE_FULL);
    CU_ASSERT(tr_file_fault_strikes(TR_FILE_FULL, "/nowhere/else") == false);
    CHECK_OK(tr_file_fault_set(TR_FILE_SOUND, NULL, &err));
}

static const check_test tests[] = {
    CHECK_TEST(only_what_is_below_fails_and_leaves_nothing),
    CHECK_TEST(a_path_that_is_too_long_changes_nothing),
};

int main(void)
{
    if (!mkdtemp(home)) return 1;
    int result = check_run("base/file_fault", tests, sizeof tests / sizeof *tests);
    tr_directory_remove_tree(home, NULL);
    return result;
}
