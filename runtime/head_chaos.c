/* runtime/head_chaos.c - chaos by chance: the head has workers killed, and faults done, when their moments have come.
 * A fault waits for its victim: nobody is struck who is not there, or of whom it is known already that he must be replaced. So
 * moments depend on how long others take to mend, but what is drawn does not.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/head.h"

#include "base/log.h"
#include "base/memory.h"
#include "runtime/chaos.h"
#include "runtime/fault.h"

#include <stdio.h>

enum {
    LINE_BYTES = 256,
    STRUCK_MS =
        10000 /* who has not been replaced by then was not hit: the word went with an agent that died */
};

static void strike_by_kills(tr_head *self, uint64_t now_ns)
{
    const tr_chaos chaos = {.seed = self->options->chaos.seed,
                            .kills_per_minute = self->options->chaos.kills_per_minute};
    if (!tr_head_can_recover(self)) return;
    if (self->strike_ns && now_ns >= self->strike_ns) {
        const tr_control_note note = {
            .node =
                1 + (int32_t)tr_chaos_victim(&chaos, self->n_strikes, (uint32_t)self->topology->n_nodes - 1)};
        tr_head_tell_agent_of(self, note.node, TR_CONTROL_FENCE, &note);
        self->n_strikes++;
        self->strike_ns = 0;
    }
    if (!self->strike_ns) self->strike_ns = now_ns + tr_chaos_pause_ns(&chaos, self->n_strikes);
}

/* Of frames only somebody who has all his links can lose some. */
static bool is_there(const tr_head *self, const tr_fault *fault, uint64_t now_ns)
{
    const tr_head_worker *victim = &self->workers[fault->victim];
    bool by_agent = fault->kind <= TR_FAULT_FLIP_STATE;
    bool struck = victim->struck_ns && now_ns < victim->struck_ns + (uint64_t)STRUCK_MS * 1000000;
    if (fault->victim && (struck || victim->fenced || victim->leaving)) return false;
    return by_agent ? victim->greeted : self->phase == TR_HEAD_RUNNING;
}

static void send(tr_head *self, const tr_fault *fault)
{
    tr_error err;
    void *bytes = NULL;
    size_t size_bytes = 0;
    bool by_agent = fault->kind <= TR_FAULT_FLIP_STATE;
    int32_t to = by_agent ? tr_head_agent_of(self, fault->victim) : fault->victim;
    if (to < 0) return; /* it is being lost with its host */
    if (tr_fault_encode(fault, &bytes, &size_bytes, &err) == TR_OK)
        tr_node_send_system(self->node, to, TR_CONTROL_FAULT, bytes, (uint32_t)size_bytes);
    tr_free(bytes);
}

static void strike(tr_head *self, const tr_fault *fault)
{
    const tr_job_chaos *chaos = &self->options->chaos;
    char what[LINE_BYTES], text[LINE_BYTES + 64];
    tr_fault_describe(fault, what, sizeof what);
    snprintf(text, sizeof text, "fault %u, %s: %s", self->n_faults + 1, tr_fault_name(fault->kind), what);
    tr_head_tell(self, TR_JOB_FAULT, fault->victim, self->workers[fault->victim].pid, text);
    if (TR_FAULTS_OF_DISK & TR_FAULT_BIT(fault->kind)) {
        if (chaos->break_disk) chaos->break_disk(self->options->context, fault->kind == TR_FAULT_FULL_DISK);
    } else if (fault->victim == TR_NODE_HEAD) {
        tr_node_suffer(self->node, fault);
    } else {
        bool ends = fault->kind <= TR_FAULT_STOP_AND_CONTINUE || fault->kind == TR_FAULT_FLIP_STATE;
        if (ends) self->workers[fault->victim].struck_ns = tr_node_now_ns(self->node);
        send(self, fault);
    }
}

static void strike_by_faults(tr_head *self, uint64_t now_ns)
{
    const tr_job_chaos *chaos = &self->options->chaos;
    if (!self->fault_ns)
        self->fault_ns = now_ns + tr_fault_pause_ns(chaos->seed, chaos->faults_per_minute, self->n_faults);
    if (now_ns < self->fault_ns) return;
    const tr_fault fault = tr_fault_draw(chaos->seed, chaos->faults, self->n_faults, self->topology->n_nodes);
    if (!is_there(self, &fault, now_ns)) return;
    strike(self, &fault);
    self->n_faults++;
    self->fault_ns = 0;
}

void tr_head_strike(tr_head *self, uint64_t now_ns)
{
    const tr_job_chaos *chaos = &self->options->chaos;
    if (chaos->kills_per_minute > 0) strike_by_kills(self, now_ns);
    if (chaos->faults_per_minute > 0 && chaos->faults && self->crew) strike_by_faults(self, now_ns);
}
