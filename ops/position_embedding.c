/* ops/position_embedding.c - y[b,t,:] = x[b,t,:] + table[position + t,:].
 * x, y (B,T,C), table (max_T,C) bf16|f32; position (1) i32 or absent for 0. y overwrites and may be x; dtable is
 * added to. The gradient of x is that of y.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/position_embedding.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

void tr_position_embedding_reference(const float *x, const float *table, float *y, int64_t b, int64_t t,
                                     int64_t c, int64_t position)
{
    for (int64_t i = 0; i < b * t * c; i++) y[i] = x[i] + table[(position + i / c % t) * c + i % c];
}

void tr_position_embedding_weight_reference(const float *dy, float *dtable, int64_t b, int64_t t, int64_t c,
                                            int64_t position)
{
    for (int64_t i = 0; i < t * c; i++) {
        double sum = 0;
        for (int64_t k = 0; k < b; k++) sum += dy[k * t * c + i];
        dtable[position * c + i] = (float)(dtable[position * c + i] + sum);
    }
}

static tr_status check_position(const tr_graph *graph, const tr_node *node, int i, int64_t t, int64_t max_t,
                                tr_error *err)
{
    if (t > max_t)
        return tr_fail(err, TR_EINVAL, "%s: %lld positions; the table has %lld", node->op->name, (long long)t,
                       (long long)max_t);
    return tr_infer_position(graph, node, i, err);
}

/* Inputs x, table, position or nothing. */
static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "x", err);
    if (status == TR_OK)
        status = tr_infer_input(graph, node, 1, "table", tr_input_dtype(graph, node, 0), err);
    if (status != TR_OK) return status;
    const tr_shape *x = tr_input_shape(graph, node, 0), *table = tr_input_shape(graph, node, 1);
    if (x->rank != 3 || table->rank != 2 || table->dims[1] != x->dims[2]) {
        char x_text[80], table_text[80];
        tr_shape_text(x, x_text);
        tr_shape_text(table, table_text);
        return tr_fail(err, TR_EINVAL,
                       "position_embedding: 'x' %s and 'table' %s must be (B,T,C) and (max_T,C)", x_text,
                       table_text);
    }
    outputs[0] = tr_infer_like(graph, node, 0);
    *n_outputs = 1;
    return check_position(graph, node, 2, x->dims[1], table->dims[0], err);
}

/* Inputs dy, position or nothing. */
static tr_status infer_weight(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                              int *n_outputs, tr_error *err)
{
    tr_status status = tr_infer_activation(graph, node, 0, "dy", err);
    if (status != TR_OK) return status;
    const tr_shape *dy = tr_input_shape(graph, node, 0);
    int64_t max_t = ((const position_attributes *)tr_node_attributes(node))->max_t;
    outputs[0] = (tr_value_info){.dtype = TR_F32, .shape = TR_SHAPE2(max_t, dy->dims[2])};
    *n_outputs = 1;
    return check_position(graph, node, 1, dy->dims[1], max_t, err);
}

/* A position outside of the table is a bug of the caller, who knows how far a sequence has come. */
static int64_t position_of(const void *position, int64_t t, int64_t max_t)
{
    int64_t first = position ? *(const int32_t *)position : 0;
    TR_ASSERT(first >= 0 && first + t <= max_t);
    return first;
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void run_cpu(const tr_call *call)
{
    const int64_t *d = tr_input_shape(call->graph, call->node, 0)->dims;
    int64_t position =
        position_of(call->inputs[2], d[1], tr_input_shape(call->graph, call->node, 1)->dims[0]);
    tr_cpu_position_embedding(call->inputs[0], call->inputs[1], call->outputs[0], d[0], d[1], d[2], position,
                              tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static void run_weight_cpu(const tr_call *call)
{
    const int64_t *d = tr_input_shape(call->graph, call->node, 0)->dims;
    int64_t max_t = ((const position_attributes *)tr_node_attributes(call->node))->max_t;
    tr_cpu_position_embedding_weight(call->inputs[0], call->outputs[0], d[0], d[1], d[2],
                                     position_of(call->inputs[1], d[1], max_t),
                                     tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op position_embedding_weight_op = {
    .name = "position_embedding_weight",
    .infer = infer_weight,
    .flops = flops,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run_weight_cpu},
};

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    if (wanted[0]) input_gradients[0] = tr_gradient_add(graph, input_gradients[0], output_gradients[0]);
    if (!wanted[1]) return;
    position_attributes attributes = {.max_t = tr_input_shape(graph, node, 1)->dims[0]};
    tr_value dtable = tr_graph_gradient(graph, node->inputs[1], node->use);
    tr_graph_set_phase(graph, TR_PHASE_WEIGHT);
    tr_graph_add(graph, &position_embedding_weight_op, (tr_value[]){output_gradients[0], node->inputs[2]}, 2,
                 &attributes, sizeof attributes, &dtable, 1);
    tr_graph_set_phase(graph, TR_PHASE_BACKWARD);
}

static const tr_op position_embedding_op = {
    .name = "position_embedding",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

tr_value tr_position_embedding(tr_graph *g, tr_value x, tr_value table, tr_value position)
{
    return tr_graph_add1(g, &position_embedding_op, (tr_value[]){x, table, position}, 3, NULL, 0);
}
