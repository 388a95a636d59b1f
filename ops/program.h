/* ops/program.h - a graph made ready to run: kernels chosen, memory planned, nothing left to allocate.
 * Memory: a value that lives within one phase gets an offset in the scratch arena (shared by all
 * micro-batches); one that is needed by a later phase gets an offset in the stash (one stash for each
 * micro-batch in flight); everything else is bound by the caller. Offsets of values whose lives do not
 * overlap may coincide.
 * Threads: a program runs on one thread at a time (kernels spread over the pool).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_PROGRAM_H
#define TROUPE_OPS_PROGRAM_H

#include "ops/op.h"
#include "ops/product_choices.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_program tr_program;

/* What the matrix products' library takes of a GPU beside scratch, for each program. */
enum { TR_PROGRAM_LIBRARY_BYTES = 32 << 20 };

typedef struct tr_program_options {
    tr_device_kind device;
    tr_stream *stream; /* what kernels are queued on; must outlive the program. NULL on the CPU */
    bool
        time_kernels; /* on a GPU: tr_program_times tells the device's time, and every run waits for its end */
    uint64_t (*clock_ns)(void); /* what tr_program_times counts on the CPU; NULL: tr_clock_ns */
    /* On a GPU: algorithms of matrix products; those that are not there are measured while the program is made, and
     * added. Used until the program is destroyed. NULL: the library's own, which shapes and versions decide. */
    tr_product_choices *choices;
    /* On a GPU: a run of a phase with the same bindings as an earlier one is captured as a CUDA graph, and every later one is a
     * launch of that. Not with time_kernels, nor for runs with `behind`, nor for those that draw random numbers. */
    bool graphs;
    int n_threads; /* largest pool it will be run with; workspace is sized for it */
    bool
        only_plan; /* for its sizes alone: it cannot be run, needs no stream, and asks for nothing of the device */
    bool poison; /* fill scratch, and before the forward the stash, with NaN; always on in sanitizer builds */
} tr_program_options;

/* Can programs run on devices of this kind here, and how many are there? Takes no memory of theirs. Errors: those of
 * tr_device_open for each of them, TR_EUNSUPPORTED (a library that is not here, named). */
tr_status tr_program_devices(tr_device_kind device, int32_t *n_devices, tr_error *err);

/* Can they run graphs with products in FP8 (ops/use_fp8.h)? Errors: TR_EUNSUPPORTED (an older GPU). */
tr_status tr_program_has_fp8(tr_device_kind device, tr_error *err);

/* The graph must outlive the program. Errors: the graph's own, TR_EUNSUPPORTED (an operation without a kernel
 * for the device, named; a library that is not here), TR_EIO (the device's), TR_ENOMEM. */
tr_status tr_program_new(tr_program **out, const tr_graph *graph, const tr_program_options *options,
                         tr_error *err);
void tr_program_destroy(tr_program **self);

/* What algorithms of matrix products hold for here: the GPU, its driver, the library. "" on the CPU. */
void tr_program_products_hold_for(const tr_program *self, char name[TR_PRODUCT_NAME_BYTES]);
/* From now on products are those of `choices`, as if it had been made with them; waits for what is queued. What is to be
 * measured is measured in `spare`, memory of the device that nobody reads from now on, where it fits there. The choices are
 * used until the program is destroyed; not at all on the CPU. An error, one of tr_program_new's, leaves a program that can only
 * be destroyed. */
tr_status tr_program_choose_products(tr_program *self, tr_product_choices *choices, void *spare,
                                     size_t spare_bytes, tr_error *err);

size_t tr_program_stash_bytes(const tr_program *self);   /* for each micro-batch in flight */
size_t tr_program_scratch_bytes(const tr_program *self); /* once */
/* What it has of its own for as long as it is there: FP8 codes of weights. */
size_t tr_program_kept_bytes(const tr_program *self);
double tr_program_flops(const tr_program *self, tr_phase phase);

/* The last phase that reads a bound value (its memory must stay as it is until then); FORWARD when none does. */
tr_phase tr_program_last_reader(const tr_program *self, tr_value value);
bool tr_program_has_phase(const tr_program *self, tr_phase phase);
/* The position of the last node that touches a bound value: behind it nothing of a run changes it. -1: none does. */
int32_t tr_program_last_position(const tr_program *self, tr_value value);
int32_t tr_program_first_position(const tr_program *self, tr_value value); /* of the first; likewise */

typedef struct tr_bindings {
    void *const *values; /* by tr_value; only bound kinds and outputs are looked at */
    void *stash;         /* cache-line aligned, tr_program_stash_bytes, in the device's memory */
    void *scratch;       /* cache-line aligned, tr_program_scratch_bytes, likewise */
    tr_thread_pool *pool;
    tr_random random; /* what dropout draws by; the same for all phases of a micro-batch */
    /* Called behind each node of the phase, which on a GPU has then been queued, with its position. May be NULL. */
    void (*behind)(void *context, int32_t position);
    void *context;
    /* Gradients of parameters begin with this run: they are written, and what they held is not read. Bits are those of
     * clearing them first, which takes longer. */
    bool begin_gradients;
    /* The version of the parameters' numbers: what is made of parameters alone (tr_node_is_kept) is made once for each, before the
     * first phase that is run with it. 0: before each forward. */
    uint64_t weights;
} tr_bindings;

/* Runs all nodes of a phase in order. Every bound value that the phase touches must be bound. On a GPU it queues
 * them and returns: what is bound must stay as it is until the stream is done. */
void tr_program_run(tr_program *self, tr_phase phase, const tr_bindings *bindings);

/* For whoever looks at what a run does (ops/examine.h): the graph that is run, which on a device may have other nodes than the
 * one that was given; the node at a position; and where a value is, in memory of the program's device. */
const tr_graph *tr_program_graph(const tr_program *self);
const tr_node *tr_program_node(const tr_program *self, int32_t position);
void *tr_program_address(const tr_program *self, const tr_bindings *bindings, tr_value value);
tr_stream *tr_program_stream(const tr_program *self); /* NULL on the CPU */

/* Waits until all that was queued is done. Errors: TR_EIO (a kernel or a library call failed, named). */
tr_status tr_program_synchronize(tr_program *self, tr_error *err);

/* The same of what is known to have failed, without waiting. */
tr_status tr_program_check(const tr_program *self, tr_error *err);

/* Phases that were launched as graphs since the program was made. */
uint64_t tr_program_graph_launches(const tr_program *self);

/* Time spent in each operation since the program was made, for `bench`: names and nanoseconds, sorted by time. On
 * a GPU without time_kernels it is the time of queueing; with it, calls of an operation that count other numbers of
 * FLOPs stand apart. What is launched as a graph counts as a call and takes no time. */
typedef struct tr_op_time {
    const char *name;
    uint64_t nanoseconds, calls;
    double flops; /* of one call; 0 but with time_kernels on a GPU */
} tr_op_time;
size_t tr_program_times(const tr_program *self, tr_op_time *times, size_t capacity); /* how many there are */

#ifdef __cplusplus
}
#endif
#endif
