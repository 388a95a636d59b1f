/* test/ops/rmsnorm_test.c - rmsnorm against its plain reference and differences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rmsnorm.h"
#include "ops/operations.h"
#include "test/ops/norm_cases.h"
#include "test/ops/op_check.h"

/* Sums of n products in float by sixteen lanes: relative 1e-6 is ten times what n = 200 can lose. */
static void compare(int64_t rows, int64_t columns)
{
    int64_t n = rows * columns;
    guarded x = guard_normal(n, 1), w = guard_normal(columns, 2), dy = guard_normal(n, 3);
    guarded pending = guard_normal(n, 4), y = guard_new((size_t)n * 4), y0 = guard_new((size_t)n * 4);
    guarded rstd = guard_new((size_t)rows * 4), rstd0 = guard_new((size_t)rows * 4);
    guarded dw = guard_normal(columns, 5), dw0 = guard_normal(columns, 5);
    tr_cpu_rmsnorm(floats_of(&x), floats_of(&w), floats_of(&y), floats_of(&rstd), rows, columns, 1e-5f,
                   TR_F32, NULL);
    tr_rmsnorm_reference(floats_of(&x), floats_of(&w), floats_of(&y0), floats_of(&rstd0), rows, columns,
                         1e-5f);
    CU_ASSERT(all_near("y", floats_of(&y), floats_of(&y0), n, 1e-6, 2e-6));
    CU_ASSERT(all_near("rstd", floats_of(&rstd), floats_of(&rstd0), rows, 0, 1e-6));
    for (int with = 0; with < 2; with++) {
        const float *p = with ? floats_of(&pending) : NULL;
        tr_cpu_rmsnorm_backward(floats_of(&dy), floats_of(&x), floats_of(&w), floats_of(&rstd0), p,
                                floats_of(&y), rows, columns, TR_F32, NULL);
        tr_rmsnorm_backward_reference(floats_of(&dy), floats_of(&x), floats_of(&w), floats_of(&rstd0), p,
                                      floats_of(&y0), rows, columns);
        /* In one column dx is what is left of two terms of size rstd, which cancel but for eps. */
        double slack = columns == 1 ? 1e-5 * floats_of(&rstd0)[0] : 5e-6;
        CU_ASSERT(all_near("dx", floats_of(&y), floats_of(&y0), n, slack, 5e-6));
    }
    tr_cpu_rmsnorm_weight(floats_of(&dy), floats_of(&x), floats_of(&rstd0), floats_of(&dw), rows, columns,
                          TR_F32, NULL);
    tr_rmsnorm_weight_reference(floats_of(&dy), floats_of(&x), floats_of(&rstd0), floats_of(&dw0), rows,
                                columns);
    CU_ASSERT(all_near("dw", floats_of(&dw), floats_of(&dw0), columns, 1e-5, 2e-6));
    guarded *all[] = {&x, &w, &dy, &pending, &y, &y0, &rstd, &rstd0, &dw, &dw0};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void kernels_agree_with_the_reference_on_odd_sizes(void)
{
    for (int i = 0; i < N_NORM_SIZES; i++) compare(norm_sizes[i][0], norm_sizes[i][1]);
}

/* x goes into the norm and past it, so that a pending gradient is fused. */
static int build_residual(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    const int64_t *size = context;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(2, size[0], size[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(size[1]));
    outputs[0] = tr_add(g, x, tr_rmsnorm(g, x, w, 1e-5f));
    return 1;
}

static int build_plain(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    const int64_t *size = context;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(size[0], size[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(size[1]));
    outputs[0] = tr_rmsnorm(g, x, w, 1e-5f);
    return 1;
}

/* Very narrow rows are left out: with few columns the mean of squares may
 * be so small that differences are no measure. */
static void gradients_are_those_of_differences(void)
{
    static const int64_t sizes[][2] = {{1, 8}, {3, 17}, {2, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_graph(&(graph_case){.name = "rmsnorm", .build = build_plain, .context = sizes[i]});
        check_graph(
            &(graph_case){.name = "rmsnorm with residual", .build = build_residual, .context = sizes[i]});
    }
}

static void a_weight_of_another_width_is_refused(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(2, 8));
    CU_ASSERT_EQUAL(tr_rmsnorm(g, x, tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(7)), 1e-5f), TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "rmsnorm: 'w' has shape (7); it must have (8)");
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(kernels_agree_with_the_reference_on_odd_sizes),
    CHECK_TEST(gradients_are_those_of_differences),
    CHECK_TEST(a_weight_of_another_width_is_refused),
};
CHECK_MAIN("rmsnorm", tests)
