/* test/ops/gated_test.c - gates against their plain reference and differences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/gated.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

static const tr_activation kinds[] = {TR_GELU_TANH, TR_GELU_ERF, TR_SILU, TR_RELU};

static void kernels_agree_with_the_reference_on_odd_sizes(void)
{
    static const int64_t sizes[] = {1, 3, 15, 16, 17, 33, 8193};
    for (int k = 0; k < 4; k++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            int64_t n = sizes[s];
            guarded gate = guard_normal(n, 1), up = guard_normal(n, 2), dy = guard_normal(n, 3);
            guarded a = guard_new((size_t)n * 4), b = guard_new((size_t)n * 4);
            guarded a0 = guard_new((size_t)n * 4), b0 = guard_new((size_t)n * 4);
            tr_cpu_gated(floats_of(&gate), floats_of(&up), floats_of(&a), n, kinds[k], TR_F32, NULL);
            tr_gated_reference(floats_of(&gate), floats_of(&up), floats_of(&a0), n, kinds[k]);
            CU_ASSERT(all_near("y", floats_of(&a), floats_of(&a0), n, 2e-6, 1e-6));
            tr_cpu_gated_backward(floats_of(&dy), floats_of(&gate), floats_of(&up), floats_of(&a),
                                  floats_of(&b), n, kinds[k], TR_F32, NULL);
            tr_gated_backward_reference(floats_of(&dy), floats_of(&gate), floats_of(&up), floats_of(&a0),
                                        floats_of(&b0), n, kinds[k]);
            CU_ASSERT(all_near("dgate", floats_of(&a), floats_of(&a0), n, 4e-6, 1e-6));
            CU_ASSERT(all_near("dup", floats_of(&b), floats_of(&b0), n, 4e-6, 1e-6));
            guarded *all[] = {&gate, &up, &dy, &a, &b, &a0, &b0};
            for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
        }
}

static int build(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    tr_value gate = tr_graph_input(g, "gate", TR_F32, TR_SHAPE3(2, 3, 17));
    tr_value up = tr_graph_input(g, "up", TR_F32, TR_SHAPE3(2, 3, 17));
    outputs[0] = tr_gated(g, gate, up, *(const tr_activation *)context);
    return 1;
}

/* One value as both inputs: its two gradients must be added once each. */
static int build_square(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(3, 5));
    tr_value y = tr_gated(g, x, x, *(const tr_activation *)context);
    outputs[0] = tr_add(g, y, x);
    return 1;
}

static void gradients_are_those_of_differences(void)
{
    for (int k = 0; k < 4; k++) {
        check_graph(
            &(graph_case){.name = "gated", .build = build, .context = &kinds[k], .away_from_zero = true});
        check_graph(&(graph_case){
            .name = "gated by itself", .build = build_square, .context = &kinds[k], .away_from_zero = true});
    }
}

static const check_test tests[] = {
    CHECK_TEST(kernels_agree_with_the_reference_on_odd_sizes),
    CHECK_TEST(gradients_are_those_of_differences),
};
CHECK_MAIN("gated", tests)
