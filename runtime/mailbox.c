/* runtime/mailbox.c - see mailbox.h. The control lane is a linked list from `oldest_` to `newest_`: a sender puts
 * itself in as the newest, then links its predecessor to itself; between the two the list is cut there and
 * pop gives NULL. In the data lane a sender takes a number, then fills the number's place; between the two pop gives NULL.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/mailbox.h"

#include "base/memory.h"

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

/* Counts a control message in unless the lane is full. Relaxed: the count bounds, the exchange orders. */
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

static uint32_t lane_waiting(const tr_lane *self)
{
    return __atomic_load_n(&self->pushed_, __ATOMIC_RELAXED) -
           __atomic_load_n(&self->popped_, __ATOMIC_RELAXED);
}

/* A store alone: a sender that is overtaken here leaves an older number, and the activation that its notify brings about,
 * which comes after, puts it right. */
void tr_mailbox_show(const tr_mailbox *self)
{
    if (!self->shown) return;
    uint32_t waiting = lane_waiting(&self->data) + lane_waiting(&self->control);
    __atomic_store_n(self->shown, waiting, __ATOMIC_RELAXED);
}

tr_status tr_mailbox_init(tr_mailbox *self, uint32_t data_capacity, uint32_t control_quota, uint32_t *shown,
                          tr_error *err)
{
    self->shown = shown;
    if (shown) __atomic_store_n(shown, 0, __ATOMIC_RELAXED);
    lane_init(&self->data, data_capacity);
    lane_init(&self->control, control_quota);
    size_t n = 1;
    while (n < data_capacity) n *= 2;
    self->data.mask_ = (uint32_t)n - 1;
    if (data_capacity == 0) return TR_OK;
    self->data.places_ = tr_alloc_zero(n, sizeof(tr_message *));
    return self->data.places_
               ? TR_OK
               : tr_fail(err, TR_ENOMEM, "no memory for a mailbox of %u messages", data_capacity);
}

void tr_mailbox_own(tr_mailbox *self)
{
    self->data.is_own_ = true;
}

void tr_mailbox_release(tr_mailbox *self)
{
    tr_message *message;
    if (!self->control.oldest_) return; /* it was never made */
    while ((message = lane_pop(&self->control))) tr_message_destroy(&message);
    while ((message = tr_mailbox_pop(self))) tr_message_destroy(&message);
    tr_free(self->data.places_);
    self->data.places_ = NULL;
}

/* Each push uses up a credit, so the pushes up to this one used all but `capacity` of the credits twice, and as many
 * messages, hence the oldest, have been popped. acquire: those who pushed before us and had acquired these credits come
 * before; release: for those who come after. So the pop that cleared the place comes before, and is counted in popped_. */
void tr_mailbox_push(tr_mailbox *self, tr_message **message)
{
    tr_lane *lane = &self->data;
    uint32_t number =
        lane->is_own_ ? lane->pushed_++ : __atomic_fetch_add(&lane->pushed_, 1, __ATOMIC_ACQ_REL);
    /* Signed: while we sleep here later pushes than our own may be counted, and popped. */
    int32_t ahead = (int32_t)(number - __atomic_load_n(&lane->popped_, __ATOMIC_RELAXED));
    bool within_the_credits_granted = ahead < (int64_t)lane->capacity;
    TR_ASSERT(within_the_credits_granted);
    /* release: what the message holds, for the receiver's acquire in tr_mailbox_pop. */
    __atomic_store_n(&lane->places_[number & lane->mask_], *message, __ATOMIC_RELEASE);
    *message = NULL;
    tr_mailbox_show(self);
}

bool tr_mailbox_push_control(tr_mailbox *self, tr_message **message)
{
    if (!lane_reserve(&self->control)) return false;
    lane_link(&self->control, *message);
    *message = NULL;
    tr_mailbox_show(self);
    return true;
}

void tr_mailbox_push_notice(tr_mailbox *self, tr_message **message)
{
    __atomic_fetch_add(&self->control.pushed_, 1, __ATOMIC_RELAXED); /* its pop counts it out again */
    lane_link(&self->control, *message);
    *message = NULL;
    tr_mailbox_show(self);
}

tr_message *tr_mailbox_pop(tr_mailbox *self)
{
    tr_lane *lane = &self->data;
    uint32_t number = lane->popped_; /* ours alone to write */
    if (!lane->places_) return NULL;
    tr_message **place = &lane->places_[number & lane->mask_];
    /* acquire: pairs with the release in push. */
    tr_message *message = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    if (!message) return NULL;
    /* Both relaxed: they come before the next push to this place by the credit; see push. */
    __atomic_store_n(place, NULL, __ATOMIC_RELAXED);
    __atomic_store_n(&lane->popped_, number + 1, __ATOMIC_RELAXED);
    return message;
}

tr_message *tr_mailbox_pop_control(tr_mailbox *self)
{
    tr_lane *lane = &self->control;
    tr_message *message = lane_pop(lane);
    if (!message) return NULL;
    __atomic_store_n(&lane->popped_, lane->popped_ + 1, __ATOMIC_RELAXED); /* one writer; see lane_reserve */
    return message;
}

uint32_t tr_mailbox_waiting(const tr_mailbox *self)
{
    return lane_waiting(&self->data);
}
