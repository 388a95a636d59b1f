/* test/ops/layernorm_test.c - layernorm against its plain reference and differences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/layernorm.h"
#include "ops/operations.h"
#include "test/ops/norm_cases.h"
#include "test/ops/op_check.h"

/* One column is a row without variance: rstd is 1/sqrt(eps) = 316, and
 * rounding of the mean is multiplied by it. */
static double slack(int64_t columns)
{
    return columns < 4 ? 1e-3 : 5e-6;
}

static void compare(int64_t rows, int64_t columns)
{
    int64_t n = rows * columns;
    guarded x = guard_normal(n, 1), w = guard_normal(columns, 2), b = guard_normal(columns, 6);
    guarded dy = guard_normal(n, 3), pending = guard_normal(n, 4);
    guarded y = guard_new((size_t)n * 4), y0 = guard_new((size_t)n * 4);
    guarded mean = guard_new((size_t)rows * 4), mean0 = guard_new((size_t)rows * 4);
    guarded rstd = guard_new((size_t)rows * 4), rstd0 = guard_new((size_t)rows * 4);
    guarded dw = guard_normal(columns, 5), dw0 = guard_normal(columns, 5);
    guarded db = guard_normal(columns, 7), db0 = guard_normal(columns, 7);
    tr_cpu_layernorm(floats_of(&x), floats_of(&w), floats_of(&b), floats_of(&y), floats_of(&mean),
                     floats_of(&rstd), rows, columns, 1e-5f, TR_F32, NULL);
    tr_layernorm_reference(floats_of(&x), floats_of(&w), floats_of(&b), floats_of(&y0), floats_of(&mean0),
                           floats_of(&rstd0), rows, columns, 1e-5f);
    CU_ASSERT(all_near("y", floats_of(&y), floats_of(&y0), n, slack(columns), 2e-6));
    CU_ASSERT(all_near("mean", floats_of(&mean), floats_of(&mean0), rows, 5e-7, 1e-6));
    CU_ASSERT(all_near("rstd", floats_of(&rstd), floats_of(&rstd0), rows, 0, slack(columns)));
    for (int with = 0; with < 2; with++) {
        const float *p = with ? floats_of(&pending) : NULL;
        tr_cpu_layernorm_backward(floats_of(&dy), floats_of(&x), floats_of(&w), floats_of(&mean0),
                                  floats_of(&rstd0), p, floats_of(&y), rows, columns, TR_F32, NULL);
        tr_layernorm_backward_reference(floats_of(&dy), floats_of(&x), floats_of(&w), floats_of(&mean0),
                                        floats_of(&rstd0), p, floats_of(&y0), rows, columns);
        CU_ASSERT(all_near("dx", floats_of(&y), floats_of(&y0), n, slack(columns), 5e-6));
    }
    tr_cpu_layernorm_weight(floats_of(&dy), floats_of(&x), floats_of(&mean0), floats_of(&rstd0),
                            floats_of(&dw), floats_of(&db), rows, columns, TR_F32, NULL);
    tr_layernorm_weight_reference(floats_of(&dy), floats_of(&x), floats_of(&mean0), floats_of(&rstd0),
                                  floats_of(&dw0), floats_of(&db0), rows, columns);
    CU_ASSERT(all_near("dw", floats_of(&dw), floats_of(&dw0), columns, 1e-5, 2e-6));
    CU_ASSERT(all_near("db", floats_of(&db), floats_of(&db0), columns, 1e-5, 2e-6));
    guarded *all[] = {&x, &w, &b, &dy, &pending, &y, &y0, &mean, &mean0, &rstd, &rstd0, &dw, &dw0, &db, &db0};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void kernels_agree_with_the_reference_on_odd_sizes(void)
{
    for (int i = 0; i < N_NORM_SIZES; i++) compare(norm_sizes[i][0], norm_sizes[i][1]);
}

static int build_residual(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    const int64_t *size = context;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(2, size[0], size[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(size[1]));
    tr_value b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(size[1]));
    outputs[0] = tr_add(g, x, tr_layernorm(g, x, w, b, 1e-5f));
    return 1;
}

static int build_plain(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    const int64_t *size = context;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(size[0], size[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(size[1]));
    tr_value b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(size[1]));
    outputs[0] = tr_layernorm(g, x, w, b, 1e-5f);
    return 1;
}

static void gradients_are_those_of_differences(void)
{
    static const int64_t sizes[][2] = {{1, 8}, {3, 17}, {2, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_graph(&(graph_case){.name = "layernorm", .build = build_plain, .context = sizes[i]});
        check_graph(
            &(graph_case){.name = "layernorm with residual", .build = build_residual, .context = sizes[i]});
    }
}

static const check_test tests[] = {
    CHECK_TEST(kernels_agree_with_the_reference_on_odd_sizes),
    CHECK_TEST(gradients_are_those_of_differences),
};
CHECK_MAIN("layernorm", tests)
