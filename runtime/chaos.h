/* runtime/chaos.h - faults on purpose, to see that the job mends them.
 * At points: a worker sends itself a signal when one of its actors begins something of a step, in one epoch. By chance: the
 * head has workers killed at moments that a seed draws. Other faults by chance are fault.h's.
 * Threads: a point is looked at from scheduler threads and never written; the rest is the head's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_CHAOS_H
#define TROUPE_RUNTIME_CHAOS_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_CHAOS_POINTS = 8, TR_CHAOS_WORD = 64, TR_CHAOS_CHARS = 512 };

typedef struct tr_chaos_point {
    uint32_t epoch;                                 /* as counted in events.jsonl */
    char actor[TR_CHAOS_WORD], what[TR_CHAOS_WORD]; /* "stage 1 of replica 0", "backward" */
    uint32_t step;                                  /* from 0; TR_CHAOS_ANY_STEP */
    int signal;
} tr_chaos_point;

#define TR_CHAOS_ANY_STEP UINT32_MAX
enum {                       /* no signals */
       TR_CHAOS_FLIP = -1,   /* a bit of what the actor computes then flips */
       TR_CHAOS_LOOP = -2,   /* it never comes back from what it begins */
       TR_CHAOS_NAN = -3,    /* something of what the actor computes then is no number */
       TR_CHAOS_DAMAGE = -4, /* a bit of the next message that its process sends flips on its way */
       TR_CHAOS_DEVICE =
           -5 /* the device that the actor computes on fails: a GPU really, a CPU is only said to */
};

typedef struct tr_chaos {
    tr_chaos_point points[TR_CHAOS_POINTS];
    uint32_t n_points;
    uint64_t seed;
    double kills_per_minute; /* 0: none by chance */
} tr_chaos;

/* "EPOCH/ACTOR/ACTIVITY/STEP/SIGNAL, ...": "1/stage 1 of replica 0/backward/5/KILL"; STEP may be "any", SIGNAL one of KILL,
 * STOP, SEGV, ABRT, FLIP, LOOP, NAN, DAMAGE, DEVICE. Empty: none. Errors: TR_EINVAL. */
tr_status tr_chaos_parse(tr_chaos *self, const char *text, tr_error *err);

/* The signal to die of now, or one of the above; 0: none. */
int tr_chaos_strikes(const tr_chaos *self, uint32_t epoch, const char *actor, const char *what,
                     uint32_t step);

/* How long until the n-th kill by chance after the one before it, in nanoseconds: exponentially distributed. */
uint64_t tr_chaos_pause_ns(const tr_chaos *self, uint32_t n);
/* Which of `count` it hits. */
uint32_t tr_chaos_victim(const tr_chaos *self, uint32_t n, uint32_t count);

#ifdef __cplusplus
}
#endif
#endif
