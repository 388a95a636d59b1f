/* ops/fp8_linear.c - see fp8_linear.h: shapes, the CPU's calls, and the plain references.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/fp8_linear.h"

#include "ops/cpu/fp8.h"

#include <math.h>

/* --- quantise --- */

static tr_status quantise_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    const quantise_attributes *attributes = tr_node_attributes(node);
    tr_status status = tr_infer_input(graph, node, 0, "x", TR_BF16, err);
    if (status != TR_OK) return status;
    const tr_shape *x = tr_input_shape(graph, node, 0);
    *n_outputs = 3;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[0].dtype = outputs[1].dtype = attributes->format;
    outputs[1].shape = TR_SHAPE2(tr_shape_last(x), tr_shape_rows(x));
    outputs[2].dtype = TR_F32;
    outputs[2].shape = TR_SHAPE1(1);
    return TR_OK;
}

static size_t quantise_workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    (void)n_threads;
    return tr_cpu_quantise_workspace(tr_shape_elements(tr_input_shape(graph, node, 0)));
}

static void quantise_run(const tr_call *call)
{
    const tr_shape *x = tr_input_shape(call->graph, call->node, 0);
    const quantise_attributes *attributes = tr_node_attributes(call->node);
    tr_cpu_quantise(call->inputs[0], tr_shape_rows(x), tr_shape_last(x), attributes->format, call->outputs[0],
                    call->outputs[1], call->outputs[2], call->workspace, call->pool);
}

const tr_op tr__quantise_op = {.name = "quantise",
                               .infer = quantise_infer,
                               .workspace = quantise_workspace,
                               .alias_input = -1,
                               .is_light = true,
                               .once = true,
                               .run = {[TR_DEVICE_CPU] = quantise_run}};

/* --- products --- */

tr_fp8_product tr__fp8_product_of(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *a = tr_input_shape(graph, node, 0), *b = tr_input_shape(graph, node, 2);
    return (tr_fp8_product){tr_shape_rows(a), tr_shape_rows(b), tr_shape_last(a)};
}

static tr_status check_factors(const tr_graph *graph, const tr_node *node, tr_error *err)
{
    for (int i = 0; i < 4; i += 2) {
        if (node->inputs[i] == TR_NO_VALUE || !tr_is_fp8(tr_input_dtype(graph, node, i)))
            return tr_fail(err, TR_EINVAL, "%s: factor %d is not in FP8", node->op->name, i / 2);
        tr_status status = tr_infer_shaped(graph, node, i + 1, "scale", TR_F32, &TR_SHAPE1(1), err);
        if (status != TR_OK) return status;
    }
    if (tr_shape_last(tr_input_shape(graph, node, 0)) != tr_shape_last(tr_input_shape(graph, node, 2)))
        return tr_fail(err, TR_EINVAL, "%s: the factors' rows differ in length", node->op->name);
    return TR_OK;
}

/* c is as a, but for its last dimension, or (m,n) f32. */
static tr_status product_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                               int *n_outputs, tr_error *err)
{
    tr_status status = check_factors(graph, node, err);
    if (status != TR_OK) return status;
    *n_outputs = 1;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[0].dtype = TR_BF16;
    outputs[0].shape.dims[outputs[0].shape.rank - 1] = tr_shape_rows(tr_input_shape(graph, node, 2));
    return TR_OK;
}

static tr_status dw_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                          tr_error *err)
{
    tr_status status = check_factors(graph, node, err);
    if (status != TR_OK) return status;
    tr_fp8_product size = tr__fp8_product_of(graph, node);
    *n_outputs = 1;
    outputs[0].dtype = TR_F32;
    outputs[0].shape = TR_SHAPE2(size.m, size.n);
    return TR_OK;
}

static double product_flops(const tr_graph *graph, const tr_node *node)
{
    tr_fp8_product size = tr__fp8_product_of(graph, node);
    return 2.0 * (double)size.m * (double)size.n * (double)size.k;
}

static size_t product_workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    (void)n_threads;
    tr_fp8_product size = tr__fp8_product_of(graph, node);
    return tr_cpu_fp8_workspace(&size);
}

static tr_cpu_fp8_operands operands_of(const tr_call *call)
{
    return (tr_cpu_fp8_operands){.a = call->inputs[0],
                                 .b = call->inputs[2],
                                 .a_inverse = call->inputs[1],
                                 .b_inverse = call->inputs[3],
                                 .a_format = tr_input_dtype(call->graph, call->node, 0),
                                 .b_format = tr_input_dtype(call->graph, call->node, 2),
                                 .workspace = call->workspace,
                                 .size = tr__fp8_product_of(call->graph, call->node)};
}

static void linear_run(const tr_call *call)
{
    tr_cpu_fp8_operands operands = operands_of(call);
    tr_cpu_fp8_linear(&operands, call->inputs[4], NULL, call->outputs[0], call->pool);
}

static void dx_run(const tr_call *call)
{
    tr_cpu_fp8_operands operands = operands_of(call);
    tr_cpu_fp8_linear(&operands, NULL, call->inputs[4], call->outputs[0], call->pool);
}

static void dw_run(const tr_call *call)
{
    tr_cpu_fp8_operands operands = operands_of(call);
    tr_cpu_fp8_linear_dw(&operands, call->outputs[0], call->pool);
}

const tr_op tr__linear_fp8_op = {.name = "linear_fp8",
                                 .infer = product_infer,
                                 .flops = product_flops,
                                 .workspace = product_workspace,
                                 .alias_input = -1,
                                 .run = {[TR_DEVICE_CPU] = linear_run}};

const tr_op tr__linear_fp8_dx_op = {.name = "linear_fp8_dx",
                                    .infer = product_infer,
                                    .flops = product_flops,
                                    .workspace = product_workspace,
                                    .alias_input = 4,
                                    .run = {[TR_DEVICE_CPU] = dx_run}};

const tr_op tr__linear_fp8_dw_op = {.name = "linear_fp8_dw",
                                    .infer = dw_infer,
                                    .flops = product_flops,
                                    .workspace = product_workspace,
                                    .alias_input = -1,
                                    .run = {[TR_DEVICE_CPU] = dw_run}};

/* --- plain references --- */

void tr_quantise_reference(const float *x, int64_t rows, int64_t columns, tr_dtype format, uint8_t *codes,
                           uint8_t *turned, float *inverse)
{
    float most = 0, scale;
    for (int64_t i = 0; i < rows * columns; i++) {
        if (isnan(x[i])) most = x[i];
        if (fabsf(x[i]) > most) most = fabsf(x[i]);
    }
    tr_fp8_scale(most, format, &scale, inverse);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            codes[r * columns + c] = turned[c * rows + r] = tr_fp8_of_f32(x[r * columns + c] * scale, format);
}

void tr_fp8_product_reference(const uint8_t *a, tr_dtype a_format, float a_inverse, const uint8_t *b,
                              tr_dtype b_format, float b_inverse, double *c, tr_fp8_product size)
{
    for (int64_t i = 0; i < size.m; i++)
        for (int64_t j = 0; j < size.n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < size.k; k++)
                sum += (double)tr_f32_of_fp8(a[i * size.k + k], a_format) *
                       (double)tr_f32_of_fp8(b[j * size.k + k], b_format);
            c[i * size.n + j] = sum * (double)a_inverse * (double)b_inverse;
        }
}
