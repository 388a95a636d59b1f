/* base/file_fault.c - see file_fault.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file_fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The fault is an atomic, relaxed: who tells it and who is meant are one thread; others must only not tear the word. */
static tr_file_fault now;
static char below[4096];

tr_status tr_file_fault_set(tr_file_fault fault, const char *path, tr_error *err)
{
    if (fault != TR_FILE_SOUND && strlen(path) >= sizeof below)
        return tr_fail(err, TR_EINVAL, "a path of %zu characters is too long for faults", strlen(path));
    if (fault != TR_FILE_SOUND) snprintf(below, sizeof below, "%s", path);
    __atomic_store_n(&now, fault, __ATOMIC_RELAXED);
    return TR_OK;
}

tr_file_fault tr_file_fault_now(void)
{
    return __atomic_load_n(&now, __ATOMIC_RELAXED);
}

bool tr_file_fault_strikes(tr_file_fault fault, const char *path)
{
    size_t length;
    if (__builtin_expect(tr_file_fault_now() != fault, 1)) return false;
    length = strlen(below);
    if (strncmp(path, below, length) != 0 || (path[length] != '/' && path[length] != 0)) return false;
    errno = fault == TR_FILE_FULL ? ENOSPC : EIO;
    return true;
}
