/* ops/chunk_logits.h - logits in chunks of rows, so that those of a micro-batch never exist as a whole.
 * The copy has one node in the place of the last linear layer's product, the loss, and both gradients: in the backward it goes
 * through the rows chunk by chunk, and makes of each the logits, their losses, their gradient in their place, the gradient of
 * the hidden state, and what the weight's gradient is added to. Every product is computed once, as without chunks. So the loss of a
 * run that trains (tr_random) is there behind the backward; that of one that does not, behind the forward, which makes
 * nothing else.
 * Weight gradients move from phase WEIGHT to BACKWARD, all of them, as recomputation has it: a stage's sums are one left fold over
 * micro-batches.
 * Bits are not those of the whole: products of other sizes have other tiles, and the weight's gradient is a sum over rows that is
 * cut where chunks are. Chunks depend on the graph and the rows given alone, so every layout has the same bits.
 * Source: Hsu et al., "Liger kernel: efficient Triton kernels for LLM training", 2024 (linear layer and loss in chunks of rows).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CHUNK_LOGITS_H
#define TROUPE_OPS_CHUNK_LOGITS_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TR_LOGITS_MOST_MIB = 512,   /* of a chunk, where nobody says how many rows it has */
    TR_LOGITS_LEAST_ROWS = 128, /* likewise: fewer make products that wait for memory */
};

/* How many rows a chunk has where nobody says: as few chunks as TR_LOGITS_MOST_MIB allows, of equal size where a few more make it
 * so; all `rows` where they fit. */
int64_t tr_logits_rows(int64_t rows, int64_t vocabulary, tr_dtype dtype);

/* A copy of `graph`, with or without a backward, with the same values under the same indices. `chunk`: rows, the last chunk's
 * may be fewer; 0: tr_logits_rows. A loss whose logits are no more rows, or are read by somebody else, stays as it is, and so
 * does the rest then. Errors: the graph's own, TR_ENOMEM. */
tr_status tr_graph_chunk_logits(tr_graph **out, const tr_graph *graph, int64_t chunk, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
