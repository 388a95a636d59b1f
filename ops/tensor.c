/* ops/tensor.c - names and sizes of element types, counts and texts of shapes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/tensor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [TR_F32] = {"float32", 4}, [TR_F64] = {"float64", 8}, [TR_BF16] = {"bfloat16", 2},
    [TR_F16] = {"float16", 2}, [TR_I32] = {"int32", 4},   [TR_I64] = {"int64", 8},
    [TR_U8] = {"uint8", 1},    [TR_E4M3] = {"e4m3", 1},   [TR_E5M2] = {"e5m2", 1},
};

size_t tr_dtype_bytes(tr_dtype dtype)
{
    TR_ASSERT((size_t)dtype < sizeof dtypes / sizeof *dtypes);
    return dtypes[dtype].bytes;
}

const char *tr_dtype_name(tr_dtype dtype)
{
    TR_ASSERT((size_t)dtype < sizeof dtypes / sizeof *dtypes);
    return dtypes[dtype].name;
}

int64_t tr_shape_elements(const tr_shape *shape)
{
    int64_t elements = 1;
    for (int i = 0; i < shape->rank; i++) elements *= shape->dims[i];
    return elements;
}

bool tr_shape_equal(const tr_shape *a, const tr_shape *b)
{
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i]) return false;
    return true;
}

/* Four numbers of at most 18 digits fit;
 * a shape has passed tr_graph's check, which keeps products below 2^62. */
void tr_shape_text(const tr_shape *shape, char text[80])
{
    size_t length = (size_t)snprintf(text, 80, "(");
    for (int i = 0; i < shape->rank && length < 80; i++)
        length +=
            (size_t)snprintf(text + length, 80 - length, i ? ", %lld" : "%lld", (long long)shape->dims[i]);
    if (length < 79) memcpy(text + length, ")", 2);
}
