// ops/cuda/fp8_linear.cu - products of FP8 codes by cuBLASLt, planned when the program is made. Sums are float32 all through: the
// library's fast accumulation, which rounds them within the tensor cores, is off.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/blas.h"
#include "ops/cuda/elements.cuh"
#include "ops/fp8_linear.h"

namespace troupe {
namespace {

struct plan {
    tr_matmul_plan *product;
    tr_dtype bias; // as the product reads it
};

tr_matmul_shape shape_of(const tr_graph *graph, const tr_node *node)
{
    tr_fp8_product size = tr__fp8_product_of(graph, node);
    tr_matmul_shape shape = {};
    shape.m = size.m;
    shape.n = size.n;
    shape.k = size.k;
    shape.b_transposed = true;
    shape.fp8 = true;
    shape.a8 = tr_input_dtype(graph, node, 0);
    shape.b8 = tr_input_dtype(graph, node, 2);
    shape.c = tr_graph_value(graph, node->outputs[0])->dtype;
    return shape;
}

tr_status plan_new(void **prepared, void *device, tr_matmul_shape shape, tr_error *err)
{
    tr_matmul_plan *product;
    tr_status status = tr__matmul_plan_new(&product, (tr_cuda_context *)device, &shape, err);
    if (status != TR_OK) return status;
    *prepared = new plan{product, shape.bias};
    return TR_OK;
}

void release(void *prepared, void *device)
{
    (void)device;
    tr__matmul_plan_destroy(((plan *)prepared)->product);
    delete (plan *)prepared;
}

tr_status prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    tr_matmul_shape shape = shape_of(graph, node);
    shape.has_bias = node->inputs[4] != TR_NO_VALUE;
    return plan_new(prepared, device, shape, err);
}

tr_status dx_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    tr_matmul_shape shape = shape_of(graph, node);
    shape.accumulate = node->inputs[4] != TR_NO_VALUE;
    return plan_new(prepared, device, shape, err);
}

tr_status dw_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    tr_matmul_shape shape = shape_of(graph, node);
    shape.accumulate = true;
    return plan_new(prepared, device, shape, err);
}

void multiply(const tr_call *call, const void *bias, const void *pending)
{
    tr_matmul_operands operands = {};
    operands.a = call->inputs[0];
    operands.b = call->inputs[2];
    operands.a_scale = (const float *)call->inputs[1];
    operands.b_scale = (const float *)call->inputs[3];
    operands.bias = bias;
    operands.pending = pending;
    operands.c = call->outputs[0];
    tr__matmul_run(((const plan *)call->prepared)->product, (tr_cuda_context *)call->device, &operands,
                   call->node->op->name);
}

size_t workspace(const tr_graph *graph, const tr_node *node)
{
    return (size_t)tr_shape_last(&tr_graph_value(graph, node->outputs[0])->shape) * sizeof(bf16);
}

__global__ void round_kernel(const float *from, bf16 *to, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = (bf16)from[i];
}

void run(const tr_call *call)
{
    const void *bias = call->inputs[4];
    if (bias && ((const plan *)call->prepared)->bias != TR_F32) {
        int64_t n = tr_shape_last(output_shape(call, 0));
        round_kernel<<<blocks_for(n, 256), 256, 0, tr_cuda_stream(call)>>>((const float *)bias,
                                                                           (bf16 *)call->workspace, n);
        tr_cuda_launched(call);
        bias = call->workspace;
    }
    multiply(call, bias, NULL);
}

void dx_run(const tr_call *call)
{
    multiply(call, NULL, call->inputs[4]);
}

void dw_run(const tr_call *call)
{
    multiply(call, NULL, call->overwrite ? NULL : call->outputs[0]);
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_fp8_linear_kernels[] = {
    {"linear_fp8", troupe::run, troupe::workspace, troupe::prepare, troupe::release},
    {"linear_fp8_dx", troupe::dx_run, NULL, troupe::dx_prepare, troupe::release},
    {"linear_fp8_dw", troupe::dw_run, NULL, troupe::dw_prepare, troupe::release, true},
    {},
};
