/* test/ops/guard.h - memory between guard bytes, for tests that ask whether a kernel writes beyond its outputs, on
 * the device that TROUPE_TEST_DEVICE names (cpu where it is not set). On a GPU it is pinned memory of the host, which
 * kernels reach and the test reads: so one test serves both.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_OPS_GUARD_H
#define TROUPE_TEST_OPS_GUARD_H

#include "base/device.h"
#include "base/memory.h"
#include "test/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 4 * TR_CACHE_LINE, GUARD_PATTERN = 0xa5 };

typedef struct guard_device {
    tr_device_kind kind;
    tr_device *device;
    tr_stream *stream;
} guard_device;

/* Opened at the first call. */
static inline const guard_device *guard_target(void)
{
    static guard_device self;
    if (self.device) return &self;
    tr_error err = {0};
    const char *name = getenv("TROUPE_TEST_DEVICE");
    tr_status status = tr_device_kind_parse(&self.kind, name ? name : "cpu", &err);
    if (!status) CHECK_SPARED(status = tr_device_open(&self.device, self.kind, 0, &err));
    if (!status) CHECK_SPARED(status = tr_stream_new(&self.stream, self.device, &err));
    if (status) {
        fprintf(stderr, "TROUPE_TEST_DEVICE: %s\n", err.message);
        exit(1);
    }
    return &self;
}

/* `bytes` of memory, cache-line aligned, between two guards; filled with NaNs, so that what is read before it
 * is written shows. The guard behind begins at the very next byte. */
static inline void *guarded_new(size_t bytes)
{
    size_t room = (2 * GUARD_BYTES + bytes + TR_CACHE_LINE - 1) / TR_CACHE_LINE * TR_CACHE_LINE;
    void *allocated;
    const guard_device *target = guard_target();
    tr_status status = TR_OK;
    CHECK_SPARED(status = tr_device_allocate(target->device, TR_MEMORY_PINNED, room, &allocated, NULL));
    TR_ASSERT(status == TR_OK);
    unsigned char *memory = allocated;
    memset(memory, GUARD_PATTERN, room);
    memset(memory + GUARD_BYTES, 0xff, bytes);
    return memory + GUARD_BYTES;
}

static inline bool guarded_intact(const void *data, size_t bytes)
{
    const unsigned char *memory = (const unsigned char *)data - GUARD_BYTES;
    bool whole = true;
    for (size_t i = 0; i < GUARD_BYTES; i++)
        whole = whole && memory[i] == GUARD_PATTERN && memory[GUARD_BYTES + bytes + i] == GUARD_PATTERN;
    return whole;
}

/* Frees it; false where a guard was written to. */
static inline bool guarded_free(void *data, size_t bytes)
{
    bool whole = guarded_intact(data, bytes);
    tr_device_free(guard_target()->device, TR_MEMORY_PINNED, (unsigned char *)data - GUARD_BYTES);
    return whole;
}

#endif
