/* base/file.c - see file.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include "base/file_fault.h"
#include "base/hash.h"
#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static tr_status system_failed(tr_error *err, const char *what, const char *path)
{
    int number = errno;
    return tr_fail(err, number == ENOENT ? TR_ENOTFOUND : TR_EIO, "could not %s '%s': %s", what, path,
                   strerror(number));
}

static tr_status open_to_read(const char *path, int *out, size_t *size_bytes, tr_error *err)
{
    int file =
        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer would be waited for */
    if (file < 0) return system_failed(err, "open", path);
    struct stat about;
    if (fstat(file, &about) != 0) {
        close(file);
        return system_failed(err, "look at", path);
    }
    if (!S_ISREG(about.st_mode)) {
        close(file);
        return tr_fail(err, TR_EINVAL, "'%s' is %s, not a file", path,
                       S_ISDIR(about.st_mode) ? "a directory" : "a device or pipe");
    }
    *out = file;
    *size_bytes = (size_t)about.st_size;
    return TR_OK;
}

tr_status tr_file_read(const char *path, char **text, size_t *size_bytes, tr_error *err)
{
    int file = -1;
    size_t size = 0;
    tr_status status = open_to_read(path, &file, &size, err);
    if (status) return status;
    char *bytes = tr_alloc(size + 1);
    if (!bytes) {
        close(file);
        return tr_fail(err, TR_ENOMEM, "no memory to read '%s' (%zu bytes)", path, size);
    }
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(file, bytes + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        done += (size_t)got;
    }
    close(file);
    if (done < size) {
        tr_free(bytes);
        return tr_fail(err, TR_EIO, "could not read '%s' to its end", path);
    }
    bytes[size] = 0;
    *text = bytes;
    *size_bytes = size;
    return TR_OK;
}

tr_status tr_file_map_open(tr_file_map *self, const char *path, tr_error *err)
{
    int file = -1;
    size_t size = 0;
    tr_status status = open_to_read(path, &file, &size, err);
    if (status) return status;
    void *data = NULL;
    if (size) data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (data == MAP_FAILED) return system_failed(err, "map", path);
    *self = (tr_file_map){.data = data, .size_bytes = size};
    return TR_OK;
}

void tr_file_map_release(tr_file_map *self)
{
    if (self->data) munmap((void *)(uintptr_t)self->data, self->size_bytes);
    *self = (tr_file_map){0};
}

static void writer_release(tr_file_writer *self)
{
    tr_free(self->path);
    tr_free(self->temporary);
    *self = (tr_file_writer){0};
}

tr_status tr_file_writer_open(tr_file_writer *self, const char *path, tr_error *err)
{
    tr_file_writer fresh = {.path = tr_strdup(path),
                            .temporary = tr_format("%s.%ld.tmp", path, (long)getpid())};
    if (!fresh.path || !fresh.temporary) {
        writer_release(&fresh);
        return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", path);
    }
    fresh.stream = fopen(fresh.temporary, "wbe");
    if (!fresh.stream) {
        tr_status status = system_failed(err, "write", fresh.temporary);
        writer_release(&fresh);
        return status;
    }
    *self = fresh;
    return TR_OK;
}

/* A rename is only durable once its directory is. */
static tr_status sync_parent(const char *path, tr_error *err)
{
    const char *slash = strrchr(path, '/');
    char *parent = slash ? tr_format("%.*s", (int)(slash - path) + (slash == path), path) : tr_strdup(".");
    if (!parent) return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", path);
    tr_status status = tr_directory_sync(parent, err);
    tr_free(parent);
    return status;
}

tr_status tr_file_writer_commit(tr_file_writer *self, tr_error *err)
{
    errno = EIO; /* where the fault lies further back and only the stream remembers it */
    bool good = fflush(self->stream) == 0 && !ferror(self->stream) &&
                !tr_file_fault_strikes(TR_FILE_FULL, self->path) &&
                !tr_file_fault_strikes(TR_FILE_UNSYNCED, self->path) && fsync(fileno(self->stream)) == 0;
    tr_status status = TR_OK;
    if (!good) status = system_failed(err, "write", self->path);
    if (fclose(self->stream) != 0 && !status) status = system_failed(err, "close", self->path);
    self->stream = NULL;
    if (!status && rename(self->temporary, self->path) != 0)
        status = system_failed(err, "rename to", self->path);
    if (status)
        unlink(self->temporary);
    else
        status = sync_parent(self->path, err);
    writer_release(self);
    return status;
}

void tr_file_writer_abandon(tr_file_writer *self)
{
    if (self->stream) {
        fclose(self->stream);
        unlink(self->temporary);
    }
    writer_release(self);
}

tr_status tr_file_write(const char *path, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_file_writer writer;
    tr_status status = tr_file_writer_open(&writer, path, err);
    if (status) return status;
    if (size_bytes)
        fwrite(bytes, 1, size_bytes, writer.stream); /* a failure shows in commit through ferror */
    return tr_file_writer_commit(&writer, err);
}

tr_status tr_file_hash(const char *path, char hex[33], uint64_t *size_bytes, tr_error *err)
{
    tr_file_map map;
    tr_status status = tr_file_map_open(&map, path, err);
    if (status) return status;
    tr_hasher *hasher = tr_hasher_new();
    if (!hasher) {
        tr_file_map_release(&map);
        return tr_fail(err, TR_ENOMEM, "no memory to hash '%s'", path);
    }
    if (map.size_bytes) tr_hasher_update(hasher, map.data, map.size_bytes);
    tr_hasher_digest(hasher, hex);
    *size_bytes = map.size_bytes;
    tr_hasher_destroy(&hasher);
    tr_file_map_release(&map);
    return TR_OK;
}

tr_status tr_directory_make(const char *path, tr_error *err)
{
    char *copy = tr_strdup(path);
    if (!copy) return tr_fail(err, TR_ENOMEM, "no memory to make '%s'", path);
    tr_status status = TR_OK;
    for (char *end = copy + (*copy == '/'); !status; end++) {
        if (*end != '/' && *end != 0) continue;
        char kept = *end;
        *end = 0;
        if (mkdir(copy, 0777) != 0 && (errno != EEXIST || !tr_path_is_directory(copy)))
            status = system_failed(err, "make the directory", copy);
        *end = kept;
        if (!kept) break;
    }
    tr_free(copy);
    return status;
}

tr_status tr_directory_remove_tree(const char *path, tr_error *err)
{
    struct stat about;
    if (lstat(path, &about) != 0) return errno == ENOENT ? TR_OK : system_failed(err, "look at", path);
    if (!S_ISDIR(about.st_mode)) return unlink(path) == 0 ? TR_OK : system_failed(err, "remove", path);
    DIR *directory = opendir(path);
    if (!directory) return system_failed(err, "open", path);
    tr_status status = TR_OK;
    for (struct dirent *entry; !status && (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *inner = tr_format("%s/%s", path, entry->d_name);
        status = inner ? tr_directory_remove_tree(inner, err)
                       : tr_fail(err, TR_ENOMEM, "no memory to remove '%s'", path);
        tr_free(inner);
    }
    closedir(directory);
    if (!status && rmdir(path) != 0) status = system_failed(err, "remove", path);
    return status;
}

tr_status tr_directory_sync(const char *path, tr_error *err)
{
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return system_failed(err, "open", path);
    bool failed = tr_file_fault_strikes(TR_FILE_UNSYNCED, path) || fsync(directory) != 0;
    tr_status status = failed ? system_failed(err, "sync", path) : TR_OK;
    close(directory);
    return status;
}

bool tr_path_exists(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0;
}

bool tr_path_is_directory(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}
