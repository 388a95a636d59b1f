/* runtime/agent_deal.h - what an agent has prepared of a change of the layout, shared by agent_change.c (from the order to the
 * answer, and the change itself) and agent_deal.c (the states).
 * Internal to runtime/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_AGENT_DEAL_H
#define TROUPE_RUNTIME_AGENT_DEAL_H

#include "runtime/agent_hosts.h"

typedef struct tr__prepared {
    tr_change_order order;
    tr_state_region **states; /* by actor of the new topology; NULL: kept, or it has none */
    tr_actor_id *kept;        /* whose region it has; 0: a new one */
    int *slots;               /* by actor of the old topology: which holds the generation */
    bool dealing;             /* it was begun, and is not at its end */
    size_t actor;             /* whose state is at hand: the moves first, ... first + n_moves - 1 give it, */
    size_t first, n_moves, n_moved; /* so many have, */
    uint64_t moved_bytes;           /* and of the next one so much */
    tr_actor_id looked_at;          /* whose slot is being hashed */
} tr__prepared;

/* All that is dealt from is here. Errors: TR_EINVAL: too many workers; TR_ENOMEM. */
tr_status tr__agent_begin_deal(tr__agent *self, tr_error *err);
/* Until it is done, or this time has come and *more is to do. Errors: TR_ECORRUPT: what is dealt from is not what the head
 * thinks, or is damaged; TR_ENOMEM. */
tr_status tr__agent_deal(tr__agent *self, uint64_t until_ns, bool *more, tr_error *err);
/* Of the layout that is prepared: does this agent run this node? On several hosts each deals out for its own. */
bool tr__agent_deals_for(const tr__agent *self, int32_t node);

#endif
