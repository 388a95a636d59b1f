/* ops/linear.c - y = x w^T + b, its gradients, and the plain reference of both.
 * The gradient of x belongs to the backward, those of w and b to the weight phase; the first adds itself to
 * what other consumers of x gave, in the matrix product.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/linear.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <string.h>

static bool in_out(const tr_node *node)
{
    return ((const linear_attributes *)tr_node_attributes(node))->in_out != 0;
}

static double linear_flops(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *w = tr_input_shape(graph, node, 1);
    return 2.0 * (double)tr_shape_rows(tr_input_shape(graph, node, 0)) * (double)tr_shape_elements(w);
}

/* dx = dy w (+ pending).   inputs: dy (...,O), w, pending (...,I) or none. */
static tr_status dx_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                          tr_error *err)
{
    (void)err;
    *n_outputs = 1;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[0].shape.dims[outputs[0].shape.rank - 1] =
        tr_input_shape(graph, node, 1)->dims[in_out(node) ? 0 : 1];
    return TR_OK;
}

static void dx_run(const tr_call *call)
{
    const tr_shape *dy = tr_input_shape(call->graph, call->node, 0);
    const tr_shape *dx = &tr_graph_value(call->graph, call->node->outputs[0])->shape;
    tr_dtype dtype = tr_input_dtype(call->graph, call->node, 0);
    const void *pending = call->inputs[2];
    if (pending && pending != call->outputs[0])
        memcpy(call->outputs[0], pending, (size_t)tr_shape_elements(dx) * tr_dtype_bytes(dtype));
    tr_cpu_linear_dx(call->inputs[0], call->inputs[1], call->outputs[0], tr_shape_rows(dy), tr_shape_last(dx),
                     tr_shape_last(dy), in_out(call->node), pending != NULL, dtype, call->pool);
}

static const tr_op linear_dx_op = {.name = "linear_dx",
                                   .infer = dx_infer,
                                   .flops = linear_flops,
                                   .alias_input = 2,
                                   .run = {[TR_DEVICE_CPU] = dx_run}};

/* dw += x^T dy.   inputs: dy (...,O), x (...,I). */
static tr_status dw_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                          tr_error *err)
{
    (void)err;
    int64_t out = tr_shape_last(tr_input_shape(graph, node, 0)),
            in = tr_shape_last(tr_input_shape(graph, node, 1));
    *n_outputs = 1;
    outputs[0].dtype = TR_F32;
    outputs[0].shape = in_out(node) ? TR_SHAPE2(in, out) : TR_SHAPE2(out, in);
    return TR_OK;
}

static double dw_flops(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *dy = tr_input_shape(graph, node, 0), *x = tr_input_shape(graph, node, 1);
    return 2.0 * (double)tr_shape_rows(dy) * (double)tr_shape_last(dy) * (double)tr_shape_last(x);
}

static void dw_run(const tr_call *call)
{
    const tr_shape *dy = tr_input_shape(call->graph, call->node, 0);
    const tr_shape *x = tr_input_shape(call->graph, call->node, 1);
    tr_cpu_linear_dw(call->inputs[0], call->inputs[1], call->outputs[0], tr_shape_rows(x), tr_shape_last(x),
                     tr_shape_last(dy), in_out(call->node), tr_input_dtype(call->graph, call->node, 0),
                     call->pool);
}

static const tr_op linear_dw_op = {.name = "linear_dw",
                                   .infer = dw_infer,
                                   .flops = dw_flops,
                                   .alias_input = -1,
                                   .run = {[TR_DEVICE_CPU] = dw_run}};

/* db += the rows of dy summed.   inputs: dy (...,O). */
static tr_status db_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                          tr_error *err)
{
    (void)err;
    *n_outputs = 1;
    outputs[0].dtype = TR_F32;
    outputs[0].shape = TR_SHAPE1(tr_shape_last(tr_input_shape(graph, node, 0)));
    return TR_OK;
}

static void db_run(const tr_call *call)
{
    const tr_shape *dy = tr_input_shape(call->graph, call->node, 0);
    tr_cpu_linear_db(call->inputs[0], call->outputs[0], tr_shape_rows(dy), tr_shape_last(dy),
                     tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op linear_db_op = {
    .name = "linear_db", .infer = db_infer, .alias_input = -1, .run = {[TR_DEVICE_CPU] = db_run}};

static tr_status linear_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                              int *n_outputs, tr_error *err)
{
    const tr_value_info *x = tr_graph_value(graph, node->inputs[0]),
                        *w = tr_graph_value(graph, node->inputs[1]);
    char x_text[80], w_text[80];
    tr_shape_text(&x->shape, x_text);
    tr_shape_text(&w->shape, w_text);
    if (x->dtype != w->dtype || (x->dtype != TR_F32 && x->dtype != TR_BF16))
        return tr_fail(err, TR_EUNSUPPORTED,
                       "linear: x is %s and w '%s' is %s; both must be float32, or both bfloat16",
                       tr_dtype_name(x->dtype), w->name, tr_dtype_name(w->dtype));
    if (x->shape.rank < 1 || w->shape.rank != 2 ||
        w->shape.dims[in_out(node) ? 0 : 1] != tr_shape_last(&x->shape))
        return tr_fail(err, TR_EINVAL, "linear: x %s does not fit the weight '%s' %s, stored as %s", x_text,
                       w->name, w_text, in_out(node) ? "(in, out)" : "(out, in)");
    int64_t out = w->shape.dims[in_out(node) ? 1 : 0];
    if (node->inputs[2] != TR_NO_VALUE) {
        const tr_value_info *b = tr_graph_value(graph, node->inputs[2]);
        if (b->dtype != TR_F32 || b->shape.rank != 1 || b->shape.dims[0] != out)
            return tr_fail(err, TR_EINVAL, "linear: the bias '%s' must be float32 (%lld)", b->name,
                           (long long)out);
    }
    *n_outputs = 1;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[0].shape.dims[x->shape.rank - 1] = out;
    return TR_OK;
}

static void linear_gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                            tr_value *input_gradients, const bool *wanted)
{
    tr_value dy = output_gradients[0];
    linear_attributes attributes = {.in_out = in_out(node)};
    if (dy == TR_NO_VALUE) return;
    if (wanted[0]) {
        tr_value inputs[] = {dy, node->inputs[1], input_gradients[0]};
        input_gradients[0] = tr_graph_add1(graph, &linear_dx_op, inputs, 3, &attributes, sizeof attributes);
    }
    tr_graph_set_phase(graph, TR_PHASE_WEIGHT);
    if (wanted[1]) {
        tr_value inputs[] = {dy, node->inputs[0]};
        tr_value dw = tr_graph_gradient(graph, node->inputs[1], node->use);
        tr_graph_add(graph, &linear_dw_op, inputs, 2, &attributes, sizeof attributes, &dw, 1);
    }
    if (node->inputs[2] != TR_NO_VALUE && wanted[2]) {
        tr_value db = tr_graph_gradient(graph, node->inputs[2], node->use);
        tr_graph_add(graph, &linear_db_op, &dy, 1, NULL, 0, &db, 1);
    }
    tr_graph_set_phase(graph, TR_PHASE_BACKWARD);
}

static void linear_run(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 0);
    const tr_shape *y = &tr_graph_value(call->graph, call->node->outputs[0])->shape;
    tr_cpu_linear(call->inputs[0], call->inputs[1], call->inputs[2], call->outputs[0], tr_shape_rows(x),
                  tr_shape_last(x), tr_shape_last(y), in_out(call->node),
                  tr_input_dtype(call->graph, call->node, 0), call->pool);
}

static const tr_op linear_op = {.name = "linear",
                                .infer = linear_infer,
                                .gradient = linear_gradient,
                                .flops = linear_flops,
                                .alias_input = -1,
                                .run = {[TR_DEVICE_CPU] = linear_run}};

void tr_linear_reference(const float *x, const float *w, const float *b, float *y, int64_t rows, int64_t in,
                         int64_t out, bool w_in_out)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t o = 0; o < out; o++) {
            double sum = b ? (double)b[o] : 0;
            for (int64_t k = 0; k < in; k++)
                sum += (double)x[i * in + k] * (double)w[w_in_out ? k * out + o : o * in + k];
            y[i * out + o] = (float)sum;
        }
}

void tr_linear_backward_reference(const float *dy, const float *x, const float *w, float *dx, float *dw,
                                  float *db, int64_t rows, int64_t in, int64_t out, bool w_in_out)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < in; k++) {
            double sum = 0;
            for (int64_t o = 0; o < out; o++)
                sum += (double)dy[i * out + o] * (double)w[w_in_out ? k * out + o : o * in + k];
            dx[i * in + k] = (float)sum;
        }
    for (int64_t o = 0; o < out; o++) {
        double bias = 0;
        for (int64_t i = 0; i < rows; i++) bias += (double)dy[i * out + o];
        db[o] += (float)bias;
        for (int64_t k = 0; k < in; k++) {
            double sum = 0;
            for (int64_t i = 0; i < rows; i++) sum += (double)dy[i * out + o] * (double)x[i * in + k];
            dw[w_in_out ? k * out + o : o * in + k] += (float)sum;
        }
    }
}

tr_value tr_linear(tr_graph *g, tr_value x, tr_value w, tr_value b, tr_weight_layout layout)
{
    linear_attributes attributes = {.in_out = layout == TR_WEIGHT_IN_OUT};
    tr_value inputs[] = {x, w, b};
    return tr_graph_add1(g, &linear_op, inputs, 3, &attributes, sizeof attributes);
}
