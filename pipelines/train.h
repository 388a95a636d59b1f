/* pipelines/train.h - `troupe train` and `troupe plan`, as functions.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_TRAIN_H
#define TROUPE_PIPELINES_TRAIN_H

#include "pipelines/recipe.h"
#include "runtime/job.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What agent and workers of a training job host: for tr_job_child_main. */
extern const tr_registry tr_training_registry;

typedef struct tr_train_options {
    bool resume; /* go on in the run directory, from its newest valid checkpoint or from the start */
    bool
        standby; /* wait until the run's head has died, and resume then; nothing to do where the run ends otherwise */
    FILE *progress; /* where people look; NULL: nowhere */
    /* With head.etcd, where it is required: another head may lead from now on. Called on a thread of its own; the process has
     * to end at once, whatever its other threads do. */
    void (*lost_lead)(const char *text);
} tr_train_options;

/* Trains to the end of the recipe. *started tells whether anything was created: an error before that is bad
 * input, one after it a failed run. */
tr_status tr_train(const tr_recipe *recipe, const tr_train_options *options, bool *started, tr_error *err);

/* Prints what tr_train would do; with `measure` also what the model's units take here, and a cut that is balanced by that.
 * progress (may be NULL) hears how far the measuring is. */
tr_status tr_plan(const tr_recipe *recipe, bool measure, FILE *stream, FILE *progress, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
