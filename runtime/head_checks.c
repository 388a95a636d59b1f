/* runtime/head_checks.c - what the head looks at with each tick: who is late, who does not answer, what was held back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts.h"

#include <stdio.h>

enum {
    SUSPICION_MS = 400, /* how long a broken link waits for the word of the agent, which knows why */
    HELD_MS = 1500,     /* how long a failure for want of a peer waits for the death that explains it */
    LINE_BYTES = TR_ERROR_SIZE + 256
};

void tr_head_check_greeting(tr_head *self, uint64_t now_ns)
{
    char text[LINE_BYTES];
    if (self->phase != TR_HEAD_GREETING || now_ns < self->greeting_until_ns) return;
    if (self->hosts && (tr_hosts_are_awaited(self->hosts) ||
                        now_ns < tr_hosts_came_on_ns(self->hosts) + (uint64_t)TR_HEAD_GREETING_MS * 1000000))
        return;
    int32_t silent = 0;
    while (silent < self->topology->n_nodes && self->workers[silent].greeted) silent++;
    if (silent == self->topology->n_nodes)
        snprintf(text, sizeof text, "the agent (pid %d) was not there after %d s",
                 tr_crew_agent_pid(self->crew), TR_HEAD_GREETING_MS / 1000);
    else if (self->hosts && !self->workers[silent].pid)
        snprintf(text, sizeof text,
                 "worker %d did not start, and what it begins with did not come on for %d s", silent,
                 TR_HEAD_GREETING_MS / 1000);
    else
        snprintf(text, sizeof text, "worker %d (pid %d) was not ready to load after %d s", silent,
                 self->workers[silent].pid, TR_HEAD_GREETING_MS / 1000);
    tr_head_end_because(self, TR_ETIMEDOUT, text);
}

/* Its death brings on_crew. */
static void fence_agent(tr_head *self, const char *text)
{
    tr_head_tell(self, TR_JOB_WORKER_FENCED, self->agent, tr_crew_agent_pid(self->crew), text);
    tr_crew_kill_agent(self->crew);
}

void tr_head_check_suspect(tr_head *self, uint64_t now_ns)
{
    char text[LINE_BYTES];
    if (!self->suspect || now_ns < self->suspect_since_ns + (uint64_t)SUSPICION_MS * 1000000) return;
    int32_t node = self->suspect;
    bool is_agent = node == self->agent;
    snprintf(text, sizeof text, "%s %d does not answer any more%s (%s)",
             is_agent ? "the agent, node" : "worker", node,
             tr_head_can_recover(self) ? "" : ", though its process lives", self->suspect_reason);
    if (tr_head_can_recover(self)) {
        self->suspect = 0;
        if (is_agent)
            fence_agent(self, text);
        else
            tr_head_fence(self, node, text);
        return;
    }
    tr_head_tell(self, TR_JOB_WORKER_DIED, self->suspect, 0, text);
    tr_head_end_because(self, TR_ECLOSED, text);
}

static bool is_any_fenced(const tr_head *self)
{
    for (int32_t i = 1; i < self->topology->n_nodes; i++)
        if (self->workers[i].fenced) return true;
    return false;
}

/* Who was fenced is about to die, which may explain it. */
void tr_head_check_held(tr_head *self, uint64_t now_ns)
{
    if (self->held.status == TR_OK || is_any_fenced(self) ||
        now_ns < self->held_since_ns + (uint64_t)HELD_MS * 1000000)
        return;
    tr_head_end(self, &self->held, TR_HEAD_GRACE_MS);
}

/* Agents of other hosts cannot know that the job goes on without us, unless they are told with the end. */
void tr_head_check_lead(tr_head *self)
{
    char why[TR_ERROR_SIZE];
    const tr_job_options *options = self->options;
    if (!options->may_lead || self->gives_way || options->may_lead(options->context, why, sizeof why)) return;
    self->gives_way = true;
    if (self->phase != TR_HEAD_ENDING) tr_head_ask_to_stop(self, why);
}
