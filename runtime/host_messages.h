/* runtime/host_messages.h - what a head, its agents on several hosts and a host that wants to join say to one another.
 * Beside control_messages.h, which holds within one host and here as well. A *member* is an agent that has joined: 0 is the
 * head's own, the others are counted as they come and never used again, so that a host which was lost and comes back is
 * another one. Member m is node n_nodes + m.
 *
 *   joiner              head                 agents
 *     |--- JOIN --------> |                    |      over the door (door.h): program, numerics, what it expects
 *     | <- WELCOME -------|                    |      a launch, or REFUSED and why
 *     x becomes an agent  | <------ HELLO -----|
 *                         | <------ FORMER ----|      the states that it has of a head which is gone
 *                         |------ HOMES -----> |      when all hosts are there, and with each epoch
 *                         | <----- BEAT -----> |      both ways, all the time
 *                         | <------ HELD ------|      a copy is whole
 *                         | <----- LEAVING ----|      it is asked to go; STOP comes when others have what it had
 *   agent                 |                    |
 *     |--- SLOT ------------------------------>|      parts of state slots, a window of them under way
 *     | <--------------------- SLOT_TAKEN -----|
 *
 * Bodies are MessagePack; decoders refuse what is damaged (TR_ECORRUPT).
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_HOST_MESSAGES_H
#define TROUPE_RUNTIME_HOST_MESSAGES_H

#include "runtime/control_messages.h"
#include "transport/address.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TR_MAX_MEMBERS = 1024,
    TR_HOST_NAME_CHARS = 64,
    TR_NUMERICS_CHARS = 512,
    TR_SLOT_PART_BYTES = 256 << 10,
    TR_DOOR_CHARS = TR_BIND_CHARS + 8
};

/* Of an actor with state. */
typedef struct tr_state_home {
    uint32_t actor;        /* its index in the topology */
    int32_t source;        /* the member that has its state; -1: nobody does */
    uint32_t source_actor; /* there, under this index: its own, or one that always has the same */
    int32_t copy;          /* the member that is to hold a copy; -1: none */
} tr_state_home;

/* HOMES. What an agent finds for itself in it: which workers it runs, what state they begin with, what it sends whom. */
typedef struct tr_homes {
    uint32_t epoch, layout; /* see tr_control_note */
    const void *
        topology; /* encoded, of a layout but the job's first: for who had no part in the change to it. Not owned */
    size_t topology_bytes;
    int32_t n_members, n_nodes;
    uint32_t n_states;
    char (*addresses)[TR_BIND_CHARS]; /* by member; "": not there (any more) */
    int32_t *home;                    /* by node: the member that runs it; -1: nobody yet */
    tr_state_home *states;            /* in order of actors */
    bool takes_former; /* what agents said in FORMER counts among the sources; else it is not wanted */
} tr_homes;

tr_status tr_homes_encode(const tr_homes *self, void **bytes, size_t *size_bytes, tr_error *err);
/* Only epoch, layout and topology, which points into the bytes: what the rest is to be checked against. Errors: TR_ECORRUPT. */
tr_status tr_homes_peek(tr_homes *self, const void *bytes, size_t size_bytes, tr_error *err);
/* Checked against the topology. Release what it gave. Errors: TR_ECORRUPT, TR_ENOMEM. */
tr_status tr_homes_decode(tr_homes *self, const void *bytes, size_t size_bytes, const tr_topology *topology,
                          tr_error *err);
void tr_homes_release(tr_homes *self);

/* FORMER. What an agent has of a job whose head it lost, by the actors of the plan that it got now. Nothing, where that has
 * other actors, or it never had any. */
typedef struct tr_former_state {
    uint32_t actor;
    uint64_t generations[2], hashes[2]; /* by slot; generation 0: nothing whole */
} tr_former_state;

typedef struct tr_former {
    uint64_t term;    /* of the head that it lost: see tr_job_former */
    uint32_t epoch;   /* the last one that it heard of there; 0: nothing is known of any head before */
    int32_t n_agents; /* how many were there then, the head's own not among them */
    uint32_t n_states;
    tr_former_state *states; /* in order of actors */
} tr_former;

tr_status tr_former_encode(const tr_former *self, void **bytes, size_t *size_bytes, tr_error *err);
/* Checked against the topology. Release what it gave. Errors: TR_ECORRUPT, TR_ENOMEM. */
tr_status tr_former_decode(tr_former *self, const void *bytes, size_t size_bytes, const tr_topology *topology,
                           tr_error *err);
void tr_former_release(tr_former *self);

/* SLOT, SLOT_TAKEN and HELD. */
typedef struct tr_slot_part {
    uint32_t layout; /* that the actor is of: what is of another than the receiver's is dropped */
    bool
        fetched; /* for a change of the layout (change.h), whose number that is; the actor is of the one that is */
    uint32_t actor;      /* the receiver's */
    uint64_t generation; /* 0: that was all, no more slots of it come */
    uint64_t hash;       /* of the whole slot */
    uint64_t offset_bytes;
    const void *bytes; /* SLOT only; points into the message */
    size_t n_bytes;
    bool good; /* SLOT_TAKEN: false: send the slot again, from its beginning */
} tr_slot_part;

tr_status tr_slot_part_encode(const tr_slot_part *self, void **bytes, size_t *size_bytes, tr_error *err);
tr_status tr_slot_part_decode(tr_slot_part *self, const void *bytes, size_t size_bytes, tr_error *err);

/* Over the door. */
typedef enum tr_door_topic { TR_DOOR_JOIN = 0x200, TR_DOOR_WELCOME, TR_DOOR_REFUSED } tr_door_topic;

typedef struct tr_join_request {
    char version[32];                 /* of the program */
    uint64_t program;                 /* hash of its file */
    char numerics[TR_NUMERICS_CHARS]; /* what else its bits depend on: processor, libraries */
    char name[TR_HOST_NAME_CHARS];    /* of the host */
    char run[256];                    /* which it wants to join; "": whichever is there */
    char plan[17];                    /* the same, by the plan's hash in hex */
} tr_join_request;

tr_status tr_join_request_encode(const tr_join_request *self, void **bytes, size_t *size_bytes,
                                 tr_error *err);
tr_status tr_join_request_decode(tr_join_request *self, const void *bytes, size_t size_bytes, tr_error *err);
/* Fills in program, numerics and name for this process on this host. */
tr_status tr_join_request_describe(tr_join_request *self, const char *version, tr_error *err);
/* May a program that says `theirs` compute beside one that says `mine`? Errors: TR_EREFUSED, naming what differs. */
tr_status tr_join_request_compare(const tr_join_request *mine, const tr_join_request *theirs, tr_error *err);
void tr_plan_hash(const void *topology, size_t size_bytes, char hex[17]); /* of an encoded topology */

#ifdef __cplusplus
}
#endif
#endif
