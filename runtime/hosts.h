/* runtime/hosts.h - the head's view of a job on several hosts: who has joined, which host runs which worker, who has a copy of
 * whose state, and what becomes of that when a host is lost. The rest of the head knows only that a worker has an agent.
 * A host is lost when its agent's link breaks, or when nothing was heard of it for a while. Then its workers may still live,
 * behind a cut network: nothing that they say counts any more, since the next epoch is begun without them, and they end by
 * themselves, since their agent hears nothing either (agent_hosts.c).
 * Threads: the head's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_HOSTS_H
#define TROUPE_RUNTIME_HOSTS_H

#include "runtime/head.h"
#include "runtime/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_hosts tr_hosts;

/* For the hosts of head->options. launch: as the head's own agent gets it; copied. Opens the door. Errors: TR_EINVAL, TR_EIO,
 * TR_ENOMEM. */
tr_status tr_hosts_new(tr_hosts **out, tr_head *head, const tr_launch *launch, tr_error *err);
void tr_hosts_destroy(tr_hosts **self);

bool tr_hosts_is_agent(const tr_hosts *self, int32_t peer); /* one that is here, and not lost */
int32_t tr_hosts_agent_of(const tr_hosts *self,
                          int32_t node); /* the peer that is a worker's agent; -1: nobody */
bool tr_hosts_is_home(const tr_hosts *self, int32_t node, int32_t member); /* does this member run it? */
bool tr_hosts_are_awaited(const tr_hosts *self); /* no worker has a home before they are here */
/* When workers last got their homes, or what they begin with there last came on; 0: they have none yet. */
uint64_t tr_hosts_came_on_ns(const tr_hosts *self);

/* A worker's process has begun on its home: where it is to be seen. */
tr_place_seen tr_hosts_place(tr_hosts *self, int32_t node, int32_t pid);

/* What agents say: true where there is nothing more to it. */
bool tr_hosts_hear(tr_hosts *self, int32_t peer, const tr_message *message);
/* incarnation: of the agent that greets; see hosts_members.c */
void tr_hosts_greeted(tr_hosts *self, int32_t peer, const tr_control_hello *hello, uint32_t incarnation);
void tr_hosts_lost_link(tr_hosts *self, int32_t peer, const char *reason);
/* The mistakes of the host that runs this worker, for the caller to count, and what it is called; NULL: none runs it. */
uint32_t *tr_hosts_mistakes(tr_hosts *self, int32_t node, char *text, size_t capacity);
/* That host is lost, as if its agent had died, and may not join again; a spare takes its place. False: there is none, or it is the
 * head's own. */
bool tr_hosts_quarantine(tr_hosts *self, int32_t node);
void tr_hosts_agent_ended(tr_hosts *self); /* the head's own, with its workers and states */

void tr_hosts_call(tr_hosts *self);    /* an epoch begins: agents are told */
void tr_hosts_started(tr_hosts *self); /* it is there: every worker has the state of one generation */
void tr_hosts_on_tick(tr_hosts *self, uint64_t now_ns);
/* Another layout: agents are told to prepare it; has the last one whose part is needed? It begins (the head's topology is the
 * one before until behind it); or it is not wanted any more. Errors: TR_EINVAL: too few hosts; TR_ENOMEM. */
tr_status tr_hosts_prepare(tr_hosts *self, const tr_change *change, tr_error *err);
bool tr_hosts_prepared(tr_hosts *self, int32_t peer);
tr_status tr_hosts_change(tr_hosts *self, const tr_change *change, tr_error *err);
void tr_hosts_forget_change(tr_hosts *self);
void tr_hosts_stop(tr_hosts *self, const tr_control_note *note); /* to the agents of other hosts */
bool tr_hosts_have_left(const tr_hosts *self);                   /* those have all said farewell */

#ifdef __cplusplus
}
#endif
#endif
