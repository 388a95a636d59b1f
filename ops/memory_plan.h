/* ops/memory_plan.h - which memory every value of a graph lives in, and where.
 * Time is the order in which a micro-batch runs its nodes: all of FORWARD, then BACKWARD, then WEIGHT. A life
 * is the range of positions from the first write to the last use, both included, so that inputs and outputs
 * of a node never overlap. What lives in one phase shares the scratch arena with everything else that does
 * (phases never interleave within a run); what crosses phases goes to the stash, of which every micro-batch
 * in flight has one. What nodes make that are kept (tr_node_is_kept) has a place for good.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_MEMORY_PLAN_H
#define TROUPE_OPS_MEMORY_PLAN_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_block {
    int32_t first, last; /* positions, both included */
    size_t bytes, offset;
} tr_block;

/* Gives every block an offset (cache-line aligned) such that blocks whose lives overlap do not; largest
 * first, each into the smallest gap that fits. *total_bytes is the arena's size.
 * Source of the heuristic: Pisarchyk and Lee, "Efficient memory management for deep neural net inference",
 * 2020 (greedy by size).
 * Errors: TR_ENOMEM. */
tr_status tr_blocks_place(tr_block *blocks, int32_t n_blocks, size_t *total_bytes, tr_error *err);

typedef enum tr_space {
    TR_SPACE_NONE,
    TR_SPACE_BOUND,
    TR_SPACE_SCRATCH,
    TR_SPACE_STASH,
    TR_SPACE_KEPT /* of nodes that are kept (tr_node_is_kept): one place for all runs */
} tr_space;

typedef struct tr_place {
    tr_space space; /* NONE: no node touches it */
    size_t offset;
    int32_t first, last; /* positions of the value's own life; -1 where untouched */
    tr_phase last_reader;
} tr_place;

typedef struct tr_memory_plan {
    int32_t n_values, n_nodes;
    int32_t *order;                          /* by position: node */
    int32_t phase_start[TR_PHASE_COUNT + 1]; /* positions */
    tr_place *values;                        /* by value */
    size_t *workspaces;                      /* by node: offset in scratch */
    size_t stash_bytes, scratch_bytes, kept_bytes;
} tr_memory_plan;

/* workspace_bytes[node] is placed in scratch for the time of the node. Errors: TR_EINVAL (an intermediate is
 * read before any node wrote it), TR_ENOMEM. */
tr_status tr_memory_plan_init(tr_memory_plan *self, const tr_graph *graph, const size_t *workspace_bytes,
                              tr_error *err);
void tr_memory_plan_release(tr_memory_plan *self);

#ifdef __cplusplus
}
#endif
#endif
