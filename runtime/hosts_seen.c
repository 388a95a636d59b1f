/* runtime/hosts_seen.c - where workers of a job on several hosts are to be seen: here, or in a page that the head keeps for
 * what their agents tell (host_activity.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

tr_place_seen tr_hosts_place(tr_hosts *self, int32_t node, int32_t pid)
{
    int32_t m = self->home[node];
    if (m == 0) return tr_place_of(pid, TR_LAUNCH_FIRST_INHERITED);
    return tr_host_pages_begin(self->pages, node, pid, self->members[m].host, self->members[m].name);
}

void tr__hosts_seen(tr_hosts *self, int32_t m, const tr_message *message)
{
    tr_worker_seen seen;
    if (tr_worker_seen_decode(&seen, tr_message_bytes(message), message->frame.body_bytes, NULL) == TR_OK &&
        seen.node < self->head->topology->n_nodes && self->home[seen.node] == m)
        tr_host_pages_take(self->pages, &seen, tr_node_now_ns(self->head->node));
}
