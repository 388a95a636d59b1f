/* base/memory.c - see memory.h. The atomics are relaxed: they order nothing, they only
 * count; a test that switches one on does so before it makes threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Large aligned blocks (arenas of a model, gradients) ask for huge pages, where the system gives them to who asks. */
enum { HUGE_PAGE = 2 << 20, HUGE_FROM = 4 << 20 };

/* What tests have switched on; nothing, nearly always, so that an allocation costs one look at a word nobody writes. */
enum { FAIL_AFTER = 1, ASK = 2, COUNT = 4 };
static _Atomic unsigned watched;

static _Atomic uint64_t fail_after;
static _Atomic bool has_failed;
static _Atomic int64_t n_blocks;
static bool (*_Atomic asked)(void);

static void watch(unsigned what, bool on)
{
    if (on)
        atomic_fetch_or_explicit(&watched, what, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&watched, ~what, memory_order_relaxed);
}

static bool is_nth(void)
{
    if (atomic_load_explicit(&fail_after, memory_order_relaxed) == 0) return false;
    if (atomic_fetch_sub_explicit(&fail_after, 1, memory_order_relaxed) != 1) return false;
    atomic_store_explicit(&has_failed, true, memory_order_relaxed);
    return true;
}

static bool must_fail(void)
{
    unsigned what = atomic_load_explicit(&watched, memory_order_relaxed);
    if (what == 0) return false;
    bool (*ask)(void) = what & ASK ? atomic_load_explicit(&asked, memory_order_relaxed) : NULL;
    bool by_count = what & FAIL_AFTER && is_nth();
    return (ask && ask()) || by_count;
}

static void count(int64_t blocks)
{
    if (atomic_load_explicit(&watched, memory_order_relaxed) & COUNT)
        atomic_fetch_add_explicit(&n_blocks, blocks, memory_order_relaxed);
}

static void *counted(void *memory)
{
    if (memory) count(1);
    return memory;
}

void tr_memory_fail_after(uint64_t n)
{
    atomic_store_explicit(&has_failed, false, memory_order_relaxed);
    atomic_store_explicit(&fail_after, n, memory_order_relaxed);
    watch(FAIL_AFTER, n > 0);
}

bool tr_memory_has_failed(void)
{
    return atomic_load_explicit(&has_failed, memory_order_relaxed);
}

void tr_memory_ask(bool (*ask)(void))
{
    atomic_store_explicit(&asked, ask, memory_order_relaxed);
    watch(ASK, ask != NULL);
}

int64_t tr_memory_blocks(void)
{
    watch(COUNT, true);
    return atomic_load_explicit(&n_blocks, memory_order_relaxed);
}

void *tr_alloc(size_t size_bytes)
{
    return must_fail() ? NULL : counted(malloc(size_bytes ? size_bytes : 1));
}

void *tr_alloc_zero(size_t n, size_t size_bytes)
{
    return must_fail() ? NULL : counted(calloc(n ? n : 1, size_bytes ? size_bytes : 1));
}

void *tr_realloc(void *memory, size_t size_bytes)
{
    if (!memory) return tr_alloc(size_bytes);
    return must_fail() ? NULL : realloc(memory, size_bytes ? size_bytes : 1);
}

void *tr_alloc_aligned(size_t alignment, size_t size_bytes)
{
    TR_ASSERT(alignment && (alignment & (alignment - 1)) == 0);
    if (must_fail()) return NULL;
    if (alignment < sizeof(void *)) alignment = sizeof(void *);
    if (size_bytes >= HUGE_FROM && alignment < HUGE_PAGE) alignment = HUGE_PAGE;
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, size_bytes ? size_bytes : 1) != 0) return NULL;
    /* Products of matrices step from row to row, a small page each. Whole pages only: others may own the rest of the last. */
    if (size_bytes >= HUGE_FROM) (void)madvise(memory, size_bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return counted(memory);
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
    if (memory) count(-1);
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
