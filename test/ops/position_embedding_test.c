/* test/ops/position_embedding_test.c - learned positions against their plain reference and differences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/position_embedding.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

static void kernels_agree_with_the_reference_on_odd_sizes(void)
{
    static const int64_t sizes[][4] = {
        {1, 1, 1, 0}, {3, 5, 3, 2}, {2, 7, 17, 1}, {4, 33, 130, 0}, {5, 1, 33, 4}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t b = sizes[s][0], t = sizes[s][1], c = sizes[s][2], position = sizes[s][3], n = b * t * c;
        int64_t n_table = (t + position + 1) * c;
        guarded x = guard_normal(n, 1), table = guard_normal(n_table, 2);
        guarded y = guard_new((size_t)n * 4), y0 = guard_new((size_t)n * 4);
        guarded d = guard_normal(n_table, 3), d0 = guard_normal(n_table, 3);
        tr_cpu_position_embedding(floats_of(&x), floats_of(&table), floats_of(&y), b, t, c, position, TR_F32,
                                  NULL);
        tr_position_embedding_reference(floats_of(&x), floats_of(&table), floats_of(&y0), b, t, c, position);
        CU_ASSERT(memcmp(y.data, y0.data, y.bytes) == 0);
        tr_cpu_position_embedding_weight(floats_of(&x), floats_of(&d), b, t, c, position, TR_F32, NULL);
        tr_position_embedding_weight_reference(floats_of(&x), floats_of(&d0), b, t, c, position);
        CU_ASSERT(all_near("dtable", floats_of(&d), floats_of(&d0), n_table, 1e-6, 1e-6));
        guarded *all[] = {&x, &table, &y, &y0, &d, &d0};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
    }
}

static int build(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    bool with_position = *(const bool *)context;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(3, 5, 17));
    tr_value table = tr_graph_parameter(g, "table", TR_F32, TR_SHAPE2(9, 17));
    tr_value position = with_position ? tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)) : TR_NO_VALUE;
    outputs[0] = tr_activate(g, tr_position_embedding(g, x, table, position), TR_SILU);
    return 1;
}

static void gradients_are_those_of_differences(void)
{
    for (int with = 0; with < 2; with++)
        check_graph(&(graph_case){
            .name = "position_embedding", .build = build, .context = &(bool){with != 0}, .id_limit = 5});
}

static const check_test tests[] = {
    CHECK_TEST(kernels_agree_with_the_reference_on_odd_sizes),
    CHECK_TEST(gradients_are_those_of_differences),
};
CHECK_MAIN("position_embedding", tests)
