/* pipelines/partition.c - which stage gets which units, and who uses which parameter.
 * What is dealt out are blocks: a decoder layer each, the embedding joined to the first and the head to the
 * last.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/partition.h"

#include "base/memory.h"
#include "ops/op.h"

#include <stdlib.h>

static int32_t layer_count(const tr_graph *whole)
{
    return tr_graph_unit_count(whole) - 2;
}

/* costs[i]: FLOPs of one forward of block i. */
static void block_costs(const tr_graph *whole, double *costs)
{
    int32_t n = layer_count(whole);
    for (int32_t i = 0; i < n; i++) costs[i] = 0.0;
    for (int32_t i = 0; i < tr_graph_node_count(whole); i++) {
        const tr_node *node = tr_graph_node(whole, i);
        int32_t block = node->unit < 1 ? 0 : node->unit > n ? n - 1 : node->unit - 1;
        if (node->op->flops) costs[block] += node->op->flops(whole, node);
    }
}

/* The tables of the dynamic programme, (n_stages+1) x (n_blocks+1): of the best way to deal the first i
 * blocks to s stages. */
typedef struct cut_tables {
    const double *sums; /* sums[i]: cost of the blocks before i */
    double *worst;      /* cost of the costliest stage */
    double *squares;    /* sum of squares where no stage costs more than the bound */
    int32_t *last;      /* where the last stage begins in that way */
    int32_t n;          /* blocks */
} cut_tables;

static size_t at(const cut_tables *t, int32_t s, int32_t i)
{
    return (size_t)s * (size_t)(t->n + 1) + (size_t)i;
}

static void fill_worst(const cut_tables *t, int32_t n_stages)
{
    for (int32_t i = 1; i <= t->n; i++) t->worst[at(t, 1, i)] = t->sums[i];
    for (int32_t s = 2; s <= n_stages; s++)
        for (int32_t i = s; i <= t->n; i++) {
            double best = -1.0;
            for (int32_t j = s - 1; j < i; j++) {
                double before = t->worst[at(t, s - 1, j)], own = t->sums[i] - t->sums[j];
                double worst = before > own ? before : own;
                if (best < 0.0 || worst < best) best = worst;
            }
            t->worst[at(t, s, i)] = best;
        }
}

/* -1 marks what cannot be done within the bound.
 * Of equals the first is kept: the last stage begins earliest. */
static void fill_squares(const cut_tables *t, int32_t n_stages, double bound)
{
    for (int32_t i = 1; i <= t->n; i++) {
        t->squares[at(t, 1, i)] = t->sums[i] <= bound ? t->sums[i] * t->sums[i] : -1.0;
        t->last[at(t, 1, i)] = 0;
    }
    for (int32_t s = 2; s <= n_stages; s++)
        for (int32_t i = s; i <= t->n; i++) {
            double best = -1.0;
            for (int32_t j = s - 1; j < i; j++) {
                double before = t->squares[at(t, s - 1, j)], own = t->sums[i] - t->sums[j];
                if (before < 0.0 || own > bound) continue;
                if (best >= 0.0 && before + own * own >= best) continue;
                best = before + own * own;
                t->last[at(t, s, i)] = j;
            }
            t->squares[at(t, s, i)] = best;
        }
}

tr_status tr_partition_cut(const double *costs, int32_t n_blocks, int32_t n_stages, int32_t *first,
                           tr_error *err)
{
    TR_ASSERT(n_stages >= 1 && n_stages <= n_blocks);
    size_t cells = (size_t)(n_stages + 1) * (size_t)(n_blocks + 1);
    double *memory = tr_alloc_zero((size_t)(n_blocks + 1) + 2 * cells, sizeof *memory);
    int32_t *last = tr_alloc_zero(cells, sizeof *last);
    tr_status status = TR_OK;
    if (!memory || !last) {
        status = tr_fail(err, TR_ENOMEM, "no memory to cut %d layers into %d stages", n_blocks, n_stages);
        goto done;
    }
    double *sums = memory;
    for (int32_t i = 0; i < n_blocks; i++) sums[i + 1] = sums[i] + costs[i];
    cut_tables t = {.sums = sums,
                    .worst = memory + n_blocks + 1,
                    .squares = memory + (size_t)(n_blocks + 1) + cells,
                    .last = last,
                    .n = n_blocks};
    fill_worst(&t, n_stages);
    fill_squares(&t, n_stages, t.worst[at(&t, n_stages, n_blocks)]);
    first[n_stages] = n_blocks;
    for (int32_t s = n_stages; s > 0; s--) first[s - 1] = last[at(&t, s, first[s])];
done:
    tr_free(last);
    tr_free(memory);
    return status;
}

/* first[s] in blocks becomes first_unit[s], and the stages' costs are summed. */
static tr_status finish(tr_partition *out, const tr_graph *whole, const int32_t *first, const double *costs,
                        int32_t n_stages, tr_error *err)
{
    tr_partition made = {.n_stages = n_stages,
                         .first_unit = tr_alloc_zero((size_t)n_stages + 1, sizeof(int32_t)),
                         .cost = tr_alloc_zero((size_t)n_stages, sizeof(double))};
    if (!made.first_unit || !made.cost) {
        tr_partition_release(&made);
        return tr_fail(err, TR_ENOMEM, "no memory for a partition into %d stages", n_stages);
    }
    for (int32_t s = 0; s < n_stages; s++) {
        made.first_unit[s] = s == 0 ? 0 : first[s] + 1;
        for (int32_t i = first[s]; i < first[s + 1]; i++) made.cost[s] += costs[i];
    }
    made.first_unit[n_stages] = tr_graph_unit_count(whole);
    *out = made;
    return TR_OK;
}

/* Stages by `layers`, or balanced where it is NULL. */
static tr_status make(tr_partition *out, const tr_graph *whole, const int32_t *layers, int32_t n_stages,
                      tr_error *err)
{
    int32_t n = layer_count(whole);
    double *costs = tr_alloc_zero((size_t)n, sizeof *costs);
    int32_t *first = tr_alloc_zero((size_t)n_stages + 1, sizeof *first);
    tr_status status = TR_OK;
    if (!costs || !first) {
        status = tr_fail(err, TR_ENOMEM, "no memory for a partition of %d layers", n);
        goto done;
    }
    block_costs(whole, costs);
    for (int32_t s = 0; layers && s < n_stages; s++) first[s + 1] = first[s] + layers[s];
    if (!layers) status = tr_partition_cut(costs, n, n_stages, first, err);
    if (status == TR_OK) status = finish(out, whole, first, costs, n_stages, err);
done:
    tr_free(first);
    tr_free(costs);
    return status;
}

static tr_status check_stage_count(const tr_graph *whole, int32_t n_stages, tr_error *err)
{
    if (n_stages >= 1 && n_stages <= layer_count(whole)) return TR_OK;
    return tr_fail(err, TR_EINVAL,
                   "'%d' pipeline stages for a model of %d decoder layers; every stage needs one layer at "
                   "least, so give 1 to %d",
                   n_stages, layer_count(whole), layer_count(whole));
}

tr_status tr_partition_balanced(tr_partition *out, const tr_graph *whole, int32_t n_stages, tr_error *err)
{
    tr_status status = check_stage_count(whole, n_stages, err);
    return status == TR_OK ? make(out, whole, NULL, n_stages, err) : status;
}

tr_status tr_partition_explicit(tr_partition *out, const tr_graph *whole, const int32_t *layers,
                                int32_t n_stages, tr_error *err)
{
    tr_status status = check_stage_count(whole, n_stages, err);
    if (status != TR_OK) return status;
    int64_t sum = 0;
    for (int32_t s = 0; s < n_stages; s++) {
        if (layers[s] < 1)
            return tr_fail(err, TR_EINVAL, "stage %d has '%d' decoder layers; every stage needs one at least",
                           s, layers[s]);
        sum += layers[s];
    }
    if (sum != layer_count(whole))
        return tr_fail(err, TR_EINVAL, "the stages have '%lld' decoder layers together, but the model has %d",
                       (long long)sum, layer_count(whole));
    return make(out, whole, layers, n_stages, err);
}

void tr_partition_release(tr_partition *self)
{
    tr_free(self->first_unit);
    tr_free(self->cost);
    *self = (tr_partition){0};
}

static int compare_uses(const void *a, const void *b)
{
    const tr_parameter_use *x = a, *y = b;
    if (x->parameter != y->parameter) return x->parameter < y->parameter ? -1 : 1;
    return (x->use > y->use) - (x->use < y->use);
}

/* indices[v]: which parameter value v is. */
static void number_parameters(const tr_graph *whole, int32_t *indices)
{
    int32_t n = 0;
    for (tr_value v = 0; v < tr_graph_value_count(whole); v++)
        indices[v] = tr_graph_value(whole, v)->kind == TR_VALUE_PARAMETER ? n++ : -1;
}

static bool seen(const tr_node *node, int input)
{
    for (int i = 0; i < input; i++)
        if (node->inputs[i] == node->inputs[input]) return true;
    return false;
}

tr_status tr_partition_uses(const tr_partition *self, const tr_graph *whole, tr_parameter_use **uses,
                            size_t *n_uses, tr_error *err)
{
    tr_parameter_use *list = NULL;
    size_t count = 0, capacity = 0;
    tr_status status = TR_OK;
    int32_t *indices = tr_alloc_zero((size_t)tr_graph_value_count(whole), sizeof *indices);
    if (!indices) return tr_fail(err, TR_ENOMEM, "no memory for the uses of parameters");
    number_parameters(whole, indices);
    for (int32_t n = 0, stage = 0; n < tr_graph_node_count(whole); n++) {
        const tr_node *node = tr_graph_node(whole, n);
        while (node->unit >= self->first_unit[stage + 1]) stage++;
        for (int i = 0; i < node->n_inputs; i++) {
            if (node->inputs[i] == TR_NO_VALUE || indices[node->inputs[i]] < 0 || seen(node, i)) continue;
            status = tr_array_reserve((void **)&list, &capacity, count + 1, sizeof *list, err);
            if (status != TR_OK) goto failed;
            list[count++] = (tr_parameter_use){indices[node->inputs[i]], node->use, stage};
        }
    }
    if (count) qsort(list, count, sizeof *list, compare_uses);
    tr_free(indices);
    *uses = list;
    *n_uses = count;
    return TR_OK;
failed:
    tr_free(indices);
    tr_free(list);
    return status;
}
