/* base/memory.c - see memory.h. The fail counter is one relaxed atomic: it orders nothing, it only counts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t fail_after;

static bool must_fail(void)
{
    if (atomic_load_explicit(&fail_after, memory_order_relaxed) == 0) return false;
    return atomic_fetch_sub_explicit(&fail_after, 1, memory_order_relaxed) == 1;
}

void tr_memory_fail_after(uint64_t n)
{
    atomic_store_explicit(&fail_after, n, memory_order_relaxed);
}

void *tr_alloc(size_t size_bytes)
{
    return must_fail() ? NULL : malloc(size_bytes ? size_bytes : 1);
}

void *tr_alloc_zero(size_t count, size_t size_bytes)
{
    return must_fail() ? NULL : calloc(count ? count : 1, size_bytes ? size_bytes : 1);
}

void *tr_realloc(void *memory, size_t size_bytes)
{
    return must_fail() ? NULL : realloc(memory, size_bytes ? size_bytes : 1);
}

void *tr_alloc_aligned(size_t alignment, size_t size_bytes)
{
    TR_ASSERT(alignment && (alignment & (alignment - 1)) == 0);
    if (must_fail()) return NULL;
    if (alignment < sizeof(void *)) alignment = sizeof(void *);
    void *memory = NULL;
    return posix_memalign(&memory, alignment, size_bytes ? size_bytes : 1) == 0 ? memory : NULL;
}

char *tr_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = tr_alloc(size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

char *tr_format(const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : tr_alloc((size_t)length + 1);
    if (text) vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void tr_free(void *memory)
{
    free(memory);
}

tr_status tr_array_reserve(void **array, size_t *capacity, size_t needed, size_t element_bytes, tr_error *err)
{
    if (needed <= *capacity) return TR_OK;
    size_t grown = *capacity ? *capacity : 8, most = SIZE_MAX / (element_bytes ? element_bytes : 1);
    while (grown < needed && grown <= most / 2) grown *= 2;
    if (grown < needed) return tr_fail(err, TR_ENOMEM, "no memory for an array of %zu elements", needed);
    void *memory = tr_realloc(*array, grown * element_bytes);
    if (!memory) return tr_fail(err, TR_ENOMEM, "no memory for an array of %zu elements", grown);
    *array = memory;
    *capacity = grown;
    return TR_OK;
}
