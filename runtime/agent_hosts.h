/* runtime/agent_hosts.h - what an agent does in a job on several hosts (agent_hosts.c, agent_transfer.c), for agent.c and
 * agent_change.c.
 * Internal to runtime/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_AGENT_HOSTS_H
#define TROUPE_RUNTIME_AGENT_HOSTS_H

#include "runtime/agent_internal.h"
#include "runtime/host_messages.h"

typedef struct tr__stream { /* of slots that another agent gets */
    uint32_t actor, from;   /* the receiver's, and whose slots are read */
    int32_t member;
    bool goes_on, ended;
    uint32_t change; /* 0, or the layout that is prepared, for which it gets the generation `wanted` */
    uint64_t wanted;
    int slot; /* under way; -1: none */
    uint64_t generation, hash, offset_bytes, taken_bytes;
    uint64_t moved_ns; /* when it last went on */
    uint64_t sent[2];  /* generations, the last one first */
} tr__stream;

typedef struct tr__intake { /* by actor */
    bool expected;          /* its worker waits for it */
    int slot;
    uint64_t generation, hash, at_bytes; /* generation 0: nothing is under way */
    uint32_t n_whole;                    /* slots that came */
    uint64_t most_bytes;                 /* that ever were here: what comes once more is no progress */
    bool is_here;                        /* it is copied from another actor's region of this agent, */
    uint32_t source;
    tr_state_copying copying;
} tr__intake;

typedef struct tr__fetched { /* for a change that is prepared */
    uint32_t actor;
    int32_t member;
    bool whole;
    tr__intake in;
    tr_state_region *region; /* NULL: nothing came yet */
} tr__fetched;

struct tr__agent_hosts {
    tr__agent *agent;
    tr_homes homes;
    int32_t me;
    bool settled; /* homes were heard of */
    tr__stream *streams;
    size_t n_streams, streams_capacity;
    tr__intake *intakes;
    tr__fetched *fetched; /* n_fetched */
    size_t n_fetched;
    uint32_t fetched_for;  /* the layout; 0: none */
    bool *linked;          /* by member */
    uint64_t *unlinked_ns; /* when its link broke */
    uint64_t heard_ns, beat_ns;
    bool came_on; /* what workers wait for has, since the head was told so */
    uint64_t came_on_ns;
    uint64_t *met_ns;    /* by member: when its agent was last heard; 0: it is new. See agent_routes.c */
    uint64_t *broken_ns; /* when the link broke that is not mended yet; 0: it is well */
    uint64_t looked_ns, complained_ns;
    uint64_t refilled_ns, budget_bytes; /* what may go out for copies now */
    uint64_t n_copied, copied_bytes;    /* whole slots, for people */
};

tr_status tr__agent_hosts_new(tr__agent_hosts **out, tr__agent *agent, tr_error *err);
void tr__agent_hosts_destroy(tr__agent_hosts **self);
void tr__agent_hosts_heard(tr__agent_hosts *self); /* any word of the head */
/* A message of the head or another agent; false: it is for others to understand. */
bool tr__agent_hosts_hear(tr__agent_hosts *self, int32_t peer, const tr_message *message);
void tr__agent_hosts_lost_link(tr__agent_hosts *self, int32_t peer); /* of another agent */
/* Is the worker ours, and all that it begins with here? */
bool tr__agent_hosts_are_ready(const tr__agent_hosts *self, int32_t node);
bool tr__agent_hosts_on_tick(tr__agent_hosts *self, uint64_t now_ns); /* false: the lease is over */

/* agent_states.c: what workers of ours begin with. From another region here it is copied in steps. */
tr_status tr__agent_hosts_expect(tr__agent_hosts *self, const tr_state_home *state, tr_error *err);
void tr__agent_hosts_copy_on(tr__agent_hosts *self); /* with each tick */
void tr__agent_hosts_came_on(tr__agent_hosts *self, tr__intake *in, uint64_t at_bytes, uint64_t slot_bytes);
void tr__agent_hosts_tell_coming(tr__agent_hosts *self, uint64_t now_ns); /* the head: it comes on */

/* agent_routes.c: are there ways to all other agents? */
void tr__agent_hosts_met(tr__agent_hosts *self, int32_t member); /* something was heard of it */
void tr__agent_hosts_broke(tr__agent_hosts *self, int32_t member);
void tr__agent_hosts_look_for_others(tr__agent_hosts *self, uint64_t now_ns);

/* agent_transfer.c. */
int32_t tr__agent_hosts_node(const tr__agent_hosts *self, int32_t member);
tr_status tr__agent_hosts_send(tr__agent_hosts *self, const tr__stream *stream, tr_error *err);
void tr__agent_hosts_forget_streams(tr__agent_hosts *self, bool of_change); /* those, or all others */
void tr__agent_hosts_pump(tr__agent_hosts *self, uint64_t now_ns);
void tr__agent_hosts_part(tr__agent_hosts *self, int32_t member, const tr_slot_part *part);
void tr__agent_hosts_taken(tr__agent_hosts *self, int32_t member, const tr_slot_part *taken);
/* For a change that is prepared: what the order says is sent, and what is to come is awaited. *n_awaited 0: all is there. */
tr_status tr__agent_hosts_fetch(tr__agent_hosts *self, const tr_change_order *order, size_t *n_awaited,
                                tr_error *err);
tr_state_region *tr__agent_hosts_fetched(const tr__agent_hosts *self,
                                         tr_actor_id actor); /* NULL: it was not */
void tr__agent_hosts_forget_fetched(tr__agent_hosts *self);

/* agent.c: ends workers that are another member's now, starts those that are ours and do not run. */
void tr__agent_hosts_start(tr__agent *agent);
void tr__agent_tell_failure(tr__agent *agent, const tr_error *error);
/* agent_change.c: what was awaited for a change is here. */
void tr__agent_go_on_preparing(tr__agent *self);
/* A layout in whose preparation this agent had no part is the job's. Errors: TR_ECORRUPT, TR_ENOMEM. */
tr_status tr__agent_adopt(tr__agent *self, const void *topology, size_t topology_bytes, uint32_t layout,
                          tr_error *err);

#endif
