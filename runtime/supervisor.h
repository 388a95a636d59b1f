/* runtime/supervisor.h - an actor that watches its children and starts them again, by the rules of Erlang/OTP.
 * Source: Erlang/OTP, STDLIB reference manual, module supervisor, and "Supervisor Behaviour" in OTP Design Principles:
 * - a permanent child is always restarted, a temporary one never (nor when a sibling's death ended it), a transient one only
 *   after an abnormal end: neither normal nor shutdown;
 * - one_for_one restarts the child that ended; rest_for_one also ends and restarts those that stand after it; one_for_all
 *   ends and restarts all. Children end in reverse order, one after the other, and start in order;
 * - more than `intensity` restarts within `period_ms`: the supervisor ends all children and then itself, as shutdown, and
 *   its own supervisor decides. One without a supervisor ends the job. A start that fails counts as a restart.
 * Other than there: the plan starts all children the first time; a child is an identity, not a process, so what is sent to
 * it between two lives waits for the next one (see tr_child_start); there is no time limit for an end, since a handler
 * cannot be killed, only its process.
 * For actors without training state: those return together, by epochs.
 * Threads: an actor.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SUPERVISOR_H
#define TROUPE_RUNTIME_SUPERVISOR_H

#include "runtime/actor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_strategy { TR_ONE_FOR_ONE, TR_REST_FOR_ONE, TR_ONE_FOR_ALL } tr_strategy;
typedef enum tr_restart { TR_PERMANENT, TR_TRANSIENT, TR_TEMPORARY } tr_restart;

typedef struct tr_child_spec {
    tr_actor_id id; /* an actor, or a supervisor, on any node */
    tr_restart restart;
} tr_child_spec;

typedef struct tr_supervisor_spec {
    tr_strategy strategy;
    uint32_t intensity, period_ms; /* OTP's defaults are 1 and 5000 */
    const tr_child_spec *children; /* in order of start */
    uint32_t n_children;
} tr_supervisor_spec;

/* Adds the actor and makes it the supervisor of its children, which are there already. Errors: as of
 * tr_topology_add_actor and tr_topology_supervise; TR_EINVAL: no children, or a period of 0. */
tr_status tr_topology_add_supervisor(tr_topology *self, const char *name, int32_t node,
                                     const tr_supervisor_spec *spec, tr_actor_id *id, tr_error *err);

extern const tr_behavior tr_supervisor_behavior;
/* What a registry needs. */
#define TR_SUPERVISOR_NAME "supervisor"
#define TR_SUPERVISOR_KIND                                                                                   \
    {                                                                                                        \
        TR_SUPERVISOR_NAME, &tr_supervisor_behavior, NULL                                                    \
    }

#ifdef __cplusplus
}
#endif
#endif
