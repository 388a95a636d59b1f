/* ops/rewrite.h - private: what passes over a graph share. They make a copy, and change what they copy.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_REWRITE_H
#define TROUPE_OPS_REWRITE_H

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All values, under the same indices, into a graph that is empty yet. The graph keeps errors. */
void tr__graph_copy_values(const tr_graph *from, tr_graph *to);

/* A node with its unit, phase, attributes and use. Returns its index in `to`, -1 after an error, which the graph keeps. */
int32_t tr__graph_copy_node(tr_graph *to, const tr_node *node);

#ifdef __cplusplus
}
#endif
#endif
