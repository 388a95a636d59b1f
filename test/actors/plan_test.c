/* test/actors/plan_test.c - the arithmetic all actors share, tried over every small run there is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/plan.h"

#include "check.h"

#include <math.h>

static uint32_t size_of(tr_range range)
{
    return range.end - range.begin;
}

static void shares_are_contiguous_whole_and_larger_first(void)
{
    for (uint32_t n = 0; n <= 70; n++)
        for (uint32_t parts = 1; parts <= 20; parts++) {
            uint32_t end = 0, before = UINT32_MAX;
            for (uint32_t part = 0; part < parts; part++) {
                tr_range share = tr_share(n, parts, part);
                CU_ASSERT_EQUAL_FATAL(share.begin, end);
                CU_ASSERT_FATAL(share.end >= share.begin && size_of(share) <= before);
                CU_ASSERT(size_of(share) == n / parts || size_of(share) == n / parts + 1);
                before = size_of(share);
                end = share.end;
            }
            CU_ASSERT_EQUAL(end, n);
        }
    tr_range last = tr_share(UINT32_MAX, 3, 2); /* no product overflows */
    CU_ASSERT(last.end == UINT32_MAX && size_of(last) == UINT32_MAX / 3);
}

/* Calls `check` for every plan with up to that many replicas, groups and micro-batches that a recipe may ask for. */
static void for_each_plan(uint32_t most, void (*check)(const tr_training_plan *))
{
    for (uint32_t groups = 1; groups <= most; groups++)
        for (uint32_t replicas = 1; replicas <= groups; replicas++)
            for (uint32_t n = groups; n <= groups + 5 || (n <= 3 * groups && n <= most); n++) {
                tr_training_plan plan = {.n_replicas = replicas,
                                         .n_stages = 1 + (n + replicas) % 4,
                                         .n_steps = 10,
                                         .n_microbatches = n,
                                         .n_groups = groups,
                                         .rows = 2,
                                         .sequence = 4};
                check(&plan);
            }
}

static void check_holdings(const tr_training_plan *plan)
{
    uint32_t group = 0, microbatch = 0;
    for (uint32_t r = 0; r < plan->n_replicas; r++) {
        tr_range groups = tr_plan_groups(plan, r), own = tr_plan_microbatches(plan, r);
        CU_ASSERT_FATAL(groups.begin == group && size_of(groups) > 0);
        CU_ASSERT_FATAL(own.begin == microbatch && size_of(own) > 0);
        for (; group < groups.end; group++) {
            tr_range members = tr_plan_group(plan, group);
            CU_ASSERT_FATAL(members.begin == microbatch && size_of(members) > 0);
            microbatch = members.end;
        }
        CU_ASSERT_EQUAL(own.end, microbatch);
    }
    CU_ASSERT(group == plan->n_groups && microbatch == plan->n_microbatches);
}

static void replicas_hold_whole_groups_and_groups_whole_microbatches(void)
{
    for_each_plan(24, check_holdings);
}

static bool is_power_of_two(uint32_t n)
{
    return n && (n & (n - 1)) == 0;
}

/* Counts the nodes of the tree below `node` by the definition, and asks about every one. */
static uint32_t walk(uint32_t n_groups, tr_range node)
{
    if (size_of(node) == 1) return 1;
    uint32_t split = tr_tree_split(node);
    CU_ASSERT_FATAL(split > node.begin && split < node.end);
    CU_ASSERT(is_power_of_two(split - node.begin));
    CU_ASSERT(split - node.begin >= node.end - split);
    tr_range left = {node.begin, split}, right = {split, node.end};
    CU_ASSERT(tr_tree_siblings(n_groups, left, right));
    return 1 + walk(n_groups, left) + walk(n_groups, right);
}

static void the_tree_is_fixed_and_its_siblings_are_known(void)
{
    for (uint32_t n = 1; n <= TR_MAX_GROUPS; n++) CU_ASSERT_EQUAL(walk(n, (tr_range){0, n}), 2 * n - 1);
    /* As many sibling pairs as inner nodes: no other pair is one. */
    for (uint32_t n = 2; n <= 20; n++) {
        uint32_t pairs = 0;
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = a + 1; b < n; b++)
                for (uint32_t c = b + 1; c <= n; c++)
                    pairs += tr_tree_siblings(n, (tr_range){a, b}, (tr_range){b, c});
        CU_ASSERT_EQUAL(pairs, n - 1);
    }
    CU_ASSERT(!tr_tree_siblings(8, (tr_range){0, 1}, (tr_range){2, 3})); /* not neighbours */
    CU_ASSERT(!tr_tree_siblings(8, (tr_range){1, 2}, (tr_range){2, 3})); /* neighbours, another parent */
    CU_ASSERT_EQUAL(tr_tree_split((tr_range){0, 4}), 2);
    CU_ASSERT_EQUAL(tr_tree_split((tr_range){0, 5}), 4);
    CU_ASSERT_EQUAL(tr_tree_split((tr_range){3, 6}), 5);
    CU_ASSERT_EQUAL(tr_tree_split((tr_range){8, 10}), 9);
}

static bool is_node(tr_range node, tr_range wanted)
{
    while (size_of(node) > size_of(wanted)) {
        uint32_t split = tr_tree_split(node);
        if (wanted.end <= split)
            node.end = split;
        else
            node.begin = split;
    }
    return node.begin == wanted.begin && node.end == wanted.end;
}

/* Blocks of a replica: nodes of the tree, from left to right without a gap, and no two of them make a node. */
static void check_blocks(const tr_training_plan *plan)
{
    uint32_t at = 0;
    for (uint32_t r = 0; r < plan->n_replicas; r++) {
        tr_range blocks[TR_MAX_BLOCKS], groups = tr_plan_groups(plan, r);
        uint32_t n = tr_plan_blocks(plan, r, blocks);
        CU_ASSERT_FATAL(n >= 1 && n <= TR_MAX_BLOCKS && blocks[0].begin == groups.begin);
        CU_ASSERT_EQUAL(tr_plan_blocks(plan, r, NULL), n);
        for (uint32_t b = 0; b < n; b++) {
            CU_ASSERT_EQUAL_FATAL(blocks[b].begin, at);
            CU_ASSERT_FATAL(blocks[b].end > at);
            CU_ASSERT(is_node((tr_range){0, plan->n_groups}, blocks[b]));
            if (b) CU_ASSERT(!tr_tree_siblings(plan->n_groups, blocks[b - 1], blocks[b]));
            at = blocks[b].end;
        }
        CU_ASSERT_EQUAL(at, groups.end);
    }
    CU_ASSERT_EQUAL(at, plan->n_groups);
    if (plan->n_replicas == 1) CU_ASSERT_EQUAL(tr_plan_blocks(plan, 0, NULL), 1);
}

static void blocks_of_all_replicas_tile_the_tree(void)
{
    for_each_plan(24, check_blocks);
    for (uint32_t replicas = 1; replicas <= TR_MAX_GROUPS; replicas += 5) { /* at its largest */
        tr_training_plan plan = {.n_replicas = replicas,
                                 .n_microbatches = TR_MAX_GROUPS,
                                 .n_groups = TR_MAX_GROUPS - replicas % 3};
        if (replicas <= plan.n_groups) check_blocks(&plan);
    }
}

static void check_credits(const tr_training_plan *plan)
{
    uint32_t ahead = tr_plan_steps_ahead(plan), n_workers = tr_plan_workers(plan);
    for (uint32_t r = 0; r < plan->n_replicas; r++) {
        uint32_t own = size_of(tr_plan_microbatches(plan, r)), first = tr_plan_stash_credits(plan, r, 0);
        for (uint32_t s = 0; s < plan->n_stages; s++) {
            uint32_t credits = tr_plan_stash_credits(plan, r, s);
            CU_ASSERT(credits >= 1 && credits <= own && credits <= first);
            /* 1F1B needs P - s, or all that there are. */
            if (n_workers > 1) CU_ASSERT(credits + s >= n_workers || credits == own);
            CU_ASSERT_EQUAL(tr_plan_worker(plan, s), s % n_workers);
        }
        /* Every micro-batch under way may be of another step; one more is announced. */
        CU_ASSERT(ahead > tr_plan_token_slots(plan, r) + 1);
        CU_ASSERT(tr_plan_token_slots(plan, r) > tr_plan_stash_credits(plan, r, 0));
    }
}

static void check_extra_credits(const tr_training_plan *plan)
{
    for (uint32_t extra = 0; extra <= 3; extra++) {
        tr_training_plan more = *plan;
        more.extra_stash = extra;
        check_credits(&more);
        for (uint32_t r = 0; r < plan->n_replicas; r++)
            for (uint32_t s = 0; s < plan->n_stages; s++) {
                uint32_t own = size_of(tr_plan_microbatches(plan, r)), to_end = plan->n_stages - s;
                uint32_t credits =
                    (extra && s > to_end ? s : to_end) + extra; /* exactly 1F1B without extra ones */
                if (plan->n_stages == 1) credits = 1;
                CU_ASSERT_EQUAL(tr_plan_stash_credits(&more, r, s), credits < own ? credits : own);
            }
    }
}

/* Of V pieces each may hold P and the extra ones: together no more than one piece that is V times as large. */
static void check_credits_of_pieces(const tr_training_plan *plan)
{
    for (uint32_t pieces = 2; pieces <= 4; pieces++)
        for (uint32_t extra = 0; extra <= 3; extra++) {
            tr_training_plan whole = *plan, cut = *plan;
            whole.extra_stash = cut.extra_stash = extra;
            cut.n_pieces = pieces;
            cut.n_stages = plan->n_stages * pieces;
            check_credits(&cut);
            CU_ASSERT_EQUAL(tr_plan_workers(&cut), plan->n_stages);
            for (uint32_t r = 0; r < plan->n_replicas; r++)
                for (uint32_t s = 0; s < cut.n_stages; s++)
                    CU_ASSERT_EQUAL(tr_plan_stash_credits(&cut, r, s), tr_plan_stash_credits(&whole, r, 0));
        }
}

static void credits_fit_the_pipeline_and_the_step(void)
{
    for_each_plan(16, check_extra_credits);
    for_each_plan(16, check_credits_of_pieces);
}

static void windows_are_measured_when_the_plan_says(void)
{
    tr_training_plan plan = {.n_steps = 10, .rows = 4, .validation_windows = 5, .all_windows = 30};
    for (uint32_t every = 0; every <= 12; every++) {
        plan.validate_every = every;
        for (uint32_t u = 1; u <= 10; u++) {
            uint32_t windows = u == 10 ? 30 : every && u % every == 0 ? 5 : 0;
            CU_ASSERT_EQUAL(tr_plan_windows_after(&plan, u), windows);
            CU_ASSERT_EQUAL(tr_plan_evaluations_after(&plan, u), windows == 30 ? 8 : windows ? 2 : 0);
        }
    }
    plan.validate_every = 2;
    plan.all_windows = 3; /* fewer than asked for */
    CU_ASSERT_EQUAL(tr_plan_windows_after(&plan, 2), 3);
    plan.all_windows = 0; /* nothing is held out */
    for (uint32_t u = 1; u <= 10; u++) CU_ASSERT_EQUAL(tr_plan_evaluations_after(&plan, u), 0);
}

static void checkpoints_come_when_the_plan_says(void)
{
    tr_training_plan plan = {.n_steps = 10};
    for (uint32_t every = 0; every <= 12; every++) {
        plan.checkpoint_every = every;
        for (uint32_t u = 1; u <= 10; u++)
            CU_ASSERT_EQUAL(tr_plan_checkpoint_after(&plan, u), u == 10 || (every && u % every == 0));
    }
}

/* A function of seed, step and micro-batch alone; of more samples the fewer ones are a part. */
static void audits_are_a_share_that_all_know(void)
{
    enum { N_STEPS = 500, N_MICROBATCHES = 40, N_DRAWN = N_STEPS * N_MICROBATCHES };
    static const uint32_t rates[] = {0, 10000, 250000, TR_AUDIT_ALL - 1, TR_AUDIT_ALL};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        tr_training_plan plan = {.n_replicas = 2, .n_stages = 3, .audit = rates[i]},
                         other = {.n_replicas = 7, .n_groups = 5, .audit = rates[i]},
                         fewer = {.audit = rates[i] / 2};
        uint32_t n = 0, n_of_another_seed = 0;
        for (uint32_t step = 0; step < N_STEPS; step++)
            for (uint32_t m = 0; m < N_MICROBATCHES; m++) {
                bool is = tr_plan_is_audited(&plan, 3, step, m);
                CU_ASSERT_EQUAL(is, tr_plan_is_audited(&other, 3, step, m));
                CU_ASSERT(is || !tr_plan_is_audited(&fewer, 3, step, m));
                n += is;
                n_of_another_seed += is && tr_plan_is_audited(&plan, 4, step, m);
            }
        double share = (double)rates[i] / TR_AUDIT_ALL, expected = N_DRAWN * share;
        /* Five standard deviations of as many draws, and one for the rate that is next to all. */
        CU_ASSERT(fabs(n - expected) <= 5 * sqrt(expected * (1 - share)) + 1);
        CU_ASSERT(fabs(n_of_another_seed - expected * share) <= 5 * sqrt(expected * share) + 1);
        if (rates[i] == 0 || rates[i] == TR_AUDIT_ALL) CU_ASSERT(n == expected);
    }
}

static const check_test tests[] = {
    CHECK_TEST(shares_are_contiguous_whole_and_larger_first),
    CHECK_TEST(replicas_hold_whole_groups_and_groups_whole_microbatches),
    CHECK_TEST(the_tree_is_fixed_and_its_siblings_are_known),
    CHECK_TEST(blocks_of_all_replicas_tile_the_tree),
    CHECK_TEST(credits_fit_the_pipeline_and_the_step),
    CHECK_TEST(windows_are_measured_when_the_plan_says),
    CHECK_TEST(checkpoints_come_when_the_plan_says),
    CHECK_TEST(audits_are_a_share_that_all_know),
};
CHECK_MAIN("plan", tests)
