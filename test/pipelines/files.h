/* test/pipelines/files.h - a fresh directory for one test, and files in it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_PIPELINES_FILES_H
#define TROUPE_TEST_PIPELINES_FILES_H

#include "base/file.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A new directory; remove it with leave_directory. */
static inline char *enter_directory(void)
{
    char path[] = "/tmp/troupe-test-XXXXXX";
    return mkdtemp(path) ? tr_strdup(path) : NULL;
}

static inline void leave_directory(char *path)
{
    tr_directory_remove_tree(path, NULL);
    tr_free(path);
}

static inline char *path_in(const char *directory, const char *name)
{
    return tr_format("%s/%s", directory, name);
}

static inline bool files_are_equal(const char *a, const char *b)
{
    char *left = NULL, *right = NULL;
    size_t n_left = 0, n_right = 0;
    bool equal = !tr_file_read(a, &left, &n_left, NULL) && !tr_file_read(b, &right, &n_right, NULL) &&
                 n_left == n_right && memcmp(left, right, n_left) == 0;
    tr_free(left);
    tr_free(right);
    return equal;
}

/* Whether the message has these words; prints it where it has not. */
static inline bool message_has(const tr_error *err, const char *words)
{
    if (strstr(err->message, words)) return true;
    fprintf(stderr, "expected \"%s\" in \"%s\"\n", words, err->message);
    return false;
}

static inline bool message_is(const tr_error *err, const char *words)
{
    if (strcmp(err->message, words) == 0) return true;
    fprintf(stderr, "expected \"%s\"\n     got \"%s\"\n", words, err->message);
    return false;
}

#endif
