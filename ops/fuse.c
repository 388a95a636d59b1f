/* ops/fuse.c - see fuse.h. First every pattern marks the nodes that it joins; then the graph is copied, the first node of
 * each pattern as what it became and the others not at all. What a pattern's later nodes read beside its own values
 * stands before its first node, so the order stays one in which the graph can run.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/fuse.h"

#include "base/memory.h"
#include "ops/attributes.h"
#include "ops/fused.h"
#include "ops/infer.h"
#include "ops/rewrite.h"

#include <string.h>

/* What a node becomes. */
typedef struct change {
    const tr_op *op; /* NULL: itself */
    bool gone;       /* its work is another node's */
    int n_inputs, n_outputs;
    tr_value inputs[TR_MAX_INPUTS], outputs[TR_MAX_OUTPUTS];
    unsigned char attributes[TR_ATTRIBUTE_BYTES];
} change;

typedef struct fusion {
    const tr_graph *graph;
    int32_t n_values, n_nodes;
    bool has_backward;
    int32_t *n_readers; /* by value */
    int32_t *reader;    /* by value: the first node that reads it, -1 for none */
    change *changes;    /* by node */
    tr_value *instead;  /* by value: who is read in its place, which is itself for most */
    tr_shape *added;    /* shapes of values behind n_values, float32 */
    int32_t n_added;
} fusion;

static bool is(const tr_node *node, const char *op)
{
    return strcmp(node->op->name, op) == 0;
}

static const tr_value_info *value_of(const fusion *self, tr_value value)
{
    return tr_graph_value(self->graph, value);
}

static bool is_bf16(const fusion *self, tr_value value)
{
    return value_of(self, value)->dtype == TR_BF16;
}

/* Made within the graph and for the graph alone. */
static bool is_inner(const fusion *self, tr_value value)
{
    return value != TR_NO_VALUE && value_of(self, value)->kind == TR_VALUE_INTERMEDIATE &&
           !value_of(self, value)->is_output;
}

/* The one reader of a value that nobody else sees; NULL where there is not exactly one. */
static const tr_node *only_reader(const fusion *self, tr_value value, int32_t *node)
{
    if (!is_inner(self, value) || self->n_readers[value] != 1) return NULL;
    *node = self->reader[value];
    return tr_graph_node(self->graph, *node);
}

static bool is_free(const fusion *self, int32_t node)
{
    return !self->changes[node].op && !self->changes[node].gone;
}

static change *begin_change(fusion *self, int32_t node, const tr_op *op, const void *attributes,
                            size_t attribute_bytes)
{
    change *c = &self->changes[node];
    c->op = op;
    if (attribute_bytes > 0) memcpy(c->attributes, attributes, attribute_bytes);
    return c;
}

static void set_inputs(change *c, const tr_value *inputs, int n)
{
    memcpy(c->inputs, inputs, (size_t)n * sizeof *inputs);
    c->n_inputs = n;
}

static void set_outputs(change *c, const tr_value *outputs, int n)
{
    memcpy(c->outputs, outputs, (size_t)n * sizeof *outputs);
    c->n_outputs = n;
}

/* Widths that the library's fused epilogues take: rows begin on 16 bytes. */
static bool has_packed_rows(const fusion *self, tr_value value)
{
    return tr_shape_last(&value_of(self, value)->shape) % 8 == 0;
}

/* Rows that a norm keeps in registers, so that it can add to them first. What makes them says so as well as what reads
 * them, for the pieces of a cut graph are to have the bits of the whole. */
static bool is_added_by_norms(const fusion *self, tr_value x)
{
    int64_t columns = tr_shape_last(&value_of(self, x)->shape);
    return is_bf16(self, x) && columns % 256 == 0 && columns <= 2048;
}

/* y = x w + b + more: `more` must be there when the product runs. */
static void join_add(fusion *self, int32_t n, const tr_node *linear)
{
    int32_t at;
    if (is_added_by_norms(self, linear->outputs[0])) return;
    const tr_node *add = only_reader(self, linear->outputs[0], &at);
    if (!add || !is(add, "add") || add->phase != linear->phase || !is_free(self, at)) return;
    tr_value more = add->inputs[add->inputs[0] == linear->outputs[0] ? 1 : 0];
    if (more == linear->outputs[0] || value_of(self, more)->producer >= n) return;
    tr_value inputs[] = {linear->inputs[0], linear->inputs[1], linear->inputs[2], more};
    change *c =
        begin_change(self, n, &tr__linear_add_op, tr_node_attributes(linear), sizeof(linear_attributes));
    set_inputs(c, inputs, 4);
    set_outputs(c, add->outputs, 1);
    self->changes[at].gone = true;
}

/* The same activation of the same h once more (ops/recompute.h), in a pass of its own, would be of an h that was rounded, where
 * the product's is of one that was not: other bits. So the first one's are kept. */
static void keep_activation(fusion *self, int32_t n, const tr_node *activate)
{
    const tr_node *again = tr_graph_node(self->graph, n);
    if (!is(again, "activate") || again->inputs[0] != activate->inputs[0] || !is_free(self, n) ||
        memcmp(tr_node_attributes(again), tr_node_attributes(activate), sizeof(activate_attributes)) != 0 ||
        !is_inner(self, again->outputs[0]))
        return;
    self->instead[again->outputs[0]] = activate->outputs[0];
    self->changes[n].gone = true;
}

/* The activation among the readers of h; the backward may read h as well. Where it makes h again instead, h is written all the
 * same: the library's product without it is another one, and need not have its bits. */
static void join_activation(fusion *self, int32_t n, const tr_node *linear)
{
    tr_value h = linear->outputs[0];
    if (!is_inner(self, h) || self->reader[h] < 0 || !is_bf16(self, h) || !has_packed_rows(self, h) ||
        !has_packed_rows(self, linear->inputs[0]) || linear->inputs[2] == TR_NO_VALUE)
        return;
    int32_t at = self->reader[h];
    const tr_node *activate = tr_graph_node(self->graph, at);
    if (!is(activate, "activate") || activate->phase != linear->phase || !is_free(self, at)) return;
    linear_activate_attributes attributes = {
        .in_out = ((const linear_attributes *)tr_node_attributes(linear))->in_out,
        .kind = ((const activate_attributes *)tr_node_attributes(activate))->kind};
    if (attributes.kind != TR_GELU_TANH) return;
    bool keeps = self->n_readers[h] > 1 || self->has_backward;
    tr_value outputs[] = {activate->outputs[0], keeps ? h : TR_NO_VALUE};
    change *c = begin_change(self, n, &tr__linear_activate_op, &attributes, sizeof attributes);
    set_inputs(c, linear->inputs, 3);
    set_outputs(c, outputs, 2);
    self->changes[at].gone = true;
    for (int32_t i = at + 1; i < self->n_nodes; i++) keep_activation(self, i, activate);
}

/* In the place of the product; of the other, where h is made again between them (ops/recompute.h). */
static void join_activation_backward(fusion *self, int32_t n, const tr_node *dx)
{
    int32_t at;
    const tr_node *backward = only_reader(self, dx->outputs[0], &at);
    if (!backward || !is(backward, "activate_backward") || backward->inputs[0] != dx->outputs[0] ||
        backward->phase != dx->phase || !is_free(self, at) || dx->inputs[2] != TR_NO_VALUE)
        return;
    tr_value h = backward->inputs[1];
    linear_activate_attributes attributes = {
        .in_out = ((const linear_attributes *)tr_node_attributes(dx))->in_out,
        .kind = ((const activate_attributes *)tr_node_attributes(backward))->kind};
    if (attributes.kind != TR_GELU_TANH || !is_bf16(self, h) || !has_packed_rows(self, h) ||
        !has_packed_rows(self, dx->inputs[0]))
        return;
    tr_value inputs[] = {dx->inputs[0], dx->inputs[1], h};
    bool later = value_of(self, h)->producer >= n;
    change *c =
        begin_change(self, later ? at : n, &tr__linear_dx_activate_op, &attributes, sizeof attributes);
    set_inputs(c, inputs, 3);
    set_outputs(c, backward->outputs, 1);
    self->changes[later ? n : at].gone = true;
}

/* A sum is made by the norm that reads it; others may read it as well. */
static void join_norm(fusion *self, int32_t n, const tr_node *norm)
{
    bool centred = is(norm, "layernorm");
    tr_value sum = norm->inputs[0];
    int32_t at = value_of(self, sum)->producer;
    if (at < 0 || !is_free(self, at) || !is_added_by_norms(self, sum)) return;
    const tr_node *add = tr_graph_node(self->graph, at);
    if (!is(add, "add") || add->phase != norm->phase) return;
    tr_value inputs[] = {add->inputs[0], add->inputs[1], norm->inputs[1], centred ? norm->inputs[2] : 0};
    tr_value outputs[] = {sum, norm->outputs[0], norm->outputs[1], centred ? norm->outputs[2] : 0};
    change *c = begin_change(self, at, centred ? &tr__add_layernorm_op : &tr__add_rmsnorm_op,
                             tr_node_attributes(norm), TR_ATTRIBUTE_BYTES);
    set_inputs(c, inputs, centred ? 4 : 3);
    set_outputs(c, outputs, centred ? 4 : 3);
    self->changes[n].gone = true;
}

/* Whether the parts of `split` are q, k and v of `attention`, in this order. */
static bool parts_are_qkv(const tr_node *split, const tr_node *attention)
{
    return memcmp(split->outputs, attention->inputs, 3 * sizeof(tr_value)) == 0;
}

/* What makes one array of dq, dk and dv; NULL unless nothing else reads them. */
static const tr_node *join_of(const fusion *self, const tr_node *backward, int32_t *at)
{
    const tr_node *join = only_reader(self, backward->outputs[0], at);
    int32_t other;
    if (!join || !is(join, "join") || join->n_inputs != 3 || !is_free(self, *at)) return NULL;
    for (int i = 0; i < 3; i++)
        if (join->inputs[i] != backward->outputs[i] ||
            only_reader(self, backward->outputs[i], &other) != join)
            return NULL;
    return join;
}

/* The bias gradient of a linear layer whose dy this is; -1: there is none, or it is joined already. */
static int32_t bias_gradient_of(const fusion *self, tr_value dy)
{
    for (int32_t i = 0; i < self->n_nodes; i++) {
        const tr_node *node = tr_graph_node(self->graph, i);
        if (is(node, "linear_db") && node->inputs[0] == dy && is_free(self, i)) return i;
    }
    return -1;
}

/* It comes from sums that dy's maker makes on its way. */
static void take_sums(fusion *self, int32_t db, tr_value sums, int32_t which)
{
    linear_db_sums_attributes attributes = {.which = which};
    change *c = begin_change(self, db, &tr__linear_db_sums_op, &attributes, sizeof attributes);
    set_inputs(c, &sums, 1);
    set_outputs(c, tr_graph_node(self->graph, db)->outputs, 1);
}

/* A float32 value behind those of the graph. */
static tr_value add_value(fusion *self, tr_shape shape)
{
    self->added[self->n_added] = shape;
    return self->n_values + self->n_added++;
}

/* q, k and v are read by their attention alone, or by it and its backward. */
static void join_split(fusion *self, int32_t n, const tr_node *split)
{
    if (split->n_outputs != 3 || !is_inner(self, split->outputs[0]) || self->reader[split->outputs[0]] < 0)
        return;
    int32_t at = self->reader[split->outputs[0]], back_at = -1, join_at = -1;
    const tr_node *attention = tr_graph_node(self->graph, at), *backward = NULL, *join = NULL;
    if (!is(attention, "attention") || !parts_are_qkv(split, attention)) return;
    for (int32_t i = at + 1; i < self->n_nodes && !backward; i++) {
        const tr_node *node = tr_graph_node(self->graph, i);
        if (is(node, "attention_backward") && parts_are_qkv(split, node)) backward = node, back_at = i;
    }
    for (int i = 0; i < 3; i++)
        if (!is_inner(self, split->outputs[i]) || self->n_readers[split->outputs[i]] != (backward ? 2 : 1))
            return;
    if (backward && !(join = join_of(self, backward, &join_at))) return;
    change *c = begin_change(self, at, &tr__attention_packed_op, tr_node_attributes(attention),
                             sizeof(tr_attention_options));
    set_inputs(c, split->inputs, 1);
    set_outputs(c, attention->outputs, 2);
    self->changes[n].gone = true;
    if (!backward) return;
    tr_value inputs[] = {split->inputs[0], backward->inputs[3], backward->inputs[4], backward->inputs[5]};
    tr_value outputs[] = {join->outputs[0], TR_NO_VALUE};
    int32_t db = is_bf16(self, join->outputs[0]) ? bias_gradient_of(self, join->outputs[0]) : -1;
    c = begin_change(self, back_at,
                     db < 0 ? &tr__attention_packed_backward_op : &tr__attention_packed_backward_sums_op,
                     tr_node_attributes(backward), sizeof(attention_backward_attributes));
    if (db >= 0) {
        const tr_shape *qkv = &value_of(self, split->inputs[0])->shape;
        outputs[1] = add_value(self, tr__attention_sums_shape(qkv, tr_shape_last(qkv)));
        take_sums(self, db, outputs[1], 0);
    }
    set_inputs(c, inputs, 4);
    set_outputs(c, outputs, db < 0 ? 1 : 2);
    self->changes[join_at].gone = true;
}

/* A norm's backward and weight gradient, with what both become. */
typedef struct norm_ops {
    const char *backward, *weight;
    const tr_op *backward_sums, *backward_bias_sums, *weight_sums; /* bias: NULL where there is none */
    int rstd;     /* which input of the backward it is; the weight's last is the same value */
    int64_t sums; /* of the weights' gradients */
} norm_ops;

static const norm_ops norms[] = {
    {"layernorm_backward", "layernorm_weight", &tr__layernorm_backward_sums_op,
     &tr__layernorm_backward_bias_sums_op, &tr__layernorm_weight_sums_op, 4, 2},
    {"rmsnorm_backward", "rmsnorm_weight", &tr__rmsnorm_backward_sums_op, NULL, &tr__rmsnorm_weight_sums_op,
     3, 1},
};

static const norm_ops *norm_of(const tr_node *backward)
{
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (is(backward, norms[i].backward)) return &norms[i];
    return NULL;
}

/* Rows that lanes, or threads of a block, share evenly in packs of eight and keep in registers. */
static bool has_kept_rows(const fusion *self, tr_value x)
{
    int64_t columns = tr_shape_last(&value_of(self, x)->shape);
    return columns % 256 == 0 && columns <= 4096;
}

static void join_norm_weight(fusion *self, int32_t n, const tr_node *backward)
{
    const norm_ops *norm = norm_of(backward);
    if (!norm || !is_bf16(self, backward->inputs[1]) || !has_kept_rows(self, backward->inputs[1])) return;
    for (int32_t i = n + 1; i < self->n_nodes; i++) {
        const tr_node *weight = tr_graph_node(self->graph, i);
        if (!is(weight, norm->weight) || !is_free(self, i)) continue;
        if (weight->inputs[0] != backward->inputs[0] || weight->inputs[1] != backward->inputs[1] ||
            weight->inputs[weight->n_inputs - 1] != backward->inputs[norm->rstd])
            continue;
        int32_t db = norm->backward_bias_sums && tr__has_norm_sums(value_of(self, backward->outputs[0]))
                         ? bias_gradient_of(self, backward->outputs[0])
                         : -1;
        tr_value sums = add_value(self, tr__norm_sums_shape(&value_of(self, backward->inputs[1])->shape,
                                                            db < 0 ? norm->sums : norm->sums + 1));
        if (db >= 0) take_sums(self, db, sums, (int32_t)norm->sums);
        tr_value outputs[] = {backward->outputs[0], sums};
        change *c = begin_change(self, n, db < 0 ? norm->backward_sums : norm->backward_bias_sums, NULL, 0);
        set_inputs(c, backward->inputs, backward->n_inputs);
        set_outputs(c, outputs, 2);
        c = begin_change(self, i, norm->weight_sums, NULL, 0);
        set_inputs(c, &sums, 1);
        set_outputs(c, weight->outputs, weight->n_outputs);
        return;
    }
}

/* A product that takes dlogits as its first input and can be multiplied by the factor. */
static const tr_op *scaled(const tr_node *node, tr_value dlogits)
{
    if (node->inputs[0] != dlogits || node->inputs[1] == dlogits || node->inputs[2] == dlogits) return NULL;
    if (is(node, "linear_dx")) return &tr__linear_dx_scaled_op;
    return is(node, "linear_dw") ? &tr__linear_dw_scaled_op : NULL;
}

static bool is_reader(const tr_node *node, tr_value value)
{
    for (int i = 0; i < node->n_inputs; i++)
        if (node->inputs[i] == value) return true;
    return false;
}

/* The loss makes dlogits as well, but for the factor, which is known later: the products that take dlogits apply it. */
static void join_loss(fusion *self, int32_t n, const tr_node *loss)
{
    tr_value logits = loss->inputs[0], lse = loss->outputs[1], factor;
    int32_t at;
    const tr_node *backward = only_reader(self, lse, &at);
    if (!backward || !is(backward, "cross_entropy_backward") || !is_inner(self, logits) ||
        self->n_readers[logits] != 2 || backward->inputs[0] != logits ||
        backward->inputs[1] != loss->inputs[1] || !is_inner(self, backward->outputs[0]))
        return;
    for (int32_t i = 0; i < self->n_nodes; i++) {
        const tr_node *node = tr_graph_node(self->graph, i);
        if (is_reader(node, backward->outputs[0]) &&
            (!scaled(node, backward->outputs[0]) || !is_free(self, i)))
            return;
    }
    factor = backward->inputs[3];
    tr_value inputs[] = {logits, loss->inputs[1]}, outputs[] = {backward->outputs[0], loss->outputs[0]};
    change *c = begin_change(self, n, &tr__cross_entropy_slopes_op, NULL, 0);
    set_inputs(c, inputs, 2);
    set_outputs(c, outputs, 2);
    self->changes[at].gone = true;
    for (int32_t i = 0; i < self->n_nodes; i++) {
        const tr_node *node = tr_graph_node(self->graph, i);
        if (!is_reader(node, backward->outputs[0])) continue;
        c = begin_change(self, i, scaled(node, backward->outputs[0]), node->attributes.bytes,
                         TR_ATTRIBUTE_BYTES);
        set_inputs(c, node->inputs, node->n_inputs);
        c->inputs[c->n_inputs++] = factor;
        set_outputs(c, node->outputs, 1);
    }
}

static void count_readers(fusion *self)
{
    for (tr_value v = 0; v < self->n_values; v++) self->reader[v] = -1;
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        self->has_backward |= node->phase != TR_PHASE_FORWARD;
        for (int i = 0; i < node->n_inputs; i++) {
            tr_value input = node->inputs[i];
            if (input == TR_NO_VALUE) continue;
            if (self->n_readers[input]++ == 0) self->reader[input] = n;
        }
    }
}

static void find_patterns(fusion *self)
{
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (!is_free(self, n)) continue;
        if (is(node, "linear")) join_activation(self, n, node);
        if (is(node, "linear") && is_free(self, n)) join_add(self, n, node);
        if (is(node, "linear_dx")) join_activation_backward(self, n, node);
        if (is(node, "layernorm") || is(node, "rmsnorm")) join_norm(self, n, node);
        if (is(node, "split")) join_split(self, n, node);
        if (is(node, "cross_entropy")) join_loss(self, n, node);
        join_norm_weight(self, n, node);
    }
}

static void copy_nodes(const fusion *self, tr_graph *to)
{
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        const change *c = &self->changes[n];
        if (c->gone) continue;
        tr_node copy = *node;
        if (c->op) {
            copy.op = c->op;
            copy.n_inputs = c->n_inputs;
            copy.n_outputs = c->n_outputs;
            memcpy(copy.inputs, c->inputs, sizeof copy.inputs);
            memcpy(copy.outputs, c->outputs, sizeof copy.outputs);
            memcpy(copy.attributes.bytes, c->attributes, sizeof c->attributes);
        }
        for (int i = 0; i < copy.n_inputs; i++)
            if (copy.inputs[i] != TR_NO_VALUE && copy.inputs[i] < self->n_values)
                copy.inputs[i] = self->instead[copy.inputs[i]];
        for (int i = 0; i < 2 && is(node, "quantise"); i++) /* codes in an order that nobody reads */
            if (is_inner(self, copy.outputs[i]) && self->n_readers[copy.outputs[i]] == 0)
                copy.outputs[i] = TR_NO_VALUE;
        if (tr__graph_copy_node(to, &copy) < 0) return;
    }
}

static tr_status fuse(fusion *self, tr_graph **out, tr_error *err)
{
    tr_graph *to;
    for (tr_value v = 0; v < self->n_values; v++) self->instead[v] = v;
    count_readers(self);
    find_patterns(self);
    tr_status status = tr_graph_new(&to, err);
    if (status != TR_OK) return status;
    tr__graph_copy_values(self->graph, to);
    for (int32_t i = 0; i < self->n_added; i++) tr_graph_intermediate(to, TR_F32, self->added[i]);
    copy_nodes(self, to);
    status = tr_graph_check(to, err);
    if (status == TR_OK)
        *out = to;
    else
        tr_graph_destroy(&to);
    return status;
}

tr_status tr_graph_fuse(tr_graph **out, const tr_graph *graph, tr_error *err)
{
    tr_status status = tr_graph_check(graph, err);
    if (status != TR_OK) return status;
    fusion self = {
        .graph = graph, .n_values = tr_graph_value_count(graph), .n_nodes = tr_graph_node_count(graph)};
    size_t n_values = (size_t)self.n_values + 1, n_nodes = (size_t)self.n_nodes + 1;
    self.n_readers = tr_alloc_zero(n_values, sizeof *self.n_readers);
    self.reader = tr_alloc_zero(n_values, sizeof *self.reader);
    self.changes = tr_alloc_zero(n_nodes, sizeof *self.changes);
    self.added = tr_alloc_zero(n_nodes, sizeof *self.added);
    self.instead = tr_alloc(n_values * sizeof *self.instead);
    if (self.n_readers && self.reader && self.changes && self.added && self.instead)
        status = fuse(&self, out, err);
    else
        status = tr_fail(err, TR_ENOMEM, "no memory to fuse a graph of %d nodes", self.n_nodes);
    tr_free(self.instead);
    tr_free(self.added);
    tr_free(self.changes);
    tr_free(self.reader);
    tr_free(self.n_readers);
    return status;
}
