/* pipelines/piece.c - copies a range of units out of a model's graph and gives the copy doors and a backward.
 * Values are made again in the whole graph's order, so that a piece's parameters stand by their index.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "ops/autodiff.h"
#include "ops/chunk_logits.h"
#include "ops/use_fp8.h"
#include "pipelines/partition.h"

#include <stdlib.h>

typedef struct copy {
    const tr_graph *whole;
    int32_t first, end; /* units */
    tr_value *map;      /* whole's value -> the piece's, TR_NO_VALUE where it has none */
    int32_t *index;     /* whole's value -> the parameter's index, -1 for others */
    tr_value in, out;   /* what crosses the cuts, in the whole; TR_NO_VALUE at the ends */
    tr_piece *piece;
} copy;

static int32_t unit_of(const tr_graph *whole, tr_value value)
{
    return tr_graph_node(whole, tr_graph_value(whole, value)->producer)->unit;
}

/* The one value that is made in a unit before `unit` and read in one from it on;
 * none at the ends of the model. */
static tr_status crossing(const tr_graph *whole, int32_t unit, tr_value *value, tr_error *err)
{
    *value = TR_NO_VALUE;
    if (unit == 0 || unit == tr_graph_unit_count(whole)) return TR_OK;
    for (int32_t n = 0; n < tr_graph_node_count(whole); n++) {
        const tr_node *node = tr_graph_node(whole, n);
        for (int i = 0; node->unit >= unit && i < node->n_inputs; i++) {
            tr_value input = node->inputs[i];
            if (input == TR_NO_VALUE || tr_graph_value(whole, input)->producer < 0) continue;
            if (unit_of(whole, input) >= unit || input == *value) continue;
            if (*value != TR_NO_VALUE)
                return tr_fail(err, TR_EINVAL,
                               "values %d and %d both cross the cut before unit %d of the model, but a "
                               "pipeline carries one; end the unit elsewhere",
                               *value, input, unit);
            *value = input;
        }
    }
    if (*value == TR_NO_VALUE)
        return tr_fail(err, TR_EINVAL, "nothing crosses the cut before unit %d of the model", unit);
    return TR_OK;
}

static bool within(const copy *c, const tr_node *node)
{
    return node->unit >= c->first && node->unit < c->end;
}

/* Marks the values that no node makes (inputs, parameters, states, constants) and that the piece's nodes read, with
 * 0 for now. */
static void mark_read(copy *c)
{
    for (int32_t n = 0; n < tr_graph_node_count(c->whole); n++) {
        const tr_node *node = tr_graph_node(c->whole, n);
        for (int i = 0; within(c, node) && i < node->n_inputs; i++)
            if (node->inputs[i] != TR_NO_VALUE && tr_graph_value(c->whole, node->inputs[i])->producer < 0)
                c->map[node->inputs[i]] = 0;
    }
}

static tr_value make_again(tr_graph *g, const tr_value_info *info)
{
    switch (info->kind) {
    case TR_VALUE_INPUT: return tr_graph_input(g, info->name, info->dtype, info->shape);
    case TR_VALUE_PARAMETER: return tr_graph_parameter(g, info->name, info->dtype, info->shape);
    case TR_VALUE_STATE: return tr_graph_state(g, info->name, info->dtype, info->shape);
    case TR_VALUE_CONSTANT: return tr_graph_constant(g, info->name, info->dtype, info->shape, info->constant);
    case TR_VALUE_INTERMEDIATE:
    case TR_VALUE_GRADIENT: break;
    }
    TR_ASSERT(false && "a forward graph reads a value that nobody makes");
    return TR_NO_VALUE;
}

static void copy_bound(copy *c)
{
    tr_piece *piece = c->piece;
    int32_t parameter = 0;
    for (tr_value v = 0; v < tr_graph_value_count(c->whole); v++) {
        const tr_value_info *info = tr_graph_value(c->whole, v);
        c->index[v] = info->kind == TR_VALUE_PARAMETER ? parameter++ : -1;
        if (c->map[v] == TR_NO_VALUE) continue;
        c->map[v] = make_again(piece->graph, info);
        if (c->index[v] >= 0)
            piece->parameters[piece->n_parameters++] = (tr_piece_parameter){c->index[v], c->map[v]};
    }
    if (c->in == TR_NO_VALUE) return;
    const tr_value_info *info = tr_graph_value(c->whole, c->in);
    piece->activation_in = c->map[c->in] =
        tr_graph_input(piece->graph, "activation_in", info->dtype, info->shape);
}

static void copy_node(copy *c, const tr_node *node)
{
    tr_graph *g = c->piece->graph;
    tr_value inputs[TR_MAX_INPUTS];
    for (int i = 0; i < node->n_inputs; i++)
        inputs[i] = node->inputs[i] == TR_NO_VALUE ? TR_NO_VALUE : c->map[node->inputs[i]];
    tr_graph_set_unit(g, node->unit);
    int32_t added = tr_graph_add(g, node->op, inputs, node->n_inputs, tr_node_attributes(node),
                                 TR_ATTRIBUTE_BYTES, NULL, 0);
    if (added < 0) return;
    tr_graph_set_use(g, added, node->use);
    for (int i = 0; i < node->n_outputs; i++) {
        if (node->outputs[i] == TR_NO_VALUE) continue;
        const tr_value_info *info = tr_graph_value(c->whole, node->outputs[i]);
        tr_value output = c->map[node->outputs[i]] = tr_graph_node(g, added)->outputs[i];
        if (info->name[0]) tr_graph_set_name(g, output, info->name);
        if (info->is_output) tr_graph_mark_output(g, output);
    }
}

static void copy_forward(copy *c, const tr_model_values *values)
{
    tr_piece *piece = c->piece;
    mark_read(c);
    copy_bound(c);
    for (int32_t n = 0; n < tr_graph_node_count(c->whole); n++) {
        const tr_node *node = tr_graph_node(c->whole, n);
        TR_ASSERT(node->phase == TR_PHASE_FORWARD);
        if (within(c, node)) copy_node(c, node);
    }
    const tr_value named[] = {values->tokens, values->targets, values->position, values->loss,
                              values->logits};
    tr_value *const doors[] = {&piece->tokens, &piece->targets, &piece->position, &piece->loss,
                               &piece->logits};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (named[i] != TR_NO_VALUE) *doors[i] = c->map[named[i]];
    if (c->out == TR_NO_VALUE) return;
    piece->activation_out = c->map[c->out];
    tr_graph_set_name(piece->graph, piece->activation_out, "activation_out");
    tr_graph_mark_output(piece->graph, piece->activation_out);
}

static tr_status add_backward(tr_piece *piece, tr_error *err)
{
    tr_graph *g = piece->graph;
    tr_value output = piece->activation_out, output_gradient;
    if (output != TR_NO_VALUE) {
        const tr_value_info *info = tr_graph_value(g, output);
        output_gradient = piece->gradient_in = tr_graph_input(g, "gradient_in", info->dtype, info->shape);
    } else {
        output = piece->loss;
        output_gradient = piece->factor = tr_graph_input(g, "factor", TR_F32, TR_SHAPE1(1));
    }
    int n_inputs = piece->activation_in != TR_NO_VALUE;
    tr_status status = tr_autodiff(g, &output, &output_gradient, 1, &piece->activation_in,
                                   &piece->gradient_out, n_inputs, err);
    if (status != TR_OK || !n_inputs) return status;
    tr_graph_set_name(g, piece->gradient_out, "gradient_out");
    return TR_OK;
}

static int compare_gradients(const void *a, const void *b)
{
    const tr_piece_gradient *x = a, *y = b;
    if (x->index != y->index) return x->index < y->index ? -1 : 1;
    return (x->use > y->use) - (x->use < y->use);
}

static tr_status list_gradients(tr_piece *piece, tr_error *err)
{
    int32_t n_values = tr_graph_value_count(piece->graph), n = 0;
    for (tr_value v = 0; v < n_values; v++) n += tr_graph_value(piece->graph, v)->kind == TR_VALUE_GRADIENT;
    piece->gradients = tr_alloc_zero((size_t)n + 1, sizeof *piece->gradients);
    if (!piece->gradients) return tr_fail(err, TR_ENOMEM, "no memory for a list of %d gradients", n);
    for (tr_value v = 0; v < n_values; v++) {
        const tr_value_info *info = tr_graph_value(piece->graph, v);
        if (info->kind != TR_VALUE_GRADIENT) continue;
        int32_t position = 0;
        while (piece->parameters[position].value != info->parameter) position++;
        piece->gradients[piece->n_gradients++] =
            (tr_piece_gradient){piece->parameters[position].index, position, info->use, v};
    }
    if (n) qsort(piece->gradients, (size_t)n, sizeof *piece->gradients, compare_gradients);
    return TR_OK;
}

static tr_status fill(copy *c, const tr_model_values *values, tr_piece_kind kind, tr_error *err)
{
    tr_status status = crossing(c->whole, c->first, &c->in, err);
    if (status == TR_OK) status = crossing(c->whole, c->end, &c->out, err);
    if (status == TR_OK) status = tr_graph_new(&c->piece->graph, err);
    if (status != TR_OK) return status;
    copy_forward(c, values);
    status = tr_graph_check(c->piece->graph, err);
    if (status == TR_OK && kind == TR_PIECE_TRAINING) status = add_backward(c->piece, err);
    if (status == TR_OK) status = tr_graph_check(c->piece->graph, err);
    return status == TR_OK ? list_gradients(c->piece, err) : status;
}

tr_status tr_partition_extract(const tr_graph *whole, const tr_model_values *values, int32_t first_unit,
                               int32_t end_unit, tr_piece_kind kind, tr_piece *piece, tr_error *err)
{
    TR_ASSERT(first_unit >= 0 && first_unit < end_unit && end_unit <= tr_graph_unit_count(whole));
    TR_ASSERT(kind == TR_PIECE_FORWARD || values->loss != TR_NO_VALUE);
    size_t n = (size_t)tr_graph_value_count(whole);
    tr_piece made = {.tokens = TR_NO_VALUE,
                     .targets = TR_NO_VALUE,
                     .position = TR_NO_VALUE,
                     .activation_in = TR_NO_VALUE,
                     .activation_out = TR_NO_VALUE,
                     .gradient_in = TR_NO_VALUE,
                     .gradient_out = TR_NO_VALUE,
                     .factor = TR_NO_VALUE,
                     .loss = TR_NO_VALUE,
                     .logits = TR_NO_VALUE,
                     .parameters = tr_alloc_zero(n, sizeof *made.parameters)};
    copy c = {.whole = whole,
              .first = first_unit,
              .end = end_unit,
              .map = tr_alloc(n * sizeof *c.map),
              .index = tr_alloc_zero(n, sizeof *c.index),
              .piece = &made};
    tr_status status = TR_OK;
    if (!c.map || !c.index || !made.parameters) {
        status = tr_fail(err, TR_ENOMEM, "no memory for a piece of units %d to %d", first_unit, end_unit - 1);
        goto done;
    }
    for (size_t v = 0; v < n; v++) c.map[v] = TR_NO_VALUE;
    status = fill(&c, values, kind, err);
done:
    tr_free(c.index);
    tr_free(c.map);
    if (status == TR_OK)
        *piece = made;
    else
        tr_piece_release(&made);
    return status;
}

tr_status tr_piece_chunk_logits(tr_piece *self, int64_t chunk, tr_error *err)
{
    tr_graph *graph;
    if (self->loss == TR_NO_VALUE) return TR_OK;
    tr_status status = tr_graph_chunk_logits(&graph, self->graph, chunk, err);
    if (status != TR_OK) return status;
    tr_graph_destroy(&self->graph);
    self->graph = graph;
    return TR_OK;
}

tr_status tr_piece_use_fp8(tr_piece *self, tr_error *err)
{
    tr_graph *graph;
    tr_status status = tr_graph_use_fp8(&graph, self->graph, err);
    if (status != TR_OK) return status;
    tr_graph_destroy(&self->graph);
    self->graph = graph;
    return TR_OK;
}

tr_status tr_piece_recompute(tr_piece *self, tr_recompute what, tr_error *err)
{
    tr_graph *graph;
    if (what == TR_RECOMPUTE_NONE) return TR_OK;
    tr_status status = tr_graph_recompute(&graph, self->graph, what, err);
    if (status != TR_OK) return status;
    tr_graph_destroy(&self->graph);
    self->graph = graph;
    return TR_OK;
}

void tr_piece_release(tr_piece *self)
{
    tr_graph_destroy(&self->graph);
    tr_free(self->parameters);
    tr_free(self->gradients);
    *self = (tr_piece){0};
}
