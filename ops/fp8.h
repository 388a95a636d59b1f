/* ops/fp8.h - numbers of eight bits, which products in FP8 multiply, and the scale that a tensor is brought into their range by.
 *   E4M3: exponent 4 bits with bias 7, fraction 3; no infinity, NaN is S.1111.111; largest 448, least 2^-9
 *   E5M2: exponent 5 bits with bias 15, fraction 2; as IEEE has it; largest 57344, least 2^-16
 * Scales are powers of two: multiplying by one is exact, so a code differs from its number by one rounding, and every device has
 * the same codes.
 * Sources: Micikevicius et al., "FP8 formats for deep learning", 2022; OCP 8-bit floating point specification (OFP8), 2023.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_FP8_H
#define TROUPE_OPS_FP8_H

#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* format: TR_E4M3 or TR_E5M2, here as below. */
static inline bool tr_is_fp8(tr_dtype format)
{
    return format == TR_E4M3 || format == TR_E5M2;
}

/* To the nearest, of two equally near ones the even; beyond the largest, infinity too, to the largest. NaN is 0x7f. */
uint8_t tr_fp8_of_f32(float x, tr_dtype format);
/* Exact. */
float tr_f32_of_fp8(uint8_t code, tr_dtype format);

/* What the numbers of a tensor whose largest magnitude is `most` are multiplied by: the greatest power of two, 2^126 at most, with
 * which that one is in range; 1 where all are zero. Codes are multiplied by *inverse for the number again. Of a tensor with a
 * number that is none, *inverse is NaN, and so is every product of it: what went wrong is seen, and not saturated. */
void tr_fp8_scale(float most, tr_dtype format, float *scale, float *inverse);

#ifdef __cplusplus
}
#endif
#endif
