/* ops/autodiff.c - one walk forward to see what is needed, one backward to let each operation's rule add its
 * nodes. A value with several consumers: each rule gets what the later consumers gave ("pending") and hands
 * back the new total, so the order of every sum is the reverse order of the forward nodes. That order does
 * not change when a model is cut, because a cut value has no consumer in front of the cut and behind it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/autodiff.h"

#include "base/memory.h"
#include "ops/op.h"
#include "ops/operations.h"

#include <string.h>

typedef struct autodiff {
    tr_graph *graph;
    int32_t n_values, n_nodes; /* of the forward */
    bool *needed;              /* by forward value: something asks for its gradient */
    tr_value *gradients;       /* by forward value: total so far, TR_NO_VALUE for none */
} autodiff;

static tr_status check_output(const tr_graph *graph, tr_value output, tr_value gradient, tr_error *err)
{
    const tr_value_info *of = tr_graph_value(graph, output), *given = tr_graph_value(graph, gradient);
    if (of->dtype ==
        TR_F64) { /* a loss: its gradient is the factor that all of the backward is multiplied by */
        if (given->dtype == TR_F32 && tr_shape_elements(&given->shape) == 1) return TR_OK;
    } else if (given->dtype == of->dtype && tr_shape_equal(&given->shape, &of->shape)) {
        return TR_OK;
    }
    char had[80], wanted[80];
    tr_shape_text(&given->shape, had);
    tr_shape_text(&of->shape, wanted);
    return tr_fail(err, TR_EINVAL, "the gradient of output %d is %s %s; the output is %s %s", output,
                   tr_dtype_name(given->dtype), had, tr_dtype_name(of->dtype), wanted);
}

static bool is_parameter(const autodiff *self, tr_value value)
{
    return tr_graph_value(self->graph, value)->kind == TR_VALUE_PARAMETER;
}

static void find_needed(autodiff *self, const tr_value *inputs, int n_inputs)
{
    for (int i = 0; i < n_inputs; i++)
        if (inputs[i] != TR_NO_VALUE) self->needed[inputs[i]] = true;
    for (tr_value v = 0; v < self->n_values; v++)
        if (is_parameter(self, v)) self->needed[v] = true;
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (node->phase != TR_PHASE_FORWARD || !node->op->gradient) continue;
        bool needed = false;
        for (int i = 0; i < node->n_inputs; i++)
            needed = needed || (node->inputs[i] != TR_NO_VALUE && self->needed[node->inputs[i]]);
        for (int i = 0; needed && i < node->n_outputs; i++)
            if (node->outputs[i] != TR_NO_VALUE) self->needed[node->outputs[i]] = true;
    }
}

static bool seen_before(const tr_node *node, int input)
{
    for (int i = 0; i < input; i++)
        if (node->inputs[i] == node->inputs[input]) return true;
    return false;
}

/* Gradients of parameters go to values of their own, by the rule; nothing is pending for them.
 * A value that is an input twice has its pending gradient handed to the first
 * of them only, and the others added after. */
static void differentiate(autodiff *self, const tr_node *node)
{
    tr_value output_gradients[TR_MAX_OUTPUTS], input_gradients[TR_MAX_INPUTS];
    bool wanted[TR_MAX_INPUTS] = {false}, any_wanted = false, any_flows = false;
    for (int i = 0; i < TR_MAX_OUTPUTS; i++) {
        bool there = i < node->n_outputs && node->outputs[i] != TR_NO_VALUE;
        output_gradients[i] = there ? self->gradients[node->outputs[i]] : TR_NO_VALUE;
        any_flows = any_flows || output_gradients[i] != TR_NO_VALUE;
    }
    for (int i = 0; i < TR_MAX_INPUTS; i++) {
        input_gradients[i] = TR_NO_VALUE;
        if (i >= node->n_inputs || node->inputs[i] == TR_NO_VALUE) continue;
        wanted[i] = self->needed[node->inputs[i]];
        any_wanted = any_wanted || wanted[i];
        if (wanted[i] && !seen_before(node, i)) input_gradients[i] = self->gradients[node->inputs[i]];
    }
    if (!any_flows || !any_wanted || !node->op->gradient) return;

    tr_graph_set_unit(self->graph, node->unit);
    tr_graph_set_phase(self->graph, TR_PHASE_BACKWARD);
    node->op->gradient(self->graph, node, output_gradients, input_gradients, wanted);
    tr_graph_set_phase(self->graph, TR_PHASE_BACKWARD);
    for (int i = 0; i < node->n_inputs; i++) {
        if (!wanted[i]) continue;
        if (is_parameter(self, node->inputs[i])) {
            if (input_gradients[i] != TR_NO_VALUE)
                tr_graph_set_error(self->graph, TR_EUNSUPPORTED,
                                   "'%s' has no weight gradient; parameter '%s' cannot be its input %d",
                                   node->op->name, tr_graph_value(self->graph, node->inputs[i])->name, i);
            continue;
        }
        tr_value *total = &self->gradients[node->inputs[i]];
        *total = seen_before(node, i) ? tr_gradient_add(self->graph, *total, input_gradients[i])
                                      : input_gradients[i];
    }
}

/* What goes out needs memory of its own: a gradient that came in, or one that goes out already, is copied. */
static tr_value own_gradient(tr_graph *graph, tr_value input, tr_value gradient)
{
    const tr_value_info *info = tr_graph_value(graph, gradient);
    if (info->kind != TR_VALUE_INTERMEDIATE || info->is_output) {
        tr_value copy = TR_NO_VALUE;
        tr_graph_set_unit(graph, tr_graph_value(graph, input)->unit);
        tr_graph_set_phase(graph, TR_PHASE_BACKWARD);
        int64_t width = info->shape.rank > 0 ? info->shape.dims[info->shape.rank - 1] : 1;
        tr_split(graph, gradient, &width, 1, &copy);
        gradient = copy;
    }
    tr_graph_mark_output(graph, gradient);
    return gradient;
}

/* Input gradients must be computable before any weight gradient is. */
static tr_status check_phases(const autodiff *self, tr_error *err)
{
    for (int32_t n = self->n_nodes; n < tr_graph_node_count(self->graph); n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        for (int i = 0; i < node->n_inputs; i++) {
            int32_t producer = tr_graph_value(self->graph, node->inputs[i])->producer;
            if (producer < 0 || node->phase == TR_PHASE_WEIGHT) continue;
            const tr_node *from = tr_graph_node(self->graph, producer);
            if (from->phase == TR_PHASE_WEIGHT)
                return tr_fail(err, TR_EINVAL,
                               "'%s' computes an input gradient from the weight gradient of '%s'",
                               node->op->name, from->op->name);
        }
    }
    return TR_OK;
}

static tr_status walk(autodiff *self, const tr_value *outputs, const tr_value *output_gradients,
                      int n_outputs, const tr_value *inputs, tr_value *input_gradients, int n_inputs,
                      tr_error *err)
{
    for (int32_t v = 0; v < self->n_values; v++) self->gradients[v] = TR_NO_VALUE;
    tr_graph_set_phase(self->graph, TR_PHASE_BACKWARD);
    for (int i = 0; i < n_outputs; i++) {
        tr_value *total = &self->gradients[outputs[i]];
        tr_graph_set_unit(self->graph, tr_graph_value(self->graph, outputs[i])->unit);
        *total = tr_gradient_add(self->graph, *total, output_gradients[i]);
    }
    find_needed(self, inputs, n_inputs);
    for (int32_t n = self->n_nodes - 1; n >= 0; n--) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (node->phase == TR_PHASE_FORWARD) differentiate(self, node);
    }
    for (int i = 0; i < n_inputs; i++) {
        tr_value gradient = inputs[i] == TR_NO_VALUE ? TR_NO_VALUE : self->gradients[inputs[i]];
        input_gradients[i] =
            gradient == TR_NO_VALUE ? TR_NO_VALUE : own_gradient(self->graph, inputs[i], gradient);
    }
    tr_status status = tr_graph_check(self->graph, err);
    return status == TR_OK ? check_phases(self, err) : status;
}

tr_status tr_autodiff(tr_graph *graph, const tr_value *outputs, const tr_value *output_gradients,
                      int n_outputs, const tr_value *inputs, tr_value *input_gradients, int n_inputs,
                      tr_error *err)
{
    tr_status status = tr_graph_check(graph, err);
    for (int i = 0; status == TR_OK && i < n_outputs; i++)
        status = check_output(graph, outputs[i], output_gradients[i], err);
    if (status != TR_OK) return status;

    autodiff self = {
        .graph = graph, .n_values = tr_graph_value_count(graph), .n_nodes = tr_graph_node_count(graph)};
    self.needed = tr_alloc_zero((size_t)self.n_values, sizeof *self.needed);
    self.gradients = tr_alloc((size_t)self.n_values * sizeof *self.gradients);
    if (self.needed && self.gradients)
        status = walk(&self, outputs, output_gradients, n_outputs, inputs, input_gradients, n_inputs, err);
    else
        status = tr_fail(err, TR_ENOMEM, "no memory to differentiate a graph of %d values", self.n_values);
    tr_graph_set_phase(graph, TR_PHASE_FORWARD);
    tr_free(self.gradients);
    tr_free(self.needed);
    return status;
}
