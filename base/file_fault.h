/* base/file_fault.h - a disk that fails on purpose: for tests, and for runs that want to see faults (runtime/fault.h).
 * What is written below a directory finds no room, or cannot be synced, from one word until the next. Nothing is asked of the
 * disk then: the caller sees what it would see of one that is full or broken.
 * Threads: one tells it and writes; others may write elsewhere. Without faults it costs those who write a load and a branch.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_FILE_FAULT_H
#define TROUPE_BASE_FILE_FAULT_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_file_fault {
    TR_FILE_SOUND,
    TR_FILE_FULL,    /* writes fail: ENOSPC */
    TR_FILE_UNSYNCED /* fsync fails: EIO */
} tr_file_fault;

/* `below` is a path as those who write say it, without a slash behind it; it is copied. TR_FILE_SOUND: none, anywhere, and
 * below means nothing. Errors: TR_EINVAL (a path that is too long): nothing has changed. */
tr_status tr_file_fault_set(tr_file_fault fault, const char *below, tr_error *err);
tr_file_fault tr_file_fault_now(void);

/* For who writes: true is the fault that was set, with errno as the system would have it. */
bool tr_file_fault_strikes(tr_file_fault fault, const char *path);

#ifdef __cplusplus
}
#endif
#endif
