/* base/memory.h - the only door to the heap (jemalloc behind it in release builds).
 * Why a door: tests make the n-th allocation fail through it, and a leak has one place to be counted.
 * Threads: all functions from any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_MEMORY_H
#define TROUPE_BASE_MEMORY_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_CACHE_LINE = 64 };

/* NULL when there is no memory, also for size_bytes 0 never NULL otherwise. Free with tr_free. */
void *tr_alloc(size_t size_bytes);
void *tr_alloc_zero(size_t count, size_t size_bytes);
void *tr_realloc(void *memory, size_t size_bytes);
/* Alignment: a power of two; contents undefined. From 4 MiB on in huge pages where the system has them for who asks. */
void *tr_alloc_aligned(size_t alignment, size_t size_bytes);
char *tr_strdup(const char *text);
char *tr_format(const char *format, ...) TR_PRINTF(1, 2); /* a new string; NULL when there is no memory */
void tr_free(void *memory);                               /* NULL-safe */

/* ---- for tests only ---- */

/* Makes the n-th allocation from now (1 is the next) return NULL, once; 0 switches it off. */
void tr_memory_fail_after(uint64_t n);
/* Did the allocation fail that the last tr_memory_fail_after asked for? */
bool tr_memory_has_failed(void);
/* Asked before each allocation, on its thread; true makes it return NULL. NULL: nobody is asked any more. */
void tr_memory_ask(bool (*must_fail)(void));
/* What was allocated less what was freed, counted in blocks since the first call: two calls round something that
 * gives all back return the same. */
int64_t tr_memory_blocks(void);

/* ---- arrays ---- */

/* Grows an array whose capacity is kept beside it to hold at least `needed` elements; doubles. On failure the
 * array stays as it was and TR_ENOMEM comes back. */
tr_status tr_array_reserve(void **array, size_t *capacity, size_t needed, size_t element_bytes,
                           tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
