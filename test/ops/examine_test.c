/* test/ops/examine_test.c - which operation made a value that is no number: nothing is found where all are, whatever operations
 * leave in scratch; and where one is none the first node is named, and whether it found it there.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/examine.h"
#include "ops/op.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

enum { B = 2, T = 5, C = 12, HEADS = 2, D = 6, V = 11 };

/* A model in small: of each kind of operation one, with all that they keep for their backward. */
static int build(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    (void)context;
    tr_attention_options options = {.heads = HEADS, .kv_heads = HEADS, .head_size = D, .scale = 0.4f};
    tr_graph_begin_unit(g);
    tr_value ids = tr_graph_input(g, "ids", TR_I32, TR_SHAPE2(B, T));
    tr_value table = tr_graph_parameter(g, "table", TR_F32, TR_SHAPE2(V, C));
    tr_value x = tr_embedding(g, ids, table);
    tr_graph_begin_unit(g);
    tr_value h = tr_layernorm(g, x, tr_graph_parameter(g, "norm.weight", TR_F32, TR_SHAPE1(C)),
                              tr_graph_parameter(g, "norm.bias", TR_F32, TR_SHAPE1(C)), 0.05f);
    tr_value w = tr_graph_parameter(g, "attention", TR_F32, TR_SHAPE2(C, C));
    tr_value q = tr_linear(g, h, w, TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    x = tr_add(g, x, tr_attention(g, q, h, h, &options));
    tr_graph_begin_unit(g);
    x = tr_rmsnorm(g, x, tr_graph_parameter(g, "last", TR_F32, TR_SHAPE1(C)), 0.05f);
    tr_value targets = tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(B, T));
    outputs[0] = tr_cross_entropy(g, tr_linear(g, x, table, TR_NO_VALUE, TR_WEIGHT_OUT_IN), targets);
    return 1;
}

typedef struct looker {
    const graph_check *check;
    const tr_bindings *bindings;
    tr_oddity first;
    int n; /* nodes whose outputs have one */
} looker;

static void look(void *context, int32_t position)
{
    looker *self = context;
    tr_oddity odd;
    if (!tr_examine(self->check->program, self->bindings, position, &odd)) return;
    if (self->n++ == 0) self->first = odd;
}

static looker run(graph_check *check)
{
    looker self = {.check = check};
    tr_bindings bindings = {.values = (void *const *)check->pointers,
                            .stash = check->stash.data,
                            .scratch = check->scratch.data,
                            .random = check->of->random,
                            .behind = look,
                            .context = &self};
    self.bindings = &bindings;
    for (int phase = TR_PHASE_FORWARD; phase < TR_PHASE_COUNT; phase++)
        tr_program_run(check->program, (tr_phase)phase, &bindings);
    return self;
}

static const graph_case of = {
    .name = "examined", .build = build, .id_limit = V, .negative_ids = true, .scale = 0.5};

static void where_all_are_numbers_nothing_is_found(void)
{
    graph_check check;
    if (!check_begin(&check, &of)) return;
    looker seen = run(&check);
    if (seen.n) fprintf(stderr, "'%s' is said to give %g\n", seen.first.node->op->name, seen.first.value);
    CU_ASSERT_EQUAL(seen.n, 0);
    check_end(&check);
}

/* By the graph's own numbers: it overflows. */
static void the_operation_that_overflows_is_named(void)
{
    graph_check check;
    if (!check_begin(&check, &of)) return;
    float *w = check.pointers[tr_graph_find(check.graph, "attention")];
    for (int i = 0; i < C * C; i++) w[i] = 3e38f;
    looker seen = run(&check);
    CU_ASSERT_FATAL(seen.n > 1);
    CU_ASSERT_STRING_EQUAL(seen.first.node->op->name, "linear");
    CU_ASSERT_STRING_EQUAL(seen.first.parameter, "attention");
    CU_ASSERT(!isfinite(seen.first.value) && !seen.first.in_parameter && !seen.first.in_input);
    CU_ASSERT_EQUAL(seen.first.node->unit, 1);
    CU_ASSERT_EQUAL(seen.first.position, 2); /* behind the embedding and the norm */
    CU_ASSERT_EQUAL(seen.first.n_elements, (int64_t)B * T * C);
    check_end(&check);
}

static void a_parameter_that_is_none_is_told_from_what_was_computed(void)
{
    graph_check check;
    if (!check_begin(&check, &of)) return;
    ((float *)check.pointers[tr_graph_find(check.graph, "norm.bias")])[7] = NAN;
    looker seen = run(&check);
    CU_ASSERT_FATAL(seen.n > 1);
    CU_ASSERT_STRING_EQUAL(seen.first.node->op->name, "layernorm");
    CU_ASSERT(isnan(seen.first.value) && seen.first.in_parameter && !seen.first.in_input);
    CU_ASSERT_EQUAL(seen.first.index, 7);
    check_end(&check);
}

/* Here the gradient of the loss, as the next stage would send it. */
static void so_is_what_came_in(void)
{
    graph_check check;
    if (!check_begin(&check, &of)) return;
    *(float *)check.pointers[check.output_gradients[0]] = -INFINITY;
    looker seen = run(&check);
    CU_ASSERT_FATAL(seen.n > 1);
    CU_ASSERT_EQUAL(seen.first.node->phase, TR_PHASE_BACKWARD);
    CU_ASSERT_STRING_EQUAL(seen.first.node->op->name, "cross_entropy_backward");
    CU_ASSERT(seen.first.in_input && !seen.first.in_parameter);
    check_end(&check);
}

static const check_test tests[] = {
    CHECK_TEST(where_all_are_numbers_nothing_is_found),
    CHECK_TEST(the_operation_that_overflows_is_named),
    CHECK_TEST(a_parameter_that_is_none_is_told_from_what_was_computed),
    CHECK_TEST(so_is_what_came_in),
};

CHECK_MAIN("ops/examine", tests)
