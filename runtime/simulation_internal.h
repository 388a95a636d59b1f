/* runtime/simulation_internal.h - what simulation.c and simulation_audit.c share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SIMULATION_INTERNAL_H
#define TROUPE_RUNTIME_SIMULATION_INTERNAL_H

#include "base/rng.h"
#include "runtime/node_internal.h"
#include "runtime/simulation.h"

/* What an edge's messages and slots should look like. */
typedef struct tr__edge_watch {
    uint32_t expected; /* sequence of the next message that its receiver is handed */
    uint16_t *found;   /* n_slots: in how many places each was found */
    uint8_t *
        copied; /* n_slots: sequences under way that were counted already; then as many: slots whose credit was */
} tr__edge_watch;

struct tr_simulation {
    tr_simulation_options options;
    uint64_t now_ns;
    tr_rng_key key;
    uint64_t n_drawn;
    tr_sim_network *data, *control;
    tr_node **nodes;
    uint32_t *node_weights, landing_weight; /* how often each is chosen: some nodes are slow */
    uint64_t *busy_until_ns;                /* of each node; 0 where work has no duration */
    bool is_activating;                     /* now_ns is the active node's own */
    tr__edge_watch *edges;
    bool finished, failed, broken;
    tr_error error; /* the first that made it fail or broke an invariant */
    tr_simulation_counters counters;
};

/* The first broken invariant is the one that is told. */
void tr__simulation_break(tr_simulation *self, const char *format, ...) TR_PRINTF(2, 3);
tr_status tr__audit_init(tr_simulation *self, tr_error *err);
void tr__audit_release(tr_simulation *self);
void tr__audit_message(tr_simulation *self, tr_actor_id to,
                       const tr_message *message); /* before it is handled */
void tr__audit(tr_simulation *self);               /* after each event */
/* Who waits for what, for the message of a deadlock. */
void tr__audit_describe(const tr_simulation *self, char *text, size_t capacity);

#endif
