/* ops/activate.c - y = f(x), elementwise.    x, y (...) bf16|f32; y overwrites and may be x.
 * The backward reads x again instead of keeping the slope: recomputing an exponential is cheaper than the
 * memory.
 * Sources: Hendrycks and Gimpel, 2016 (GELU and its tanh form); Elfwing et al., 2017 (SiLU).
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/activate.h"
#include "ops/attributes.h"
#include "ops/cpu/activation.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <math.h>

static const double root_2_over_pi = 0.79788456080286535588;

double tr_activation_value_reference(double x, tr_activation kind)
{
    switch (kind) {
    case TR_GELU_TANH: return 0.5 * x * (1 + tanh(root_2_over_pi * (x + 0.044715 * x * x * x)));
    case TR_GELU_ERF: return 0.5 * x * erfc(-x / sqrt(2));
    case TR_SILU: return x / (1 + exp(-x));
    case TR_RELU: return x > 0 ? x : 0;
    }
    return NAN;
}

double tr_activation_slope_reference(double x, tr_activation kind)
{
    double t, s;
    switch (kind) {
    case TR_GELU_TANH:
        t = tanh(root_2_over_pi * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root_2_over_pi * (1 + 3 * 0.044715 * x * x);
    case TR_GELU_ERF: return 0.5 * erfc(-x / sqrt(2)) + x * exp(-x * x / 2) * root_2_over_pi / 2;
    case TR_SILU: s = 1 / (1 + exp(-x)); return s * (1 + x * (1 - s));
    case TR_RELU: return x > 0;
    }
    return NAN;
}

void tr_activate_reference(const float *x, float *y, int64_t n, tr_activation kind)
{
    for (int64_t i = 0; i < n; i++) y[i] = (float)tr_activation_value_reference(x[i], kind);
}

void tr_activate_backward_reference(const float *dy, const float *x, float *dx, int64_t n, tr_activation kind)
{
    for (int64_t i = 0; i < n; i++) dx[i] = (float)(dy[i] * tr_activation_slope_reference(x[i], kind));
}

static tr_activation kind_of(const tr_node *node)
{
    return ((const activate_attributes *)tr_node_attributes(node))->kind;
}

static tr_status check_kind(const tr_node *node, tr_error *err)
{
    if ((unsigned)kind_of(node) <= TR_RELU) return TR_OK;
    return tr_fail(err, TR_EINVAL, "%s: there is no activation '%d'", node->op->name, (int)kind_of(node));
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "x", err);
    if (status == TR_OK) status = check_kind(node, err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, 0);
    *n_outputs = 1;
    return TR_OK;
}

static tr_status infer_backward(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 1, "x", err);
    if (status == TR_OK) status = tr_infer_same(graph, node, 0, "dy", 1, err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, 1);
    *n_outputs = 1;
    return TR_OK;
}

/* About what an exponential and the arithmetic around it take; only for shares of time. */
static double flops(const tr_graph *graph, const tr_node *node)
{
    return 20.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void run_cpu(const tr_call *call)
{
    int64_t n = tr_shape_elements(tr_input_shape(call->graph, call->node, 0));
    tr_cpu_activate(call->inputs[0], call->outputs[0], n, kind_of(call->node),
                    tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static void run_backward_cpu(const tr_call *call)
{
    int64_t n = tr_shape_elements(tr_input_shape(call->graph, call->node, 0));
    tr_cpu_activate_backward(call->inputs[0], call->inputs[1], call->outputs[0], n, kind_of(call->node),
                             tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op activate_backward_op = {
    .name = "activate_backward",
    .infer = infer_backward,
    .flops = flops,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = run_backward_cpu},
};

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    if (!wanted[0]) return;
    tr_value dx =
        tr_graph_add1(graph, &activate_backward_op, (tr_value[]){output_gradients[0], node->inputs[0]}, 2,
                      tr_node_attributes(node), sizeof(activate_attributes));
    input_gradients[0] = tr_gradient_add(graph, input_gradients[0], dx);
}

static const tr_op activate_op = {
    .name = "activate",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .alias_input = 0,
    .is_light = true,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

tr_value tr_activate(tr_graph *g, tr_value x, tr_activation kind)
{
    activate_attributes attributes = {.kind = kind};
    return tr_graph_add1(g, &activate_op, &x, 1, &attributes, sizeof attributes);
}
