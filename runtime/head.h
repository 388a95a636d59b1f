/* runtime/head.h - node 0: takes the workers through greeting, loading and starting, hears how everything
 * ends, replaces who died (recovery.c) and ends the job once, for the first cause that it was told. It knows a crew, not
 * whether that is processes or threads.
 * Threads: the caller's of tr_job_run; the head's node has one thread, so no callback runs beside another.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_HEAD_H
#define TROUPE_RUNTIME_HEAD_H

#include "runtime/control_messages.h"
#include "runtime/crew.h"
#include "runtime/job.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TR_HEAD_TICK_MS = 50,
    TR_HEAD_GRACE_MS = 500,      /* what has not ended by itself after this is killed by the agent */
    TR_HEAD_GREETING_MS = 60000, /* for a program to start; loading may take as long as it needs */
    TR_HEAD_LAST_EPOCH = 0xffff  /* a node's incarnation is its epoch, for which actors' have 16 bits */
};

typedef enum tr_head_phase {
    TR_HEAD_GREETING,
    TR_HEAD_LOADING,
    TR_HEAD_RUNNING,
    TR_HEAD_ENDING
} tr_head_phase;

typedef struct tr_head_worker {
    int32_t pid;
    bool leaving;        /* was told to end: that it does is no death */
    bool greeted, ready; /* in this epoch */
    bool fenced;         /* and is to be killed */
    uint64_t struck_ns;  /* by chaos, in a way that ends it; 0: not, or it was replaced since */
    tr_control_hello hello;
    uint32_t n_damaged;  /* of what it sent, since damaged_ns; see quarantine.c */
    uint64_t damaged_ns; /* the first of them */
} tr_head_worker;

typedef struct tr_head {
    const tr_job_options *options;
    const tr_topology *topology;
    uint32_t epoch;
    int32_t agent;           /* its node: behind all that workers may have */
    uint32_t layout;         /* see tr_control_note */
    const tr_change *change; /* that the agent prepares; NULL: none */
    bool changing;           /* this epoch began with one, and nobody died since */
    tr_node *node;
    tr_crew *crew;          /* NULL: every actor is on the head */
    struct tr_hosts *hosts; /* NULL: this one alone */
    struct tr_activity_page *activity;
    tr_head_worker *workers; /* by node; [0] stands for the head itself */
    tr_place_seen *places;   /* by node */
    tr_head_phase phase;
    bool quit; /* before it ran */
    int signals;
    bool gives_way;      /* another head may lead: tr_job_options.may_lead */
    uint64_t generation; /* that this epoch began with */
    uint64_t strike_ns;  /* the next kill by chance; 0: not drawn */
    uint32_t n_strikes;
    uint64_t fault_ns; /* the same of faults */
    uint32_t n_faults;
    uint64_t *restarts_ns; /* the last recovery.max_restarts changes of epoch, a ring */
    uint64_t n_restarts;
    uint32_t n_mistakes; /* of this host's processes, where there are no others; see quarantine.c */
    uint64_t changed_ns; /* when this epoch began; 0: it is the first */
    uint64_t lost_ns, detected_ns,
        fenced_ns;         /* see tr_job_event; detected_ns 0: nobody died since all were ready */
    int32_t n_readopted;   /* workers of a head that died, until all are ready; 0: none */
    uint32_t former_epoch; /* theirs */
    tr_error given_up;     /* why this epoch is only for saving the state; status TR_OK: it is not */
    int32_t n_kept;        /* workers with which the newest agent began */
    tr_error held;         /* a failure that a death may explain yet; status TR_OK: none */
    uint64_t held_since_ns;
    int32_t suspect; /* a node whose link broke; 0: none. Its death may be told yet, with more to say */
    char suspect_reason[TR_ERROR_SIZE];
    uint64_t suspect_since_ns;
    uint64_t greeted_from_ns, greeting_until_ns;
    uint64_t explained_until_ns; /* ending: until then a death may still explain the cause */
    bool death_told, farewell_heard;
    bool agent_is_here;
    bool agent_awaited;   /* one that goes on with workers which live: nothing begins before it is here */
    bool agent_fenced;    /* it did not come, and is to be killed */
    uint32_t agent_epoch; /* in which it was started */
    uint64_t crew_ended_ns;
    uint64_t deadline_ns; /* ending: after this the agent is killed */
    tr_error cause;       /* status TR_OK: it ended well */
} tr_head;

/* The callbacks of its node; context is the tr_head. */
/* What its node shall tell it: context and all of options->on_..., whose functions follow. */
void tr_head_listen(tr_head *self, tr_node_options *options);
void tr_head_on_system(void *context, int32_t peer, const tr_message *message);
void tr_head_on_peer_lost(void *context, int32_t peer, bool control, const char *reason);
void tr_head_on_actor_end(void *context, tr_actor_id who, const tr_error *error);
void tr_head_on_job_end(void *context, const tr_error *error);
void tr_head_on_run_again(void *context, const tr_error *why); /* recovery.c */
void tr_head_on_tick(void *context, uint64_t now_ns);
void tr_head_on_crew(void *context); /* the crew's descriptor is readable */
void tr_head_on_signal(tr_head *self, int signal);
void tr_head_ask_to_stop(tr_head *self, const char *why); /* politely, at the first time */

/* recovery.c. A worker is gone: a new epoch, or the end where recovery is off or has been tried too often. */
void tr_head_recover(tr_head *self, const char *text);
/* The same, though nobody died, and it counts as no death. */
void tr_head_run_again(tr_head *self, const char *text);
/* The same as too many deaths: the state is saved, and then the job ends for this reason. */
void tr_head_give_up(tr_head *self, const char *text);
/* quarantine.c: callbacks of its node; and what worker or agent `to` tells of. */
void tr_head_on_damaged(void *context, int32_t from, const char *reason);
void tr_head_on_accused(void *context, int32_t node, const char *text);
void tr_head_damaged(tr_head *self, int32_t from, int32_t to, const char *reason);
/* A worker has ended because its device failed. True: that was one too many, and the job ends, or goes on without that host; else
 * the caller replaces it. */
bool tr_head_gives_up_device(tr_head *self, int32_t node, const char *text);
/* For the reason in the text a worker is to be replaced: it is killed first. */
void tr_head_fence(tr_head *self, int32_t node, const char *text);
bool tr_head_can_recover(const tr_head *self);
tr_status tr_head_begin_again(tr_head *self, tr_error *err); /* all have greeted: from where? */
/* In self->epoch, which is recorded: everybody begins anew, for the reason in the text. */
void tr_head_begin_epoch(tr_head *self, const char *text);
void tr_head_check_rejoin(tr_head *self, uint64_t now_ns);

void tr_head_strike(tr_head *self, uint64_t now_ns); /* head_chaos.c, with each tick */

/* head_checks.c, with each tick: who did not greet, whose link broke, what waited for an explanation. */
void tr_head_check_greeting(tr_head *self, uint64_t now_ns);
void tr_head_check_suspect(tr_head *self, uint64_t now_ns);
void tr_head_check_held(tr_head *self, uint64_t now_ns);
void tr_head_check_lead(tr_head *self);

int32_t tr_head_agent_of(const tr_head *self, int32_t node); /* -1: it has none that is here */
/* To the agent of a worker, if it has one that is here. */
void tr_head_tell_agent_of(tr_head *self, int32_t node, tr_control_topic topic, const tr_control_note *note);
/* hosts.c has found that a host is gone, with the workers that it had; heard_ns: its last sign of life. */
void tr_head_lost_host(tr_head *self, uint64_t heard_ns, const char *text);
/* head_change.c */
void tr_head_prepared(tr_head *self, int32_t peer,
                      const tr_control_note *note); /* by an agent, or it could not */
void tr_head_refuse_change(tr_head *self, const tr_error *why);
void tr_head_leaving(tr_head *self, int32_t node); /* a worker is asked to end */
void tr_head_forget_change(tr_head *self);         /* somebody died on the way */

/* readopt.c. The crew was taken over from a head that died: this epoch begins where that one's state is. */
void tr_head_readopt(tr_head *self, const struct tr_orphans *orphans);
void tr_head_tell_readopted(tr_head *self); /* all are ready */

/* head_agent.c: the crew has ended before the job was done. */
void tr_head_on_early_end(tr_head *self, const tr_process_end *end);
tr_status tr_head_watch_crew(tr_head *self, tr_error *err); /* and what its agent hands over */
void tr_head_unwatch_crew(tr_head *self);
void tr_head_agent_is_here(tr_head *self); /* it has greeted */
void tr_head_describe_end(char *text, size_t capacity, const tr_process_end *end);

/* head.c */
void tr_head_note_death(tr_head *self, uint64_t silent_ns);
void tr_head_worker_started(tr_head *self, const tr_control_note *note);
void tr_head_tell(tr_head *self, tr_job_event_kind kind, int32_t node, int32_t pid, const char *text);
void tr_head_end_because(tr_head *self, tr_status status, const char *text);

/* Begins with the greeting; runs the node until all has ended. */
void tr_head_run(tr_head *self);
void tr_head_begin(tr_head *self); /* only that, for who runs the node otherwise */
/* Ends the job; cause NULL: well. Only the first call counts. */
void tr_head_end(tr_head *self, const tr_error *cause, uint32_t grace_ms);

#ifdef __cplusplus
}
#endif
#endif
