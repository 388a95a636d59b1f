/* pipelines/measure.h - what the units of a model take on this machine: `troupe plan --measure`.
 * Threads: one caller; the kernels use the recipe's threads.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_MEASURE_H
#define TROUPE_PIPELINES_MEASURE_H

#include "pipelines/job_plan.h"
#include "pipelines/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs every unit (the embedding, each layer, the head) by itself on random numbers, a few times, one after the other, and
 * fills units, one for each, with the medians for one micro-batch. progress (may be NULL) hears how far it is where it
 * takes long. Errors: TR_ENOMEM and those of tr_partition_extract and tr_program_new. */
tr_status tr_measure_units(const tr_model_plan *model, tr_recompute recompute, int n_threads,
                           tr_stage_times *units, FILE *progress, tr_error *err);

/* Measures, balances the cut by it, and prints times, both cuts with what their step is foretold to be, the line for the
 * recipe, and the memory of the balanced cut's workers. config is that of the model and is taken over. */
tr_status tr_measure_print(const tr_job_plan *plan, tr_model_config *config, const tr_data *data,
                           FILE *stream, FILE *progress, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
