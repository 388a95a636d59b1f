/* runtime/actor.h - what an actor is, and what it may do from within its handlers.
 * Handlers run to completion on one thread at a time, never block, never sleep, never ask a clock or a socket
 * themselves. The order of work: control messages first, then the mailbox in order of arrival, then `idle`,
 * one unit of work a call, so that an actor sees everything that has arrived before it chooses what to do
 * next: the mailbox is the schedule.
 * Source of links, monitors and their meaning: Erlang/OTP's reference manual, "Processes".
 * Threads: all tr_actor_* and tr_edge_* functions only from the actor's own handlers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_ACTOR_H
#define TROUPE_RUNTIME_ACTOR_H

#include "base/thread_pool.h"
#include "runtime/activity.h"  /* tr_wait */
#include "runtime/scheduler.h" /* TR_NO_WORK */
#include "runtime/topology.h"
#include "transport/message.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_actor tr_actor;

typedef struct tr_behavior {
    const char *name;
    /* Makes the actor's state. context is the registry entry's; config the plan's. Edges can be looked up
     * here, nothing can be sent yet. Errors end the job with this message. */
    tr_status (*init)(tr_actor *self, void *context, const void *config, size_t config_bytes, void **state,
                      tr_error *err);
    /* All nodes are ready: the first moment to send. May be NULL. */
    void (*start)(tr_actor *self, void *state);
    /* A message. Whoever keeps it nulls *message and gives it back later with tr_edge_release (DATA) or
     * tr_message_destroy (CONTROL); what is left in *message is given back by the system. frame.kind tells
     * DATA from CONTROL; frame.edge is the edge or the topic; frame.source the sender. */
    void (*receive)(tr_actor *self, void *state, tr_message **message);
    /* One unit of work; true when something was done (it will be called again), false when there is nothing
     * to do until the next message or credit. May be NULL. */
    bool (*idle)(tr_actor *self, void *state);
    /* How urgent the work is that idle would do now, the lower the sooner; TR_NO_WORK: there is none. Changes nothing. With
     * it the actor waits for a turn: among the actors of a node that have it, idle is called of the most urgent one, when all
     * of them have seen what has arrived. NULL: idle is called in the order of notifications. */
    uint64_t (*urgency)(tr_actor *self, void *state);
    /* What it waits for where idle has nothing to do, the most telling first; returns how many were written, at most
     * `capacity`. Of several any may be what is missing. Changes nothing; for `ps` and reports of stalls. May be NULL. */
    uint32_t (*waits)(const tr_actor *self, const void *state, tr_wait *waits, uint32_t capacity);
    /* The actor's state as bytes, and from bytes: for moving and restarting actors. May be NULL. */
    tr_status (*snapshot)(tr_actor *self, void *state, tr_buffer **out, tr_error *err);
    tr_status (*restore)(tr_actor *self, void *state, const void *bytes, size_t size_bytes, tr_error *err);
    /* A monitored or linked actor has ended. May be NULL: a link then ends this actor too, a monitor is ignored. */
    void (*down)(tr_actor *self, void *state, tr_actor_id who, const char *reason);
    /* The last call: frees state and gives back the messages that were kept. A restarted actor begins again with init. */
    void (*stop)(tr_actor *self, void *state);
    /* Its supervisor wants it to end. May be NULL: it ends at once. Otherwise it calls tr_actor_shutdown when it is ready. */
    void (*terminate)(tr_actor *self, void *state);
} tr_behavior;

typedef struct tr_actor_kind {
    const char *name; /* what tr_actor_spec.behavior names */
    const tr_behavior *behavior;
    void *context;
} tr_actor_kind;

typedef struct tr_registry {
    const tr_actor_kind *kinds;
    size_t n_kinds;
} tr_registry;

enum {
    TR_NO_EDGE = UINT32_MAX,
    TR_TOPIC_TIMER = 0xffff0000u,
    TR_TOPIC_STOP_REQUESTED,
    /* To a supervisor; source is the child, frame.incarnation which life of it, the body a text. */
    TR_TOPIC_CHILD_STARTED, /* step: a tr_status; the text says why it could not begin */
    TR_TOPIC_CHILD_ENDED,   /* step: a tr_end; the text says why */
    TR_TOPIC_CHILD_LOST,    /* its node was lost */
    /* From the head where the job has copies of its states on other hosts: the newest generation, a number, that all of
     * those have whole. Until it comes there are none to wait for. */
    TR_TOPIC_COPIED
};

/* How an actor ended: reasons "normal", "shutdown" and all others of Erlang/OTP. */
typedef enum tr_end { TR_END_NORMAL, TR_END_FAILED, TR_END_SHUTDOWN } tr_end;

tr_actor_id tr_actor_self(const tr_actor *self);
const char *tr_actor_name(const tr_actor *self);
const tr_topology *tr_actor_topology(const tr_actor *self);
uint32_t tr_actor_incarnation(const tr_actor *self); /* counts up with every restart */
/* In start of a restarted actor: it has begun only when it says tr_actor_started, and its supervisor waits for that. */
void tr_actor_defer_start(tr_actor *self);
void tr_actor_started(tr_actor *self);
uint32_t tr_actor_epoch(const tr_actor *self);
/* The generation of all state slots that the job goes on from, decided at the change to this epoch; 0: from the beginning. */
uint64_t tr_actor_generation(const tr_actor *self);
uint64_t tr_actor_now_ns(const tr_actor *self); /* monotonic, as of when the handler was called */
/* The same clock as it is now. For traces alone: what an actor does must not depend on it. */
uint64_t tr_actor_clock_ns(const tr_actor *self);

/* Control: small, on its own lane, ordered by sender; never waits for credits. bytes are copied. Sending to
 * an actor that is gone is no error: monitors tell. */
void tr_actor_send(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, const void *bytes,
                   uint32_t size_bytes);
/* A CONTROL message TR_TOPIC_TIMER with `step` = tag comes to this actor after the time. */
void tr_actor_timer(tr_actor *self, uint32_t milliseconds, uint32_t tag);

/* Edges of this actor by name and peer (peer 0: any). TR_NO_EDGE when there is none. */
uint32_t tr_edge_out(const tr_actor *self, const char *name, tr_actor_id destination);
uint32_t tr_edge_in(const tr_actor *self, const char *name, tr_actor_id source);
const tr_edge_spec *tr_edge_spec_of(const tr_actor *self, uint32_t edge);

/* Of an outgoing edge: messages that may be sent now. */
uint32_t tr_edge_credits(const tr_actor *self, uint32_t edge);
/* ... and the slot that a message takes which is sent behind `ahead` others; asserts that there are credits for all. */
uint16_t tr_edge_slot(const tr_actor *self, uint32_t edge, uint32_t ahead);
/* Sends the first size_bytes of body along an edge; takes one credit (asserts that there is one) and the
 * caller's reference to body (NULL for an empty message).
 * The bytes must not change until every holder has released them. */
void tr_edge_send(tr_actor *self, uint32_t edge, tr_buffer *body, uint32_t size_bytes, uint32_t step,
                  uint32_t microbatch, uint16_t flags);
/* The receiver is done with a DATA message: frees it, gives its slot back to the sender. Nulls *message; NULL-safe. */
void tr_edge_release(tr_actor *self, tr_message **message);

/* When `other` ends, `down` is called: monitor one way, link both ways (see tr_behavior.down). */
void tr_actor_monitor(tr_actor *self, tr_actor_id other);
void tr_actor_link(tr_actor *self, tr_actor_id other);

void tr_actor_exit(tr_actor *self); /* ends this actor normally after the handler */
/* Ends it abnormally after the handler: the supervisor decides. */
void tr_actor_fail(tr_actor *self, const tr_error *error);
/* Ends it as its supervisor asked; why may be NULL. */
void tr_actor_shutdown(tr_actor *self, const tr_error *why);

/* For supervisors (runtime/supervisor.h) of their children. What is sent to an actor between its end and its next start
 * waits for that; what it had in hand is gone. Who is forgotten will not be started for now: what waits is dropped. */
typedef struct tr_elder {
    tr_actor_id id;
    uint32_t incarnation; /* what comes from an earlier life of it is counted and dropped */
} tr_elder;
void tr_child_start(tr_actor *self, tr_actor_id child, const tr_elder *elders, uint32_t n_elders);
void tr_child_terminate(tr_actor *self, tr_actor_id child);
void tr_child_forget(tr_actor *self, tr_actor_id child);

void tr_actor_finish_job(tr_actor *self);                      /* the whole job is done, well */
void tr_actor_fail_job(tr_actor *self, const tr_error *error); /* the whole job ends with this message */
/* All begin anew in a new epoch, from the newest generation that all hold, as after a worker's death, though nobody has died: it
 * counts as none. The caller does nothing more in this life. Where deaths are not mended the job ends with this message. */
void tr_actor_run_again(tr_actor *self, const tr_error *why);
/* A process of this node (worker) was found to have computed wrong; it has been replaced, or will be. Whoever runs the job counts,
 * and starts no process any more where too many erred. */
void tr_actor_accuse(tr_actor *self, int32_t node, const char *text);
/* This process cannot go on, for example because its device is broken: its node ends with this message, and is replaced as
 * if the process had died. */
void tr_actor_fail_node(tr_actor *self, const tr_error *error);

/* In stop: leaves something to who has this identity in the node that follows this one in the same process, after a change of
 * epoch; destroyed where nobody follows, and where the actor ends by a failure. */
void tr_actor_leave(tr_actor *self, void *what, void (*destroy)(void *what));
/* In init: what was left, now the caller's; NULL: nothing. */
void *tr_actor_take_left(tr_actor *self);

/* What it is doing, for `ps` and for the message when its process dies: `what` is a string constant. */
void tr_actor_activity(tr_actor *self, const char *what, uint32_t step, uint32_t microbatch);

/* Chaos: what it computes now is to be wrong in this way (TR_CHAOS_FLIP, _NAN or _DEVICE of chaos.h), so that a test sees who
 * finds it. Told once; 0: not at all. */
int tr_actor_spoil(tr_actor *self);

/* State slots (see runtime/state.h): two, of spec.state_bytes each, kept by the agent through a worker's death. */
void *tr_actor_slot(tr_actor *self, int slot);
uint64_t tr_actor_slot_generation(const tr_actor *self, int slot); /* 0: holds nothing valid */
void tr_actor_slot_open(tr_actor *self, int slot); /* about to be written: not valid from now on */
/* Whole and valid; generation >= 1. */
void tr_actor_slot_publish(tr_actor *self, int slot, uint64_t generation,
                           tr_thread_pool *pool); /* which hashes it; NULL: the caller does */

#ifdef __cplusplus
}
#endif
#endif
