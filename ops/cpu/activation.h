/* ops/cpu/activation.h - values and slopes of the activations, sixteen lanes at a time, and one by one in
 * double. `kind` is a constant where these are called, so that each loop is compiled for one activation.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ACTIVATION_H
#define TROUPE_OPS_CPU_ACTIVATION_H

#include "ops/cpu/vector.h"
#include "ops/operations.h"

/* In double, by the C library: what the vectors are tested against. Defined in ops/activate.c. */
double tr_activation_value_reference(double x, tr_activation kind);
double tr_activation_slope_reference(double x, tr_activation kind);

/* Phi(x), the normal distribution, within 2e-7 absolutely, given gauss = e^(-x^2/2).
 * For z = |x|/sqrt(2) the upper tail is erfc(z)/2 = gauss * r(z) / (2 (1 + 2z)), where r varies so little
 * that a polynomial in s = (z-2)/(z+2) gives it within 4e-8 (interpolated at Chebyshev nodes for z up to 10,
 * where the tail is 0 in float).
 * Source of the form: Shepherd and Laframboise, "Chebyshev approximation of (1+2x)exp(x^2)erfc x", 1981. */
TR_INLINE tr_f32x16 tr_normal_f32x16(tr_f32x16 x, tr_f32x16 gauss)
{
    tr_f32x16 z = tr_abs_f32x16(x) * 0.707106781f;
    z = tr_select_f32x16(z > 10.0f, tr_splat_f32x16(10.0f), z);
    tr_f32x16 s = (z - 2.0f) / (z + 2.0f);
    tr_f32x16 r = s * -4.241225251e-4f - 1.264119521e-3f;
    r = r * s + 1.32779032e-3f;
    r = r * s + 8.66425503e-3f;
    r = r * s - 8.060825057e-3f;
    r = r * s - 5.42142652e-2f;
    r = r * s + 1.640549153e-1f;
    r = r * s - 1.660304219e-1f;
    r = r * s - 9.276395291e-2f;
    r = r * s + 1.276978374f;
    tr_f32x16 tail = gauss * r / (2.0f + 4.0f * z);
    return tr_select_f32x16(x < 0.0f, tail, 1.0f - tail);
}

/* *value = f(x), *slope = f'(x). What is not used costs nothing once inlined.
 * The tanh form of GELU is written x * sigmoid(2u), which is the same
 * and loses nothing where tanh is near -1. */
TR_INLINE void tr_activation_f32x16(tr_f32x16 x, tr_activation kind, tr_f32x16 *value, tr_f32x16 *slope)
{
    if (kind == TR_RELU) {
        tr_f32x16 step = (tr_f32x16)((x > 0.0f) & (tr_i32x16)tr_splat_f32x16(1.0f));
        *value = tr_select_f32x16(x < 0.0f, tr_splat_f32x16(0.0f), x);
        *slope = step;
    } else if (kind == TR_SILU) {
        tr_f32x16 s = tr_sigmoid_f32x16(x);
        *value = x * s;
        *slope = s * (1.0f + x * (1.0f - s));
    } else if (kind == TR_GELU_TANH) {
        tr_f32x16 square =
            x * x; /* bounded where the sigmoid is 0 or 1 anyway, so that 0 never meets infinity */
        square = tr_select_f32x16(square > 1e4f, tr_splat_f32x16(1e4f), square);
        tr_f32x16 u2 = x * (1.595769122f + 0.071354816f * square); /* 2 sqrt(2/pi) (x + 0.044715 x^3) */
        tr_f32x16 s = tr_sigmoid_f32x16(u2);
        *value = x * s;
        *slope = s * (1.0f + x * (1.0f - s) * (1.595769122f + 0.214064449f * square));
    } else {
        tr_f32x16 gauss = tr_exp_f32x16(x * x * -0.5f);
        tr_f32x16 normal = tr_normal_f32x16(x, gauss);
        *value = x * normal;
        *slope = normal + x * gauss * 0.398942280f; /* 1 / sqrt(2 pi) */
    }
}

#endif
