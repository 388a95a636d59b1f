/* runtime/quarantine.c - what the head makes of mistakes that are found: messages that came with other bits than were sent, and
 * computations that a third one showed to be wrong.
 * A damaged message is dropped by whoever gets it, and who waits for it would wait for ever. So a new epoch begins: all links are
 * made anew, and everything is sent again. A worker whose messages come damaged again and again within the period in which deaths
 * are counted is replaced. Each such replacement, and each computation that was wrong, is a mistake of the host on which the
 * process ran; with too many of them no process is started there any more.
 * Counts are of this head: another one begins anew. Those of devices that fail are kept by whoever runs the job.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts.h"

#include <stdio.h>
#include <string.h>

enum { MOST_DAMAGED = 3, LINE_BYTES = TR_ERROR_SIZE + 256 };

/* True: that was too many, and the job goes on elsewhere, or ends. */
static bool accuse(tr_head *self, int32_t node, const char *text)
{
    char line[LINE_BYTES], where[LINE_BYTES] = "this host";
    uint32_t most = self->options->recovery.quarantine_after;
    uint32_t *n = self->hosts ? tr_hosts_mistakes(self->hosts, node, where, sizeof where) : &self->n_mistakes;
    if (!most || !n || ++*n != most) return false;
    snprintf(line, sizeof line, "%.300s is quarantined for %u mistake%s of its processes; the last: %.600s",
             where, most, most == 1 ? "" : "s", text);
    tr_head_tell(self, TR_JOB_QUARANTINED, node, 0, line);
    if (self->hosts && tr_hosts_quarantine(self->hosts, node)) return true;
    size_t used = strlen(line);
    snprintf(line + used, sizeof line - used, "; no spare host takes its place");
    tr_head_give_up(self, line);
    return true;
}

void tr_head_on_accused(void *context, int32_t node, const char *text)
{
    tr_head *self = context;
    if (node >= 1 && node < self->topology->n_nodes) (void)accuse(self, node, text);
}

/* On several hosts it is the host's mistake: which devices those have is not known here. */
bool tr_head_gives_up_device(tr_head *self, int32_t node, const char *text)
{
    char line[LINE_BYTES] = "";
    const tr_job_recovery *recovery = &self->options->recovery;
    if (!tr_head_can_recover(self)) return false;
    if (self->hosts) return accuse(self, node, text);
    if (!recovery->device_failed) return false;
    tr_job_verdict verdict = recovery->device_failed(self->options->context, node, text, line, sizeof line);
    if (verdict == TR_JOB_DEVICE_STAYS) return false;
    tr_head_tell(self, TR_JOB_QUARANTINED, node, 0, line);
    if (verdict == TR_JOB_NO_DEVICE_LEFT) tr_head_give_up(self, line);
    return verdict == TR_JOB_NO_DEVICE_LEFT;
}

/* Words between head and agents are few, and an agent that lacks one may wait for ever: it is replaced, or its host is lost. */
static void replace_agent(tr_head *self, int32_t agent, const char *text)
{
    tr_head_tell(self, TR_JOB_FRAME_DAMAGED, agent, 0, text);
    if (agent == self->agent && self->crew)
        tr_crew_kill_agent(self->crew);
    else if (self->hosts)
        tr_hosts_lost_link(self->hosts, agent, text);
}

/* Is this one too many within the period? */
static bool is_repeated(tr_head *self, int32_t node)
{
    tr_head_worker *worker = &self->workers[node];
    uint64_t now_ns = tr_node_now_ns(self->node);
    uint64_t within_ns = (uint64_t)self->options->recovery.within_ms * 1000000;
    if (!worker->n_damaged || now_ns - worker->damaged_ns > within_ns) {
        worker->n_damaged = 0;
        worker->damaged_ns = now_ns;
    }
    return ++worker->n_damaged >= MOST_DAMAGED;
}

void tr_head_damaged(tr_head *self, int32_t from, int32_t to, const char *reason)
{
    char text[LINE_BYTES];
    int32_t node = from > 0 ? from : to; /* what the head sent: who got it can be replaced */
    if (self->phase == TR_HEAD_ENDING || from < 0 || to < 0) return;
    if (from >= self->agent || to >= self->agent) {
        snprintf(text, sizeof text, "a message of node %d to node %d came damaged (%.600s)", from, to,
                 reason);
        replace_agent(self, to >= self->agent ? to : from, text);
        return;
    }
    if (node < 1 || node >= self->topology->n_nodes || self->workers[node].fenced) return;
    bool can = tr_head_can_recover(self), repeated = can && is_repeated(self, node);
    snprintf(text, sizeof text, "a message of %s%d to %s%d came damaged%s (%.600s)%s",
             from ? "worker " : "node ", from, to ? "worker " : "node ", to, repeated ? " again" : "", reason,
             !can       ? ""
             : repeated ? "; the worker is replaced"
                        : "; all links are made anew, and everything is sent again");
    tr_head_tell(self, TR_JOB_FRAME_DAMAGED, node, self->workers[node].pid, text);
    if (!can) {
        tr_head_end_because(self, TR_ECORRUPT, text);
    } else if (repeated) {
        self->workers[node].n_damaged = 0;
        if (!accuse(self, node, text)) tr_head_fence(self, node, text);
    } else {
        tr_head_run_again(self, text);
    }
}

void tr_head_on_damaged(void *context, int32_t from, const char *reason)
{
    tr_head_damaged(context, from, TR_NODE_HEAD, reason);
}
