/* runtime/hosts_quarantine.c - a host whose processes make mistakes is treated as one that is lost: what it holds is not to be
 * trusted, so its states come from copies and equals elsewhere. It is known by its address, so that it does not come again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

#include <stdio.h>

uint32_t *tr_hosts_mistakes(tr_hosts *self, int32_t node, char *text, size_t capacity)
{
    char name[TR__HOST_LINE_BYTES];
    int32_t m = self->home[node];
    if (m < 0) return NULL;
    tr__hosts_describe(self, m, name);
    snprintf(text, capacity, "%s", name);
    return &self->members[m].n_mistakes;
}

bool tr_hosts_quarantine(tr_hosts *self, int32_t node)
{
    int32_t m = self->home[node], spare = 1;
    while (spare < self->n_members && !(tr__hosts_stays(self, spare) && self->members[spare].host < 0))
        spare++;
    if (m < 1 || spare == self->n_members) return false; /* the head's own, or nobody takes its place */
    self->members[m].quarantined = true;
    tr__hosts_lose(self, m, "it is quarantined");
    return true;
}

bool tr__hosts_is_banned(tr_hosts *self, int32_t m)
{
    char line[TR__HOST_LINE_BYTES + 64];
    const tr_control_note stop = {0};
    int32_t k = 1, peer = tr__hosts_first_agent(self) + m;
    while (k < self->n_members &&
           !(self->members[k].quarantined &&
             tr__hosts_is_same_place(self->members[k].address, self->members[m].address)))
        k++;
    if (k == self->n_members) return false;
    snprintf(line, sizeof line, "the host '%s' at %s is quarantined, and not taken again",
             self->members[m].name, self->members[m].address);
    tr_head_tell(self->head, TR_JOB_HOST_REFUSED, -1, 0, line);
    tr_control_send_note(self->head->node, peer, TR_CONTROL_STOP, &stop);
    return true;
}
