/* pipelines/run_directory.h - the files of a run: recipe.yaml, log.jsonl, events.jsonl, and what is said on
 * the terminal. log.jsonl has one object an update, each step once: a resume first cuts what came after the
 * checkpoint. A step that is run again is compared with what was logged of it, and not logged again. events.jsonl and
 * epochs.jsonl are only appended to; times are monotonic. Lines that a full disk does not take wait for it
 * (line_file.h), save those of epochs, without which none may begin.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_RUN_DIRECTORY_H
#define TROUPE_PIPELINES_RUN_DIRECTORY_H

#include "actors/monitor.h"
#include "pipelines/layout.h"
#include "runtime/job.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_run tr_run;

/* Makes the directory (or, when updates > 0 or it is resumed, goes on in it: log lines of later steps are
 * dropped) and writes recipe.yaml. progress (may be NULL) is where people look;
 * a terminal gets one line that changes. */
tr_status tr_run_open(tr_run **out, const tr_recipe *recipe, uint32_t updates, FILE *progress, tr_error *err);

/* A run that is gone on in. */
typedef struct tr_run_beginning {
    uint32_t updates;
    int lock; /* of tr_run_lock, taken over also by a failure; -1: to be taken */
    struct tr_head_lease
        *lead; /* without it nothing is written any more, and no epoch begun; NULL: the lock is all */
    bool
        keep; /* the log's lines of later steps stay, as far as none is missing: what is run again is compared with them */
} tr_run_beginning;

tr_status tr_run_open_at(tr_run **out, const tr_recipe *recipe, const tr_run_beginning *beginning,
                         FILE *progress, tr_error *err);
/* The right to train in this directory, which is there; the kernel takes it back when the process ends, however it ends.
 * wait: until nobody else has it. *lock is a descriptor, to be closed. Errors: TR_EEXIST: somebody has it; TR_EIO. */
tr_status tr_run_lock(const char *path, bool wait, int *lock, tr_error *err);
/* The last step of those that the log has without a gap behind `updates`; `updates` itself where none is. */
uint32_t tr_run_logged(const char *path, uint32_t updates);
tr_status tr_run_record(tr_run *self, const tr_step_record *record, tr_error *err);
/* What was recorded goes to the disk, so that a checkpoint that gets its name now has all its lines. Lines that a full
 * disk does not take wait on: a checkpoint is worth more than they, and a resume tells what is missing. */
void tr_run_sync(tr_run *self);
/* epochs.jsonl, the log of epochs: a line when one is begun, on the disk on return, and one that names the generation it
 * goes on from. The first epoch of this job: one more than any that stands there, or that any head won in etcd. */
uint32_t tr_run_first_epoch(const tr_run *self);
tr_status tr_run_epoch(tr_run *self, uint32_t epoch, tr_error *err);
tr_status tr_run_epoch_in(tr_run *self, uint32_t epoch, const tr_layout *layout, tr_error *err);
tr_status tr_run_epoch_from(tr_run *self, uint32_t epoch, uint64_t generation, tr_error *err);

/* An event, and a line where people should know. */
void tr_run_note(tr_run *self, const char *kind, const char *text);
/* The same with numbers: {"event": kind, ..., keys[i]: values[i]}; keys end with NULL. */
void tr_run_note_numbers(tr_run *self, const char *kind, const char *text, const char *const *keys,
                         const double *values);
void tr_run_event(tr_run *self, const tr_job_event *event);
void tr_run_ended(tr_run *self, const char *how);      /* the last event, for `ps` */
void tr_run_tick(tr_run *self);                        /* says something when nothing was said for a while */
const tr_step_record *tr_run_last(const tr_run *self); /* NULL when there was none */
/* TR_EIO: lines of the log still wait, and would be lost. */
tr_status tr_run_finish(tr_run *self, tr_error *err);
void tr_run_close(tr_run **self);
/* Closes, and removes the directories that opening made: for a start that failed behind it. */
void tr_run_withdraw(tr_run **self);

#ifdef __cplusplus
}
#endif
#endif
