/* actors/trace.h - what an actor did, and when: spans of time for trace.json (pipelines/trace_file.h).
 * An actor keeps its spans in a bounded buffer and ships them to the monitor on the control lane, in small frames: whenever
 * one is full, and at the end of a step. The monitor answers each; no more than a few are ever under way, so that a slow
 * disk fills neither its lane nor anybody's memory. What finds the buffer full is dropped and counted; nothing waits.
 * Spans of one actor never overlap: what it does within another span is part of that one. No number depends on any of it.
 * Threads: its actor's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_TRACE_H
#define TROUPE_ACTORS_TRACE_H

#include "base/pack.h"
#include "runtime/actor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_span_kind {
    TR_SPAN_FORWARD,
    TR_SPAN_BACKWARD,
    TR_SPAN_WEIGHT,
    TR_SPAN_EVALUATION, /* the forward of a held-out micro-batch */
    TR_SPAN_REDUCE,     /* adding gradients, with the sending of shards and square sums */
    TR_SPAN_UPDATE,
    TR_SPAN_SENDING, /* of a micro-batch's activations, gradients, tokens */
    TR_SPAN_READING, /* of a micro-batch's rows */
    TR_SPAN_SAVING,  /* of a chunk of state to the checkpoint actor */
    TR_SPAN_AUDIT,   /* a phase of another replica's micro-batch, computed again */
    TR_SPAN_KINDS
} tr_span_kind;

const char *tr_span_name(tr_span_kind kind); /* "weight gradient" */

typedef struct tr_span {
    uint64_t begin_ns, end_ns; /* monotonic; in simulation virtual */
    uint32_t step;             /* from 1, as in the log; of evaluations and saving the updates done */
    uint32_t microbatch;       /* 0 where there is none */
    tr_span_kind kind;
} tr_span;

enum { TR_TRACE_SPANS = 1024, TR_TRACE_FRAME_SPANS = 64, TR_TRACE_FRAMES_UNDER_WAY = 8 };

typedef struct tr_trace {
    bool on;    /* off costs one branch a span */
    bool eager; /* ship every span at once: no step will end any more */
    bool behind_;
    uint32_t first_, n_, n_under_way_;
    uint64_t n_dropped;
    tr_span *spans_; /* a ring of TR_TRACE_SPANS */
    tr_actor *actor_;
    tr_actor_id monitor_;
} tr_trace;

/* off: holds nothing, and all of the below does nothing. Errors: TR_ENOMEM. */
tr_status tr_trace_init(tr_trace *self, tr_actor *actor, bool on, tr_error *err);
void tr_trace_release(tr_trace *self);
void tr_trace_ship(tr_trace *self);     /* all there is, or as much as may be under way: the rest follows */
void tr_trace_answered(tr_trace *self); /* TR_TOPIC_TRACED has come */
void tr__trace_add(tr_trace *self, const tr_span *span);

/* Before tr_actor_activity says what begins. */
static inline uint64_t tr_trace_begin(const tr_trace *self)
{
    return self->on ? tr_actor_clock_ns(self->actor_) : 0;
}

static inline void tr_trace_end(tr_trace *self, tr_span_kind kind, uint64_t begin_ns, uint32_t step,
                                uint32_t microbatch)
{
    if (!self->on) return;
    const tr_span span = {begin_ns, tr_actor_clock_ns(self->actor_), step, microbatch, kind};
    tr__trace_add(self, &span);
}

/* The body of TR_TOPIC_TRACE behind its array head. false: it does not read as it should. */
bool tr_trace_unpack(tr_unpacker *body, uint32_t n_fields, tr_span spans[TR_TRACE_FRAME_SPANS],
                     uint32_t *n_spans, uint64_t *n_dropped);

#ifdef __cplusplus
}
#endif
#endif
