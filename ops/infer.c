/* ops/infer.c - see infer.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/infer.h"

#include "ops/op.h"

static tr_status check_present(const tr_node *node, int i, const char *name, tr_error *err)
{
    if (i < node->n_inputs && node->inputs[i] != TR_NO_VALUE) return TR_OK;
    return tr_fail(err, TR_EINVAL, "%s: '%s' is missing", node->op->name, name);
}

tr_status tr_infer_input(const tr_graph *graph, const tr_node *node, int i, const char *name, tr_dtype dtype,
                         tr_error *err)
{
    tr_status status = check_present(node, i, name, err);
    if (status != TR_OK) return status;
    tr_dtype had = tr_input_dtype(graph, node, i);
    if (had == dtype) return TR_OK;
    return tr_fail(err, TR_EINVAL, "%s: '%s' is %s; it must be %s", node->op->name, name, tr_dtype_name(had),
                   tr_dtype_name(dtype));
}

tr_status tr_infer_activation(const tr_graph *graph, const tr_node *node, int i, const char *name,
                              tr_error *err)
{
    tr_status status = check_present(node, i, name, err);
    if (status != TR_OK) return status;
    tr_dtype had = tr_input_dtype(graph, node, i);
    if (had == TR_F32 || had == TR_BF16) return TR_OK;
    return tr_fail(err, TR_EINVAL, "%s: '%s' is %s; it must be float32 or bfloat16", node->op->name, name,
                   tr_dtype_name(had));
}

tr_status tr_infer_shaped(const tr_graph *graph, const tr_node *node, int i, const char *name, tr_dtype dtype,
                          const tr_shape *shape, tr_error *err)
{
    tr_status status = tr_infer_input(graph, node, i, name, dtype, err);
    if (status != TR_OK) return status;
    const tr_shape *had = tr_input_shape(graph, node, i);
    if (tr_shape_equal(had, shape)) return TR_OK;
    char had_text[80], wanted_text[80];
    tr_shape_text(had, had_text);
    tr_shape_text(shape, wanted_text);
    return tr_fail(err, TR_EINVAL, "%s: '%s' has shape %s; it must have %s", node->op->name, name, had_text,
                   wanted_text);
}

tr_status tr_infer_same(const tr_graph *graph, const tr_node *node, int i, const char *name, int as,
                        tr_error *err)
{
    return tr_infer_shaped(graph, node, i, name, tr_input_dtype(graph, node, as),
                           tr_input_shape(graph, node, as), err);
}

tr_status tr_infer_norm_backward(const tr_graph *graph, const tr_node *node, int rstd, tr_value_info *outputs,
                                 int *n_outputs, tr_error *err)
{
    const tr_shape rows = tr_shape_without_last(*tr_input_shape(graph, node, 1));
    tr_status status = tr_infer_same(graph, node, 0, "dy", 1, err);
    if (status == TR_OK) status = tr_infer_shaped(graph, node, rstd, "rstd", TR_F32, &rows, err);
    if (status == TR_OK && node->inputs[rstd + 1] != TR_NO_VALUE)
        status = tr_infer_same(graph, node, rstd + 1, "pending", 1, err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, 1);
    *n_outputs = 1;
    return TR_OK;
}

tr_status tr_infer_norm_weight(const tr_graph *graph, const tr_node *node, int n, tr_value_info *outputs,
                               int *n_outputs, tr_error *err)
{
    tr_status status = tr_infer_same(graph, node, 0, "dy", 1, err);
    if (status != TR_OK) return status;
    const tr_shape shape = TR_SHAPE1(tr_shape_last(tr_input_shape(graph, node, 1)));
    for (int i = 0; i < n; i++) outputs[i] = (tr_value_info){.dtype = TR_F32, .shape = shape};
    *n_outputs = n;
    return TR_OK;
}

tr_status tr_infer_position(const tr_graph *graph, const tr_node *node, int i, tr_error *err)
{
    if (node->inputs[i] == TR_NO_VALUE) return TR_OK;
    return tr_infer_shaped(graph, node, i, "position", TR_I32, &TR_SHAPE1(1), err);
}
