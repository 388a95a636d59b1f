/* ops/linear_loss.h - the operations that tr_graph_chunk_logits puts in the place of the last linear layer and the loss.
 * Internal to ops/.
 *   linear_loss           inputs x (...,I), w, targets (...): loss, in the forward; of a run that trains and has a backward
 *                         nothing
 *   linear_loss_backward  inputs x, w, targets, factor: dx, dw (added to), loss
 * One chunk of logits lies in their workspace. Letters: M rows, I inputs, V logits a row.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_LINEAR_LOSS_H
#define TROUPE_OPS_LINEAR_LOSS_H

#include "ops/infer.h"
#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct linear_loss_attributes {
    int64_t rows;         /* of a chunk, fewer than M; the last one's may be fewer yet */
    int32_t in_out;       /* w is (I,V) */
    int32_t has_backward; /* which tells the loss of a run that trains */
} linear_loss_attributes;

extern const tr_op tr__linear_loss_op, tr__linear_loss_backward_op;

/* Where what lies in the workspace, in bytes. */
typedef struct linear_loss_workspace {
    size_t lse;        /* (rows) f32; the chunk of logits is before it */
    size_t row_losses; /* (M) f64 */
    size_t end;
} linear_loss_workspace;
linear_loss_workspace tr__linear_loss_workspace(const tr_graph *graph, const tr_node *node);

/* V. */
static inline int64_t tr__linear_loss_vocabulary(const tr_graph *graph, const tr_node *node)
{
    const linear_loss_attributes *attributes = (const linear_loss_attributes *)tr_node_attributes(node);
    return tr_input_shape(graph, node, 1)->dims[attributes->in_out ? 1 : 0];
}

/* Is the loss left to the backward? */
static inline bool tr__linear_loss_waits(const tr_call *call)
{
    const linear_loss_attributes *attributes = (const linear_loss_attributes *)tr_node_attributes(call->node);
    return attributes->has_backward && call->random->training;
}

#ifdef __cplusplus
}
#endif
#endif
