/* runtime/simulation_internal.h - what simulation.c and simulation_audit.c share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SIMULATION_INTERNAL_H
#define TROUPE_RUNTIME_SIMULATION_INTERNAL_H

#include "base/rng.h"
#include "runtime/node_internal.h"
#include "runtime/simulation.h"

/* What an edge's messages and slots should look like. */
typedef struct tr__edge_watch {
    uint32_t epoch;    /* of the message handed over last */
    uint32_t expected; /* sequence of the next message that its receiver is handed */
    uint16_t *found;   /* n_slots: in how many places each was found */
    uint8_t *
        copied; /* n_slots: sequences under way that were counted already; then as many: slots whose credit was */
} tr__edge_watch;

/* Who plays head, agent and workers (simulation_job.c); where nodes are all there is, nobody does. */
typedef struct tr__simulation_driver {
    void *context;
    uint32_t (*weight)(void *context);             /* how many things of its own could happen now */
    void (*happen)(void *context, uint32_t which); /* one of them */
    uint64_t (*next_ns)(void *context);            /* when more of them could; UINT64_MAX: never by itself */
    void (*before)(void *context, int32_t place);  /* an activation */
    void (*after)(void *context, int32_t place);   /* one; the node may be gone then */
    void (*on_slot)(void *context, int32_t place, tr_actor_id who, int slot, uint64_t generation);
} tr__simulation_driver;

/* The observer of a node. */
typedef struct tr__simulation_seat {
    tr_simulation *simulation;
    int32_t place;
} tr__simulation_seat;

struct tr_simulation {
    tr_simulation_options options;
    uint64_t now_ns;
    tr_rng_key key;
    uint64_t n_drawn;
    tr_sim_network *data, *control;
    tr_node **
        nodes; /* by place: the topology's, then what a driver has beside them; NULL: dead, or between lives */
    int32_t n_places;
    tr__simulation_seat *seats;
    bool *frozen; /* by place: as by SIGSTOP */
    /* An actor that gets no turn while anybody else has something to do, nor before so many events have been; 0: none. */
    tr_actor_id starved;
    uint64_t starved_until;
    bool
        newest_first; /* mostly what a node was told of last runs first, so that something older waits for long */
    tr__simulation_driver driver;
    uint32_t torn_epoch; /* a fault has happened in it: where its slots lie is not looked at any more */
    uint32_t *node_weights, landing_weight; /* how often each is chosen: some nodes are slow */
    uint64_t *busy_until_ns;                /* of each node; 0 where work has no duration */
    bool is_activating;                     /* now_ns is the active node's own */
    tr__edge_watch *edges;
    bool finished, failed, broken;
    tr_error error; /* the first that made it fail or broke an invariant */
    tr_simulation_counters counters;
};

/* simulation.c */
tr_status tr__simulation_init(tr_simulation *self, const tr_simulation_options *options, int32_t n_places,
                              tr_error *err);
void tr__simulation_release(tr_simulation *self); /* after its nodes */
uint64_t tr__simulation_draw(tr_simulation *self, uint64_t below);
void tr__simulation_observe(void *seat, tr_actor_id to, const tr_message *message);
void tr__simulation_observe_slot(void *seat, tr_actor_id who, int slot, uint64_t generation);
bool tr__simulation_go_on(tr_simulation *self); /* one event, or the clock; false: there is neither */

/* The first broken invariant is the one that is told. */
void tr__simulation_break(tr_simulation *self, const char *format, ...) TR_PRINTF(2, 3);
tr_status tr__audit_init(tr_simulation *self, tr_error *err);
void tr__audit_release(tr_simulation *self);
void tr__audit_message(tr_simulation *self, int32_t place, tr_actor_id to,
                       const tr_message *message); /* before it is handled */
void tr__audit(tr_simulation *self);               /* after each event */
/* Who waits for what, for the message of a deadlock. */
void tr__audit_describe(const tr_simulation *self, char *text, size_t capacity);

#endif
