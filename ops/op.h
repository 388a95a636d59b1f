/* ops/op.h - what an operation is: one table entry. Adding one is a file pair (ops/x.c, ops/cuda/x.cu), its
 * builder in ops/operations.h, and a test; nothing else changes.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_OP_H
#define TROUPE_OPS_OP_H

#include "base/device.h"
#include "base/thread_pool.h"
#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What random operations draw their numbers by, beside the `use` of their node; the same in all phases of a
 * micro-batch. All zero: nothing is drawn, as evaluation and generation want it. */
typedef struct tr_random {
    bool training; /* false: dropout passes everything on */
    uint64_t seed;
    uint32_t step, microbatch;
} tr_random;

/* What a kernel gets. Pointers are cache-line aligned and never overlap, save where op->aliases says so. */
typedef struct tr_call {
    const tr_node *node;
    const tr_graph *graph;         /* for shapes and dtypes of node->inputs and node->outputs */
    void *inputs[TR_MAX_INPUTS];   /* NULL where absent */
    void *outputs[TR_MAX_OUTPUTS]; /* NULL where not wanted */
    void *workspace;               /* op->workspace bytes, contents undefined */
    void *prepared;                /* what op->prepare made, or NULL */
    void *device;                  /* the device's stream and library handles; NULL on the CPU */
    tr_thread_pool *pool;          /* may be NULL; how work is cut into tiles must not depend on it */
    const tr_random *random;       /* of the run */
    bool overwrite; /* gradients of parameters are written, not added to; only to kernels that can */
} tr_call;

struct tr_op {
    const char *name; /* "rmsnorm", "rmsnorm_backward" */

    /* Sets dtype and shape of each output; checks inputs and attributes once for all later runs. `outputs` has
     * *n_outputs entries to fill. */
    tr_status (*infer)(const tr_graph *graph, const tr_node *node, tr_value_info *outputs, int *n_outputs,
                       tr_error *err);

    /* Adds backward nodes. output_gradients[i] may be TR_NO_VALUE (nothing flows there). input_gradients[i]
     * comes in as the gradient that other consumers of that input have given so far, or TR_NO_VALUE, and goes
     * out as the new total. A rule that can, fuses the pending one into its kernel; one that cannot, calls
     * tr_gradient_add. wanted[i] tells whether anything needs the gradient of input i. Nodes that compute
     * parameter gradients call tr_graph_set_phase(WEIGHT), write to tr_graph_gradient(graph, parameter,
     * node->use) by ADDING, and set the phase back. NULL: nothing to differentiate. */
    void (*gradient)(tr_graph *graph, const tr_node *node, const tr_value *output_gradients,
                     tr_value *input_gradients, const bool *wanted);

    double (*flops)(const tr_graph *graph, const tr_node *node);                    /* NULL: counts as none */
    size_t (*workspace)(const tr_graph *graph, const tr_node *node, int n_threads); /* NULL: none */
    /* NULL: nothing. */
    tr_status (*prepare)(const tr_graph *graph, const tr_node *node, void **prepared, tr_error *err);
    void (*release)(void *prepared);

    /* Output 0 may be written over this input's memory when the input is an intermediate that is not needed
     * afterwards; -1 for never. */
    int alias_input;

    /* Its outputs are about as soon computed as written: see TR_RECOMPUTE_SELECTIVE. */
    bool is_light;

    /* A node of it that reads nothing but parameters is run once for each version of them (tr_bindings.weights), and what it
     * makes is the program's (tr_node_is_kept). */
    bool once;

    /* Of TR_DEVICE_CPU. Kernels of other devices are found by the operation's name (tr_kernel), so that a build
     * without them refers to none. */
    void (*run[TR_DEVICE_KIND_COUNT])(const tr_call *call);
};

/* What runs an operation on another device than the CPU: a row of that device's table (ops/cuda/kernels.c). All
 * pointers of the call but constants are then to memory that the device reads, and `run` queues its work. */
typedef struct tr_kernel {
    const char *op;
    void (*run)(const tr_call *call);
    size_t (*workspace)(const tr_graph *graph, const tr_node *node); /* NULL: none */
    /* NULL: nothing. `device` is the call's. */
    tr_status (*prepare)(const tr_graph *graph, const tr_node *node, void *device, void **prepared,
                         tr_error *err);
    void (*release)(void *prepared, void *device);
    bool overwrites; /* looks at the call's `overwrite`; for others, what they add to is cleared before */
    bool draws;      /* while training, what it is launched with depends on the call's `random` */
} tr_kernel;

/* Are its outputs kept from run to run, as long as the parameters that it reads stay as they are? */
bool tr_node_is_kept(const tr_graph *graph, const tr_node *node);

/* pending + gradient, or the one that is there. For gradient rules. */
tr_value tr_gradient_add(tr_graph *graph, tr_value pending, tr_value gradient);

#ifdef __cplusplus
}
#endif
#endif
