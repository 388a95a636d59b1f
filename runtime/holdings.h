/* runtime/holdings.h - what an agent has of its workers, so that another agent can go on with them when it dies: the memory of
 * their states, their activity pages, the socket over which it speaks to each, and each one's life line. The agent hands
 * duplicates to its head over a pair of sockets as soon as it has them; the head looks into none, it only keeps them, and
 * hands them to the next agent. So a descriptor is lost only with both, and nothing has to be asked of the workers.
 *
 * A worker's *life line* is a pipe of which it has the reading end, and its agent and head the writing one. It asks the
 * kernel for SIGKILL when nobody holds that any more (fcntl(2), F_SETSIG), as others ask for it at their parent's death. So it
 * outlives an agent that dies while the head lives, and a head while the agent lives, and never both: also when it hangs,
 * or somebody stopped it, and also where the agent died before it could tell the head of a worker that it had just started.
 *
 * On several hosts there is none of this: an agent's death is its host's.
 * Threads: none of this is shared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_HOLDINGS_H
#define TROUPE_RUNTIME_HOLDINGS_H

#include "runtime/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Descriptors are -1 where there is none. */
typedef struct tr_held_worker {
    int32_t pid;  /* 0: there is none */
    int pidfd;    /* with pid, */
    int word;     /* the agent's end (tr_lease_tell), */
    int life;     /* and the end that keeps it alive */
    int activity; /* its page, which the next one gets as well */
} tr_held_worker;

typedef struct tr_held_states {
    uint32_t layout; /* see tr_control_note */
    bool told;       /* there are n, of which n_came are here */
    uint32_t n, n_came;
    int *descriptors; /* of the node's actors, in the topology's order */
} tr_held_states;

typedef struct tr_holdings {
    int32_t n_nodes;
    uint32_t layout;
    bool ended;                    /* tr_holdings_tell_all has said all of it */
    tr_held_worker *workers;       /* by node; [0] is unused */
    tr_held_states *states, *next; /* by node: of the layout, and of one that is prepared */
} tr_holdings;

/* Of nodes 1 to n_nodes - 1, and nothing yet. Release it also when that fails. Errors: TR_ENOMEM. */
tr_status tr_holdings_init(tr_holdings *self, int32_t n_nodes, tr_error *err);
void tr_holdings_release(tr_holdings *self);

/* Takes what waits at the socket. false: the other side is gone, and all that it said is taken. */
bool tr_holdings_hear(tr_holdings *self, int socket);
/* This layout holds from here on; what is of another is let go. */
void tr_holdings_settle(tr_holdings *self, uint32_t layout);
/* Are all the node's states here? */
bool tr_holdings_have_states(const tr_holdings *self, int32_t node);
/* All that the next agent needs to go on with the worker is here, and it has not ended. */
bool tr_holdings_are_whole(const tr_holdings *self, int32_t node);
/* Of a worker that has ended: all but its page, which is the next one's. *end, where not NULL: see tr_process_reap. */
void tr_holdings_drop_worker(tr_holdings *self, int32_t node, tr_process_end *end);

/* What an agent tells. false: nobody heard it, and never will: then it dies with this process. It waits a little where the
 * other side is slow. begin: of this layout, and what was told before is void. */
bool tr_holdings_tell_begin(int socket, uint32_t layout);
bool tr_holdings_tell_worker(int socket, int32_t node, const tr_held_worker *worker);
bool tr_holdings_tell_states(int socket, int32_t node, uint32_t layout, const int *descriptors, uint32_t n);
bool tr_holdings_tell_settled(int socket, uint32_t layout);
/* What a head tells an agent at its start: all it has, of workers only with all that is theirs; then that this was all. */
bool tr_holdings_tell_all(const tr_holdings *self, int socket);

#ifdef __cplusplus
}
#endif
#endif
