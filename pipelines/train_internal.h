/* pipelines/train_internal.h - a training from its recipe to its end, shared by train.c (beginning, running, ending) and
 * train_recovery.c (beginning again in the middle).
 * Internal to pipelines/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_TRAIN_INTERNAL_H
#define TROUPE_PIPELINES_TRAIN_INTERNAL_H

#include "actors/coordinator.h"
#include "pipelines/checkpoint_files.h"
#include "pipelines/epoch_log.h"
#include "pipelines/head_lease.h"
#include "pipelines/head_memory.h"
#include "pipelines/job_plan.h"
#include "pipelines/processes.h"
#include "pipelines/product_file.h"
#include "pipelines/run_directory.h"
#include "pipelines/stall_watch.h"
#include "pipelines/standby.h"
#include "pipelines/trace_file.h"
#include "runtime/job.h"
#include "runtime/orphans.h"
#include "transport/address.h"

typedef struct tr__training {
    const tr_recipe *recipe; /* in the present layout */
    const tr_recipe *given;  /* as it was asked for: what the run's directory keeps */
    tr_recipe **recipes;     /* n_recipes, owned: those of layouts that it was scaled to */
    size_t n_recipes, recipes_capacity;
    tr_layout layouts[2]; /* the last ones of a run that is gone on with, the newest first */
    size_t n_layouts;
    struct tr__scale *scale; /* NULL: the layout stays as it is */
    tr_start start;          /* of this process; plan->start is where the job has begun last */
    tr_data *data;
    tr_job_plan *plan; /* the latest of `plans` */
    tr_job_plan *
        *plans; /* n_plans, owned: the job, the checkpoints and the trace may still know earlier ones */
    size_t n_plans, plans_capacity;
    tr_coordinator_context coordinator;
    tr_coordinator_journal *journal; /* in `memory` */
    tr_head_memory *memory;          /* what outlives this process, where the agent does */
    tr_orphans *orphans;             /* of a head that died; NULL: there are none, or they were not wanted */
    tr_head_lease *lead;             /* in etcd; NULL: the lock is all */
    bool took_over;                  /* from a head that was lost */
    bool takes_former;               /* states that other hosts have of that one's job are gone on with */
    bool told_former;                /* what came of it */
    uint64_t logged_ns;              /* when the log was last on the disk, where another host may need it */
    int lock;                        /* on the run's directory, until `run` has it; -1: none */
    int directory;                   /* the run's, without a lock; -1: not opened */
    tr_weights *weights;             /* of a directory: for the names it gives its tensors */
    tr_checkpoint_files *files;
    tr_run *run;
    tr_product_file *products;           /* NULL: nobody measures */
    tr_trace_file *trace;                /* NULL: not wanted, or it could not be written */
    uint64_t n_dropped;                  /* spans of it that people know to be missing */
    void (*lost_lead)(const char *text); /* see tr_train_options */
    FILE *progress;                      /* the same */
    char bind[TR_BIND_CHARS];            /* "": nodes choose */
    char listen[TR_BIND_CHARS + 8];      /* of the door, with several hosts */
    tr_curve_key key;                    /* where the recipe names one */
    tr_stall_watch watch;
    const tr_place_seen *places; /* the job's; NULL before it says so */
    uint64_t began_ns;
    bool disk_is_full, disk_is_unsynced; /* by chaos, or is to be next */
    bool needs_disk;                     /* from now on chaos leaves it alone */
    tr_standby *standby;                 /* who goes on if this process dies; NULL: nobody */
} tr__training;

/* Makes the plan of a job that begins at `start`, with a recipe that outlives the training. It is kept until the end, but is
 * not the latest yet. config is taken over. */
tr_status tr__training_make_plan(tr__training *self, const tr_recipe *recipe, const tr_start *start,
                                 tr_model_config *config, tr_job_plan **out, tr_error *err);
/* train_layout.c. Keeps it until the end, as the last of `recipes`; takes what is in it, also when it fails. */
tr_status tr__training_keep_recipe(tr__training *self, tr_recipe *recipe, tr_error *err);
/* Makes the plan of a job that begins at `start`, and makes it the latest. config is taken over. An error leaves the latest
 * plan as it was. */
tr_status tr__training_add_plan(tr__training *self, const tr_start *start, tr_model_config *config,
                                tr_error *err);
/* The latest plan's configuration once more, also where the checkpoint that it came with is gone by now. */
tr_status tr__training_read_config(const tr__training *self, tr_model_config *out, tr_error *err);
/* What the coordinator is told, by the latest plan. */
void tr__training_tell_coordinator(tr__training *self);

/* train_readopt.c. With the run's directory locked: who is left of the run? Also where nobody is wanted. */
tr_status tr__training_find_orphans(tr__training *self, tr_error *err);
/* With the plan made: they are gone on with, or sent home. */
tr_status tr__training_choose_orphans(tr__training *self, FILE *progress, tr_error *err);
/* The memory for the journal: theirs, or new. */
tr_status tr__training_make_memory(tr__training *self, tr_error *err);
/* The run's, once. Errors: TR_EIO. */
tr_status tr__training_open_directory(tr__training *self, tr_error *err);
/* ms 0 where the recipe wants none. The directory is opened. Errors: TR_EIO. */
tr_status tr__training_lease(tr__training *self, tr_job_lease *lease, tr_error *err);

/* train_former.c. In the run's directory, which is locked: may its head have been lost and hosts be left with states? Then what
 * its coordinator knew is what the log has. */
void tr__training_find_former(tr__training *self);
void tr__training_read_former(tr__training *self);
void tr__training_former(tr__training *self, tr_job_former *former); /* for the job */
/* Generations that the log does not reach, or that the checkpoint is newer than, count as not held. */
void tr__training_limit_former(const tr__training *self, uint64_t held[2]);
void tr__training_say_former(tr__training *self, uint64_t generation); /* once: from where it goes on */
/* A record is in the log: in time it is on the disk, for who may go on from another host. */
void tr__training_logged(tr__training *self);
uint32_t tr__training_most_untold(const tr__training *self); /* see tr_coordinator_context */
bool tr__training_lost_its_head(const char *run); /* a head that ends takes away what says that it is there */

/* train_hosts.c. Several hosts: where they knock, and what is told of them; count 1 where the recipe wants no others. */
void tr__training_hosts(tr__training *self, tr_job_hosts *hosts);
/* What hosts read for themselves is named so that all find it: a relative path means something else there. */
tr_status tr__training_make_absolute(tr__training *self, tr_error *err);

/* train_chaos.c. What the job is told, and the run of what it cannot show; and what the coordinator noted, or the job told. */
void tr__training_chaos(tr__training *self, tr_job_chaos *chaos);
void tr__training_chaos_noted(tr__training *self, const char *kind);
void tr__training_chaos_event(tr__training *self, const tr_job_event *event);

/* train_lead.c. Takes the lease in etcd, where the recipe wants one and it is not there yet. Errors: those of
 * tr_head_lease_acquire. */
tr_status tr__training_lead(tr__training *self, tr_head_lease_patience patience, tr_error *err);
/* For the job: may this process lead, and if not, why? */
bool tr__training_may_lead(void *context, char *why, size_t capacity);

/* train_standby.c. Where the recipe wants one and none is there. One that cannot be started is told and not needed. */
void tr__training_start_standby(tr__training *self);
void tr__training_watch_standby(
    tr__training *self); /* now and then: starts another for one that was killed */
/* Waits until nobody trains in the run's directory, and locks it. *needed: its head has died. */
tr_status tr__training_stand_by(tr__training *self, FILE *progress, bool *needed, tr_error *err);

/* train_devices.c; device_failed of tr_job_recovery. */
tr_job_verdict tr__training_device_failed(void *context, int32_t node, const char *text, char *line,
                                          size_t capacity);
/* Where devices have been left out since the latest plan was made: the same plan, with those that are left. */
tr_status tr__training_deal_again(tr__training *self, const tr_topology **topology, tr_error *err);
/* The same before a job begins, with what the head before it has left. */
tr_status tr__training_deal_as_before(tr__training *self, tr_error *err);

/* train_recovery.c; the functions of tr_job_recovery, context: the tr__training. */
tr_status tr__training_record_epoch(void *context, uint32_t epoch, tr_error *err);
tr_status tr__training_begin_again(void *context, tr_job_beginning *beginning, tr_error *err);
/* Of the generations that every slot holds whole (the newest first; 0: none): the newest, but the one before it where its
 * checkpoint was asked for and not written, which can be made again only from there. */
uint64_t tr__training_generation(const tr_coordinator_journal *journal, const uint64_t held[2]);

#endif
