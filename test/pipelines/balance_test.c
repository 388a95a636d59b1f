/* test/pipelines/balance_test.c - cuts by measured times, the times being given: whatever a machine measures, what is made
 * of it is this. And measuring itself, of which only is said that it fills in everything.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "base/memory.h"
#include "pipelines/balance.h"
#include "pipelines/measure.h"

enum { MOST_LAYERS = 16 };

static tr_error err;

static tr_training_plan plan_of(uint32_t n_workers, uint32_t n_pieces, uint32_t n_microbatches)
{
    return (tr_training_plan){.n_replicas = 1,
                              .n_stages = n_workers * n_pieces,
                              .n_pieces = n_pieces,
                              .n_steps = 1,
                              .n_microbatches = n_microbatches,
                              .n_groups = 1,
                              .rows = 1,
                              .sequence = 1,
                              .extra_stash = 1};
}

/* An embedding of no weight, equal layers, and a head that costs `head` layers. */
static void units_of(tr_stage_times *units, int32_t n_layers, double head)
{
    for (int32_t u = 0; u < n_layers + 2; u++)
        for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
            units[u].ns[phase] =
                u == 0 ? 10
                       : (uint64_t)((phase == TR_PHASE_BACKWARD ? 1100 : 1000) * (u > n_layers ? head : 1));
}

static uint64_t step_of(const tr_stage_times *units, const int32_t *layers, const tr_training_plan *plan)
{
    tr_stage_times stages[MOST_LAYERS];
    tr_schedule schedule;
    tr_balance_stage_times(units, layers, plan->n_stages, stages);
    CHECK_OK(tr_schedule_foretell(&schedule, plan, 0, stages, &err));
    uint64_t end = schedule.end_ns;
    tr_schedule_release(&schedule);
    return end;
}

static void check_whole(const int32_t *layers, uint32_t n_stages, int32_t n_layers)
{
    int32_t sum = 0;
    for (uint32_t s = 0; s < n_stages; s++) {
        CU_ASSERT(layers[s] >= 1);
        sum += layers[s];
    }
    CU_ASSERT_EQUAL(sum, n_layers);
}

static void stages_get_the_times_of_their_units(void)
{
    tr_stage_times units[6], stages[2];
    for (uint32_t u = 0; u < 6; u++) units[u] = (tr_stage_times){{1u << u, 100u << u, 10000u << u}};
    tr_balance_stage_times(units, (const int32_t[]){1, 3}, 2, stages);
    CU_ASSERT(stages[0].ns[TR_PHASE_FORWARD] == 3 && stages[1].ns[TR_PHASE_FORWARD] == 60);
    CU_ASSERT(stages[0].ns[TR_PHASE_BACKWARD] == 300 && stages[1].ns[TR_PHASE_BACKWARD] == 6000);
    CU_ASSERT(stages[0].ns[TR_PHASE_WEIGHT] == 30000 && stages[1].ns[TR_PHASE_WEIGHT] == 600000);
    tr_balance_stage_times(units, (const int32_t[]){4}, 1, stages);
    CU_ASSERT_EQUAL(stages[0].ns[TR_PHASE_FORWARD], 63);
}

static void equal_layers_are_dealt_out_evenly(void)
{
    tr_stage_times units[MOST_LAYERS + 2];
    int32_t layers[MOST_LAYERS];
    units_of(units, 12, 0.1);
    for (uint32_t pieces = 1; pieces <= 2; pieces++)
        for (uint32_t workers = 1; workers <= 3; workers++) {
            tr_training_plan plan = plan_of(workers, pieces, 8);
            CHECK_OK(tr_balance(units, 12, &plan, layers, &err));
            check_whole(layers, plan.n_stages, 12);
            for (uint32_t w = 0; w < workers;
                 w++) /* its pieces may be unlike: a small first one wakes the others sooner */
                CU_ASSERT_EQUAL(layers[w] + (pieces > 1 ? layers[w + workers] : 0), 12 / (int32_t)workers);
        }
}

static void the_stage_of_a_dear_head_gets_fewer_layers(void)
{
    tr_stage_times units[MOST_LAYERS + 2];
    int32_t layers[MOST_LAYERS];
    units_of(units, 13, 3);
    tr_training_plan plan = plan_of(4, 1, 16);
    CHECK_OK(tr_balance(units, 13, &plan, layers, &err));
    check_whole(layers, 4, 13);
    CU_ASSERT(layers[0] == 4 && layers[1] == 4 && layers[2] == 4 && layers[3] == 1);
}

/* Tries all ways to give `left` layers to the stages from `s` on. */
static uint64_t shortest(const tr_stage_times *units, const tr_training_plan *plan, int32_t *layers,
                         uint32_t s, int32_t left)
{
    uint64_t best = UINT64_MAX;
    int32_t after = (int32_t)(plan->n_stages - s) - 1;
    if (after == 0) {
        layers[s] = left;
        return step_of(units, layers, plan);
    }
    for (layers[s] = 1; layers[s] + after <= left; layers[s]++) {
        uint64_t end = shortest(units, plan, layers, s + 1, left - layers[s]);
        if (end < best) best = end;
    }
    return best;
}

/* Compared with all cuts there are: never far from the best, also where the pieces of a worker make up for each other. */
static void no_other_cut_is_much_better(void)
{
    static const uint32_t layouts[][2] = {{2, 1}, {4, 1}, {2, 2}, {3, 2}, {2, 3}};
    tr_stage_times units[MOST_LAYERS + 2];
    int32_t layers[MOST_LAYERS], others[MOST_LAYERS];
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        for (int head = CHECK_SIZE(0, 4); head <= 4; head++) {
            tr_training_plan plan = plan_of(layouts[i][0], layouts[i][1], 8);
            const int32_t n_layers = CHECK_SIZE(10, 7);
            units_of(units, n_layers, head);
            units[4].ns[TR_PHASE_FORWARD] *=
                1 + (uint64_t)head % 2; /* and one layer that is unlike the others */
            CHECK_OK(tr_balance(units, n_layers, &plan, layers, &err));
            check_whole(layers, plan.n_stages, n_layers);
            uint64_t found = step_of(units, layers, &plan),
                     best = shortest(units, &plan, others, 0, n_layers);
            if (found > best + best / 20)
                fprintf(stderr, "\n%u x %u, head %d: %llu, but %llu is possible\n", layouts[i][0],
                        layouts[i][1], head, (unsigned long long)found, (unsigned long long)best);
            CU_ASSERT(found <= best + best / 20);
        }
}

static void what_cannot_be_balanced_is_said(void)
{
    tr_stage_times units[MOST_LAYERS + 2];
    int32_t layers[MOST_LAYERS];
    units_of(units, 3, 1);
    tr_training_plan plan = plan_of(2, 2, 8);
    CU_ASSERT_EQUAL(tr_balance(units, 3, &plan, layers, &err), TR_EINVAL);
    plan = plan_of(3, 1, 8);
    uint64_t failures = 0;
    for (uint64_t n = 1;; n++, failures++) {
        tr_memory_fail_after(n);
        tr_status status = tr_balance(units, 3, &plan, layers, &err);
        tr_memory_fail_after(0);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
    CU_ASSERT(failures > 5);
}

static void every_unit_is_measured(void)
{
    static const char text[] =
        "run: none\n"
        "model: {family: llama, layers: 2, width: 16, heads: 2, vocabulary: 64, tie: true}\n"
        "data: {tokens: none}\n"
        "train: {steps: 1, sequence: 8, microbatch: 2}\n"
        "lr: {peak: 1e-3}\n";
    tr_recipe recipe;
    tr_model_config config;
    tr_model_plan model;
    tr_stage_times units[4];
    CHECK_OK(tr_recipe_parse(&recipe, text, sizeof text - 1, "recipe", NULL, 0, &err));
    CHECK_OK(tr_model_config_from_recipe(&config, &recipe, &err));
    CHECK_OK(tr_model_plan_init(&model, &config, &recipe, &err));
    CHECK_OK(tr_measure_units(&model, TR_RECOMPUTE_NONE, 1, units, NULL, &err));
    for (int u = 0; u < 4; u++) {
        CU_ASSERT(units[u].ns[TR_PHASE_FORWARD] > 0 && units[u].ns[TR_PHASE_WEIGHT] > 0);
        CU_ASSERT((units[u].ns[TR_PHASE_BACKWARD] > 0) == (u > 0)); /* nobody wants a gradient of tokens */
    }
    uint64_t failures = 0;
    for (uint64_t n = 1;; n += CHECK_SIZE(1 + n / 20, 1 + n), failures++) {
        tr_memory_fail_after(n);
        tr_status status = tr_measure_units(&model, TR_RECOMPUTE_NONE, 1, units, NULL, &err);
        tr_memory_fail_after(0);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
    CU_ASSERT(failures > CHECK_SIZE(20, 5));
    tr_model_plan_release(&model);
    tr_recipe_release(&recipe);
}

static const check_test tests[] = {
    CHECK_TEST(stages_get_the_times_of_their_units),
    CHECK_TEST(equal_layers_are_dealt_out_evenly),
    CHECK_TEST(the_stage_of_a_dear_head_gets_fewer_layers),
    CHECK_TEST(no_other_cut_is_much_better),
    CHECK_TEST(what_cannot_be_balanced_is_said),
    CHECK_TEST(every_unit_is_measured),
};
CHECK_MAIN("balance", tests)
