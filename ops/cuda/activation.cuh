// ops/cuda/activation.cuh - the activations and their slopes, as ops/activate.c's reference has them.
// SPDX-License-Identifier: Apache-2.0
#ifndef TROUPE_OPS_CUDA_ACTIVATION_CUH
#define TROUPE_OPS_CUDA_ACTIVATION_CUH

#include "ops/operations.h"

namespace troupe {

__device__ inline float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

// GELU's tanh form through the sigmoid: tanh u = 2 sigmoid(2u) - 1.
template <tr_activation KIND> __device__ inline void activation(float x, float *value, float *slope)
{
    if (KIND == TR_RELU) {
        *value = x > 0 ? x : 0;
        *slope = x > 0 ? 1 : 0;
    } else if (KIND == TR_SILU) {
        float s = sigmoid(x);
        *value = x * s;
        *slope = s * (1 + x * (1 - s));
    } else if (KIND == TR_GELU_TANH) {
        float square = fminf(x * x, 1e4f); // bounded where the sigmoid is 0 or 1 anyway
        float s = sigmoid(x * (1.595769122f + 0.071354816f * square));
        *value = x * s;
        *slope = s * (1 + x * (1 - s) * (1.595769122f + 0.214064449f * square));
    } else {
        float normal = 0.5f * erfcf(x * -0.707106781f);
        *value = x * normal;
        *slope = normal + x * expf(x * x * -0.5f) * 0.398942280f;
    }
}

} // namespace troupe

#endif
