/* pipelines/schedule.c - see schedule.h: time goes from one end of work to the next, and at each every worker that is free
 * chooses.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/schedule.h"

#include "base/memory.h"

#include <string.h>

static const tr_phase F = TR_PHASE_FORWARD, B = TR_PHASE_BACKWARD, W = TR_PHASE_WEIGHT;

typedef struct run {
    const tr_training_plan *plan;
    const tr_stage_times *times;
    uint32_t n_microbatches;
    uint64_t *ends;                    /* by stage, phase, micro-batch; UINT64_MAX: it has not begun */
    uint32_t (*begun)[TR_PHASE_COUNT]; /* by stage: how many */
    uint32_t *credits;                 /* by stage */
    uint64_t *free_at;                 /* by worker */
} run;

static uint64_t *end_of(const run *self, uint32_t stage, tr_phase phase, uint32_t m)
{
    return &self->ends[((size_t)stage * TR_PHASE_COUNT + phase) * self->n_microbatches + m];
}

static bool by(const run *self, uint32_t stage, tr_phase phase, uint32_t m, uint64_t now)
{
    return *end_of(self, stage, phase, m) <= now;
}

/* What a stage would do now: backward, then forward, then weight gradient; TR_PHASE_COUNT: nothing. */
static tr_phase choose(const run *self, uint32_t s, uint64_t now)
{
    const uint32_t *n = self->begun[s];
    uint32_t credits = self->credits[s];
    bool last = s + 1 == self->plan->n_stages;
    if (n[B] < n[F] && (last || by(self, s + 1, B, n[B], now))) return TR_PHASE_BACKWARD;
    bool arrived = n[F] < self->n_microbatches && (s == 0 || by(self, s - 1, F, n[F], now));
    /* The next stage has a slot for each of its stash credits and one more; it is free again after the weight gradient. */
    uint32_t slots = last ? 0 : self->credits[s + 1] + 1;
    bool slot = last || n[F] < slots || by(self, s + 1, W, n[F] - slots, now);
    if (arrived && n[F] - n[W] < credits && slot) return TR_PHASE_FORWARD;
    return n[W] < n[B] ? TR_PHASE_WEIGHT : TR_PHASE_COUNT;
}

/* The most urgent of a worker's stages: by class, then the oldest micro-batch, of one micro-batch the latest stage. */
static tr_phase choose_of_worker(const run *self, uint32_t worker, uint64_t now, uint32_t *stage)
{
    static const int urgency[TR_PHASE_COUNT + 1] = {
        [TR_PHASE_FORWARD] = 1, [TR_PHASE_BACKWARD] = 0, [TR_PHASE_WEIGHT] = 2, [TR_PHASE_COUNT] = 3};
    tr_phase best = TR_PHASE_COUNT;
    for (uint32_t s = worker; s < self->plan->n_stages; s += tr_plan_workers(self->plan)) {
        tr_phase phase = choose(self, s, now);
        if (phase == TR_PHASE_COUNT || urgency[phase] > urgency[best]) continue;
        if (phase == best && self->begun[s][phase] > self->begun[*stage][phase]) continue;
        best = phase;
        *stage = s;
    }
    return best;
}

static void begin(run *self, tr_schedule *out, uint32_t worker, uint32_t stage, tr_phase phase, uint64_t now)
{
    uint32_t m = self->begun[stage][phase]++;
    uint64_t end = now + self->times[stage].ns[phase];
    *end_of(self, stage, phase, m) = self->free_at[worker] = end;
    out->actions[out->n_actions++] = (tr_schedule_action){now, end, stage, m, phase};
    if (end > out->end_ns) out->end_ns = end;
}

static void pass(run *self, tr_schedule *out)
{
    uint32_t n_workers = tr_plan_workers(self->plan);
    for (uint64_t now = 0, next; now != UINT64_MAX; now = next) {
        next = UINT64_MAX;
        for (uint32_t w = 0; w < n_workers; w++) {
            uint32_t stage = 0;
            tr_phase phase =
                self->free_at[w] <= now ? choose_of_worker(self, w, now, &stage) : TR_PHASE_COUNT;
            if (phase != TR_PHASE_COUNT) {
                begin(self, out, w, stage, phase, now);
                if (self->free_at[w] == now) next = now; /* it took no time */
            }
            if (self->free_at[w] > now && self->free_at[w] < next) next = self->free_at[w];
        }
    }
}

static tr_status init(run *self, tr_schedule *out, const tr_training_plan *plan, uint32_t replica,
                      const tr_stage_times *times, tr_error *err)
{
    tr_range own = tr_plan_microbatches(plan, replica);
    *self = (run){.plan = plan, .times = times, .n_microbatches = own.end - own.begin};
    size_t n_actions = (size_t)plan->n_stages * TR_PHASE_COUNT * self->n_microbatches;
    self->ends = tr_alloc(n_actions * sizeof *self->ends);
    self->begun = tr_alloc_zero(plan->n_stages, sizeof *self->begun);
    self->credits = tr_alloc_zero(plan->n_stages, sizeof *self->credits);
    self->free_at = tr_alloc_zero(tr_plan_workers(plan), sizeof *self->free_at);
    out->actions = tr_alloc(n_actions * sizeof *out->actions);
    if (!self->ends || !self->begun || !self->credits || !self->free_at || !out->actions)
        return tr_fail(err, TR_ENOMEM, "no memory for a schedule of %zu pieces of work", n_actions);
    memset(self->ends, 0xff, n_actions * sizeof *self->ends);
    for (uint32_t s = 0; s < plan->n_stages; s++) self->credits[s] = tr_plan_stash_credits(plan, replica, s);
    return TR_OK;
}

tr_status tr_schedule_foretell(tr_schedule *out, const tr_training_plan *plan, uint32_t replica,
                               const tr_stage_times *times, tr_error *err)
{
    run self;
    tr_schedule made = {0};
    tr_status status = init(&self, &made, plan, replica, times, err);
    if (!status) {
        pass(&self, &made);
        double busy = 0;
        for (size_t i = 0; i < made.n_actions; i++)
            busy += (double)(made.actions[i].end_ns - made.actions[i].begin_ns);
        double all = (double)made.end_ns * tr_plan_workers(plan);
        made.idle = all > 0 ? 1 - busy / all : 0;
        *out = made;
    } else {
        tr_schedule_release(&made);
    }
    tr_free(self.ends);
    tr_free(self.begun);
    tr_free(self.credits);
    tr_free(self.free_at);
    return status;
}

void tr_schedule_release(tr_schedule *self)
{
    tr_free(self->actions);
    *self = (tr_schedule){0};
}

tr_status tr_schedule_choose_stash(uint32_t *out, const tr_training_plan *plan, uint32_t replica,
                                   const tr_stage_times *times, tr_error *err)
{
    tr_range own = tr_plan_microbatches(plan, replica);
    uint32_t most = own.end - own.begin; /* nobody holds more */
    uint64_t best_ns = UINT64_MAX;
    uint64_t *ends = tr_alloc_zero((size_t)most + 1, sizeof *ends);
    if (!ends) return tr_fail(err, TR_ENOMEM, "no memory to compare %u stashes", most);
    tr_status status = TR_OK;
    for (uint32_t extra = 1; extra <= most && !status; extra++) {
        tr_schedule schedule;
        tr_training_plan with = *plan;
        with.extra_stash = extra;
        status = tr_schedule_foretell(&schedule, &with, replica, times, err);
        if (status) break;
        ends[extra] = schedule.end_ns;
        if (ends[extra] < best_ns) best_ns = ends[extra];
        tr_schedule_release(&schedule);
    }
    uint32_t chosen = 1;
    while (!status && chosen < most && ends[chosen] > best_ns + best_ns / 1000 * 3) chosen++;
    tr_free(ends);
    if (!status) *out = chosen;
    return status;
}
