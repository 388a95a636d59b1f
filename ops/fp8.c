/* ops/fp8.c - see fp8.h: by integers, so that no rounding mode and no instruction set has a say.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/fp8.h"

#include <math.h>

typedef struct format {
    int fraction_bits, bias;
    uint8_t largest; /* code */
    int top;         /* exponent of the largest number, which is 1.75 times this power of two in both */
} format;

static format format_of(tr_dtype dtype)
{
    TR_ASSERT(tr_is_fp8(dtype));
    return dtype == TR_E4M3 ? (format){3, 7, 0x7e, 8} : (format){2, 15, 0x7b, 15};
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float power_of_two(int exponent)
{
    uint32_t bits = (uint32_t)(exponent + 127) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* n without its lowest `shift` bits, 1 to 31, to the nearest even. */
static uint32_t round_off(uint32_t n, int shift)
{
    return (n + (((uint32_t)1 << (shift - 1)) - 1) + (n >> shift & 1u)) >> shift;
}

uint8_t tr_fp8_of_f32(float x, tr_dtype dtype)
{
    const format f = format_of(dtype);
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu, code;
    uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);
    if (magnitude > 0x7f800000u) return 0x7f;
    int exponent = (int)(magnitude >> 23) - 127, least = 1 - f.bias;
    if (exponent >= least) {
        code = round_off(magnitude, 23 - f.fraction_bits) - ((uint32_t)(127 - f.bias) << f.fraction_bits);
    } else { /* in units of the least number; one that is subnormal in float32 as well is far below half of it */
        int shift = 23 - f.fraction_bits + (least - exponent);
        code = shift > 24 ? 0 : round_off((magnitude & 0x7fffffu) | 0x800000u, shift);
    }
    return (uint8_t)(sign | (code > f.largest ? f.largest : code));
}

float tr_f32_of_fp8(uint8_t code, tr_dtype dtype)
{
    const format f = format_of(dtype);
    int fraction = code & ((1 << f.fraction_bits) - 1), exponent = (code & 0x7f) >> f.fraction_bits;
    float sign = code & 0x80 ? -1.0f : 1.0f;
    if ((code & 0x7f) > f.largest)
        return dtype == TR_E5M2 && fraction == 0 ? sign * (float)INFINITY : (float)NAN;
    if (exponent == 0) return sign * (float)fraction * power_of_two(1 - f.bias - f.fraction_bits);
    return sign * (float)((1 << f.fraction_bits) + fraction) *
           power_of_two(exponent - f.bias - f.fraction_bits);
}

void tr_fp8_scale(float most, tr_dtype dtype, float *scale, float *inverse)
{
    uint32_t bits = bits_of(most) & 0x7fffffffu;
    *scale = 1;
    *inverse = bits >= 0x7f800000u ? (float)NAN : 1;
    if (bits == 0 || bits >= 0x7f800000u) return;
    int exponent = format_of(dtype).top - ((int)(bits >> 23) - 127) - ((bits & 0x7fffffu) > 0x600000u);
    if (exponent > 126) exponent = 126;
    *scale = power_of_two(exponent);
    *inverse = power_of_two(-exponent);
}
