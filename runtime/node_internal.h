/* runtime/node_internal.h - what node.c, route.c, activation.c and actor.c share; nobody else includes it, but
 * for the audits of simulation.c, which look and never write.
 * node.c: life, sleeping, callbacks. route.c: from a sender to a lane or a link, and from a link to a lane.
 * activation.c: one activation of an actor, links and monitors, its end. actor.c: what a handler may call.
 * Locks: each link has one, held while its transport is called; its callbacks push into lanes and never
 * send, so no thread ever holds two.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_NODE_INTERNAL_H
#define TROUPE_RUNTIME_NODE_INTERNAL_H

#include "runtime/activity.h"
#include "runtime/edge.h"
#include "runtime/mailbox.h"
#include "runtime/node.h"
#include "runtime/poller.h"
#include "runtime/scheduler.h"
#include "runtime/timers.h"

/* Topics of CONTROL messages that the system itself sends; actors never see these. */
enum {
    TR__TOPIC_FIRST = 0xffff0000u,   /* what actors may not use themselves */
    TR__TOPIC_MONITOR = 0xffff0100u, /* source wants to hear of destination's end */
    TR__TOPIC_LINK,                  /* and the other way round */
    TR__TOPIC_DOWN,                  /* source has ended; step: a tr_end; the body is the reason */
    TR__TOPIC_START,                 /* from its supervisor: begin (again); the body: tr_elders */
    TR__TOPIC_TERMINATE,
    TR__TOPIC_FORGET,    /* from its supervisor too */
                         /* The rest never leaves a node. */
    TR__TOPIC_NODE_LOST, /* source is the node's number */
    TR__TOPIC_ACTOR_END, /* to the inbox; source is the actor, step the status, the body the message */
    TR__TOPIC_JOB_END,   /* the same */
    TR__TOPIC_RUN_AGAIN, /* the same */
    TR__TOPIC_ACCUSED,   /* the same; microbatch is the node that erred */
    TR__TOPIC_DAMAGED    /* as NODE_LOST: what came of it was damaged */
};

typedef struct tr__link {
    tr_node *node;
    tr_transport *transport; /* NULL: there is none */
    pthread_mutex_t lock;    /* of the transport and of armed */
    bool armed;              /* a thread sleeps, or is about to, on its descriptors */
} tr__link;

/* Everything a topology makes on this node; published once, whole. */
typedef struct tr__world {
    const tr_topology *topology;
    tr_actor **actors;     /* by id - 1; NULL: on another node */
    tr_sender_end **outs;  /* by edge; NULL: the source is elsewhere */
    tr_receiver_end **ins; /* by edge; NULL: the destination is elsewhere */
} tr__world;

/* Messages that a scheduler thread keeps for its next sends. */
typedef struct tr__message_cache {
    tr_message *first;
    uint32_t count;
    char pad_[52];
} tr__message_cache;

typedef struct tr__counters { /* relaxed atomics: only for people */
    uint64_t n_dropped_unknown, n_dropped_stale;
} tr__counters;

typedef struct tr__lost {
    int32_t peer;
    bool control; /* not only its link for data */
} tr__lost;

enum { TR__FAIL_NOT, TR__FAIL_BEGUN, TR__FAIL_TOLD };

struct tr_node {
    tr_node_options options;
    tr_scheduler *scheduler;
    tr_poller poller;
    tr_timers timers;
    tr__link data, control;
    uint64_t generation; /* that the actors begin with */
    tr__world *world;    /* atomic: stored with release by load, read with acquire by everybody else */
    tr__message_cache *caches;
    tr__counters counters;
    uint64_t next_tick_ns; /* atomic; UINT64_MAX: none */
    uint64_t tick_ns;
    uint64_t
        looked; /* ticks; atomic, relaxed: when control, timers and watched descriptors had their last look */
    uint64_t polled_ns; /* atomic, relaxed: when the watched descriptors were last looked at */
    void (*on_tick)(void *context, uint64_t now_ns);
    tr_task service;  /* runs the callbacks, one at a time */
    tr_mailbox inbox; /* its messages: SYSTEM frames and lost peers */
    bool tick_due;    /* atomic */
    uint32_t failing; /* atomic: a TR__FAIL; see tr_node_fail */
    tr_error failure;
    pthread_mutex_t peers_lock; /* of lost */
    tr__lost *lost;
    size_t n_lost, lost_capacity;
};

typedef struct tr__bond {
    tr_actor_id other;
    bool linked;
} tr__bond;

typedef struct tr__bonds {
    tr__bond *items;
    size_t count, capacity;
} tr__bonds;

enum { TR__JOB_GOES_ON, TR__JOB_AGAIN, TR__JOB_FINISHED, TR__JOB_FAILED };

/* All but the mailbox, the task and `overflowed` belongs to the thread that runs it. */
struct tr_actor {
    tr_task task; /* first */
    tr_node *node;
    tr__world *world;
    const tr_actor_spec *spec;
    const tr_behavior *behavior;
    void *state;
    int worker;       /* scheduler thread of this activation; -1 outside of one */
    bool initialized; /* stop is owed */
    bool started, ended, exiting, failed, shut_down;
    bool start_deferred;
    int spoil;            /* by chaos, until it was asked for; 0: not */
    bool forgotten;       /* ended, and its supervisor will not start it again for now */
    uint32_t incarnation; /* the node's in the upper half, its restarts in the lower */
    tr_elder *elders;     /* whose earlier lives it does not listen to */
    uint32_t n_elders;
    bool overflowed; /* atomic, relaxed: its control quota was used up */
    int job_end;
    uint64_t now_ns; /* 0: not asked for in this handler */
    uint64_t n_handled;
    tr_receiver_end *owing; /* edges with credits to give back to other nodes */
    tr__bonds watching, watchers;
    tr_state_region *region;
    bool owns_region;
    tr_activity_record *record, own_record;
    tr_mailbox mailbox;
    tr_error error, job_error;
};

/* node.c */
uint64_t tr__node_now(const tr_node *self); /* the node's clock */
/* There was none for `what`, which somebody waits for: the node ends, see tr_node_fail. */
void tr__out_of_memory(tr_node *self, const char *what);

/* route.c. A message is NULL when there is no memory; then the node ends, and its caller goes on without it. */
tr_message *tr__message_new(tr_node *self, int worker);
void tr__message_recycle(tr_node *self, int worker, tr_message **message);
tr_message *tr__text_message(tr_node *self, uint8_t kind, uint32_t topic, const char *text);
tr_actor *tr__actor_here(const tr__world *world, tr_actor_id id); /* NULL: elsewhere or nobody */
void tr__control_push(tr_actor *to, tr_message **message);
void tr__control_route(tr_node *self, const tr__world *world, tr_message **message); /* takes it */
void tr__notice_all(tr_node *self, uint32_t topic, uint64_t source, const char *reason);
tr_status tr__link_send(tr__link *self, int32_t peer, tr_message **message);
int tr__link_progress(tr__link *self); /* does nothing where another thread is at it */
bool tr__peer_is_lost(tr_node *self, int32_t peer);
void tr__peers_forget(tr_node *self, int32_t peer); /* that it was lost; -1: all */
tr_status tr__link_renew(tr__link *self, uint32_t oldest,
                         tr_error *err); /* quietly: nobody is told of a loss */
tr_buffer *tr__on_place(void *context, int32_t peer, const tr_frame *frame);
void tr__on_deliver(void *context, int32_t peer, tr_message *message);
void tr__on_peer_lost(void *context, int32_t peer, const char *reason);
void tr__on_damaged(void *context, int32_t peer, const char *reason);

/* activation.c */
bool tr__actor_run(tr_task *task, int worker);
bool tr__actor_turn(tr_task *task, int worker); /* with one unit of work that waited for a turn */
void tr__credits_send(tr_actor *self,
                      tr_receiver_end *in); /* tells of what was given back; there must be something */

/* actor.c */
void tr__slot_give_back(tr_actor *self, uint32_t edge, uint16_t slot); /* one that it held */

/* lifecycle.c */
static inline bool tr__is_ending(const tr_actor *self)
{
    return self->exiting || self->failed || self->shut_down;
}
static inline bool tr__awaits_restart(const tr_actor *self)
{
    return self->ended && !self->forgotten && self->spec->supervisor;
}
tr_end tr__end_of(const tr_actor *self);
void tr__down_send(tr_actor *self, tr_actor_id to); /* this actor has ended */
void tr__report(tr_actor *self, uint32_t topic, const tr_error *error);
void tr__actor_end(tr_actor *self);
void tr__actor_begin(tr_actor *self, const tr_message *message); /* START */
void tr__actor_terminate(tr_actor *self);
void tr__children_lost(tr_actor *self, int32_t node, const char *reason);
bool tr__is_of_earlier_life(const tr_actor *self, const tr_frame *frame);

/* activation.c */
void tr__end_job_if_asked(tr_actor *self);
void tr__bond_add(tr_node *node, tr__bonds *self, tr_actor_id other, bool linked);

/* load.c */
tr_status tr__world_new(tr__world **out, tr_node *node, const tr_topology *topology,
                        tr_state_region *const *states, tr_error *err);
tr_status tr__actor_init(tr_actor *self, tr_error *err);
void tr__world_stop(tr__world *self); /* calls stop of the actors that live */
void tr__world_destroy(tr__world **self);

#endif
