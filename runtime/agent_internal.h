/* runtime/agent_internal.h - what an agent keeps, shared by agent.c (beside a head) and agent_lease.c (without one).
 * Internal to runtime/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_AGENT_INTERNAL_H
#define TROUPE_RUNTIME_AGENT_INTERNAL_H

#include "runtime/activity.h"
#include "runtime/change.h"
#include "runtime/fault.h"
#include "runtime/launch.h"
#include "runtime/node.h"

struct tr__agent;
typedef struct tr__agent_hosts tr__agent_hosts;

typedef struct tr__ward { /* one worker in the agent's care */
    struct tr__agent *agent;
    int32_t node, pid;
    int pidfd; /* -1: not started, or reaped */
    int word;  /* see tr_lease_tell; -1: there is none */
    int life;  /* see runtime/holdings.h; the same */
    int activity_descriptor;
    tr_activity_page *activity;
    uint64_t pulse, moved_ns; /* as last seen to change, and when */
    tr_activity_watch handlers;
    bool is_hung;            /* told */
    bool leaving;            /* was told to end, by a change of the layout; another one may follow */
    uint64_t leave_until_ns; /* then it is killed */
    bool suffers;            /* a fault that was done on purpose and takes a while: agent_faults.c */
    tr_fault fault;
    uint64_t fault_until_ns;
    uint32_t fault_ticks;
} tr__ward;

enum { TR__AGENT_TICK_MS = 50 };

typedef struct tr__agent {
    const tr_launch *launch;
    int32_t pid;
    tr_launch taken; /* of a later head; launch points to it then */
    tr_topology topology;
    tr_node *node;   /* NULL while there is no head */
    tr__ward *wards; /* by node, as many as a layout may have: the agent's own number; [0] is unused */
    tr_state_region **states;      /* by actor */
    uint32_t layout;               /* see tr_control_note */
    struct tr__prepared *prepared; /* a change that may come; NULL: none */
    tr__agent_hosts *hosts;        /* NULL: all workers are its */
    struct tr_agent_states
        *former; /* of a head before, until this one has said what becomes of it; NULL: nothing */
    int32_t n_alive;
    int32_t n_suffering; /* wards that do */
    uint32_t epoch;
    bool stopping, head_lost;
    bool head_gives_way; /* it stops, and another one may go on with the job */
    bool orphaned;       /* the head is dead, and the lease begins */
    uint64_t kill_at_ns;
    uint64_t silent_ns;   /* since when its link to the head is broken; 0: it is not */
    uint64_t seen_ns;     /* when it last told what its workers do */
    int leave_descriptor; /* see tr_agent_run */
    bool leaving;         /* somebody wants it to */
    int holdings;         /* tells the head what it has; -1: it does not */
    /* With a lease: */
    int directory, kept; /* inherited; see tr_job_lease */
    int listener, head;  /* head: its pidfd */
    uint64_t lost_ns;    /* when its death was seen */
} tr__agent;

/* agent.c. What tr_agent_run consists of: init, then begin, a node that runs or none, and as long as the agent is orphaned the
 * node's end, another head (agent_lease.c), go_on and its node; then release. Descriptors that it inherits are set between init
 * and begin. A failure with a node is for the head, which ends the job. */
tr_status tr__agent_init(tr__agent *self, const tr_launch *launch, tr_error *err);
tr_status tr__agent_begin(tr__agent *self, tr_error *err);
/* Beside another head, with the workers that live: they greet it by themselves, and are watched anew. */
tr_status tr__agent_go_on(tr__agent *self, tr_error *err);
void tr__agent_on_tick(void *context, uint64_t now_ns); /* of its nodes, every TR__AGENT_TICK_MS */
void tr__agent_release(tr__agent *self);

/* Has it ended? Then it is reaped, and what it left is removed. */
bool tr__ward_reap(tr__ward *worker, tr_process_end *end);

/* agent_former.c. Behind its node's end, without a head: what it has for the next one; NULL: nothing. */
struct tr_agent_states *tr__agent_keep_states(tr__agent *self);
void tr__agent_tell_former(tr__agent *self); /* behind its greeting */
void tr__agent_settle_former(tr__agent *self, bool wanted);

/* agent_faults.c: TR_CONTROL_FAULT. */
void tr__agent_fault(tr__agent *self, const tr_message *message, uint64_t now_ns);
void tr__agent_faults_on_tick(tr__agent *self, uint64_t now_ns); /* while n_suffering */
/* A worker that was stopped so that it goes on when it is to be killed: true: it does, until the tick after the next. */
bool tr__ward_lives_on(tr__ward *worker);
void tr__agent_faults_after(tr__agent *self, tr__ward *worker); /* it has ended */

/* agent_change.c. */
void tr__agent_prepare(tr__agent *self, const tr_message *message); /* and answers */
/* The epoch that begins is of this layout: the change is made, or dropped. */
void tr__agent_settle(tr__agent *self, uint32_t layout);
void tr__agent_drop_prepared(tr__agent *self);
void tr__agent_go_on_dealing(tr__agent *self); /* with each tick */

/* For workers that live, with another agent before: which memory they have in this layout. */
void tr__agent_tell_memory(const tr__agent *self, const tr__ward *worker);

/* agent_holdings.c. What the agent before had, as the head hands it over: nothing for a first one. Workers that live are not
 * watched yet. Errors: TR_ECLOSED: the head is gone; TR_ETIMEDOUT, TR_ENOMEM. */
tr_status tr__agent_inherit(tr__agent *self, tr_error *err);
/* What the head keeps for the next one: of a worker that has started; all, for another head. */
void tr__agent_hand_worker(const tr__agent *self, const tr__ward *worker);
void tr__agent_hand_all(const tr__agent *self);
/* Of a layout that may come: regions by actor. */
void tr__agent_hand_states(const tr__agent *self, int32_t node, uint32_t layout, const tr_topology *topology,
                           tr_state_region *const *regions);
void tr__agent_hand_settled(const tr__agent *self);

/* agent_lease.c. Takes the inherited descriptors, listens, and finds the head. Errors: TR_ECLOSED: the head is gone
 * already; TR_EIO. */
tr_status tr__agent_open_lease(tr__agent *self, tr_error *err);
void tr__agent_close_lease(tr__agent *self); /* NULL-safe in all it holds */
/* After the head's death, without a node: waits for another one. true: self->launch is its, and workers that live know.
 * false: nobody came, or it was sent home; then no worker is left. */
bool tr__agent_await_head(tr__agent *self);

/* The same step by step, for who does not sleep in it. */
typedef enum tr__waits_for { TR__WAITS, TR__TAKEN, TR__OVER } tr__waits_for;

typedef struct tr__waiting {
    tr__agent *agent;
    int connection, signals; /* -1: none */
    int32_t pid;             /* of who is connected */
    uint64_t until_ns, told_ns;
} tr__waiting;

void tr__agent_wait(tr__waiting *self, tr__agent *agent);
tr__waits_for tr__agent_wait_on(tr__waiting *self, int timeout_ms); /* as long as that says that it waits */
void tr__agent_taken(tr__waiting *self);                            /* then go on; or, where it is over: */
void tr__agent_send_home(tr__waiting *self);                        /* and until all have gone: */
bool tr__agent_have_gone(tr__waiting *self, int timeout_ms);
void tr__agent_close_wait(tr__waiting *self); /* at the end */
enum { TR__AGENT_LOOK_MS = 250 };             /* while it waits, at least so often */

#endif
