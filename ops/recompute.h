/* ops/recompute.h - computes again what would be kept from forward to backward: memory for time.
 * Also called activation checkpointing. The copy has the forward's nodes once more, in phase BACKWARD, right before what
 * reads them, so the plan of memory (memory_plan.h) has nothing of them to keep. Weight gradients move from phase WEIGHT to
 * BACKWARD, behind the input gradients of the same layer: kept for later, what they read would have to be kept too. So a
 * pipeline has no weight gradients to fill gaps with.
 * No bit changes: a node made again has the same inputs, the same kernel and the same random numbers (by its `use`), and
 * gradients are added up in the same order.
 * Sources: Chen et al., "Training deep nets with sublinear memory cost", 2016 (FULL); Korthikanti et al., "Reducing activation
 * recomputation in large transformer models", 2022 (SELECTIVE; attention keeps nothing that is T x T here, so what is cheap are
 * norms and activations).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_RECOMPUTE_H
#define TROUPE_OPS_RECOMPUTE_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_recompute {
    TR_RECOMPUTE_NONE,
    TR_RECOMPUTE_SELECTIVE, /* what `is_light` operations give, of values that are kept */
    TR_RECOMPUTE_FULL /* of a unit only what others read is kept; of the loss's unit as if it were SELECTIVE, since its backward
                         follows at once */
} tr_recompute;

/* A copy of `graph`, which has its backward, with the same values under the same indices and more behind them. Errors: the
 * graph's own, TR_ENOMEM. */
tr_status tr_graph_recompute(tr_graph **out, const tr_graph *graph, tr_recompute what, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
