/* ops/graph.c - values and nodes of a graph, in the order they were added.
 * Every value and node is an allocation of its own, so that pointers to them stay valid while a graph grows:
 * gradient rules read the node they differentiate while they append others. Lookups by name are linear;
 * models have hundreds of parameters, and this happens when a graph is built.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/graph.h"

#include "base/memory.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <stdio.h>
#include <string.h>

struct tr_graph {
    tr_value_info **values;
    tr_node **nodes;
    size_t value_capacity, node_capacity;
    int32_t n_values, n_nodes;
    int32_t unit, n_units; /* current; begun so far */
    tr_phase phase;
    tr_error error; /* the first of any builder */
};

tr_status tr_graph_new(tr_graph **out, tr_error *err)
{
    tr_graph *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a graph");
    *out = self;
    return TR_OK;
}

static void value_free(tr_value_info *value)
{
    if (!value) return;
    tr_free((void *)value->name);
    tr_free((void *)value->constant);
    tr_free(value);
}

void tr_graph_destroy(tr_graph **self)
{
    tr_graph *graph = *self;
    if (!graph) return;
    for (int32_t i = 0; i < graph->n_values; i++) value_free(graph->values[i]);
    for (int32_t i = 0; i < graph->n_nodes; i++) tr_free(graph->nodes[i]);
    tr_free(graph->values);
    tr_free(graph->nodes);
    tr_free(graph);
    *self = NULL;
}

tr_status tr_graph_check(const tr_graph *self, tr_error *err)
{
    if (self->error.status != TR_OK) return tr_fail(err, self->error.status, "%s", self->error.message);
    return TR_OK;
}

void tr_graph_set_error(tr_graph *self, tr_status status, const char *format, ...)
{
    if (self->error.status != TR_OK) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(self->error.message, sizeof self->error.message, format, arguments);
    va_end(arguments);
    self->error.status = status;
}

int32_t tr_graph_begin_unit(tr_graph *self)
{
    self->unit = self->n_units++;
    return self->unit;
}

int32_t tr_graph_unit_count(const tr_graph *self)
{
    return self->n_units > 0 ? self->n_units : 1;
}

void tr_graph_set_unit(tr_graph *self, int32_t unit)
{
    TR_ASSERT(unit >= 0);
    self->unit = unit;
    if (unit >= self->n_units) self->n_units = unit + 1;
}

void tr_graph_set_phase(tr_graph *self, tr_phase phase)
{
    self->phase = phase;
}

static bool shape_is_sane(const tr_shape *shape)
{
    if (shape->rank < 0 || shape->rank > TR_MAX_RANK) return false;
    int64_t elements = 1;
    for (int i = 0; i < shape->rank; i++)
        if (shape->dims[i] < 1 || __builtin_mul_overflow(elements, shape->dims[i], &elements)) return false;
    return elements < INT64_C(1) << 58;
}

/* Room for one more first, then the value: so a failure leaves the graph as it was, with its error set. */
static tr_value add_value(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape,
                          tr_value_kind kind)
{
    if (self->error.status != TR_OK) return TR_NO_VALUE;
    if (!shape_is_sane(&shape)) {
        tr_graph_set_error(self, TR_EINVAL,
                           "value '%s' has rank %d or a dimension below 1 or too large; ranks are 0 to %d",
                           name, shape.rank, TR_MAX_RANK);
        return TR_NO_VALUE;
    }
    tr_value_info *value = tr_alloc(sizeof *value);
    char *copy = tr_strdup(name);
    if (!value || !copy ||
        tr_array_reserve((void **)&self->values, &self->value_capacity, (size_t)self->n_values + 1,
                         sizeof(void *), NULL) != TR_OK) {
        tr_free(copy);
        tr_free(value);
        tr_graph_set_error(self, TR_ENOMEM, "no memory for value %d of a graph", self->n_values);
        return TR_NO_VALUE;
    }
    *value = (tr_value_info){.name = copy,
                             .dtype = dtype,
                             .shape = shape,
                             .kind = kind,
                             .unit = self->unit,
                             .producer = -1,
                             .parameter = TR_NO_VALUE,
                             .use = -1};
    self->values[self->n_values] = value;
    return self->n_values++;
}

tr_value tr_graph_input(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape)
{
    return add_value(self, name, dtype, shape, TR_VALUE_INPUT);
}

tr_value tr_graph_parameter(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape)
{
    for (tr_value i = 0; i < self->n_values; i++) {
        const tr_value_info *value = self->values[i];
        if (value->kind != TR_VALUE_PARAMETER || strcmp(value->name, name) != 0) continue;
        if (value->dtype == dtype && tr_shape_equal(&value->shape, &shape)) return i;
        char had[80], asked[80];
        tr_shape_text(&value->shape, had);
        tr_shape_text(&shape, asked);
        tr_graph_set_error(self, TR_EINVAL, "parameter '%s' is %s %s and cannot be used as %s %s", name,
                           tr_dtype_name(value->dtype), had, tr_dtype_name(dtype), asked);
        return TR_NO_VALUE;
    }
    return add_value(self, name, dtype, shape, TR_VALUE_PARAMETER);
}

tr_value tr_graph_state(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape)
{
    return add_value(self, name, dtype, shape, TR_VALUE_STATE);
}

tr_value tr_graph_constant(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape,
                           const void *elements)
{
    size_t size_bytes = (size_t)tr_shape_elements(&shape) * tr_dtype_bytes(dtype);
    for (tr_value i = 0; i < self->n_values; i++) {
        const tr_value_info *value = self->values[i];
        if (value->kind == TR_VALUE_CONSTANT && strcmp(value->name, name) == 0 && value->dtype == dtype &&
            tr_shape_equal(&value->shape, &shape) && memcmp(value->constant, elements, size_bytes) == 0)
            return i;
    }
    void *copy = tr_alloc_aligned(TR_CACHE_LINE, size_bytes);
    if (!copy) {
        tr_graph_set_error(self, TR_ENOMEM, "no memory for constant '%s' of a graph", name);
        return TR_NO_VALUE;
    }
    memcpy(copy, elements, size_bytes);
    tr_value made = add_value(self, name, dtype, shape, TR_VALUE_CONSTANT);
    if (made == TR_NO_VALUE)
        tr_free(copy);
    else
        self->values[made]->constant = copy;
    return made;
}

/* Gradients are sums over micro-batches and therefore float32 whatever the parameter is. */
tr_value tr_graph_gradient(tr_graph *self, tr_value parameter, int32_t use)
{
    for (tr_value i = 0; i < self->n_values; i++) {
        const tr_value_info *value = self->values[i];
        if (value->kind == TR_VALUE_GRADIENT && value->parameter == parameter && value->use == use) return i;
    }
    if (self->error.status != TR_OK) return TR_NO_VALUE;
    const tr_value_info *of = tr_graph_value(self, parameter);
    if (of->kind != TR_VALUE_PARAMETER) {
        tr_graph_set_error(self, TR_EUNSUPPORTED,
                           "value %d is used as a weight; only a parameter can have a weight gradient",
                           parameter);
        return TR_NO_VALUE;
    }
    tr_value gradient = add_value(self, "", TR_F32, of->shape, TR_VALUE_GRADIENT);
    if (gradient == TR_NO_VALUE) return TR_NO_VALUE;
    self->values[gradient]->parameter = parameter;
    self->values[gradient]->use = use;
    return gradient;
}

tr_value tr_graph_intermediate(tr_graph *self, tr_dtype dtype, tr_shape shape)
{
    return add_value(self, "", dtype, shape, TR_VALUE_INTERMEDIATE);
}

void tr_graph_mark_output(tr_graph *self, tr_value value)
{
    if (value == TR_NO_VALUE) {
        tr_graph_set_error(self, TR_EINVAL, "a value that does not exist was marked as output");
        return;
    }
    TR_ASSERT(value >= 0 && value < self->n_values);
    self->values[value]->is_output = true;
}

void tr_graph_set_name(tr_graph *self, tr_value value, const char *name)
{
    if (self->error.status != TR_OK) return;
    TR_ASSERT(value >= 0 && value < self->n_values);
    char *copy = tr_strdup(name);
    if (!copy) {
        tr_graph_set_error(self, TR_ENOMEM, "no memory for the name '%s'", name);
        return;
    }
    tr_free((void *)self->values[value]->name);
    self->values[value]->name = copy;
}

static bool check_inputs(tr_graph *self, const tr_op *op, const tr_value *inputs, int n_inputs)
{
    TR_ASSERT(n_inputs >= 0 && n_inputs <= TR_MAX_INPUTS);
    for (int i = 0; i < n_inputs; i++)
        if (inputs[i] < TR_NO_VALUE || inputs[i] >= self->n_values) {
            tr_graph_set_error(self, TR_EINVAL, "%s: input %d is value %d, which this graph does not have",
                               op->name, i, inputs[i]);
            return false;
        }
    return true;
}

/* Outputs that a pass hands in: as inferred, in dtype and shape. */
static bool check_outputs(tr_graph *self, const tr_node *node, const tr_value_info *inferred, int n_inferred)
{
    bool fits = node->n_outputs <= n_inferred;
    for (int i = 0; fits && i < node->n_outputs; i++) {
        if (node->outputs[i] == TR_NO_VALUE) continue;
        const tr_value_info *output = tr_graph_value(self, node->outputs[i]);
        fits = output->dtype == inferred[i].dtype && tr_shape_equal(&output->shape, &inferred[i].shape);
    }
    if (!fits)
        tr_graph_set_error(self, TR_EINVAL, "%s: an output does not have the inferred type", node->op->name);
    return fits;
}

static bool make_outputs(tr_graph *self, tr_node *node, const tr_value *outputs, int n_outputs)
{
    tr_value_info inferred[TR_MAX_OUTPUTS] = {0};
    int n_inferred = TR_MAX_OUTPUTS;
    tr_error err = {0};
    if (node->op->infer(self, node, inferred, &n_inferred, &err) != TR_OK) {
        tr_graph_set_error(self, err.status, "%s", err.message);
        return false;
    }
    TR_ASSERT(n_inferred >= 0 && n_inferred <= TR_MAX_OUTPUTS);
    if (outputs) {
        TR_ASSERT(n_outputs >= 0 && n_outputs <= TR_MAX_OUTPUTS);
        node->n_outputs = n_outputs;
        memcpy(node->outputs, outputs, (size_t)n_outputs * sizeof *outputs);
        return check_outputs(self, node, inferred, n_inferred);
    }
    node->n_outputs = n_inferred;
    for (int i = 0; i < n_inferred; i++) {
        node->outputs[i] = tr_graph_intermediate(self, inferred[i].dtype, inferred[i].shape);
        if (node->outputs[i] == TR_NO_VALUE) return false;
    }
    return true;
}

int32_t tr_graph_add(tr_graph *self, const tr_op *op, const tr_value *inputs, int n_inputs,
                     const void *attributes, size_t attribute_bytes, const tr_value *outputs, int n_outputs)
{
    if (self->error.status != TR_OK || !check_inputs(self, op, inputs, n_inputs)) return -1;
    TR_ASSERT(attribute_bytes <= TR_ATTRIBUTE_BYTES);
    tr_node *node = tr_alloc_zero(1, sizeof *node);
    if (!node || tr_array_reserve((void **)&self->nodes, &self->node_capacity, (size_t)self->n_nodes + 1,
                                  sizeof(void *), NULL) != TR_OK) {
        tr_graph_set_error(self, TR_ENOMEM, "no memory for node %d of a graph, '%s'", self->n_nodes,
                           op->name);
        goto failed;
    }
    node->op = op;
    node->phase = self->phase;
    node->unit = self->unit;
    node->use = self->n_nodes;
    node->n_inputs = n_inputs;
    for (int i = 0; i < TR_MAX_INPUTS; i++) node->inputs[i] = i < n_inputs ? inputs[i] : TR_NO_VALUE;
    for (int i = 0; i < TR_MAX_OUTPUTS; i++) node->outputs[i] = TR_NO_VALUE;
    if (attributes) memcpy(node->attributes.bytes, attributes, attribute_bytes);
    if (!make_outputs(self, node, outputs, n_outputs)) goto failed;
    for (int i = 0; i < node->n_outputs; i++)
        if (node->outputs[i] != TR_NO_VALUE && self->values[node->outputs[i]]->producer < 0)
            self->values[node->outputs[i]]->producer = self->n_nodes;
    self->nodes[self->n_nodes] = node;
    return self->n_nodes++;
failed:
    tr_free(node);
    return -1;
}

tr_value tr_graph_add1(tr_graph *self, const tr_op *op, const tr_value *inputs, int n_inputs,
                       const void *attributes, size_t attribute_bytes)
{
    int32_t node = tr_graph_add(self, op, inputs, n_inputs, attributes, attribute_bytes, NULL, 0);
    return node < 0 ? TR_NO_VALUE : self->nodes[node]->outputs[0];
}

int32_t tr_graph_value_count(const tr_graph *self)
{
    return self->n_values;
}

/* Of TR_NO_VALUE: something empty, so that a builder may look at shapes before
 * it learns that an earlier one failed. */
const tr_value_info *tr_graph_value(const tr_graph *self, tr_value value)
{
    static const tr_value_info nothing = {.name = "", .producer = -1, .parameter = TR_NO_VALUE, .use = -1};
    if (value == TR_NO_VALUE) return &nothing;
    TR_ASSERT(value >= 0 && value < self->n_values);
    return self->values[value];
}

int32_t tr_graph_node_count(const tr_graph *self)
{
    return self->n_nodes;
}

const tr_node *tr_graph_node(const tr_graph *self, int32_t node)
{
    TR_ASSERT(node >= 0 && node < self->n_nodes);
    return self->nodes[node];
}

tr_value tr_graph_find(const tr_graph *self, const char *name)
{
    for (tr_value i = 0; i < self->n_values; i++)
        if (strcmp(self->values[i]->name, name) == 0) return i;
    return TR_NO_VALUE;
}

void tr_graph_set_use(tr_graph *self, int32_t node, int32_t use)
{
    TR_ASSERT(node >= 0 && node < self->n_nodes);
    self->nodes[node]->use = use;
}

const void *tr_node_attributes(const tr_node *node)
{
    return node->attributes.bytes;
}

bool tr_node_is_kept(const tr_graph *graph, const tr_node *node)
{
    if (!node->op->once) return false;
    for (int i = 0; i < node->n_inputs; i++)
        if (node->inputs[i] != TR_NO_VALUE &&
            tr_graph_value(graph, node->inputs[i])->kind != TR_VALUE_PARAMETER)
            return false;
    return true;
}

tr_value tr_gradient_add(tr_graph *graph, tr_value pending, tr_value gradient)
{
    if (pending == TR_NO_VALUE) return gradient;
    if (gradient == TR_NO_VALUE) return pending;
    return tr_add(graph, pending, gradient);
}
