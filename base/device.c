/* base/device.c - the table of devices, and what is the same for all of them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/device.h"

#include "base/device_internal.h"
#include "base/memory.h"

#include <string.h>

struct tr_stream {
    tr_device *device;
    void *native;
};

struct tr_event {
    tr_device *device;
    void *native;
};

#ifndef TROUPE_CUDA
static tr_status no_cuda(int32_t *out, tr_error *err)
{
    (void)out;
    return tr_fail(err, TR_EUNSUPPORTED,
                   "this build has no CUDA; build the preset 'cuda' where nvcc is, or use device 'cpu'");
}

const tr_device_table tr__device_cuda = {.count = no_cuda};
#endif

static const struct {
    const char *name;
    const tr_device_table *table;
} kinds[TR_DEVICE_KIND_COUNT] = {
    [TR_DEVICE_CPU] = {"cpu", &tr__device_cpu},
    [TR_DEVICE_CUDA] = {"cuda", &tr__device_cuda},
};

const char *tr_device_kind_name(tr_device_kind kind)
{
    TR_ASSERT((unsigned)kind < TR_DEVICE_KIND_COUNT);
    return kinds[kind].name;
}

tr_status tr_device_kind_parse(tr_device_kind *out, const char *name, tr_error *err)
{
    for (int kind = 0; kind < TR_DEVICE_KIND_COUNT; kind++)
        if (strcmp(kinds[kind].name, name) == 0) {
            *out = (tr_device_kind)kind;
            return TR_OK;
        }
    return tr_fail(err, TR_EINVAL, "there is no device '%s'; there are 'cpu' and 'cuda'", name);
}

tr_status tr_device_count(tr_device_kind kind, int32_t *out, tr_error *err)
{
    TR_ASSERT((unsigned)kind < TR_DEVICE_KIND_COUNT);
    return kinds[kind].table->count(out, err);
}

tr_status tr_device_open(tr_device **out, tr_device_kind kind, int32_t index, tr_error *err)
{
    int32_t count = 0;
    tr_status status = tr_device_count(kind, &count, err);
    if (status != TR_OK) return status;
    if (index < 0 || index >= count)
        return tr_fail(err, TR_ENOTFOUND, "there is no device '%s:%d'; this machine has %d, counted from 0",
                       kinds[kind].name, index, count);
    tr_device *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a device's description");
    self->table = kinds[kind].table;
    self->kind = kind;
    self->index = index;
    self->references = 1;
    status = self->table->open(self, err);
    if (status != TR_OK) {
        tr_free(self);
        return status;
    }
    *out = self;
    return TR_OK;
}

/* Taking a reference needs no order (the taker has one); giving one back releases what its holder did with the device, and
 * the last one acquires it. */
void tr_device_close(tr_device **self)
{
    if (*self && __atomic_sub_fetch(&(*self)->references, 1, __ATOMIC_ACQ_REL) == 0) tr_free(*self);
    *self = NULL;
}

tr_device_kind tr_device_kind_of(const tr_device *self)
{
    return self->kind;
}

int32_t tr_device_index(const tr_device *self)
{
    return self->index;
}

const char *tr_device_name(const tr_device *self)
{
    return self->name;
}

size_t tr_device_memory_bytes(const tr_device *self)
{
    return self->memory_bytes;
}

tr_status tr_device_allocate(tr_device *self, tr_memory_kind kind, size_t size_bytes, void **out,
                             tr_error *err)
{
    return self->table->allocate(self, kind, size_bytes > 0 ? size_bytes : 1, out, err);
}

void tr_device_free(tr_device *self, tr_memory_kind kind, void *memory)
{
    if (memory) self->table->free(self, kind, memory);
}

typedef struct owned {
    tr_device *device;
    tr_memory_kind kind;
    void *memory;
} owned;

static void free_owned(void *context)
{
    owned *self = context;
    tr_device_free(self->device, self->kind, self->memory);
    tr_device_close(&self->device);
    tr_free(self);
}

tr_status tr_device_buffer_new(tr_device *self, tr_memory_kind kind, size_t size_bytes, tr_buffer **out,
                               tr_error *err)
{
    owned *memory = tr_alloc_zero(1, sizeof *memory);
    if (!memory) return tr_fail(err, TR_ENOMEM, "no memory for a buffer's description");
    *memory = (owned){.device = self, .kind = kind};
    tr__device_retain(self);
    tr_status status = tr_device_allocate(self, kind, size_bytes, &memory->memory, err);
    if (status == TR_OK) status = tr_buffer_wrap(out, memory->memory, size_bytes, free_owned, memory, err);
    if (status != TR_OK) {
        free_owned(memory);
        return status;
    }
    (*out)->kind = kind;
    (*out)->device = kind == TR_MEMORY_DEVICE ? self->index : -1;
    return TR_OK;
}

tr_status tr_device_pin(tr_device *self, void *memory, size_t size_bytes, tr_error *err)
{
    return self->table->pin(self, memory, size_bytes, err);
}

void tr_device_unpin(tr_device *self, void *memory)
{
    self->table->unpin(self, memory);
}

tr_status tr_device_use(tr_device *self, tr_error *err)
{
    return self->table->use(self, err);
}

static tr_status stream_new(tr_stream **out, tr_device *device, bool urgent, tr_error *err)
{
    tr_stream *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a stream");
    self->device = device;
    tr_status status = device->table->stream_new(device, urgent, &self->native, err);
    if (status != TR_OK) {
        tr_free(self);
        return status;
    }
    *out = self;
    return TR_OK;
}

tr_status tr_stream_new(tr_stream **out, tr_device *device, tr_error *err)
{
    return stream_new(out, device, false, err);
}

tr_status tr_stream_new_urgent(tr_stream **out, tr_device *device, tr_error *err)
{
    return stream_new(out, device, true, err);
}

void tr_stream_destroy(tr_stream **self)
{
    if (!*self) return;
    (*self)->device->table->stream_destroy((*self)->device, (*self)->native);
    tr_free(*self);
    *self = NULL;
}

tr_device *tr_stream_device(const tr_stream *self)
{
    return self->device;
}

void *tr_stream_native(const tr_stream *self)
{
    return self->native;
}

tr_status tr_stream_copy(tr_stream *self, void *to, const void *from, size_t size_bytes, tr_error *err)
{
    return self->device->table->copy(self->device, self->native, to, from, size_bytes, err);
}

tr_status tr_stream_fill(tr_stream *self, void *to, uint8_t value, size_t size_bytes, tr_error *err)
{
    return self->device->table->fill(self->device, self->native, to, value, size_bytes, err);
}

tr_status tr_stream_wait(tr_stream *self, const tr_event *event, tr_error *err)
{
    return self->device->table->wait(self->device, self->native, event->native, err);
}

tr_status tr_stream_synchronize(tr_stream *self, tr_error *err)
{
    return self->device->table->synchronize(self->device, self->native, err);
}

tr_status tr_event_new(tr_event **out, tr_device *device, bool timed, tr_error *err)
{
    tr_event *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for an event");
    self->device = device;
    tr_status status = device->table->event_new(device, timed, &self->native, err);
    if (status != TR_OK) {
        tr_free(self);
        return status;
    }
    *out = self;
    return TR_OK;
}

void tr_event_destroy(tr_event **self)
{
    if (!*self) return;
    (*self)->device->table->event_destroy((*self)->device, (*self)->native);
    tr_free(*self);
    *self = NULL;
}

tr_status tr_event_record(tr_event *self, tr_stream *stream, tr_error *err)
{
    return self->device->table->record(self->device, self->native, stream->native, err);
}

tr_status tr_event_done(const tr_event *self, bool *done, tr_error *err)
{
    return self->device->table->done(self->device, self->native, done, err);
}

tr_status tr_event_await(const tr_event *self, tr_error *err)
{
    return self->device->table->await(self->device, self->native, err);
}

tr_status tr_event_elapsed_ms(const tr_event *from, const tr_event *to, double *out, tr_error *err)
{
    return from->device->table->elapsed_ms(from->device, from->native, to->native, out, err);
}
