/* test/ops/split_test.c - cutting the last dimension.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/split.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

static void parts_joined_give_the_whole(void)
{
    enum { ROWS = 301 };
    const int64_t widths[] = {5, 1, 33};
    guarded x = guard_normal(ROWS * 39, 1), back = guard_new(ROWS * 39 * 4);
    guarded p[3];
    void *parts[3];
    for (int i = 0; i < 3; i++) {
        p[i] = guard_new((size_t)(ROWS * widths[i]) * 4);
        parts[i] = floats_of(&p[i]);
    }
    tr_cpu_split(floats_of(&x), parts, widths, 3, ROWS, TR_F32, NULL);
    CU_ASSERT_EQUAL(floats_of(&p[1])[7], floats_of(&x)[7 * 39 + 5]);
    CU_ASSERT_EQUAL(floats_of(&p[2])[300 * 33 + 32], floats_of(&x)[301 * 39 - 1]);
    tr_cpu_join((const void *const *)parts, floats_of(&back), widths, 3, ROWS, TR_F32, NULL);
    CU_ASSERT(memcmp(x.data, back.data, x.bytes) == 0);
    for (int i = 0; i < 3; i++) guard_free(&p[i]);
    guard_free(&x);
    guard_free(&back);
}

/* The middle part has no consumer: its gradient is 0. */
static int build(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    (void)context;
    tr_value parts[3], x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(2, 3, 39));
    tr_split(g, x, (const int64_t[]){17, 5, 17}, 3, parts);
    outputs[0] = tr_gated(g, parts[0], parts[2], TR_SILU);
    outputs[1] = tr_activate(g, x, TR_SILU); /* after the split, so that its gradient is pending */
    return 2;
}

static void gradients_are_those_of_differences(void)
{
    check_graph(&(graph_case){.name = "split", .build = build});
}

static void widths_that_do_not_sum_up_are_refused(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    tr_value parts[2];
    CHECK_OK(tr_graph_new(&g, &err));
    tr_split(g, tr_graph_input(g, "x", TR_F32, TR_SHAPE2(3, 8)), (const int64_t[]){4, 5}, 2, parts);
    CU_ASSERT_EQUAL(parts[0], TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "split: the widths sum to 9; the last dimension of 'x' is 8");
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(parts_joined_give_the_whole),
    CHECK_TEST(gradients_are_those_of_differences),
    CHECK_TEST(widths_that_do_not_sum_up_are_refused),
};
CHECK_MAIN("split", tests)
