/* ops/graph.h - a model, or a piece of one, as a dataflow graph.
 * Built once by functions such as tr_linear(g, x, w, b); immutable while it runs. Nodes stand in an order in
 * which they can be executed. A model author writes forward operations; autodiff.h adds the backward;
 * partitioning cuts between units; program.h plans memory and runs it.
 * Errors: builders return TR_NO_VALUE and the graph keeps the first error, which tr_graph_check tells; so a
 * model reads without a test after every line.
 * Threads: a graph is built by one thread and then only read.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_GRAPH_H
#define TROUPE_OPS_GRAPH_H

#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_graph tr_graph;
typedef struct tr_op tr_op;
typedef int32_t tr_value; /* index of a value in its graph */

enum { TR_NO_VALUE = -1, TR_MAX_INPUTS = 8, TR_MAX_OUTPUTS = 4, TR_ATTRIBUTE_BYTES = 64 };

typedef enum tr_value_kind {
    TR_VALUE_INTERMEDIATE, /* placed by the memory plan */
    TR_VALUE_INPUT, /* bound by the caller for each run: tokens, activations, gradients from the next stage */
    TR_VALUE_PARAMETER, /* bound by the caller: weights */
    TR_VALUE_GRADIENT, /* bound by the caller: sum of the gradient of ONE USE of a parameter; nodes add to it */
    TR_VALUE_STATE,    /* bound by the caller, kept between runs: key-value caches */
    TR_VALUE_CONSTANT /* the graph's own numbers, known when it is built: frequencies */
} tr_value_kind;

/* The three kinds of work on a micro-batch. Weight gradients are apart, so that they can fill idle time. */
typedef enum tr_phase { TR_PHASE_FORWARD, TR_PHASE_BACKWARD, TR_PHASE_WEIGHT, TR_PHASE_COUNT } tr_phase;

typedef struct tr_value_info {
    const char *name; /* the checkpoint's name for parameters; "" for most others */
    tr_dtype dtype;
    tr_shape shape;
    tr_value_kind kind;
    bool is_output;       /* read after the run: bound by the caller as well */
    int32_t unit;         /* where it was made (see tr_graph_begin_unit) */
    int32_t producer;     /* node, -1 for none */
    tr_value parameter;   /* of a TR_VALUE_GRADIENT: whose; else TR_NO_VALUE */
    int32_t use;          /* of a TR_VALUE_GRADIENT: the `use` of the node it comes from */
    const void *constant; /* of a TR_VALUE_CONSTANT: its elements, which the graph owns; else NULL */
} tr_value_info;

typedef struct tr_node {
    const tr_op *op;
    tr_phase phase;
    int32_t unit;
    int32_t n_inputs, n_outputs;
    tr_value inputs[TR_MAX_INPUTS];   /* TR_NO_VALUE where an optional input is absent */
    tr_value outputs[TR_MAX_OUTPUTS]; /* TR_NO_VALUE where an output is not wanted */
    int32_t use; /* forward nodes: their index in the WHOLE model, which tells the uses of a tied
                                         parameter apart and orders them; a partitioner keeps it by tr_graph_set_use */
    union {
        unsigned char bytes[TR_ATTRIBUTE_BYTES];
        uint64_t align_;
    } attributes; /* the operation's own struct, by tr_node_attributes */
} tr_node;

tr_status tr_graph_new(tr_graph **out, tr_error *err);
void tr_graph_destroy(tr_graph **self);
tr_status tr_graph_check(const tr_graph *self, tr_error *err); /* the first error of any builder, or TR_OK */
void tr_graph_set_error(tr_graph *self, tr_status status, const char *format, ...)
    TR_PRINTF(3, 4); /* keeps the first */

/* Units are where a pipeline may cut: every node belongs to the unit begun last (0, 1, 2, ...). Returns its index. */
int32_t tr_graph_begin_unit(tr_graph *self);
int32_t tr_graph_unit_count(const tr_graph *self);
void tr_graph_set_unit(tr_graph *self, int32_t unit); /* for passes that add nodes to a unit made earlier */
/* Of nodes added from now on; a new graph is in FORWARD. */
void tr_graph_set_phase(tr_graph *self, tr_phase phase);

tr_value tr_graph_input(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape);
/* Asking again for a name gives the same value: a tied weight has several uses. */
tr_value tr_graph_parameter(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape);
/* Copies the elements. Asking again for a name with the same elements gives the same value. */
tr_value tr_graph_constant(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape,
                           const void *elements);
tr_value tr_graph_state(tr_graph *self, const char *name, tr_dtype dtype, tr_shape shape);
/* Made at the first call for that use. */
tr_value tr_graph_gradient(tr_graph *self, tr_value parameter, int32_t use);
tr_value tr_graph_intermediate(tr_graph *self, tr_dtype dtype, tr_shape shape);
void tr_graph_mark_output(tr_graph *self, tr_value value);
void tr_graph_set_name(tr_graph *self, tr_value value, const char *name);

/* Adds a node; op->infer makes the outputs (or takes `outputs` where they are given, for passes that write
 * into an existing GRADIENT). attributes may be NULL. Returns the node's index or -1.
 * `use` becomes that index. */
int32_t tr_graph_add(tr_graph *self, const tr_op *op, const tr_value *inputs, int n_inputs,
                     const void *attributes, size_t attribute_bytes, const tr_value *outputs, int n_outputs);
/* The one output of a node just added with tr_graph_add, the usual last line of a builder. */
tr_value tr_graph_add1(tr_graph *self, const tr_op *op, const tr_value *inputs, int n_inputs,
                       const void *attributes, size_t attribute_bytes);

int32_t tr_graph_value_count(const tr_graph *self);
const tr_value_info *tr_graph_value(const tr_graph *self, tr_value value);
int32_t tr_graph_node_count(const tr_graph *self);
const tr_node *tr_graph_node(const tr_graph *self, int32_t node);
tr_value tr_graph_find(const tr_graph *self, const char *name); /* TR_NO_VALUE when there is none */
/* The partitioner keeps the whole model's counts. */
void tr_graph_set_use(tr_graph *self, int32_t node, int32_t use);
const void *tr_node_attributes(const tr_node *node);

#ifdef __cplusplus
}
#endif
#endif
