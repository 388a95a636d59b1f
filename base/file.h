/* base/file.h - files as the rest of the project uses them: read whole, mapped, or replaced atomically.
 * Everything that is written goes to a temporary name in the same directory, is fsynced, and renamed.
 * Errors everywhere: TR_ENOTFOUND, TR_EIO (with the system's words), TR_EINVAL (a directory where a file
 * should be), TR_ENOMEM.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_FILE_H
#define TROUPE_BASE_FILE_H

#include "base/status.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The whole file and a NUL behind it (not counted). Free *text with tr_free. */
tr_status tr_file_read(const char *path, char **text, size_t *size_bytes, tr_error *err);

typedef struct tr_file_map {
    const void *data; /* read-only, NULL for an empty file */
    size_t size_bytes;
} tr_file_map;
tr_status tr_file_map_open(tr_file_map *self, const char *path, tr_error *err);
void tr_file_map_release(tr_file_map *self);

/* Writing in pieces: open, write through *stream, then abandon or commit.
 * Commit is flush, fsync, rename, fsync of the directory. */
typedef struct tr_file_writer {
    FILE *stream;
    char *path;
    char *temporary;
} tr_file_writer;
tr_status tr_file_writer_open(tr_file_writer *self, const char *path, tr_error *err);
tr_status tr_file_writer_commit(tr_file_writer *self, tr_error *err); /* releases self also when it fails */
void tr_file_writer_abandon(tr_file_writer *self);

tr_status tr_file_write(const char *path, const void *bytes, size_t size_bytes, tr_error *err);
tr_status tr_file_hash(const char *path, char hex[33], uint64_t *size_bytes, tr_error *err);

tr_status tr_directory_make(const char *path, tr_error *err); /* with its parents; there already is fine */
tr_status tr_directory_remove_tree(const char *path, tr_error *err); /* not there is fine; follows no links */
tr_status tr_directory_sync(const char *path, tr_error *err);
bool tr_path_exists(const char *path);
bool tr_path_is_directory(const char *path);

#ifdef __cplusplus
}
#endif
#endif
