/* ops/cpu/elements.h - sixteen lanes from and to arrays of float32 or bfloat16; arithmetic is float32 always.
 * One source for both: `dtype` is a constant where a loop is inlined, so that the loop is compiled once for each
 * (TR_BY_DTYPE). Indices count elements.
 * Rounding is written with integers although processors with avx512_bf16 have an instruction for it: that
 * instruction makes subnormal numbers zero, so a machine with it would give other bits than one without. Here they
 * agree everywhere, and with tr_bf16_of_f32.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ELEMENTS_H
#define TROUPE_OPS_CPU_ELEMENTS_H

#include "ops/cpu/vector.h"
#include "ops/tensor.h"

typedef uint16_t tr_u16x16 __attribute__((vector_size(32)));

/* Calls function(arguments..., dtype) with dtype a constant: TR_F32 or TR_BF16, and nothing else. */
#define TR_BY_DTYPE(dtype, function, ...)                                                                    \
    do {                                                                                                     \
        if ((dtype) == TR_BF16)                                                                              \
            function(__VA_ARGS__, TR_BF16);                                                                  \
        else                                                                                                 \
            function(__VA_ARGS__, TR_F32);                                                                   \
    } while (0)

static inline int64_t tr_element_bytes(tr_dtype dtype)
{
    return dtype == TR_BF16 ? 2 : 4;
}

/* Where element i is; NULL stays NULL. */
static inline void *tr_at(const void *p, int64_t i, tr_dtype dtype)
{
    return p ? (char *)(uintptr_t)p + i * tr_element_bytes(dtype) : NULL;
}

TR_INLINE float tr_get(const void *p, int64_t i, tr_dtype dtype)
{
    return dtype == TR_BF16 ? tr_f32_of_bf16(((const tr_bf16 *)p)[i]) : ((const float *)p)[i];
}

TR_INLINE void tr_put(void *p, int64_t i, float x, tr_dtype dtype)
{
    if (dtype == TR_BF16)
        ((tr_bf16 *)p)[i] = tr_bf16_of_f32(x);
    else
        ((float *)p)[i] = x;
}

TR_INLINE tr_u16x16 tr_round_bf16x16(tr_f32x16 x)
{
    tr_u32x16 bits = (tr_u32x16)x, high = bits >> 16;
    tr_u32x16 rounded = (bits + 0x7fff + (high & 1)) >> 16;
    tr_u32x16 nan = (tr_u32x16)(x != x);
    return __builtin_convertvector((nan & (high | 0x40)) | (~nan & rounded), tr_u16x16);
}

TR_INLINE tr_f32x16 tr_load_x16(const void *p, int64_t i, tr_dtype dtype)
{
    if (dtype == TR_F32) return tr_load_f32x16((const float *)p + i);
    tr_u16x16 v;
    memcpy(&v, (const tr_bf16 *)p + i, sizeof v);
    return (tr_f32x16)(__builtin_convertvector(v, tr_u32x16) << 16);
}

TR_INLINE void tr_store_x16(void *p, int64_t i, tr_f32x16 v, tr_dtype dtype)
{
    if (dtype == TR_F32) {
        tr_store_f32x16((float *)p + i, v);
        return;
    }
    tr_u16x16 rounded = tr_round_bf16x16(v);
    memcpy((tr_bf16 *)p + i, &rounded, sizeof rounded);
}

/* The first n lanes, all sixteen where n is larger; `fill` in the others. Reads nothing past element i + n. */
TR_INLINE tr_f32x16 tr_load_up_to_x16(const void *p, int64_t i, int64_t n, float fill, tr_dtype dtype)
{
    if (n >= TR_LANES) return tr_load_x16(p, i, dtype);
    float lanes[TR_LANES];
    for (int j = 0; j < TR_LANES; j++) lanes[j] = j < n ? tr_get(p, i + j, dtype) : fill;
    return tr_load_f32x16(lanes);
}

TR_INLINE void tr_store_up_to_x16(void *p, int64_t i, tr_f32x16 v, int64_t n, tr_dtype dtype)
{
    if (n >= TR_LANES) {
        tr_store_x16(p, i, v, dtype);
        return;
    }
    float lanes[TR_LANES];
    tr_store_f32x16(lanes, v);
    for (int j = 0; j < TR_LANES; j++)
        if (j < n) tr_put(p, i + j, lanes[j], dtype);
}

#endif
