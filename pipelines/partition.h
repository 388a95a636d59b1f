/* pipelines/partition.h - cuts a model's graph into the pieces that stages run.
 * A stage is a range of units with at least one decoder layer; the embedding goes with the first layer, the
 * head with the last. A piece is a graph of its own: the forward nodes of its units, copied in order with
 * their attributes and `use`, an INPUT for what the stage before sends, and the backward that autodiff adds.
 * No node is changed by the cut and none is added: the pieces, run in order, give the bits of the whole.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_PARTITION_H
#define TROUPE_PIPELINES_PARTITION_H

#include "ops/recompute.h"
#include "pipelines/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_partition {
    int32_t n_stages;
    int32_t *first_unit; /* n_stages + 1, owned: stage s has the units first_unit[s] .. first_unit[s+1] - 1 */
    double *cost;        /* n_stages, owned: FLOPs of one forward of each stage */
} tr_partition;

/* Stages as evenly loaded as can be: the costliest costs as little as possible; among such cuts the sum of
 * squares is least; among those later stages have the more layers (earlier ones hold more micro-batches).
 * Errors: TR_EINVAL (n_stages < 1, or more than there are decoder layers), TR_ENOMEM. */
tr_status tr_partition_balanced(tr_partition *out, const tr_graph *whole, int32_t n_stages, tr_error *err);

/* Stage s has layers[s] decoder layers. Errors: TR_EINVAL (a stage without a layer, or the sum is not the
 * model's), TR_ENOMEM. */
tr_status tr_partition_explicit(tr_partition *out, const tr_graph *whole, const int32_t *layers,
                                int32_t n_stages, tr_error *err);
void tr_partition_release(tr_partition *self);

/* The cut of tr_partition_balanced alone: blocks 0 .. n_blocks-1 of the given costs into n_stages (1 ..
 * n_blocks) ranges, the s-th beginning at first[s]; first has n_stages + 1 entries. Errors: TR_ENOMEM. */
tr_status tr_partition_cut(const double *costs, int32_t n_blocks, int32_t n_stages, int32_t *first,
                           tr_error *err);

/* One use of a parameter by a forward node. */
typedef struct tr_parameter_use {
    int32_t parameter; /* index in tr_model_parameters */
    int32_t use;       /* the node's index in the whole graph */
    int32_t stage;
} tr_parameter_use;

/* All uses of all parameters, by (parameter, use): the order in which gradients of the uses are added. The
 * stage of a parameter's first use owns it: counts it in norms and writes it to checkpoints.
 * *uses is the caller's to tr_free. */
tr_status tr_partition_uses(const tr_partition *self, const tr_graph *whole, tr_parameter_use **uses,
                            size_t *n_uses, tr_error *err);

typedef struct tr_piece_parameter {
    int32_t index;  /* in tr_model_parameters */
    tr_value value; /* in the piece's graph */
} tr_piece_parameter;

typedef struct tr_piece_gradient {
    int32_t index;    /* in tr_model_parameters */
    int32_t position; /* in the piece's parameters */
    int32_t use;      /* node in the whole graph */
    tr_value value;   /* in the piece's graph */
} tr_piece_gradient;

/* A stage's graph and its doors; TR_NO_VALUE where the piece has none.
 * A piece of all units is the whole model. */
typedef struct tr_piece {
    tr_graph *graph;
    tr_value tokens;         /* (B,T) i32, first stage */
    tr_value targets;        /* (B,T) i32, last stage */
    tr_value position;       /* (1) i32, when generating */
    tr_value activation_in;  /* (B,T,C) INPUT, all but the first */
    tr_value activation_out; /* (B,T,C) output, all but the last */
    tr_value gradient_in;    /* (B,T,C) INPUT: of activation_out, from the next stage */
    tr_value gradient_out;   /* (B,T,C) output: of activation_in, for the stage before */
    tr_value factor;         /* (1) f32 INPUT, last stage: what the loss's gradient is multiplied with */
    tr_value loss;           /* (1) f64 output, last stage */
    tr_value logits;         /* output, last stage of a graph without loss */
    tr_piece_parameter *parameters; /* n_parameters by index: those that the piece uses */
    tr_piece_gradient *gradients; /* n_gradients by (index, use): one for each use; none without a backward */
    int32_t n_parameters, n_gradients;
} tr_piece;

typedef enum tr_piece_kind {
    TR_PIECE_FORWARD,
    TR_PIECE_TRAINING
} tr_piece_kind; /* without and with a backward */

/* The units first_unit .. end_unit - 1 of `whole` (whose named values are `values`), which need not outlive
 * the piece. A TRAINING piece is cut from a graph with a loss. Errors: TR_EINVAL (a cut that more or less
 * than one value crosses), TR_ENOMEM, and those of autodiff. */
tr_status tr_partition_extract(const tr_graph *whole, const tr_model_values *values, int32_t first_unit,
                               int32_t end_unit, tr_piece_kind kind, tr_piece *piece, tr_error *err);
/* Its graph becomes one in which logits exist by chunks of so many rows (ops/chunk_logits.h; 0: as it thinks fit), with the same doors.
 * Errors: TR_ENOMEM. */
tr_status tr_piece_chunk_logits(tr_piece *self, int64_t chunk, tr_error *err);
/* Its graph becomes one with products in FP8 (ops/use_fp8.h), with the same doors; before it is one that computes again. Errors:
 * TR_ENOMEM. */
tr_status tr_piece_use_fp8(tr_piece *self, tr_error *err);
/* Of a TRAINING piece: its graph becomes one that computes again (ops/recompute.h), with the same doors. Errors: TR_ENOMEM. */
tr_status tr_piece_recompute(tr_piece *self, tr_recompute what, tr_error *err);
void tr_piece_release(tr_piece *self);

#ifdef __cplusplus
}
#endif
#endif
