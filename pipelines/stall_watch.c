/* pipelines/stall_watch.c - see stall_watch.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/stall_watch.h"

#include "actors/topics.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

enum { TIMES_THE_MEDIAN = 10, PART_OF_THE_LIMIT = 4 };

void tr_stall_watch_init(tr_stall_watch *self, uint32_t after_s, uint64_t now_ns)
{
    *self = (tr_stall_watch){.limit_ns = (uint64_t)after_s * 1000000000u, .moved_ns = now_ns};
}

void tr_stall_watch_begin(tr_stall_watch *self, uint64_t now_ns)
{
    self->moved_ns = now_ns;
    self->told = false;
}

static double median_ms(const tr_stall_watch *self)
{
    double sorted[TR_STALL_STEPS];
    uint32_t n = self->n_steps < TR_STALL_STEPS ? self->n_steps : TR_STALL_STEPS;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1] > self->step_ms[i]; at--) sorted[at] = sorted[at - 1];
        sorted[at] = self->step_ms[i];
    }
    return n ? sorted[n / 2] : 0;
}

uint64_t tr_stall_watch_limit_ns(const tr_stall_watch *self)
{
    uint64_t by_steps = (uint64_t)(TIMES_THE_MEDIAN * median_ms(self) * 1e6);
    return by_steps > self->limit_ns ? by_steps : self->limit_ns;
}

bool tr_stall_watch_step(tr_stall_watch *self, uint32_t step, double step_ms, uint64_t now_ns, char *text,
                         size_t capacity)
{
    bool was_stalled = self->stalled_ns != 0;
    if (was_stalled)
        snprintf(text, capacity, "going on: step %u ended, %.1f s after the one before it", step,
                 (double)(now_ns - self->stalled_ns) * 1e-9);
    self->step_ms[self->n_steps++ % TR_STALL_STEPS] = step_ms;
    self->moved_ns = now_ns;
    self->stalled_ns = 0;
    self->told = false;
    return was_stalled;
}

bool tr_stall_watch_judge(tr_stall_watch *self, const tr_topology *topology, const tr_actor_seen *seen,
                          uint64_t now_ns, char *text, size_t capacity)
{
    tr_stall stall;
    uint64_t limit_ns = tr_stall_watch_limit_ns(self);
    if (self->told || now_ns < self->moved_ns + limit_ns || !tr_stall_find(&stall, topology, seen))
        return false;
    bool broken = stall.kind <= TR_STALL_SILENT;
    if (!broken && now_ns < stall.since_ns + limit_ns / PART_OF_THE_LIMIT) return false;
    int n = snprintf(text, capacity, "no step has ended for %.1f s: %u %s ",
                     (double)(now_ns - self->moved_ns) * 1e-9, stall.n_waiting,
                     stall.n_waiting == 1 ? "actor waits for" : "actors wait for");
    if (n > 0 && (size_t)n < capacity)
        tr_stall_describe(&stall, topology, seen, tr_topic_name, now_ns, text + n, capacity - (size_t)n);
    self->told = true;
    if (!self->stalled_ns) self->stalled_ns = self->moved_ns;
    return true;
}

bool tr_stall_watch_look(tr_stall_watch *self, const tr_topology *topology, const tr_place_seen *places,
                         uint64_t now_ns, char *text, size_t capacity)
{
    if (!places || self->told || now_ns < self->moved_ns + tr_stall_watch_limit_ns(self)) return false;
    tr_actor_seen *seen = tr_alloc_zero(topology->n_actors, sizeof *seen);
    if (!seen) return false; /* next time */
    tr_look(topology, places, now_ns, seen);
    bool stalled = tr_stall_watch_judge(self, topology, seen, now_ns, text, capacity);
    tr_free(seen);
    return stalled;
}
