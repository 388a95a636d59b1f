/* ops/attributes.h - what nodes carry beside their inputs, by operation: read by the operation and by its kernels
 * on every device. Attention's forward has its public options. Internal to ops/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_ATTRIBUTES_H
#define TROUPE_OPS_ATTRIBUTES_H

#include "ops/operations.h"

typedef struct linear_attributes {
    int32_t in_out; /* the weight is (I,O) */
} linear_attributes;

typedef struct layernorm_attributes {
    float eps;
} layernorm_attributes;

typedef struct rmsnorm_attributes {
    float eps;
} rmsnorm_attributes;

typedef struct activate_attributes {
    tr_activation kind;
} activate_attributes;

typedef struct gated_attributes {
    tr_activation kind;
} gated_attributes;

typedef struct split_attributes {
    int64_t widths[TR_MAX_OUTPUTS];
    int32_t n;
} split_attributes;

typedef struct rope_attributes {
    int32_t head_size;
    float magnitude;
} rope_attributes;

typedef struct position_attributes {
    int64_t max_t; /* of the backward, which does not see the table */
} position_attributes;

/* The table's height, which the gradient's inputs do not tell. */
typedef struct dtable_attributes {
    int64_t vocabulary;
} dtable_attributes;

typedef struct dropout_attributes {
    double rate;
    int32_t use; /* of the forward node, in the backward */
} dropout_attributes;

/* What attention's backward has; the forward and the cached one have the options alone. */
typedef struct attention_backward_attributes {
    tr_attention_options options;
    int32_t use; /* of the forward node: dropout draws by it */
} attention_backward_attributes;

#endif
