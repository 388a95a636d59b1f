/* runtime/readopt.c - a head that begins with the agent and the workers of one that died.
 * For them it is a change of epoch like any other, only that the head is another process: they end what they had of the old
 * epoch, greet, and go back to the newest generation that all slots hold (recovery.c). Its epoch was recorded before.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/head.h"

#include "runtime/orphans.h"

#include <stdio.h>

void tr_head_readopt(tr_head *self, const struct tr_orphans *orphans)
{
    const tr_lease_offer *offer = &orphans->offer;
    self->changed_ns = tr_node_now_ns(self->node);
    self->lost_ns = offer->lost_ns;
    self->detected_ns = orphans->found_ns;
    self->former_epoch = offer->epoch;
    self->agent_epoch = self->epoch;
    self->agent_awaited = tr_crew_was_taken(self->crew);
    for (int32_t i = 1; i < self->topology->n_nodes; i++) {
        const tr_place_seen *worker = &offer->workers[i];
        if (!worker->pid) continue;         /* the agent starts another one, and tells */
        self->workers[i].pid = worker->pid; /* also of one that has just died: its end may be told yet */
        tr_crew_add_worker(self->crew, i, worker->pid);
        if (!tr_place_lives(worker)) { /* what has the pid now is somebody else */
            tr_process_end end;
            (void)tr_crew_remove_worker(self->crew, i, worker->pid, &end);
            continue;
        }
        self->places[i] = *worker;
        self->n_readopted++;
    }
}

void tr_head_tell_readopted(tr_head *self)
{
    char text[160];
    snprintf(
        text, sizeof text,
        "re-adopted %d workers of epoch %u; epoch %u goes on from generation %llu, %.0f ms after it began",
        self->n_readopted, self->former_epoch, self->epoch, (unsigned long long)self->generation,
        (double)(tr_node_now_ns(self->node) - self->changed_ns) * 1e-6);
    tr_head_tell(self, TR_JOB_READOPTED, -1, 0, text);
}
