/* test/ops/guard.h - memory between guard bytes, for tests that ask whether a kernel writes beyond its outputs.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_OPS_GUARD_H
#define TROUPE_TEST_OPS_GUARD_H

#include "base/memory.h"

#include <string.h>

enum { GUARD_BYTES = 4 * TR_CACHE_LINE, GUARD_PATTERN = 0xa5 };

/* `bytes` of memory, cache-line aligned, between two guards; filled with NaNs, so that what is read before it
 * is written shows. The guard behind begins at the very next byte. */
static inline void *guarded_new(size_t bytes)
{
    size_t room = (2 * GUARD_BYTES + bytes + TR_CACHE_LINE - 1) / TR_CACHE_LINE * TR_CACHE_LINE;
    unsigned char *memory = tr_alloc_aligned(TR_CACHE_LINE, room);
    TR_ASSERT(memory);
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
    tr_free((unsigned char *)data - GUARD_BYTES);
    return whole;
}

#endif
