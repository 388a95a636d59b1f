/* test/base/file_test.c - files are whole or as they were, and nothing temporary stays behind.
 * A full disk is played by RLIMIT_FSIZE, a lost race for the name by a directory in its place.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include "base/hash.h"
#include "base/memory.h"
#include "check.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char home[64];

static void enter(void)
{
    strcpy(home, "/tmp/troupe-file-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(home));
}

static const char *in_home(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", home, name);
    return path;
}

static int entries_of(const char *path)
{
    DIR *directory = opendir(path);
    int n = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (directory) closedir(directory);
    return n;
}

static void leave(void)
{
    tr_error err = {0};
    CHECK_OK(tr_directory_remove_tree(home, &err));
    CU_ASSERT(!tr_path_exists(home));
}

static bool holds(const char *path, const char *expected)
{
    char *text;
    size_t size;
    if (tr_file_read(path, &text, &size, NULL)) return false;
    bool same = size == strlen(expected) && strcmp(text, expected) == 0;
    tr_free(text);
    return same;
}

static void what_is_written_is_read(void)
{
    enter();
    tr_error err = {0};
    static char big[300000];
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)(i * 31 + i / 999);
    const size_t sizes[] = {0, 1, 4095, 4096, sizeof big};
    for (size_t i = 0; i < 5; i++) {
        char *text = NULL, hex[33], expected[33];
        size_t size = 99;
        uint64_t hashed;
        tr_file_map map;
        CHECK_OK(tr_file_write(in_home("a"), big, sizes[i], &err));
        CHECK_OK(tr_file_read(in_home("a"), &text, &size, &err));
        CU_ASSERT(size == sizes[i] && memcmp(text, big, size) == 0 && text[size] == 0);
        CHECK_OK(tr_file_map_open(&map, in_home("a"), &err));
        CU_ASSERT_EQUAL(map.size_bytes, size);
        CU_ASSERT(size ? memcmp(map.data, big, size) == 0 : map.data == NULL);
        tr_file_map_release(&map);
        tr_file_map_release(&map);
        CHECK_OK(tr_file_hash(in_home("a"), hex, &hashed, &err));
        tr_hasher *hasher = tr_hasher_new();
        CU_ASSERT_PTR_NOT_NULL_FATAL(hasher);
        tr_hasher_update(hasher, big, size);
        tr_hasher_digest(hasher, expected);
        tr_hasher_destroy(&hasher);
        CU_ASSERT(hashed == size && strcmp(hex, expected) == 0);
        tr_free(text);
    }
    leave();
}

/* Whoever looks sees the old file whole until the new one is whole. */
static void files_are_replaced_at_once(void)
{
    enter();
    tr_error err = {0};
    tr_file_writer writer;
    CHECK_OK(tr_file_write(in_home("a"), "old", 3, &err));
    CHECK_OK(tr_file_writer_open(&writer, in_home("a"), &err));
    fputs("new ", writer.stream);
    fflush(writer.stream);
    CU_ASSERT(holds(in_home("a"), "old"));
    CU_ASSERT_EQUAL(entries_of(home), 2);
    fputs("file", writer.stream);
    CHECK_OK(tr_file_writer_commit(&writer, &err));
    CU_ASSERT(holds(in_home("a"), "new file"));
    CU_ASSERT_EQUAL(entries_of(home), 1);
    CU_ASSERT(!writer.stream && !writer.path && !writer.temporary);

    CHECK_OK(tr_file_writer_open(&writer, in_home("a"), &err));
    fputs("never", writer.stream);
    tr_file_writer_abandon(&writer);
    tr_file_writer_abandon(&writer);
    CU_ASSERT(holds(in_home("a"), "new file"));
    CU_ASSERT_EQUAL(entries_of(home), 1);
    leave();
}

static void a_reader_keeps_the_old_file(void)
{
    enter();
    tr_error err = {0};
    tr_file_map map;
    CHECK_OK(tr_file_write(in_home("a"), "old", 3, &err));
    CHECK_OK(tr_file_map_open(&map, in_home("a"), &err));
    CHECK_OK(tr_file_write(in_home("a"), "new", 3, &err));
    CU_ASSERT(memcmp(map.data, "old", 3) == 0);
    tr_file_map_release(&map);
    leave();
}

static void a_full_disk_leaves_the_old_file(void)
{
    enter();
    tr_error err = {0};
    static const char big[1 << 16];
    CHECK_OK(tr_file_write(in_home("a"), "old", 3, &err));
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){4096, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    tr_status large = tr_file_write(in_home("a"), big, sizeof big, &err); /* fails in fwrite */
    tr_status later = tr_file_write(in_home("a"), big, 5000, NULL);       /* at the latest in fflush */
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    CU_ASSERT_EQUAL(large, TR_EIO);
    CU_ASSERT_EQUAL(later, TR_EIO);
    CU_ASSERT(strstr(err.message, in_home("a")) != NULL);
    CU_ASSERT(holds(in_home("a"), "old"));
    CU_ASSERT_EQUAL(entries_of(home), 1);
    leave();
}

static void failures_name_the_path_and_leave_nothing(void)
{
    enter();
    tr_error err = {0};
    char *text;
    size_t size;
    tr_file_map map;
    CU_ASSERT_EQUAL(tr_file_write(in_home("no/such"), "x", 1, &err), TR_ENOTFOUND);
    CU_ASSERT(strstr(err.message, "no/such") != NULL);
    CU_ASSERT_EQUAL(tr_file_read(in_home("none"), &text, &size, &err), TR_ENOTFOUND);
    CU_ASSERT_EQUAL(tr_file_map_open(&map, in_home("none"), &err), TR_ENOTFOUND);
    CU_ASSERT_EQUAL(tr_file_read(home, &text, &size, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_file_map_open(&map, home, &err), TR_EINVAL);
    CU_ASSERT(mkfifo(in_home("pipe"), 0600) == 0); /* refused, not waited for */
    CU_ASSERT_EQUAL(tr_file_read(in_home("pipe"), &text, &size, &err), TR_EINVAL);
    CU_ASSERT(unlink(in_home("pipe")) == 0);

    CHECK_OK(tr_directory_make(in_home("taken/inner"), &err)); /* the name is a directory's: rename fails */
    CU_ASSERT_EQUAL(tr_file_write(in_home("taken"), "x", 1, &err), TR_EIO);
    CU_ASSERT_EQUAL(entries_of(home), 1);

    CHECK_OK(tr_file_write(in_home("file"), "x", 1, &err));
    CU_ASSERT_EQUAL(tr_file_write(in_home("file/below"), "x", 1, &err), TR_EIO);
    CU_ASSERT_EQUAL(tr_directory_make(in_home("file/below"), &err), TR_EIO);
    CU_ASSERT_EQUAL(tr_directory_make(in_home("file"), &err), TR_EIO);
    if (geteuid() != 0) { /* root may write everywhere */
        CU_ASSERT(chmod(in_home("taken"), 0555) == 0);
        CU_ASSERT_EQUAL(tr_file_write(in_home("taken/x"), "x", 1, &err), TR_EIO);
        CU_ASSERT(chmod(in_home("taken"), 0755) == 0);
    }
    CU_ASSERT_EQUAL(entries_of(home), 2);
    leave();
}

/* The target vanishes while it is written: the temporary goes with it, the writer is released all the same. */
static void a_vanished_directory_is_an_error(void)
{
    enter();
    tr_error err = {0};
    tr_file_writer writer;
    CHECK_OK(tr_directory_make(in_home("d"), &err));
    CHECK_OK(tr_file_writer_open(&writer, in_home("d/a"), &err));
    CHECK_OK(tr_directory_remove_tree(in_home("d"), &err));
    CU_ASSERT_EQUAL(tr_file_writer_commit(&writer, &err), TR_ENOTFOUND);
    CU_ASSERT_PTR_NULL(writer.stream);
    CU_ASSERT_EQUAL(entries_of(home), 0);
    leave();
}

static void directories_are_made_with_their_parents(void)
{
    enter();
    tr_error err = {0};
    CHECK_OK(tr_directory_make(in_home("a/b//c/"), &err));
    CHECK_OK(tr_directory_make(in_home("a/b/c"), &err)); /* there already is fine */
    CU_ASSERT(tr_path_is_directory(in_home("a/b/c")));
    CHECK_OK(tr_directory_make("/", &err));
    CHECK_OK(tr_directory_make(".", &err));
    CU_ASSERT_NOT_EQUAL(tr_directory_make("", &err), TR_OK);
    CHECK_OK(tr_directory_sync(in_home("a"), &err));
    CU_ASSERT_EQUAL(tr_directory_sync(in_home("none"), &err), TR_ENOTFOUND);
    CU_ASSERT(tr_path_exists(in_home("a")) && !tr_path_exists(in_home("b")));
    leave();
}

static void removing_a_tree_follows_no_links(void)
{
    enter();
    tr_error err = {0};
    CHECK_OK(tr_directory_make(in_home("kept/inner"), &err));
    CHECK_OK(tr_file_write(in_home("kept/file"), "x", 1, &err));
    CHECK_OK(tr_directory_make(in_home("tree/deep/deeper"), &err));
    CHECK_OK(tr_file_write(in_home("tree/deep/.hidden"), "x", 1, &err));
    CU_ASSERT(symlink(in_home("kept"), in_home("tree/to-directory")) == 0);
    CU_ASSERT(symlink(in_home("kept/file"), in_home("tree/deep/to-file")) == 0);
    CU_ASSERT(symlink("nowhere", in_home("tree/to-nothing")) == 0);
    CHECK_OK(tr_directory_remove_tree(in_home("tree"), &err));
    CU_ASSERT(!tr_path_exists(in_home("tree")));
    CU_ASSERT(holds(in_home("kept/file"), "x") && tr_path_is_directory(in_home("kept/inner")));
    CU_ASSERT(symlink("kept", in_home("link")) == 0);
    CHECK_OK(tr_directory_remove_tree(in_home("link"), &err)); /* the link itself goes */
    CU_ASSERT(!tr_path_exists(in_home("link")) && holds(in_home("kept/file"), "x"));
    CHECK_OK(tr_directory_remove_tree(in_home("link"), &err)); /* not there is fine */
    leave();
}

static void no_memory_leaves_the_old_file(void)
{
    enter();
    tr_error err = {0};
    CHECK_OK(tr_file_write(in_home("a"), "old", 3, &err));
    CHECK_OK(tr_directory_make(in_home("d/e"), &err));
    const int entries = entries_of(home);
    for (uint64_t n = 1;; n++) {
        tr_memory_fail_after(n);
        tr_status status = tr_file_write(in_home("a"), "new", 3, &err);
        tr_memory_fail_after(0);
        CU_ASSERT_EQUAL(entries_of(home), entries); /* no temporary */
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
        CU_ASSERT(holds(in_home("a"), "old") || holds(in_home("a"), "new")); /* the latter not yet durable */
    }
    CU_ASSERT(holds(in_home("a"), "new"));
    char *text, hex[33];
    size_t size;
    uint64_t hashed;
    tr_memory_fail_after(1);
    CU_ASSERT_EQUAL(tr_file_read(in_home("a"), &text, &size, &err), TR_ENOMEM);
    tr_memory_fail_after(1);
    CU_ASSERT_EQUAL(tr_file_hash(in_home("a"), hex, &hashed, &err), TR_ENOMEM);
    tr_memory_fail_after(1);
    CU_ASSERT_EQUAL(tr_directory_make(in_home("x"), &err), TR_ENOMEM);
    tr_memory_fail_after(1);
    CU_ASSERT_EQUAL(tr_directory_remove_tree(in_home("d"), &err), TR_ENOMEM);
    tr_memory_fail_after(0);
    leave();
}

static const check_test tests[] = {
    CHECK_TEST(what_is_written_is_read),
    CHECK_TEST(files_are_replaced_at_once),
    CHECK_TEST(a_reader_keeps_the_old_file),
    CHECK_TEST(a_full_disk_leaves_the_old_file),
    CHECK_TEST(failures_name_the_path_and_leave_nothing),
    CHECK_TEST(a_vanished_directory_is_an_error),
    CHECK_TEST(directories_are_made_with_their_parents),
    CHECK_TEST(removing_a_tree_follows_no_links),
    CHECK_TEST(no_memory_leaves_the_old_file),
};
CHECK_MAIN("file", tests)
