/* ops/chunk_logits.c - see chunk_logits.h. The loss and what belongs to it are found; then the graph is copied without them, the
 * loss as one node, and the gradient of the hidden state as another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/chunk_logits.h"

#include "ops/attributes.h"
#include "ops/infer.h"
#include "ops/linear_loss.h"
#include "ops/rewrite.h"

#include <string.h>

int64_t tr_logits_rows(int64_t rows, int64_t vocabulary, tr_dtype dtype)
{
    enum { LEAST = TR_LOGITS_LEAST_ROWS };
    int64_t row_bytes = vocabulary * (int64_t)tr_dtype_bytes(dtype);
    int64_t most = ((int64_t)TR_LOGITS_MOST_MIB << 20) / row_bytes;
    if (most >= rows) return rows;
    most = most < LEAST ? LEAST : most / LEAST * LEAST;
    int64_t n = (rows + most - 1) / most;
    for (int64_t even = n; even <= n + n / 4 + 1; even++)
        if (rows % (even * LEAST) == 0) return rows / even;
    return ((rows + n - 1) / n + LEAST - 1) / LEAST * LEAST;
}

/* Nodes of the one loss; -1 where there is none. */
typedef struct head {
    int32_t linear, loss, backward, dx, dw;
} head;

static bool is(const tr_node *node, const char *op)
{
    return strcmp(node->op->name, op) == 0;
}

/* Made within the graph and for the graph alone. */
static bool is_inner(const tr_graph *graph, tr_value value)
{
    const tr_value_info *info = tr_graph_value(graph, value);
    return info->kind == TR_VALUE_INTERMEDIATE && !info->is_output && info->producer >= 0;
}

static bool reads(const tr_node *node, tr_value value)
{
    for (int i = 0; i < node->n_inputs; i++)
        if (node->inputs[i] == value) return true;
    return false;
}

/* False where a node reads the logits or their gradient that is none of those that are joined. */
static bool note_reader(const tr_graph *graph, int32_t n, head *h)
{
    const tr_node *node = tr_graph_node(graph, n), *loss = tr_graph_node(graph, h->loss);
    tr_value logits = loss->inputs[0], lse = loss->outputs[1];
    tr_value slopes = h->backward < 0 ? TR_NO_VALUE : tr_graph_node(graph, h->backward)->outputs[0];
    if (n == h->loss) return true;
    if (reads(node, logits) || reads(node, lse)) {
        if (!is(node, "cross_entropy_backward") || h->backward >= 0 || node->inputs[0] != logits ||
            node->inputs[1] != loss->inputs[1] || node->inputs[2] != lse)
            return false;
        h->backward = n;
        return is_inner(graph, node->outputs[0]);
    }
    if (slopes == TR_NO_VALUE || !reads(node, slopes)) return true;
    const tr_node *linear = tr_graph_node(graph, h->linear);
    if (is(node, "linear_dx") && h->dx < 0 && node->inputs[1] == linear->inputs[1] &&
        node->inputs[2] == TR_NO_VALUE) {
        h->dx = n;
        return true;
    }
    if (!is(node, "linear_dw") || h->dw >= 0 || node->inputs[1] != linear->inputs[0]) return false;
    h->dw = n;
    return true;
}

/* Of logits that are so many rows. */
static int64_t rows_of_chunk(const tr_value_info *logits, int64_t chunk)
{
    int64_t rows = tr_shape_rows(&logits->shape);
    if (chunk == 0) return tr_logits_rows(rows, tr_shape_last(&logits->shape), logits->dtype);
    return chunk < rows ? chunk : rows;
}

static bool find_head(const tr_graph *graph, int32_t loss, int64_t chunk, head *h)
{
    const tr_node *node = tr_graph_node(graph, loss);
    tr_value logits = node->inputs[0];
    if (!is(node, "cross_entropy") || !is_inner(graph, logits) ||
        !tr_graph_value(graph, node->outputs[0])->is_output ||
        tr_graph_value(graph, node->outputs[1])->is_output)
        return false;
    *h = (head){.linear = tr_graph_value(graph, logits)->producer, .loss = loss, -1, -1, -1};
    const tr_node *linear = tr_graph_node(graph, h->linear);
    const tr_value_info *info = tr_graph_value(graph, logits);
    if (!is(linear, "linear") || linear->inputs[2] != TR_NO_VALUE ||
        rows_of_chunk(info, chunk) == tr_shape_rows(&info->shape))
        return false;
    for (int32_t n = 0; n < tr_graph_node_count(graph); n++)
        if (!note_reader(graph, n, h)) return false;
    return h->backward < 0 || (h->dx >= 0 && h->dw >= 0);
}

static void add_loss(const tr_graph *graph, tr_graph *to, const head *h, linear_loss_attributes attributes)
{
    const tr_node *linear = tr_graph_node(graph, h->linear), *loss = tr_graph_node(graph, h->loss);
    tr_node node = *loss;
    node.op = &tr__linear_loss_op;
    node.n_inputs = 3;
    node.inputs[0] = linear->inputs[0];
    node.inputs[1] = linear->inputs[1];
    node.inputs[2] = loss->inputs[1];
    node.n_outputs = 1;
    memcpy(node.attributes.bytes, &attributes, sizeof attributes);
    tr__graph_copy_node(to, &node);
}

static void add_backward(const tr_graph *graph, tr_graph *to, const head *h,
                         linear_loss_attributes attributes)
{
    const tr_node *linear = tr_graph_node(graph, h->linear), *loss = tr_graph_node(graph, h->loss);
    const tr_node *dx = tr_graph_node(graph, h->dx);
    tr_node node = *dx;
    node.op = &tr__linear_loss_backward_op;
    node.n_inputs = 4;
    node.inputs[0] = linear->inputs[0];
    node.inputs[1] = linear->inputs[1];
    node.inputs[2] = loss->inputs[1];
    node.inputs[3] = tr_graph_node(graph, h->backward)->inputs[3];
    node.n_outputs = 3;
    node.outputs[0] = dx->outputs[0];
    node.outputs[1] = tr_graph_node(graph, h->dw)->outputs[0];
    node.outputs[2] = loss->outputs[0];
    memcpy(node.attributes.bytes, &attributes, sizeof attributes);
    tr__graph_copy_node(to, &node);
}

static void copy_chunked(const tr_graph *graph, tr_graph *to, const head *h, int64_t chunk)
{
    const tr_node *linear = tr_graph_node(graph, h->linear);
    linear_loss_attributes attributes = {
        .rows = rows_of_chunk(tr_graph_value(graph, linear->outputs[0]), chunk),
        .in_out = ((const linear_attributes *)tr_node_attributes(linear))->in_out,
        .has_backward = h->backward >= 0};
    for (int32_t n = 0; n < tr_graph_node_count(graph); n++) {
        tr_node node = *tr_graph_node(graph, n);
        if (n == h->linear || n == h->backward || n == h->dw) continue;
        if (node.phase == TR_PHASE_WEIGHT) node.phase = TR_PHASE_BACKWARD;
        if (n == h->loss)
            add_loss(graph, to, h, attributes);
        else if (n == h->dx)
            add_backward(graph, to, h, attributes);
        else
            tr__graph_copy_node(to, &node);
    }
}

tr_status tr_graph_chunk_logits(tr_graph **out, const tr_graph *graph, int64_t chunk, tr_error *err)
{
    tr_graph *to;
    head h;
    int32_t n_nodes = tr_graph_node_count(graph), loss = 0;
    tr_status status = tr_graph_check(graph, err);
    if (status == TR_OK) status = tr_graph_new(&to, err);
    if (status != TR_OK) return status;
    while (loss < n_nodes && !find_head(graph, loss, chunk, &h)) loss++;
    tr__graph_copy_values(graph, to);
    if (tr_graph_check(to, NULL) == TR_OK) {
        if (loss < n_nodes) copy_chunked(graph, to, &h, chunk);
        for (int32_t n = 0; loss == n_nodes && n < n_nodes; n++)
            tr__graph_copy_node(to, tr_graph_node(graph, n));
    }
    status = tr_graph_check(to, err);
    if (status == TR_OK)
        *out = to;
    else
        tr_graph_destroy(&to);
    return status;
}
