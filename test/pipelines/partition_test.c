/* test/pipelines/partition_test.c - cutting a model changes no bit of it, loses no node, and balances as well
 * as can be.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/partition.h"

#include "base/rng.h"
#include "check.h"
#include "model_runs.h"

static const char *const cases[] = {"test/golden/gpt2", "test/golden/llama"};
enum { N_CASES = 2 };

static void expect_equal_bits(model_run *whole, model_run *cut, const char *name)
{
    double a = golden_step(whole, cases[0]), b = golden_step(cut, cases[0]);
    CU_ASSERT(memcmp(&a, &b, sizeof a) == 0);
    CU_ASSERT(a > 1.0);
    for (size_t i = 0; i < whole->model.parameters.count; i++) {
        const tr_model_parameter *parameter = &whole->model.parameters.items[i];
        float *x = run_gradient(whole, (int32_t)i), *y = run_gradient(cut, (int32_t)i);
        bool same = memcmp(x, y, (size_t)tr_shape_elements(&parameter->shape) * sizeof *x) == 0;
        if (!same) fprintf(stderr, "%s in %d pieces: %s\n", name, cut->partition.n_stages, parameter->name);
        CU_ASSERT(same);
        tr_free(x);
        tr_free(y);
    }
    run_close(whole);
    run_close(cut);
}

static void pieces_have_the_bits_of_the_whole(void)
{
    model_run whole, cut;
    for (int c = 0; c < N_CASES; c++)
        for (int n = CHECK_SIZE(2, 4); n <= 4; n++) {
            run_open(&whole, cases[c], 4, GOLDEN_T, 1);
            run_open(&cut, cases[c], 4, GOLDEN_T, n);
            expect_equal_bits(&whole, &cut, cases[c]);
        }
    for (int c = 0; c < N_VARIANTS; c++)
        for (int n = CHECK_SIZE(2, 3); n <= 3; n++) {
            tr_loaded_model model;
            fresh_model(&model, variants[c]);
            run_open_model(&whole, &model, 4, GOLDEN_T, 1);
            fresh_model(&model, variants[c]);
            run_open_model(&cut, &model, 4, GOLDEN_T, n);
            expect_equal_bits(&whole, &cut, c == 0 ? "tied llama with biases" : "untied gpt2");
        }
}

/* The whole graph of a golden model, for 2 x 8 tokens. */
static void open_graph(const char *directory, tr_graph **graph, tr_model_values *values)
{
    tr_model_config config;
    tr_model_options options = {.kind = TR_MODEL_TRAINING, .batch = 2, .sequence = 8};
    MUST(tr_model_config_read(&config, directory, err));
    MUST(tr_model_graph(&config, &options, graph, values, err));
    tr_model_config_release(&config);
}

static void expect_same_node(const tr_node *whole, const tr_node *piece)
{
    CU_ASSERT_PTR_EQUAL(whole->op, piece->op);
    CU_ASSERT_EQUAL(whole->use, piece->use);
    CU_ASSERT_EQUAL(whole->unit, piece->unit);
    CU_ASSERT_EQUAL(whole->n_inputs, piece->n_inputs);
    CU_ASSERT(memcmp(tr_node_attributes(whole), tr_node_attributes(piece), TR_ATTRIBUTE_BYTES) == 0);
}

static void every_node_is_in_one_piece_and_keeps_its_use(void)
{
    for (int c = 0; c < N_CASES; c++)
        for (int32_t n_stages = 1; n_stages <= 4; n_stages++) {
            tr_graph *whole;
            tr_model_values values;
            tr_partition partition;
            int32_t node = 0;
            open_graph(cases[c], &whole, &values);
            MUST(tr_partition_balanced(&partition, whole, n_stages, err));
            for (int32_t s = 0; s < n_stages; s++) {
                tr_piece piece;
                MUST(tr_partition_extract(whole, &values, partition.first_unit[s],
                                          partition.first_unit[s + 1], TR_PIECE_FORWARD, &piece, err));
                for (int32_t i = 0; i < tr_graph_node_count(piece.graph); i++, node++)
                    expect_same_node(tr_graph_node(whole, node), tr_graph_node(piece.graph, i));
                CU_ASSERT_EQUAL(piece.tokens != TR_NO_VALUE, s == 0);
                CU_ASSERT_EQUAL(piece.activation_in != TR_NO_VALUE, s > 0);
                CU_ASSERT_EQUAL(piece.activation_out != TR_NO_VALUE, s + 1 < n_stages);
                CU_ASSERT_EQUAL(piece.targets != TR_NO_VALUE, s + 1 == n_stages);
                CU_ASSERT_EQUAL(piece.loss != TR_NO_VALUE, s + 1 == n_stages);
                tr_piece_release(&piece);
            }
            CU_ASSERT_EQUAL(node, tr_graph_node_count(whole));
            tr_partition_release(&partition);
            tr_graph_destroy(&whole);
        }
}

/* Every use of every parameter has one gradient, in the piece whose stage the list of uses names. */
static void every_use_has_one_gradient_in_its_stage(void)
{
    for (int c = 0; c < N_CASES; c++) {
        tr_graph *whole;
        tr_model_values values;
        tr_partition partition;
        tr_parameter_use *uses;
        size_t n_uses, found = 0;
        open_graph(cases[c], &whole, &values);
        MUST(tr_partition_balanced(&partition, whole, 3, err));
        MUST(tr_partition_uses(&partition, whole, &uses, &n_uses, err));
        for (int32_t s = 0; s < 3; s++) {
            tr_piece piece;
            MUST(tr_partition_extract(whole, &values, partition.first_unit[s], partition.first_unit[s + 1],
                                      TR_PIECE_TRAINING, &piece, err));
            CU_ASSERT_EQUAL(piece.gradient_in != TR_NO_VALUE, s < 2);
            CU_ASSERT_EQUAL(piece.gradient_out != TR_NO_VALUE, s > 0);
            CU_ASSERT_EQUAL(piece.factor != TR_NO_VALUE, s == 2);
            int32_t g = 0;
            for (size_t u = 0; u < n_uses; u++) {
                if (uses[u].stage != s) continue;
                CU_ASSERT_FATAL(g < piece.n_gradients);
                CU_ASSERT_EQUAL(piece.gradients[g].index, uses[u].parameter);
                CU_ASSERT_EQUAL(piece.gradients[g].use, uses[u].use);
                CU_ASSERT_EQUAL(piece.parameters[piece.gradients[g].position].index, uses[u].parameter);
                g++;
                found++;
            }
            CU_ASSERT_EQUAL(g, piece.n_gradients);
            tr_piece_release(&piece);
        }
        CU_ASSERT_EQUAL(found, n_uses);
        tr_free(uses);
        tr_partition_release(&partition);
        tr_graph_destroy(&whole);
    }
}

static void tied_embedding_is_owned_by_the_first_stage_and_used_by_the_last(void)
{
    tr_graph *whole;
    tr_model_values values;
    tr_partition partition;
    tr_parameter_use *uses;
    size_t n_uses;
    open_graph(cases[0], &whole, &values);
    MUST(tr_partition_balanced(&partition, whole, 4, err));
    MUST(tr_partition_uses(&partition, whole, &uses, &n_uses, err));
    CU_ASSERT_FATAL(n_uses > 2);
    CU_ASSERT(uses[0].parameter == 0 && uses[0].stage == 0);
    CU_ASSERT(uses[1].parameter == 0 && uses[1].stage == 3 && uses[1].use > uses[0].use);
    CU_ASSERT_EQUAL(uses[2].parameter, 1);
    tr_free(uses);
    tr_partition_release(&partition);
    tr_graph_destroy(&whole);
}

/* The least cost of the costliest stage over all cuts, and among those the least sum of squares. */
static void try_all_cuts(const double *costs, int n, int n_stages, double worst, double squares,
                         double best[2])
{
    if (n_stages == 0) {
        if (n == 0 && (worst < best[0] || (worst == best[0] && squares < best[1]))) {
            best[0] = worst;
            best[1] = squares;
        }
        return;
    }
    double sum = 0.0;
    for (int take = 1; take <= n - (n_stages - 1); take++) {
        sum += costs[take - 1];
        try_all_cuts(costs + take, n - take, n_stages - 1, sum > worst ? sum : worst, squares + sum * sum,
                     best);
    }
}

static void balanced_cut_is_the_best_of_all_cuts(void)
{
    tr_rng_key key = {.seed = 1};
    uint64_t drawn = 0;
    for (int round = 0; round < 300; round++) {
        int n = 1 + (int)(tr_rng_u64(&key, drawn++) % 9);
        int n_stages = 1 + (int)(tr_rng_u64(&key, drawn++) % (uint64_t)n);
        double costs[9] = {0};
        int32_t first[10];
        for (int i = 0; i < n; i++) costs[i] = (double)(1 + tr_rng_u64(&key, drawn++) % 20);
        MUST(tr_partition_cut(costs, n, n_stages, first, err));
        double best[2] = {1e30, 1e30}, worst = 0.0, squares = 0.0;
        try_all_cuts(costs, n, n_stages, 0.0, 0.0, best);
        CU_ASSERT(first[0] == 0 && first[n_stages] == n);
        for (int s = 0; s < n_stages; s++) {
            double sum = 0.0;
            CU_ASSERT(first[s] < first[s + 1]);
            for (int i = first[s]; i < first[s + 1]; i++) sum += costs[i];
            worst = sum > worst ? sum : worst;
            squares += sum * sum;
        }
        CU_ASSERT_EQUAL(worst, best[0]);
        CU_ASSERT_EQUAL(squares, best[1]);
    }
}

static void equal_layers_are_dealt_evenly_and_later_stages_get_the_rest(void)
{
    static const double costs[7] = {3, 3, 3, 3, 3, 3, 3};
    int32_t first[4];
    MUST(tr_partition_cut(costs, 7, 3, first, err));
    CU_ASSERT(first[0] == 0 && first[1] == 2 && first[2] == 4 && first[3] == 7);
}

static void given_stages_are_taken_as_given(void)
{
    static const int32_t layers[] = {1, 3};
    tr_graph *whole;
    tr_model_values values;
    tr_partition partition;
    open_graph(cases[1], &whole, &values);
    MUST(tr_partition_explicit(&partition, whole, layers, 2, err));
    CU_ASSERT(partition.first_unit[0] == 0 && partition.first_unit[1] == 2 && partition.first_unit[2] == 6);
    CU_ASSERT(partition.cost[0] > 0 && partition.cost[1] > 2 * partition.cost[0]);
    tr_partition_release(&partition);
    tr_graph_destroy(&whole);
}

static void impossible_stages_are_refused(void)
{
    static const int32_t too_few[] = {1, 2}, none[] = {4, 0};
    tr_graph *whole;
    tr_model_values values;
    tr_partition partition;
    tr_error error = {0};
    open_graph(cases[0], &whole, &values);
    CU_ASSERT_EQUAL(tr_partition_balanced(&partition, whole, 5, &error), TR_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.message, "'5' pipeline stages for a model of 4 decoder layers"));
    CU_ASSERT_EQUAL(tr_partition_balanced(&partition, whole, 0, &error), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_partition_explicit(&partition, whole, too_few, 2, &error), TR_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.message, "'3'"));
    CU_ASSERT_EQUAL(tr_partition_explicit(&partition, whole, none, 2, &error), TR_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.message, "stage 1"));
    tr_graph_destroy(&whole);
}

static void cut_that_two_values_cross_is_refused(void)
{
    tr_graph *g;
    tr_model_values values = {TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE};
    tr_piece piece;
    tr_error error = {0};
    MUST(tr_graph_new(&g, err));
    tr_graph_begin_unit(g);
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(2, 3));
    tr_value a = tr_activate(g, x, TR_RELU), b = tr_activate(g, x, TR_SILU);
    tr_graph_begin_unit(g);
    tr_graph_mark_output(g, tr_add(g, a, b));
    MUST(tr_graph_check(g, err));
    CU_ASSERT_EQUAL(tr_partition_extract(g, &values, 0, 1, TR_PIECE_FORWARD, &piece, &error), TR_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.message, "both cross the cut before unit 1"));
    tr_graph_destroy(&g);
}

/* Every allocation fails once: an error comes back, and nothing stays behind (the sanitizer watches). */
static void lack_of_memory_is_an_error(void)
{
    tr_graph *whole;
    tr_model_values values;
    tr_status status = TR_ENOMEM;
    open_graph(cases[0], &whole, &values);
    for (uint64_t n = 1; status != TR_OK; n += CHECK_SIZE(n < 40 ? 1 : 13, 41)) {
        tr_partition partition = {0};
        tr_parameter_use *uses = NULL;
        tr_piece piece = {0};
        size_t n_uses;
        tr_error error = {0};
        tr_memory_fail_after(n);
        status = tr_partition_balanced(&partition, whole, 2, &error);
        if (status == TR_OK) status = tr_partition_uses(&partition, whole, &uses, &n_uses, &error);
        if (status == TR_OK)
            status = tr_partition_extract(whole, &values, 0, partition.first_unit[1], TR_PIECE_TRAINING,
                                          &piece, &error);
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK || (status == TR_ENOMEM && error.message[0]));
        tr_piece_release(&piece);
        tr_free(uses);
        tr_partition_release(&partition);
    }
    tr_graph_destroy(&whole);
}

static const check_test tests[] = {
    CHECK_TEST(pieces_have_the_bits_of_the_whole),
    CHECK_TEST(every_node_is_in_one_piece_and_keeps_its_use),
    CHECK_TEST(every_use_has_one_gradient_in_its_stage),
    CHECK_TEST(tied_embedding_is_owned_by_the_first_stage_and_used_by_the_last),
    CHECK_TEST(balanced_cut_is_the_best_of_all_cuts),
    CHECK_TEST(equal_layers_are_dealt_evenly_and_later_stages_get_the_rest),
    CHECK_TEST(given_stages_are_taken_as_given),
    CHECK_TEST(impossible_stages_are_refused),
    CHECK_TEST(cut_that_two_values_cross_is_refused),
    CHECK_TEST(lack_of_memory_is_an_error),
};

CHECK_MAIN("pipelines/partition", tests)
