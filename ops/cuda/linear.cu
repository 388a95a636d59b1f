// ops/cuda/linear.cu - y = x w + b and its gradients: products by cuBLASLt, planned when the program is made.
// The bias is added in the product's epilogue. Gradients of weights are added to in float32 by the product itself.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/blas.h"
#include "ops/cuda/columns.cuh"
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

bool in_out(const tr_node *node)
{
    return ((const linear_attributes *)tr_node_attributes(node))->in_out != 0;
}

const tr_value_info *value_of(const tr_graph *graph, tr_value value)
{
    return tr_graph_value(graph, value);
}

// What a linear node keeps: its product, and whether the bias must be rounded for it.
struct linear_plan {
    tr_matmul_plan *product;
    tr_dtype bias;
};

tr_status plan_new(void **prepared, void *device, tr_matmul_shape shape, tr_error *err)
{
    tr_matmul_plan *product;
    tr_status status = tr__matmul_plan_new(&product, (tr_cuda_context *)device, &shape, err);
    if (status != TR_OK) return status;
    linear_plan *plan = new linear_plan;
    plan->product = product;
    plan->bias = shape.bias;
    *prepared = plan;
    return TR_OK;
}

void release(void *prepared, void *device)
{
    (void)device;
    linear_plan *plan = (linear_plan *)prepared;
    tr__matmul_plan_destroy(plan->product);
    delete plan;
}

// y (M,O) = x (M,I) w + b
tr_status prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    const tr_value_info *x = value_of(graph, node->inputs[0]), *y = value_of(graph, node->outputs[0]);
    tr_matmul_shape shape = {};
    shape.m = tr_shape_rows(&x->shape);
    shape.n = tr_shape_last(&y->shape);
    shape.k = tr_shape_last(&x->shape);
    shape.b_transposed = !in_out(node);
    shape.has_bias = node->inputs[2] != TR_NO_VALUE;
    shape.ab = x->dtype;
    shape.c = y->dtype;
    return plan_new(prepared, device, shape, err);
}

size_t workspace(const tr_graph *graph, const tr_node *node)
{
    return (size_t)tr_shape_last(&value_of(graph, node->outputs[0])->shape) * sizeof(bf16);
}

__global__ void round_kernel(const float *from, bf16 *to, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = (bf16)from[i];
}

void run(const tr_call *call)
{
    const linear_plan *plan = (const linear_plan *)call->prepared;
    const void *bias = call->inputs[2];
    if (bias && plan->bias == TR_BF16) {
        int64_t n = tr_shape_last(output_shape(call, 0));
        round_kernel<<<blocks_for(n, 256), 256, 0, tr_cuda_stream(call)>>>((const float *)bias,
                                                                           (bf16 *)call->workspace, n);
        tr_cuda_launched(call);
        bias = call->workspace;
    }
    tr__matmul_run(plan->product, (tr_cuda_context *)call->device, call->inputs[0], call->inputs[1], bias,
                   NULL, call->outputs[0], "linear");
}

// dx (M,I) = dy (M,O) w' (+ pending)
tr_status dx_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    const tr_value_info *dy = value_of(graph, node->inputs[0]), *dx = value_of(graph, node->outputs[0]);
    tr_matmul_shape shape = {};
    shape.m = tr_shape_rows(&dy->shape);
    shape.n = tr_shape_last(&dx->shape);
    shape.k = tr_shape_last(&dy->shape);
    shape.b_transposed = in_out(node);
    shape.accumulate = node->inputs[2] != TR_NO_VALUE;
    shape.ab = dy->dtype;
    shape.c = dx->dtype;
    return plan_new(prepared, device, shape, err);
}

void dx_run(const tr_call *call)
{
    tr__matmul_run(((const linear_plan *)call->prepared)->product, (tr_cuda_context *)call->device,
                   call->inputs[0], call->inputs[1], NULL, call->inputs[2], call->outputs[0], "linear_dx");
}

// dw (I,O) += x' dy, or (O,I) += dy' x
tr_status dw_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    const tr_value_info *dy = value_of(graph, node->inputs[0]), *x = value_of(graph, node->inputs[1]);
    int64_t out = tr_shape_last(&dy->shape), in = tr_shape_last(&x->shape);
    tr_matmul_shape shape = {};
    shape.m = in_out(node) ? in : out;
    shape.n = in_out(node) ? out : in;
    shape.k = tr_shape_rows(&x->shape);
    shape.a_transposed = true;
    shape.accumulate = true;
    shape.ab = dy->dtype;
    shape.c = TR_F32;
    return plan_new(prepared, device, shape, err);
}

void dw_run(const tr_call *call)
{
    bool turned = !in_out(call->node);
    tr__matmul_run(((const linear_plan *)call->prepared)->product, (tr_cuda_context *)call->device,
                   call->inputs[turned ? 0 : 1], call->inputs[turned ? 1 : 0], NULL, call->outputs[0],
                   call->outputs[0], "linear_dw");
}

// What a row gives to the bias: itself.
template <typename T> struct bias_terms {
    static constexpr int SUMS = 1;
    const T *dy;
    int64_t columns;
    template <int V> __device__ void add(int64_t row, int64_t column, float (&sums)[SUMS][V]) const
    {
        float g[V];
        load<V>(dy + row * columns + column, g);
#pragma unroll
        for (int j = 0; j < V; j++) sums[0][j] += g[j];
    }
};

template <typename T> void launch_db(const tr_call *call)
{
    const tr_shape *dy = input_shape(call, 0);
    bias_terms<T> terms = {(const T *)call->inputs[0], tr_shape_last(dy)};
    float *outputs[1] = {(float *)call->outputs[0]};
    sum_columns(call, terms, outputs, tr_shape_rows(dy), terms.columns);
}

void db_run(const tr_call *call)
{
    TR_BY_STORAGE(call, 0, launch_db<T>(call));
}

size_t db_workspace(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *dy = tr_input_shape(graph, node, 0);
    return sum_columns_workspace(1, tr_shape_rows(dy), tr_shape_last(dy));
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_linear_kernels[] = {
    {"linear", troupe::run, troupe::workspace, troupe::prepare, troupe::release},
    {"linear_dx", troupe::dx_run, NULL, troupe::dx_prepare, troupe::release},
    {"linear_dw", troupe::dw_run, NULL, troupe::dw_prepare, troupe::release},
    {"linear_db", troupe::db_run, troupe::db_workspace},
    {},
};
