/* base/device_cpu.c - the CPU as a device: work is done when the call returns, an event is a time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/device_internal.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static tr_status count(int32_t *out, tr_error *err)
{
    (void)err;
    *out = 1;
    return TR_OK;
}

static tr_status open_cpu(tr_device *self, tr_error *err)
{
    (void)err;
    snprintf(self->name, sizeof self->name, "CPU");
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page_bytes > 0) self->memory_bytes = (size_t)pages * (size_t)page_bytes;
    return TR_OK;
}

/* The device's own memory is the host's. */
static tr_status allocate(tr_device *self, tr_memory_kind kind, size_t size_bytes, void **out, tr_error *err)
{
    (void)self;
    if (kind == TR_MEMORY_SHARED)
        return tr_fail(err, TR_EUNSUPPORTED, "shared memory is not a device's to give");
    void *memory = tr_alloc_aligned(TR_CACHE_LINE, size_bytes);
    if (!memory) return tr_fail(err, TR_ENOMEM, "no memory for %zu bytes", size_bytes);
    *out = memory;
    return TR_OK;
}

static void free_memory(tr_device *self, tr_memory_kind kind, void *memory)
{
    (void)self, (void)kind;
    tr_free(memory);
}

/* A file without a name; others reach it by the descriptor that this process keeps, as long as it does. */
static tr_status share_new(tr_device *self, tr__share *share, void **out, tr_error *err)
{
    (void)self;
    struct stat file;
    int descriptor = memfd_create("troupe-share", MFD_CLOEXEC);
    if (descriptor < 0) return tr_fail(err, TR_EIO, "no shared memory: %s", strerror(errno));
    void *memory = MAP_FAILED;
    if (ftruncate(descriptor, (off_t)share->size_bytes) == 0 && fstat(descriptor, &file) == 0)
        memory = mmap(NULL, share->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) {
        tr_fail(err, TR_ENOMEM, "no shared memory for %zu bytes: %s", (size_t)share->size_bytes,
                strerror(errno));
        close(descriptor);
        return TR_ENOMEM;
    }
    share->descriptor = descriptor;
    share->file = (uint64_t)file.st_ino;
    *out = memory;
    return TR_OK;
}

static void share_close(tr_device *self, void *memory, const tr__share *share)
{
    (void)self;
    munmap(memory, share->size_bytes);
}

static void share_free(tr_device *self, void *memory, const tr__share *share)
{
    share_close(self, memory, share);
    close(share->descriptor);
}

/* The number may by now be another process's, and its descriptor another file's. */
static tr_status share_open(tr_device *self, const tr__share *share, void **out, tr_error *err)
{
    (void)self;
    char path[64];
    struct stat file;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", share->pid, share->descriptor);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return tr_fail(err, TR_EUNSUPPORTED, "cannot open '%s': %s", path, strerror(errno));
    void *memory = MAP_FAILED;
    if (fstat(descriptor, &file) == 0 && (uint64_t)file.st_ino == share->file &&
        (uint64_t)file.st_size == share->size_bytes)
        memory = mmap(NULL, share->size_bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (memory == MAP_FAILED)
        return tr_fail(err, TR_EUNSUPPORTED, "'%s' is not the memory that was offered", path);
    *out = memory;
    return TR_OK;
}

/* All memory is as good as pinned. */
static tr_status pin(tr_device *self, void *memory, size_t size_bytes, tr_error *err)
{
    (void)self, (void)memory, (void)size_bytes, (void)err;
    return TR_OK;
}

static void unpin(tr_device *self, void *memory)
{
    (void)self, (void)memory;
}

static tr_status use(tr_device *self, tr_error *err)
{
    (void)self, (void)err;
    return TR_OK;
}

static tr_status stream_new(tr_device *self, bool urgent, void **native, tr_error *err)
{
    (void)self, (void)urgent, (void)err;
    *native = NULL;
    return TR_OK;
}

static void stream_destroy(tr_device *self, void *native)
{
    (void)self, (void)native;
}

static tr_status copy(tr_device *self, void *stream, void *to, const void *from, size_t size_bytes,
                      tr_error *err)
{
    (void)self, (void)stream, (void)err;
    if (size_bytes > 0) memmove(to, from, size_bytes);
    return TR_OK;
}

static tr_status fill(tr_device *self, void *stream, void *to, uint8_t value, size_t size_bytes,
                      tr_error *err)
{
    (void)self, (void)stream, (void)err;
    if (size_bytes > 0) memset(to, value, size_bytes);
    return TR_OK;
}

static tr_status wait_for(tr_device *self, void *stream, void *event, tr_error *err)
{
    (void)self, (void)stream, (void)event, (void)err;
    return TR_OK;
}

static tr_status synchronize(tr_device *self, void *stream, tr_error *err)
{
    (void)self, (void)stream, (void)err;
    return TR_OK;
}

static tr_status event_new(tr_device *self, bool timed, void **native, tr_error *err)
{
    (void)self, (void)timed;
    uint64_t *at = tr_alloc_zero(1, sizeof *at);
    if (!at) return tr_fail(err, TR_ENOMEM, "no memory for an event");
    *native = at;
    return TR_OK;
}

static void event_destroy(tr_device *self, void *native)
{
    (void)self;
    tr_free(native);
}

static tr_status record(tr_device *self, void *event, void *stream, tr_error *err)
{
    (void)self, (void)stream, (void)err;
    *(uint64_t *)event = tr_clock_ns();
    return TR_OK;
}

static tr_status done(tr_device *self, void *event, bool *out, tr_error *err)
{
    (void)self, (void)event, (void)err;
    *out = true;
    return TR_OK;
}

static tr_status await(tr_device *self, void *event, tr_error *err)
{
    (void)self, (void)event, (void)err;
    return TR_OK;
}

static tr_status elapsed_ms(tr_device *self, void *from, void *to, double *out, tr_error *err)
{
    (void)self, (void)err;
    *out = ((double)*(uint64_t *)to - (double)*(uint64_t *)from) / 1e6;
    return TR_OK;
}

const tr_device_table tr__device_cpu = {
    .count = count,
    .open = open_cpu,
    .allocate = allocate,
    .free = free_memory,
    .share_new = share_new,
    .share_free = share_free,
    .share_open = share_open,
    .share_close = share_close,
    .share_is_counted = true,
    .pin = pin,
    .unpin = unpin,
    .use = use,
    .stream_new = stream_new,
    .stream_destroy = stream_destroy,
    .copy = copy,
    .fill = fill,
    .wait = wait_for,
    .synchronize = synchronize,
    .event_new = event_new,
    .event_destroy = event_destroy,
    .record = record,
    .done = done,
    .await = await,
    .elapsed_ms = elapsed_ms,
};
