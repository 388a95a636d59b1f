/* ops/autodiff.h - adds the backward of a graph to it.
 * Works on whole models and on pieces alike: the gradient of an output comes in as a value (an INPUT bound to
 * the message from the next stage, or the loss's factor), the gradient of an input goes out as a value
 * (marked as output, for the stage before). Gradients of parameters are added to TR_VALUE_GRADIENT values,
 * one for each use. Nodes are appended in reverse order of the forward, input gradients in phase BACKWARD,
 * parameter gradients in phase WEIGHT; both keep their unit.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_AUTODIFF_H
#define TROUPE_OPS_AUTODIFF_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* outputs[i] has the gradient output_gradients[i] (an INPUT of the same shape;
 * for tr_cross_entropy's loss a f32 (1)). Fills input_gradients[i] with the gradient of inputs[i],
 * TR_NO_VALUE where nothing flows. inputs may be none. */
tr_status tr_autodiff(tr_graph *graph, const tr_value *outputs, const tr_value *output_gradients,
                      int n_outputs, const tr_value *inputs, tr_value *input_gradients, int n_inputs,
                      tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
