/* bench/cpu/llmc.h - llm.c's train_gpt2 (github.com/karpathy/llm.c), built by whoever has it, as a contestant of
 * bench/training. Nothing of it is here: it is run in its own folder as its README says, and what it prints is read.
 * Its batch is a constant of its source and its model that of its checkpoint, so it is asked for its shape before it is
 * compared: layers, channels, and the number of activations, which says how many tokens a step has. Between its turns it is
 * stopped (SIGSTOP); the step that a stop falls into does not count. It measures its milliseconds itself.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BENCH_CPU_LLMC_H
#define TROUPE_BENCH_CPU_LLMC_H

#include "bench/cpu/step.h"

#include <stdbool.h>
#include <sys/types.h>

enum { LLMC_MOST_STEPS = 256 };

typedef struct llmc {
    char directory[256];
    int32_t layers, width, vocabulary;
    int64_t activations;
    pid_t pid; /* 0: it does not run */
    FILE *from;
    double ms[LLMC_MOST_STEPS];
    int n;
} llmc;

/* Runs it until it has told its shape, and ends it. False, with a line on stderr: it cannot be run, or says nothing. */
bool llmc_probe(llmc *self, const char *directory, int n_threads);
bool llmc_has_shape(const llmc *self, const cpu_row *row);

bool llmc_start(llmc *self, int n_threads); /* returns when its first step is done, and it is stopped */
/* A whole step and what is left of the one before. Returns the processor time that took, in milliseconds; < 0: it has ended,
 * as it does by itself after some forty steps. */
double llmc_turn(llmc *self, bool counts);
void llmc_end(llmc *self);

#endif
