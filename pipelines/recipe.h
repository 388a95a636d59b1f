/* pipelines/recipe.h - a training job as its author wrote it, resolved into one plain struct.
 * The recipe is YAML (hence JSON as well). One table, in recipe_schema.c, says of every key its type, range,
 * default and meaning; reading, overrides, writing and the help text all follow it, so they cannot disagree.
 * A refusal is one line, TR_EINVAL: `FILE:LINE: key 'value' what is wrong; remedy`, or `command line: key ...`.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_RECIPE_H
#define TROUPE_PIPELINES_RECIPE_H

#include "ops/recompute.h"
#include "pipelines/model_config.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_tokenizer { TR_TOKENIZER_BYTES } tr_tokenizer;
typedef enum tr_optimizer_kind { TR_OPTIMIZER_ADAMW } tr_optimizer_kind;
typedef enum tr_decay { TR_DECAY_COSINE, TR_DECAY_LINEAR, TR_DECAY_CONSTANT } tr_decay;
typedef enum tr_recipe_dtype { TR_RECIPE_FLOAT32, TR_RECIPE_BFLOAT16 } tr_recipe_dtype;
/* Who chooses the algorithms of matrix products on GPUs; see ops/product_choices.h. */
typedef enum tr_recipe_products { TR_PRODUCTS_LIBRARY, TR_PRODUCTS_MEASURED } tr_recipe_products;
typedef enum tr_reduction { TR_REDUCTION_EXACT } tr_reduction;
typedef enum tr_recovery { TR_RECOVERY_STEP, TR_RECOVERY_REPLAY, TR_RECOVERY_OFF } tr_recovery;
typedef enum tr_non_finite_choice { TR_NON_FINITE_STOP, TR_NON_FINITE_SKIP } tr_non_finite_choice;
typedef enum tr_transport_kind { TR_TRANSPORT_UCX, TR_TRANSPORT_ZMQ, TR_TRANSPORT_INPROC } tr_transport_kind;

typedef struct tr_recipe_numbers {
    double *items; /* owned; NULL when there are none */
    size_t count;
} tr_recipe_numbers;

/* Where a stage computes. AUTO: on a GPU where one is that can be used, else on the CPU. */
typedef enum tr_recipe_device { TR_RECIPE_CPU, TR_RECIPE_CUDA, TR_RECIPE_AUTO } tr_recipe_device;

typedef struct tr_recipe_stage_list {
    int32_t *items;   /* decoder layers of each; owned; NULL when there are none */
    int32_t *devices; /* a tr_recipe_device each, or -1: as the whole job; owned; NULL: all are -1 */
    size_t count;
} tr_recipe_stage_list;

/* Resolved: every default is filled in.
 * Strings are owned; NULL where a key was not given and has no default. */
typedef struct tr_recipe {
    char *run;        /* the run directory */
    struct {          /* exactly one of hf, preset and the inline sizes (layers > 0) */
        char *hf;     /* a Hugging Face model directory */
        char *preset; /* see tr_model_config_preset */
        tr_family family;
        int32_t layers, width, heads, kv_heads, head_size, inner, vocabulary,
            positions; /* all 0 unless inline */
        double rope_theta, norm_eps, initializer_range;
        bool tie, bias; /* bias: llama's projections have biases */
        double dropout; /* [0, 1); NaN: as the model's config.json says */
    } model;
    struct { /* exactly one of text and tokens */
        char *text;
        tr_tokenizer tokenizer;
        double holdout; /* share held out for validation, [0, 1) */
        char *tokens;   /* a safetensors file ... */
        char *key;      /* ... and the tensor in it: (rows, sequence+1) */
    } data;
    struct {
        int32_t steps;      /* updates */
        int32_t sequence;   /* T: predictions a row */
        int32_t microbatch; /* B: rows of a micro-batch */
        int32_t accumulate; /* micro-batches a step, over all replicas */
        int32_t groups;     /* reduction groups, at most accumulate */
        tr_recipe_products products;
        bool fp8; /* products of the layers: see ops/use_fp8.h */
        uint64_t seed;
    } train;
    struct {
        tr_optimizer_kind kind;
        double betas[2], eps, weight_decay;
        double clip_norm; /* 0: no clipping */
    } optimizer;
    struct {
        double peak;
        int32_t warmup; /* steps */
        tr_decay decay;
        double floor;             /* at the last step, as a share of the peak */
        tr_recipe_numbers values; /* one a step, instead of all the above */
    } lr;
    struct {
        int32_t data, pipeline; /* replicas, workers of each */
        int32_t pieces;         /* stages of each worker: worker p has p, p + pipeline, p + 2 pipeline, ... */
        bool processes;         /* a process for each actor; false: one process */
        int32_t threads;        /* of each worker's pool */
        int32_t hosts;          /* that the workers are spread over; the others join */
        tr_recipe_stage_list stages; /* none: balanced by cost */
        int32_t stash;               /* stash credits of a stage beyond those of 1F1B */
        tr_recompute recompute;
        int32_t logits; /* tokens whose logits exist at a time: see tr_graph_chunk_logits */
        int32_t zero;   /* see tr_training_plan.zero */
        bool cuda_graphs;
        bool cuda_ipc; /* between stages on GPUs */
    } layout;
    tr_recipe_device device; /* of stages that do not name their own */
    tr_recipe_dtype dtype;
    tr_reduction reduction;
    tr_transport_kind transport;
    struct {               /* with transport zmq */
        char *address;     /* of this machine, where processes listen; NULL: unseen by other machines */
        char *key;         /* a file of `troupe keygen`; NULL only where the address is of loopback */
        int32_t port;      /* at that address, where other hosts knock */
        int32_t wait;      /* seconds that they have to come at the beginning */
        int32_t copy_rate; /* MiB/s of state copies at most, of each host; 0: no bound */
    } network;
    bool trace; /* writes RUN/trace.json */
    tr_recovery recovery;
    struct {
        int32_t intensity, period;       /* deaths, seconds: see tr_job_recovery */
        int32_t quarantine_after;        /* mistakes of a host, failures of a GPU; 0: never */
        int32_t hung_after;              /* seconds */
        int32_t stall_after;             /* the same */
        int32_t hold_every;              /* see tr_plan_holds_after */
        tr_non_finite_choice non_finite; /* of a step that is no number twice; see actors/non_finite.h */
        double audit;                    /* share of micro-batches that another replica computes again */
        int32_t silence;                 /* seconds, of a host */
        int32_t wait_for_host;           /* seconds, behind the loss of one */
        bool copies;                     /* of states on other hosts */
        int32_t lease; /* the same; 0: agent and workers end with the head. See tr_job_lease */
    } supervision;
    struct {
        bool standby; /* a second head waits and goes on when the first one dies */
        char *
            etcd; /* who leads is decided there (pipelines/head_lease.h); NULL: by the lock on the run's directory */
        char *job;   /* the name of the job there; NULL: the run's path */
        int32_t ttl; /* seconds */
    } head;
    struct { /* see runtime/chaos.h */
        char *at;
        uint64_t seed;
        double kills_per_minute, faults_per_minute;
        char *faults;    /* see runtime/fault.h; NULL: all that the run can show */
        int32_t devices; /* that the CPU plays, see pipelines/devices.h; 0: none */
    } chaos;
    struct {
        int32_t every;   /* steps; 0: only at the end (and only where something is held out) */
        int32_t windows; /* held-out windows evaluated while training; at the end all of them are */
    } validate;
    struct {
        int32_t every; /* steps; 0: only after the last */
        int32_t keep;  /* newest checkpoints kept; 0: all */
    } checkpoint;
} tr_recipe;

/* Reads `path`, applies the overrides ("layout.data=4"; the value is YAML; null takes a key back to its
 * default), fills in the defaults and checks the whole. *out is the caller's to release. Errors: TR_EINVAL,
 * TR_ENOTFOUND, TR_EIO, TR_ENOMEM. */
tr_status tr_recipe_read(tr_recipe *out, const char *path, const char *const *overrides, size_t n_overrides,
                         tr_error *err);
/* The same from text; `name` stands for the file in messages. */
tr_status tr_recipe_parse(tr_recipe *out, const char *text, size_t size_bytes, const char *name,
                          const char *const *overrides, size_t n_overrides, tr_error *err);
void tr_recipe_release(tr_recipe *self);

/* The resolved recipe, every value explicit; read again it gives an equal struct, bit for bit.
 * Free the texts with tr_free. */
tr_status tr_recipe_to_yaml(const tr_recipe *self, char **text, tr_error *err);
/* The same into a file, atomically. */
tr_status tr_recipe_write_yaml(const tr_recipe *self, const char *path, tr_error *err);
tr_status tr_recipe_to_json(const tr_recipe *self, char **text, tr_error *err); /* one line, for shipping */
tr_status tr_recipe_from_json(tr_recipe *out, const char *text, size_t size_bytes, tr_error *err);

/* The first key by which two recipes would compute other numbers from the same state: of dtype, model, data and train
 * all but the steps and the places of files; NULL when there is none. Layout, transport, optimizer, learning rate and the
 * like may change in a resumed run. */
const char *tr_recipe_numerics_differ(const tr_recipe *a, const tr_recipe *b);

/* chaos.faults, as bits (runtime/fault.h), 0 where there are none by chance. What the run could not show is left out, and told with
 * why in left_out, which is empty otherwise. */
uint32_t tr_recipe_faults(const tr_recipe *self, char *left_out, size_t capacity);

/* Stages of a replica: layout.pipeline times layout.pieces. */
static inline int32_t tr_recipe_stages(const tr_recipe *self)
{
    return self->layout.pipeline * self->layout.pieces;
}

/* What is asked for a stage of each replica: its own device, else the job's. */
tr_recipe_device tr_recipe_stage_device(const tr_recipe *self, int32_t stage);

void tr_recipe_describe(FILE *stream); /* all keys with type, default and meaning, for --help */

/* The learning rate of step t (from 0), in double. With `values`: values[t]. Else, with W warm-up steps of S:
 *   t < W:   peak * (t + 1) / W
 *   t >= W:  peak * (floor + (1 - floor) * shape(p)),  p = (t - W) / max(1, S - 1 - W): 1 at the last step
 * shape(p) = (1 + cos(pi p)) / 2 for cosine, 1 - p for linear; constant stays at the peak. */
double tr_recipe_learning_rate(const tr_recipe *self, int32_t step);

const char *tr_transport_kind_name(tr_transport_kind kind); /* "ucx", "zmq", "inproc" */

#ifdef __cplusplus
}
#endif
#endif
