/* ops/linear_loss.c - see linear_loss.h. On the CPU a chunk is what linear and cross_entropy do with as many rows. Losses of rows are
 * kept for all and added in their order, as without chunks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/linear_loss.h"

#include "base/memory.h"
#include "ops/cpu/cross_entropy.h"
#include "ops/cpu/linear.h"

static const linear_loss_attributes *attributes_of(const tr_node *node)
{
    return tr_node_attributes(node);
}

static size_t up(size_t bytes)
{
    enum { LINE = 256 }; /* what the widest loads of any device want */
    return (bytes + LINE - 1) / LINE * LINE;
}

linear_loss_workspace tr__linear_loss_workspace(const tr_graph *graph, const tr_node *node)
{
    size_t rows = (size_t)attributes_of(node)->rows,
           columns = (size_t)tr__linear_loss_vocabulary(graph, node);
    linear_loss_workspace w;
    w.lse = up(rows * columns * tr_dtype_bytes(tr_input_dtype(graph, node, 0)));
    w.row_losses = w.lse + up(rows * sizeof(float));
    w.end = w.row_losses + (size_t)tr_shape_elements(tr_input_shape(graph, node, 2)) * sizeof(double);
    return w;
}

static size_t workspace(const tr_graph *graph, const tr_node *node, int n_threads)
{
    (void)n_threads;
    return tr__linear_loss_workspace(graph, node).end;
}

/* A pass over the rows. */
typedef struct pass {
    const tr_call *call;
    const char *x; /* of dtype */
    const void *w; /* likewise */
    const int32_t *targets;
    void *logits; /* a chunk of them, of dtype */
    float *lse;
    double *row_losses;
    int64_t rows, in, vocabulary, chunk;
    size_t row_bytes; /* of x */
    bool in_out;
    tr_dtype dtype;
} pass;

static pass begin_pass(const tr_call *call)
{
    const linear_loss_attributes *attributes = attributes_of(call->node);
    const tr_shape *x = tr_input_shape(call->graph, call->node, 0);
    linear_loss_workspace at = tr__linear_loss_workspace(call->graph, call->node);
    tr_dtype dtype = tr_input_dtype(call->graph, call->node, 0);
    return (pass){.call = call,
                  .x = call->inputs[0],
                  .w = call->inputs[1],
                  .targets = call->inputs[2],
                  .logits = call->workspace,
                  .lse = (float *)(void *)((char *)call->workspace + at.lse),
                  .row_losses = (double *)(void *)((char *)call->workspace + at.row_losses),
                  .rows = tr_shape_rows(x),
                  .in = tr_shape_last(x),
                  .vocabulary = tr__linear_loss_vocabulary(call->graph, call->node),
                  .chunk = attributes->rows,
                  .row_bytes = (size_t)tr_shape_last(x) * tr_dtype_bytes(dtype),
                  .in_out = attributes->in_out != 0,
                  .dtype = dtype};
}

static int64_t rows_from(const pass *p, int64_t first)
{
    return p->rows - first < p->chunk ? p->rows - first : p->chunk;
}

static void chunk_losses(const pass *p, int64_t first, int64_t n)
{
    double of_chunk;
    tr_cpu_linear(p->x + (size_t)first * p->row_bytes, p->w, NULL, p->logits, n, p->in, p->vocabulary,
                  p->in_out, p->dtype, p->call->pool);
    tr_cpu_cross_entropy(p->logits, p->targets + first, &of_chunk, p->lse, p->row_losses + first, n,
                         p->vocabulary, p->dtype, p->call->pool);
}

static double total(const pass *p)
{
    double sum = 0;
    for (int64_t r = 0; r < p->rows; r++) sum += p->row_losses[r];
    return sum;
}

static void run(const tr_call *call)
{
    if (tr__linear_loss_waits(call)) return;
    pass p = begin_pass(call);
    for (int64_t first = 0; first < p.rows; first += p.chunk) chunk_losses(&p, first, rows_from(&p, first));
    *(double *)call->outputs[0] = total(&p);
}

static void backward_run(const tr_call *call)
{
    pass p = begin_pass(call);
    float factor = *(const float *)call->inputs[3];
    char *dx = call->outputs[0];
    for (int64_t first = 0; first < p.rows; first += p.chunk) {
        int64_t n = rows_from(&p, first);
        chunk_losses(&p, first, n);
        tr_cpu_cross_entropy_backward(p.logits, p.targets + first, p.lse, factor, p.logits, n, p.vocabulary,
                                      p.dtype, call->pool);
        tr_cpu_linear_dx(p.logits, p.w, dx + (size_t)first * p.row_bytes, n, p.in, p.vocabulary, p.in_out,
                         false, p.dtype, call->pool);
        tr_cpu_linear_dw(p.logits, p.x + (size_t)first * p.row_bytes, call->outputs[1], n, p.in, p.vocabulary,
                         p.in_out, p.dtype, call->pool);
    }
    *(double *)call->outputs[2] = total(&p);
}

/* Shapes were checked when the nodes were built that it replaces. */
static tr_status infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err)
{
    (void)graph, (void)node, (void)err;
    outputs[0] = (tr_value_info){.dtype = TR_F64, .shape = TR_SHAPE1(1)};
    *n_outputs = 1;
    return TR_OK;
}

static tr_status backward_infer(const tr_graph *graph, const tr_node *node, tr_value_info *outputs,
                                int *n_outputs, tr_error *err)
{
    (void)err;
    outputs[0] = tr_infer_like(graph, node, 0);
    outputs[1] = (tr_value_info){.dtype = TR_F32, .shape = *tr_input_shape(graph, node, 1)};
    outputs[2] = (tr_value_info){.dtype = TR_F64, .shape = TR_SHAPE1(1)};
    *n_outputs = 3;
    return TR_OK;
}

/* Of a pass with so many products, and so much for each logit beside. */
static double pass_flops(const tr_graph *graph, const tr_node *node, double products, double others)
{
    double rows = (double)tr_shape_rows(tr_input_shape(graph, node, 0));
    return rows * (2.0 * products * (double)tr_shape_elements(tr_input_shape(graph, node, 1)) +
                   others * (double)tr__linear_loss_vocabulary(graph, node));
}

/* Of a run that trains. */
static double flops(const tr_graph *graph, const tr_node *node)
{
    return attributes_of(node)->has_backward ? 0 : pass_flops(graph, node, 1, 4);
}

static double backward_flops(const tr_graph *graph, const tr_node *node)
{
    return pass_flops(graph, node, 3, 8);
}

const tr_op tr__linear_loss_op = {.name = "linear_loss",
                                  .infer = infer,
                                  .flops = flops,
                                  .workspace = workspace,
                                  .alias_input = -1,
                                  .run = {[TR_DEVICE_CPU] = run}};

const tr_op tr__linear_loss_backward_op = {.name = "linear_loss_backward",
                                           .infer = backward_infer,
                                           .flops = backward_flops,
                                           .workspace = workspace,
                                           .alias_input = -1,
                                           .run = {[TR_DEVICE_CPU] = backward_run}};
