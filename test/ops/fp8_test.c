/* test/ops/fp8_test.c - numbers of eight bits: all codes against the formulas of the OCP specification, all numbers of bfloat16
 * against a search for the nearest code.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/fp8.h"

#include "check.h"

#include <float.h>
#include <math.h>

static const tr_dtype formats[] = {TR_E4M3, TR_E5M2};

/* OFP8, section 5: (-1)^S 2^(E - bias) (1 + 2^-m F), subnormal 2^(1 - bias) 2^-m F. */
static double by_formula(int code, tr_dtype format)
{
    int m = format == TR_E4M3 ? 3 : 2, bias = format == TR_E4M3 ? 7 : 15, top = format == TR_E4M3 ? 15 : 31;
    int sign = code >> 7, exponent = (code >> m) & top, fraction = code & ((1 << m) - 1);
    if (format == TR_E4M3 && exponent == top && fraction == 7) return NAN;
    if (format == TR_E5M2 && exponent == top)
        return fraction ? NAN : sign ? -(double)INFINITY : (double)INFINITY;
    double size =
        exponent ? ldexp(1 + ldexp(fraction, -m), exponent - bias) : ldexp(ldexp(fraction, -m), 1 - bias);
    return sign ? -size : size;
}

static int largest_code(tr_dtype format)
{
    return format == TR_E4M3 ? 0x7e : 0x7b;
}

static void every_code_is_the_number_of_the_formula(void)
{
    for (int f = 0; f < 2; f++)
        for (int code = 0; code < 256; code++) {
            double wanted = by_formula(code, formats[f]);
            float got = tr_f32_of_fp8((uint8_t)code, formats[f]);
            CU_ASSERT(isnan(wanted) ? isnan(got)
                                    : (double)got == wanted && !signbit(got) == !signbit(wanted));
        }
    CU_ASSERT(tr_f32_of_fp8(0x7e, TR_E4M3) == 448.0f && tr_f32_of_fp8(0x7b, TR_E5M2) == 57344.0f);
    CU_ASSERT(tr_f32_of_fp8(0x01, TR_E4M3) == 0x1p-9f && tr_f32_of_fp8(0x01, TR_E5M2) == 0x1p-16f);
}

static void a_number_that_a_code_has_gets_that_code(void)
{
    for (int f = 0; f < 2; f++)
        for (int code = 0; code < 256; code++)
            if ((code & 0x7f) <= largest_code(formats[f]))
                CU_ASSERT_EQUAL(tr_fp8_of_f32(tr_f32_of_fp8((uint8_t)code, formats[f]), formats[f]), code);
}

/* Half way between neighbours to the one with an even code, a step to either side to the nearer one. */
static void halves_go_to_the_even_neighbour(void)
{
    for (int f = 0; f < 2; f++)
        for (int code = 0; code < largest_code(formats[f]); code++) {
            float low = tr_f32_of_fp8((uint8_t)code, formats[f]),
                  high = tr_f32_of_fp8((uint8_t)(code + 1), formats[f]), half = (low + high) / 2;
            int even = code % 2 ? code + 1 : code;
            CU_ASSERT_EQUAL(tr_fp8_of_f32(half, formats[f]), even);
            CU_ASSERT_EQUAL(tr_fp8_of_f32(-half, formats[f]), even | 0x80);
            CU_ASSERT_EQUAL(tr_fp8_of_f32(nextafterf(half, 0), formats[f]), code);
            CU_ASSERT_EQUAL(tr_fp8_of_f32(nextafterf(half, INFINITY), formats[f]), code + 1);
        }
}

static int nearest(double magnitude, tr_dtype format)
{
    int best = 0;
    if (magnitude > 1e6) magnitude = 1e6; /* so that differences are exact */
    for (int code = 1; code <= largest_code(format); code++) {
        double was = fabs(magnitude - by_formula(best, format)),
               is = fabs(magnitude - by_formula(code, format));
        if (is < was || (is == was && code % 2 == 0)) best = code;
    }
    return best;
}

static void every_bfloat16_gets_the_nearest_code(void)
{
    for (int f = 0; f < 2; f++) {
        int n_wrong = 0;
        for (int i = 0; i < 0x7f80; i++) {
            float x = tr_f32_of_bf16((tr_bf16)i);
            int wanted = nearest((double)x, formats[f]);
            n_wrong += tr_fp8_of_f32(x, formats[f]) != wanted;
            n_wrong += tr_fp8_of_f32(-x, formats[f]) != (wanted | 0x80);
        }
        CU_ASSERT_EQUAL(n_wrong, 0);
    }
}

static void what_is_too_large_becomes_the_largest(void)
{
    static const float large[] = {449, 464, 480, 57345, 61440, 65536, FLT_MAX, INFINITY};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        CU_ASSERT_EQUAL(tr_fp8_of_f32(large[i], TR_E4M3), 0x7e);
        CU_ASSERT_EQUAL(tr_fp8_of_f32(-large[i], TR_E4M3), 0xfe);
        if (large[i] < 57344) continue;
        CU_ASSERT_EQUAL(tr_fp8_of_f32(large[i], TR_E5M2), 0x7b);
        CU_ASSERT_EQUAL(tr_fp8_of_f32(-large[i], TR_E5M2), 0xfb);
    }
}

static void nan_stays_nan_and_zeros_keep_their_sign(void)
{
    for (int f = 0; f < 2; f++) {
        CU_ASSERT(isnan(tr_f32_of_fp8(tr_fp8_of_f32(NAN, formats[f]), formats[f])));
        CU_ASSERT(isnan(tr_f32_of_fp8(tr_fp8_of_f32(-NAN, formats[f]), formats[f])));
        CU_ASSERT_EQUAL(tr_fp8_of_f32(0.0f, formats[f]), 0);
        CU_ASSERT_EQUAL(tr_fp8_of_f32(-0.0f, formats[f]), 0x80);
        CU_ASSERT_EQUAL(tr_fp8_of_f32(-FLT_TRUE_MIN, formats[f]), 0x80);
    }
}

/* Of all magnitudes that a tensor in bfloat16 can have. */
static void a_scale_is_the_greatest_power_of_two_in_range(void)
{
    for (int f = 0; f < 2; f++) {
        double most = formats[f] == TR_E4M3 ? 448 : 57344;
        int n_wrong = 0;
        for (int i = 1; i < 0x7f80; i++) {
            float x = tr_f32_of_bf16((tr_bf16)i), scale, inverse;
            int exponent;
            tr_fp8_scale(x, formats[f], &scale, &inverse);
            n_wrong += frexpf(scale, &exponent) != 0.5f || scale * inverse != 1.0f;
            n_wrong += (double)x * (double)scale > most;
            n_wrong += scale < 0x1p126f && 2 * (double)x * (double)scale <= most;
            n_wrong += scale > 0x1p126f;
        }
        CU_ASSERT_EQUAL(n_wrong, 0);
    }
}

static void tensors_of_zeros_and_of_no_numbers(void)
{
    for (int f = 0; f < 2; f++) {
        float scale, inverse;
        tr_fp8_scale(0, formats[f], &scale, &inverse);
        CU_ASSERT(scale == 1.0f && inverse == 1.0f);
        tr_fp8_scale(INFINITY, formats[f], &scale, &inverse);
        CU_ASSERT(scale == 1.0f && isnan(inverse));
        tr_fp8_scale(NAN, formats[f], &scale, &inverse);
        CU_ASSERT(scale == 1.0f && isnan(inverse));
    }
}

static const check_test tests[] = {
    CHECK_TEST(every_code_is_the_number_of_the_formula),
    CHECK_TEST(a_number_that_a_code_has_gets_that_code),
    CHECK_TEST(halves_go_to_the_even_neighbour),
    CHECK_TEST(every_bfloat16_gets_the_nearest_code),
    CHECK_TEST(what_is_too_large_becomes_the_largest),
    CHECK_TEST(nan_stays_nan_and_zeros_keep_their_sign),
    CHECK_TEST(a_scale_is_the_greatest_power_of_two_in_range),
    CHECK_TEST(tensors_of_zeros_and_of_no_numbers),
};

CHECK_MAIN("ops/fp8", tests)
