/* runtime/change.h - another topology in the middle of a job: more or fewer nodes, other actors on them, and the state that
 * they begin with, dealt out of the state slots that there are.
 * The runtime knows no tensor, so the deal is told in bytes: this range of that actor's new slot is that range of this
 * actor's old one. The agent makes new regions and copies while the workers still hold the old ones, which nobody writes by
 * then; on several hosts each agent deals out what its own workers get, and is sent whole slots that it lacks by those that
 * have them; only when all of it is there a new epoch is recorded and begins (head_change.c). Before that nothing has changed.
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_CHANGE_H
#define TROUPE_RUNTIME_CHANGE_H

#include "runtime/topology.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a state slot: of `from` in the topology that is, for `to` in the next one. */
typedef struct tr_state_move {
    tr_actor_id to, from;
    uint64_t to_offset, from_offset, bytes;
} tr_state_move;

/* Several hosts: what a member's agent holds and another's needs for its part of the deal (host_messages.h). */
typedef struct tr_state_fetch {
    tr_actor_id actor; /* of the topology that is */
    int32_t from, to;  /* members */
} tr_state_fetch;

typedef struct tr_change {
    const tr_topology *topology; /* the next one; outlives the job */
    uint64_t generation;         /* that the state is of: every region of `from` holds it whole */
    const tr_state_move *moves;  /* of one `to` together; bytes that no move names are zero */
    size_t n_moves;
    const int32_t *leaving; /* nodes of both whose process wants to go: another takes its place */
    size_t n_leaving;
    /* Several hosts, of the next topology, as in tr_job_hosts: */
    int32_t n_hosts;
    const int32_t *host_of;
    const uint32_t *equals;
    /* The same, filled in by the head: by node of the next topology the member that runs it (NULL: there is one agent),
     * the same by actor of the member that is to keep a copy of its state (-1: none), and what has to go from agent to agent
     * before. */
    const int32_t *home, *copy;
    const tr_state_fetch *fetches;
    size_t n_fetches;
} tr_change;

/* What the agent gets: a change, in which epoch it is prepared and how it is called. */
typedef struct tr_change_order {
    uint32_t epoch, layout;
    uint64_t generation;
    tr_state_move *moves; /* owned, as all below */
    size_t n_moves;
    int32_t *leaving;
    size_t n_leaving;
    int32_t *home, *copy; /* NULL: all nodes are the agent's */
    tr_state_fetch *fetches;
    size_t n_fetches;
    tr_topology topology;
} tr_change_order;

/* Free *bytes with tr_free. */
tr_status tr_change_encode(const tr_change *self, uint32_t epoch, uint32_t layout, void **bytes,
                           size_t *size_bytes, tr_error *err);
/* Checks everything: ranges lie in the slots of `to`; those of `from` are for the agent to check, which knows whose they are.
 * Errors: TR_ECORRUPT, TR_ENOMEM. Nothing is to be released behind a failure. */
tr_status tr_change_decode(tr_change_order *out, const void *bytes, size_t size_bytes, tr_error *err);
void tr_change_order_release(tr_change_order *self);

#ifdef __cplusplus
}
#endif
#endif
