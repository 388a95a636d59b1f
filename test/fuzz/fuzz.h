/* test/fuzz/fuzz.h - what the fuzz targets share. A target is one function over bytes; libFuzzer's main calls it with
 * what it invents (preset fuzz), replay.c's with files (every other build).
 * A target promises more than not to crash: what was taken is whole, and means the same when written and read again.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_FUZZ_H
#define TROUPE_TEST_FUZZ_H

#include "base/file.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes); /* the target; returns 0 */

static char fuzz_path[256]; /* of the directory; "": there is none */

static inline void fuzz_leave(void)
{
    if (fuzz_path[0]) tr_directory_remove_tree(fuzz_path, NULL);
}

/* Stands also where NDEBUG is defined. */
#define FUZZ_PROMISE(condition)                                                                              \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);                  \
            fuzz_leave();                                                                                    \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* A refusal has one of the statuses that bad input may have, and words on one line. */
static inline void fuzz_refused(tr_status status, const tr_error *err)
{
    FUZZ_PROMISE(status == TR_EINVAL || status == TR_ECORRUPT || status == TR_EUNSUPPORTED ||
                 status == TR_ENOTFOUND || status == TR_EREFUSED);
    FUZZ_PROMISE(err->message[0] && !strchr(err->message, '\n'));
}

/* A file in memory with these bytes; the path is good until close(*descriptor). */
static inline void fuzz_file(const uint8_t *bytes, size_t size_bytes, char path[64], int *descriptor)
{
    *descriptor = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_PROMISE(*descriptor >= 0 && write(*descriptor, bytes, size_bytes) == (ssize_t)size_bytes);
    snprintf(path, 64, "/proc/self/fd/%d", *descriptor);
}

/* A directory for the whole run: in memory, or where $TMPDIR says; removed at the end. */
static inline const char *fuzz_directory(void)
{
    if (fuzz_path[0]) return fuzz_path;
    const char *parent = getenv("TMPDIR");
    char path[sizeof fuzz_path];
    snprintf(path, sizeof path, "%s/troupe-fuzz-XXXXXX", parent ? parent : "/dev/shm");
    FUZZ_PROMISE(mkdtemp(path));
    memcpy(fuzz_path, path, sizeof path);
    atexit(fuzz_leave);
    return fuzz_path;
}

/* Bytes with a NUL behind them; tr_free it. */
static inline char *fuzz_text(const uint8_t *bytes, size_t size_bytes)
{
    char *text = tr_alloc(size_bytes + 1);
    FUZZ_PROMISE(text);
    if (size_bytes) memcpy(text, bytes, size_bytes);
    text[size_bytes] = '\0';
    return text;
}

#endif
