/* ops/cpu/norm.h - what layernorm and rmsnorm share on the CPU.
 * Weight gradients are sums over all rows. A tile owns a range of columns and walks the rows in blocks:
 * within a block a left fold, then the blocks in order. So the bits depend on the shape alone, and the error
 * grows with the square root of the rows at most.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_NORM_H
#define TROUPE_OPS_CPU_NORM_H

#include "ops/cpu/elements.h"
#include "ops/cpu/tiles.h"

enum { TR_NORM_ROWS = 32, TR_NORM_VECTORS = 4, TR_NORM_COLUMNS = TR_NORM_VECTORS * TR_LANES };

/* p[0..n-1] += v. */
TR_INLINE void tr_add_up_to_f32x16(float *p, tr_f32x16 v, int64_t n)
{
    tr_store_up_to_x16(p, 0, tr_load_up_to_x16(p, 0, n, 0, TR_F32) + v, n, TR_F32);
}

#endif
