/* ops/recompute.c - see recompute.h. First it is found what has to be kept; then the graph is copied, and whenever a node
 * of the backward reads what is not kept, that is made right before it, with what it needs itself.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/recompute.h"

#include "base/memory.h"
#include "ops/op.h"
#include "ops/rewrite.h"

typedef struct recomputing {
    const tr_graph *graph;
    tr_graph *to;
    int32_t n_values, n_nodes;
    bool *crosses; /* by value: a node of another unit reads it */
    bool *later;   /* by value: a node of the backward reads it */
    bool *made_again;
    tr_value *again; /* by value: what it is called the second time, TR_NO_VALUE before */
    bool *has_loss;  /* by unit */
} recomputing;

static void look_at_readers(recomputing *self)
{
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        for (int i = 0; i < node->n_inputs; i++) {
            tr_value input = node->inputs[i];
            if (input == TR_NO_VALUE) continue;
            int32_t producer = tr_graph_value(self->graph, input)->producer;
            if (producer < 0) continue;
            if (tr_graph_node(self->graph, producer)->unit != node->unit) self->crosses[input] = true;
            if (node->phase != TR_PHASE_FORWARD) self->later[input] = true;
        }
        for (int i = 0; i < node->n_outputs; i++)
            if (node->outputs[i] != TR_NO_VALUE &&
                tr_graph_value(self->graph, node->outputs[i])->dtype == TR_F64)
                self->has_loss[node->unit] = true;
    }
}

/* Somebody else's memory, or a value that the backward reads and that is kept, or made again in its turn. */
static bool is_at_hand(const recomputing *self, tr_value value)
{
    if (value == TR_NO_VALUE) return true;
    const tr_value_info *info = tr_graph_value(self->graph, value);
    return info->kind != TR_VALUE_INTERMEDIATE || info->is_output || self->later[value] ||
           self->made_again[value];
}

static bool is_cheap(const recomputing *self, const tr_node *node)
{
    if (!node->op->is_light) return false;
    for (int i = 0; i < node->n_inputs; i++)
        if (!is_at_hand(self, node->inputs[i])) return false;
    return true;
}

static void choose(recomputing *self, tr_recompute what)
{
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (node->phase != TR_PHASE_FORWARD || tr_node_is_kept(self->graph, node)) continue;
        bool whole = what == TR_RECOMPUTE_FULL && !self->has_loss[node->unit];
        for (int i = 0; i < node->n_outputs; i++) {
            tr_value output = node->outputs[i];
            if (output == TR_NO_VALUE || tr_graph_value(self->graph, output)->is_output) continue;
            self->made_again[output] = !self->crosses[output] && (whole || is_cheap(self, node));
        }
    }
}

/* What a node of the backward reads in the place of `value`. Goes as deep as a unit is long. */
static tr_value made_again(recomputing *self, tr_value value)
{
    if (value == TR_NO_VALUE || !self->made_again[value]) return value;
    if (self->again[value] != TR_NO_VALUE) return self->again[value];
    tr_node node = *tr_graph_node(self->graph, tr_graph_value(self->graph, value)->producer);
    for (int i = 0; i < node.n_inputs; i++) node.inputs[i] = made_again(self, node.inputs[i]);
    for (int i = 0; i < node.n_outputs; i++) {
        if (node.outputs[i] == TR_NO_VALUE) continue;
        const tr_value_info *info = tr_graph_value(self->graph, node.outputs[i]);
        tr_value fresh = tr_graph_intermediate(self->to, info->dtype, info->shape);
        if (self->made_again[node.outputs[i]]) self->again[node.outputs[i]] = fresh;
        node.outputs[i] = fresh;
    }
    node.phase = TR_PHASE_BACKWARD;
    tr__graph_copy_node(self->to, &node);
    return self->again[value];
}

static void copy_nodes(recomputing *self)
{
    for (int32_t n = 0; n < self->n_nodes; n++) {
        tr_node node = *tr_graph_node(self->graph, n);
        if (node.phase != TR_PHASE_FORWARD) {
            for (int i = 0; i < node.n_inputs; i++) node.inputs[i] = made_again(self, node.inputs[i]);
            node.phase = TR_PHASE_BACKWARD;
        }
        tr__graph_copy_node(self->to, &node);
    }
}

static tr_status rewrite(recomputing *self, tr_recompute what, tr_graph **out, tr_error *err)
{
    tr_status status = tr_graph_new(&self->to, err);
    if (status != TR_OK) return status;
    for (tr_value v = 0; v < self->n_values; v++) self->again[v] = TR_NO_VALUE;
    look_at_readers(self);
    choose(self, what);
    tr__graph_copy_values(self->graph, self->to);
    if (tr_graph_check(self->to, NULL) == TR_OK) copy_nodes(self);
    status = tr_graph_check(self->to, err);
    if (status == TR_OK)
        *out = self->to;
    else
        tr_graph_destroy(&self->to);
    return status;
}

tr_status tr_graph_recompute(tr_graph **out, const tr_graph *graph, tr_recompute what, tr_error *err)
{
    tr_status status = tr_graph_check(graph, err);
    if (status != TR_OK) return status;
    recomputing self = {
        .graph = graph, .n_values = tr_graph_value_count(graph), .n_nodes = tr_graph_node_count(graph)};
    size_t n_values = (size_t)self.n_values + 1;
    self.crosses = tr_alloc_zero(n_values, sizeof *self.crosses);
    self.later = tr_alloc_zero(n_values, sizeof *self.later);
    self.made_again = tr_alloc_zero(n_values, sizeof *self.made_again);
    self.again = tr_alloc_zero(n_values, sizeof *self.again);
    self.has_loss = tr_alloc_zero((size_t)tr_graph_unit_count(graph) + 1, sizeof *self.has_loss);
    if (self.crosses && self.later && self.made_again && self.again && self.has_loss)
        status = rewrite(&self, what, out, err);
    else
        status = tr_fail(err, TR_ENOMEM, "no memory to rewrite a graph of %d nodes", self.n_nodes);
    tr_free(self.has_loss);
    tr_free(self.again);
    tr_free(self.made_again);
    tr_free(self.later);
    tr_free(self.crosses);
    return status;
}
