/* base/buffer.c - see buffer.h. Taking a reference needs no order (the taker has one already); giving one
 * back releases the holder's accesses, and the last one acquires all of them before it frees.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/buffer.h"

#include "base/memory.h"

typedef struct wrapped {
    tr_buffer buffer;
    void (*release)(void *context);
} wrapped;

static void free_owned(tr_buffer *self)
{
    tr_free(self->data);
    tr_free(self);
}

static void free_wrapped(tr_buffer *self)
{
    wrapped *whole = (wrapped *)self;
    if (whole->release) whole->release(self->context_);
    tr_free(whole);
}

tr_status tr_buffer_new(tr_buffer **out, size_t size_bytes, tr_error *err)
{
    tr_buffer *self = tr_alloc_zero(1, sizeof *self);
    void *data = self ? tr_alloc_aligned(TR_CACHE_LINE, size_bytes) : NULL;
    if (!data) {
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "no memory for a buffer of %zu bytes", size_bytes);
    }
    *self = (tr_buffer){
        .data = data, .size_bytes = size_bytes, .device = -1, .references_ = 1, .free_ = free_owned};
    *out = self;
    return TR_OK;
}

tr_status tr_buffer_wrap(tr_buffer **out, void *data, size_t size_bytes, void (*release)(void *context),
                         void *context, tr_error *err)
{
    wrapped *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a buffer's description");
    self->buffer = (tr_buffer){.data = data,
                               .size_bytes = size_bytes,
                               .device = -1,
                               .references_ = 1,
                               .free_ = free_wrapped,
                               .context_ = context};
    self->release = release;
    *out = &self->buffer;
    return TR_OK;
}

tr_buffer *tr_buffer_retain(tr_buffer *self)
{
    __atomic_add_fetch(&self->references_, 1, __ATOMIC_RELAXED);
    return self;
}

void tr_buffer_release(tr_buffer **self)
{
    tr_buffer *buffer = *self;
    if (!buffer) return;
    *self = NULL;
    if (__atomic_sub_fetch(&buffer->references_, 1, __ATOMIC_ACQ_REL) == 0) buffer->free_(buffer);
}

bool tr_buffer_is_unique(const tr_buffer *self)
{
    return __atomic_load_n(&self->references_, __ATOMIC_ACQUIRE) == 1;
}
