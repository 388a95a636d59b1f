/* ops/attention.c - causal attention with grouped heads, for training and with caches for generation.
 * The second output, the log-sum-exp (B,H,T), is kept for the backward, which recomputes probabilities from
 * it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/attention.h"

#include "base/memory.h"
#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <math.h>
#include <string.h>

/* Up to this many new rows, dot products beat packing the cache into blocks. */
enum { FEW_ROWS = 4 };

/* The probabilities of one query row, and the logarithm of their scores' sum. */
static double reference_row(const float *q, const float *k, double *p, int64_t n, int64_t stride,
                            int64_t size, double scale)
{
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) {
        p[j] = 0;
        for (int64_t d = 0; d < size; d++) p[j] += scale * (double)q[d] * (double)k[j * stride + d];
        most = fmax(most, p[j]);
    }
    for (int64_t j = 0; j < n; j++) sum += exp(p[j] - most);
    for (int64_t j = 0; j < n; j++) p[j] = exp(p[j] - most) / sum;
    return most + log(sum);
}

/* Where row t of a head stands in q and y, and row 0 of its keys in k and v. */
static void reference_place(const tr_attention_shape *s, int64_t b, int64_t h, int64_t t, int64_t *q_at,
                            int64_t *kv_at)
{
    *q_at = ((b * s->time + t) * s->heads + h) * s->head_size;
    *kv_at = (b * (s->first + s->time) * s->kv_heads + h / (s->heads / s->kv_heads)) * s->head_size;
}

/* What dropout multiplies a probability by. */
static double kept(const tr_attention_shape *s, int64_t plane, int64_t query, int64_t key)
{
    if (!s->dropout) return 1;
    return (double)tr_dropout_factor(s->dropout, (uint32_t)plane, (uint32_t)query, (uint64_t)key);
}

void tr_attention_reference(const float *q, const float *k, const float *v, float *y, float *lse,
                            const tr_attention_shape *s)
{
    int64_t size = s->head_size, stride = s->kv_heads * size, q_at, kv_at;
    double *p = tr_alloc((size_t)(s->first + s->time) * sizeof *p);
    TR_ASSERT(p);
    for (int64_t r = 0; r < s->batch * s->heads * s->time; r++) {
        int64_t t = r % s->time, h = r / s->time % s->heads, n = s->first + t + 1;
        reference_place(s, r / s->time / s->heads, h, t, &q_at, &kv_at);
        double log_sum = reference_row(q + q_at, k + kv_at, p, n, stride, size, (double)s->scale);
        if (lse) lse[r] = (float)log_sum;
        for (int64_t j = 0; j < n; j++) p[j] *= kept(s, r / s->time, s->first + t, j);
        for (int64_t d = 0; d < size; d++) {
            double sum = 0;
            for (int64_t j = 0; j < n; j++) sum += p[j] * (double)v[kv_at + j * stride + d];
            y[q_at + d] = (float)sum;
        }
    }
    tr_free(p);
}

void tr_attention_backward_reference(const tr_attention_tensors *x, const tr_attention_shape *s)
{
    int64_t size = s->head_size, stride = s->kv_heads * size, q_at, kv_at;
    size_t kv_elements = (size_t)(s->batch * s->time * stride);
    const float *q = x->q, *k = x->k, *v = x->v, *dy = x->dy;
    float *dq = x->dq, *out[] = {x->dk, x->dv};
    double *p = tr_alloc((size_t)s->time * sizeof *p), scale = (double)s->scale;
    double *dk = tr_alloc_zero(kv_elements, sizeof *dk), *dv = tr_alloc_zero(kv_elements, sizeof *dv);
    TR_ASSERT(p && dk && dv);
    for (int64_t r = 0; r < s->batch * s->heads * s->time; r++) {
        int64_t t = r % s->time, h = r / s->time % s->heads;
        reference_place(s, r / s->time / s->heads, h, t, &q_at, &kv_at);
        reference_row(q + q_at, k + kv_at, p, t + 1, stride, size, scale);
        double delta = 0;
        for (int64_t d = 0; d < size; d++) {
            double y = 0;
            for (int64_t j = 0; j <= t; j++)
                y += p[j] * kept(s, r / s->time, t, j) * (double)v[kv_at + j * stride + d];
            delta += y * (double)dy[q_at + d];
            dq[q_at + d] = 0;
        }
        for (int64_t j = 0; j <= t; j++) {
            double dp = 0, factor = kept(s, r / s->time, t, j);
            for (int64_t d = 0; d < size; d++)
                dp += factor * (double)dy[q_at + d] * (double)v[kv_at + j * stride + d];
            double ds = scale * p[j] * (dp - delta);
            for (int64_t d = 0; d < size; d++) {
                dq[q_at + d] += (float)(ds * (double)k[kv_at + j * stride + d]);
                dk[kv_at + j * stride + d] += ds * (double)q[q_at + d];
                dv[kv_at + j * stride + d] += factor * p[j] * (double)dy[q_at + d];
            }
        }
    }
    for (size_t i = 0; i < kv_elements; i++) out[0][i] = (float)dk[i], out[1][i] = (float)dv[i];
    tr_free(dv), tr_free(dk), tr_free(p);
}

static const tr_attention_options *options_of(const tr_node *node)
{
    return tr_node_attributes(node);
}

static tr_attention_shape attention_shape(const tr_graph *graph, const tr_node *node)
{
    const tr_attention_options *options = options_of(node);
    const tr_shape *q = tr_input_shape(graph, node, 0);
    return (tr_attention_shape){.batch = q->dims[0],
                                .time = q->dims[1],
                                .heads = options->heads,
                                .kv_heads = options->kv_heads,
                                .head_size = options->head_size,
                                .scale = options->scale,
                                .dtype = tr_input_dtype(graph, node, 0)};
}

/* Of 2 T (T + 1) / 2 pairs and D: a product for the scores, one for the output. */
static double flops(const tr_graph *graph, const tr_node *node)
{
    tr_attention_shape s = attention_shape(graph, node);
    double pairs = (double)s.time * (double)(s.time + 1) / 2;
    return 4.0 * (double)(s.batch * s.heads * s.head_size) * pairs;
}

/* dq, dk, dv.   inputs: q, k, v, y, lse, dy. */
static tr_status backward_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    (void)err;
    for (int i = 0; i < 3; i++)
        outputs[i] = (tr_value_info){.dtype = tr_input_dtype(graph, node, i),
                                     .shape = *tr_input_shape(graph, node, i)};
    *n_outputs = 3;
    return TR_OK;
}

/* Five products where the forward has two. */
static double backward_flops(const tr_graph *graph, const tr_node *node)
{
    return 2.5 * flops(graph, node);
}

static size_t backward_workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    tr_attention_shape s = attention_shape(graph, node);
    return tr_cpu_attention_backward_workspace(&s, n_threads);
}

static void backward_run(const tr_call *call)
{
    tr_attention_shape s = attention_shape(call->graph, call->node);
    const attention_backward_attributes *attributes = tr_node_attributes(call->node);
    tr_dropout_mask mask;
    if (tr_dropout_mask_init(&mask, call->random, attributes->options.dropout, attributes->use))
        s.dropout = &mask;
    tr_attention_tensors tensors = {.q = call->inputs[0],
                                    .k = call->inputs[1],
                                    .v = call->inputs[2],
                                    .y = call->inputs[3],
                                    .lse = call->inputs[4],
                                    .dy = call->inputs[5],
                                    .dq = call->outputs[0],
                                    .dk = call->outputs[1],
                                    .dv = call->outputs[2]};
    tr_cpu_attention_backward(&tensors, call->workspace, &s, call->pool);
}

static const tr_op backward_op = {
    .name = "attention_backward",
    .infer = backward_infer,
    .flops = backward_flops,
    .workspace = backward_workspace,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = backward_run},
};

static tr_status check_options(const tr_node *node, tr_error *err)
{
    const tr_attention_options *options = options_of(node);
    if (options->heads < 1 || options->kv_heads < 1 || options->head_size < 1 ||
        options->heads % options->kv_heads)
        return tr_fail(err, TR_EINVAL,
                       "%s: %d heads of size %d with %d key-value heads; these must divide the heads",
                       node->op->name, options->heads, options->head_size, options->kv_heads);
    if (!(options->dropout >= 0 && options->dropout < 1))
        return tr_fail(err, TR_EINVAL, "%s: the dropout rate %g is not in [0, 1)", node->op->name,
                       options->dropout);
    return TR_OK;
}

static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    const tr_attention_options *options = options_of(node);
    tr_status status = check_options(node, err);
    if (status == TR_OK) status = tr_infer_activation(graph, node, 0, "q", err);
    if (status != TR_OK) return status;
    tr_dtype dtype = tr_input_dtype(graph, node, 0);
    const tr_shape *q = tr_input_shape(graph, node, 0);
    if (q->rank != 3)
        return tr_fail(err, TR_EINVAL, "%s: 'q' has rank %d; it must be (batch, time, heads * size)",
                       node->op->name, q->rank);
    int64_t size = options->head_size;
    tr_shape wanted = TR_SHAPE3(q->dims[0], q->dims[1], options->heads * size);
    tr_shape kv = TR_SHAPE3(q->dims[0], q->dims[1], options->kv_heads * size);
    status = tr_infer_shaped(graph, node, 0, "q", dtype, &wanted, err);
    if (status == TR_OK) status = tr_infer_shaped(graph, node, 1, "k", dtype, &kv, err);
    if (status == TR_OK) status = tr_infer_shaped(graph, node, 2, "v", dtype, &kv, err);
    if (status != TR_OK) return status;
    outputs[0] = (tr_value_info){.dtype = dtype, .shape = *q};
    outputs[1] = (tr_value_info){.dtype = TR_F32, .shape = TR_SHAPE3(q->dims[0], options->heads, q->dims[1])};
    *n_outputs = 2;
    return TR_OK;
}

static void gradient(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted)
{
    if (output_gradients[0] == TR_NO_VALUE) return;
    tr_value inputs[] = {node->inputs[0],  node->inputs[1],  node->inputs[2],
                         node->outputs[0], node->outputs[1], output_gradients[0]};
    attention_backward_attributes attributes = {.options = *options_of(node), .use = node->use};
    int32_t added = tr_graph_add(graph, &backward_op, inputs, 6, &attributes, sizeof attributes, NULL, 0);
    if (added < 0) return;
    tr_value outputs[3];
    memcpy(outputs, tr_graph_node(graph, added)->outputs, sizeof outputs);
    for (int i = 0; i < 3; i++)
        if (wanted[i]) input_gradients[i] = tr_gradient_add(graph, input_gradients[i], outputs[i]);
}

static size_t workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    tr_attention_shape s = attention_shape(graph, node);
    return tr_cpu_attention_workspace(&s, n_threads);
}

static void run(const tr_call *call)
{
    tr_attention_shape s = attention_shape(call->graph, call->node);
    tr_dropout_mask mask;
    if (tr_dropout_mask_init(&mask, call->random, options_of(call->node)->dropout, call->node->use))
        s.dropout = &mask;
    tr_cpu_attention(call->inputs[0], call->inputs[1], call->inputs[2], call->outputs[0], call->outputs[1],
                     call->workspace, &s, call->pool);
}

static const tr_op attention_op = {
    .name = "attention",
    .infer = infer,
    .gradient = gradient,
    .flops = flops,
    .workspace = workspace,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = run},
};

tr_value tr_attention(tr_graph *g, tr_value q, tr_value k, tr_value v, const tr_attention_options *options)
{
    return tr_graph_add1(g, &attention_op, (tr_value[]){q, k, v}, 3, options, sizeof *options);
}

/* inputs: q, k, v, cache_k, cache_v (max_T,K*D), position (1). */
static tr_status cached_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                              int *n_outputs, tr_error *err)
{
    const tr_attention_options *options = options_of(node);
    tr_status status = infer(graph, node, outputs, n_outputs, err);
    if (status == TR_OK) status = tr_infer_shaped(graph, node, 5, "position", TR_I32, &TR_SHAPE1(1), err);
    if (status != TR_OK) return status;
    tr_dtype dtype = tr_input_dtype(graph, node, 0);
    const tr_shape *q = tr_input_shape(graph, node, 0), *cache = tr_input_shape(graph, node, 3);
    tr_shape wanted = TR_SHAPE2(cache->dims[0], (int64_t)options->kv_heads * options->head_size);
    status = tr_infer_shaped(graph, node, 3, "cache_k", dtype, &wanted, err);
    if (status == TR_OK) status = tr_infer_shaped(graph, node, 4, "cache_v", dtype, &wanted, err);
    if (status != TR_OK) return status;
    if (q->dims[0] != 1 || q->dims[1] > cache->dims[0])
        return tr_fail(
            err, TR_EINVAL, "%s: %lld sequences of %lld rows; a cache of %lld rows holds one sequence",
            node->op->name, (long long)q->dims[0], (long long)q->dims[1], (long long)cache->dims[0]);
    *n_outputs = 1;
    return TR_OK;
}

/* At the bound: the new rows stand last in the cache. */
static size_t cached_workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    tr_attention_shape s = attention_shape(graph, node);
    s.first = tr_input_shape(graph, node, 3)->dims[0] - s.time;
    return tr_cpu_attention_workspace(&s, n_threads);
}

static void cached_run(const tr_call *call)
{
    tr_attention_shape s = attention_shape(call->graph, call->node);
    s.first = *(const int32_t *)call->inputs[5];
    size_t row_bytes = (size_t)(s.kv_heads * s.head_size) * tr_dtype_bytes(s.dtype);
    TR_ASSERT(s.first >= 0 && s.first + s.time <= tr_input_shape(call->graph, call->node, 3)->dims[0]);
    char *keys = call->inputs[3], *values = call->inputs[4];
    memcpy(keys + (size_t)s.first * row_bytes, call->inputs[1], (size_t)s.time * row_bytes);
    memcpy(values + (size_t)s.first * row_bytes, call->inputs[2], (size_t)s.time * row_bytes);
    if (s.time <= FEW_ROWS)
        tr_cpu_attention_rows(call->inputs[0], keys, values, call->outputs[0], call->workspace, &s,
                              call->pool);
    else
        tr_cpu_attention(call->inputs[0], keys, values, call->outputs[0], NULL, call->workspace, &s,
                         call->pool);
}

static const tr_op cached_op = {
    .name = "attention_cached",
    .infer = cached_infer,
    .flops = flops,
    .workspace = cached_workspace,
    .alias_input = -1,
    .run = {[TR_DEVICE_CPU] = cached_run},
};

tr_value tr_attention_cached(tr_graph *g, tr_value q, tr_value k, tr_value v, tr_value cache_k,
                             tr_value cache_v, tr_value position, const tr_attention_options *options)
{
    tr_value inputs[] = {q, k, v, cache_k, cache_v, position};
    return tr_graph_add1(g, &cached_op, inputs, 6, options, sizeof *options);
}
