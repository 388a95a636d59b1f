/* test/chaos/usage.c - see usage.h. All of it is read from /proc.
 * SPDX-License-Identifier: Apache-2.0 */
#include "test/chaos/usage.h"

#include "base/memory.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void count_descriptors(usage *out)
{
    char path[320], link[64];
    snprintf(path, sizeof path, "/proc/%d/fd", out->pid);
    DIR *descriptors = opendir(path);
    for (struct dirent *entry; descriptors && (entry = readdir(descriptors));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/fd/%s", out->pid, entry->d_name);
        ssize_t n = readlink(path, link, sizeof link - 1);
        out->descriptors++;
        out->memfds += n > 7 && strncmp(link, "/memfd:", 7) == 0;
    }
    if (descriptors) closedir(descriptors);
}

bool usage_of(int32_t pid, usage *out)
{
    char path[64], line[512];
    *out = (usage){.pid = pid};
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    if (!file) return false;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "VmRSS:", 6) == 0) out->rss_kib = strtoll(line + 6, NULL, 10);
        if (strncmp(line, "Threads:", 8) == 0) out->threads = strtoll(line + 8, NULL, 10);
    }
    fclose(file);
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) out->mappings += strchr(line, '\n') != NULL;
    if (file) fclose(file);
    count_descriptors(out);
    return out->rss_kib > 0;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t median(const usage *samples, size_t n, size_t offset)
{
    int64_t values[256];
    if (n > 256) n = 256;
    for (size_t i = 0; i < n; i++) memcpy(&values[i], (const char *)&samples[i] + offset, sizeof *values);
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

bool usage_compare(const usage *samples, size_t n, usage out[2])
{
    size_t quarter = n / 4;
    if (quarter < 1) return false;
    for (int i = 0; i < 2; i++) {
        const usage *part = samples + (i ? n - quarter : 0);
        out[i] = (usage){.pid = part->pid,
                         .rss_kib = median(part, quarter, offsetof(usage, rss_kib)),
                         .descriptors = median(part, quarter, offsetof(usage, descriptors)),
                         .memfds = median(part, quarter, offsetof(usage, memfds)),
                         .mappings = median(part, quarter, offsetof(usage, mappings)),
                         .threads = median(part, quarter, offsetof(usage, threads))};
    }
    return true;
}

static int left_processes(const char *indent)
{
    int n = 0;
    DIR *all = opendir("/proc");
    for (struct dirent *entry; all && (entry = readdir(all));) {
        char path[320], line[256] = "";
        int32_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;
        if (pid <= 1 || pid == getpid() || pid == getppid()) continue;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        FILE *file = fopen(path, "re");
        if (file && fgets(line, sizeof line, file)) {
            printf("%sprocess %.60s\n", indent, line);
            n++;
        }
        if (file) fclose(file);
    }
    if (all) closedir(all);
    return n;
}

static int left_files(const char *indent, const char *directory)
{
    int n = 0;
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        if (entry->d_name[0] == '.') continue;
        printf("%s%s/%s\n", indent, directory, entry->d_name);
        n++;
    }
    if (entries) closedir(entries);
    return n;
}

/* Lines behind the first. What the kernel keeps of connections that are over (TIME_WAIT, 06) is nobody's. */
static int left_lines(const char *indent, const char *path)
{
    char line[512], state[8];
    int n = 0;
    FILE *file = fopen(path, "re");
    bool tcp = strstr(path, "/tcp") != NULL;
    for (int i = 0; file && fgets(line, sizeof line, file); i++) {
        if (i == 0 || (tcp && sscanf(line, "%*s %*s %*s %7s", state) == 1 && strcmp(state, "06") == 0))
            continue;
        printf("%s%s: %s", indent, path, line);
        n++;
    }
    if (file) fclose(file);
    return n;
}

int usage_leftovers(const char *indent)
{
    static const char *const tables[] = {"/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg",
                                         "/proc/net/unix",    "/proc/net/tcp",     "/proc/net/tcp6",
                                         "/proc/net/udp",     "/proc/net/udp6"};
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
    int n = left_processes(indent) + left_files(indent, "/dev/shm");
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) n += left_lines(indent, tables[i]);
    return n;
}
