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
    tr_bucket *buckets;
    bool computing;              /* what is exchanged has not all been computed ... */
    uint64_t queued_ns;          /* ... since it was queued */
    uint32_t n_buckets, n_begun; /* of the step */
    int64_t largest;             /* own shard of a bucket, elements */
    float *arrivals;             /* a place for the own shard of each block of the others, on the device */
    tr_transfer *transfers;
};

/* stage_group.c: has this stage joined? To replica 0, for whom it may be the last word that was awaited. */
void tr__group_answer(tr__stage *self, bool can, const char *text);

#endif
