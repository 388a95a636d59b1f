/* actors/message_queue.h - messages that an actor keeps until it can use them, in order of arrival.
 * Threads: its actor's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_MESSAGE_QUEUE_H
#define TROUPE_ACTORS_MESSAGE_QUEUE_H

#include "transport/message.h"

typedef struct tr_message_queue {
    tr_message *head, *tail;
} tr_message_queue;

static inline void tr_message_queue_push(tr_message_queue *self, tr_message *message)
{
    message->next = NULL;
    if (self->tail)
        self->tail->next = message;
    else
        self->head = message;
    self->tail = message;
}

/* NULL when it is empty. */
static inline tr_message *tr_message_queue_pop(tr_message_queue *self)
{
    tr_message *message = self->head;
    if (!message) return NULL;
    self->head = message->next;
    if (!self->head) self->tail = NULL;
    message->next = NULL;
    return message;
}

#endif
