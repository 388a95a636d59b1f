/* ops/split.c - cuts the last dimension.    x (...,C), parts[i] (...,widths[i]) bf16|f32, copies; the widths
 * sum to C. Its backward is a join, with zeros for parts that no gradient flows to.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/split.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

static const split_attributes *attributes_of(const tr_node *node)
{
    return tr_node_attributes(node);
}

static tr_shape with_last(tr_shape shape, int64_t last)
{
    shape.dims[shape.rank - 1] = last;
    return shape;
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "x", err);
    if (status != TR_OK) return status;
    const split_attributes *attributes = attributes_of(node);
    const tr_shape *x = tr_input_shape(graph, node, 0);
    if (x->rank < 1) return tr_fail(err, TR_EINVAL, "split: 'x' has no dimension to cut");
    int64_t sum = 0;
    for (int i = 0; i < attributes->n; i++) {
        if (attributes->widths[i] < 1)
            return tr_fail(err, TR_EINVAL, "split: width '%lld' of part %d is below 1",
                           (long long)attributes->widths[i], i);
        sum += attributes->widths[i];
        outputs[i] = (tr_value_info){.dtype = tr_input_dtype(graph, node, 0),
                                     .shape = with_last(*x, attributes->widths[i])};
    }
    if (sum != tr_shape_last(x))
        return tr_fail(err, TR_EINVAL, "split: the widths sum to %lld; the last dimension of 'x' is %lld",
                       (long long)sum, (long long)tr_shape_last(x));
    *n_outputs = attributes->n;
    return TR_OK;
}

static tr_status infer_join(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                            int *n_outputs, tr_error *err)
{
    const split_attributes *attributes = attributes_of(node);
    int64_t sum = 0;
    tr_dtype dtype = TR_F32;
    const tr_shape *any = NULL;
    for (int i = 0; i < node->n_inputs; i++) {
        sum += attributes->widths[i];
        if (node->inputs[i] == TR_NO_VALUE) continue;
        if (!any) dtype = tr_input_dtype(graph, node, i);
        any = tr_input_shape(graph, node, i);
        tr_shape part = with_last(*any, attributes->widths[i]);
        tr_status status = tr_infer_shaped(graph, node, i, "part", dtype, &part, err);
        if (status != TR_OK) return status;
    }
    if (!any) return tr_fail(err, TR_EINVAL, "join: all parts are missing");
    outputs[0] = (tr_value_info){.dtype = dtype, .shape = with_last(*any, sum)};
    *n_outputs = 1;
    return TR_OK;
}

static void run_cpu(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 0);
    tr_cpu_split(call->inputs[0], call->outputs, attributes_of(call->node)->widths,
                 attributes_of(call->node)->n, tr_shape_rows(x), tr_input_dtype(call->graph, call->node, 0),
                 call->pool);
}

static void run_join_cpu(const tr_call *call)
{
    const tr_shape *x = &tr_graph_value(call->graph, call->node->outputs[0])->shape;
    tr_dtype dtype = tr_graph_value(call->graph, call->node->outputs[0])->dtype;
    tr_cpu_join((const void *const *)call->inputs, call->outputs[0], attributes_of(call->node)->widths,
                attributes_of(call->node)->n, tr_shape_rows(x), dtype, call->pool);
}

static const tr_op join_op = {
    .name = "join",
    .infer = infer_join,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run_join_cpu},
};

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    if (!wanted[0]) return;
    tr_value dx = tr_graph_add1(graph, &join_op, output_gradients, attributes_of(node)->n,
                                attributes_of(node), sizeof(split_attributes));
    input_gradients[0] = tr_gradient_add(graph, input_gradients[0], dx);
}

static const tr_op split_op = {
    .name = "split",
    .infer = infer,
    .gradient = gradient,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

void tr_split(tr_graph *g, tr_value x, const int64_t *widths, int n, tr_value *parts)
{
    split_attributes attributes = {.n = n};
    for (int i = 0; i < n; i++) parts[i] = TR_NO_VALUE;
    if (n < 1 || n > TR_MAX_OUTPUTS) {
        tr_graph_set_error(g, TR_EINVAL, "split: '%d' parts; there can be 1 to %d", n, TR_MAX_OUTPUTS);
        return;
    }
    for (int i = 0; i < n; i++) attributes.widths[i] = widths[i];
    int32_t node = tr_graph_add(g, &split_op, &x, 1, &attributes, sizeof attributes, NULL, 0);
    for (int i = 0; node >= 0 && i < n; i++) parts[i] = tr_graph_node(g, node)->outputs[i];
}
