/* test/ops/vector_test.c - the vectorised exponential and its kin against libm in double.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/vector.h"

#include "check.h"

#include <math.h>

typedef enum function { EXP, EXP_NEGATIVE, SIGMOID, TANH } function;

TR_MULTIVERSION static void evaluate(function which, const float x[16], float y[16])
{
    tr_f32x16 v = tr_load_f32x16(x);
    switch (which) {
    case EXP: v = tr_exp_f32x16(v); break;
    case EXP_NEGATIVE: v = tr_exp_negative_f32x16(v); break;
    case SIGMOID: v = tr_sigmoid_f32x16(v); break;
    case TANH: v = tr_tanh_f32x16(v); break;
    }
    tr_store_f32x16(y, v);
}

static double exact(function which, double x)
{
    if (which == SIGMOID) return 1 / (1 + exp(-x));
    return which == TANH ? tanh(x) : exp(x);
}

/* The largest error over [low, high] in units of the last place of the exact value rounded to float. */
static double worst_ulp(function which, double low, double high)
{
    double worst = 0;
    const int n = 200000;
    for (int i = 0; i < n; i += 16) {
        float x[16], y[16];
        for (int k = 0; k < 16; k++) x[k] = (float)(low + (high - low) * (i + k) / (n - 1));
        evaluate(which, x, y);
        for (int k = 0; k < 16; k++) {
            double right = exact(which, x[k]);
            float size = fabsf((float)right);
            double ulp = (double)nextafterf(size, INFINITY) - (double)size;
            double error = fabs((double)y[k] - right) / ulp;
            if (!(error <= worst)) worst = error;
        }
    }
    return worst;
}

static void errors_stay_below_the_promise(void)
{
    double e = worst_ulp(EXP, -103, 88.7), n = worst_ulp(EXP_NEGATIVE, -86.9, 0);
    double s = worst_ulp(SIGMOID, -80, 80), t = worst_ulp(TANH, -12, 12);
    printf("ulp: exp %.2f, exp of negatives %.2f, sigmoid %.2f, tanh %.2f ", e, n, s, t);
    CU_ASSERT(e <= 2 && n <= 2 && s <= 3 && t <= 3);
}

static void ends_of_the_range_are_right(void)
{
    float x[16] = {-INFINITY, -200, 89, INFINITY, NAN, 0, -0.0f, 1e-30f, -1e9f, 1e9f}, y[16];
    evaluate(EXP, x, y);
    CU_ASSERT(y[0] == 0 && y[1] == 0 && isinf(y[2]) && isinf(y[3]) && isnan(y[4]) && y[5] == 1 && y[6] == 1 &&
              y[7] == 1 && y[8] == 0 && isinf(y[9]));
    evaluate(TANH, x, y);
    CU_ASSERT(y[0] == -1 && y[3] == 1 && isnan(y[4]) && y[5] == 0 && y[7] == 1e-30f && y[8] == -1);
    evaluate(SIGMOID, x, y);
    CU_ASSERT(y[0] == 0 && y[3] == 1 && isnan(y[4]) && y[5] == 0.5f);
    float negative[16] = {0, -88, -1e30f, -INFINITY, -87.5f, -0.0f, NAN};
    evaluate(EXP_NEGATIVE, negative, y);
    CU_ASSERT(y[0] == 1 && y[1] == 0 && y[2] == 0 && y[3] == 0 && y[4] == 0 && y[5] == 1 && isnan(y[6]));
}

static void parts_touch_only_their_lanes(void)
{
    for (int n = 0; n <= 16; n++) {
        float from[16], to[17];
        for (int i = 0; i < 16; i++) from[i] = (float)i + 1;
        for (int i = 0; i < 17; i++) to[i] = -7;
        tr_f32x16 v = tr_load_part_f32x16(from, n, 0);
        CU_ASSERT(tr_sum_f32x16(v) == (float)(n * (n + 1)) / 2);
        tr_store_part_f32x16(to, v, n);
        for (int i = 0; i < 17; i++) CU_ASSERT(to[i] == (i < n ? from[i] : -7));
    }
}

static const check_test tests[] = {
    CHECK_TEST(errors_stay_below_the_promise),
    CHECK_TEST(ends_of_the_range_are_right),
    CHECK_TEST(parts_touch_only_their_lanes),
};

CHECK_MAIN("vector", tests)
