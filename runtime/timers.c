/* runtime/timers.c - see timers.h. A binary heap; next_ns_ repeats its top for a look without the lock:
 * relaxed, since whoever acts on it takes the lock first.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/timers.h"

#include "base/memory.h"

static bool before(const tr_timer *a, const tr_timer *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void swap(tr_timer *a, tr_timer *b)
{
    tr_timer kept = *a;
    *a = *b;
    *b = kept;
}

static void publish(tr_timers *self)
{
    __atomic_store_n(&self->next_ns_, self->n_ ? self->heap_[0].due_ns : UINT64_MAX, __ATOMIC_RELAXED);
}

void tr_timers_init(tr_timers *self)
{
    *self = (tr_timers){.next_ns_ = UINT64_MAX};
    pthread_mutex_init(&self->lock_, NULL);
}

void tr_timers_release(tr_timers *self)
{
    pthread_mutex_destroy(&self->lock_);
    tr_free(self->heap_);
    self->heap_ = NULL;
}

tr_status tr_timers_add(tr_timers *self, uint64_t due_ns, tr_actor_id actor, uint32_t incarnation,
                        uint32_t tag, bool *earliest, tr_error *err)
{
    pthread_mutex_lock(&self->lock_);
    tr_status status =
        tr_array_reserve((void **)&self->heap_, &self->capacity_, self->n_ + 1, sizeof *self->heap_, err);
    if (status == TR_OK) {
        size_t at = self->n_++;
        self->heap_[at] = (tr_timer){.due_ns = due_ns,
                                     .order = self->n_set_++,
                                     .actor = actor,
                                     .tag = tag,
                                     .incarnation = incarnation};
        for (; at > 0 && before(&self->heap_[at], &self->heap_[(at - 1) / 2]); at = (at - 1) / 2)
            swap(&self->heap_[at], &self->heap_[(at - 1) / 2]);
        publish(self);
        *earliest = at == 0;
    }
    pthread_mutex_unlock(&self->lock_);
    return status;
}

uint64_t tr_timers_next(const tr_timers *self)
{
    return __atomic_load_n(&self->next_ns_, __ATOMIC_RELAXED);
}

static void remove_top(tr_timers *self)
{
    self->heap_[0] = self->heap_[--self->n_];
    for (size_t at = 0, least = 0;; at = least) {
        for (size_t child = 2 * at + 1; child <= 2 * at + 2; child++)
            if (child < self->n_ && before(&self->heap_[child], &self->heap_[least])) least = child;
        if (least == at) break;
        swap(&self->heap_[at], &self->heap_[least]);
    }
}

bool tr_timers_take(tr_timers *self, uint64_t now_ns, tr_timer *out)
{
    if (tr_timers_next(self) > now_ns) return false;
    pthread_mutex_lock(&self->lock_);
    bool is_due = self->n_ > 0 && self->heap_[0].due_ns <= now_ns;
    if (is_due) {
        *out = self->heap_[0];
        remove_top(self);
        publish(self);
    }
    pthread_mutex_unlock(&self->lock_);
    return is_due;
}
