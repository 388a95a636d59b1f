/* actors/stage.h - the actor that runs one pipeline stage of one replica.
 * It does, whenever its inputs and credits allow, in this order of preference: apply an update, backward,
 * forward, weight gradients. When its micro-batches of a step are done it reduces gradients with the other
 * replicas in the fixed tree, adds the uses of tied parameters, tells the coordinator the square sums, and
 * waits for the commit; the update is written into the other state slot. See actors/DESIGN.md for why no
 * order of messages changes a bit.
 * The stage knows graphs and numbers, not models: whoever builds the job hands in a tr_stage_source.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_H
#define TROUPE_ACTORS_STAGE_H

#include "actors/plan.h"
#include "base/device.h"
#include "ops/program.h"
#include "runtime/actor.h"
#include "transport/collective.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_stage_use {
    uint32_t use;      /* tr_node.use: the order in which uses are added */
    uint32_t stage;    /* where it is */
    tr_value gradient; /* in this stage's graph; TR_NO_VALUE for a use in another stage */
} tr_stage_use;

typedef struct tr_stage_parameter {
    char name[160];
    uint32_t index; /* in the whole model */
    int64_t n_elements;
    tr_value value;     /* in this stage's graph */
    bool decayed;       /* weight decay applies */
    bool owned;         /* the first stage that uses it: counts it in the norm, writes it to checkpoints */
    tr_stage_use *uses; /* all of them, of the whole model, in order */
    uint32_t n_uses;
} tr_stage_parameter;

enum { TR_BUCKET_ELEMENTS = 40 << 20 };

typedef struct tr_stage_optimizer {
    float beta1, beta2, eps, weight_decay;
} tr_stage_optimizer;

/* All that a stage needs to know; made by tr_stage_source.open in the process where the stage lives. */
typedef struct tr_stage_spec {
    tr_training_plan plan;
    tr_stage_optimizer optimizer;
    uint32_t replica, stage;
    uint32_t stash_credits; /* micro-batches it may hold between forward and weight gradient, at least 1 */
    int n_threads;          /* of kernels */
    tr_device_kind device;  /* where it computes */
    int32_t device_index;
    bool apart; /* on the CPU too its memory is apart from messages and slots, as a GPU's is: for tests */
    const tr_collectives *collectives; /* how devices hand gradients to each other; NULL: through the host */
    int64_t bucket_elements;           /* of a gradient that is handed over at once; 0: TR_BUCKET_ELEMENTS */
    bool measure_products;             /* on a GPU: see choices.h */
    bool cuda_graphs;                  /* on a GPU: see tr_program_options.graphs */
    bool links;                        /* messages to other stages may stay on devices: see stage_link.h */
    uint64_t seed;                     /* of what kernels draw: dropout */
    tr_graph *graph;                   /* the piece with its backward */
    /* Units of the whole model, for people: of several the first is the embedding, the last the head, and what is between them are
     * layers. 0: not known. */
    int32_t n_units;
    /* Values of the graph, TR_NO_VALUE where this stage has none. */
    tr_value tokens, targets, activation_in, activation_out, gradient_in, gradient_out, factor, loss;
    tr_stage_parameter *parameters; /* in the whole model's order */
    uint32_t n_parameters;
    void *private_; /* the source's */
} tr_stage_spec;

typedef struct tr_stage_source {
    void *context;
    tr_status (*open)(void *context, const void *config, size_t config_bytes, tr_stage_spec *spec,
                      tr_error *err);
    /* Fills parameter, first and second moment of one parameter as they are after plan.first_step updates. */
    tr_status (*load)(const tr_stage_spec *spec, const tr_stage_parameter *parameter, float *p, float *m,
                      float *v, tr_error *err);
    void (*close)(tr_stage_spec *spec);
} tr_stage_source;

/* Context of the registry entry: a const tr_stage_source *. */
extern const tr_behavior tr_stage_behavior;

/* Bytes of one state slot for tensors of these sizes.
 * In it: parameters, first moments, second moments, each tensor aligned. */
uint64_t tr_stage_state_bytes(const int64_t *n_elements, uint32_t n_parameters);
/* Where tensor `which` of these lies in a slot: of the three parts that follow one another (parameters, first moments, second
 * moments) each has it at *offset_bytes, and takes *part_bytes. */
void tr_stage_slot_place(const int64_t *n_elements, uint32_t n_parameters, uint32_t which,
                         uint64_t *offset_bytes, uint64_t *part_bytes);
enum { TR_STAGE_SLOT_PARTS = 3 };
/* Bytes of the rounded copies of those parameters that the graph reads as bfloat16. */
uint64_t tr_stage_rounded_bytes(const tr_stage_spec *spec);
/* For a stage on a device: bytes of inputs, outputs and sums there beside what its program, its state and its gradients
 * take, and of the host's memory that they go through. */
void tr_stage_device_bytes(const tr_stage_spec *spec, const tr_program *program, uint64_t *places,
                           uint64_t *pinned);
/* Of a GPU, for the sender's end of an edge whose messages may stay on devices; 0: they never do. */
uint64_t tr_edge_link_bytes(const tr_edge_spec *edge);
/* ... and of its gradients and their sums: those of a group of micro-batches take `blocks` times their elements at once. by_devices:
 * replicas hand them to each other (stage_buckets.h), as where `collectives` are there and none share a GPU. Errors: TR_ENOMEM. */
tr_status tr_stage_gradient_bytes(const tr_stage_spec *spec, const tr_program *program, uint32_t blocks,
                                  bool by_devices, uint64_t *bytes, tr_error *err);
/* What CUDA, its libraries and our kernels take of a GPU for each process, beside the above: as an H100 had it. */
enum { TR_STAGE_CONTEXT_BYTES = 560 << 20 };
/* ... and a group of replicas for each other member, by which they hand gradients to each other: NCCL 2.28 took 400 to 950 MiB between
 * two of them (what else was there at that moment is not known better). */
enum { TR_STAGE_GROUP_BYTES = 500 << 20 };
/* With replay: the most that a stage keeps beside the above: the messages of two steps, which are not dropped before the commit
 * of the second; a place for an evaluation; and what is in hand when an epoch ends, until it is used. */
uint64_t tr_stage_kept_bytes(const tr_stage_spec *spec, const tr_program *program);
/* With audits: a message to the auditor, how many of them it takes at once, and the most that a stage holds beside the above: what
 * it is going to send, and what it computes again in. */
uint64_t tr_stage_audit_message_bytes(const tr_stage_spec *spec);
enum { TR_STAGE_AUDIT_SLOTS = 2 };
uint64_t tr_stage_audit_bytes(const tr_stage_spec *spec, const tr_program *program);
/* Elements of a stage's flat gradient, every use aligned: what the reduction's edges carry shards of. */
int64_t tr_stage_gradient_elements(const tr_stage_parameter *parameters, uint32_t n_parameters);
/* The part of the flat gradient that replica `replica` reduces. Begins at a multiple of 16 elements. */
void tr_stage_shard(int64_t n_elements, uint32_t n_replicas, uint32_t replica, int64_t *begin, int64_t *end);

/* What a chunk of state on the "state" edge begins with; the bytes of the tensor follow. */
typedef struct tr_state_chunk {
    uint32_t parameter; /* index in the whole model */
    uint32_t part;      /* 0 parameter, 1 first moment, 2 second moment */
    uint64_t offset_bytes;
} tr_state_chunk;
enum { TR_STATE_CHUNK_BYTES = 1 << 20 }; /* the largest body of the "state" edge, head included */

#ifdef __cplusplus
}
#endif
#endif
