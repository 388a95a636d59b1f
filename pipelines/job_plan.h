/* pipelines/job_plan.h - a recipe thought through to its end: model, cut, actors, edges, memory. Nothing runs
 * yet.
 * The head makes it whole; a worker makes the part that its stage needs from the same recipe and gets the
 * same, since every step of it is deterministic. `troupe plan` prints it.
 * Threads: built by one thread, then only read.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_JOB_PLAN_H
#define TROUPE_PIPELINES_JOB_PLAN_H

#include "actors/plan.h"
#include "actors/stage.h"
#include "pipelines/data.h"
#include "pipelines/devices.h"
#include "pipelines/partition.h"
#include "runtime/topology.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the state at the beginning comes from. */
typedef enum tr_origin {
    TR_ORIGIN_FRESH,     /* random numbers */
    TR_ORIGIN_MODEL,     /* parameters from a Hugging Face directory, moments zero */
    TR_ORIGIN_CHECKPOINT /* all from a checkpoint of ours */
} tr_origin;

typedef struct tr_start {
    tr_origin origin;
    char directory[1024]; /* "" when fresh */
    uint32_t updates;     /* done in the checkpoint, else 0 */
    uint64_t tokens;      /* seen by then */
    uint32_t until;       /* only to save the state after so many, see tr_training_plan.until; else 0 */
    uint32_t examined, examination; /* see tr_training_plan */
    bool again;                     /* in the middle of a job, see tr_training_plan.again */
    const tr_device_record
        *record; /* of devices that failed; NULL: none did. It outlives the plan's making */
} tr_start;

/* The model's configuration there: the checkpoint's own, else what the recipe names. *out is the caller's to release.
 * Errors: those of tr_model_config_read and tr_model_config_from_recipe. */
tr_status tr_start_read_config(const tr_start *self, const tr_recipe *recipe, tr_model_config *out,
                               tr_error *err);

typedef struct tr_model_plan {
    tr_model_config config;
    tr_graph *whole; /* forward, with loss */
    tr_model_values values;
    tr_model_parameters parameters;
    tr_partition partition;
    tr_parameter_use *uses;
    size_t n_uses;
    bool fp8; /* pieces are to have products in FP8 */
} tr_model_plan;

/* config is taken over (also when it fails). Errors: TR_EINVAL (more stages than layers, ...), TR_ENOMEM. */
tr_status tr_model_plan_init(tr_model_plan *self, tr_model_config *config, const tr_recipe *recipe,
                             tr_error *err);
void tr_model_plan_release(tr_model_plan *self);

/* The numbers all actors share. data tells how many windows are held out. Errors: TR_ENOMEM. */
tr_status tr_training_plan_from_recipe(tr_training_plan *out, const tr_recipe *recipe, const tr_data *data,
                                       uint32_t first_step, tr_error *err);

/* Fills graph, values, parameters and plan of a stage's spec. Release with tr_stage_spec_release. */
tr_status tr_model_plan_stage(const tr_model_plan *self, const tr_recipe *recipe,
                              const tr_training_plan *plan, uint32_t replica, uint32_t stage,
                              tr_stage_spec *spec, tr_error *err);
void tr_stage_spec_release(tr_stage_spec *spec);

/* What is known of a stage before it runs, in bytes. */
typedef struct tr_stage_budget {
    int64_t n_parameters; /* elements, tied ones in every stage that holds them */
    double gflops;        /* of one micro-batch: forward, backward and weight gradient */
    uint64_t state, rounded, gradients, stashes, scratch, edges;
    uint64_t codes; /* of weights, where products are in FP8 */
    /* Where its memory is apart: the state it computes with, inputs and outputs; the host's memory that they go through. */
    uint64_t own_state, places, pinned;
    /* With ZeRO: all parameters beside the slot's shard, with the message in which that goes; what other replicas hold of a slot. */
    uint64_t whole, shared_state;
    bool
        by_devices; /* its gradients go to the other replicas' devices, where their library is there (NCCL) */
    bool streams;   /* ... behind each node that made them, and are never whole; see actors/stage_buckets.h */
    uint64_t
        context; /* what CUDA takes for the process, with its first stage on a GPU, and NCCL for the stage */
    uint64_t kept;  /* with recovery by replay */
    uint64_t audit; /* with audits */
    uint32_t stash_credits;
    tr_stage_place device;
} tr_stage_budget;

typedef struct tr_job_plan {
    const tr_recipe *recipe; /* not owned */
    tr_model_plan model;
    tr_training_plan training;
    tr_start start;
    tr_stage_budget *budgets; /* by replica * n_stages + stage */
    tr_devices devices;
    tr_topology topology;
    int64_t *n_elements; /* of each parameter of the model */
    int32_t *host_of;    /* by node: see tr_job_hosts */
    uint32_t *equals;    /* by actor: the same */
} tr_job_plan;

/* config is taken over. recipe must outlive the plan. Errors: TR_EINVAL, TR_ENOMEM. */
tr_status tr_job_plan_init(tr_job_plan *self, const tr_recipe *recipe, tr_model_config *config,
                           const tr_data *data, const tr_start *start, tr_error *err);
void tr_job_plan_release(tr_job_plan *self);
/* job_hosts.c. The host of a node as the plan has it: whole replicas stay together where there are as many as hosts, else
 * neighbours of a pipeline. 0, the head's own, where the job has but one. */
int32_t tr_job_host_of(const tr_recipe *recipe, int32_t node);
/* The node of a replica's data shard: that of its first stage, or one of the head's host where that is elsewhere, so that only
 * that host needs the data. */
int32_t tr_job_shard_node(const tr_recipe *recipe, const tr_training_plan *plan, uint32_t replica);
/* Fills in host_of and equals. Errors: TR_ENOMEM. */
tr_status tr_job_plan_spread(tr_job_plan *self, tr_error *err);
/* Who is where, and how the loss of a host is survived; nothing where there is but one. */
void tr_job_plan_print_hosts(const tr_job_plan *self, FILE *stream);
/* By which a host may ask for this plan and no other (`troupe worker --plan`). */
tr_status tr_job_plan_hash(const tr_job_plan *self, char hex[17], tr_error *err);
/* Of the stage that is this actor; NULL: it is none. */
const tr_stage_budget *tr_job_plan_budget(const tr_job_plan *self, tr_actor_id id);
/* What it takes of its device's memory, 0 for the CPU, and of the host's. */
uint64_t tr_stage_budget_on_device(const tr_stage_budget *self);
uint64_t tr_stage_budget_on_host(const tr_stage_budget *self);
void tr_job_plan_print(const tr_job_plan *self, FILE *stream);
/* Of each worker, with all that it hosts. */
void tr_job_plan_print_memory(const tr_job_plan *self, FILE *stream);

/* The config that a stage's or a data shard's actor gets in the topology; both in one form. */
typedef struct tr_place {
    tr_training_plan plan;
    tr_start start;
    uint32_t replica, stage; /* stage is 0 for a data shard */
    tr_stage_place device;   /* of the stage */
    tr_recipe recipe;
    char *
        config; /* config.json of the checkpoint that it began with, which may be gone by now; else NULL; owned */
} tr_place;
void tr_place_release(tr_place *self);
tr_status tr_place_pack(const tr_job_plan *plan, uint32_t replica, uint32_t stage, void **bytes,
                        size_t *size_bytes, tr_error *err);
/* Release it, also when it fails. */
tr_status tr_place_unpack(tr_place *out, const void *bytes, size_t size_bytes, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
