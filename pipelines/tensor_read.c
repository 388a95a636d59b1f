/* pipelines/tensor_read.c - elements of a stored tensor as numbers. The data may be unaligned, hence memcpy
 * throughout.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/safetensors.h"

#include "pipelines/text.h"

#include <string.h>

static float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE 754 binary16. Subnormals are exact: mantissa * 2^-24 is a float32. */
static float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
    if (exponent == 31) return float_from_bits(sign | 0x7F800000u | mantissa << 13);
    if (exponent) return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
}

static void halves_to_float(const char *data, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, data + 2 * i, 2);
        out[i] = half_to_float(half);
    }
}

static void bfloats_to_float(const char *data, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t upper;
        memcpy(&upper, data + 2 * i, 2);
        out[i] = float_from_bits((uint32_t)upper << 16);
    }
}

static void doubles_to_float(const char *data, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, data + 8 * i, 8);
        out[i] = (float)value;
    }
}

static void check_range(const tr_tensor_info *tensor, int64_t first, int64_t count)
{
    int64_t elements = 1;
    for (int i = 0; i < tensor->shape.rank; i++) elements *= tensor->shape.dims[i];
    TR_ASSERT(first >= 0 && count >= 0 && first <= elements && count <= elements - first);
}

static tr_status unsupported(const tr_tensor_info *tensor, const char *wanted, tr_error *err)
{
    char quoted[TR__QUOTED_SIZE];
    return tr_fail(err, TR_EUNSUPPORTED, "%s: tensor %s is stored as %s%s and cannot be read as %s",
                   tensor->file, tr__quoted(tensor->name, quoted), tensor->stored_as,
                   tensor->readable ? "" : " (or has too many dimensions)", wanted);
}

tr_status tr_tensor_read_f32(const tr_tensor_info *tensor, int64_t first, int64_t count, float *out,
                             tr_error *err)
{
    if (!tensor->readable) return unsupported(tensor, "float32", err);
    check_range(tensor, first, count);
    const char *data = tensor->data;
    switch (tensor->dtype) {
    case TR_F32:
        if (count) memcpy(out, data + 4 * first, (size_t)count * 4);
        return TR_OK;
    case TR_F16: halves_to_float(data + 2 * first, count, out); return TR_OK;
    case TR_BF16: bfloats_to_float(data + 2 * first, count, out); return TR_OK;
    case TR_F64: doubles_to_float(data + 8 * first, count, out); return TR_OK;
    default: return unsupported(tensor, "float32", err);
    }
}

tr_status tr_tensor_read_i64(const tr_tensor_info *tensor, int64_t first, int64_t count, int64_t *out,
                             tr_error *err)
{
    if (!tensor->readable) return unsupported(tensor, "whole numbers", err);
    check_range(tensor, first, count);
    const char *data = tensor->data;
    if (tensor->dtype == TR_I64) {
        if (count) memcpy(out, data + 8 * first, (size_t)count * 8);
        return TR_OK;
    }
    if (tensor->dtype != TR_I32 && tensor->dtype != TR_U8) return unsupported(tensor, "whole numbers", err);
    for (int64_t i = 0; i < count; i++) {
        int32_t value = 0;
        if (tensor->dtype == TR_I32)
            memcpy(&value, data + 4 * (first + i), 4);
        else
            value = (unsigned char)data[first + i];
        out[i] = value;
    }
    return TR_OK;
}
