/* test/chaos/usage.h - what processes hold, and what is left when they are gone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CHAOS_USAGE_H
#define TROUPE_TEST_CHAOS_USAGE_H

#include "base/status.h"

typedef struct usage {
    int32_t pid;
    int64_t rss_kib, descriptors, memfds, mappings, threads;
} usage;

/* Of a process of ours; false: it has gone. */
bool usage_of(int32_t pid, usage *out);

/* Each sample of one process in order. The medians of the first and of the last quarter, one behind the other in out;
 * false: too few to tell. */
bool usage_compare(const usage *samples, size_t n, usage out[2]);

/* Lines about what is there besides this process, each begun with `indent`: processes, shared memory, sockets. Counts them.
 * Only where this process was given namespaces of its own is all of that the job's. */
int usage_leftovers(const char *indent);

#endif
