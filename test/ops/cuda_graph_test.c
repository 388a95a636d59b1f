/* test/ops/cuda_graph_test.c - phases that are launched as CUDA graphs compute what they compute kernel by kernel, bit for bit,
 * wherever their memory is and whatever lies in it; and what cannot be captured is not.
 * Skipped (exit 77) where there is no GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "test/ops/cuda_check.h"

enum { HIDDEN = 4, MANY_PLACES = 60, PLACE_STEP = 256 };

/* A layer of a transformer with a loss: rows, T, width, heads; dropout behind the attention where d[4]. */
static int build_layer(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    int64_t rows = c->d[0], time = c->d[1], width = c->d[2], widths[] = {width, width, width};
    tr_attention_options options = {.heads = (int32_t)c->d[3],
                                    .kv_heads = (int32_t)c->d[3],
                                    .head_size = (int32_t)(width / c->d[3]),
                                    .scale = 0.125f};
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE3(rows, time, width)), parts[3];
    tr_value norm = tr_graph_parameter(g, "norm", TR_F32, TR_SHAPE1(width)),
             shift = tr_graph_parameter(g, "shift", TR_F32, TR_SHAPE1(width)),
             qkv = tr_graph_parameter(g, "qkv", dtype, TR_SHAPE2(width, 3 * width)),
             up = tr_graph_parameter(g, "up", dtype, TR_SHAPE2(width, HIDDEN * width)),
             bias = tr_graph_parameter(g, "bias", TR_F32, TR_SHAPE1(HIDDEN * width)),
             down = tr_graph_parameter(g, "down", dtype, TR_SHAPE2(HIDDEN * width, width)),
             head = tr_graph_parameter(g, "head", dtype, TR_SHAPE2(c->id_limit, width));
    tr_value y = tr_layernorm(g, x, norm, shift, 1e-5f);
    tr_split(g, tr_linear(g, y, qkv, TR_NO_VALUE, TR_WEIGHT_IN_OUT), widths, 3, parts);
    y = tr_attention(g, parts[0], parts[1], parts[2], &options);
    if (c->d[4]) y = tr_dropout(g, y, 0.25);
    x = tr_add(g, x, y);
    y = tr_activate(g, tr_linear(g, x, up, bias, TR_WEIGHT_IN_OUT), TR_GELU_TANH);
    x = tr_add(g, x, tr_linear(g, y, down, TR_NO_VALUE, TR_WEIGHT_IN_OUT));
    tr_value logits = tr_linear(g, x, head, TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    outputs[0] = tr_cross_entropy(g, logits, tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(rows, time)));
    return 1;
}

static const op_case layer = {"layer", build_layer, {2, 48, 128, 2}, 320};
static const op_case dropping = {"layer with dropout", build_layer, {2, 48, 128, 2, 1}, 320};

static bool open_pair(side *plain, side *graphs, const op_case *c, tr_dtype dtype)
{
    with_graphs = false;
    bool good = open_side(plain, c, dtype, device, stream, true);
    with_graphs = true;
    return good && open_side(graphs, c, dtype, device, stream, true);
}

static void close_pair(side *plain, side *graphs)
{
    close_side(plain);
    close_side(graphs);
    variant = 0;
}

/* Runs both; the same bits. */
static void expect_same(side *plain, side *graphs, const op_case *c)
{
    run_side(plain, c);
    run_side(graphs, c);
    CU_ASSERT(same_bits(graphs, plain->results));
}

/* x + gelu(norm(x) w + b): few enough roundings for the tolerance of bfloat16. */
static int build_short(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    int64_t rows = c->d[0], width = c->d[1];
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(rows, width)),
             norm = tr_graph_parameter(g, "norm", TR_F32, TR_SHAPE1(width)),
             w = tr_graph_parameter(g, "w", dtype, TR_SHAPE2(width, width)),
             b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(width));
    tr_value y = tr_linear(g, tr_rmsnorm(g, x, norm, 1e-5f), w, b, TR_WEIGHT_IN_OUT);
    outputs[0] = tr_add(g, x, tr_activate(g, y, TR_GELU_TANH));
    return 1;
}

static void operations_are_right_when_they_are_launched_as_a_graph(void)
{
    with_graphs = true;
    check_case(&(op_case){"short layer", build_short, {65, 64}, 0},
               true); /* twice: the second time it is captured */
}

/* Kernels read what lies in memory when they run, not when they were captured. */
static void other_numbers_have_the_bits_of_single_kernels(void)
{
    for (int k = 0; k < 2; k++) {
        side plain, graphs;
        if (!open_pair(&plain, &graphs, &layer, k ? TR_BF16 : TR_F32)) continue;
        for (variant = 0; variant < 5; variant++) expect_same(&plain, &graphs, &layer);
        CU_ASSERT_EQUAL(tr_program_graph_launches(graphs.program), 4 * TR_PHASE_COUNT);
        CU_ASSERT_EQUAL(tr_program_graph_launches(plain.program), 0);
        close_pair(&plain, &graphs);
    }
}

/* Places that take turns, as micro-batches in flight do, and gradients that begin or are added to. */
static void each_place_has_a_graph_of_its_own(void)
{
    side plain, graphs;
    if (!open_pair(&plain, &graphs, &layer, TR_BF16)) return;
    void *stashes[2] = {graphs.stash, allocate(&graphs, tr_program_stash_bytes(graphs.program))};
    for (int i = 0; i < 12; i++) {
        variant = (uint64_t)i;
        graphs.stash = stashes[i % 2];
        plain.begin = graphs.begin = i / 2 % 2 == 0;
        plain.from_zero = graphs.from_zero = !plain.begin;
        expect_same(&plain, &graphs, &layer);
    }
    /* Two places and two ways to begin: four descriptions of each phase, met three times. */
    CU_ASSERT_EQUAL(tr_program_graph_launches(graphs.program), (3 - 1) * 4 * TR_PHASE_COUNT);
    graphs.stash = stashes[0];
    free_memory(&graphs, stashes[1]);
    close_pair(&plain, &graphs);
}

/* A mask is another one in every micro-batch. */
static void what_draws_is_queued_kernel_by_kernel(void)
{
    side plain, graphs;
    if (!open_pair(&plain, &graphs, &dropping, TR_BF16)) return;
    float **first = NULL;
    for (variant = 0; variant < 4; variant++) {
        expect_same(&plain, &graphs, &dropping);
        if (variant == 0) first = take_results(&graphs);
    }
    CU_ASSERT(!same_bits(&graphs, first));
    CU_ASSERT_EQUAL(tr_program_graph_launches(graphs.program), 3); /* weight gradients draw nothing */
    free_results(&graphs, first);
    close_pair(&plain, &graphs);
}

/* More than there may be graphs: the rest is queued kernel by kernel. */
static void too_many_places_are_no_harm(void)
{
    side plain, graphs;
    if (!open_pair(&plain, &graphs, &layer, TR_F32)) return;
    size_t bytes = tr_program_stash_bytes(graphs.program);
    char *many = allocate(&graphs, bytes + MANY_PLACES * PLACE_STEP), *own = graphs.stash;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < MANY_PLACES; i++) {
            tr_bindings bindings = {.values = graphs.bound,
                                    .stash = many + (ptrdiff_t)i * PLACE_STEP,
                                    .scratch = graphs.scratch,
                                    .begin_gradients = true};
            for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
                tr_program_run(graphs.program, (tr_phase)phase, &bindings);
        }
    tr_error err = {0};
    CHECK_OK(tr_program_synchronize(graphs.program, &err));
    uint64_t launches = tr_program_graph_launches(graphs.program);
    CU_ASSERT(launches >= 200 && launches < 2 * TR_PHASE_COUNT * MANY_PLACES);
    graphs.stash = own;
    expect_same(&plain, &graphs, &layer);
    free_memory(&graphs, many);
    close_pair(&plain, &graphs);
}

/* Products are others then. */
static void chosen_products_are_captured_anew(void)
{
    side plain, graphs;
    tr_product_choices *choices;
    tr_error err = {0};
    char name[TR_PRODUCT_NAME_BYTES];
    if (!open_pair(&plain, &graphs, &layer, TR_BF16)) return;
    for (int i = 0; i < 3; i++) expect_same(&plain, &graphs, &layer);
    CHECK_OK(tr_product_choices_new(&choices, &err));
    CHECK_OK(tr_program_choose_products(graphs.program, choices, graphs.stash,
                                        tr_program_stash_bytes(graphs.program), &err));
    size_t n = tr_product_choices_count(choices);
    CU_ASSERT(n >= 8);
    tr_program_products_hold_for(graphs.program, name);
    char *text = tr_product_choices_write(choices);
    CU_ASSERT(strncmp(text, "products ", 9) == 0 && strncmp(text + 9, name, strlen(name)) == 0);
    tr_free(text);
    CHECK_OK(
        tr_program_choose_products(plain.program, choices, NULL, 0, &err)); /* nothing is left to measure */
    CU_ASSERT_EQUAL(tr_product_choices_count(choices), n);
    for (int i = 0; i < 3; i++) expect_same(&plain, &graphs, &layer);
    CU_ASSERT_EQUAL(tr_program_graph_launches(graphs.program), 2 * (3 - 1) * TR_PHASE_COUNT);
    close_pair(&plain, &graphs);
    tr_product_choices_destroy(&choices);
}

static const check_test tests[] = {
    CHECK_TEST(operations_are_right_when_they_are_launched_as_a_graph),
    CHECK_TEST(other_numbers_have_the_bits_of_single_kernels),
    CHECK_TEST(each_place_has_a_graph_of_its_own),
    CHECK_TEST(what_draws_is_queued_kernel_by_kernel),
    CHECK_TEST(too_many_places_are_no_harm),
    CHECK_TEST(chosen_products_are_captured_anew),
};

int main(int argc, char **argv)
{
    return check_on_gpu(argc, argv, "ops/cuda_graph", tests, sizeof tests / sizeof *tests, 6);
}
