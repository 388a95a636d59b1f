/* ops/gated.c - y = f(gate) * up, elementwise.    gate, up, y (...) bf16|f32; y overwrites and may be gate.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/gated.h"
#include "ops/attributes.h"
#include "ops/cpu/activation.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

void tr_gated_reference(const float *gate, const float *up, float *y, int64_t n, tr_activation kind)
{
    for (int64_t i = 0; i < n; i++) y[i] = (float)(tr_activation_value_reference(gate[i], kind) * up[i]);
}

void tr_gated_backward_reference(const float *dy, const float *gate, const float *up, float *dgate,
                                 float *dup, int64_t n, tr_activation kind)
{
    for (int64_t i = 0; i < n; i++) {
        double d = dy[i];
        dgate[i] = (float)(d * up[i] * tr_activation_slope_reference(gate[i], kind));
        dup[i] = (float)(d * tr_activation_value_reference(gate[i], kind));
    }
}

static tr_activation kind_of(const tr_node *node)
{
    return ((const gated_attributes *)tr_node_attributes(node))->kind;
}

/* Forward (gate, up) and backward (dy, gate, up): equal shapes, one output or two. */
static tr_status infer_equal(const tr_graph *graph, const tr_node *node, const char *const *names,
                             int n_names, tr_value_info *outputs, tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, names[0], err);
    for (int i = 1; status == TR_OK && i < n_names; i++)
        status = tr_infer_same(graph, node, i, names[i], 0, err);
    if (status != TR_OK) return status;
    if ((unsigned)kind_of(node) > TR_RELU)
        return tr_fail(err, TR_EINVAL, "%s: there is no activation '%d'", node->op->name, (int)kind_of(node));
    outputs[0] = outputs[1] = tr_infer_like(graph, node, 0);
    return TR_OK;
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    *n_outputs = 1;
    return infer_equal(graph, node, (const char *const[]){"gate", "up"}, 2, outputs, err);
}

static tr_status infer_backward(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    *n_outputs = 2;
    return infer_equal(graph, node, (const char *const[]){"dy", "gate", "up"}, 3, outputs, err);
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return 20.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void run_cpu(const tr_call *call)
{
    int64_t n = tr_shape_elements(tr_input_shape(call->graph, call->node, 0));
    tr_cpu_gated(call->inputs[0], call->inputs[1], call->outputs[0], n, kind_of(call->node),
                 tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static void run_backward_cpu(const tr_call *call)
{
    int64_t n = tr_shape_elements(tr_input_shape(call->graph, call->node, 0));
    tr_cpu_gated_backward(call->inputs[0], call->inputs[1], call->inputs[2], call->outputs[0],
                          call->outputs[1], n, kind_of(call->node),
                          tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op gated_backward_op = {
    .name = "gated_backward",
    .infer = infer_backward,
    .flops = flops,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = run_backward_cpu},
};

/* Both are computed even where only one is wanted: a gate without a gradient
 * for its partner is not worth a case. */
static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    int32_t backward = tr_graph_add(graph, &gated_backward_op,
                                    (tr_value[]){output_gradients[0], node->inputs[0], node->inputs[1]}, 3,
                                    tr_node_attributes(node), sizeof(gated_attributes), NULL, 0);
    if (backward < 0) return;
    const tr_value *outputs = tr_graph_node(graph, backward)->outputs;
    for (int i = 0; i < 2; i++)
        if (wanted[i]) input_gradients[i] = tr_gradient_add(graph, input_gradients[i], outputs[i]);
}

static const tr_op gated_op = {
    .name = "gated",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .alias_input = 0,
    .is_light = true,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

tr_value tr_gated(tr_graph *g, tr_value gate, tr_value up, tr_activation kind)
{
    gated_attributes attributes = {.kind = kind};
    return tr_graph_add1(g, &gated_op, (tr_value[]){gate, up}, 2, &attributes, sizeof attributes);
}
