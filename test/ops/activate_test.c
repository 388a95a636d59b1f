/* test/ops/activate_test.c - the activations against the C library in double, and differences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/activate.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

static const tr_activation kinds[] = {TR_GELU_TANH, TR_GELU_ERF, TR_SILU, TR_RELU};
static const char *const names[] = {"gelu_tanh", "gelu_erf", "silu", "relu"};

/* -20 .. 20 in steps of 2^-10: every place where a form is changed, and both tails. The vectors lose a few
 * ulp of terms no larger than max(1, |x|): 1e-6 absolute covers slopes near 1 and values near 0, 1e-6
 * relative the large ones. */
static void values_and_slopes_are_right_to_float_accuracy(void)
{
    enum { N = 40 * 1024 + 1 };
    guarded x = guard_new(N * 4), one = guard_new(N * 4), y = guard_new(N * 4), y0 = guard_new(N * 4);
    for (int i = 0; i < N; i++) {
        const int from_the_middle = i - N / 2;
        floats_of(&x)[i] = (float)from_the_middle / 1024.0f;
        floats_of(&one)[i] = 1;
    }
    for (int k = 0; k < 4; k++) {
        tr_cpu_activate(floats_of(&x), floats_of(&y), N, kinds[k], TR_F32, NULL);
        tr_activate_reference(floats_of(&x), floats_of(&y0), N, kinds[k]);
        CU_ASSERT(all_near(names[k], floats_of(&y), floats_of(&y0), N, 4e-7, 4e-7));
        tr_cpu_activate_backward(floats_of(&one), floats_of(&x), floats_of(&y), N, kinds[k], TR_F32, NULL);
        tr_activate_backward_reference(floats_of(&one), floats_of(&x), floats_of(&y0), N, kinds[k]);
        CU_ASSERT(all_near(names[k], floats_of(&y), floats_of(&y0), N, 1e-6, 1e-6));
    }
    guarded *all[] = {&x, &one, &y, &y0};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void large_inputs_stay_finite_and_nan_stays_nan(void)
{
    const float x[] = {-1e15f, -1000, -90, 90, 1000, 1e15f, NAN};
    float y[7], dx[7], one[7] = {1, 1, 1, 1, 1, 1, 1};
    for (int k = 0; k < 4; k++) {
        tr_cpu_activate(x, y, 7, kinds[k], TR_F32, NULL);
        tr_cpu_activate_backward(one, x, dx, 7, kinds[k], TR_F32, NULL);
        for (int i = 0; i < 3; i++) CU_ASSERT(y[i] == 0 && dx[i] == 0);
        for (int i = 3; i < 6; i++) CU_ASSERT(y[i] == x[i] && dx[i] == 1);
        CU_ASSERT(isnan(y[6]));
    }
}

/* A tail must not read or write past its end, in place or not. */
static void odd_sizes_give_the_same_as_long_ones(void)
{
    for (int k = 0; k < 4; k++)
        for (int64_t n = 1; n < 50; n++) {
            guarded x = guard_normal(64, 1), all = guard_new(64 * 4), part = guard_new((size_t)n * 4);
            tr_cpu_activate(floats_of(&x), floats_of(&all), 64, kinds[k], TR_F32, NULL);
            memcpy(part.data, x.data, part.bytes);
            tr_cpu_activate(floats_of(&part), floats_of(&part), n, kinds[k], TR_F32, NULL);
            CU_ASSERT(memcmp(part.data, all.data, part.bytes) == 0);
            guard_free(&x);
            guard_free(&all);
            guard_free(&part);
        }
}

static int build(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(3, 17));
    tr_value y = tr_activate(g, x, *(const tr_activation *)context);
    outputs[0] = tr_add(g, y, x); /* so that a pending gradient is there */
    return 1;
}

static int build_large(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(3, 8195)); /* several tiles, the last one odd */
    outputs[0] = tr_activate(g, x, *(const tr_activation *)context);
    return 1;
}

static void gradients_are_those_of_differences(void)
{
    for (int k = 0; k < 4; k++)
        check_graph(
            &(graph_case){.name = names[k], .build = build, .context = &kinds[k], .away_from_zero = true});
}

static void tiles_do_not_depend_on_threads(void)
{
    check_graph(
        &(graph_case){.name = "large silu",
                      .build = build_large,
                      .context = &kinds[2],
                      .absolute = 1e-2}); /* 24585 outputs rounded: 1e-7 * 157 * 32, and the sum of many */
}

static const check_test tests[] = {
    CHECK_TEST(values_and_slopes_are_right_to_float_accuracy),
    CHECK_TEST(large_inputs_stay_finite_and_nan_stays_nan),
    CHECK_TEST(odd_sizes_give_the_same_as_long_ones),
    CHECK_TEST(gradients_are_those_of_differences),
    CHECK_TEST(tiles_do_not_depend_on_threads),
};
CHECK_MAIN("activate", tests)
