/* runtime/job.h - a whole job: the head, one agent, its workers, until the work is done or something failed.
 * With processes: the head starts the agent, the agent starts and watches one worker process for each node 1 .. n-1, each
 * loads the same topology. The program is executed again for them, so its main must begin with
 *     if (tr_job_is_child(argc, argv)) return tr_job_child_main(argc, argv, &registry);
 * Without processes the nodes are threads of this one, joined by "inproc".
 * When a worker dies it is replaced (tr_job_recovery), or the job ends, as it does when an actor fails: within two seconds,
 * everything is stopped, nothing is left behind.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_JOB_H
#define TROUPE_RUNTIME_JOB_H

#include "runtime/actor.h"
#include "runtime/change.h"
#include "runtime/look.h"
#include "transport/curve.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_job_event_kind {
    TR_JOB_WORKER_STARTED,
    TR_JOB_RUNNING,       /* every node is ready, actors start */
    TR_JOB_WORKER_FENCED, /* is killed because it does not answer or does not move */
    TR_JOB_WORKER_DIED,
    TR_JOB_ACTOR_FAILED,
    TR_JOB_STOPPING,  /* a person asked for it */
    TR_JOB_RUN_AGAIN, /* an actor wants all to begin anew (tr_actor_run_again), for the reason in the text */
    TR_JOB_EPOCH,     /* a new one begins, for the reason in the text */
    TR_JOB_STATE_ROTTEN,   /* a state slot no longer held what had been published, and is not used */
    TR_JOB_RECOVERED,      /* every node is ready again */
    TR_JOB_READOPTED,      /* the same, and some had lost their head before */
    TR_JOB_CHANGED,        /* the same, in another layout (tr_job_changes), where nobody died */
    TR_JOB_AGENT_REPLACED, /* the agent died, and another one goes on with its workers */
    TR_JOB_HOST_AWAITED,   /* one is missing, for the reason in the text */
    TR_JOB_HOST_JOINED,
    TR_JOB_HOST_REFUSED,
    TR_JOB_HOST_LOST,    /* with all its workers */
    TR_JOB_HOST_LEAVING, /* somebody wants it to: its workers are handed over first */
    TR_JOB_HOST_LEFT,
    TR_JOB_HOST_CUT_OFF, /* a spare, from another host: it gets no work before it is not. Others are lost, then */
    TR_JOB_FRAME_DAMAGED, /* what a worker sent came damaged: all is sent again, or it is replaced */
    TR_JOB_QUARANTINED,   /* a host, for the mistakes of its processes, or a device, for its failures */
    TR_JOB_FAULT          /* done on purpose (tr_job_chaos), as the text says */
} tr_job_event_kind;

/* From where an epoch goes on. */
typedef struct tr_job_beginning {
    uint32_t epoch;
    uint64_t held[2]; /* the generations that all state slots hold whole, the newest first; 0: none */
    uint64_t
        generation; /* that it goes on from: the newest, or the other; 0: from the topology's beginning */
    /* More deaths than are mended: this epoch is for saving that generation, and an error is as good, where nothing of it would
     * be lost. */
    bool gives_up;
    /* Another one, with the same nodes, may be put here: to begin from elsewhere. It must outlive the job. */
    const tr_topology *topology;
} tr_job_beginning;

/* Of a device that failed: it is used again; no more; and nothing is left to go on with, as with too many deaths. */
typedef enum tr_job_verdict {
    TR_JOB_DEVICE_STAYS,
    TR_JOB_DEVICE_LEFT_OUT,
    TR_JOB_NO_DEVICE_LEFT
} tr_job_verdict;

/* What happens when a worker ends that should not have: it is replaced, everybody goes back to the newest generation that
 * every state slot holds whole, in a new epoch. Only with processes. */
typedef struct tr_job_recovery {
    uint32_t max_restarts; /* 0: a death ends the job */
    uint32_t
        within_ms; /* more restarts than that in so long a time end it too; the last is for saving the state */
    /* So many mistakes of a host's processes (computations found wrong, damaged messages again and again) and none is started
     * there any more: a spare host takes its place, or the job ends as with too many restarts. 0: never. */
    uint32_t quarantine_after;
    uint32_t hung_after_ms; /* a worker without a sign of work for so long is killed; 0: never */
    uint32_t first_epoch;   /* one more than any that was ever begun; 1 to 65535 */
    /* Before an epoch begins: must be durable on return, so that no epoch is ever used twice. May be NULL. */
    tr_status (*record_epoch)(void *context, uint32_t epoch, tr_error *err);
    /* Before actors begin again: may change *beginning, or refuse; then the job ends. May be NULL. */
    tr_status (*begin_again)(void *context, tr_job_beginning *beginning, tr_error *err);
    /* On one host: a worker ended because its device failed, as the text says. Which one that is only the job's owner knows, who
     * counts, and may leave it out when it begins again. *line, of `capacity`, is told where that is so, or why the job ends. NULL:
     * such a death is one like others. */
    tr_job_verdict (*device_failed)(void *context, int32_t node, const char *text, char *line,
                                    size_t capacity);
} tr_job_recovery;

typedef struct tr_job_event {
    tr_job_event_kind kind;
    uint64_t monotonic_ns;
    int32_t node; /* -1: none */
    int32_t pid;  /* 0: none */
    uint32_t epoch;
    const char *text;            /* one line */
    const tr_place_seen *places; /* by node: where its actors can be seen now */
    uint64_t generation;         /* TR_JOB_RECOVERED, _READOPTED, _CHANGED: that it goes on from */
    int32_t n_readopted;         /* TR_JOB_READOPTED, _AGENT_REPLACED: how many workers were taken over, */
    uint32_t former_epoch;       /* and from which epoch */
    /* TR_JOB_RECOVERED and TR_JOB_READOPTED, monotonic: the last sign of life of the first that died (0: not known), when its death was heard of,
     * when nobody was left who worked in the old epoch. */
    uint64_t lost_ns, detected_ns, fenced_ns;
} tr_job_event;

struct tr_orphans;
struct tr_head;

/* How the layout changes while the job runs: tr_job_change. All are called on the head's thread. Only with processes, and
 * where a death is mended (a change is a new epoch). */
typedef struct tr_job_changes {
    int32_t max_nodes; /* of any layout, the head's with them; 0: there are no changes */
    int descriptor;    /* on_ready is called whenever it is readable; -1: never */
    void (*on_ready)(void *context, struct tr_head *job);
    void (*on_leaving)(void *context, struct tr_head *job,
                       int32_t node); /* somebody wants its process to end */
    /* Several hosts: one wants to leave, or has come where one is missing. A change is wanted, with the topology that is or another;
     * the new homes follow from tr_change.host_of and who is there. Asked again until it is made. May be NULL. */
    void (*on_hosts)(void *context, struct tr_head *job);
    /* All is dealt out: the epoch is to be recorded, durably, with the layout that it has; the new topology holds from
     * here on. An error: nothing has changed. */
    tr_status (*begin)(void *context, uint32_t epoch, tr_error *err);
    void (*on_refused)(void *context, struct tr_head *job, const tr_error *why); /* nothing has changed */
} tr_job_changes;

/* Within those callbacks. Change the layout, once nobody works on anything that rests on a later generation: answers with
 * begin, or with on_refused. What is in *change stays until then. Errors (nothing begins): TR_EEXIST: a change is under way,
 * or an epoch has not quite begun; TR_EINVAL; TR_ENOMEM. */
tr_status tr_job_change(struct tr_head *job, const tr_change *change, tr_error *err);
void tr_job_post(struct tr_head *job, tr_actor_id to, uint32_t topic); /* without a body */
bool tr_job_is_stopping(const struct tr_head *job);

/* How agent and workers outlive the head: they wait for another one, and keep the state. Only with processes. */
typedef struct tr_job_lease {
    uint32_t ms; /* 0: they end with the head */
    int directory; /* a descriptor: where the agent listens for who comes next (runtime/lease.h). Not one that holds a lock */
    int kept; /* a descriptor: memory of the caller's that the agent keeps for who comes next */
    struct tr_orphans
        *orphans; /* those of a head that died, to go on with; NULL: none. They outlive the call */
} tr_job_lease;

/* Faults on purpose (runtime/chaos.h, runtime/fault.h); only with processes. */
typedef struct tr_job_chaos {
    const char *points; /* NULL: none */
    uint64_t seed;
    double kills_per_minute, faults_per_minute;
    uint32_t faults; /* of these kinds: TR_FAULT_BIT */
    /* The head's disk is to fail the checkpoint at work, or the next: for want of room, or else when it is synced. On the head's
     * thread. NULL: it does not. */
    void (*break_disk)(void *context, bool full);
} tr_job_chaos;

/* Heads on several hosts that follow one another in a job. An agent that loses its head keeps the states that it has, and
 * tells the next one of them when it joins again (FORMER, host_messages.h). */
typedef struct tr_job_former {
    uint64_t
        term; /* of this head, and of no other that the job ever has; 0: agents keep nothing for who comes next */
    /* States of heads before are gone on from: the newest generation within these bounds that every state has whole somewhere.
     * begin_again is asked at the job's beginning, too; generation 0 says that there is none. */
    bool wanted;
    uint64_t least, most;
    bool (*led)(void *context, uint64_t term,
                uint32_t epoch); /* did such a head of this job begin that epoch? */
} tr_job_former;

/* Several hosts: this one, and others that come by themselves (`troupe worker --join`). Only with processes over zmq, with a
 * key, and without a lease. */
typedef struct tr_job_hosts {
    int32_t count;          /* 0 and 1: this one alone, and the rest means nothing */
    const int32_t *host_of; /* by node: 0, the head's own, to count - 1 */
    const uint32_t
        *equals; /* by actor, in the topology's order: those with one number other than 0 always hold the same
                               state, so each is a copy of the other. NULL: all are different */
    const char *listen;        /* where they knock: "tcp://10.0.0.5:7600" */
    const char *version, *run; /* of the program; what the job is called: a joiner may say which it wants */
    uint32_t wait_ms;          /* for hosts to come at the beginning */
    bool fewer;                /* then it begins with those that have come; else it ends */
    uint32_t silence_ms;       /* without a word for so long a host is lost, and ends its workers by itself */
    uint32_t
        replace_ms; /* how long a lost host's workers wait for another one before the rest takes them over */
    bool copy;      /* states that no other host holds already are copied to one, generation by generation */
    uint32_t copy_mib_per_s; /* at most; 0: no bound */
    tr_actor_id
        told; /* gets TR_TOPIC_COPIED, and must let nobody overwrite what is not copied yet; 0: nobody */
    tr_job_former former;
} tr_job_hosts;

typedef struct tr_job_options {
    const tr_topology *topology;
    const tr_registry *registry; /* of the head's own actors, and of all without processes */
    bool processes;
    const char *transport; /* of the edges: "ucx" or "zmq"; without processes "inproc" */
    /* Where processes listen, with transport "zmq" alone: a bind of transport/address.h, or NULL: on this machine, unseen
     * by others. Beyond it a key is required. Both are copied. */
    const char *bind;
    const tr_curve_key *key; /* NULL: none */
    /* Gets TR_TOPIC_STOP_REQUESTED at SIGINT or SIGTERM; 0: the job just ends. A second signal ends it at once. */
    tr_actor_id stop_actor;
    tr_job_recovery recovery;
    tr_job_lease lease;
    tr_job_changes changes;
    tr_job_chaos chaos;
    tr_job_hosts hosts;
    /* Asked with each tick: false when another head may soon go on with this job. Then it stops as at a signal, for the reason
     * in *why, and agents of other hosts are told to look for that head. NULL: there is no other. */
    bool (*may_lead)(void *context, char *why, size_t capacity);
    void *context;
    void (*on_event)(void *context, const tr_job_event *event); /* on the head's thread; may be NULL */
} tr_job_options;

/* Runs to the end. TR_OK: an actor called tr_actor_finish_job. Otherwise *err says which actor failed and what it was doing. */
tr_status tr_job_run(const tr_job_options *options, tr_error *err);

bool tr_job_is_child(int argc, char **argv);
int tr_job_child_main(int argc, char **argv, const tr_registry *registry); /* the process's exit code */

#ifdef __cplusplus
}
#endif
#endif
