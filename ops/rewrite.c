/* ops/rewrite.c - see rewrite.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/rewrite.h"

static tr_value copy_value(tr_graph *to, const tr_value_info *value)
{
    tr_graph_set_unit(to, value->unit);
    switch (value->kind) {
    case TR_VALUE_INPUT: return tr_graph_input(to, value->name, value->dtype, value->shape);
    case TR_VALUE_PARAMETER: return tr_graph_parameter(to, value->name, value->dtype, value->shape);
    case TR_VALUE_GRADIENT: return tr_graph_gradient(to, value->parameter, value->use);
    case TR_VALUE_STATE: return tr_graph_state(to, value->name, value->dtype, value->shape);
    case TR_VALUE_CONSTANT:
        return tr_graph_constant(to, value->name, value->dtype, value->shape, value->constant);
    case TR_VALUE_INTERMEDIATE: break;
    }
    return tr_graph_intermediate(to, value->dtype, value->shape);
}

void tr__graph_copy_values(const tr_graph *from, tr_graph *to)
{
    for (tr_value v = 0; v < tr_graph_value_count(from); v++) {
        const tr_value_info *value = tr_graph_value(from, v);
        tr_value made = copy_value(to, value);
        if (made == TR_NO_VALUE) return; /* the graph keeps the error */
        TR_ASSERT(made == v);
        if (value->kind == TR_VALUE_INTERMEDIATE && value->name[0]) tr_graph_set_name(to, v, value->name);
        if (value->is_output) tr_graph_mark_output(to, v);
    }
}

int32_t tr__graph_copy_node(tr_graph *to, const tr_node *node)
{
    tr_graph_set_unit(to, node->unit);
    tr_graph_set_phase(to, node->phase);
    int32_t made = tr_graph_add(to, node->op, node->inputs, node->n_inputs, node->attributes.bytes,
                                TR_ATTRIBUTE_BYTES, node->outputs, node->n_outputs);
    if (made >= 0) tr_graph_set_use(to, made, node->use);
    return made;
}
