/* actors/stage_buckets.h - in which pieces the gradients of a step leave a device for those of the other replicas, and where they lie
 * meanwhile. A function of the plan, the stage's tensors and the order of its program: the same in every replica, and known to who
 * plans memory.
 * Gradients leave in buckets: neighbours in the flat gradient, in the order in which the program finishes them. With ZeRO each replica
 * keeps what the sum of its own shard is (stage_shard.h), and with stage 2, where a replica has one micro-batch in a step, nothing
 * of a gradient is needed any more when it has left: buckets then take turns in the same memory, and there is no flat gradient.
 * With more micro-batches they add up in a flat gradient as ever, for the order of sums is that of the plan.
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_BUCKETS_H
#define TROUPE_ACTORS_STAGE_BUCKETS_H

#include "actors/stage_shard.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The gradient of one use of a parameter: [begin, end) elements of the flat gradient, touched by the program from position `first`
 * to position `position`; -1: by no node. */
typedef struct tr_bucket_part {
    int64_t begin, end;
    int32_t position, first;
} tr_bucket_part;

typedef struct tr_bucket {
    int64_t begin, end; /* likewise; whole parts */
    int32_t position, first;
    int64_t place; /* where it lies in the gradient's memory, elements */
    int64_t sum;   /* where the own shard's part of it begins in the own sum; with ZeRO */
    int32_t after; /* the last bucket that has been in that memory before, and must have left it; -1: none */
} tr_bucket;

/* Parts are neighbours in memory, in order. Neighbours that end within `bucket` elements are joined. Returns how many;
 * buckets has room for n_parts. */
uint32_t tr_buckets_of(const tr_bucket_part *parts, uint32_t n_parts, int64_t bucket, tr_bucket *buckets);

/* Gives each its place and `after`, so that two that the program touches at the same time have no memory in common. Returns the elements
 * that all take: `least` (or the largest bucket, where that is more), and more where they do not fit. */
int64_t tr_buckets_place(tr_bucket *buckets, uint32_t n, int64_t least);

/* All of a stage's, elements. */
typedef struct tr_buckets {
    tr_bucket *items; /* in the order in which they leave */
    uint32_t n;
    bool streams;     /* buckets take turns in memory */
    int64_t gradient; /* memory of the gradients of a group of micro-batches */
    int64_t sum;      /* of the own sum, where that is not in the gradient's memory; else 0 */
    int64_t arrival;  /* of what comes from one replica at once */
    uint32_t n_arrivals;
    int64_t round; /* with ZeRO, of what a replica sums of a bucket of one part: so much at once */
    size_t most_transfers;
    /* With ZeRO */
    tr_bucket_part *parts;
    uint32_t n_parts, n_replicas;
    tr_stretch *shards; /* of the flat gradient: of each part what each replica sums */
} tr_buckets;

/* Errors: TR_ENOMEM. */
tr_status tr_buckets_init(tr_buckets *out, const tr_stage_spec *spec, const tr_program *program,
                          tr_error *err);
void tr_buckets_release(tr_buckets *self);

/* With ZeRO. In how many rounds a bucket leaves, at least one; and what of a part a replica sums in one of them, maybe nothing. */
uint32_t tr_buckets_rounds(const tr_buckets *self, const tr_bucket *bucket);
tr_stretch tr_buckets_shard(const tr_buckets *self, const tr_bucket *bucket, uint32_t part, uint32_t replica,
                            uint32_t round);
/* The bucket's parts: [*begin, return value). */
uint32_t tr_buckets_parts(const tr_buckets *self, const tr_bucket *bucket, uint32_t *begin);
/* Without ZeRO: what a replica sums of a bucket, of the flat gradient. */
tr_stretch tr_buckets_share(const tr_bucket *bucket, uint32_t n_replicas, uint32_t replica);
/* Where an element of the flat gradient lies in the gradient's memory. */
int64_t tr_buckets_place_of(const tr_buckets *self, int64_t element);

#ifdef __cplusplus
}
#endif
#endif
