/* ops/fuse.h - puts one node in the place of several where a device does their work in one pass over memory.
 * What is joined: a residual add or an activation into the linear layer before it; an activation's gradient into the
 * input gradient of the linear layer behind it; q, k and v used where the projection left them, and their gradients
 * written there; the sums of a norm's weight gradients into its input gradient; the loss and
 * the gradient of its logits. Only where nobody else reads what
 * then never exists. What is left out is computed as it was.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_FUSE_H
#define TROUPE_OPS_FUSE_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A copy of `graph` with the same values under the same indices, and perhaps more behind them. Errors: the graph's own,
 * TR_ENOMEM. */
tr_status tr_graph_fuse(tr_graph **out, const tr_graph *graph, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
