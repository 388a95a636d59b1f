/* ops/cross_entropy.c - the loss of predicting tokens, summed over rows in double.
 * The second output, the log-sum-exp of each row, is kept for the backward, which writes over the logits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/cross_entropy.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <math.h>

double tr_cross_entropy_reference(const float *logits, const int32_t *targets, float *lse, int64_t rows,
                                  int64_t vocabulary)
{
    double loss = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * vocabulary;
        double most = -INFINITY, sum = 0;
        for (int64_t i = 0; i < vocabulary; i++) most = fmax(most, (double)x[i]);
        for (int64_t i = 0; i < vocabulary; i++) sum += exp((double)x[i] - most);
        lse[r] = (float)(most + log(sum));
        if (targets[r] >= 0) loss += most + log(sum) - (double)x[targets[r]];
    }
    return loss;
}

void tr_cross_entropy_backward_reference(const float *logits, const int32_t *targets, float factor,
                                         float *dlogits, int64_t rows, int64_t vocabulary)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * vocabulary;
        double most = -INFINITY, sum = 0;
        for (int64_t i = 0; i < vocabulary; i++) most = fmax(most, (double)x[i]);
        for (int64_t i = 0; i < vocabulary; i++) sum += exp((double)x[i] - most);
        for (int64_t i = 0; i < vocabulary; i++) {
            double p = exp((double)x[i] - most) / sum - (i == targets[r] ? 1.0 : 0.0);
            dlogits[r * vocabulary + i] = targets[r] < 0 ? 0.0f : (float)((double)factor * p);
        }
    }
}

/* dlogits.   inputs: logits (...,V), targets (...), lse (...), factor (1). */
static tr_status backward_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    tr_status status = tr_infer_input(graph, node, 3, "factor", TR_F32, err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, 0);
    *n_outputs = 1;
    return TR_OK;
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return 4.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void backward_run(const tr_call *call)
{
    const tr_shape *logits = tr_input_shape(call->graph, call->node, 0);
    tr_cpu_cross_entropy_backward(
        call->inputs[0], call->inputs[1], call->inputs[2], *(const float *)call->inputs[3], call->outputs[0],
        tr_shape_rows(logits), tr_shape_last(logits), tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op backward_op = {
    .name = "cross_entropy_backward",
    .infer = backward_infer,
    .flops = flops,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = backward_run},
};

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "logits", err);
    if (status != TR_OK) return status;
    tr_shape rows = tr_shape_without_last(*tr_input_shape(graph, node, 0));
    status = tr_infer_shaped(graph, node, 1, "targets", TR_I32, &rows, err);
    if (status != TR_OK) return status;
    outputs[0] = (tr_value_info){.dtype = TR_F64, .shape = TR_SHAPE1(1)};
    outputs[1] = (tr_value_info){.dtype = TR_F32, .shape = rows};
    *n_outputs = 2;
    return TR_OK;
}

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    if (!wanted[0] || output_gradients[0] == TR_NO_VALUE) return;
    tr_value inputs[] = {node->inputs[0], node->inputs[1], node->outputs[1], output_gradients[0]};
    tr_value dlogits = tr_graph_add1(graph, &backward_op, inputs, 4, NULL, 0);
    input_gradients[0] = tr_gradient_add(graph, input_gradients[0], dlogits);
}

static size_t workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    (void)n_threads;
    return (size_t)tr_shape_elements(tr_input_shape(graph, node, 1)) * sizeof(double);
}

static void run(const tr_call *call)
{
    const tr_shape *logits = tr_input_shape(call->graph, call->node, 0);
    tr_cpu_cross_entropy(call->inputs[0], call->inputs[1], call->outputs[0], call->outputs[1],
                         call->workspace, tr_shape_rows(logits), tr_shape_last(logits),
                         tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op cross_entropy_op = {
    .name = "cross_entropy",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .workspace = workspace,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run},
};

tr_value tr_cross_entropy(tr_graph *g, tr_value logits, tr_value targets)
{
    return tr_graph_add1(g, &cross_entropy_op, (tr_value[]){logits, targets}, 2, NULL, 0);
}
