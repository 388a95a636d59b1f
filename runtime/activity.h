/* runtime/activity.h - a page that a worker writes and others read: what each actor is doing right now, and what it
 * waits for. It outlives the worker (a memfd), so that the message about a death can say what died: no signal handler is
 * needed. And it can be read without a word with the worker, which may be stuck (runtime/look.h).
 * Threads: a record is written by its actor's thread and read by anybody: every field is a relaxed atomic; a
 * reader may see a mixture of two activities, which a person's message can bear.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_ACTIVITY_H
#define TROUPE_RUNTIME_ACTIVITY_H

#include "runtime/topology.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_ACTIVITY_RECORDS = 63, TR_ACTIVITY_BYTES = 24, TR_ACTIVITY_WAITS = 6 };
#define TR_ACTIVITY_NONE UINT32_MAX /* as step or micro-batch: belongs to none, not told */

/* What an actor waits for: a message on an edge, a credit of one, or a word of another actor. */
typedef enum tr_wait_kind { TR_WAIT_NONE, TR_WAIT_MESSAGE, TR_WAIT_CREDIT, TR_WAIT_WORD } tr_wait_kind;

typedef struct tr_wait {
    tr_wait_kind kind;
    uint32_t topic; /* of a word, below 2^24 */
    uint32_t which; /* the edge, or the actor whose word it is */
} tr_wait;

typedef struct tr_activity_record {
    uint64_t actor;               /* 0: free */
    char what[TR_ACTIVITY_BYTES]; /* "forward", "waiting", ...: NUL-terminated */
    uint32_t step, microbatch;
    uint32_t running;  /* a handler is on the processor now */
    uint32_t queued;   /* messages in its mailbox, on both lanes: counted by who sends and by who takes */
    uint64_t handled;  /* messages so far: progress for watchdogs */
    uint64_t since_ns; /* when `what` was written, monotonic: tells which ran last */
    uint64_t waits_since_ns;
    uint32_t incarnation;
    uint32_t pad_;
    uint64_t waits[TR_ACTIVITY_WAITS]; /* packed; up to the first 0. None of them has come */
} tr_activity_record;

typedef struct tr_activity_page {
    uint64_t n_records;
    uint64_t beats;   /* counted up by the worker, whatever its actors do */
    uint64_t beat_ns; /* when that was, monotonic; 0: never yet */
    /* Of a page that the head keeps for a worker of another host (host_activity.h); of any other all 0: */
    int32_t pid;             /* there */
    uint32_t process;        /* a tr_process_seen, as its agent saw it */
    uint64_t resident_bytes; /* 0: not known */
    int32_t host;            /* its number */
    char host_name[64];
    uint8_t pad_[16];
    tr_activity_record records[TR_ACTIVITY_RECORDS];
} tr_activity_page;

tr_status tr_activity_page_new(tr_activity_page **out, int *descriptor, tr_error *err); /* in a new memfd */
tr_status tr_activity_page_open(tr_activity_page **out, int descriptor, tr_error *err);
void tr_activity_clear(tr_activity_page *self); /* nobody writes it: it is for other actors now */
void tr_activity_page_unmap(tr_activity_page **self);
/* Its own or a free one; NULL: full. */
tr_activity_record *tr_activity_record_for(tr_activity_page *self, tr_actor_id actor);
void tr_activity_write(tr_activity_record *self, const char *what, uint32_t step, uint32_t microbatch);
/* While it has nothing to do; n 0: it waits for nothing. Doing something (tr_activity_write) ends all waiting. Those that
 * find no room are left out. */
void tr_activity_wait(tr_activity_record *self, const tr_wait *waits, uint32_t n);
uint32_t tr_activity_waits(const tr_activity_record *self,
                           tr_wait waits[TR_ACTIVITY_WAITS]); /* returns how many */
void tr_activity_beat(tr_activity_page *self);                /* the worker: it is alive */
/* A copy of the page behind `descriptor` of the process `pid`, this one or another of the same user. Errors: TR_EIO; TR_ENOTFOUND:
 * it is gone, or what it has there is no such page. */
tr_status tr_activity_page_copy(tr_activity_page *out, int32_t pid, int descriptor, tr_error *err);
/* A sum that moves with every beat and everything an actor begins: who is stopped or stuck leaves it where it is. */
uint64_t tr_activity_pulse(const tr_activity_page *self);
/* When it last moved, as far as times are noted; 0: never. */
uint64_t tr_activity_last_ns(const tr_activity_page *self);
/* What somebody who looks again and again has seen of each record, and since when. All zero: nothing yet. */
typedef struct tr_activity_watch {
    uint64_t seen[TR_ACTIVITY_RECORDS], since_ns[TR_ACTIVITY_RECORDS];
} tr_activity_watch;
/* Has any actor been in a handler? Before that they are made, which may take as long as it needs. */
bool tr_activity_has_begun(const tr_activity_page *self);
/* For how long a handler has been seen running without a sign of progress, the longest of all; 0: none. A time in a record
 * alone does not say so: it may be of an activity long ago, of an actor that begins to run just now. */
uint64_t tr_activity_stuck_ns(const tr_activity_page *self, tr_activity_watch *watch, uint64_t now_ns);
void tr_activity_record_doing(const tr_activity_record *self, char *text, size_t capacity);
/* "in forward of step 17, micro-batch 3"; empty where nothing is known of the actor. */
void tr_activity_doing(const tr_activity_page *self, tr_actor_id actor, char *text, size_t capacity);
/* "stage 1 was in forward of step 17, micro-batch 3, data shard 0 was last in reading of step 18": those that run first,
 * then by when they ran; three by name, the rest as ", and 2 more"; empty where none ever ran. */
void tr_activity_describe(const tr_activity_page *self, const tr_topology *topology, char *text,
                          size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
