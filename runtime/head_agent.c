/* runtime/head_agent.c - the head's part when its agent dies: another one goes on with the workers that live. They are nobody's
 * business meanwhile but the head's, which keeps what they need (holdings.h) and sees their ends, as those of its own
 * children: the kernel makes them that. For the workers it is a change of epoch like any other.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/head.h"
#include "runtime/hosts.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = TR_ERROR_SIZE + 256 };

static void on_holdings(void *context)
{
    tr_head *self = context;
    if (!tr_crew_hear_holdings(self->crew))
        tr_node_unwatch(self->node, tr_crew_holdings_descriptor(self->crew));
}

tr_status tr_head_watch_crew(tr_head *self, tr_error *err)
{
    int holdings = tr_crew_holdings_descriptor(self->crew);
    tr_status status = tr_node_watch(self->node, tr_crew_descriptor(self->crew), tr_head_on_crew, self, err);
    if (status == TR_OK && holdings >= 0)
        status = tr_node_watch(self->node, holdings, on_holdings, self, err);
    return status;
}

void tr_head_unwatch_crew(tr_head *self)
{
    int holdings = tr_crew_holdings_descriptor(self->crew);
    tr_node_unwatch(self->node, tr_crew_descriptor(self->crew));
    if (holdings >= 0) tr_node_unwatch(self->node, holdings);
}

void tr_head_agent_is_here(tr_head *self)
{
    self->agent_is_here = true;
    self->agent_awaited = false;
    for (int32_t i = 1; i < self->topology->n_nodes;
         i++) { /* what was said to the one before is lost with it */
        const tr_control_note note = {.node = i};
        if (self->workers[i].fenced) tr_head_tell_agent_of(self, i, TR_CONTROL_FENCE, &note);
    }
}

void tr_head_describe_end(char *text, size_t capacity, const tr_process_end *end)
{
    if (end->signal)
        snprintf(text, capacity, "was killed by signal %d (%s)", end->signal, strsignal(end->signal));
    else if (end->exit_code < 0) /* it was nobody's child here */
        snprintf(text, capacity, "ended");
    else
        snprintf(text, capacity, "ended with exit code %d%s", end->exit_code,
                 end->exit_code == TR_EXIT_DEVICE ? " (its device failed)" : "");
}

/* Before the epoch: who died with the agent, or cannot be gone on with, is no more, nor who was told to end. */
static void count_workers(tr_head *self)
{
    char text[LINE_BYTES], how[128];
    (void)tr_crew_hear_holdings(self->crew);
    self->n_kept = 0;
    for (int32_t i = 1; i < self->agent; i++) {
        tr_process_end end;
        int32_t pid = 0;
        bool here = i < self->topology->n_nodes;
        if (!here || self->workers[i].leaving) tr_crew_end_worker(self->crew, i);
        self->workers[i].leaving = false;
        bool lost = tr_crew_has_lost_worker(self->crew, i, &pid, &end);
        if (self->hosts || !here || !pid) continue;
        self->n_kept += !lost;
        if (pid != self->workers[i].pid) /* its agent did not come to say so */
            tr_head_worker_started(self, &(tr_control_note){.node = i, .pid = pid});
        if (!lost) continue;
        tr_head_describe_end(how, sizeof how, &end);
        snprintf(text, sizeof text, "worker %d (pid %d) %s, with its agent", i, pid, how);
        tr_head_tell(self, TR_JOB_WORKER_DIED, i, pid, text);
    }
}

static void replace_agent(tr_head *self, const char *text)
{
    tr_error err;
    char line[128];
    if (self->hosts) tr_hosts_agent_ended(self->hosts);
    count_workers(self);
    tr_head_recover(self, text);
    if (self->phase == TR_HEAD_ENDING) return;
    self->agent_is_here = false;
    self->agent_awaited = !self->hosts;
    self->agent_fenced = false;
    self->agent_epoch = self->epoch;
    tr_status status = tr_crew_replace_agent(self->crew, self->epoch, &err);
    if (status == TR_OK) status = tr_head_watch_crew(self, &err);
    if (status != TR_OK) {
        tr_head_end(self, &err, 0);
        return;
    }
    snprintf(line, sizeof line, "another agent (pid %d) goes on with %d of %d workers",
             tr_crew_agent_pid(self->crew), self->n_kept, self->topology->n_nodes - 1);
    tr_head_tell(self, TR_JOB_AGENT_REPLACED, -1, tr_crew_agent_pid(self->crew), line);
}

void tr_head_on_early_end(tr_head *self, const tr_process_end *end)
{
    char text[LINE_BYTES];
    int32_t pid = tr_crew_agent_pid(self->crew);
    if (end->signal)
        snprintf(text, sizeof text, "the agent (pid %d) was killed by signal %d (%s)", pid, end->signal,
                 strsignal(end->signal));
    else if (end->exit_code < 0) /* it was taken over: its status is for its parent */
        snprintf(text, sizeof text, "the agent (pid %d) ended before the job was done", pid);
    else
        snprintf(text, sizeof text, "%s ended with exit code %d before the job was done",
                 pid ? "the agent" : "every worker", end->exit_code);
    tr_head_note_death(self, UINT64_MAX);
    tr_head_tell(self, TR_JOB_WORKER_DIED, -1, pid, text);
    if (tr_head_can_recover(self)) {
        replace_agent(self, text);
        return;
    }
    self->phase = TR_HEAD_ENDING;
    tr_fail(&self->cause, TR_ECLOSED, "%s", text);
}
