/* runtime/control_messages.h - what head, agent and workers say to one another.
 * It goes in SYSTEM frames, the topic in frame.edge.
 *
 *   worker                head                 agent
 *     | <---------------------------------- starts it
 *     |                     | <- WORKER_STARTED |
 *     |---- HELLO --------> |                   |      its addresses
 *     | <------- LOAD ------|                   |      all addresses and the topology; init of its actors
 *     |---- READY --------> |                   |      or why it could not
 *     | <------- START -----|                   |      when every node is ready
 *     |---- ACTOR_ENDED --> | --> to the others |
 *     |---- JOB_ENDED ----> |                   |      an actor said so; or a peer is gone: PEER_LOST
 *     | <------- STOP ------|------ STOP -----> |      with the grace after which the agent kills
 *     x exits               | <-- WORKER_ENDED -|      how, and what it was doing
 *                           | <----- FAREWELL --x      all it knew is said: its exit alone could overtake that
 *
 * A change of epoch, when a worker has ended that should not have (DESIGN.md, Recovery):
 *     |                     | <----- HUNG ------|      it gives no sign of work: it is fenced
 *     |                     |------ FENCE ----> |      one that does not answer any more is killed, which is told as above
 *     | <------ EPOCH ------|------ EPOCH ----> |      the living begin anew, the dead are replaced: from HELLO on
 *
 * A change of the layout (change.h), when everybody holds one state and nobody works on the next:
 *     |---- LEAVING ------> |                   |      or a person wants it
 *     |                     |------ PREPARE --> |      it deals the state out
 *     |                     | <--- PREPARED ----|      now the epoch is recorded
 *     | <-- EPOCH or STOP --|------ EPOCH ----> |      it starts who is new; what a worker holds now comes from its agent
 *
 * Bodies are MessagePack; decoders refuse what is damaged (TR_ECORRUPT).
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_CONTROL_MESSAGES_H
#define TROUPE_RUNTIME_CONTROL_MESSAGES_H

#include "runtime/node.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_control_topic {
    TR_CONTROL_HELLO = 0x100, /* tr_control_hello */
    TR_CONTROL_LOAD,          /* tr_control_load */
    TR_CONTROL_READY,         /* the rest: tr_control_note; START has no body */
    TR_CONTROL_START,
    TR_CONTROL_STOP,
    TR_CONTROL_ACTOR_ENDED,
    TR_CONTROL_JOB_ENDED,
    TR_CONTROL_PEER_LOST,
    TR_CONTROL_WORKER_STARTED,
    TR_CONTROL_WORKER_ENDED,
    TR_CONTROL_FAREWELL,
    TR_CONTROL_EPOCH,   /* to workers and agent: note.epoch begins */
    TR_CONTROL_FENCE,   /* to the agent: kill worker note.node */
    TR_CONTROL_HUNG,    /* from the agent: worker note.node gives no sign of work; the text says of what */
    TR_CONTROL_LEAVING, /* from a worker, or another host's agent: somebody wants it to end (SIGTERM) */
    TR_CONTROL_PREPARE, /* to the agent: runtime/change.h */
    TR_CONTROL_PREPARED, /* from it: the state of note.layout is dealt, or note.status and text why not; nothing has changed */
    /* Several hosts (host_messages.h): */
    TR_CONTROL_HOMES, /* from the head to all agents, in place of EPOCH: who starts which workers, with what state */
    TR_CONTROL_BEAT,       /* between head and agents: only that it lives */
    TR_CONTROL_SLOT,       /* from agent to agent: a part of a state slot */
    TR_CONTROL_SLOT_TAKEN, /* the answer */
    TR_CONTROL_HELD,       /* from an agent to the head: it has a whole copy */
    TR_CONTROL_SEEN,       /* the same: what a worker does (host_activity.h) */
    TR_CONTROL_DAMAGED,    /* from a worker or agent: what node sent it came damaged, and was dropped */
    TR_CONTROL_FORGET,     /* from the head to agents: what PREPARE prepared is not wanted any more */
    TR_CONTROL_FORMER,     /* from an agent, behind its greeting: what it has of a head before (tr_former) */
    TR_CONTROL_COMES_ON,   /* from an agent: what its workers begin with is on its way, and has come on */
    TR_CONTROL_CUT_OFF,    /* from an agent: it does not hear agent note.node, for note.silent_ns */
    TR_CONTROL_FAULT       /* chaos, from the head to who is to do it: fault.h */
} tr_control_topic;

/* One shape for all that is small. What does not apply is 0. */
typedef struct tr_control_note {
    int32_t node, pid;
    int32_t exit_code, signal; /* how a process ended */
    uint32_t grace_ms;         /* STOP */
    uint32_t epoch;            /* EPOCH */
    uint32_t layout;           /* EPOCH, PREPARED: the epoch that the layout is of; 0: the job's first */
    uint64_t silent_ns; /* WORKER_ENDED: how long ago its last sign of life was; UINT64_MAX: gave none */
    tr_actor_id actor;
    tr_status status; /* TR_OK: ready, or ended well. STOP: TR_ECLOSED: another head may go on with the job */
    char text[TR_ERROR_SIZE];
} tr_control_note;

typedef struct tr_control_hello {
    int32_t pid;
    uint32_t epoch; /* that it greets in */
    int32_t member; /* whose worker it is (host_messages.h); 0 on one host */
    bool has_state;
    uint64_t generations[2]; /* that all its state regions hold whole; 0: none */
    uint32_t n_rotten;       /* slots that no longer held what had been published */
    char control_address[TR_ADDRESS_CHARS], data_address[TR_ADDRESS_CHARS];
} tr_control_hello;

typedef struct tr_control_address {
    const char *control, *data; /* "" for none */
} tr_control_address;

typedef struct tr_control_load {
    tr_control_hello *addresses; /* of node 0 .. n_nodes-1, nothing else of them; owned */
    uint64_t generation;         /* see tr_actor_generation */
    tr_topology topology;
} tr_control_load;

void tr_control_send_note(tr_node *node, int32_t peer, tr_control_topic topic, const tr_control_note *note);
tr_status tr_control_read_note(const tr_message *message, tr_control_note *note, tr_error *err);

/* Fills in pid and the node's own addresses; the rest is the caller's. */
tr_status tr_control_send_hello(tr_node *node, int32_t peer, tr_control_hello *hello, tr_error *err);
tr_status tr_control_read_hello(const tr_message *message, tr_control_hello *hello, tr_error *err);

/* addresses: one for each of the topology's nodes. Free *bytes with tr_free. */
tr_status tr_control_encode_load(const tr_topology *topology, const tr_control_address *addresses,
                                 uint64_t generation, void **bytes, size_t *size_bytes, tr_error *err);
tr_status tr_control_decode_load(tr_control_load *self, const void *bytes, size_t size_bytes, tr_error *err);
void tr_control_load_release(tr_control_load *self);

#ifdef __cplusplus
}
#endif
#endif
