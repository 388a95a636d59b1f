/* base/device_internal.h - what a kind of device brings: a row of the table in device.c. Internal to base/.
 * `native` is the kind's own stream or event. Functions other than count and open are called with the device
 * they belong to already open.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_DEVICE_INTERNAL_H
#define TROUPE_BASE_DEVICE_INTERNAL_H

#include "base/device.h"

typedef struct tr_device_table {
    tr_status (*count)(int32_t *out, tr_error *err);
    tr_status (*open)(tr_device *self, tr_error *err); /* fills name and memory_bytes */
    tr_status (*allocate)(tr_device *self, tr_memory_kind kind, size_t size_bytes, void **out, tr_error *err);
    void (*free)(tr_device *self, tr_memory_kind kind, void *memory);
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

extern const tr_device_table tr__device_cpu, tr__device_cuda;

#endif
