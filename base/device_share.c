/* base/device_share.c - see device_share.h: what is the same for all kinds of devices.
 * A handle says of which boot of which machine it is, so that one which came over a network is refused here and not by
 * whatever has the same number on this host.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/device_share.h"

#include "base/device_internal.h"
#include "base/hash.h"
#include "base/memory.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(tr__share) == TR_DEVICE_HANDLE_BYTES, "a handle is what a share consists of");

typedef struct shared {
    tr_device *device;
    void *memory;
    bool own; /* made here, not opened */
    tr__share share;
} shared;

static void release(void *context)
{
    shared *self = context;
    const tr_device_table *table = self->device->table;
    if (self->memory && self->own) table->share_free(self->device, self->memory, &self->share);
    if (self->memory && !self->own) table->share_close(self->device, self->memory, &self->share);
    tr_device_close(&self->device);
    tr_free(self);
}

static tr_status this_host(uint64_t *out, tr_error *err)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    char text[64];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof text);
    if (file >= 0) close(file);
    if (n <= 0)
        return tr_fail(err, TR_EUNSUPPORTED, "this host cannot be told from others without '%s'", path);
    *out = tr_hash64(text, (size_t)n);
    return TR_OK;
}

static tr_status wrap(shared *memory, tr_buffer **out, tr_error *err)
{
    tr_status status = tr_buffer_wrap(out, memory->memory, memory->share.size_bytes, release, memory, err);
    if (status != TR_OK) {
        release(memory);
        return status;
    }
    (*out)->kind = TR_MEMORY_DEVICE;
    (*out)->device = memory->device->index;
    return TR_OK;
}

static tr_status begin(tr_device *device, shared **out, tr_error *err)
{
    *out = tr_alloc_zero(1, sizeof **out);
    if (!*out) return tr_fail(err, TR_ENOMEM, "no memory for a share's description");
    tr__device_retain(device);
    (*out)->device = device;
    return TR_OK;
}

tr_status tr_device_share_new(tr_device *self, size_t size_bytes, tr_buffer **out,
                              uint8_t handle[TR_DEVICE_HANDLE_BYTES], tr_error *err)
{
    shared *memory;
    tr_status status = begin(self, &memory, err);
    if (status != TR_OK) return status;
    tr__share *share = &memory->share;
    memory->own = true;
    share->size_bytes = size_bytes > 0 ? size_bytes : 1;
    share->kind = (uint32_t)self->kind;
    share->index = self->index;
    share->pid = (int32_t)getpid();
    status = this_host(&share->host, err);
    if (status == TR_OK) status = self->table->share_new(self, share, &memory->memory, err);
    if (status != TR_OK) {
        release(memory);
        return status;
    }
    memcpy(handle, share, sizeof *share);
    return wrap(memory, out, err);
}

static tr_status judge(const tr_device *self, const tr__share *share, size_t size_bytes, tr_error *err)
{
    uint64_t host = 0;
    tr_status status = this_host(&host, err);
    if (status != TR_OK) return status;
    if (share->kind >= TR_DEVICE_KIND_COUNT || share->size_bytes != (size_bytes > 0 ? size_bytes : 1))
        return tr_fail(err, TR_ECORRUPT, "the handle of a device's memory does not read as it should");
    if (share->host != host) return tr_fail(err, TR_EUNSUPPORTED, "the other end is on another host");
    if (share->kind != (uint32_t)self->kind)
        return tr_fail(err, TR_EUNSUPPORTED, "a device '%s' cannot read the memory of a device '%s'",
                       tr_device_kind_name(self->kind), tr_device_kind_name((tr_device_kind)share->kind));
    return TR_OK;
}

tr_status tr_device_share_open(tr_device *self, const uint8_t handle[TR_DEVICE_HANDLE_BYTES],
                               size_t size_bytes, tr_buffer **out, tr_error *err)
{
    shared *memory;
    tr_status status = begin(self, &memory, err);
    if (status != TR_OK) return status;
    memcpy(&memory->share, handle, sizeof memory->share);
    status = judge(self, &memory->share, size_bytes, err);
    if (status == TR_OK) status = self->table->share_open(self, &memory->share, &memory->memory, err);
    if (status != TR_OK) {
        release(memory);
        return status;
    }
    return wrap(memory, out, err);
}

bool tr_device_share_is_counted(const tr_device *self)
{
    return self->table->share_is_counted;
}
