/* transport/message.c - see message.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/message.h"

#include "base/memory.h"

#include <string.h>

tr_status tr_message_new(tr_message **out, tr_buffer *body, uint32_t body_bytes, tr_error *err)
{
    TR_ASSERT(body ? body_bytes <= body->size_bytes : body_bytes == 0);
    tr_message *self = tr_alloc_zero(1, sizeof *self);
    if (!self) {
        tr_buffer_release(&body);
        return tr_fail(err, TR_ENOMEM, "no memory for a message");
    }
    self->frame.body_bytes = body_bytes;
    self->body = body;
    *out = self;
    return TR_OK;
}

tr_status tr_message_copy(tr_message **out, const void *bytes, uint32_t size_bytes, tr_error *err)
{
    tr_buffer *body = NULL;
    if (size_bytes) {
        tr_status status = tr_buffer_new(&body, size_bytes, err);
        if (status != TR_OK) return status;
        memcpy(body->data, bytes, size_bytes);
    }
    return tr_message_new(out, body, size_bytes, err);
}

void tr_message_destroy(tr_message **self)
{
    tr_message *message = *self;
    if (!message) return;
    *self = NULL;
    tr_buffer_release(&message->body);
    tr_free(message);
}
