/* ops/cpu/attention_dropout.h - dropout of attention's probabilities, a strip of a block at a time.
 * Everything is behind one test a strip, and drawn in a function of its own, so that attention without dropout is
 * compiled as if there were none.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ATTENTION_DROPOUT_H
#define TROUPE_OPS_CPU_ATTENTION_DROPOUT_H

#include "ops/cpu/attention_block.h"
#include "ops/cpu/dropout.h"

_Static_assert((int)BLOCK == (int)TR_DROPOUT_GROUP, "a row of a block is drawn at once");

/* factors (STRIP, BLOCK) of the queries `query` .. and the keys `key` ..; plane: sequence * heads + head. */
TR_INLINE void draw_strip(const tr_dropout_mask *mask, int64_t plane, int64_t query, int64_t key,
                          float factors[STRIP * BLOCK])
{
    tr_cpu_dropout_factors(mask, (uint32_t)plane, (uint32_t)query, (uint64_t)key, STRIP, factors);
}

/* x (STRIP, columns of BLOCK) *= factors. */
TR_INLINE void multiply_strip(float *x, const float factors[STRIP * BLOCK], int64_t columns)
{
    for (int64_t r = 0; r < STRIP * BLOCK; r += BLOCK)
        for (int64_t j = r; j < r + columns; j += TR_LANES)
            tr_store_f32x16(x + j, tr_load_f32x16(x + j) * tr_load_f32x16(factors + j));
}

#endif
