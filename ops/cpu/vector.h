/* ops/cpu/vector.h - sixteen float lanes, written with GCC's vector extensions.
 * Why explicit lanes: the order in which lanes are summed is then written in the source and not chosen by
 * the compiler, so a kernel gives the same bits wherever it runs; a machine with narrower registers computes
 * the sixteen lanes in pieces. Everything here is inlined into its caller, because it must be compiled for
 * the caller's instruction set: a kernel marked TR_MULTIVERSION is compiled several times and picked at load
 * time. A plain static helper of such a kernel is compiled for the baseline only: mark helpers TR_INLINE.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_VECTOR_H
#define TROUPE_OPS_CPU_VECTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define TR_INLINE static inline __attribute__((always_inline))

/* Clang 14 knows no target_clones with arch=;
 * sanitizers start too late for the resolvers. Both get the baseline. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(TROUPE_SANITIZED)
#define TR_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TR_MULTIVERSION
#endif

enum { TR_LANES = 16 };

typedef float tr_f32x16 __attribute__((vector_size(64)));
typedef int32_t tr_i32x16 __attribute__((vector_size(64)));  /* comparisons give -1 where true, 0 elsewhere */
typedef uint32_t tr_u32x16 __attribute__((vector_size(64))); /* for sums of bits, which may wrap */
typedef double tr_f64x8 __attribute__((vector_size(64)));
typedef float tr_f32x8 __attribute__((vector_size(32)));
typedef float tr_f32x4 __attribute__((vector_size(16)));

TR_INLINE tr_f32x16 tr_load_f32x16(const float *p)
{
    tr_f32x16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

TR_INLINE void tr_store_f32x16(float *p, tr_f32x16 v)
{
    memcpy(p, &v, sizeof v);
}

/* Stores past the caches, p at a multiple of the alignment; others see it after tr_stream_fence, which the storing thread
 * calls before it says that it is done. By quarters, since those are in every x86-64. */
enum { TR_STREAM_ALIGNMENT = 16 };

TR_INLINE void tr_stream_f32x16(float *p, tr_f32x16 v)
{
#if defined(__x86_64__)
    tr_f32x4 quarters[4];
    memcpy(quarters, &v, sizeof quarters);
    for (int i = 0; i < 4; i++) _mm_stream_ps(p + 4 * i, (__m128)quarters[i]);
#else
    tr_store_f32x16(p, v);
#endif
}

TR_INLINE void tr_stream_fence(void)
{
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

/* The first n (0..16) lanes from p, `fill` in the others; reads nothing past p + n. */
TR_INLINE tr_f32x16 tr_load_part_f32x16(const float *p, int64_t n, float fill)
{
    float lanes[TR_LANES];
    for (int i = 0; i < TR_LANES; i++) lanes[i] = i < n ? p[i] : fill;
    return tr_load_f32x16(lanes);
}

/* Stores the first n (0..16) lanes. */
TR_INLINE void tr_store_part_f32x16(float *p, tr_f32x16 v, int64_t n)
{
    float lanes[TR_LANES];
    tr_store_f32x16(lanes, v);
    for (int i = 0; i < TR_LANES; i++)
        if (i < n) p[i] = lanes[i];
}

/* x in all lanes. By its bits, because gcc 12 makes sixteen masked moves of a float vector of equal elements
 * where the instruction set comes from an attribute; for the same reason kernels say tr_splat_f32x16(x) * v
 * rather than x * v, unless x is a constant. */
TR_INLINE tr_f32x16 tr_splat_f32x16(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (tr_f32x16)(bits - (tr_i32x16){0});
}

/* mask ? a : b, lane by lane. */
TR_INLINE tr_f32x16 tr_select_f32x16(tr_i32x16 mask, tr_f32x16 a, tr_f32x16 b)
{
    return (tr_f32x16)((mask & (tr_i32x16)a) | (~mask & (tr_i32x16)b));
}

TR_INLINE tr_f32x16 tr_max_f32x16(tr_f32x16 a, tr_f32x16 b)
{
    return tr_select_f32x16(a > b, a, b);
}

TR_INLINE tr_f32x16 tr_abs_f32x16(tr_f32x16 x)
{
    return (tr_f32x16)((tr_i32x16)x & 0x7fffffff);
}

/* The lanes' sum as a tree: lane i with lane i + 8, then + 4, + 2, + 1. */
TR_INLINE float tr_sum_f32x16(tr_f32x16 v)
{
    tr_f32x8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    tr_f32x4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
    return (b[0] + b[2]) + (b[1] + b[3]);
}

TR_INLINE float tr_lane_max_f32x16(tr_f32x16 v)
{
    tr_f32x16 a =
        tr_max_f32x16(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    a = tr_max_f32x16(a, __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
    float even = a[0] > a[2] ? a[0] : a[2], odd = a[1] > a[3] ? a[1] : a[3];
    return even > odd ? even : odd;
}

/* The lanes in double, for long sums: lanes 0..7 and 8..15. */
TR_INLINE tr_f64x8 tr_low_f64x8(tr_f32x16 v)
{
    return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), tr_f64x8);
}

TR_INLINE tr_f64x8 tr_high_f64x8(tr_f32x16 v)
{
    return __builtin_convertvector(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), tr_f64x8);
}

TR_INLINE double tr_sum_f64x8(tr_f64x8 v)
{
    double x[8];
    memcpy(x, &v, sizeof x);
    for (int half = 4; half > 0; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

/* e^r for x = n ln 2 + r with |r| <= ln 2 / 2, by a polynomial (interpolated at Chebyshev nodes, relative error
 * 4e-9); *shifted is n + 1.5 2^23, which has n in its low bits. ln 2 is split in two so that n times its first
 * part is exact (Cody and Waite, 1980). */
TR_INLINE tr_f32x16 tr_exp_reduced_f32x16(tr_f32x16 x, tr_f32x16 *shifted)
{
    const float round = 0x1.8p23f; /* adding it rounds to an integer */
    *shifted = x * 0x1.715476p0f + round;
    tr_f32x16 n = *shifted - round;
    tr_f32x16 r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    tr_f32x16 p = r * 1.392637600e-3f + 8.363333082e-3f;
    p = p * r + 4.166655346e-2f;
    p = p * r + 1.666657606e-1f;
    p = p * r + 0.5f;
    return p * (r * r) + r + 1.0f;
}

/* e^x within 2 ulp; 0 below -104, infinity above 88.8, NaN stays. 2^n by two factors, so that results may be
 * subnormal. */
TR_INLINE tr_f32x16 tr_exp_f32x16(tr_f32x16 x)
{
    tr_f32x16 shifted;
    x = tr_select_f32x16(x < -104.0f, tr_splat_f32x16(-104.0f), x);
    x = tr_select_f32x16(x > 89.0f, tr_splat_f32x16(89.0f), x);
    tr_f32x16 p = tr_exp_reduced_f32x16(x, &shifted);
    tr_i32x16 exponent = (tr_i32x16)shifted - 0x4b400000; /* the bits of 1.5 2^23 */
    tr_i32x16 half = exponent >> 1;
    tr_f32x16 scale = (tr_f32x16)((tr_u32x16)(half + 127) << 23);
    tr_f32x16 rest = (tr_f32x16)((tr_u32x16)(exponent - half + 127) << 23);
    return p * scale * rest;
}

/* e^x for x <= 0, within 2 ulp; 0 below -87 (where e^x is about to become subnormal).
 * One factor 2^n is enough here. */
TR_INLINE tr_f32x16 tr_exp_negative_f32x16(tr_f32x16 x)
{
    tr_f32x16 shifted;
    tr_f32x16 p = tr_exp_reduced_f32x16(x, &shifted);
    tr_f32x16 power = (tr_f32x16)(((tr_u32x16)shifted << 23) + (tr_u32x16)p);
    return (tr_f32x16)(~(x < -87.0f) & (tr_i32x16)power); /* so that NaN stays */
}

/* 1 / (1 + e^-x) within 3 ulp. */
TR_INLINE tr_f32x16 tr_sigmoid_f32x16(tr_f32x16 x)
{
    return 1.0f / (1.0f + tr_exp_f32x16(-x));
}

/* tanh x within 3 ulp: an odd polynomial below 0.625 (interpolated, error
 * 5e-10), above it 1 - 2 / (e^2|x| + 1). */
TR_INLINE tr_f32x16 tr_tanh_f32x16(tr_f32x16 x)
{
    tr_f32x16 z = x * x;
    tr_f32x16 p = z * 2.292744936e-3f - 8.343945658e-3f;
    p = p * z + 2.176891871e-2f;
    p = p * z - 5.395925959e-2f;
    p = p * z + 1.333330356e-1f;
    p = p * z - 3.333333317e-1f;
    tr_f32x16 small = x + x * z * p;
    tr_f32x16 size = tr_abs_f32x16(x);
    tr_f32x16 large = 1.0f - 2.0f / (tr_exp_f32x16(size + size) + 1.0f);
    tr_i32x16 sign = (tr_i32x16)x & INT32_MIN;
    large = (tr_f32x16)((tr_i32x16)large | sign);
    return tr_select_f32x16(size < 0.625f, small, large);
}

#endif
