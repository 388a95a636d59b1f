/* runtime/recovery.c - what the head does when a worker is gone: a new epoch.
 * Recorded first, so that no epoch is used twice. Then everybody begins anew: the head's own actors end, the living workers
 * are told, the agent replaces the dead, all greet in the new epoch, go back to the newest generation that every state slot
 * holds whole, and start when all are ready. Nothing of the old epoch can reach the new one: workers make new nodes with new
 * links, and every frame carries its epoch. Who dies on the way only makes it begin again, in one epoch more.
 * Why everybody and not only the dead one: what the others have done since that generation rests on messages that are gone.
 * That all of this holds is argued in DESIGN.md.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/head.h"

#include "base/log.h"
#include "runtime/hosts.h"

#include <stdio.h>
#include <string.h>

enum {
    REJOIN_MS = 10000, /* who lives and does not greet in the new epoch after this is killed */
    LINE_BYTES = TR_ERROR_SIZE + 256
};

bool tr_head_can_recover(const tr_head *self)
{
    return self->options->recovery.max_restarts > 0 && self->crew && tr_crew_agent_pid(self->crew);
}

/* Has there been a change of epoch too many within the window? */
static bool too_often(tr_head *self, uint64_t now_ns)
{
    const tr_job_recovery *recovery = &self->options->recovery;
    uint64_t *oldest = &self->restarts_ns[self->n_restarts % recovery->max_restarts];
    bool full = self->n_restarts >= recovery->max_restarts;
    bool often = full && now_ns - *oldest < (uint64_t)recovery->within_ms * 1000000;
    *oldest = now_ns;
    self->n_restarts++;
    return often;
}

/* One epoch more for saving the state, if the job can; a death in that one is the end. False: it has ended. */
static bool give_up_if_too_often(tr_head *self, const char *text)
{
    const tr_job_recovery *recovery = &self->options->recovery;
    bool often = too_often(self, tr_node_now_ns(self->node)), is_last = self->given_up.status != TR_OK;
    if (!often && !is_last) return true;
    if (!is_last)
        tr_fail(&self->given_up, TR_ECLOSED,
                "%s; that was death number %llu, and %u within %u s are the most that are mended", text,
                (unsigned long long)self->n_restarts, recovery->max_restarts, recovery->within_ms / 1000);
    if (!is_last && recovery->begin_again) return true;
    tr_head_end(self, &self->given_up, TR_HEAD_GRACE_MS);
    return false;
}

static void call_everybody(tr_head *self)
{
    const tr_control_note note = {.epoch = self->epoch, .layout = self->layout};
    for (int32_t i = 1; i < self->topology->n_nodes; i++)
        if (!self->workers[i].leaving && (!self->hosts || tr_hosts_agent_of(self->hosts, i) >= 0))
            tr_control_send_note(self->node, i, TR_CONTROL_EPOCH, &note);
    if (self->hosts)
        tr_hosts_call(self->hosts);
    else
        tr_control_send_note(self->node, self->agent, TR_CONTROL_EPOCH, &note);
}

int32_t tr_head_agent_of(const tr_head *self, int32_t node)
{
    return self->hosts ? tr_hosts_agent_of(self->hosts, node) : self->agent;
}

void tr_head_tell_agent_of(tr_head *self, int32_t node, tr_control_topic topic, const tr_control_note *note)
{
    int32_t agent = tr_head_agent_of(self, node);
    if (agent >= 0) tr_control_send_note(self->node, agent, topic, note);
}

void tr_head_begin_epoch(tr_head *self, const char *text)
{
    uint64_t now_ns = tr_node_now_ns(self->node);
    tr_error err;
    self->changed_ns = now_ns;
    tr_head_tell(self, TR_JOB_EPOCH, -1, 0, text);
    self->greeting_until_ns = now_ns + (self->greeting_until_ns - self->greeted_from_ns);
    self->greeted_from_ns = now_ns;
    for (int32_t i = 0; i < self->topology->n_nodes; i++)
        self->workers[i].greeted = self->workers[i].ready = self->workers[i].fenced = false;
    self->workers[TR_NODE_HEAD].greeted = true;
    self->suspect = 0;
    self->held.status = TR_OK;
    self->phase = TR_HEAD_GREETING;
    if (tr_node_unload(self->node, self->epoch, &err) == TR_OK)
        call_everybody(self);
    else
        tr_head_end_because(self, err.status, err.message);
}

/* Not of a death: is there an epoch more to begin? False: it has ended. */
static bool is_left(tr_head *self, const char *text)
{
    char line[LINE_BYTES];
    if (self->epoch < TR_HEAD_LAST_EPOCH) return true;
    snprintf(line, sizeof line, "%s; and epoch %u was the last that a run can have", text, self->epoch);
    tr_head_end_because(self, TR_ECLOSED, line);
    return false;
}

static void begin_next(tr_head *self, const char *text)
{
    const tr_job_recovery *recovery = &self->options->recovery;
    char line[LINE_BYTES];
    tr_error err;
    uint32_t next = self->epoch + 1;
    if (recovery->record_epoch && recovery->record_epoch(self->options->context, next, &err) != TR_OK) {
        snprintf(line, sizeof line, "%s; and epoch %u could not be recorded: %s", text, next, err.message);
        tr_head_end_because(self, err.status, line);
        return;
    }
    self->epoch = next; /* not before it is recorded, or the next run might use it again */
    tr_head_begin_epoch(self, text);
}

void tr_head_recover(tr_head *self, const char *text)
{
    tr_head_forget_change(self);
    if (!tr_head_can_recover(self))
        tr_head_end_because(self, TR_ECLOSED, text);
    else if (is_left(self, text) && give_up_if_too_often(self, text))
        begin_next(self, text);
}

/* Where somebody died in the meantime all begin anew already. */
void tr_head_run_again(tr_head *self, const char *text)
{
    if (self->phase != TR_HEAD_RUNNING && self->phase != TR_HEAD_LOADING) return;
    tr_head_forget_change(self);
    tr_head_note_death(self, 0); /* for how long it took */
    if (is_left(self, text)) begin_next(self, text);
}

void tr_head_on_run_again(void *context, const tr_error *why)
{
    tr_head *self = context;
    if (self->phase != TR_HEAD_RUNNING) return;
    if (!tr_head_can_recover(self)) {
        tr_head_end(self, why, TR_HEAD_GRACE_MS);
        return;
    }
    tr_head_tell(self, TR_JOB_RUN_AGAIN, -1, 0, why->message);
    tr_head_run_again(self, why->message);
}

void tr_head_give_up(tr_head *self, const char *text)
{
    bool is_last = self->given_up.status != TR_OK;
    if (self->phase == TR_HEAD_ENDING) return;
    if (!is_last) tr_fail(&self->given_up, TR_ECLOSED, "%s", text);
    tr_head_forget_change(self);
    if (is_last || !self->options->recovery.begin_again || !tr_head_can_recover(self))
        tr_head_end(self, &self->given_up, TR_HEAD_GRACE_MS);
    else if (is_left(self, text))
        begin_next(self, text);
}

void tr_head_fence(tr_head *self, int32_t node, const char *text)
{
    const tr_control_note note = {.node = node};
    if (self->workers[node].fenced || self->phase == TR_HEAD_ENDING) return;
    self->workers[node].fenced = true;
    tr_head_tell(self, TR_JOB_WORKER_FENCED, node, self->workers[node].pid, text);
    tr_head_tell_agent_of(self, node, TR_CONTROL_FENCE, &note);
}

void tr_head_check_rejoin(tr_head *self, uint64_t now_ns)
{
    if (self->phase != TR_HEAD_GREETING || !self->changed_ns ||
        now_ns < self->changed_ns + (uint64_t)REJOIN_MS * 1000000)
        return;
    /* States may have to come over a network first; who hangs in that is found by check_greeting. */
    if (self->hosts && (tr_hosts_are_awaited(self->hosts) ||
                        now_ns < tr_hosts_came_on_ns(self->hosts) + 3ull * REJOIN_MS * 1000000))
        return;
    char text[96];
    if (self->agent_awaited && !self->agent_fenced) {
        self->agent_fenced = true;
        snprintf(text, sizeof text, "the agent did not come within %d s", REJOIN_MS / 1000);
        tr_head_tell(self, TR_JOB_WORKER_FENCED, self->agent, tr_crew_agent_pid(self->crew), text);
        tr_crew_kill_agent(self->crew);
    }
    for (int32_t i = 1; i < self->topology->n_nodes; i++) {
        snprintf(text, sizeof text, "worker %d did not come back within %d s", i, REJOIN_MS / 1000);
        if (!self->workers[i].greeted) tr_head_fence(self, i, text);
    }
}

static void common_generations(const tr_head *self, uint64_t out[2])
{
    bool first = true;
    out[0] = out[1] = 0;
    for (int32_t i = 1; i < self->topology->n_nodes; i++) {
        const tr_control_hello *hello = &self->workers[i].hello;
        if (!hello->has_state) continue;
        if (first) memcpy(out, hello->generations, sizeof hello->generations);
        first = false;
        tr_generations_meet(out, hello->generations);
    }
}

tr_status tr_head_begin_again(tr_head *self, tr_error *err)
{
    const tr_job_recovery *recovery = &self->options->recovery;
    tr_job_beginning beginning = {
        .epoch = self->epoch, .topology = self->topology, .gives_up = self->given_up.status != TR_OK};
    common_generations(self, beginning.held);
    beginning.generation = beginning.held[0];
    if (recovery->begin_again) {
        tr_status status = recovery->begin_again(self->options->context, &beginning, err);
        if (status != TR_OK) return status;
    }
    self->generation = beginning.generation;
    self->topology = beginning.topology;
    return TR_OK;
}
