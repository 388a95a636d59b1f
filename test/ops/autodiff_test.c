/* test/ops/autodiff_test.c - which nodes autodiff adds, and in what phase. That the numbers are right is
 * tested with each operation.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "ops/autodiff.h"
#include "ops/op.h"
#include "ops/operations.h"
#include "test/check.h"

#include <string.h>

static tr_graph *new_graph(void)
{
    tr_error err = {0};
    tr_graph *graph = NULL;
    CHECK_OK(tr_graph_new(&graph, &err));
    return graph;
}

static int count(const tr_graph *g, const char *op_name)
{
    int n = 0;
    for (int32_t i = 0; i < tr_graph_node_count(g); i++)
        n += strcmp(tr_graph_node(g, i)->op->name, op_name) == 0;
    return n;
}

/* Two residual blocks, x + rmsnorm(x) w, with one tied weight. */
typedef struct model {
    tr_graph *graph;
    tr_value x, w, y, dy, dx;
} model;

static model residual_model(bool want_dx)
{
    tr_error err = {0};
    model m = {.graph = new_graph(), .dx = TR_NO_VALUE};
    m.x = tr_graph_input(m.graph, "x", TR_F32, TR_SHAPE2(4, 8));
    m.w = tr_graph_parameter(m.graph, "w", TR_F32, TR_SHAPE1(8));
    m.y = m.x;
    for (int i = 0; i < 2; i++) {
        tr_graph_begin_unit(m.graph);
        m.y = tr_add(m.graph, m.y, tr_rmsnorm(m.graph, m.y, m.w, 1e-5f));
    }
    tr_graph_mark_output(m.graph, m.y);
    m.dy = tr_graph_input(m.graph, "dy", TR_F32, TR_SHAPE2(4, 8));
    CHECK_OK(tr_autodiff(m.graph, &m.y, &m.dy, 1, &m.x, &m.dx, want_dx ? 1 : 0, &err));
    return m;
}

static void a_tied_weight_has_a_gradient_for_each_use(void)
{
    model m = residual_model(true);
    int32_t uses[4] = {0}, n = 0;
    for (tr_value v = 0; v < tr_graph_value_count(m.graph); v++)
        if (tr_graph_value(m.graph, v)->parameter == m.w && n < 4)
            uses[n++] = tr_graph_value(m.graph, v)->use;
    CU_ASSERT_EQUAL(n, 2);
    CU_ASSERT_EQUAL(uses[0], 2); /* the second block first: backward goes in reverse */
    CU_ASSERT_EQUAL(uses[1], 0);
    tr_graph_destroy(&m.graph);
}

static void pending_gradients_are_fused_not_added(void)
{
    model m = residual_model(true);
    CU_ASSERT_EQUAL(count(m.graph, "add"), 2); /* both of the forward */
    CU_ASSERT_EQUAL(count(m.graph, "rmsnorm_backward"), 2);
    CU_ASSERT_EQUAL(tr_graph_value(m.graph, m.dx)->is_output, true);
    tr_graph_destroy(&m.graph);
}

static void what_nobody_wants_is_not_computed(void)
{
    model m = residual_model(false);
    CU_ASSERT_EQUAL(count(m.graph, "rmsnorm_backward"),
                    1); /* only the second block's, for the weight of the first */
    CU_ASSERT_EQUAL(count(m.graph, "rmsnorm_weight"), 2);
    tr_graph_destroy(&m.graph);
}

/* x -> silu -> rmsnorm: without a wish for dx, nothing in front of the first weight is differentiated. */
static void nothing_in_front_of_the_first_weight_is_differentiated(void)
{
    tr_error err = {0};
    tr_graph *g = new_graph();
    tr_value x = tr_activate(g, tr_graph_input(g, "x", TR_F32, TR_SHAPE2(4, 8)), TR_SILU);
    tr_value y = tr_rmsnorm(g, x, tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(8)), 1e-5f);
    tr_value dy = tr_graph_input(g, "dy", TR_F32, TR_SHAPE2(4, 8));
    CHECK_OK(tr_autodiff(g, &y, &dy, 1, NULL, NULL, 0, &err));
    CU_ASSERT_EQUAL(tr_graph_node_count(g), 3);
    CU_ASSERT_EQUAL(count(g, "rmsnorm_weight"), 1);
    tr_graph_destroy(&g);
}

static void phases_and_units_are_kept(void)
{
    model m = residual_model(true);
    for (int32_t n = 0; n < tr_graph_node_count(m.graph); n++) {
        const tr_node *node = tr_graph_node(m.graph, n);
        bool is_weight = strcmp(node->op->name, "rmsnorm_weight") == 0;
        CU_ASSERT_EQUAL(node->phase, n < 4       ? TR_PHASE_FORWARD
                                     : is_weight ? TR_PHASE_WEIGHT
                                                 : TR_PHASE_BACKWARD);
        CU_ASSERT_EQUAL(node->unit, n < 4 ? n / 2 : n < 6 ? 1 : 0);
        for (int i = 0; i < node->n_inputs; i++) {
            int32_t producer = tr_graph_value(m.graph, node->inputs[i])->producer;
            CU_ASSERT(producer < n);
            if (producer >= 0) CU_ASSERT(tr_graph_node(m.graph, producer)->phase != TR_PHASE_WEIGHT);
        }
    }
    tr_graph_destroy(&m.graph);
}

/* y = a + b: both gradients are the output's; each goes out in memory of its own. */
static void gradients_that_only_pass_through_are_copied(void)
{
    tr_error err = {0};
    tr_graph *g = new_graph();
    tr_value inputs[2], gradients[2];
    inputs[0] = tr_graph_input(g, "a", TR_F32, TR_SHAPE2(4, 8));
    inputs[1] = tr_graph_input(g, "b", TR_F32, TR_SHAPE2(4, 8));
    tr_value y = tr_add(g, inputs[0], inputs[1]), dy = tr_graph_input(g, "dy", TR_F32, TR_SHAPE2(4, 8));
    CHECK_OK(tr_autodiff(g, &y, &dy, 1, inputs, gradients, 2, &err));
    CU_ASSERT(gradients[0] != gradients[1] && gradients[0] != dy && gradients[1] != dy);
    CU_ASSERT_EQUAL(count(g, "split"), 2);
    tr_graph_destroy(&g);
}

static void nothing_flows_where_nothing_depends(void)
{
    tr_error err = {0};
    tr_graph *g = new_graph();
    tr_value inputs[2], gradients[2];
    inputs[0] = tr_graph_input(g, "a", TR_F32, TR_SHAPE2(4, 8));
    inputs[1] = tr_graph_input(g, "b", TR_F32, TR_SHAPE2(4, 8));
    tr_activate(g, inputs[1], TR_SILU); /* not an output */
    tr_value y = tr_activate(g, inputs[0], TR_SILU), dy = tr_graph_input(g, "dy", TR_F32, TR_SHAPE2(4, 8));
    CHECK_OK(tr_autodiff(g, &y, &dy, 1, inputs, gradients, 2, &err));
    CU_ASSERT_NOT_EQUAL(gradients[0], TR_NO_VALUE);
    CU_ASSERT_EQUAL(gradients[1], TR_NO_VALUE);
    CU_ASSERT_EQUAL(count(g, "activate_backward"), 1);
    tr_graph_destroy(&g);
}

static void a_gradient_of_another_shape_is_refused(void)
{
    tr_error err = {0};
    tr_graph *g = new_graph();
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(4, 8)), y = tr_activate(g, x, TR_SILU);
    tr_value dy = tr_graph_input(g, "dy", TR_F32, TR_SHAPE2(8, 4)), dx;
    CU_ASSERT_EQUAL(tr_autodiff(g, &y, &dy, 1, &x, &dx, 1, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message,
                           "the gradient of output 1 is float32 (8, 4); the output is float32 (4, 8)");
    tr_graph_destroy(&g);
}

static void a_parameter_where_no_weight_gradient_is_known_is_refused(void)
{
    tr_error err = {0};
    tr_graph *g = new_graph();
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE1(8));
    tr_value y = tr_add(g, x, tr_graph_parameter(g, "p", TR_F32, TR_SHAPE1(8)));
    tr_value dy = tr_graph_input(g, "dy", TR_F32, TR_SHAPE1(8));
    CU_ASSERT_EQUAL(tr_autodiff(g, &y, &dy, 1, NULL, NULL, 0, &err), TR_EUNSUPPORTED);
    CU_ASSERT_STRING_EQUAL(err.message, "'add' has no weight gradient; parameter 'p' cannot be its input 1");
    tr_graph_destroy(&g);
}

static void failing_allocations_are_reported(void)
{
    for (uint64_t n = 1; n < 30; n++) {
        tr_graph *g = new_graph();
        tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(4, 8)), dx;
        tr_value y = tr_rmsnorm(g, x, tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(8)), 1e-5f);
        tr_value dy = tr_graph_input(g, "dy", TR_F32, TR_SHAPE2(4, 8));
        tr_memory_fail_after(n);
        tr_status status = tr_autodiff(g, &y, &dy, 1, &x, &dx, 1, NULL);
        void *after = tr_alloc(1); /* NULL only where the failure has not happened yet */
        CU_ASSERT_EQUAL(status, after ? TR_ENOMEM : TR_OK);
        tr_memory_fail_after(0);
        tr_free(after);
        tr_graph_destroy(&g);
        if (status == TR_OK) break;
    }
}

static const check_test tests[] = {
    CHECK_TEST(a_tied_weight_has_a_gradient_for_each_use),
    CHECK_TEST(pending_gradients_are_fused_not_added),
    CHECK_TEST(what_nobody_wants_is_not_computed),
    CHECK_TEST(nothing_in_front_of_the_first_weight_is_differentiated),
    CHECK_TEST(phases_and_units_are_kept),
    CHECK_TEST(gradients_that_only_pass_through_are_copied),
    CHECK_TEST(nothing_flows_where_nothing_depends),
    CHECK_TEST(a_gradient_of_another_shape_is_refused),
    CHECK_TEST(a_parameter_where_no_weight_gradient_is_known_is_refused),
    CHECK_TEST(failing_allocations_are_reported),
};
CHECK_MAIN("autodiff", tests)
