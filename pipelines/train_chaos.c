/* pipelines/train_chaos.c - faults on purpose in a training: which it can show, and a disk that fails its checkpoints.
 * Only those: the run's logs wait for a disk that is full, but an epoch that cannot be recorded ends the run, as it must, and
 * epochs change all the time where faults are drawn. And only where training goes on after it: not the last checkpoint.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_internal.h"

#include "base/file_fault.h"

#include <stdio.h>
#include <string.h>

/* One after the other, each until a checkpoint has failed for it. */
static void break_next(const tr__training *self)
{
    if (self->disk_is_full)
        tr_checkpoint_files_break(self->files, TR_FILE_FULL);
    else if (self->disk_is_unsynced)
        tr_checkpoint_files_break(self->files, TR_FILE_UNSYNCED);
    else
        (void)tr_file_fault_set(TR_FILE_SOUND, NULL, NULL);
}

static void break_disk(void *context, bool full)
{
    tr__training *self = context;
    if (self->needs_disk) return;
    *(full ? &self->disk_is_full : &self->disk_is_unsynced) = true;
    if (tr_file_fault_now() == TR_FILE_SOUND) break_next(self);
}

void tr__training_chaos(tr__training *self, tr_job_chaos *chaos)
{
    const tr_recipe *recipe = self->recipe;
    char left_out[2 * TR_ERROR_SIZE], text[sizeof left_out + 64];
    *chaos = (tr_job_chaos){.points = recipe->chaos.at,
                            .seed = recipe->chaos.seed,
                            .kills_per_minute = recipe->chaos.kills_per_minute,
                            .faults_per_minute = recipe->chaos.faults_per_minute,
                            .faults = tr_recipe_faults(recipe, left_out, sizeof left_out),
                            .break_disk = break_disk};
    if (!left_out[0]) return;
    snprintf(text, sizeof text, "faults by chance leave out %s", left_out);
    tr_run_note(self->run, "faults_left_out", text);
}

void tr__training_chaos_noted(tr__training *self, const char *kind)
{
    tr_file_fault fault = tr_file_fault_now();
    if (strcmp(kind, "checkpoint_failed") != 0 || fault == TR_FILE_SOUND) return;
    *(fault == TR_FILE_FULL ? &self->disk_is_full : &self->disk_is_unsynced) = false;
    break_next(self);
}

void tr__training_chaos_event(tr__training *self, const tr_job_event *event)
{
    if (event->kind != TR_JOB_STOPPING) return;
    self->needs_disk = true; /* for the checkpoint that it stops at */
    self->disk_is_full = self->disk_is_unsynced = false;
    break_next(self);
}
