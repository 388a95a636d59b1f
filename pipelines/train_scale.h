/* pipelines/train_scale.h - another layout while the training goes on: who wants it, when it is time, and what to say.
 *
 *   idle -> pausing     a person asks (socket or file), or a worker is asked to leave; the coordinator is told to pause
 *        -> preparing   all hold one state and nobody works towards the next: the agent deals it out
 *        -> beginning   the epoch is recorded with its layout, and all begin anew in it
 *        -> idle        they work; the answer is given
 *
 * A death before the epoch is recorded takes it back to pausing; one behind it is mended in the new layout.
 * Internal to pipelines/. Threads: the head's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_TRAIN_SCALE_H
#define TROUPE_PIPELINES_TRAIN_SCALE_H

#include "pipelines/train_internal.h"

typedef struct tr__scale tr__scale;

/* What the job is told of changes; max_nodes 0 where there can be none. The run's directory is opened. Errors: TR_EIO,
 * TR_ENOMEM. */
tr_status tr__scale_new(tr__scale **out, tr__training *training, tr_job_changes *changes, tr_error *err);
void tr__scale_end(tr__scale *self, const char *why); /* the job is over: who still waits hears why */
void tr__scale_destroy(tr__scale **self);

/* Of the coordinator (tr_coordinator_context.paused). */
void tr__scale_paused(void *pausing, uint32_t step);
void tr__scale_event(tr__scale *self, const tr_job_event *event);
void tr__scale_tick(tr__scale *self); /* about once a second: is there a file that wants something? */

/* train_layout.c. Of a run that is gone on with: the layout that it was scaled to, unless the recipe asks for another than
 * it did at the run's beginning. self->recipe is it then. */
tr_status tr__training_find_layout(tr__training *self, tr_error *err);
/* Orphans may be in the layout before, where their head died of changing it: then that is gone on with. */
tr_status tr__training_try_layout_before(tr__training *self, tr_error *err);

#endif
