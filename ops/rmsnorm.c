/* ops/rmsnorm.c - y = x * rstd * w, rstd = 1/sqrt(mean(x^2) + eps).    x, y (...,C) bf16|f32; w (C); rstd (...) f32,
 * kept for the backward. y may be x. dx overwrites and takes what is pending for x with it; dw is added to.
 * Source: Zhang and Sennrich, 2019.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rmsnorm.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <math.h>

void tr_rmsnorm_reference(const float *x, const float *w, float *y, float *rstd, int64_t rows,
                          int64_t columns, float eps)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * columns;
        double sum = 0;
        for (int64_t c = 0; c < columns; c++) sum += (double)row[c] * row[c];
        double scale = 1 / sqrt(sum / (double)columns + eps);
        for (int64_t c = 0; c < columns; c++) y[r * columns + c] = (float)(row[c] * scale * w[c]);
        rstd[r] = (float)scale;
    }
}

void tr_rmsnorm_backward_reference(const float *dy, const float *x, const float *w, const float *rstd,
                                   const float *pending, float *dx, int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, scale = rstd[r];
        for (int64_t c = 0; c < columns; c++)
            sum += (double)dy[r * columns + c] * w[c] * x[r * columns + c] * scale;
        for (int64_t c = 0; c < columns; c++) {
            int64_t i = r * columns + c;
            double d = scale * ((double)dy[i] * w[c] - x[i] * scale * sum / (double)columns);
            dx[i] = (float)((pending ? pending[i] : 0.0) + d);
        }
    }
}

void tr_rmsnorm_weight_reference(const float *dy, const float *x, const float *rstd, float *dw, int64_t rows,
                                 int64_t columns)
{
    for (int64_t c = 0; c < columns; c++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++) sum += (double)dy[r * columns + c] * x[r * columns + c] * rstd[r];
        dw[c] = (float)(dw[c] + sum);
    }
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "x", err);
    if (status != TR_OK) return status;
    const tr_shape *x = tr_input_shape(graph, node, 0), w = TR_SHAPE1(tr_shape_last(x));
    status = tr_infer_shaped(graph, node, 1, "w", TR_F32, &w, err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[1] = (tr_value_info){.dtype = TR_F32, .shape = tr_shape_without_last(*x)};
    *n_outputs = 2;
    return TR_OK;
}

/* Inputs dy, x, w, rstd, and pending or nothing. */
static tr_status infer_backward(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    return tr_infer_norm_backward(graph, node, 3, outputs, n_outputs, err);
}

/* Inputs dy, x, rstd. */
static tr_status infer_weight(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                              int *n_outputs, tr_error *err)
{
    return tr_infer_norm_weight(graph, node, 1, outputs, n_outputs, err);
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return 4.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void run_cpu(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 0);
    const rmsnorm_attributes *attributes = tr_node_attributes(call->node);
    tr_cpu_rmsnorm(call->inputs[0], call->inputs[1], call->outputs[0], call->outputs[1], tr_shape_rows(x),
                   tr_shape_last(x), attributes->eps, tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static void run_backward_cpu(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 1);
    tr_cpu_rmsnorm_backward(call->inputs[0], call->inputs[1], call->inputs[2], call->inputs[3],
                            call->inputs[4], call->outputs[0], tr_shape_rows(x), tr_shape_last(x),
                            tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static void run_weight_cpu(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 1);
    tr_cpu_rmsnorm_weight(call->inputs[0], call->inputs[1], call->inputs[2], call->outputs[0],
                          tr_shape_rows(x), tr_shape_last(x), tr_input_dtype(call->graph, call->node, 0),
                          call->pool);
}

static const tr_op rmsnorm_backward_op = {
    .name = "rmsnorm_backward",
    .infer = infer_backward,
    .flops = flops,
    .alias_input = 4,
    .run = {[TR_DEVICE_CPU] = run_backward_cpu},
};

static const tr_op rmsnorm_weight_op = {
    .name = "rmsnorm_weight",
    .infer = infer_weight,
    .flops = flops,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run_weight_cpu},
};

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    tr_value dy = output_gradients[0], x = node->inputs[0], w = node->inputs[1], rstd = node->outputs[1];
    if (wanted[0])
        input_gradients[0] = tr_graph_add1(graph, &rmsnorm_backward_op,
                                           (tr_value[]){dy, x, w, rstd, input_gradients[0]}, 5, NULL, 0);
    if (wanted[1]) {
        tr_value dw = tr_graph_gradient(graph, w, node->use);
        tr_graph_set_phase(graph, TR_PHASE_WEIGHT);
        tr_graph_add(graph, &rmsnorm_weight_op, (tr_value[]){dy, x, rstd}, 3, NULL, 0, &dw, 1);
        tr_graph_set_phase(graph, TR_PHASE_BACKWARD);
    }
}

static const tr_op rmsnorm_op = {
    .name = "rmsnorm",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .alias_input = 0,
    .is_light = true,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

tr_value tr_rmsnorm(tr_graph *g, tr_value x, tr_value w, float eps)
{
    rmsnorm_attributes attributes = {.eps = eps};
    return tr_graph_add1(g, &rmsnorm_op, (tr_value[]){x, w}, 2, &attributes, sizeof attributes);
}
