/* ops/rope.c - rotary position embedding; its backward is the rotation by the negative angle.
 * Without a position input the angles are those of rows 0 .. T-1 and made once; with one, they are made for
 * each run, by the same arithmetic.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rope.h"
#include "base/memory.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <math.h>

void tr_rope_reference(const float *x, float *y, int64_t batch, int64_t time, int64_t heads,
                       int64_t head_size, int64_t first, float theta, bool inverse)
{
    int64_t half = head_size / 2;
    for (int64_t r = 0; r < batch * time * heads; r++)
        for (int64_t i = 0; i < half; i++) {
            double position = (double)(first + r / heads % time);
            double angle = position * pow((double)theta, -2.0 * (double)i / (double)head_size);
            double a = (double)x[r * head_size + i], b = (double)x[r * head_size + half + i];
            double cosine = cos(angle), sine = inverse ? -sin(angle) : sin(angle);
            y[r * head_size + i] = (float)(a * cosine - b * sine);
            y[r * head_size + half + i] = (float)(b * cosine + a * sine);
        }
}

static const tr_rope_options *options_of(const tr_node *node)
{
    return tr_node_attributes(node);
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    const tr_rope_options *options = options_of(node);
    tr_status status = tr_infer_input(graph, node, 0, "x", TR_F32, err);
    if (status != TR_OK) return status;
    const tr_shape *x = tr_input_shape(graph, node, 0);
    if (options->head_size < 2 || options->head_size % 2)
        return tr_fail(err, TR_EINVAL, "rope: head size '%d' is not even and positive", options->head_size);
    if (!(options->theta > 0))
        return tr_fail(err, TR_EINVAL, "rope: theta '%g' is not positive", (double)options->theta);
    if (x->rank != 3 || x->dims[2] % options->head_size)
        return tr_fail(err, TR_EINVAL,
                       "rope: x must be (batch, time, heads * %d); its last dimension is %lld",
                       options->head_size, (long long)tr_shape_last(x));
    if (node->inputs[1] != TR_NO_VALUE) {
        status = tr_infer_shaped(graph, node, 1, "position", TR_I32, &TR_SHAPE1(1), err);
        if (status != TR_OK) return status;
    }
    outputs[0] = (tr_value_info){.dtype = TR_F32, .shape = *x};
    *n_outputs = 1;
    return TR_OK;
}

static double flops(const tr_graph *graph, const tr_node *node)
{
    return 3.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static size_t table_bytes(const tr_graph *graph, const tr_node *node)
{
    size_t time = (size_t)tr_input_shape(graph, node, 0)->dims[1];
    return time * (size_t)options_of(node)->head_size * sizeof(float);
}

static size_t workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    (void)n_threads;
    return node->inputs[1] == TR_NO_VALUE ? 0 : table_bytes(graph, node);
}

static tr_status prepare(const tr_graph *graph, const tr_node *node, void **prepared, tr_error *err)
{
    const tr_rope_options *options = options_of(node);
    if (node->inputs[1] != TR_NO_VALUE) {
        *prepared = NULL;
        return TR_OK;
    }
    float *table = tr_alloc_aligned(TR_CACHE_LINE, table_bytes(graph, node));
    if (!table) return tr_fail(err, TR_ENOMEM, "rope: no memory for the table of angles");
    tr_rope_table(table, 0, tr_input_shape(graph, node, 0)->dims[1], options->head_size, options->theta);
    *prepared = table;
    return TR_OK;
}

static void rotate(const tr_call *call, bool inverse)
{
    const tr_rope_options *options = options_of(call->node);
    const tr_shape *x = tr_input_shape(call->graph, call->node, 0);
    const float *table = call->prepared;
    if (call->inputs[1]) {
        int32_t first = *(const int32_t *)call->inputs[1];
        tr_rope_table(call->workspace, first, x->dims[1], options->head_size, options->theta);
        table = call->workspace;
    }
    tr_cpu_rope(call->inputs[0], table, call->outputs[0], x->dims[0], x->dims[1],
                x->dims[2] / options->head_size, options->head_size, inverse, call->pool);
}

static void run(const tr_call *call)
{
    rotate(call, false);
}

static void backward_run(const tr_call *call)
{
    rotate(call, true);
}

/* dx from dy.   inputs: dy (B,T,n*D), position (1) or none. */
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
    tr_value inputs[] = {output_gradients[0], node->inputs[1]};
    tr_value dx = tr_graph_add1(graph, &backward_op, inputs, 2, options_of(node), sizeof(tr_rope_options));
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

tr_value tr_rope(tr_graph *g, tr_value x, tr_value position, const tr_rope_options *options)
{
    return tr_graph_add1(g, &rope_op, (tr_value[]){x, position}, 2, options, sizeof *options);
}
