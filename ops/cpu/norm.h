/* ops/cpu/norm.h - what layernorm and rmsnorm share on the CPU.
 * Weight gradients are sums over all rows. A tile owns a range of columns and walks the rows in blocks:
 * within a block a left fold, then the blocks in order. So the bits depend on the shape alone, and the error
 * grows with the square root of the rows at most.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_NORM_H
#define TROUPE_OPS_CPU_NORM_H

#include "ops/cpu/tiles.h"
#include "ops/cpu/vector.h"

enum { TR_NORM_ROWS = 32, TR_NORM_VECTORS = 4, TR_NORM_COLUMNS = TR_NORM_VECTORS * TR_LANES };

/* Lanes of p that exist, n of them or all sixteen; `fill` elsewhere. */
TR_INLINE tr_f32x16 tr_load_up_to_f32x16(const float *p, int64_t n, float fill)
{
    return n >= TR_LANES ? tr_load_f32x16(p) : tr_load_part_f32x16(p, n, fill);
}

TR_INLINE void tr_store_up_to_f32x16(float *p, tr_f32x16 v, int64_t n)
{
    if (n >= TR_LANES)
        tr_store_f32x16(p, v);
    else
        tr_store_part_f32x16(p, v, n);
}

/* p[0..n-1] += v. */
TR_INLINE void tr_add_up_to_f32x16(float *p, tr_f32x16 v, int64_t n)
{
    tr_store_up_to_f32x16(p, tr_load_up_to_f32x16(p, n, 0) + v, n);
}

#endif
