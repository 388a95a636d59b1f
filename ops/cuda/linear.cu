// ops/cuda/linear.cu - y = x w + b and its gradients: products by cuBLASLt, planned when the program is made.
// The bias is added in the product's epilogue, and so are a residual (by the product's own sum), GELU and its gradient
// where the graph was fused. Gradients of weights are added to in float32 by the product itself.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/blas.h"
#include "ops/cuda/columns.cuh"
#include "ops/cuda/elements.cuh"
#include "ops/cuda/norm_sums.cuh"
#include "ops/fused.h"

namespace troupe {
namespace {

// linear_activate's attributes begin as linear's do.
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
tr_matmul_shape forward_shape(const tr_graph *graph, const tr_node *node)
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
    return shape;
}

tr_status prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    return plan_new(prepared, device, forward_shape(graph, node), err);
}

tr_status add_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                      tr_error *err)
{
    tr_matmul_shape shape = forward_shape(graph, node);
    shape.accumulate = true;
    return plan_new(prepared, device, shape, err);
}

// Only GELU's tanh form is joined to a linear layer.
tr_status activate_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                           tr_error *err)
{
    tr_matmul_shape shape = forward_shape(graph, node);
    shape.epilogue = node->outputs[1] == TR_NO_VALUE ? TR_EPILOGUE_GELU : TR_EPILOGUE_GELU_KEEP;
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

void multiply(const tr_call *call, const void *a, const void *b, const void *bias, const void *pending,
              void *aux, const void *factor = NULL)
{
    tr_matmul_operands operands = {a, b, bias, pending, (const float *)factor, aux, call->outputs[0]};
    tr__matmul_run(((const linear_plan *)call->prepared)->product, (tr_cuda_context *)call->device, &operands,
                   call->node->op->name);
}

// The bias as the product reads it.
const void *bias_of(const tr_call *call)
{
    const void *bias = call->inputs[2];
    if (!bias || ((const linear_plan *)call->prepared)->bias == TR_F32) return bias;
    int64_t n = tr_shape_last(output_shape(call, 0));
    round_kernel<<<blocks_for(n, 256), 256, 0, tr_cuda_stream(call)>>>((const float *)bias,
                                                                       (bf16 *)call->workspace, n);
    tr_cuda_launched(call);
    return call->workspace;
}

void run(const tr_call *call)
{
    multiply(call, call->inputs[0], call->inputs[1], bias_of(call), NULL, NULL);
}

void add_run(const tr_call *call)
{
    multiply(call, call->inputs[0], call->inputs[1], bias_of(call), call->inputs[3], NULL);
}

void activate_run(const tr_call *call)
{
    multiply(call, call->inputs[0], call->inputs[1], bias_of(call), NULL, call->outputs[1]);
}

// dx (M,I) = dy (M,O) w' (+ pending)
tr_matmul_shape dx_shape(const tr_graph *graph, const tr_node *node)
{
    const tr_value_info *dy = value_of(graph, node->inputs[0]), *dx = value_of(graph, node->outputs[0]);
    tr_matmul_shape shape = {};
    shape.m = tr_shape_rows(&dy->shape);
    shape.n = tr_shape_last(&dx->shape);
    shape.k = tr_shape_last(&dy->shape);
    shape.b_transposed = in_out(node);
    shape.ab = dy->dtype;
    shape.c = dx->dtype;
    return shape;
}

tr_status dx_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    tr_matmul_shape shape = dx_shape(graph, node);
    shape.accumulate = node->inputs[2] != TR_NO_VALUE;
    return plan_new(prepared, device, shape, err);
}

void dx_run(const tr_call *call)
{
    multiply(call, call->inputs[0], call->inputs[1], NULL, call->inputs[2], NULL);
}

// dx (M,I) = factor * dy (M,O) w' (+ pending)
tr_status dx_scaled_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                            tr_error *err)
{
    tr_matmul_shape shape = dx_shape(graph, node);
    shape.accumulate = node->inputs[2] != TR_NO_VALUE;
    shape.scaled = true;
    return plan_new(prepared, device, shape, err);
}

void dx_scaled_run(const tr_call *call)
{
    multiply(call, call->inputs[0], call->inputs[1], NULL, call->inputs[2], NULL, call->inputs[3]);
}

// dh (M,I) = (dy (M,O) w') gelu'(h)
tr_status dx_activate_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                              tr_error *err)
{
    tr_matmul_shape shape = dx_shape(graph, node);
    shape.epilogue = TR_EPILOGUE_GELU_BACKWARD;
    return plan_new(prepared, device, shape, err);
}

void dx_activate_run(const tr_call *call)
{
    multiply(call, call->inputs[0], call->inputs[1], NULL, NULL, call->inputs[2]);
}

// dw (I,O) += x' dy, or (O,I) += dy' x
tr_matmul_shape dw_shape(const tr_graph *graph, const tr_node *node)
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
    return shape;
}

// Whether it is added to is then a number on the device: told by the host that it is not, the library takes kernels that are
// slower here.
tr_status dw_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    tr_matmul_shape shape = dw_shape(graph, node);
    shape.scaled = true;
    return plan_new(prepared, device, shape, err);
}

// What a gradient of a weight is added to.
const void *sum_of(const tr_call *call)
{
    return call->overwrite ? NULL : call->outputs[0];
}

void dw_run(const tr_call *call)
{
    bool turned = !in_out(call->node);
    multiply(call, call->inputs[turned ? 0 : 1], call->inputs[turned ? 1 : 0], NULL, sum_of(call), NULL);
}

// The same, times a factor.
void dw_scaled_run(const tr_call *call)
{
    bool turned = !in_out(call->node);
    multiply(call, call->inputs[turned ? 0 : 1], call->inputs[turned ? 1 : 0], NULL, sum_of(call), NULL,
             call->inputs[2]);
}

// What a row gives to the bias: itself.
template <typename T> struct bias_terms {
    static constexpr int SUMS = 1, WIDE = PACK<T>;
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
    if (tr__has_norm_sums(value_of(call->graph, call->node->inputs[0])))
        sum_bias_as_norms(call);
    else
        TR_BY_STORAGE(call, 0, launch_db<T>(call));
}

size_t db_workspace(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *dy = tr_input_shape(graph, node, 0);
    tr_shape as_norms = tr__norm_sums_shape(dy, 1);
    size_t bytes = sum_columns_workspace(1, tr_shape_rows(dy), tr_shape_last(dy)),
           more = (size_t)tr_shape_elements(&as_norms) * sizeof(float);
    return bytes > more ? bytes : more;
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_linear_kernels[] = {
    {"linear", troupe::run, troupe::workspace, troupe::prepare, troupe::release},
    {"linear_add", troupe::add_run, troupe::workspace, troupe::add_prepare, troupe::release},
    {"linear_activate", troupe::activate_run, troupe::workspace, troupe::activate_prepare, troupe::release},
    {"linear_dx_activate", troupe::dx_activate_run, NULL, troupe::dx_activate_prepare, troupe::release},
    {"linear_dx", troupe::dx_run, NULL, troupe::dx_prepare, troupe::release},
    {"linear_dx_scaled", troupe::dx_scaled_run, NULL, troupe::dx_scaled_prepare, troupe::release},
    {"linear_dw_scaled", troupe::dw_scaled_run, NULL, troupe::dw_prepare, troupe::release, true},
    {"linear_dw", troupe::dw_run, NULL, troupe::dw_prepare, troupe::release, true},
    {"linear_db", troupe::db_run, troupe::db_workspace, NULL, NULL, true},
    {},
};
