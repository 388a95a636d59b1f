/* runtime/keepsake.c - see keepsake.h. A worker has few actors, so it is a list.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/keepsake.h"

#include "base/memory.h"

void tr_keepsakes_init(tr_keepsakes *self)
{
    *self = (tr_keepsakes){0};
    pthread_mutex_init(&self->lock_, NULL);
}

void tr_keepsakes_release(tr_keepsakes *self)
{
    tr_keepsakes_clear(self);
    pthread_mutex_destroy(&self->lock_);
}

/* Out of the list; what is NULL where there was none. */
static tr_keepsake take(tr_keepsakes *self, tr_actor_id who)
{
    tr_keepsake found = {.who = who};
    size_t at = 0;
    while (at < self->count_ && self->items_[at].who != who) at++;
    if (at == self->count_) return found;
    found = self->items_[at];
    self->items_[at] = self->items_[--self->count_];
    return found;
}

void tr_keepsakes_put(tr_keepsakes *self, tr_keepsake keepsake)
{
    pthread_mutex_lock(&self->lock_);
    tr_keepsake older = take(self, keepsake.who), lost = {0};
    void *items = self->items_;
    if (tr_array_reserve(&items, &self->capacity_, self->count_ + 1, sizeof *self->items_, NULL) == TR_OK) {
        self->items_ = items;
        self->items_[self->count_++] = keepsake;
    } else {
        lost = keepsake;
    }
    pthread_mutex_unlock(&self->lock_);
    if (older.what) older.destroy(older.what);
    if (lost.what) lost.destroy(lost.what);
}

void *tr_keepsakes_take(tr_keepsakes *self, tr_actor_id who)
{
    pthread_mutex_lock(&self->lock_);
    void *what = take(self, who).what;
    pthread_mutex_unlock(&self->lock_);
    return what;
}

void tr_keepsakes_clear(tr_keepsakes *self)
{
    pthread_mutex_lock(&self->lock_);
    tr_keepsake *items = self->items_;
    size_t count = self->count_;
    self->items_ = NULL;
    self->count_ = self->capacity_ = 0;
    pthread_mutex_unlock(&self->lock_);
    for (size_t i = 0; i < count; i++) items[i].destroy(items[i].what);
    tr_free(items);
}
