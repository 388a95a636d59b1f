/* runtime/topology.h - the plan as the actor system sees it: nodes, actors on them, edges between them.
 * Made by whoever runs a job, sent to every node as MessagePack, the same everywhere. It knows no tensor: an
 * edge is a number of slots of some size. An identity is opaque; what an actor is (role, replica, stage)
 * stands in its name and config. Node 0 is the head; 1 .. n_nodes-1 are workers.
 * Threads: built by one thread, then only read.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_TOPOLOGY_H
#define TROUPE_RUNTIME_TOPOLOGY_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t tr_actor_id; /* 0 is nobody */

enum { TR_NODE_HEAD = 0, TR_NAME_BYTES = 64 };

typedef struct tr_actor_spec {
    tr_actor_id id;
    char name[TR_NAME_BYTES];     /* for people: "stage 1 of replica 0" */
    char behavior[TR_NAME_BYTES]; /* looked up in the node's registry */
    int32_t node;
    void *config; /* handed to init; owned by the topology */
    size_t config_bytes;
    uint64_t state_bytes; /* of one state slot; 0 for actors without durable state */
    tr_actor_id
        supervisor; /* who is told of its end and may start it again; 0: the end is told to who runs the node */
} tr_actor_spec;

typedef struct tr_edge_spec {
    uint32_t id;              /* index in topology->edges */
    char name[TR_NAME_BYTES]; /* "tokens": unique among the edges of one source and destination */
    tr_actor_id source, destination;
    uint32_t n_slots;    /* messages under way or held by the receiver at most, 1 .. 65535 */
    uint32_t slot_bytes; /* largest body */
} tr_edge_spec;

typedef struct tr_topology {
    int32_t n_nodes;
    int32_t threads_per_node; /* scheduler threads of a worker node; the head has 1 */
    tr_actor_spec *actors;
    size_t n_actors, actors_capacity_;
    tr_edge_spec *edges;
    size_t n_edges, edges_capacity_;
} tr_topology;

void tr_topology_init(tr_topology *self, int32_t n_nodes);
void tr_topology_release(tr_topology *self);

/* Ids are given out in order, from 1. config is copied. Errors: TR_ENOMEM, TR_EINVAL (name too long, no such node). */
tr_status tr_topology_add_actor(tr_topology *self, const char *name, const char *behavior, int32_t node,
                                const void *config, size_t config_bytes, uint64_t state_bytes,
                                tr_actor_id *id, tr_error *err);
tr_status tr_topology_add_edge(tr_topology *self, const char *name, tr_actor_id source,
                               tr_actor_id destination, uint32_t n_slots, uint32_t slot_bytes, uint32_t *edge,
                               tr_error *err);

/* See runtime/supervisor.h. Errors: TR_EINVAL (no such actor, itself, above its
 * own supervisor, the child has one already). */
tr_status tr_topology_supervise(tr_topology *self, tr_actor_id supervisor, tr_actor_id child, tr_error *err);

const tr_actor_spec *tr_topology_actor(const tr_topology *self, tr_actor_id id); /* NULL when there is none */

/* Do both have the same actors in the same places, with as much state? Configs and edges may differ. */
bool tr_topology_has_same_places(const tr_topology *left, const tr_topology *right);

/* MessagePack; decode checks everything it reads (bounded) and gives TR_ECORRUPT. Free *bytes with tr_free. */
tr_status tr_topology_encode(const tr_topology *self, void **bytes, size_t *size_bytes, tr_error *err);
tr_status tr_topology_decode(tr_topology *self, const void *bytes, size_t size_bytes, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
