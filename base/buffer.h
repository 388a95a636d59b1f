/* base/buffer.h - memory with a reference count: what messages carry and edges offer as slots.
 * A buffer knows its kind of memory and its device, so that code which only moves it need not. On a device
 * whose work is asynchronous `ready` is the event after which the contents are valid; NULL means they are
 * valid now.
 * Threads: retain and release from any; the contents belong to whoever the protocol says.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_BUFFER_H
#define TROUPE_BASE_BUFFER_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_memory_kind {
    TR_MEMORY_HOST,
    TR_MEMORY_PINNED,
    TR_MEMORY_SHARED,
    TR_MEMORY_DEVICE
} tr_memory_kind;

typedef struct tr_buffer {
    void *data;        /* aligned to a cache line */
    size_t size_bytes; /* capacity */
    tr_memory_kind kind;
    int32_t device;       /* -1 for host memory */
    void *ready;          /* the device's event, or NULL */
    uint32_t references_; /* private: atomic, through the functions below */
    void (*free_)(struct tr_buffer *);
    void *context_;
} tr_buffer;

/* Host memory; the caller holds the one reference. size_bytes may be 0. Errors: TR_ENOMEM. */
tr_status tr_buffer_new(tr_buffer **out, size_t size_bytes, tr_error *err);

/* Wraps memory that somebody else owns; `release(context)` (may be NULL) when the last reference goes. */
tr_status tr_buffer_wrap(tr_buffer **out, void *data, size_t size_bytes, void (*release)(void *context),
                         void *context, tr_error *err);

tr_buffer *tr_buffer_retain(tr_buffer *self);
void tr_buffer_release(tr_buffer **self);        /* NULL-safe, nulls the pointer */
bool tr_buffer_is_unique(const tr_buffer *self); /* nobody else holds a reference: it may be written again */

#ifdef __cplusplus
}
#endif
#endif
