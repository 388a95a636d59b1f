/* test/processes.h - what /proc says of processes: whether one lives, whose child it is.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_PROCESSES_H
#define TROUPE_TEST_PROCESSES_H

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As ps shows it: R, S, T, Z, ...; '\0' where there is none. parent: may be NULL. */
static inline char process_state(int32_t pid, int32_t *parent)
{
    char path[64], line[512] = "", state = '\0';
    int32_t its_parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *stream = pid > 0 ? fopen(path, "re") : NULL;
    const char *behind_name = stream && fgets(line, sizeof line, stream) ? strrchr(line, ')') : NULL;
    if (stream) fclose(stream);
    if (!behind_name || sscanf(behind_name + 1, " %c %d", &state, &its_parent) != 2) return '\0';
    if (parent) *parent = its_parent;
    return state;
}

/* A zombie does not: no init here need reap it. */
static inline bool process_lives(int32_t pid)
{
    char state = process_state(pid, NULL);
    return state && state != 'Z' && state != 'X';
}

/* How many children it has, in this state or ('\0') in any but that of a zombie; *one is one of them, and may be NULL. */
static inline int process_children(int32_t wanted, char state, int32_t *one)
{
    int n = 0;
    DIR *entries = opendir("/proc");
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        int32_t parent = 0;
        char its = process_state((int32_t)strtol(entry->d_name, NULL, 10), &parent);
        if (!its || parent != wanted || (state ? its != state : its == 'Z' || its == 'X')) continue;
        if (one) *one = (int32_t)strtol(entry->d_name, NULL, 10);
        n++;
    }
    if (entries) closedir(entries);
    return n;
}

#endif
