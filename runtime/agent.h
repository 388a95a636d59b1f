/* runtime/agent.h - the process that starts a host's workers, watches them, holds their memory, and tells the
 * head. It hosts no actors and touches no device, so that what kills a worker does not kill it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_AGENT_H
#define TROUPE_RUNTIME_AGENT_H

#include "runtime/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What an agent that lost its head has of the job's states, for a head that comes after (agent_former.c). */
typedef struct tr_agent_states tr_agent_states;
void tr_agent_states_destroy(tr_agent_states **self);

/* Runs until the head says stop and every worker is reaped, or the head is gone and, with a lease, no other one has come.
 * leave_descriptor: of another host than the head's, a signalfd; what comes there asks to leave the job, which is done when others
 * have taken over what runs here, or at once when it comes again. -1: none.
 * states: what it has of a head before, and behind TR_ECLOSED what it has for the next one, NULL for nothing; the caller's. NULL:
 * nothing is kept.
 * Errors: TR_ECLOSED, TR_EIO, TR_ENOMEM; TR_ESTOPPED: it has left. */
tr_status tr_agent_run(const tr_launch *launch, int leave_descriptor, tr_agent_states **states,
                       tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
