/* runtime/agent_hosts.h - what an agent does in a job on several hosts (agent_hosts.c), for agent.c.
 * Internal to runtime/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_AGENT_HOSTS_H
#define TROUPE_RUNTIME_AGENT_HOSTS_H

#include "runtime/agent_internal.h"
#include "runtime/host_messages.h"

tr_status tr__agent_hosts_new(tr__agent_hosts **out, tr__agent *agent, tr_error *err);
void tr__agent_hosts_destroy(tr__agent_hosts **self);
void tr__agent_hosts_heard(tr__agent_hosts *self); /* any word of the head */
/* A message of the head or another agent; false: it is for others to understand. */
bool tr__agent_hosts_hear(tr__agent_hosts *self, int32_t peer, const tr_message *message);
void tr__agent_hosts_lost_link(tr__agent_hosts *self, int32_t peer); /* of another agent */
/* Is the worker ours, and all that it begins with here? */
bool tr__agent_hosts_are_ready(const tr__agent_hosts *self, int32_t node);
bool tr__agent_hosts_on_tick(tr__agent_hosts *self, uint64_t now_ns); /* false: the lease is over */

/* agent.c: ends workers that are another member's now, starts those that are ours and do not run. */
void tr__agent_hosts_start(tr__agent *agent);
void tr__agent_tell_failure(tr__agent *agent, const tr_error *error);

#endif
