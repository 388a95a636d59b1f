/* ops/layernorm.c - y = (x - mean) * rstd * w + b.    x, y (...,C) bf16|f32; w, b (C); mean, rstd (...) f32, kept for
 * the backward. y may be x. dx overwrites and takes what is pending for x with it; dw, db are added to.
 * Source: Ba et al., 2016.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/layernorm.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <math.h>

void tr_layernorm_reference(const float *x, const float *w, const float *b, float *y, float *mean,
                            float *rstd, int64_t rows, int64_t columns, float eps)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * columns;
        double sum = 0, squares = 0;
        for (int64_t c = 0; c < columns; c++) sum += row[c];
        double m = sum / (double)columns;
        for (int64_t c = 0; c < columns; c++) squares += (row[c] - m) * (row[c] - m);
        double scale = 1 / sqrt(squares / (double)columns + eps);
        for (int64_t c = 0; c < columns; c++)
            y[r * columns + c] = (float)((row[c] - m) * scale * w[c] + b[c]);
        mean[r] = (float)m;
        rstd[r] = (float)scale;
    }
}

void tr_layernorm_backward_reference(const float *dy, const float *x, const float *w, const float *mean,
                                     const float *rstd, const float *pending, float *dx, int64_t rows,
                                     int64_t columns)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, sum_xhat = 0;
        for (int64_t c = 0; c < columns; c++) {
            double g = (double)dy[r * columns + c] * w[c];
            sum += g;
            sum_xhat += g * ((double)x[r * columns + c] - mean[r]) * rstd[r];
        }
        for (int64_t c = 0; c < columns; c++) {
            int64_t i = r * columns + c;
            double xhat = ((double)x[i] - mean[r]) * rstd[r];
            double d = rstd[r] * ((double)dy[i] * w[c] - (sum + xhat * sum_xhat) / (double)columns);
            dx[i] = (float)((pending ? pending[i] : 0.0) + d);
        }
    }
}

void tr_layernorm_weight_reference(const float *dy, const float *x, const float *mean, const float *rstd,
                                   float *dw, float *db, int64_t rows, int64_t columns)
{
    for (int64_t c = 0; c < columns; c++) {
        double sum_w = 0, sum_b = 0;
        for (int64_t r = 0; r < rows; r++) {
            int64_t i = r * columns + c;
            sum_w += dy[i] * ((double)x[i] - mean[r]) * rstd[r];
            sum_b += dy[i];
        }
        dw[c] = (float)(dw[c] + sum_w);
        db[c] = (float)(db[c] + sum_b);
    }
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "x", err);
    if (status != TR_OK) return status;
    const tr_shape *x = tr_input_shape(graph, node, 0), w = TR_SHAPE1(tr_shape_last(x));
    status = tr_infer_shaped(graph, node, 1, "w", TR_F32, &w, err);
    if (status == TR_OK) status = tr_infer_shaped(graph, node, 2, "b", TR_F32, &w, err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[1] = outputs[2] = (tr_value_info){.dtype = TR_F32, .shape = tr_shape_without_last(*x)};
    *n_outputs = 3;
    return TR_OK;
}

/* Inputs dy, x, w, mean, rstd, and pending or nothing. */
static tr_status infer_backward(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    return tr_infer_norm_backward(graph, node, 4, outputs, n_outputs, err);
}

/* Inputs dy, x, mean, rstd. */
static tr_status infer_weight(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                              int *n_outputs, tr_error *err)
{
    return tr_infer_norm_weight(graph, node, 2, outputs, n_outputs, err);
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return 7.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void run_cpu(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 0);
    const layernorm_attributes *attributes = tr_node_attributes(call->node);
    tr_cpu_layernorm(call->inputs[0], call->inputs[1], call->inputs[2], call->outputs[0], call->outputs[1],
                     call->outputs[2], tr_shape_rows(x), tr_shape_last(x), attributes->eps,
                     tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static void run_backward_cpu(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 1);
    tr_cpu_layernorm_backward(call->inputs[0], call->inputs[1], call->inputs[2], call->inputs[3],
                              call->inputs[4], call->inputs[5], call->outputs[0], tr_shape_rows(x),
                              tr_shape_last(x), tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static void run_weight_cpu(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 1);
    tr_cpu_layernorm_weight(call->inputs[0], call->inputs[1], call->inputs[2], call->inputs[3],
                            call->outputs[0], call->outputs[1], tr_shape_rows(x), tr_shape_last(x),
                            tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op layernorm_backward_op = {
    .name = "layernorm_backward",
    .infer = infer_backward,
    .flops = flops,
    .alias_input = 5,
    .run = {[TR_DEVICE_CPU] = run_backward_cpu},
};

static const tr_op layernorm_weight_op = {
    .name = "layernorm_weight",
    .infer = infer_weight,
    .flops = flops,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run_weight_cpu},
};

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    tr_value dy = output_gradients[0], x = node->inputs[0], w = node->inputs[1];
    tr_value mean = node->outputs[1], rstd = node->outputs[2];
    if (wanted[0])
        input_gradients[0] =
            tr_graph_add1(graph, &layernorm_backward_op,
                          (tr_value[]){dy, x, w, mean, rstd, input_gradients[0]}, 6, NULL, 0);
    if (wanted[1] || wanted[2]) {
        tr_value weights[2] = {TR_NO_VALUE, TR_NO_VALUE};
        for (int i = 0; i < 2; i++)
            if (wanted[1 + i]) weights[i] = tr_graph_gradient(graph, node->inputs[1 + i], node->use);
        tr_graph_set_phase(graph, TR_PHASE_WEIGHT);
        tr_graph_add(graph, &layernorm_weight_op, (tr_value[]){dy, x, mean, rstd}, 4, NULL, 0, weights, 2);
        tr_graph_set_phase(graph, TR_PHASE_BACKWARD);
    }
}

static const tr_op layernorm_op = {
    .name = "layernorm",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .alias_input = 0,
    .is_light = true,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

tr_value tr_layernorm(tr_graph *g, tr_value x, tr_value w, tr_value b, float eps)
{
    layernorm_attributes attributes = {.eps = eps};
    return tr_graph_add1(g, &layernorm_op, (tr_value[]){x, w, b}, 3, &attributes, sizeof attributes);
}
