/* ops/dropout.h - which elements dropout keeps: a function of what the run draws by, the node's use and the place
 * of the element in the unsharded tensor, so that the backward, another layout and a resumed run make the same
 * mask again and nobody keeps one.
 * A place is (plane, row, column): of attention's probabilities (sequence * heads + head, query, key); of any other
 * tensor (0, 0, element). Columns are counted in groups of 64, four words of sixteen blocks of Philox: column c
 * is word c / 16 % 4 of the block with the counter (c / 64 * 16 + c % 16, row, plane). So sixteen lanes that count
 * blocks get neighbours.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_DROPOUT_H
#define TROUPE_OPS_DROPOUT_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_DROPOUT_GROUP = 64 }; /* columns that are drawn together */

typedef struct tr_dropout_mask {
    uint32_t key[2];    /* Philox's */
    uint32_t threshold; /* what has a word below it is dropped: rate * 2^32 */
    float scale;        /* what is kept is multiplied by it: 1 / (1 - rate) */
} tr_dropout_mask;

/* rate in [0,1); `use` is the forward node's. False: nothing is to be dropped, and *out is not set. */
bool tr_dropout_mask_init(tr_dropout_mask *out, const tr_random *random, double rate, int32_t use);

/* What the element is multiplied by, 0 or the scale: the plain reference of the kernels. */
float tr_dropout_factor(const tr_dropout_mask *self, uint32_t plane, uint32_t row, uint64_t column);

#ifdef __cplusplus
}
#endif
#endif
