/* runtime/lease.h - what agent, workers and a new head say to one another when the old head is gone.
 * An agent with a lease listens on a socket in a directory that the job's owner names (a run's), open to its own user only,
 * and answers once its head is dead: with an offer that says who is left, and with the memory that the dead head had given it
 * to keep. Whoever wants to lead takes them over with a launch and a socket for its
 * holdings, as an agent gets them at its start, or sends them home. That
 * only one wants to is the owner's business (a lock on the run's directory); that the old head is dead is the agent's: it
 * answers nobody while its head lives. To its workers the agent speaks over a socket pair: that it waits, and then whom to
 * greet.
 * Threads: none of this is shared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_LEASE_H
#define TROUPE_RUNTIME_LEASE_H

#include "base/local_socket.h"
#include "runtime/launch.h"
#include "runtime/look.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TR_LEASE_SOCKET "lease.sock"
/* A head's own in that directory, over which people speak to it: the agent of one that died takes it away. */
#define TR_LEASE_HEAD_SOCKET "scale.sock"

/* How much longer than its agent's last sign of waiting a worker waits. */
enum { TR_LEASE_MARGIN_MS = 2000 };

/* What an agent says of those whom a head left. */
typedef struct tr_lease_offer {
    int32_t agent_pid;
    uint32_t epoch;   /* the last one it heard of */
    uint64_t lost_ns; /* when it saw that the head was gone, monotonic */
    char data_transport[TR_KIND_BYTES];
    char bind[TR_BIND_CHARS];
    char public_key[TR_CURVE_CHARS]; /* of the job's key; "": it has none */
    tr_place_seen *workers;          /* by node, of the topology's n_nodes; pid 0: dead. Owned */
    tr_topology topology;            /* owned */
} tr_lease_offer;

/* In a sealed memfd, the caller's to close. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_lease_offer_write(const tr_lease_offer *self, int *descriptor, tr_error *err);
/* Release what it gave, also after a failure. Errors: TR_ECORRUPT, TR_EIO, TR_ENOMEM. */
tr_status tr_lease_offer_read(tr_lease_offer *self, int descriptor, tr_error *err);
void tr_lease_offer_release(tr_lease_offer *self);

/* Who speaks over a connection, with what: at most two descriptors. */
typedef enum tr_lease_kind {
    TR_LEASE_OFFER = 'o', /* to the new head: the offer, and the kept memory where there is some */
    TR_LEASE_TAKE = 't',  /* to the agent: a launch, and its end of a pair of sockets (runtime/holdings.h) */
    TR_LEASE_DISMISS = 'd'
} tr_lease_kind;

bool tr_lease_send(int connection, tr_lease_kind kind, const int *descriptors, int count);
/* What does not wait there is not waited for. false: the other side is gone or spoke nonsense. *kind 0: nothing came yet.
 * Descriptors that did not come are -1. */
bool tr_lease_receive(int connection, tr_lease_kind *kind, int descriptors[2]);

/* At most so many descriptors go with one word; more state regions than that take several. */
enum { TR_LEASE_MEMORY_MAX = TR_LOCAL_MOST_DESCRIPTORS, TR_LEASE_MOST_STATES = 4096 };

/* From agent to worker: whom to greet, in which epoch; or, beside a head as well, which memory it has from a layout on. */
typedef struct tr_lease_word {
    uint32_t epoch; /* 0: no head yet, wait on */
    uint8_t job_key[TR_JOB_KEY_BYTES];
    char head_address[TR_ADDRESS_CHARS];
    uint32_t layout;   /* not 0: it is about memory, and the above says nothing */
    bool keeps;        /* the regions that it has, as they are */
    bool may_spin;     /* see tr_worker_may_spin */
    uint32_t n_states; /* else so many, of which these are the next, */
    uint32_t at;       /* from this one on; 0: what was said of the layout before is void */
    int32_t n_descriptors;
    int descriptors[TR_LEASE_MEMORY_MAX]; /* of who hears it */
} tr_lease_word;

bool tr_lease_tell(int socket, const tr_lease_word *word); /* false: it could not be told */
/* The next word that waits there; false: none does, or, with *gone, none will come any more. */
bool tr_lease_hear(int socket, tr_lease_word *word, bool *gone);

#ifdef __cplusplus
}
#endif
#endif
