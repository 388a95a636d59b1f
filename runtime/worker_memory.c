/* runtime/worker_memory.c - see worker_memory.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/worker_memory.h"

#include "base/memory.h"

#include <string.h>
#include <unistd.h>

static void close_all(const int *descriptors, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) close(descriptors[i]);
}

static void forget_next(tr__worker_memory *self)
{
    close_all(self->next.descriptors, self->next.n);
    tr_free(self->next.descriptors);
    memset(&self->next, 0, sizeof self->next);
}

static void close_regions(tr__worker_memory *self)
{
    for (int32_t i = 0; self->regions && !self->borrowed && i < self->n_states; i++)
        tr_state_region_destroy(&self->regions[i]);
    tr_free(self->regions);
    self->regions = NULL;
    self->n_states = 0;
}

static tr_status make_room(tr__worker_memory *self, int32_t n, tr_error *err)
{
    if (n == 0) return TR_OK;
    self->regions = tr_alloc_zero((size_t)n, sizeof *self->regions);
    if (!self->regions) return tr_fail(err, TR_ENOMEM, "no memory for %d state regions", n);
    self->n_states = n;
    return TR_OK;
}

tr_status tr__worker_memory_open(tr__worker_memory *self, int first, int32_t n,
                                 tr_state_region *const *regions, bool may_spin, tr_error *err)
{
    *self = (tr__worker_memory){.may_spin = may_spin, .borrowed = regions != NULL};
    tr_status status = make_room(self, n, err);
    for (int32_t i = 0; i < n && status == TR_OK; i++) {
        if (regions)
            self->regions[i] = regions[i];
        else
            status = tr_state_region_open(&self->regions[i], first + i, err);
    }
    return status;
}

void tr__worker_memory_release(tr__worker_memory *self)
{
    forget_next(self);
    close_regions(self);
}

/* Words come in order and nobody's but the agent's; of a layout that was overtaken by another nothing is needed. An agent that
 * follows one which died begins anew with what that one may have said in part. */
void tr__worker_memory_hear(tr__worker_memory *self, const tr_lease_word *word)
{
    uint32_t count = (uint32_t)word->n_descriptors;
    if (word->layout != self->next.layout || word->at == 0) {
        forget_next(self);
        self->next.layout = word->layout;
        self->next.keeps = word->keeps;
        self->next.may_spin = word->may_spin;
        self->next.n_states = word->n_states;
        self->next.descriptors = tr_alloc_zero((size_t)word->n_states + 1, sizeof(int));
    }
    if (!self->next.descriptors || word->at != self->next.n || count > self->next.n_states - self->next.n) {
        close_all(word->descriptors, count); /* never whole: the head will miss it and have it replaced */
        return;
    }
    if (count) memcpy(self->next.descriptors + self->next.n, word->descriptors, count * sizeof(int));
    self->next.n += count;
}

static bool is_whole(const tr__worker_memory *self)
{
    return self->next.layout && self->next.descriptors &&
           (self->next.keeps || self->next.n == self->next.n_states);
}

bool tr__worker_memory_has(const tr__worker_memory *self, uint32_t layout)
{
    return self->layout >= layout || (is_whole(self) && self->next.layout >= layout);
}

tr_status tr__worker_memory_take(tr__worker_memory *self, tr_error *err)
{
    tr_status status = TR_OK;
    if (!is_whole(self)) return TR_OK;
    self->layout = self->next.layout;
    self->may_spin = self->next.may_spin;
    if (!self->next.keeps) {
        close_regions(self);
        self->borrowed = false;
        status = make_room(self, (int32_t)self->next.n_states, err);
        uint32_t taken = 0;
        for (; status == TR_OK && taken < self->next.n; taken++)
            status = tr_state_region_open(&self->regions[taken], self->next.descriptors[taken], err);
        if (status != TR_OK && taken) taken--; /* a region takes its descriptor only on success */
        close_all(self->next.descriptors + taken, self->next.n - taken);
        self->next.n = 0;
    }
    forget_next(self);
    return status;
}
