/* ops/dropout.c - y = x * mask / (1 - rate).    x, y (...) bf16|f32; y overwrites and may be x.
 * Products rather than choices: what is not a number stays so, and is found.
 * The backward is the same with the gradient for x, and draws by the use of the forward node.
 * Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/dropout.h"

#include "base/hash.h"
#include "base/rng.h"
#include "ops/attributes.h"
#include "ops/cpu/dropout.h"
#include "ops/infer.h"
#include "ops/operations.h"

#include <math.h>
#include <string.h>

bool tr_dropout_mask_init(tr_dropout_mask *out, const tr_random *random, double rate, int32_t use)
{
    if (!random->training || !(rate > 0)) return false;
    const uint64_t stream[2] = {tr_hash64_text("dropout"), (uint64_t)use};
    const tr_rng_key key = {.seed = random->seed,
                            .stream = tr_hash64(stream, sizeof stream),
                            .step = random->step,
                            .microbatch = random->microbatch};
    double threshold = rint(rate * 0x1p32);
    out->threshold = threshold < 0x1p32 ? (uint32_t)threshold : UINT32_MAX;
    out->scale = (float)(1 / (1 - rate));
    tr_rng_fold(&key, out->key);
    return true;
}

float tr_dropout_factor(const tr_dropout_mask *self, uint32_t plane, uint32_t row, uint64_t column)
{
    uint64_t block = column / 64 * 16 + column % 16;
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), row, plane};
    uint32_t words[4];
    tr_philox(counter, self->key, words);
    return words[column / 16 % 4] < self->threshold ? 0 : self->scale;
}

void tr_dropout_reference(const float *x, float *y, int64_t n, const tr_dropout_mask *mask)
{
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * tr_dropout_factor(mask, 0, 0, (uint64_t)i);
}

static const dropout_attributes *attributes_of(const tr_node *node)
{
    return tr_node_attributes(node);
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    double rate = attributes_of(node)->rate;
    tr_status status = tr_infer_activation(graph, node, 0, "x", err);
    if (status != TR_OK) return status;
    if (!(rate >= 0 && rate < 1))
        return tr_fail(err, TR_EINVAL, "%s: the rate %g is not in [0, 1)", node->op->name, rate);
    outputs[0] = tr_infer_like(graph, node, 0);
    *n_outputs = 1;
    return TR_OK;
}

/* About what a quarter of a block of Philox takes; only for shares of time. */
static double flops(const tr_graph *graph, const tr_node *node)
{
    return 30.0 * (double)tr_shape_elements(tr_input_shape(graph, node, 0));
}

static void run_with(const tr_call *call, int32_t use)
{
    tr_dropout_mask mask;
    tr_dtype dtype = tr_input_dtype(call->graph, call->node, 0);
    int64_t n = tr_shape_elements(tr_input_shape(call->graph, call->node, 0));
    if (tr_dropout_mask_init(&mask, call->random, attributes_of(call->node)->rate, use))
        tr_cpu_dropout(call->inputs[0], call->outputs[0], n, &mask, dtype, call->pool);
    else if (call->outputs[0] != call->inputs[0])
        memcpy(call->outputs[0], call->inputs[0], (size_t)n * tr_dtype_bytes(dtype));
}

static void run_cpu(const tr_call *call)
{
    run_with(call, call->node->use);
}

static void run_backward_cpu(const tr_call *call)
{
    run_with(call, attributes_of(call->node)->use);
}

static const tr_op dropout_backward_op = {
    .name = "dropout_backward",
    .infer = infer,
    .flops = flops,
    .alias_input = 0,
    .run = {[TR_DEVICE_CPU] = run_backward_cpu},
};

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    if (!wanted[0] || output_gradients[0] == TR_NO_VALUE) return;
    dropout_attributes attributes = {.rate = attributes_of(node)->rate, .use = node->use};
    tr_value dx =
        tr_graph_add1(graph, &dropout_backward_op, output_gradients, 1, &attributes, sizeof attributes);
    input_gradients[0] = tr_gradient_add(graph, input_gradients[0], dx);
}

static const tr_op dropout_op = {
    .name = "dropout",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .alias_input = 0,
    .is_light = true,
    .run = {[TR_DEVICE_CPU] = run_cpu},
};

tr_value tr_dropout(tr_graph *g, tr_value x, double rate)
{
    dropout_attributes attributes = {.rate = rate};
    if (rate == 0) return x;
    return tr_graph_add1(g, &dropout_op, &x, 1, &attributes, sizeof attributes);
}
