/* runtime/agent.h - the process that starts a host's workers, watches them, holds their memory, and tells the
 * head. It hosts no actors and touches no device, so that what kills a worker does not kill it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_AGENT_H
#define TROUPE_RUNTIME_AGENT_H

#include "runtime/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs until the head says stop and every worker is reaped, or the head is gone and, with a lease, no other one has come.
 * leave_descriptor: of another host than the head's, a signalfd; what comes there asks to leave the job, which is done when others
 * have taken over what runs here, or at once when it comes again. -1: none.
 * Errors: TR_ECLOSED, TR_EIO, TR_ENOMEM; TR_ESTOPPED: it has left. */
tr_status tr_agent_run(const tr_launch *launch, int leave_descriptor, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
