/* test/ops/add_test.c - sums of values, and of the gradients of values used often.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/add.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

static void the_kernel_agrees_with_the_reference_also_in_place(void)
{
    static const int64_t sizes[] = {1, 3, 16, 17, 33, 8192, 8193};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        guarded a = guard_normal(n, 1), b = guard_normal(n, 2), y = guard_new((size_t)n * 4);
        tr_add_reference(floats_of(&a), floats_of(&b), floats_of(&y), n);
        tr_cpu_add(floats_of(&a), floats_of(&b), floats_of(&a), n, TR_F32, NULL);
        CU_ASSERT(memcmp(a.data, y.data, y.bytes) == 0);
        guard_free(&a);
        guard_free(&b);
        guard_free(&y);
    }
}

static int build(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    (void)context;
    tr_value a = tr_graph_input(g, "a", TR_F32, TR_SHAPE2(3, 17));
    tr_value b = tr_graph_input(g, "b", TR_F32, TR_SHAPE2(3, 17));
    tr_value twice = tr_add(g, a, a);
    outputs[0] = tr_add(g, twice, b);
    outputs[1] = tr_add(g, twice, tr_activate(g, outputs[0], TR_SILU)); /* an output that is read again */
    return 2;
}

static void gradients_are_those_of_differences(void)
{
    check_graph(&(graph_case){.name = "add", .build = build});
}

static void unequal_shapes_are_refused(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value a = tr_graph_input(g, "a", TR_F32, TR_SHAPE2(3, 4)),
             b = tr_graph_input(g, "b", TR_F32, TR_SHAPE2(4, 3));
    CU_ASSERT_EQUAL(tr_add(g, a, b), TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "add: 'b' has shape (4, 3); it must have (3, 4)");
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(the_kernel_agrees_with_the_reference_also_in_place),
    CHECK_TEST(gradients_are_those_of_differences),
    CHECK_TEST(unequal_shapes_are_refused),
};
CHECK_MAIN("add", tests)
