/* base/device_internal.h - what a kind of device brings: a row of the table in device.c. Internal to base/.
 * `native` is the kind's own stream or event. Functions other than count and open are called with the device
 * they belong to already open.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_DEVICE_INTERNAL_H
#define TROUPE_BASE_DEVICE_INTERNAL_H

#include "base/device_share.h"

/* What tr_device_share_new's handle consists of; device_share.c fills in and checks what is the same for all kinds. */
typedef struct tr__share {
    uint64_t host; /* of the boot: no two hosts have the same, nor one twice */
    uint64_t size_bytes;
    uint64_t file; /* the CPU's: inode, and its descriptor in the process that made it */
    int32_t descriptor;
    int32_t pid;
    uint32_t kind; /* tr_device_kind */
    int32_t index;
    uint8_t native[64]; /* a cudaIpcMemHandle_t */
} tr__share;

typedef struct tr_device_table {
    tr_status (*count)(int32_t *out, tr_error *err);
    tr_status (*open)(tr_device *self, tr_error *err); /* fills name and memory_bytes */
    tr_status (*allocate)(tr_device *self, tr_memory_kind kind, size_t size_bytes, void **out, tr_error *err);
    void (*free)(tr_device *self, tr_memory_kind kind, void *memory);
    tr_status (*share_new)(tr_device *self, tr__share *share, void **out, tr_error *err);
    void (*share_free)(tr_device *self, void *memory, const tr__share *share);
    tr_status (*share_open)(tr_device *self, const tr__share *share, void **out, tr_error *err);
    void (*share_close)(tr_device *self, void *memory, const tr__share *share);
    bool share_is_counted;
    tr_status (*pin)(tr_device *self, void *memory, size_t size_bytes, tr_error *err);
    void (*unpin)(tr_device *self, void *memory);
    tr_status (*use)(tr_device *self, tr_error *err);
    tr_status (*stream_new)(tr_device *self, bool urgent, void **native, tr_error *err);
    void (*stream_destroy)(tr_device *self, void *native);
    tr_status (*copy)(tr_device *self, void *stream, void *to, const void *from, size_t size_bytes,
                      tr_error *err);
    tr_status (*fill)(tr_device *self, void *stream, void *to, uint8_t value, size_t size_bytes,
                      tr_error *err);
    tr_status (*wait)(tr_device *self, void *stream, void *event, tr_error *err);
    tr_status (*synchronize)(tr_device *self, void *stream, tr_error *err);
    tr_status (*event_new)(tr_device *self, bool timed, void **native, tr_error *err);
    void (*event_destroy)(tr_device *self, void *native);
    tr_status (*record)(tr_device *self, void *event, void *stream, tr_error *err);
    tr_status (*done)(tr_device *self, void *event, bool *done, tr_error *err);
    tr_status (*await)(tr_device *self, void *event, tr_error *err);
    tr_status (*elapsed_ms)(tr_device *self, void *from, void *to, double *out, tr_error *err);
} tr_device_table;

struct tr_device {
    const tr_device_table *table;
    tr_device_kind kind;
    int32_t index;
    int32_t references; /* the opener's and the buffers': atomic */
    size_t memory_bytes;
    char name[128];
};

static inline void tr__device_retain(tr_device *self)
{
    __atomic_add_fetch(&self->references, 1, __ATOMIC_RELAXED); /* see tr_device_close */
}

extern const tr_device_table tr__device_cpu, tr__device_cuda;

#endif
