/* runtime/hosts_members.c - who is a member, and who is silent. A host that was here keeps its number for ever, so that what it or its
 * workers say is never taken for another's. Who knocks gets a number as well, and may never come: after a while the next one gets
 * it, or a host that fails at its start and tries again would use all of them up. Should the first one come all the same, it is
 * known by its incarnation, which is lower; where both are, the transport refuses it for that.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

#include <stdio.h>
#include <string.h>

enum {
    COMES_MS = 60000,  /* from the knock to the greeting, which is a moment */
    BROKEN_MS = 300,   /* a link that breaks may be one of many: the host is lost with all of them */
    MIN_BEAT_MS = 100, /* between two signs of life */
};

static bool is_free(const tr_hosts *self, int32_t m, uint64_t now_ns)
{
    const tr__member *who = &self->members[m];
    return !who->heard_ns && now_ns > who->knocked_ns + COMES_MS * 1000000ull;
}

int32_t tr__hosts_new_member(tr_hosts *self)
{
    uint64_t now_ns = tr_node_now_ns(self->head->node);
    int32_t m = 1;
    while (m < self->n_members && !is_free(self, m, now_ns)) m++;
    if (m == TR_MAX_MEMBERS) return -1;
    uint32_t least = m < self->n_members ? self->members[m].incarnation + 1 : 0;
    if (m == self->n_members) self->n_members++;
    self->members[m] = (tr__member){.host = -1,
                                    .knocked_ns = now_ns,
                                    .incarnation = self->head->epoch > least ? self->head->epoch : least};
    return m;
}

bool tr__hosts_is_expected(const tr_hosts *self, int32_t m, uint32_t incarnation)
{
    return m == 0 || incarnation >= self->members[m].incarnation;
}

/* The port is another one each time. */
bool tr__hosts_is_same_place(const char *one, const char *other)
{
    const char *end = strrchr(one, ':');
    size_t length = end ? (size_t)(end - one) + 1 : strlen(one);
    return strlen(other) >= length && memcmp(one, other, length) == 0 && strchr(other + length, ':') == NULL;
}

/* --- signs of life --- */

void tr__hosts_beat(tr_hosts *self, uint64_t now_ns)
{
    uint32_t every_ms = self->options->silence_ms / 8;
    if (every_ms < MIN_BEAT_MS) every_ms = MIN_BEAT_MS;
    if (now_ns < self->beat_ns + (uint64_t)every_ms * 1000000) return;
    self->beat_ns = now_ns;
    for (int32_t m = 1; m < self->n_members; m++)
        if (self->members[m].present)
            tr_node_send_system(self->head->node, tr__hosts_first_agent(self) + m, TR_CONTROL_BEAT, NULL, 0);
}

void tr__hosts_look_at_members(tr_hosts *self, uint64_t now_ns)
{
    char why[96];
    for (int32_t m = 1; m < self->n_members; m++) {
        const tr__member *who = &self->members[m];
        if (!who->present) continue;
        if (who->broken_ns && now_ns > who->broken_ns + (uint64_t)BROKEN_MS * 1000000)
            tr__hosts_lose(self, m, "the link to its agent broke");
        else if (now_ns > who->heard_ns + (uint64_t)self->options->silence_ms * 1000000) {
            snprintf(why, sizeof why, "nothing was heard of it for %.1f s",
                     (double)(now_ns - who->heard_ns) * 1e-9);
            tr__hosts_lose(self, m, why);
        }
    }
}
