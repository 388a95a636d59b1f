/* runtime/node.h - a process (or a thread that plays one) that hosts actors: scheduler threads, mailboxes,
 * edges, and the two transports: `data` for edges and credits, `control` for everything else.
 * Life: new -> (addresses are exchanged by whoever runs the job) -> connect to peers -> load a topology
 * (makes this node's actors, calls init) -> start -> run until stop -> destroy (calls stop of the actors).
 * Threads: one thread owns a node; the functions marked "any" may be called from any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_NODE_H
#define TROUPE_RUNTIME_NODE_H

#include "runtime/actor.h"
#include "runtime/keepsake.h"
#include "runtime/state.h"
#include "transport/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_node tr_node;
struct tr_activity_page;
struct tr_fault;

typedef struct tr_node_options {
    int32_t node;
    uint32_t incarnation;
    uint32_t epoch;
    int n_threads;                 /* scheduler threads, the caller of tr_node_run included */
    const char *data_transport;    /* a kind; NULL: everything is on this node */
    const char *control_transport; /* a kind */
    const char *bind;              /* of the zmq ones; see tr_transport_options.bind; NULL: chosen */
    const tr_curve_key *key;       /* of the zmq ones; NULL: none. Copied */
    uint8_t job_key[TR_JOB_KEY_BYTES];
    bool deaths_are_told; /* see tr_transport_options */
    const tr_registry *registry;
    struct tr_activity_page *activity; /* what actors do is written there; NULL: own memory */
    /* false where the job alone has more threads than processors; true: while base/spin.h allows it */
    bool may_spin;
    /* Simulation (runtime/simulation.h): a clock that somebody else moves on, and the networks of transport "sim". */
    const uint64_t *virtual_ns; /* NULL: the monotonic clock */
    struct tr_sim_network *data_network, *control_network;
    tr_keepsakes *keepsakes; /* what actors leave to the node that follows this one; NULL: nothing */
    /* Called when an actor says what it does (tr_actor_activity), on its thread. NULL: not. */
    void (*on_activity)(void *context, tr_actor_id who, const char *what, uint32_t step, uint32_t microbatch);
    /* Called with each message that an actor takes from its lanes, and after each opening (generation 0) or publication of a
     * state slot, on the actor's thread, with the observer. NULL: not. */
    void (*observe)(void *observer, tr_actor_id to, const tr_message *message);
    void (*observe_slot)(void *observer, tr_actor_id who, int slot, uint64_t generation);
    void *observer;
    /* For the callbacks, and those of watches and ticks: all called on a scheduler thread, never two at a time,
     * without locks held. */
    void *context;
    void (*on_system)(void *context, int32_t peer, const tr_message *message); /* a SYSTEM frame */
    /* control: its control link; else only the one for data. Told at the first loss, and at each of a control link. */
    void (*on_peer_lost)(void *context, int32_t peer, bool control, const char *reason);
    void (*on_actor_end)(void *context, tr_actor_id who, const tr_error *error); /* error NULL: normal */
    /* An actor here called finish_job or fail_job. */
    void (*on_job_end)(void *context, const tr_error *error);
    /* What came from a peer was damaged and dropped, so that something is missing. NULL: then it is missing. */
    void (*on_damaged)(void *context, int32_t peer, const char *reason);
    void (*on_accused)(void *context, int32_t node,
                       const char *text);                     /* tr_actor_accuse; NULL: of no matter */
    void (*on_run_again)(void *context, const tr_error *why); /* or run_again; NULL: that ends the job */
} tr_node_options;

tr_status tr_node_new(tr_node **out, const tr_node_options *options, tr_error *err);
const char *tr_node_control_address(const tr_node *self);
const char *tr_node_data_address(const tr_node *self); /* "" when there is no data transport */
/* Either address may be NULL: not by this way. */
tr_status tr_node_connect(tr_node *self, int32_t peer, const char *control_address, const char *data_address,
                          tr_error *err);

/* Makes the actors of this node and its ends of the edges; calls init of each in the topology's order. The
 * topology must outlive the node. states[i] is the state region of topology->actors[i] or NULL (then own
 * memory is made where needed). */
tr_status tr_node_load(tr_node *self, const tr_topology *topology, tr_state_region *const *states,
                       tr_error *err);
void tr_node_spoil(tr_node *self, tr_actor_id who,
                   int how);             /* from on_activity of that actor: see tr_actor_spoil */
void tr_node_damage_next(tr_node *self); /* chaos: see tr_transport_damage_next */
/* Chaos: a fault of frames (fault.h) is done to both transports. From its own callbacks. */
void tr_node_suffer(tr_node *self, const struct tr_fault *fault);
void tr_node_start_actors(tr_node *self); /* calls start of each */

/* A change of epoch (runtime/head.h): unload, set the epoch, connect anew, load, start.
 * Unload ends the actors (stop of each is called), drops what waits for them and closes the links for data, whose
 * address may be another one behind it, and which nodes of incarnations before next_epoch do not get any more; those for
 * control stay, and what is lost of them is forgotten. Only while the node does not run, or from its own callbacks where it
 * has one thread. Errors: TR_EIO of the transport. */
tr_status tr_node_unload(tr_node *self, uint32_t next_epoch, tr_error *err);
/* Of what is loaded from now on. What carries another epoch is counted and dropped. generation: see tr_actor_generation. */
void tr_node_set_epoch(tr_node *self, uint32_t epoch, uint64_t generation);
/* A peer that was lost has greeted again. */
void tr_node_found(tr_node *self, int32_t peer);

/* Quietly (no on_peer_lost), by both ways; a peer that lives hears a goodbye. It may greet again. */
void tr_node_disconnect(tr_node *self, int32_t peer);

/* Runs scheduler and transports until tr_node_stop. on_tick (may be NULL) is called about every tick_ms. */
void tr_node_run(tr_node *self, uint32_t tick_ms, void (*on_tick)(void *context, uint64_t now_ns));
void tr_node_stop(tr_node *self); /* any */
/* For what this node cannot go on without, such as memory for a message that somebody waits for: keeps the first reason
 * and stops. What is sent from now on may be lost; whoever runs the node ends it as if its process had died. Any. */
void tr_node_fail(tr_node *self, const tr_error *error);
/* TR_OK, or why the node stopped by itself. Any. */
tr_status tr_node_failure(const tr_node *self, tr_error *err);
/* Calls `ready(context)` on a scheduler thread whenever the descriptor is readable (pidfd, signalfd, timerfd). */
tr_status tr_node_watch(tr_node *self, int descriptor, void (*ready)(void *context), void *context,
                        tr_error *err);
void tr_node_unwatch(tr_node *self, int descriptor);

uint64_t tr_node_now_ns(const tr_node *self); /* any: the clock of its ticks, monotonic or virtual */

/* Any. */
void tr_node_send_system(tr_node *self, int32_t peer, uint32_t topic, const void *bytes, uint32_t size_bytes);
/* Any: a CONTROL message from nobody to any actor. */
void tr_node_post(tr_node *self, tr_actor_id to, uint32_t topic, const void *bytes, uint32_t size_bytes);
/* An actor on another node ended, or its node was lost: tell monitors and links here. */
void tr_node_actor_ended(tr_node *self, tr_actor_id who, const char *reason); /* any */

/* Instead of tr_node_run, for one caller who plays all threads and chooses what comes next. begin (not needed without
 * ticks), then the others until it is stopped, then finish. */
void tr_node_begin(tr_node *self, uint32_t tick_ms, void (*on_tick)(void *context, uint64_t now_ns));
bool tr_node_is_stopped(const tr_node *self);
void tr_node_finish(tr_node *self);
uint32_t tr_node_runnable(const tr_node *self);   /* activations that could come next */
void tr_node_step(tr_node *self, uint32_t which); /* the which-th of them */
bool tr_node_progress(tr_node *self); /* what has arrived, timers that are due; true: there was some */
void tr_node_look(tr_node *self);     /* at the descriptors that it watches */
uint64_t tr_node_next_timer_ns(const tr_node *self); /* or tick; UINT64_MAX: none */

void tr_node_destroy(tr_node **self);

#ifdef __cplusplus
}
#endif
#endif
