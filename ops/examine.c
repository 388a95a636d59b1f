/* ops/examine.c - see examine.h. An output may lie where an input was (tr_op.alias_input), so an input that is the same memory is
 * not looked at: that it held something else before is not known.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/examine.h"

#include "base/memory.h"

#include <math.h>

enum { CHUNK_BYTES = 1 << 20 };

static double element(tr_dtype dtype, const void *elements, int64_t i)
{
    switch (dtype) {
    case TR_F32: return (double)((const float *)elements)[i];
    case TR_F64: return ((const double *)elements)[i];
    case TR_BF16: return (double)tr_f32_of_bf16(((const tr_bf16 *)elements)[i]);
    default: return 0;
    }
}

/* A half has its exponent in five bits, all ones for what is no number. */
static double element_of_half(const void *elements, int64_t i)
{
    uint16_t bits = ((const uint16_t *)elements)[i];
    if ((bits & 0x7c00) != 0x7c00) return 0;
    return bits & 0x3ff ? (double)NAN : bits & 0x8000 ? -(double)INFINITY : (double)INFINITY;
}

/* The first of n that is no number; -1: none is. */
static int64_t find(tr_dtype dtype, const void *elements, int64_t n, double *value)
{
    for (int64_t i = 0; i < n; i++) {
        *value = dtype == TR_F16 ? element_of_half(elements, i) : element(dtype, elements, i);
        if (!isfinite(*value)) return i;
    }
    return -1;
}

static int64_t find_on_device(tr_stream *stream, tr_dtype dtype, const char *at, int64_t n, double *value)
{
    int64_t most = CHUNK_BYTES / (int64_t)tr_dtype_bytes(dtype), found = -1;
    void *copy = tr_alloc_aligned(TR_CACHE_LINE, CHUNK_BYTES);
    for (int64_t first = 0; copy && found < 0 && first < n; first += most) {
        int64_t some = n - first < most ? n - first : most;
        size_t bytes = tr_dtype_bytes(dtype);
        if (tr_stream_copy(stream, copy, at + (size_t)first * bytes, (size_t)some * bytes, NULL) ||
            tr_stream_synchronize(stream, NULL))
            break;
        found = find(dtype, copy, some, value);
        if (found >= 0) found += first;
    }
    tr_free(copy);
    return found;
}

static int64_t look(const tr_program *program, const tr_bindings *bindings, tr_value which, double *value)
{
    const tr_value_info *info = tr_graph_value(tr_program_graph(program), which);
    const void *at = tr_program_address(program, bindings, which);
    int64_t n = tr_shape_elements(&info->shape);
    tr_stream *stream = tr_program_stream(program);
    bool is_real = info->dtype <= TR_F16;
    if (!is_real || !at) return -1;
    return stream ? find_on_device(stream, info->dtype, at, n, value) : find(info->dtype, at, n, value);
}

static bool is_written(const tr_program *program, const tr_bindings *bindings, const tr_node *node,
                       tr_value value)
{
    const void *at = tr_program_address(program, bindings, value);
    for (int32_t o = 0; o < node->n_outputs; o++)
        if (tr_program_address(program, bindings, node->outputs[o]) == at) return true;
    return false;
}

static void look_at_inputs(const tr_program *program, const tr_bindings *bindings, tr_oddity *out)
{
    const tr_graph *graph = tr_program_graph(program);
    double value;
    for (int32_t i = 0; i < out->node->n_inputs; i++) {
        tr_value input = out->node->inputs[i];
        if (input == TR_NO_VALUE) continue;
        const tr_value_info *info = tr_graph_value(graph, input);
        bool is_parameter = info->kind == TR_VALUE_PARAMETER;
        if (is_parameter && !out->in_parameter) out->parameter = info->name;
        if (is_written(program, bindings, out->node, input) || look(program, bindings, input, &value) < 0)
            continue;
        out->in_parameter |= is_parameter;
        out->in_input |= !is_parameter;
    }
}

bool tr_examine(const tr_program *program, const tr_bindings *bindings, int32_t position, tr_oddity *out)
{
    const tr_node *node = tr_program_node(program, position);
    const tr_graph *graph = tr_program_graph(program);
    for (int32_t o = 0; o < node->n_outputs; o++) {
        double value = 0;
        if (node->outputs[o] == TR_NO_VALUE) continue;
        int64_t index = look(program, bindings, node->outputs[o], &value);
        if (index < 0) continue;
        *out = (tr_oddity){.node = node,
                           .position = position,
                           .n_positions = tr_graph_node_count(graph),
                           .value = value,
                           .index = index,
                           .n_elements = tr_shape_elements(&tr_graph_value(graph, node->outputs[o])->shape),
                           .parameter = ""};
        look_at_inputs(program, bindings, out);
        return true;
    }
    return false;
}
