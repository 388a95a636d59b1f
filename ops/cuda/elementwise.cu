// ops/cuda/elementwise.cu - add, activate, gated and their backwards: one kernel, several functions.
// Every thread reads its pack before it writes it, so an output may be an input.
// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/activation.cuh"
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

enum { THREADS = 256 };

template <int NI, int NO, typename T> struct operands {
    const T *in[NI];
    T *out[NO]; // NULL where not wanted
    int64_t n;
};

template <int NI, int NO, int V, typename T, typename F>
__device__ void apply(const operands<NI, NO, T> &o, int64_t i, F f)
{
    float in[NI][V], out[NO][V];
#pragma unroll
    for (int k = 0; k < NI; k++) load<V>(o.in[k] + i, in[k]);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float x[NI], y[NO];
#pragma unroll
        for (int k = 0; k < NI; k++) x[k] = in[k][j];
        f(x, y);
#pragma unroll
        for (int k = 0; k < NO; k++) out[k][j] = y[k];
    }
#pragma unroll
    for (int k = 0; k < NO; k++)
        if (o.out[k]) store<V>(o.out[k] + i, out[k]);
}

template <int NI, int NO, typename T, typename F>
__global__ void __launch_bounds__(THREADS) elementwise_kernel(operands<NI, NO, T> o, F f)
{
    constexpr int V = PACK<T>;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (i + V <= o.n) {
        apply<NI, NO, V>(o, i, f);
        return;
    }
    for (; i < o.n; i++) apply<NI, NO, 1>(o, i, f);
}

template <int NI, int NO, typename T, typename F> void launch(const tr_call *call, F f)
{
    operands<NI, NO, T> o = {};
    for (int k = 0; k < NI; k++) o.in[k] = (const T *)call->inputs[k];
    for (int k = 0; k < NO; k++) o.out[k] = (T *)call->outputs[k];
    o.n = tr_shape_elements(input_shape(call, 0));
    elementwise_kernel<NI, NO, T, F>
        <<<blocks_for(o.n, THREADS * PACK<T>), THREADS, 0, tr_cuda_stream(call)>>>(o, f);
    tr_cuda_launched(call);
}

struct add {
    __device__ void operator()(const float *x, float *y) const
    {
        y[0] = x[0] + x[1];
    }
};

template <tr_activation KIND> struct activate {
    __device__ void operator()(const float *x, float *y) const
    {
        float slope;
        activation<KIND>(x[0], y, &slope);
    }
};

// dy, x -> dx
template <tr_activation KIND> struct activate_backward {
    __device__ void operator()(const float *x, float *y) const
    {
        float value, slope;
        activation<KIND>(x[1], &value, &slope);
        y[0] = x[0] * slope;
    }
};

template <tr_activation KIND> struct gated {
    __device__ void operator()(const float *x, float *y) const
    {
        float value, slope;
        activation<KIND>(x[0], &value, &slope);
        y[0] = value * x[1];
    }
};

// dy, gate, up -> dgate, dup
template <tr_activation KIND> struct gated_backward {
    __device__ void operator()(const float *x, float *y) const
    {
        float value, slope;
        activation<KIND>(x[1], &value, &slope);
        y[0] = x[0] * x[2] * slope;
        y[1] = x[0] * value;
    }
};

void run_add(const tr_call *call)
{
    TR_BY_STORAGE(call, 0, (launch<2, 1, T>(call, add())));
}

template <int NI, int NO, template <tr_activation> class F> void launch_kind(const tr_call *call)
{
    tr_activation kind = ((const activate_attributes *)tr_node_attributes(call->node))->kind;
    TR_BY_STORAGE(
        call, 0, switch (kind) {
            case TR_GELU_TANH: launch<NI, NO, T>(call, F<TR_GELU_TANH>()); break;
            case TR_GELU_ERF: launch<NI, NO, T>(call, F<TR_GELU_ERF>()); break;
            case TR_SILU: launch<NI, NO, T>(call, F<TR_SILU>()); break;
            case TR_RELU: launch<NI, NO, T>(call, F<TR_RELU>()); break;
        });
}

static_assert(sizeof(activate_attributes) == sizeof(gated_attributes), "launch_kind reads both as one");

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_elementwise_kernels[] = {
    {"add", troupe::run_add},
    {"activate", troupe::launch_kind<1, 1, troupe::activate>},
    {"activate_backward", troupe::launch_kind<2, 1, troupe::activate_backward>},
    {"gated", troupe::launch_kind<2, 1, troupe::gated>},
    {"gated_backward", troupe::launch_kind<3, 2, troupe::gated_backward>},
    {},
};
