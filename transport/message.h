/* transport/message.h - a frame with its body, as it lies in mailboxes and goes through links.
 * A message has one owner; functions that take it null the owner's pointer. The body is shared by reference
 * count: within a process a tensor travels as a pointer. The body's bytes are the first frame.body_bytes of
 * body->data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_MESSAGE_H
#define TROUPE_TRANSPORT_MESSAGE_H

#include "base/buffer.h"
#include "transport/frame.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_message {
    struct tr_message *next; /* for whoever holds it: queues are intrusive */
    tr_frame frame;
    tr_buffer *body; /* NULL when there is none */
    void *link_;     /* private: a transport's while it holds the message */
} tr_message;

/* A zeroed frame.
 * Takes over the caller's reference to body (may be NULL) also when it fails. Errors: TR_ENOMEM. */
tr_status tr_message_new(tr_message **out, tr_buffer *body, uint32_t body_bytes, tr_error *err);
/* With a body of its own, copied from bytes. */
tr_status tr_message_copy(tr_message **out, const void *bytes, uint32_t size_bytes, tr_error *err);
void tr_message_destroy(tr_message **self); /* releases the body; NULL-safe */
static inline const void *tr_message_bytes(const tr_message *self)
{
    return self->body ? self->body->data : NULL;
}

#ifdef __cplusplus
}
#endif
#endif
