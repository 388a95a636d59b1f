/* pipelines/balance.c - see balance.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/balance.h"

#include "base/memory.h"
#include "pipelines/partition.h"

#include <string.h>

enum {
    WORTH_IT = 100, /* what shortens a step by less than this part of it is lost in the noise of measuring */
    MICROBATCHES_A_STAGE = 4 /* are enough to tell cuts apart; a step with more is cut down to that */
};
static const uint64_t most_choices =
    50000000; /* of workers in foretold steps, while one cut is looked for: a second or two */

typedef struct search {
    const tr_stage_times *units;
    tr_training_plan plan; /* one replica's share, cut down */
    tr_stage_times *stages;
    int32_t *layers;
    uint64_t best_ns;
    uint64_t n_choices;
} search;

void tr_balance_stage_times(const tr_stage_times *units, const int32_t *layers, uint32_t n_stages,
                            tr_stage_times *stages)
{
    int32_t unit = 0;
    for (uint32_t s = 0; s < n_stages; s++) {
        int32_t n = layers[s] + (s == 0) + (s + 1 == n_stages);
        stages[s] = (tr_stage_times){{0}};
        for (int32_t end = unit + n; unit < end; unit++)
            for (int phase = 0; phase < TR_PHASE_COUNT; phase++) stages[s].ns[phase] += units[unit].ns[phase];
    }
}

static tr_status foretell(search *self, uint64_t *end_ns, tr_error *err)
{
    tr_schedule schedule;
    tr_balance_stage_times(self->units, self->layers, self->plan.n_stages, self->stages);
    tr_status status = tr_schedule_foretell(&schedule, &self->plan, 0, self->stages, err);
    if (status) return status;
    *end_ns = schedule.end_ns;
    self->n_choices += schedule.n_actions * tr_plan_workers(&self->plan);
    tr_schedule_release(&schedule);
    return TR_OK;
}

/* The cut in `layers` is kept if its step is shorter; *better tells. */
static tr_status judge(search *self, bool *better, tr_error *err)
{
    uint64_t end_ns;
    tr_status status = foretell(self, &end_ns, err);
    *better = !status && end_ns < self->best_ns;
    if (*better) self->best_ns = end_ns;
    return status;
}

/* Moves a layer from one stage to another (those between them shift) and then up to `more` others, until the step is
 * shorter; where it never is, all is as it was. */
static tr_status try_moves(search *self, int more, bool *better, tr_error *err)
{
    uint32_t n = self->plan.n_stages;
    tr_status status = TR_OK;
    for (uint32_t i = 0; i < n * n && !*better && !status && self->n_choices < most_choices; i++) {
        uint32_t from = i / n, to = i % n;
        if (from == to || self->layers[from] == 1) continue;
        self->layers[from]--;
        self->layers[to]++;
        status = more ? try_moves(self, more - 1, better, err) : judge(self, better, err);
        if (*better) continue;
        self->layers[from]++;
        self->layers[to]--;
    }
    return status;
}

/* From the cut in `layers`, which takes best_ns, by one move or, where none helps, two at once. */
static tr_status climb(search *self, tr_error *err)
{
    tr_status status = TR_OK;
    for (bool better = true; better && !status;) {
        better = false;
        for (int more = 0; more < 2 && !better && !status; more++)
            status = try_moves(self, more, &better, err);
    }
    return status;
}

/* The cut whose costliest stage costs the least. */
static tr_status cut_evenly(search *self, int32_t n_layers, tr_error *err)
{
    int32_t n_stages = (int32_t)self->plan.n_stages;
    double *costs = tr_alloc_zero((size_t)n_layers, sizeof *costs);
    int32_t *first = tr_alloc_zero((size_t)n_stages + 1, sizeof *first);
    tr_status status = TR_OK;
    if (!costs || !first) status = tr_fail(err, TR_ENOMEM, "no memory to cut %d layers", n_layers);
    for (int32_t u = 0; u < n_layers + 2 && !status; u++) {
        int32_t layer = u == 0 ? 0 : u > n_layers ? n_layers - 1 : u - 1;
        for (int phase = 0; phase < TR_PHASE_COUNT; phase++) costs[layer] += (double)self->units[u].ns[phase];
    }
    if (!status) status = tr_partition_cut(costs, n_layers, n_stages, first, err);
    for (int32_t s = 0; s < n_stages && !status; s++) self->layers[s] = first[s + 1] - first[s];
    tr_free(first);
    tr_free(costs);
    return status ? status : foretell(self, &self->best_ns, err);
}

/* Leaves in `kept` the even cut, or a better one where that is worth it. */
static tr_status look_for(search *self, int32_t n_layers, int32_t *kept, tr_error *err)
{
    size_t size = self->plan.n_stages * sizeof *kept;
    tr_status status = cut_evenly(self, n_layers, err);
    if (status) return status;
    memcpy(kept, self->layers, size);
    uint64_t worth_ns = self->best_ns - self->best_ns / WORTH_IT;
    status = climb(self, err);
    if (!status && self->best_ns < worth_ns) memcpy(kept, self->layers, size);
    return status;
}

tr_status tr_balance(const tr_stage_times *units, int32_t n_layers, const tr_training_plan *plan,
                     int32_t *layers, tr_error *err)
{
    if ((int64_t)plan->n_stages > n_layers)
        return tr_fail(err, TR_EINVAL, "'%u' stages for %d layers; every stage needs one at least",
                       plan->n_stages, n_layers);
    search self = {.units = units, .plan = *plan};
    tr_range own = tr_plan_microbatches(plan, 0);
    uint32_t n_microbatches = own.end - own.begin, enough = MICROBATCHES_A_STAGE * plan->n_stages;
    self.plan.n_replicas = self.plan.n_groups = 1;
    self.plan.n_microbatches = n_microbatches < enough ? n_microbatches : enough;
    self.stages = tr_alloc_zero(plan->n_stages, sizeof *self.stages);
    self.layers = tr_alloc_zero(plan->n_stages, sizeof *self.layers);
    tr_status status = TR_OK;
    if (!self.stages || !self.layers)
        status = tr_fail(err, TR_ENOMEM, "no memory to balance %u stages", plan->n_stages);
    if (!status) status = look_for(&self, n_layers, layers, err);
    tr_free(self.layers);
    tr_free(self.stages);
    return status;
}
