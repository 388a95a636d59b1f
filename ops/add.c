/* ops/add.c - y = a + b.    a, b, y (...) bf16|f32; y overwrites and may be a.
 * The backward needs no node: both inputs have the gradient of y.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/add.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

void tr_add_reference(const float *a, const float *b, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "a", err);
    if (status == TR_OK) status = tr_infer_same(graph, node, 1, "b", 0, err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, 0);
    *n_outputs = 1;
    return TR_OK;
}

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    (void)node;
    for (int i = 0; i < 2; i++)
        if (wanted[i]) input_gradients[i] = tr_gradient_add(graph, input_gradients[i], output_gradients[0]);
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void run_cpu(const tr_call *call)
{
    int64_t n = tr_shape_elements(tr_input_shape(call->graph, call->node, 0));
    tr_cpu_add(call->inputs[0], call->inputs[1], call->outputs[0], n,
               tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op add_op = {
    .name = "add",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

tr_value tr_add(tr_graph *g, tr_value a, tr_value b)
{
    return tr_graph_add1(g, &add_op, (tr_value[]){a, b}, 2, NULL, 0);
}
