/* actors/plan.c - see plan.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/plan.h"

#include "base/hash.h"
#include "base/rng.h"

tr_range tr_share(uint32_t n, uint32_t parts, uint32_t part)
{
    uint32_t each = n / parts, larger = n % parts;
    uint32_t begin = part * each + (part < larger ? part : larger);
    return (tr_range){begin, begin + each + (part < larger ? 1 : 0)};
}

tr_range tr_plan_groups(const tr_training_plan *plan, uint32_t replica)
{
    return tr_share(plan->n_groups, plan->n_replicas, replica);
}

tr_range tr_plan_group(const tr_training_plan *plan, uint32_t group)
{
    return tr_share(plan->n_microbatches, plan->n_groups, group);
}

tr_range tr_plan_microbatches(const tr_training_plan *plan, uint32_t replica)
{
    tr_range groups = tr_plan_groups(plan, replica);
    return (tr_range){tr_plan_group(plan, groups.begin).begin, tr_plan_group(plan, groups.end - 1).end};
}

uint32_t tr_tree_split(tr_range range)
{
    uint32_t n = range.end - range.begin, left = 1;
    TR_ASSERT(n >= 2);
    while (left * 2 < n) left *= 2;
    return range.begin + left;
}

bool tr_tree_siblings(uint32_t n_groups, tr_range left, tr_range right)
{
    tr_range node = {0, n_groups};
    while (node.end - node.begin >= 2) {
        uint32_t split = tr_tree_split(node);
        if (node.begin == left.begin && node.end == right.end)
            return split == left.end && split == right.begin;
        if (right.end <= split)
            node.end = split;
        else if (left.begin >= split)
            node.begin = split;
        else
            return false;
    }
    return false;
}

uint32_t tr_plan_blocks(const tr_training_plan *plan, uint32_t replica, tr_range blocks[TR_MAX_BLOCKS])
{
    tr_range own[TR_MAX_BLOCKS], groups = tr_plan_groups(plan, replica);
    uint32_t n = 0;
    for (uint32_t group = groups.begin; group < groups.end; group++) {
        TR_ASSERT(n < TR_MAX_BLOCKS);
        own[n++] = (tr_range){group, group + 1};
        while (n >= 2 && tr_tree_siblings(plan->n_groups, own[n - 2], own[n - 1])) {
            own[n - 2].end = own[n - 1].end;
            n--;
        }
    }
    for (uint32_t i = 0; blocks && i < n; i++) blocks[i] = own[i];
    return n;
}

uint32_t tr_plan_workers(const tr_training_plan *plan)
{
    return plan->n_pieces > 1 ? plan->n_stages / plan->n_pieces : plan->n_stages;
}

uint32_t tr_plan_worker(const tr_training_plan *plan, uint32_t stage)
{
    return stage % tr_plan_workers(plan);
}

uint32_t tr_plan_stash_credits(const tr_training_plan *plan, uint32_t replica, uint32_t stage)
{
    tr_range own = tr_plan_microbatches(plan, replica);
    uint32_t n_workers = tr_plan_workers(plan), ahead = plan->n_pieces > 1 ? n_workers : n_workers - stage;
    if (plan->n_pieces <= 1 && plan->extra_stash && ahead < stage) ahead = stage;
    uint32_t credits = n_workers == 1 ? 1 : ahead + plan->extra_stash;
    return credits < own.end - own.begin ? credits : own.end - own.begin;
}

uint32_t tr_plan_token_slots(const tr_training_plan *plan, uint32_t replica)
{
    return tr_plan_stash_credits(plan, replica, 0) + 2;
}

uint32_t tr_plan_steps_ahead(const tr_training_plan *plan)
{
    uint32_t slots = 0;
    for (uint32_t r = 0; r < plan->n_replicas; r++)
        if (tr_plan_token_slots(plan, r) > slots) slots = tr_plan_token_slots(plan, r);
    return slots + 4; /* the step computed, one that is about to be sent, the one announced, and the end */
}

uint32_t tr_plan_last_step(const tr_training_plan *plan)
{
    return plan->until ? plan->until : plan->n_steps;
}

bool tr_plan_is_audited(const tr_training_plan *plan, uint64_t seed, uint32_t step, uint32_t microbatch)
{
    if (plan->audit == 0) return false;
    tr_rng_key key = {
        .seed = seed, .stream = tr_hash64_text("audit"), .step = step, .microbatch = microbatch};
    return ((tr_rng_u64(&key, 0) >> 32) * TR_AUDIT_ALL) >> 32 < plan->audit;
}

uint32_t tr_plan_windows_after(const tr_training_plan *plan, uint32_t updates)
{
    if (updates == plan->n_steps) return plan->all_windows;
    if (plan->validate_every == 0 || updates % plan->validate_every != 0) return 0;
    return plan->validation_windows < plan->all_windows ? plan->validation_windows : plan->all_windows;
}

uint32_t tr_plan_evaluations_after(const tr_training_plan *plan, uint32_t updates)
{
    return (tr_plan_windows_after(plan, updates) + plan->rows - 1) / plan->rows;
}

bool tr_plan_checkpoint_after(const tr_training_plan *plan, uint32_t updates)
{
    if (updates == plan->n_steps) return true;
    return plan->checkpoint_every != 0 && updates % plan->checkpoint_every == 0;
}

bool tr_plan_holds_after(const tr_training_plan *plan, uint32_t updates)
{
    return plan->hold_every <= 1 || updates % plan->hold_every == 0 ||
           tr_plan_checkpoint_after(plan, updates);
}
