/* ops/use_fp8.h - products of linear layers in FP8: forward e4m3 x e4m3, gradients e5m2 x e4m3, sums in float32.
 * The copy has, in the place of each linear layer that is taken and of its gradients, the same product of codes (fp8_linear.h), and
 * in front of it what makes the codes: of an activation or a gradient once, whoever reads it, of a weight once for each version
 * of it, kept by the program. All else stays in bfloat16; so do the last layer, which makes the logits, and embeddings.
 * A scale is of one tensor, in one micro-batch: of its own largest number (current scaling). Scales of earlier steps (delayed
 * scaling) save a pass over memory, and are state that recovery would have to hold, that micro-batches in flight would share, and
 * that goes wrong where a tensor grows; with the tensor's own, numbers are a function of weights and micro-batch alone, in any
 * layout and after any recovery, and nothing is saturated.
 * Taken is a layer whose rows, inputs and outputs are multiples of 16, as the tensor cores read FP8.
 * Recomputation is run behind this pass: codes are made again like activations.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_USE_FP8_H
#define TROUPE_OPS_USE_FP8_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Linear layers within units, the last one not counted. */
typedef struct tr_fp8_layers {
    int32_t n_taken, n_left; /* left: for their shapes */
} tr_fp8_layers;

tr_fp8_layers tr_graph_fp8_layers(const tr_graph *graph);

/* A copy of `graph`, with or without its backward, with the same values under the same indices and more behind them. Errors: the
 * graph's own, TR_ENOMEM. */
tr_status tr_graph_use_fp8(tr_graph **out, const tr_graph *graph, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
