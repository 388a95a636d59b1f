/* base/device_cpu.c - the CPU as a device: work is done when the call returns, an event is a time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/device_internal.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>
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
