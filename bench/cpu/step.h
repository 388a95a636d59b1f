/* bench/cpu/step.h - a training step of GPT-2 on this machine's processors, all of it in the calling process: the graph, the
 * program, the memory and the order of work are those of a stage that has the whole model (actors/stage*.c); only messages
 * are missing. Fresh weights, random tokens, the same in every step.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BENCH_CPU_STEP_H
#define TROUPE_BENCH_CPU_STEP_H

#include "ops/tensor.h"

#include <stdio.h>

typedef struct cpu_row {
    const char *name;
    int32_t layers, width, vocabulary, rows, sequence;
} cpu_row;

typedef struct cpu_step cpu_step;

tr_status cpu_step_new(cpu_step **out, const cpu_row *row, tr_dtype dtype, int n_threads, tr_error *err);
void cpu_step_destroy(cpu_step **self);
double cpu_step_run(cpu_step *self);        /* one update; the loss before it, in nats a token */
void cpu_step_forget_times(cpu_step *self); /* what was done so far does not count */

/* Processor time of this process, all threads. */
uint64_t cpu_step_processor_ns(void);

/* Of processor time, because a loaded machine stretches every other: a line for each kind of work, the longest first: "op MILLISECONDS CALLS GFLOP NAME", all of one step. */
void cpu_step_print_times(const cpu_step *self, FILE *stream);

/* Floating-point operations of the products of matrices in a step, attention's counted where it is causal. */
double cpu_step_product_flops(const cpu_step *self);
double cpu_step_update_bytes(const cpu_step *self); /* that AdamW must read and write */

#endif
