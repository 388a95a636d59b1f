/* ops/rope.c - rotary position embedding; its backward is the rotation by the negative angle.
 * Without a position input the angles are those of rows 0 .. T-1 and made once; with one, they are made for
 * each run, by the same arithmetic.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rope.h"

#include "base/memory.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <math.h>

void tr_rope_reference(const float *x, float *y, int64_t batch, int64_t time, int64_t heads,
                       int64_t head_size, int64_t first, const double *frequencies, double magnitude,
                       bool inverse)
{
    int64_t half = head_size / 2;
    for (int64_t r = 0; r < batch * time * heads; r++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)(first + r / heads % time) * frequencies[i];
            double a = (double)x[r * head_size + i], b = (double)x[r * head_size + half + i];
            double cosine = cos(angle), sine = inverse ? -sin(angle) : sin(angle);
            y[r * head_size + i] = (float)(magnitude * (a * cosine - b * sine));
            y[r * head_size + half + i] = (float)(magnitude * (b * cosine + a * sine));
        }
}

enum { X, POSITION, FREQUENCIES, N_INPUTS };

static const rope_attributes *options_of(const tr_node *node)
{
    return tr_node_attributes(node);
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    const rope_attributes *options = options_of(node);
    tr_status status = tr_infer_activation(graph, node, X, "x", err);
    if (status != TR_OK) return status;
    const tr_shape *x = tr_input_shape(graph, node, X);
    if (x->rank != 3 || x->dims[2] % options->head_size)
        return tr_fail(err, TR_EINVAL,
                       "rope: x must be (batch, time, heads * %d); its last dimension is %lld",
                       options->head_size, (long long)tr_shape_last(x));
    status = tr_infer_position(graph, node, POSITION, err);
    if (status == TR_OK)
        status = tr_infer_shaped(graph, node, FREQUENCIES, "frequencies", TR_F64,
                                 &TR_SHAPE1(options->head_size / 2), err);
    if (status != TR_OK) return status;
    outputs[0] = tr_infer_like(graph, node, X);
    *n_outputs = 1;
    return TR_OK;
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return 3.0 * (double)tr_shape_elements(tr_input_shape(graph, node, X));
}

static size_t table_bytes(const tr_graph *graph, const tr_node *node)
{
    size_t time = (size_t)tr_input_shape(graph, node, X)->dims[1];
    return time * (size_t)options_of(node)->head_size * sizeof(float);
}

static size_t workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    (void)n_threads;
    return node->inputs[POSITION] == TR_NO_VALUE ? 0 : table_bytes(graph, node);
}

static void make_table(float *table, int32_t first, const tr_graph *graph, const tr_node *node)
{
    const rope_attributes *options = options_of(node);
    tr_rope_table(table, first, tr_input_shape(graph, node, X)->dims[1], options->head_size,
                  tr_graph_value(graph, node->inputs[FREQUENCIES])->constant, (double)options->magnitude);
}

static tr_status prepare(const tr_graph *graph, const tr_node *node, void **prepared, tr_error *err)
{
    if (node->inputs[POSITION] != TR_NO_VALUE) {
        *prepared = NULL;
        return TR_OK;
    }
    float *table = tr_alloc_aligned(TR_CACHE_LINE, table_bytes(graph, node));
    if (!table) return tr_fail(err, TR_ENOMEM, "rope: no memory for the table of angles");
    make_table(table, 0, graph, node);
    *prepared = table;
    return TR_OK;
}

static void rotate(const tr_call *call, bool inverse)
{
    const rope_attributes *options = options_of(call->node);
    const tr_shape *x = tr_input_shape(call->graph, call->node, X);
    const float *table = call->prepared;
    if (call->inputs[POSITION]) {
        make_table(call->workspace, *(const int32_t *)call->inputs[POSITION], call->graph, call->node);
        table = call->workspace;
    }
    tr_cpu_rope(call->inputs[X], table, call->outputs[0], x->dims[0], x->dims[1],
                x->dims[2] / options->head_size, options->head_size, inverse,
                tr_input_dtype(call->graph, call->node, X), call->pool);
}

static void run(const tr_call *call)
{
    rotate(call, false);
}

static void backward_run(const tr_call *call)
{
    rotate(call, true);
}

/* dx from dy: also for a magnitude, since turning back is the transpose.   inputs: dy (B,T,n*D), then as above. */
static const tr_op backward_op = {
    .name = "rope_backward",
    .infer = infer,
    .flops = flops,
    .workspace = workspace,
    .prepare = prepare,
    .release = tr_free,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = backward_run},
};

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    if (!wanted[0] || output_gradients[0] == TR_NO_VALUE) return;
    tr_value inputs[N_INPUTS] = {output_gradients[0], node->inputs[POSITION], node->inputs[FREQUENCIES]};
    tr_value dx =
        tr_graph_add1(graph, &backward_op, inputs, N_INPUTS, options_of(node), sizeof(rope_attributes));
    input_gradients[0] = tr_gradient_add(graph, input_gradients[0], dx);
}

static const tr_op rope_op = {
    .name = "rope",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .workspace = workspace,
    .prepare = prepare,
    .release = tr_free,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = run},
};

/* The frequencies are a constant of the graph: that of several layers is one. */
static tr_value add_frequencies(tr_graph *g, const tr_rope_options *options)
{
    int32_t half = options->head_size / 2;
    const tr_shape shape = TR_SHAPE1(half);
    if (options->frequencies) return tr_graph_constant(g, "frequencies", TR_F64, shape, options->frequencies);
    double *made = tr_alloc((size_t)half * sizeof *made);
    if (!made) {
        tr_graph_set_error(g, TR_ENOMEM, "rope: no memory for %d frequencies", half);
        return TR_NO_VALUE;
    }
    for (int32_t i = 0; i < half; i++) made[i] = pow((double)options->theta, -2.0 * i / options->head_size);
    tr_value frequencies = tr_graph_constant(g, "frequencies", TR_F64, shape, made);
    tr_free(made);
    return frequencies;
}

tr_value tr_rope(tr_graph *g, tr_value x, tr_value position, const tr_rope_options *options)
{
    if (options->head_size < 2 || options->head_size % 2) {
        tr_graph_set_error(g, TR_EINVAL, "rope: head size '%d' is not even and positive", options->head_size);
        return TR_NO_VALUE;
    }
    if (!options->frequencies && !(options->theta > 0)) {
        tr_graph_set_error(g, TR_EINVAL, "rope: theta '%g' is not positive", (double)options->theta);
        return TR_NO_VALUE;
    }
    rope_attributes attributes = {options->head_size, options->magnitude != 0.0f ? options->magnitude : 1.0f};
    tr_value inputs[N_INPUTS] = {x, position, add_frequencies(g, options)};
    return tr_graph_add1(g, &rope_op, inputs, N_INPUTS, &attributes, sizeof attributes);
}
