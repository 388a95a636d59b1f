/* ops/infer.h - what shape inference functions share: checks of inputs, and the outputs that several have. All
 * messages begin with the operation's name.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_INFER_H
#define TROUPE_OPS_INFER_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Input i is there and has this dtype; `name` is what its builder calls it. */
tr_status tr_infer_input(const tr_graph *graph, const tr_node *node, int i, const char *name, tr_dtype dtype,
                         tr_error *err);
/* Input i is there and is an activation or a matrix: float32 or bfloat16. */
tr_status tr_infer_activation(const tr_graph *graph, const tr_node *node, int i, const char *name,
                              tr_error *err);
/* Input i has dtype and shape of input `as`, which was checked before. */
tr_status tr_infer_same(const tr_graph *graph, const tr_node *node, int i, const char *name, int as,
                        tr_error *err);
/* As tr_infer_input, and its shape is *shape. */
tr_status tr_infer_shaped(const tr_graph *graph, const tr_node *node, int i, const char *name, tr_dtype dtype,
                          const tr_shape *shape, tr_error *err);

/* What the norms share. dx: inputs dy, x (...,C), ..., rstd (...) at `rstd`, and behind it what is pending for x,
 * or nothing. Weights: inputs dy, x (...,C), ...; n gradients (C). */
tr_status tr_infer_norm_backward(const tr_graph *graph, const tr_node *node, int rstd, tr_value_info *outputs,
                                 int *n_outputs, tr_error *err);
tr_status tr_infer_norm_weight(const tr_graph *graph, const tr_node *node, int n, tr_value_info *outputs,
                               int *n_outputs, tr_error *err);
/* Input i is `position` (1) i32, or is absent. */
tr_status tr_infer_position(const tr_graph *graph, const tr_node *node, int i, tr_error *err);

static inline const tr_shape *tr_input_shape(const tr_graph *graph, const tr_node *node, int i)
{
    return &tr_graph_value(graph, node->inputs[i])->shape;
}

static inline tr_dtype tr_input_dtype(const tr_graph *graph, const tr_node *node, int i)
{
    return tr_graph_value(graph, node->inputs[i])->dtype;
}

/* An output of the dtype and shape of input i. */
static inline tr_value_info tr_infer_like(const tr_graph *graph, const tr_node *node, int i)
{
    tr_value_info output;
    memset(&output, 0, sizeof output);
    output.dtype = tr_input_dtype(graph, node, i);
    output.shape = *tr_input_shape(graph, node, i);
    return output;
}

/* (...,C): C, and how many rows of it there are. A shape of rank 0 is one row of one. */
static inline int64_t tr_shape_last(const tr_shape *shape)
{
    return shape->rank > 0 ? shape->dims[shape->rank - 1] : 1;
}

static inline int64_t tr_shape_rows(const tr_shape *shape)
{
    return tr_shape_elements(shape) / tr_shape_last(shape);
}

/* (...) of (...,C). */
static inline tr_shape tr_shape_without_last(tr_shape shape)
{
    if (shape.rank > 0) shape.dims[--shape.rank] = 0;
    return shape;
}

#ifdef __cplusplus
}
#endif
#endif
