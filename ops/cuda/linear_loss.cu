// ops/cuda/linear_loss.cu - the last linear layer, the loss and their gradients, by chunks of rows: products by cuBLASLt, between
// them one pass over a chunk of logits, which leaves their gradient in their place for a factor of 1. The products that
// read it multiply by the factor. The weight's gradient is added to chunk by chunk, in float32, by the product itself.
// SPDX-License-Identifier: Apache-2.0
#include "ops/linear_loss.h"

#include "ops/cuda/blas.h"
#include "ops/cuda/cross_entropy.h"
#include "ops/cuda/elements.cuh"

namespace troupe {
namespace {

const linear_loss_attributes *attributes_of(const tr_node *node)
{
    return (const linear_loss_attributes *)tr_node_attributes(node);
}

// What a chunk of so many rows takes; of the forward the first alone.
struct products {
    tr_matmul_plan *logits, *dx, *dw;
};

struct loss_plan {
    products chunk, last; // the last chunk has fewer rows, or is like the others
};

size_t workspace(const tr_graph *graph, const tr_node *node)
{
    return tr__linear_loss_workspace(graph, node).end;
}

struct sizes {
    int64_t rows, in, vocabulary, chunk;
    bool in_out;
    tr_dtype dtype;
};

sizes sizes_of(const tr_graph *graph, const tr_node *node)
{
    const tr_shape *x = tr_input_shape(graph, node, 0);
    return {tr_shape_rows(x),
            tr_shape_last(x),
            tr__linear_loss_vocabulary(graph, node),
            attributes_of(node)->rows,
            attributes_of(node)->in_out != 0,
            tr_input_dtype(graph, node, 0)};
}

tr_matmul_shape logits_shape(const sizes &s, int64_t rows)
{
    tr_matmul_shape shape = {};
    shape.m = rows;
    shape.n = s.vocabulary;
    shape.k = s.in;
    shape.b_transposed = !s.in_out;
    shape.ab = shape.c = s.dtype;
    return shape;
}

tr_matmul_shape dx_shape(const sizes &s, int64_t rows)
{
    tr_matmul_shape shape = {};
    shape.m = rows;
    shape.n = s.in;
    shape.k = s.vocabulary;
    shape.b_transposed = s.in_out;
    shape.scaled = true;
    shape.ab = shape.c = s.dtype;
    return shape;
}

tr_matmul_shape dw_shape(const sizes &s, int64_t rows)
{
    tr_matmul_shape shape = {};
    shape.m = s.in_out ? s.in : s.vocabulary;
    shape.n = s.in_out ? s.vocabulary : s.in;
    shape.k = rows;
    shape.a_transposed = true;
    shape.accumulate = true;
    shape.scaled = true;
    shape.ab = s.dtype;
    shape.c = TR_F32;
    return shape;
}

void destroy(products *p)
{
    tr__matmul_plan_destroy(p->logits);
    tr__matmul_plan_destroy(p->dx);
    tr__matmul_plan_destroy(p->dw);
}

tr_status make(products *p, tr_cuda_context *context, const sizes &s, int64_t rows, bool backward,
               tr_error *err)
{
    tr_matmul_shape logits = logits_shape(s, rows), dx = dx_shape(s, rows), dw = dw_shape(s, rows);
    tr_status status = tr__matmul_plan_new(&p->logits, context, &logits, err);
    if (status == TR_OK && backward) status = tr__matmul_plan_new(&p->dx, context, &dx, err);
    if (status == TR_OK && backward) status = tr__matmul_plan_new(&p->dw, context, &dw, err);
    return status;
}

void release(void *prepared, void *device)
{
    (void)device;
    loss_plan *plan = (loss_plan *)prepared;
    destroy(&plan->chunk);
    destroy(&plan->last);
    delete plan;
}

tr_status plan_new(const tr_graph *graph, const tr_node *node, void *device, bool backward, void **prepared,
                   tr_error *err)
{
    sizes s = sizes_of(graph, node);
    if (s.chunk * s.in * (int64_t)tr_dtype_bytes(s.dtype) % 16 != 0)
        return tr_fail(
            err, TR_EUNSUPPORTED,
            "chunks of %lld tokens' logits do not begin on 16 bytes of a hidden state of %lld; on a GPU "
            "give a multiple of 8",
            (long long)s.chunk, (long long)s.in);
    loss_plan *plan = new loss_plan{};
    tr_cuda_context *context = (tr_cuda_context *)device;
    int64_t rest = s.rows % s.chunk;
    tr_status status = make(&plan->chunk, context, s, s.chunk, backward, err);
    if (status == TR_OK && rest > 0) status = make(&plan->last, context, s, rest, backward, err);
    if (status != TR_OK) {
        release(plan, device);
        return status;
    }
    *prepared = plan;
    return TR_OK;
}

tr_status prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared, tr_error *err)
{
    return plan_new(graph, node, device, false, prepared, err);
}

tr_status backward_prepare(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                           tr_error *err)
{
    return plan_new(graph, node, device, true, prepared, err);
}

// A pass over the rows.
struct pass {
    const tr_call *call;
    sizes s;
    void *logits; // a chunk of them
    double *losses;

    explicit pass(const tr_call *of) : call(of), s(sizes_of(of->graph, of->node)), logits(of->workspace)
    {
        losses =
            (double *)((char *)of->workspace + tr__linear_loss_workspace(of->graph, of->node).row_losses);
    }
    int64_t rows_from(int64_t first) const
    {
        return s.rows - first < s.chunk ? s.rows - first : s.chunk;
    }
    const products &of(int64_t rows) const
    {
        const loss_plan *plan = (const loss_plan *)call->prepared;
        return rows == s.chunk ? plan->chunk : plan->last;
    }
    char *hidden(void *from, int64_t first) const
    {
        return (char *)from + (size_t)(first * s.in) * tr_dtype_bytes(s.dtype);
    }
    const int32_t *targets(int64_t first) const
    {
        return (const int32_t *)call->inputs[2] + first;
    }
    void multiply(const tr_matmul_plan *plan, const void *a, const void *b, const void *pending,
                  const void *factor, void *c) const
    {
        tr_matmul_operands operands = {a, b, NULL, pending, (const float *)factor, NULL, c};
        tr__matmul_run(plan, (tr_cuda_context *)call->device, &operands, call->node->op->name);
    }
    void note(cudaError_t code) const
    {
        if (code != cudaSuccess) tr_cuda_note((tr_cuda_context *)call->device, code, call->node->op->name);
    }
    void make_logits(int64_t first, int64_t rows) const
    {
        multiply(of(rows).logits, hidden(call->inputs[0], first), call->inputs[1], NULL, NULL, logits);
    }
    void total(void *loss) const
    {
        note(tr__cuda_loss_total(tr_cuda_stream(call), losses, (double *)loss, s.rows));
    }
};

void run(const tr_call *call)
{
    if (tr__linear_loss_waits(call)) return;
    pass p(call);
    for (int64_t first = 0; first < p.s.rows; first += p.s.chunk) {
        int64_t rows = p.rows_from(first);
        p.make_logits(first, rows);
        p.note(tr__cuda_loss_rows(tr_cuda_stream(call), p.logits, p.targets(first), NULL, p.losses + first,
                                  rows, p.s.vocabulary, p.s.dtype));
    }
    p.total(call->outputs[0]);
}

void backward_run(const tr_call *call)
{
    pass p(call);
    void *factor = call->inputs[3], *dw = call->outputs[1];
    for (int64_t first = 0; first < p.s.rows; first += p.s.chunk) {
        int64_t rows = p.rows_from(first);
        void *x = p.hidden(call->inputs[0], first);
        p.make_logits(first, rows);
        p.note(tr__cuda_loss_slopes(tr_cuda_stream(call), p.logits, p.targets(first), p.losses + first,
                                    p.logits, rows, p.s.vocabulary, p.s.dtype));
        p.multiply(p.of(rows).dx, p.logits, call->inputs[1], NULL, factor, p.hidden(call->outputs[0], first));
        p.multiply(p.of(rows).dw, p.s.in_out ? x : p.logits, p.s.in_out ? p.logits : x,
                   first == 0 && call->overwrite ? NULL : dw, factor, dw);
    }
    p.total(call->outputs[2]);
}

} // namespace
} // namespace troupe

extern "C" const tr_kernel tr__cuda_linear_loss_kernels[] = {
    {"linear_loss", troupe::run, troupe::workspace, troupe::prepare, troupe::release},
    {"linear_loss_backward", troupe::backward_run, troupe::workspace, troupe::backward_prepare,
     troupe::release, true},
    {},
};
