/* actors/stage_internal.h - the state of a stage, shared by stage.c (running micro-batches), stage_memory.c, stage_reduce.c
 * (gradients to their sum over the step), stage_update.c (update, state slots, streaming of checkpoints), stage_zero.c
 * (parameters from the replicas that have a shard each) and stage_device.c (all of it where the memory is a device's).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_INTERNAL_H
#define TROUPE_ACTORS_STAGE_INTERNAL_H

#include "actors/message_queue.h"
#include "actors/stage.h"
#include "actors/stage_shard.h"
#include "actors/trace.h"
#include "base/memory.h"
#include "ops/program.h"
#include "runtime/activity.h"

enum { TR__LINE_ELEMENTS = TR_CACHE_LINE / 4 };

/* Elements that a tensor takes in a flat array where each begins with a cache line. */
static inline int64_t tr__stage_aligned(int64_t n)
{
    return (n + TR__LINE_ELEMENTS - 1) / TR__LINE_ELEMENTS * TR__LINE_ELEMENTS;
}

/* What a value of the graph takes; 0 where there is none. */
static inline uint64_t tr__value_bytes(const tr_graph *graph, tr_value value)
{
    if (value == TR_NO_VALUE) return 0;
    const tr_value_info *info = tr_graph_value(graph, value);
    return (uint64_t)tr_shape_elements(&info->shape) * tr_dtype_bytes(info->dtype);
}

/* Buffers of one size for outgoing messages and gradients; one is free again when nobody else holds it. */
typedef struct tr__buffers {
    tr_buffer **all;
    size_t n, capacity, size_bytes;
    tr_device *device; /* whose memory it is; NULL: the heap's */
    tr_memory_kind kind;
} tr__buffers;

/* With a reference for the caller; NULL when there is no memory. */
tr_buffer *tr__buffers_take(tr__buffers *self);
void tr__buffers_release(tr__buffers *self);

/* A micro-batch in flight holds one stash credit from its forward to its weight gradient. */
typedef enum tr__flight_state { TR__FREE, TR__FORWARD_DONE, TR__BACKWARD_DONE } tr__flight_state;

typedef struct tr__flight {
    tr__flight_state state;
    uint32_t step, microbatch;
    bool evaluation;                        /* has a forward and nothing else */
    tr_message *input, *targets, *gradient; /* kept as long as a later phase reads them */
    tr_buffer *output, *input_gradient;     /* likewise */
    tr_buffer *audit; /* what another worker needs to compute it again; NULL: it is not sampled */
    void *stash;
    double loss;
} tr__flight;

/* The sum of the gradients of a range of groups: a node of the reduction tree. */
typedef struct tr__block {
    tr_range groups;
    tr_buffer *memory; /* a flat gradient */
} tr__block;

/* Messages that may wait at once: one that is computed, and one queued behind it. More would only be decided too early: what
 * has arrived in the meantime, and comes first, would come after them. */
enum { TR__MOST_DEPARTURES = 2 };

typedef struct tr__departure {
    uint32_t edge, step, microbatch;
    uint16_t flags;
    tr_buffer *body;
} tr__departure;

typedef enum tr__phase {
    TR__COMPUTING,  /* micro-batches of this step */
    TR__PASSING,    /* done in an earlier epoch: what was sent then is sent again (replay.h) */
    TR__STARTING,   /* own blocks are whole, the slots of the last step's are awaited */
    TR__SCATTERING, /* own blocks are out, those of the others for the own shard are awaited */
    TR__GATHERING,  /* own shard is out, the others' are awaited */
    TR__TYING,      /* uses of tied parameters in other stages are awaited */
    TR__COMMITTING  /* the coordinator knows, its commit is awaited */
} tr__phase;

enum { TR__MAX_WANTED = 4 };
#define TR__NOT_HELD UINT32_MAX

typedef struct tr__parameter {
    const tr_stage_parameter *spec;
    tr_stretch part;    /* of it, what this replica updates: all, but with ZeRO */
    int64_t offset;     /* elements, of that part in each third of a state slot */
    tr_bf16 *rounded;   /* the whole of the newest state's, where the graph reads bfloat16; else NULL */
    float *value;       /* with ZeRO the whole of the newest state's, where it reads float32; else NULL */
    int64_t *gradients; /* offsets in the flat gradient, one for each use; -1: in another stage */
    int64_t *reduced;   /* of the part in the step's sum on the host; the same */
    int64_t *sums;      /* ... and on a device */
    float *total;       /* sum of the part over uses; NULL where the one use is the total */
    bool shared;        /* some use is in another stage */
} tr__parameter;

typedef struct tr__device tr__device;           /* stage_device.c */
typedef struct tr__links tr__links;             /* stage_link.c */
typedef struct tr__collect tr__collect;         /* stage_collect.c */
typedef struct tr__replay tr__replay;           /* replay.c */
typedef struct tr__disputes tr__disputes;       /* dispute.c */
typedef struct tr__stage_audit tr__stage_audit; /* stage_audit.c */
typedef struct tr__zero tr__zero;               /* stage_zero.c */
typedef struct tr__finding tr__finding;         /* stage_examine.c */

typedef struct tr__stage {
    tr_actor *actor;
    const tr_stage_source *source;
    tr_stage_spec spec;
    tr_program *program;
    tr_thread_pool *pool;
    tr__device *device;     /* NULL: it computes in the memory of messages and slots; see stage_device.h */
    tr__links *links;       /* NULL: what it sends goes through the host; see stage_link.h */
    tr__collect *collect;   /* NULL: the gradients of replicas are summed on the host; see stage_collect.h */
    tr__replay *replay;     /* NULL: nothing is kept for a recovery; see replay.h */
    tr__disputes *disputes; /* NULL: nobody compares; see dispute.h */
    tr__stage_audit *audit; /* NULL: nothing is computed again; see stage_audit.h */
    tr__zero *zero;         /* NULL: each replica has all of the state; see stage_zero.h */
    tr__finding *finding;   /* NULL: no step is examined; see stage_examine.h */
    uint32_t n_audited;     /* micro-batches of another replica, of this step */
    bool first, last;       /* of the pipeline */
    tr_product_choices *choices; /* NULL: the library's own, or not yet known */
    bool is_choosing;            /* nothing is computed before they are known; see stage_choices.h */

    /* edges */
    tr_actor_id coordinator;
    uint32_t out_activation, out_gradient, out_state;
    uint32_t *out_scatter, *out_gather; /* by replica */
    uint32_t *out_tied;                 /* by stage */
    tr_message_queue inputs, targets, gradients, audits;
    tr_message_queue scattered, gathered, tied; /* arrived for this step's reduction */
    tr_message_queue updated;                   /* with ZeRO: the other replicas' parts of a state */
    tr__buffers activations, input_gradients, chunks;
    tr__departure departures[TR__MOST_DEPARTURES]; /* a ring; see stage_depart.h */
    uint32_t first_departure, n_departures;

    /* micro-batches */
    void **bound; /* by tr_value */
    void *scratch;
    tr__flight *flights; /* spec.stash_credits; with replay one more, for evaluations alone */
    uint32_t n_flights;
    tr_range microbatches;
    uint32_t step;        /* updates done = the step being computed */
    uint32_t next_weight; /* micro-batch whose weight gradient comes next */
    bool is_fused;        /* weight gradients are part of the backward (ops/recompute.h) */
    double *losses;
    uint32_t ring;    /* see tr_plan_steps_ahead */
    uint64_t *tokens; /* target tokens of step, at step % ring; 0: not yet known */
    float factor;     /* 1 / tokens of this step */
    uint64_t busy_ns;
    tr_trace trace;

    /* reduction */
    tr__phase phase;
    tr__parameter *parameters;
    int64_t flat;            /* elements of the flat gradient */
    tr__buffers flats;       /* one is used again only when no peer reads it any more */
    tr_buffer *accumulating; /* of the group at work */
    uint32_t group;          /* at work */
    tr__block blocks[TR_MAX_BLOCKS];
    uint32_t n_blocks;
    tr_buffer
        *reduced;   /* of the step, where other stages may read it; with one replica the root block itself */
    tr_buffer *sum; /* the same on a device, from which it is updated */
    uint32_t n_scatter_awaited, n_gather_awaited, n_tied_awaited;
    tr_stretch *stretches;   /* of the flat gradient, what each replica sums */
    uint32_t *first_stretch; /* of each replica; one more for the end */
    tr__buffers
        sum_flats; /* of what this one sums, without the rest: with ZeRO 2, and on devices with ZeRO */

    /* update and state */
    int64_t slot_elements; /* of one third */
    tr_bf16 *rounded;      /* memory of the parameters' copies; NULL where all are float32 */
    int slot;         /* the one that holds the newest state that is held, or will when it has been copied */
    uint32_t held[2]; /* updates in the state of each slot; TR__NOT_HELD */
    bool committed;   /* the commit for this step is here */
    bool holds;       /* ... and the new state shall be held */
    bool leaves_out;  /* ... which is the old one: the update is left out */
    float scale, learning_rate;
    uint32_t wanted[TR__MAX_WANTED], n_wanted; /* checkpoints to stream, in updates done */
    bool streaming;
    int stream_slot;
    uint32_t stream_parameter, stream_part;
    uint64_t stream_offset;
} tr__stage;

static inline float *tr__floats(const tr_buffer *flat)
{
    return (float *)flat->data;
}

static inline int64_t tr__part_elements(const tr__parameter *parameter)
{
    return parameter->part.end - parameter->part.begin;
}

float *tr__stage_part(tr__stage *self, int slot, int part); /* 0 parameters, 1 first, 2 second moments */
/* stage_shard.c: of so many elements of a parameter, as the stage computes with them, in a message. */
uint64_t tr__shard_bytes(const tr_stage_spec *spec, uint32_t parameter, int64_t n);

/* stage_reduce.c */
tr_status tr__reduce_init(tr__stage *self, tr_error *err);
void tr__reduce_release(tr__stage *self);
/* false: no memory, or the device has failed; so has the actor, or its node. */
bool tr__reduce_begin_group(tr__stage *self, uint32_t group);
void tr__reduce_bind_group(tr__stage *self);            /* to the gradients of the group at work */
void tr__reduce_bind(tr__stage *self, tr_buffer *flat); /* to these */
bool tr__reduce_end_group(tr__stage *self);
void tr__reduce_start(tr__stage *self); /* all micro-batches of the step are in blocks */
bool tr__reduce_is_possible(const tr__stage *self);
bool tr__reduce_advance(tr__stage *self); /* does what has become possible; true when something was done */
void tr__reduce_finish_step(tr__stage *self);
/* A flat gradient in the host's memory, for messages; NULL: no memory, the actor has failed. */
tr_buffer *tr__take_host_flat(tr__stage *self);
/* For the step's sum there: of its shard alone, where a replica has that. */
tr_buffer *tr__take_host_sum(tr__stage *self);
/* What has come of a use that is in another stage. */
const tr_message *tr__tied_use(const tr__stage *self, const tr__parameter *parameter, uint32_t u);

/* stage_failure.c. Chaos, what was computed is wrong as of a processor that errs: a bit of it flips, in each epoch another one, or a number
 * is none any more. how: of tr_actor_spoil. */
void tr__stage_spoil(const tr__stage *self, int how, void *result, size_t size_bytes);
/* The same for what the phase computed, if it is to be wrong; false: the device has failed, and so will the node. */
bool tr__stage_spoil_phase(tr__stage *self, tr__flight *flight, tr_phase phase);

/* stage_edges.c */
tr_status tr__stage_find_edges(tr__stage *self, tr_error *err);
tr_message_queue *tr__stage_queue(tr__stage *self, uint32_t edge); /* NULL: none comes along this one */

/* stage_waits.c: tr_behavior.waits */
uint32_t tr__stage_waits(const tr_actor *actor, const void *state, tr_wait *waits, uint32_t capacity);

/* stage_memory.c */
tr_status tr__stage_allocate(tr__stage *self, tr_error *err); /* what micro-batches need */
void tr__fail_for_memory(tr__stage *self); /* ends the actor: none for a message's buffer */
/* stage_failure.c. The same for the reason in *error; pinned memory is a GPU's to give. */
void tr__stage_lacks_memory(tr__stage *self, const tr_error *error);
void tr__release_message(tr__stage *self,
                         tr_message **message); /* also one of an earlier epoch, kept in flight */

/* stage_update.c */
tr_status tr__update_init(tr__stage *self, tr_error *err);
int64_t tr__rounded_elements(const tr_graph *graph, const tr_stage_parameter *parameter);
bool tr__update_report(tr__stage *self); /* square sums to the coordinator; false as above */
void tr__update_report_again(tr__stage *self, const double *losses, const double *sums);
bool tr__update_is_possible(const tr__stage *self);
bool tr__update_apply(tr__stage *self);            /* when committed and the other slot is free */
int tr__update_threads(const tr_stage_spec *spec); /* of the pool that hashes states, and on a CPU computes */
bool tr__update_end(tr__stage *self);              /* the new state is in its slot: publishes it, votes */
bool tr__stream_is_possible(const tr__stage *self);
bool tr__stream_advance(tr__stage *self); /* one chunk of a wanted checkpoint */

#endif
