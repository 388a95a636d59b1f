/* test/ops/graph_test.c - what a graph promises to those who build it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "ops/graph.h"
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

static void addresses_stay_while_a_graph_grows(void)
{
    tr_graph *g = new_graph();
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(2, 3));
    tr_value y = tr_activate(g, x, TR_SILU);
    CU_ASSERT_EQUAL(tr_graph_check(g, NULL), TR_OK);
    const tr_node *node = tr_graph_node(g, 0);
    const tr_value_info *value = tr_graph_value(g, x);
    for (int i = 0; i < 1000; i++) y = tr_activate(g, y, TR_SILU);
    CU_ASSERT_EQUAL(tr_graph_check(g, NULL), TR_OK);
    CU_ASSERT_PTR_EQUAL(node, tr_graph_node(g, 0));
    CU_ASSERT_PTR_EQUAL(value, tr_graph_value(g, x));
    CU_ASSERT_STRING_EQUAL(value->name, "x");
    CU_ASSERT_EQUAL(tr_graph_node_count(g), 1001);
    CU_ASSERT_EQUAL(tr_graph_value(g, y)->producer, 1000);
    tr_graph_destroy(&g);
    CU_ASSERT_PTR_NULL(g);
    tr_graph_destroy(&g);
}

static void a_parameter_asked_for_again_is_the_same(void)
{
    tr_error err = {0};
    tr_graph *g = new_graph();
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE2(2, 3));
    CU_ASSERT_EQUAL(tr_graph_parameter(g, "w", TR_F32, TR_SHAPE2(2, 3)), w);
    CU_ASSERT_EQUAL(tr_graph_find(g, "w"), w);
    CU_ASSERT_EQUAL(tr_graph_find(g, "v"), TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_OK);
    CU_ASSERT_EQUAL(tr_graph_parameter(g, "w", TR_F32, TR_SHAPE2(3, 2)), TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message,
                           "parameter 'w' is float32 (2, 3) and cannot be used as float32 (3, 2)");
    tr_graph_destroy(&g);
}

static void constants_are_copied_and_equal_ones_are_one(void)
{
    tr_graph *g = new_graph();
    double numbers[] = {1, 2, 3}, others[] = {1, 2, 4};
    tr_value first = tr_graph_constant(g, "c", TR_F64, TR_SHAPE1(3), numbers);
    CU_ASSERT_EQUAL(tr_graph_constant(g, "c", TR_F64, TR_SHAPE1(3), numbers), first);
    CU_ASSERT_NOT_EQUAL(tr_graph_constant(g, "c", TR_F64, TR_SHAPE1(3), others), first);
    CU_ASSERT_NOT_EQUAL(tr_graph_constant(g, "d", TR_F64, TR_SHAPE1(3), numbers), first);
    CU_ASSERT_NOT_EQUAL(tr_graph_constant(g, "c", TR_F64, TR_SHAPE1(2), numbers), first);
    numbers[0] = 9;
    CU_ASSERT_EQUAL(((const double *)tr_graph_value(g, first)->constant)[0], 1);
    tr_graph_destroy(&g);
}

static void every_use_of_a_parameter_has_a_gradient_of_its_own(void)
{
    tr_graph *g = new_graph();
    tr_value w = tr_graph_parameter(g, "w", TR_BF16, TR_SHAPE2(2, 3));
    tr_value first = tr_graph_gradient(g, w, 4), second = tr_graph_gradient(g, w, 9);
    CU_ASSERT_NOT_EQUAL(first, second);
    CU_ASSERT_EQUAL(tr_graph_gradient(g, w, 4), first);
    CU_ASSERT_EQUAL(tr_graph_value(g, second)->parameter, w);
    CU_ASSERT_EQUAL(tr_graph_value(g, second)->use, 9);
    CU_ASSERT_EQUAL(tr_graph_value(g, second)->dtype, TR_F32);
    tr_graph_destroy(&g);
}

static void the_first_error_stays_and_silences_the_rest(void)
{
    tr_error err = {0};
    tr_graph *g = new_graph();
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(2, 3));
    tr_value bad = tr_add(g, x, tr_graph_input(g, "ids", TR_I32, TR_SHAPE2(2, 3)));
    CU_ASSERT_EQUAL(bad, TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_activate(g, bad, TR_SILU), TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_input(g, "y", TR_F32, TR_SHAPE1(0)), TR_NO_VALUE);
    tr_graph_mark_output(g, bad);
    CU_ASSERT_EQUAL(tr_graph_node_count(g), 0);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "add: 'b' is int32; it must be float32");
    tr_graph_destroy(&g);
}

static void shapes_that_cannot_be_are_refused(void)
{
    const tr_shape shapes[] = {TR_SHAPE1(0), TR_SHAPE2(3, -1), {.rank = 5}, TR_SHAPE3(INT64_MAX / 2, 4, 4)};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        tr_graph *g = new_graph();
        CU_ASSERT_EQUAL(tr_graph_input(g, "x", TR_F32, shapes[i]), TR_NO_VALUE);
        CU_ASSERT_EQUAL(tr_graph_check(g, NULL), TR_EINVAL);
        tr_graph_destroy(&g);
    }
}

static void nodes_know_their_unit_phase_and_use(void)
{
    tr_graph *g = new_graph();
    CU_ASSERT_EQUAL(tr_graph_unit_count(g), 1);
    CU_ASSERT_EQUAL(tr_graph_begin_unit(g), 0);
    tr_value y = tr_activate(g, tr_graph_input(g, "x", TR_F32, TR_SHAPE1(3)), TR_RELU);
    CU_ASSERT_EQUAL(tr_graph_begin_unit(g), 1);
    y = tr_activate(g, y, TR_RELU);
    tr_graph_set_unit(g, 0);
    tr_graph_set_phase(g, TR_PHASE_WEIGHT);
    tr_activate(g, y, TR_RELU);
    CU_ASSERT_EQUAL(tr_graph_check(g, NULL), TR_OK);
    CU_ASSERT_EQUAL(tr_graph_unit_count(g), 2);
    CU_ASSERT_EQUAL(tr_graph_node(g, 0)->unit, 0);
    CU_ASSERT_EQUAL(tr_graph_node(g, 1)->unit, 1);
    CU_ASSERT_EQUAL(tr_graph_value(g, y)->unit, 1);
    CU_ASSERT_EQUAL(tr_graph_node(g, 2)->unit, 0);
    CU_ASSERT_EQUAL(tr_graph_node(g, 1)->phase, TR_PHASE_FORWARD);
    CU_ASSERT_EQUAL(tr_graph_node(g, 2)->phase, TR_PHASE_WEIGHT);
    CU_ASSERT_EQUAL(tr_graph_node(g, 2)->use, 2);
    tr_graph_set_use(g, 2, 77);
    CU_ASSERT_EQUAL(tr_graph_node(g, 2)->use, 77);
    tr_graph_destroy(&g);
}

/* Whatever allocation fails, the graph says so and can be destroyed (the sanitizer build looks for leaks). */
static void failing_allocations_are_reported_once(void)
{
    for (uint64_t n = 1; n < 40; n++) {
        tr_graph *g = NULL;
        tr_memory_fail_after(n);
        if (tr_graph_new(&g, NULL) == TR_OK) {
            tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(2, 3));
            for (int i = 0; i < 9; i++) x = tr_activate(g, x, TR_SILU);
            tr_memory_fail_after(0);
            bool all = tr_graph_node_count(g) == 9;
            CU_ASSERT_EQUAL(tr_graph_check(g, NULL), all ? TR_OK : TR_ENOMEM);
        }
        tr_memory_fail_after(0);
        tr_graph_destroy(&g);
    }
}

static void shapes_and_types_have_texts(void)
{
    char text[80];
    tr_shape_text(&TR_SHAPE3(4, 256, 384), text);
    CU_ASSERT_STRING_EQUAL(text, "(4, 256, 384)");
    tr_shape_text(&(tr_shape){0}, text);
    CU_ASSERT_STRING_EQUAL(text, "()");
    tr_shape_text(&(tr_shape){.rank = 4, .dims = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}}, text);
    CU_ASSERT(strlen(text) == 79);
    CU_ASSERT_EQUAL(tr_shape_elements(&(tr_shape){0}), 1);
    CU_ASSERT_STRING_EQUAL(tr_dtype_name(TR_BF16), "bfloat16");
    CU_ASSERT_EQUAL(tr_dtype_bytes(TR_F64), 8);
    CU_ASSERT_FALSE(tr_shape_equal(&TR_SHAPE1(6), &TR_SHAPE2(6, 1)));
}

static const check_test tests[] = {
    CHECK_TEST(addresses_stay_while_a_graph_grows),
    CHECK_TEST(a_parameter_asked_for_again_is_the_same),
    CHECK_TEST(constants_are_copied_and_equal_ones_are_one),
    CHECK_TEST(every_use_of_a_parameter_has_a_gradient_of_its_own),
    CHECK_TEST(the_first_error_stays_and_silences_the_rest),
    CHECK_TEST(shapes_that_cannot_be_are_refused),
    CHECK_TEST(nodes_know_their_unit_phase_and_use),
    CHECK_TEST(failing_allocations_are_reported_once),
    CHECK_TEST(shapes_and_types_have_texts),
};
CHECK_MAIN("graph", tests)
