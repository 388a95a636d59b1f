/* ops/cuda/graph.h - phases of a program as CUDA graphs: captured once, launched whole. A run of a phase is described by words,
 * all that its launches depend on: places, and what is said to kernels. The second run with the same words is captured, every
 * later one is one launch of the same kernels with the same arguments, hence the same bits. Runs whose words never come again
 * are never captured, and beyond a fixed number of graphs nothing is: those are queued kernel by kernel, as without graphs.
 * So nobody says when memory goes another way, and nothing is thrown away and captured again in turns.
 * Internal to ops/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CUDA_GRAPH_H
#define TROUPE_OPS_CUDA_GRAPH_H

#include "ops/cuda/kernels.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a run is described by that has been met: at most so many. */
enum { TR_CUDA_MOST_GRAPHS = 128 };

typedef struct tr_cuda_graphs tr_cuda_graphs;

/* Of what is queued on the context's stream, which outlives them. Errors: TR_ENOMEM. */
tr_status tr_cuda_graphs_new(tr_cuda_graphs **out, tr_cuda_context *context, tr_error *err);
void tr_cuda_graphs_destroy(tr_cuda_graphs **self); /* waits for the stream; NULL-safe */
/* Kernels were made anew: nothing of before is launched again. Waits for the stream. */
void tr_cuda_graphs_forget(tr_cuda_graphs *self);

typedef enum tr_cuda_graph_step {
    TR_CUDA_QUEUE,   /* queue the run kernel by kernel */
    TR_CUDA_CAPTURE, /* the same, then call tr_cuda_graphs_end: nothing of it runs before */
    TR_CUDA_LAUNCHED /* it is queued */
} tr_cuda_graph_step;

tr_cuda_graph_step tr_cuda_graphs_begin(tr_cuda_graphs *self, const uintptr_t *words, size_t n_words);
/* False: it could not be captured, which is told once in the log, and nothing of it was queued; from now on nothing is captured. */
bool tr_cuda_graphs_end(tr_cuda_graphs *self);

uint64_t tr_cuda_graphs_launches(const tr_cuda_graphs *self);

#ifdef __cplusplus
}
#endif
#endif
