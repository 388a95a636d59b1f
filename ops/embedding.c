/* ops/embedding.c - y[b,t,:] = table[ids[b,t],:].   ids (...) i32, table (V,C), y (...,C) bf16|f32.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/embedding.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

void tr_embedding_reference(const int32_t *ids, const float *table, float *y, int64_t rows, int64_t channels)
{
    for (int64_t m = 0; m < rows; m++)
        for (int64_t c = 0; c < channels; c++) y[m * channels + c] = table[ids[m] * channels + c];
}

void tr_embedding_dtable_reference(const int32_t *ids, const float *dy, float *dtable, int64_t rows,
                                   int64_t channels)
{
    for (int64_t m = 0; m < rows; m++)
        for (int64_t c = 0; c < channels; c++) dtable[ids[m] * channels + c] += dy[m * channels + c];
}

/* dtable += rows of dy.   inputs: ids (...), dy (...,C). */
static tr_status dtable_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                              int *n_outputs, tr_error *err)
{
    (void)err;
    const dtable_attributes *attributes = tr_node_attributes(node);
    int64_t channels = tr_shape_last(tr_input_shape(graph, node, 1));
    outputs[0] = (tr_value_info){.dtype = TR_F32, .shape = TR_SHAPE2(attributes->vocabulary, channels)};
    *n_outputs = 1;
    return TR_OK;
}

static void dtable_run(const tr_call *call)
{
    const tr_shape *dy = tr_input_shape(call->graph, call->node, 1);
    tr_cpu_embedding_dtable(call->inputs[0], call->inputs[1], call->outputs[0], tr_shape_rows(dy),
                            tr_shape_last(dy), tr_input_dtype(call->graph, call->node, 1), call->pool);
}

static const tr_op dtable_op = {
    .name = "embedding_dtable",
    .infer = dtable_infer,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = dtable_run},
};

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    tr_status status = tr_infer_input(graph, node, 0, "ids", TR_I32, err);
    if (status == TR_OK) status = tr_infer_activation(graph, node, 1, "table", err);
    if (status != TR_OK) return status;
    const tr_shape *ids = tr_input_shape(graph, node, 0), *table = tr_input_shape(graph, node, 1);
    if (table->rank != 2 || ids->rank >= TR_MAX_RANK)
        return tr_fail(err, TR_EINVAL,
                       "embedding: ids of rank %d and a table of rank %d; the table must have rank 2",
                       ids->rank, table->rank);
    outputs[0] = (tr_value_info){.dtype = tr_input_dtype(graph, node, 1), .shape = *ids};
    outputs[0].shape.dims[outputs[0].shape.rank++] = table->dims[1];
    *n_outputs = 1;
    return TR_OK;
}

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    (void)input_gradients;
    if (!wanted[1] || output_gradients[0] == TR_NO_VALUE) return;
    dtable_attributes attributes = {.vocabulary = tr_input_shape(graph, node, 1)->dims[0]};
    tr_value inputs[] = {node->inputs[0], output_gradients[0]};
    tr_value dtable = tr_graph_gradient(graph, node->inputs[1], node->use);
    tr_graph_set_phase(graph, TR_PHASE_WEIGHT);
    tr_graph_add(graph, &dtable_op, inputs, 2, &attributes, sizeof attributes, &dtable, 1);
    tr_graph_set_phase(graph, TR_PHASE_BACKWARD);
}

static void run(const tr_call *call)
{
    const tr_shape *table = tr_input_shape(call->graph, call->node, 1);
    tr_cpu_embedding(call->inputs[0], call->inputs[1], call->outputs[0],
                     tr_shape_elements(tr_input_shape(call->graph, call->node, 0)), table->dims[1],
                     tr_input_dtype(call->graph, call->node, 1), call->pool);
}

static const tr_op embedding_op = {
    .name = "embedding",
    .infer = infer,
    .gradient = gradient,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run},
};

tr_value tr_embedding(tr_graph *g, tr_value ids, tr_value table)
{
    return tr_graph_add1(g, &embedding_op, (tr_value[]){ids, table}, 2, NULL, 0);
}
