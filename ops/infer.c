/* ops/infer.c - checks that shape inference functions share.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/infer.h"

#include "ops/op.h"

tr_status tr_infer_input(const tr_graph *graph, const tr_node *node, int i, const char *name, tr_dtype dtype,
                         tr_error *err)
{
    const char *op = node->op->name;
    if (i >= node->n_inputs || node->inputs[i] == TR_NO_VALUE)
        return tr_fail(err, TR_EINVAL, "%s: '%s' is missing", op, name);
    const tr_value_info *value = tr_graph_value(graph, node->inputs[i]);
    if (value->dtype != dtype)
        return tr_fail(err, TR_EINVAL, "%s: '%s' is %s; it must be %s", op, name, tr_dtype_name(value->dtype),
                       tr_dtype_name(dtype));
    return TR_OK;
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
