/* runtime/leftovers.h - shared memory that a killed process could not take back.
 * UCX makes its segments such that they go with the last process: System V ones are marked for removal once attached, POSIX
 * ones unlinked right after they were made (and reached through /proc/PID/fd). A SIGKILL between the two steps leaves one.
 * Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_LEFTOVERS_H
#define TROUPE_RUNTIME_LEFTOVERS_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Removes what the process of this pid, which has been killed and reaped, made and nobody has attached; and of UCX's POSIX
 * segments, whose names do not tell whose they are, those that no process has open. */
void tr_leftovers_remove(int32_t pid);

#ifdef __cplusplus
}
#endif
#endif
