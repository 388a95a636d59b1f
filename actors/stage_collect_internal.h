/* actors/stage_collect_internal.h - what stage_collect.c (the exchanges of a step) and stage_group.c (how a group begins) share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_COLLECT_INTERNAL_H
#define TROUPE_ACTORS_STAGE_COLLECT_INTERNAL_H

#include "actors/stage_collect.h"

typedef enum tr__collect_state {
    TR__ASKING, /* who could */
    TR__JOINING,
    TR__JOINED, /* the decision of replica 0 is awaited */
    TR__USED,
    TR__ON_THE_HOST
} tr__collect_state;

enum { TR__COLLECT_TEXT_BYTES = 256 };

struct tr__collect {
    tr__collect_state state;
    tr_stream *stream;
    tr_group *group;
    tr_event *produced, *exchanged;
    uint32_t n_answers; /* replica 0: to what is asked at the moment, its own among them */
    bool all_can;
    int32_t *devices;                  /* replica 0: by replica */
    char text[TR__COLLECT_TEXT_BYTES]; /* what is used, or the first reason why not */
    uint64_t began_ns;                 /* to join */
    uint64_t failed_ns;                /* when the group was found broken; 0: it is not */
    tr_error failure;                  /* what it said, or what a call said while kernels were queued */
    bool has_failed;                   /* ... then */
    bool is_sharing;                   /* with ZeRO: parameters are under way */
    /* a step */
    tr_buckets buckets;
    bool computing;     /* what is exchanged has not all been computed ... */
    uint64_t queued_ns; /* ... since it was queued */
    uint32_t n_begun;   /* of the step */
    float *arrivals;    /* places for nodes of the tree, on the device */
    tr_transfer *transfers;
    /* where buckets take turns in memory */
    tr_event **left;             /* of each: it has left its memory */
    uint32_t *opening, n_opened; /* in the order in which the program begins with them */
    tr_buffer *sum;              /* of the own shard */
};

/* A node of the tree that is there, as it is in the own shard. */
typedef struct tr__leaf {
    tr_range groups;
    float *data;
} tr__leaf;

/* Sums a node of the tree in place, left and right part in that order; *out is where. */
tr_status tr__collect_sum_node(tr__stage *self, const tr__leaf *leaves, uint32_t n_leaves, tr_range node,
                               int64_t n, float **out, tr_error *err);
void tr__collect_add(tr__collect *c, size_t *n, uint32_t peer, bool sends, float *memory, int64_t n_elements);
/* stage_collect_shards.c: of a bucket, of which these are the replica's blocks, each replica gets its shard's sum. */
tr_status tr__collect_sum_shards(tr__stage *self, const tr_bucket *bucket, const tr__block *blocks,
                                 uint32_t n_blocks, tr_error *err);

/* stage_group.c: has this stage joined? To replica 0, for whom it may be the last word that was awaited. */
void tr__group_answer(tr__stage *self, bool can, const char *text);

#endif
