/* ops/memory_plan.c - lives of values, then offsets for the blocks of each arena.
 * A block is a value, or several that take over each other's memory (tr_op.alias_input), or a workspace.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/memory_plan.h"

#include "base/memory.h"
#include "ops/op.h"

#include <stdlib.h>
#include <string.h>

static size_t round_up(size_t bytes)
{
    return (bytes + TR_CACHE_LINE - 1) / TR_CACHE_LINE * TR_CACHE_LINE;
}

static int larger_first(const void *left, const void *right)
{
    const tr_block *a = *(tr_block *const *)left, *b = *(tr_block *const *)right;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? 1 : -1;
    return a < b ? -1 : a > b; /* equal sizes in their order, so that a plan is the same everywhere */
}

/* The smallest gap between the placed blocks (sorted by offset) that are
 * alive with `block`, or the end of them. */
static size_t best_gap(tr_block *const *placed, int32_t n_placed, const tr_block *block)
{
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (int32_t i = 0; i < n_placed; i++) {
        const tr_block *other = placed[i];
        if (other->first > block->last || block->first > other->last) continue;
        if (other->offset > end && other->offset - end >= block->bytes && other->offset - end < best_gap) {
            best = end;
            best_gap = other->offset - end;
        }
        if (other->offset + other->bytes > end) end = other->offset + other->bytes;
    }
    return best != SIZE_MAX ? best : end;
}

tr_status tr_blocks_place(tr_block *blocks, int32_t n_blocks, size_t *total_bytes, tr_error *err)
{
    size_t total = 0;
    tr_block **by_size = tr_alloc((size_t)n_blocks * sizeof *by_size);
    tr_block **placed = tr_alloc((size_t)n_blocks * sizeof *placed);
    if (!by_size || !placed) {
        tr_free(placed);
        tr_free(by_size);
        return tr_fail(err, TR_ENOMEM, "no memory to place %d blocks", n_blocks);
    }
    for (int32_t i = 0; i < n_blocks; i++) {
        blocks[i].bytes = round_up(blocks[i].bytes);
        by_size[i] = &blocks[i];
    }
    qsort(by_size, (size_t)n_blocks, sizeof *by_size, larger_first);
    for (int32_t i = 0; i < n_blocks; i++) {
        tr_block *block = by_size[i];
        block->offset = best_gap(placed, i, block);
        if (block->offset + block->bytes > total) total = block->offset + block->bytes;
        int32_t at = i;
        for (; at > 0 && placed[at - 1]->offset > block->offset; at--) placed[at] = placed[at - 1];
        placed[at] = block;
    }
    tr_free(placed);
    tr_free(by_size);
    *total_bytes = total;
    return TR_OK;
}

static void order_nodes(tr_memory_plan *self, const tr_graph *graph)
{
    int32_t position = 0;
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++) {
        self->phase_start[phase] = position;
        for (int32_t n = 0; n < self->n_nodes; n++)
            if ((int)tr_graph_node(graph, n)->phase == phase) self->order[position++] = n;
    }
    self->phase_start[TR_PHASE_COUNT] = position;
}

static tr_phase phase_at(const tr_memory_plan *self, int32_t position)
{
    int phase = TR_PHASE_FORWARD;
    while (position >= self->phase_start[phase + 1]) phase++;
    return (tr_phase)phase;
}

static bool is_kept(const tr_graph *graph, const tr_value_info *info)
{
    return info->kind == TR_VALUE_INTERMEDIATE && info->producer >= 0 &&
           tr_node_is_kept(graph, tr_graph_node(graph, info->producer));
}

static bool is_planned(const tr_graph *graph, tr_value value)
{
    if (value == TR_NO_VALUE) return false;
    const tr_value_info *info = tr_graph_value(graph, value);
    return info->kind == TR_VALUE_INTERMEDIATE && !info->is_output && !is_kept(graph, info);
}

static void touch(tr_memory_plan *self, tr_value value, int32_t position)
{
    tr_place *place = &self->values[value];
    if (place->first < 0) place->first = position;
    place->last = position;
}

static tr_status find_lives(tr_memory_plan *self, const tr_graph *graph, tr_error *err)
{
    for (tr_value v = 0; v < self->n_values; v++)
        self->values[v] = (tr_place){.first = -1, .last = -1, .last_reader = TR_PHASE_FORWARD};
    for (int32_t position = 0; position < self->n_nodes; position++) {
        const tr_node *node = tr_graph_node(graph, self->order[position]);
        for (int i = 0; i < node->n_inputs; i++) {
            tr_value input = node->inputs[i];
            if (input == TR_NO_VALUE) continue;
            if (tr_graph_value(graph, input)->kind == TR_VALUE_INTERMEDIATE && self->values[input].first < 0)
                return tr_fail(err, TR_EINVAL, "'%s' (node %d) reads value %d before any node has written it",
                               node->op->name, self->order[position], input);
            touch(self, input, position);
            self->values[input].last_reader = node->phase;
        }
        for (int i = 0; i < node->n_outputs; i++)
            if (node->outputs[i] != TR_NO_VALUE) touch(self, node->outputs[i], position);
    }
    return TR_OK;
}

/* Output 0 may take over the memory of an input that nobody reads again and
 * that the node reads as that input only. */
static bool may_alias(const tr_memory_plan *self, const tr_graph *graph, const tr_node *node,
                      int32_t position)
{
    int k = node->op->alias_input;
    if (k < 0 || k >= node->n_inputs || node->n_outputs < 1) return false;
    tr_value input = node->inputs[k], output = node->outputs[0];
    if (!is_planned(graph, input) || !is_planned(graph, output)) return false;
    if (self->values[input].last != position || self->values[output].first != position) return false;
    for (int i = 0; i < node->n_inputs; i++)
        if (i != k && node->inputs[i] == input) return false;
    const tr_value_info *from = tr_graph_value(graph, input), *to = tr_graph_value(graph, output);
    return tr_dtype_bytes(from->dtype) * (size_t)tr_shape_elements(&from->shape) ==
           tr_dtype_bytes(to->dtype) * (size_t)tr_shape_elements(&to->shape);
}

/* block_of[value] is the value whose block it lives in; lives[] of such a value covers all that share it. */
static void merge_aliases(const tr_memory_plan *self, const tr_graph *graph, int32_t *block_of,
                          tr_block *lives)
{
    for (tr_value v = 0; v < self->n_values; v++) {
        const tr_value_info *info = tr_graph_value(graph, v);
        block_of[v] = v;
        lives[v] = (tr_block){.first = self->values[v].first, .last = self->values[v].last};
        lives[v].bytes = tr_dtype_bytes(info->dtype) * (size_t)tr_shape_elements(&info->shape);
    }
    for (int32_t position = 0; position < self->n_nodes; position++) {
        const tr_node *node = tr_graph_node(graph, self->order[position]);
        if (!may_alias(self, graph, node, position)) continue;
        int32_t block = block_of[node->inputs[node->op->alias_input]];
        block_of[node->outputs[0]] = block;
        lives[block].last = lives[node->outputs[0]].last;
    }
}

typedef struct planning {
    tr_memory_plan *plan;
    const tr_graph *graph;
    const size_t *workspace_bytes;
    int32_t *block_of; /* by value */
    tr_block *lives;   /* by value: where block_of[v] == v */
    tr_block *blocks;  /* of the arena being placed */
    int32_t *owners;   /* of blocks: value, or n_values + node for a workspace */
} planning;

/* Places the blocks of one arena: of one phase's scratch, or of the stash (phase TR_PHASE_COUNT). */
static tr_status place_arena(planning *self, int phase, size_t *total_bytes, tr_error *err)
{
    tr_memory_plan *plan = self->plan;
    int32_t n_blocks = 0;
    for (tr_value v = 0; v < plan->n_values; v++) {
        if (!is_planned(self->graph, v) || self->block_of[v] != v || plan->values[v].first < 0) continue;
        int first = (int)phase_at(plan, self->lives[v].first),
            last = (int)phase_at(plan, self->lives[v].last);
        if ((first == last ? first : TR_PHASE_COUNT) != phase) continue;
        self->owners[n_blocks] = v;
        self->blocks[n_blocks++] = self->lives[v];
    }
    for (int32_t position = 0; phase < TR_PHASE_COUNT && position < plan->n_nodes; position++) {
        int32_t node = plan->order[position];
        if (self->workspace_bytes[node] == 0 || (int)phase_at(plan, position) != phase) continue;
        self->owners[n_blocks] = plan->n_values + node;
        self->blocks[n_blocks++] =
            (tr_block){.first = position, .last = position, .bytes = self->workspace_bytes[node]};
    }
    tr_status status = tr_blocks_place(self->blocks, n_blocks, total_bytes, err);
    for (int32_t i = 0; status == TR_OK && i < n_blocks; i++) {
        if (self->owners[i] >= plan->n_values) {
            plan->workspaces[self->owners[i] - plan->n_values] = self->blocks[i].offset;
            continue;
        }
        tr_place *place = &plan->values[self->owners[i]];
        place->space = phase == TR_PHASE_COUNT ? TR_SPACE_STASH : TR_SPACE_SCRATCH;
        place->offset = self->blocks[i].offset;
    }
    return status;
}

static tr_status place_all(planning *self, tr_error *err)
{
    tr_memory_plan *plan = self->plan;
    merge_aliases(plan, self->graph, self->block_of, self->lives);
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++) {
        size_t bytes;
        tr_status status = place_arena(self, phase, &bytes, err);
        if (status != TR_OK) return status;
        if (bytes > plan->scratch_bytes) plan->scratch_bytes = bytes;
    }
    tr_status status = place_arena(self, TR_PHASE_COUNT, &plan->stash_bytes, err);
    if (status != TR_OK) return status;
    for (tr_value v = 0; v < plan->n_values; v++) {
        if (plan->values[v].first < 0) continue;
        const tr_value_info *info = tr_graph_value(self->graph, v);
        if (is_kept(self->graph, info)) {
            plan->values[v].space = TR_SPACE_KEPT;
            plan->values[v].offset = plan->kept_bytes;
            plan->kept_bytes +=
                round_up(tr_dtype_bytes(info->dtype) * (size_t)tr_shape_elements(&info->shape));
            continue;
        }
        if (!is_planned(self->graph, v)) {
            plan->values[v].space = TR_SPACE_BOUND;
            continue;
        }
        const tr_place *block = &plan->values[self->block_of[v]];
        plan->values[v].space = block->space;
        plan->values[v].offset = block->offset;
    }
    return TR_OK;
}

tr_status tr_memory_plan_init(tr_memory_plan *self, const tr_graph *graph, const size_t *workspace_bytes,
                              tr_error *err)
{
    *self = (tr_memory_plan){.n_values = tr_graph_value_count(graph), .n_nodes = tr_graph_node_count(graph)};
    size_t n_values = (size_t)self->n_values, n_nodes = (size_t)self->n_nodes;
    planning work = {.plan = self, .graph = graph, .workspace_bytes = workspace_bytes};
    self->order = tr_alloc(n_nodes * sizeof *self->order);
    self->values = tr_alloc(n_values * sizeof *self->values);
    self->workspaces = tr_alloc_zero(n_nodes, sizeof *self->workspaces);
    work.block_of = tr_alloc(n_values * sizeof *work.block_of);
    work.lives = tr_alloc(n_values * sizeof *work.lives);
    work.blocks = tr_alloc((n_values + n_nodes) * sizeof *work.blocks);
    work.owners = tr_alloc((n_values + n_nodes) * sizeof *work.owners);

    tr_status status = TR_OK;
    if (!self->order || !self->values || !self->workspaces || !work.block_of || !work.lives || !work.blocks ||
        !work.owners)
        status = tr_fail(err, TR_ENOMEM, "no memory to plan a graph of %zu nodes", n_nodes);
    if (status == TR_OK) {
        order_nodes(self, graph);
        status = find_lives(self, graph, err);
    }
    if (status == TR_OK) status = place_all(&work, err);
    tr_free(work.owners);
    tr_free(work.blocks);
    tr_free(work.lives);
    tr_free(work.block_of);
    if (status != TR_OK) tr_memory_plan_release(self);
    return status;
}

void tr_memory_plan_release(tr_memory_plan *self)
{
    tr_free(self->workspaces);
    tr_free(self->values);
    tr_free(self->order);
    *self = (tr_memory_plan){0};
}
