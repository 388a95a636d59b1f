/* test/descriptors.h - how many descriptors are open, and whether two are of one file.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_DESCRIPTORS_H
#define TROUPE_TEST_DESCRIPTORS_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* With some of the directory itself: to be compared with an earlier count. */
static inline int count_descriptors(void)
{
    int n = 0;
    DIR *entries = opendir("/proc/self/fd");
    while (entries && readdir(entries)) n++;
    if (entries) closedir(entries);
    return n;
}

static inline bool is_same_file(int left, int right)
{
    struct stat a, b;
    return fstat(left, &a) == 0 && fstat(right, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

#endif
