/* ops/use_fp8.c - see use_fp8.h. Which weights are taken is found first; then the graph is copied, and whenever a product needs the
 * codes of a value for the first time, they are made right before it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/use_fp8.h"

#include "base/memory.h"
#include "ops/attributes.h"
#include "ops/fp8_linear.h"
#include "ops/rewrite.h"

#include <string.h>

enum { MULTIPLE = 16 };

/* Of a value in FP8. TR_NO_VALUE: not yet made. */
typedef struct coded {
    tr_value codes, turned, inverse;
} coded;

typedef struct using
{
    const tr_graph *graph;
    tr_graph *to;
    int32_t n_values, n_nodes;
    bool *is_taken; /* by value: a weight whose products are in FP8 */
    coded *coded;   /* by value */
}
using;

static bool is(const tr_node *node, const char *op)
{
    return strcmp(node->op->name, op) == 0;
}

static bool in_out(const tr_node *linear)
{
    return ((const linear_attributes *)tr_node_attributes(linear))->in_out != 0;
}

/* Logits: what a loss reads, or what leaves a graph of which nobody needs more. */
static bool makes_logits(const tr_graph *graph, const tr_node *linear)
{
    if (tr_graph_value(graph, linear->outputs[0])->is_output &&
        linear->unit == tr_graph_unit_count(graph) - 1)
        return true;
    for (int32_t n = 0; n < tr_graph_node_count(graph); n++) {
        const tr_node *node = tr_graph_node(graph, n);
        if (is(node, "cross_entropy") && node->inputs[0] == linear->outputs[0]) return true;
    }
    return false;
}

static bool fits(const tr_graph *graph, const tr_node *linear)
{
    const tr_value_info *x = tr_graph_value(graph, linear->inputs[0]),
                        *y = tr_graph_value(graph, linear->outputs[0]);
    return x->dtype == TR_BF16 && tr_shape_rows(&x->shape) % MULTIPLE == 0 &&
           tr_shape_last(&x->shape) % MULTIPLE == 0 && tr_shape_last(&y->shape) % MULTIPLE == 0;
}

static bool is_layer(const tr_graph *graph, const tr_node *node)
{
    return is(node, "linear") && node->phase == TR_PHASE_FORWARD &&
           tr_graph_value(graph, node->inputs[1])->kind == TR_VALUE_PARAMETER && !makes_logits(graph, node);
}

tr_fp8_layers tr_graph_fp8_layers(const tr_graph *graph)
{
    tr_fp8_layers layers = {0};
    for (int32_t n = 0; n < tr_graph_node_count(graph); n++) {
        const tr_node *node = tr_graph_node(graph, n);
        if (!is_layer(graph, node)) continue;
        if (fits(graph, node))
            layers.n_taken++;
        else
            layers.n_left++;
    }
    return layers;
}

/* A weight that some layer cannot use stays as it is for all: products of a use are told by their weight. */
static void choose(using *self)
{
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (is_layer(self->graph, node)) self->is_taken[node->inputs[1]] = true;
    }
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (is(node, "linear") && (!is_layer(self->graph, node) || !fits(self->graph, node)))
            self->is_taken[node->inputs[1]] = false;
    }
}

/* The codes of a value, made now where they are not there. */
static const coded *codes_of(using *self, tr_value value, tr_dtype format, const tr_node *before)
{
    coded *made = &self->coded[value];
    if (made->inverse != TR_NO_VALUE || tr_graph_check(self->to, NULL) != TR_OK) return made;
    quantise_attributes attributes = {.format = format};
    tr_graph_set_unit(self->to, before->unit);
    /* Of a gradient there before weight gradients are: half as much is kept for them then. */
    tr_graph_set_phase(self->to, before->phase == TR_PHASE_WEIGHT ? TR_PHASE_BACKWARD : before->phase);
    int32_t at = tr_graph_add(self->to, &tr__quantise_op, &value, 1, &attributes, sizeof attributes, NULL, 0);
    if (at < 0) return made;
    const tr_node *node = tr_graph_node(self->to, at);
    *made = (coded){node->outputs[0], node->outputs[1], node->outputs[2]};
    return made;
}

static tr_value weight_of(const using *self, const tr_node *node)
{
    if (is(node, "linear_dw")) return tr_graph_value(self->graph, node->outputs[0])->parameter;
    return is(node, "linear") || is(node, "linear_dx") ? node->inputs[1] : TR_NO_VALUE;
}

/* Rows of what is multiplied run along I in the forward, along O for dx, along M for dw. */
static void copy_product(using *self, const tr_node *node, tr_value weight)
{
    tr_node copy = *node;
    bool forward = is(node, "linear"), turned = in_out(node);
    memset(copy.attributes.bytes, 0, sizeof copy.attributes.bytes);
    const coded *a = codes_of(self, node->inputs[0], forward ? TR_E4M3 : TR_E5M2, node);
    if (is(node, "linear_dw")) {
        const coded *dy = a, *x = codes_of(self, node->inputs[1], TR_E4M3, node);
        const coded *rows = turned ? x : dy, *columns = turned ? dy : x;
        const tr_value inputs[] = {rows->turned, rows->inverse, columns->turned, columns->inverse};
        memcpy(copy.inputs, inputs, sizeof inputs);
        copy.op = &tr__linear_fp8_dw_op;
        copy.n_inputs = 4;
    } else {
        const coded *w = codes_of(self, weight, TR_E4M3, node);
        const tr_value inputs[] = {a->codes, a->inverse, forward == turned ? w->turned : w->codes, w->inverse,
                                   node->inputs[2]};
        memcpy(copy.inputs, inputs, sizeof inputs);
        copy.op = forward ? &tr__linear_fp8_op : &tr__linear_fp8_dx_op;
        copy.n_inputs = 5;
    }
    tr__graph_copy_node(self->to, &copy);
}

static void copy_nodes(using *self)
{
    for (int32_t n = 0; n < self->n_nodes && tr_graph_check(self->to, NULL) == TR_OK; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        tr_value weight = weight_of(self, node);
        if (weight != TR_NO_VALUE && self->is_taken[weight])
            copy_product(self, node, weight);
        else
            tr__graph_copy_node(self->to, node);
    }
}

static tr_status rewrite(using *self, tr_graph **out, tr_error *err)
{
    tr_status status = tr_graph_new(&self->to, err);
    if (status != TR_OK) return status;
    for (tr_value v = 0; v < self->n_values; v++)
        self->coded[v] = (coded){TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE};
    choose(self);
    tr__graph_copy_values(self->graph, self->to);
    copy_nodes(self);
    status = tr_graph_check(self->to, err);
    if (status == TR_OK)
        *out = self->to;
    else
        tr_graph_destroy(&self->to);
    return status;
}

tr_status tr_graph_use_fp8(tr_graph **out, const tr_graph *graph, tr_error *err)
{
    tr_status status = tr_graph_check(graph, err);
    if (status != TR_OK) return status;
    using self = {
        .graph = graph, .n_values = tr_graph_value_count(graph), .n_nodes = tr_graph_node_count(graph)};
    size_t n_values = (size_t)self.n_values + 1;
    self.is_taken = tr_alloc_zero(n_values, sizeof *self.is_taken);
    self.coded = tr_alloc(n_values * sizeof *self.coded);
    if (self.is_taken && self.coded)
        status = rewrite(&self, out, err);
    else
        status = tr_fail(err, TR_ENOMEM, "no memory to rewrite a graph of %d nodes", self.n_nodes);
    tr_free(self.coded);
    tr_free(self.is_taken);
    return status;
}
