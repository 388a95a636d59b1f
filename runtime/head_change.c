/* runtime/head_change.c - the head's part in a change of the layout (change.h): the agent deals the state out, the epoch is
 * recorded with the layout that it has, and begins as any other (recovery.c), but that nobody died: workers that are not
 * needed are told to stop, those that go for another are, too, and the agent starts who is new.
 * Whoever runs the job sees to it that all hold one generation and nothing rests on a later one. A death before the epoch
 * is recorded takes the change back, one behind it is mended in the new layout.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/head.h"

#include "base/memory.h"
#include "runtime/hosts.h"

#include <stdio.h>

void tr_job_post(tr_head *self, tr_actor_id to, uint32_t topic)
{
    if (self->phase == TR_HEAD_RUNNING) tr_node_post(self->node, to, topic, NULL, 0);
}

bool tr_job_is_stopping(const tr_head *self)
{
    return self->signals > 0 || self->phase == TR_HEAD_ENDING;
}

tr_status tr_job_change(tr_head *self, const tr_change *change, tr_error *err)
{
    if (self->phase != TR_HEAD_RUNNING || self->change)
        return tr_fail(err, TR_EEXIST, "another change of the job is under way");
    if (!tr_head_can_recover(self) || self->epoch >= TR_HEAD_LAST_EPOCH)
        return tr_fail(err, TR_EINVAL, "this job can have no other epoch");
    if (change->topology->n_nodes > self->agent || change->topology->n_nodes < 2)
        return tr_fail(err, TR_EINVAL, "%d workers are not 1 to %d", change->topology->n_nodes - 1,
                       self->agent - 1);
    if (self->hosts) {
        tr_status asked = tr_hosts_prepare(self->hosts, change, err);
        if (asked == TR_OK) self->change = change;
        return asked;
    }
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status = tr_change_encode(change, self->epoch, self->epoch + 1, &bytes, &size_bytes, err);
    if (status == TR_OK && size_bytes > UINT32_MAX)
        status = tr_fail(err, TR_EINVAL, "a layout of %d workers is too large to tell of",
                         change->topology->n_nodes - 1);
    if (status == TR_OK)
        tr_node_send_system(self->node, self->agent, TR_CONTROL_PREPARE, bytes, (uint32_t)size_bytes);
    tr_free(bytes);
    if (status == TR_OK) self->change = change;
    return status;
}

void tr_head_forget_change(tr_head *self)
{
    self->change = NULL;
    self->changing = false;
}

void tr_head_refuse_change(tr_head *self, const tr_error *why)
{
    self->change = NULL;
    if (self->hosts) tr_hosts_forget_change(self->hosts);
    tr_crew_drop_layout(self->crew);
    self->options->changes.on_refused(self->options->context, self, why);
}

/* In the epoch that is recorded by now. */
static void begin(tr_head *self, uint32_t epoch)
{
    const tr_control_note stop = {0};
    const tr_change *change = self->change;
    int32_t n_before = self->topology->n_nodes;
    char text[128];
    tr_error err;
    for (int32_t i = change->topology->n_nodes; i < n_before; i++)
        tr_control_send_note(self->node, i, TR_CONTROL_STOP, &stop);
    for (size_t i = 0; i < change->n_leaving; i++) {
        self->workers[change->leaving[i]].leaving = true;
        tr_control_send_note(self->node, change->leaving[i], TR_CONTROL_STOP, &stop);
    }
    if (self->hosts && tr_hosts_change(self->hosts, change, &err) != TR_OK) {
        tr_head_end(self, &err, TR_HEAD_GRACE_MS); /* recorded, and cannot be */
        return;
    }
    for (int32_t i = n_before; i < change->topology->n_nodes; i++) {
        self->workers[i] = (tr_head_worker){0};
        self->places[i] = (tr_place_seen){.descriptor = -1};
    }
    snprintf(text, sizeof text, "the layout changes: from %d worker%s to %d", n_before - 1,
             n_before == 2 ? "" : "s", change->topology->n_nodes - 1);
    self->topology = change->topology;
    tr_crew_change_topology(self->crew, change->topology, epoch);
    self->epoch = self->layout = epoch;
    self->change = NULL;
    self->changing = true;
    tr_head_begin_epoch(self, text);
}

void tr_head_prepared(tr_head *self, int32_t peer, const tr_control_note *note)
{
    tr_error err = {.status = note->status};
    uint32_t next = self->epoch + 1;
    if (!self->change || note->layout != next) return; /* a death has taken it back */
    if (note->status == TR_OK && self->hosts && !tr_hosts_prepared(self->hosts, peer)) return;
    snprintf(err.message, sizeof err.message, "%s", note->text);
    if (note->status == TR_OK) (void)self->options->changes.begin(self->options->context, next, &err);
    if (err.status != TR_OK)
        tr_head_refuse_change(self, &err);
    else
        begin(self, next);
}

void tr_head_leaving(tr_head *self, int32_t node)
{
    const tr_job_changes *changes = &self->options->changes;
    if (self->signals > 0 || self->workers[node].leaving || !changes->max_nodes || !tr_head_can_recover(self))
        return;
    changes->on_leaving(self->options->context, self, node);
}
