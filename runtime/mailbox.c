/* runtime/mailbox.c - see mailbox.h. A lane is a linked list from `oldest_` to `newest_`. A sender puts
 * itself in as the newest, then links its predecessor to itself; between the two the list is cut there and
 * pop gives NULL.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/mailbox.h"

static void lane_init(tr_lane *self, uint32_t capacity)
{
    *self = (tr_lane){.capacity = capacity};
    self->newest_ = self->oldest_ = &self->stub_;
}

static void lane_link(tr_lane *self, tr_message *message)
{
    __atomic_store_n(&message->next, NULL, __ATOMIC_RELAXED);
    /* acquire: the predecessor's `next` = NULL above comes before ours below;
     * release: for the successor, the same. */
    tr_message *before = __atomic_exchange_n(&self->newest_, message, __ATOMIC_ACQ_REL);
    /* release: what the message holds, for the receiver's acquire of the same pointer in lane_pop. */
    __atomic_store_n(&before->next, message, __ATOMIC_RELEASE);
}

/* Counts the message in unless the lane is full. Relaxed: that a freed place is seen follows from the credit,
 * which the receiver gives back (release) after its pop and the sender takes (acquire) before its push. */
static bool lane_reserve(tr_lane *self)
{
    uint32_t pushed = __atomic_fetch_add(&self->pushed_, 1, __ATOMIC_RELAXED);
    /* Signed: a sender that sleeps between these two lines may find that later pushes than its own are popped. */
    int32_t ahead = (int32_t)(pushed - __atomic_load_n(&self->popped_, __ATOMIC_RELAXED));
    if (ahead < (int64_t)self->capacity) return true;
    __atomic_fetch_sub(&self->pushed_, 1, __ATOMIC_RELAXED);
    return false;
}

static tr_message *lane_pop(tr_lane *self)
{
    tr_message *first = self->oldest_;
    /* acquire: pairs with the release in lane_link; here and below. */
    tr_message *second = __atomic_load_n(&first->next, __ATOMIC_ACQUIRE);
    if (first == &self->stub_) {
        if (!second) return NULL;
        first = self->oldest_ = second;
        second = __atomic_load_n(&first->next, __ATOMIC_ACQUIRE);
    }
    if (!second) {
        /* Only one is left: it can be taken when the stub stands behind it.
         * acquire: pairs with the exchange. */
        if (__atomic_load_n(&self->newest_, __ATOMIC_ACQUIRE) != first) return NULL;
        lane_link(self, &self->stub_);
        second = __atomic_load_n(&first->next, __ATOMIC_ACQUIRE);
        if (!second) return NULL;
    }
    self->oldest_ = second;
    first->next = NULL;
    return first;
}

static void lane_count_out(tr_lane *self)
{
    __atomic_store_n(&self->popped_, self->popped_ + 1, __ATOMIC_RELAXED); /* one writer; see lane_reserve */
}

/* Before the message can be taken, so that the count is never below none. */
static void show(tr_mailbox *self)
{
    if (self->shown) __atomic_fetch_add(self->shown, 1, __ATOMIC_RELAXED);
}

static void show_taken(tr_mailbox *self)
{
    if (self->shown) __atomic_fetch_sub(self->shown, 1, __ATOMIC_RELAXED);
}

void tr_mailbox_init(tr_mailbox *self, uint32_t data_capacity, uint32_t control_quota, uint32_t *shown)
{
    self->shown = shown;
    if (shown) __atomic_store_n(shown, 0, __ATOMIC_RELAXED);
    lane_init(&self->data, data_capacity);
    lane_init(&self->control, control_quota);
}

void tr_mailbox_release(tr_mailbox *self)
{
    tr_message *message;
    while ((message = lane_pop(&self->control))) tr_message_destroy(&message);
    while ((message = lane_pop(&self->data))) tr_message_destroy(&message);
}

void tr_mailbox_push(tr_mailbox *self, tr_message **message)
{
    bool within_the_credits_granted = lane_reserve(&self->data);
    TR_ASSERT(within_the_credits_granted);
    show(self);
    lane_link(&self->data, *message);
    *message = NULL;
}

bool tr_mailbox_push_control(tr_mailbox *self, tr_message **message)
{
    if (!lane_reserve(&self->control)) return false;
    show(self);
    lane_link(&self->control, *message);
    *message = NULL;
    return true;
}

void tr_mailbox_push_notice(tr_mailbox *self, tr_message **message)
{
    __atomic_fetch_add(&self->control.pushed_, 1, __ATOMIC_RELAXED); /* its pop counts it out again */
    show(self);
    lane_link(&self->control, *message);
    *message = NULL;
}

tr_message *tr_mailbox_pop(tr_mailbox *self)
{
    tr_message *message = lane_pop(&self->data);
    if (!message) return NULL;
    lane_count_out(&self->data);
    show_taken(self);
    return message;
}

tr_message *tr_mailbox_pop_control(tr_mailbox *self)
{
    tr_message *message = lane_pop(&self->control);
    if (!message) return NULL;
    lane_count_out(&self->control);
    show_taken(self);
    return message;
}

uint32_t tr_mailbox_waiting(const tr_mailbox *self)
{
    return __atomic_load_n(&self->data.pushed_, __ATOMIC_RELAXED) -
           __atomic_load_n(&self->data.popped_, __ATOMIC_RELAXED);
}
