/* ops/tensor.h - element types and shapes.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_TENSOR_H
#define TROUPE_OPS_TENSOR_H

#include "base/status.h"

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The last two are of eight bits (ops/fp8.h): of what products multiply, never of parameters or messages. */
typedef enum tr_dtype { TR_F32, TR_F64, TR_BF16, TR_F16, TR_I32, TR_I64, TR_U8, TR_E4M3, TR_E5M2 } tr_dtype;

enum { TR_MAX_RANK = 4 };

typedef struct tr_shape {
    int rank; /* 0 .. TR_MAX_RANK; 0 is one element */
    int64_t dims[TR_MAX_RANK];
} tr_shape;

size_t tr_dtype_bytes(tr_dtype dtype);
const char *tr_dtype_name(tr_dtype dtype); /* "float32", "bfloat16", "int32", ... */
int64_t tr_shape_elements(const tr_shape *shape);
bool tr_shape_equal(const tr_shape *a, const tr_shape *b);
void tr_shape_text(const tr_shape *shape, char text[80]); /* "(4, 256, 384)" */

/* A bfloat16 is the upper half of a float32: its sign, its exponent, seven bits of its fraction. */
typedef uint16_t tr_bf16;

static inline float tr_f32_of_bf16(tr_bf16 x)
{
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest, of two equally near ones the even; beyond the largest to infinity; subnormals are kept; NaN
 * stays NaN. */
static inline tr_bf16 tr_bf16_of_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (tr_bf16)(bits >> 16 | 0x40u);
    return (tr_bf16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#define TR_SHAPE1(a) ((tr_shape){.rank = 1, .dims = {(a)}})
#define TR_SHAPE2(a, b) ((tr_shape){.rank = 2, .dims = {(a), (b)}})
#define TR_SHAPE3(a, b, c) ((tr_shape){.rank = 3, .dims = {(a), (b), (c)}})

#ifdef __cplusplus
}
#endif
#endif
