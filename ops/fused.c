/* ops/fused.c - see fused.h: outputs and counts of the operations that a fused graph has.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/fused.h"

#include "ops/attributes.h"
#include "ops/infer.h"

#include <string.h>

/* Norms' sums are made by at most so many slabs, of eight rows at least. */
enum { MOST_SLABS = 256, LEAST_ROWS = 8 };

/* Attention's are of so many rows, as many as a warpgroup of its kernels has. */
enum { ATTENTION_ROWS = 64 };

static tr_shape with_last(tr_shape shape, int64_t last)
{
    shape.dims[shape.rank - 1] = last;
    return shape;
}

/* Elements of the weight, and rows of x or dy. */
static double linear_flops(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *w = tr_input_shape(graph, node, 1);
    return 2.0 * (double)tr_shape_rows(tr_input_shape(graph, node, 0)) * (double)tr_shape_elements(w);
}

static tr_status infer_linear_add(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                  int *n_outputs, tr_error *err)
{
    (void)err;
    outputs[0] = tr_infer_like(graph, node, 3);
    *n_outputs = 1;
    return TR_OK;
}

/* Never in place: cuBLASLt gives other bits then, and whether it could be depends on what the backward keeps. */
const tr_op tr__linear_add_op = {
    .name = "linear_add", .infer = infer_linear_add, .flops = linear_flops, .alias_input = -1};

static tr_status infer_linear_activate(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                       int *n_outputs, tr_error *err)
{
    (void)err;
    const linear_activate_attributes *attributes = tr_node_attributes(node);
    int64_t out = tr_input_shape(graph, node, 1)->dims[attributes->in_out ? 1 : 0];
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[0].shape = with_last(outputs[0].shape, out);
    outputs[1] = outputs[0];
    *n_outputs = 2;
    return TR_OK;
}

const tr_op tr__linear_activate_op = {
    .name = "linear_activate", .infer = infer_linear_activate, .flops = linear_flops, .alias_input = -1};

static tr_status infer_linear_dx_activate(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                          int *n_outputs, tr_error *err)
{
    (void)err;
    outputs[0] = tr_infer_like(graph, node, 2);
    *n_outputs = 1;
    return TR_OK;
}

const tr_op tr__linear_dx_activate_op = {.name = "linear_dx_activate",
                                         .infer = infer_linear_dx_activate,
                                         .flops = linear_flops,
                                         .alias_input = -1};

static tr_status infer_attention(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                 int *n_outputs, tr_error *err)
{
    (void)err;
    const tr_attention_options *options = tr_node_attributes(node);
    const tr_shape *qkv = tr_input_shape(graph, node, 0);
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[0].shape = with_last(*qkv, (int64_t)options->heads * options->head_size);
    outputs[1] =
        (tr_value_info){.dtype = TR_F32, .shape = TR_SHAPE3(qkv->dims[0], options->heads, qkv->dims[1])};
    *n_outputs = 2;
    return TR_OK;
}

/* As attention's. */
static double attention_flops(const tr_graph *graph, const tr_node *node)
{
    const tr_attention_options *options = tr_node_attributes(node);
    const tr_shape *qkv = tr_input_shape(graph, node, 0);
    double time = (double)qkv->dims[1], pairs = time * (time + 1) / 2;
    return 4.0 * (double)qkv->dims[0] * options->heads * options->head_size * pairs;
}

const tr_op tr__attention_packed_op = {
    .name = "attention_packed", .infer = infer_attention, .flops = attention_flops, .alias_input = -1};

static tr_status infer_attention_backward(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                          int *n_outputs, tr_error *err)
{
    (void)err;
    outputs[0] = tr_infer_like(graph, node, 0);
    *n_outputs = 1;
    return TR_OK;
}

tr_shape tr__attention_sums_shape(const tr_shape *x, int64_t width)
{
    return TR_SHAPE3(x->dims[0] * ((x->dims[1] + ATTENTION_ROWS - 1) / ATTENTION_ROWS), 1, width);
}

static tr_status infer_attention_backward_sums(const tr_graph *graph, const tr_node *node,
                                               tr_value_info *outputs, int *n_outputs, tr_error *err)
{
    (void)err;
    const tr_shape *qkv = tr_input_shape(graph, node, 0);
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[1] = (tr_value_info){.dtype = TR_F32, .shape = tr__attention_sums_shape(qkv, tr_shape_last(qkv))};
    *n_outputs = 2;
    return TR_OK;
}

static double attention_backward_flops(const tr_graph *graph, const tr_node *node)
{
    return 2.5 * attention_flops(graph, node);
}

const tr_op tr__attention_packed_backward_op = {.name = "attention_packed_backward",
                                                .infer = infer_attention_backward,
                                                .flops = attention_backward_flops,
                                                .alias_input = -1};

const tr_op tr__attention_packed_backward_sums_op = {.name = "attention_packed_backward_sums",
                                                     .infer = infer_attention_backward_sums,
                                                     .flops = attention_backward_flops,
                                                     .alias_input = -1};

/* sum, y, mean of layernorm's, rstd. */
static tr_status infer_add_norm(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    (void)err;
    const tr_shape *x = tr_input_shape(graph, node, 0);
    tr_shape rows = *x;
    rows.rank--;
    outputs[0] = outputs[1] = tr_infer_like(graph, node, 0);
    outputs[2] = outputs[3] = (tr_value_info){.dtype = TR_F32, .shape = rows};
    *n_outputs = node->n_inputs; /* 3 or 4 of either */
    return TR_OK;
}

const tr_op tr__add_layernorm_op = {.name = "add_layernorm", .infer = infer_add_norm, .alias_input = 0};
const tr_op tr__add_rmsnorm_op = {.name = "add_rmsnorm", .infer = infer_add_norm, .alias_input = 0};

tr_shape tr__norm_sums_shape(const tr_shape *x, int64_t sums)
{
    int64_t slabs = (tr_shape_rows(x) + LEAST_ROWS - 1) / LEAST_ROWS;
    return TR_SHAPE3(slabs < MOST_SLABS ? slabs : MOST_SLABS, sums, tr_shape_last(x));
}

bool tr__has_norm_sums(const tr_value_info *x)
{
    int64_t columns = tr_shape_last(&x->shape);
    return x->dtype == TR_BF16 && columns % 256 == 0 && columns <= 768;
}

static void infer_sums(const tr_graph *graph, const tr_node *node, int64_t sums, tr_value_info *outputs)
{
    const tr_shape *x = tr_input_shape(graph, node, 1);
    outputs[0] = tr_infer_like(graph, node, 1);
    outputs[1] = (tr_value_info){.dtype = TR_F32, .shape = tr__norm_sums_shape(x, sums)};
}

static tr_status infer_norm_sums(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                 int *n_outputs, tr_error *err)
{
    (void)err;
    infer_sums(graph, node, 2, outputs);
    *n_outputs = 2;
    return TR_OK;
}

static tr_status infer_norm_bias_sums(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                      int *n_outputs, tr_error *err)
{
    (void)err;
    infer_sums(graph, node, 3, outputs);
    *n_outputs = 2;
    return TR_OK;
}

static tr_status infer_rmsnorm_sums(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                    int *n_outputs, tr_error *err)
{
    (void)err;
    infer_sums(graph, node, 1, outputs);
    *n_outputs = 2;
    return TR_OK;
}

const tr_op tr__layernorm_backward_sums_op = {
    .name = "layernorm_backward_sums", .infer = infer_norm_sums, .alias_input = 5};

const tr_op tr__layernorm_backward_bias_sums_op = {
    .name = "layernorm_backward_bias_sums", .infer = infer_norm_bias_sums, .alias_input = 5};

static tr_status infer_weight_sums(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                   int *n_outputs, tr_error *err)
{
    (void)err;
    const tr_shape *sums = tr_input_shape(graph, node, 0);
    outputs[0] = outputs[1] = (tr_value_info){.dtype = TR_F32, .shape = TR_SHAPE1(tr_shape_last(sums))};
    *n_outputs = sums->dims[1] > 1 ? 2 : 1; /* layernorm's, whatever stands behind them; rmsnorm's */
    return TR_OK;
}

static tr_status infer_db_sums(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                               int *n_outputs, tr_error *err)
{
    (void)err;
    outputs[0] =
        (tr_value_info){.dtype = TR_F32, .shape = TR_SHAPE1(tr_shape_last(tr_input_shape(graph, node, 0)))};
    *n_outputs = 1;
    return TR_OK;
}

const tr_op tr__linear_db_sums_op = {.name = "linear_db_sums", .infer = infer_db_sums, .alias_input = -1};

const tr_op tr__layernorm_weight_sums_op = {
    .name = "layernorm_weight_sums", .infer = infer_weight_sums, .alias_input = -1};

const tr_op tr__rmsnorm_backward_sums_op = {
    .name = "rmsnorm_backward_sums", .infer = infer_rmsnorm_sums, .alias_input = 4};

const tr_op tr__rmsnorm_weight_sums_op = {
    .name = "rmsnorm_weight_sums", .infer = infer_weight_sums, .alias_input = -1};

static tr_status infer_slopes(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                              int *n_outputs, tr_error *err)
{
    (void)err;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[1] = (tr_value_info){.dtype = TR_F64, .shape = TR_SHAPE1(1)};
    *n_outputs = 2;
    return TR_OK;
}

static double slopes_flops(const tr_graph *graph, const tr_node *node)
{
    return 8.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

const tr_op tr__cross_entropy_slopes_op = {
    .name = "cross_entropy_slopes", .infer = infer_slopes, .flops = slopes_flops, .alias_input = 0};

static tr_status infer_dx_scaled(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                 int *n_outputs, tr_error *err)
{
    (void)err;
    const linear_attributes *attributes = tr_node_attributes(node);
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[0].shape =
        with_last(outputs[0].shape, tr_input_shape(graph, node, 1)->dims[attributes->in_out ? 0 : 1]);
    *n_outputs = 1;
    return TR_OK;
}

const tr_op tr__linear_dx_scaled_op = {
    .name = "linear_dx_scaled", .infer = infer_dx_scaled, .flops = linear_flops, .alias_input = 2};

static tr_status infer_dw_scaled(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                 int *n_outputs, tr_error *err)
{
    (void)err;
    const linear_attributes *attributes = tr_node_attributes(node);
    int64_t out = tr_shape_last(tr_input_shape(graph, node, 0)),
            in = tr_shape_last(tr_input_shape(graph, node, 1));
    outputs[0].dtype = TR_F32;
    outputs[0].shape = attributes->in_out ? TR_SHAPE2(in, out) : TR_SHAPE2(out, in);
    *n_outputs = 1;
    return TR_OK;
}

static double dw_flops(const tr_graph *graph, const tr_node *node)
{
    return 2.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0)) *
           (double)tr_shape_last(tr_input_shape(graph, node, 1));
}

const tr_op tr__linear_dw_scaled_op = {
    .name = "linear_dw_scaled", .infer = infer_dw_scaled, .flops = dw_flops, .alias_input = -1};
