/* transport/sim.h - a network that does not exist: what the kind "sim" moves its messages through.
 * Frames lie in it with the time at which they are due; whoever owns it moves the time on and lands them one by one, so
 * that a whole job runs on one thread and a seed decides everything (runtime/simulation.h).
 * What it may do to a frame is what real wires do below a transport: delay it, repeat it, let others overtake it, and lose
 * it. A lost frame comes later, not never: the transports resend (TCP, UCX), nothing above them does, and what never comes
 * is a broken link, told by peer_lost.
 * A node is an end for each incarnation. What flies to or from one that is gone may yet land at the node's next one, as
 * if a wire had kept it: only frames that carry an epoch, since what the transports themselves say belongs to a connection.
 * Threads: everything on one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_SIM_H
#define TROUPE_TRANSPORT_SIM_H

#include "transport/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_sim_network tr_sim_network;

typedef struct tr_sim_faults {
    uint64_t delay_min_ns, delay_max_ns; /* of each frame */
    uint32_t lost_permille;              /* comes resend_ns later, or twice that, ... */
    uint64_t resend_ns;
    uint32_t repeated_permille; /* comes twice, the second time with a delay of its own */
    bool in_order; /* as over TCP: of one sender and receiver, no frame overtakes another, none is repeated */
} tr_sim_faults;

typedef struct tr_sim_counters {
    uint64_t n_sent, n_landed, n_lost, n_repeated, n_overtaken,
        n_vanished;  /* vanished: nobody there any more */
    uint64_t n_late; /* came to or from a later incarnation than they were sent to or from */
} tr_sim_counters;

/* now_ns is read whenever a frame is sent or looked for; it and the faults outlive the network. Errors: TR_ENOMEM. */
tr_status tr_sim_network_new(tr_sim_network **out, uint64_t seed, const uint64_t *now_ns,
                             const tr_sim_faults *faults, tr_error *err);
void tr_sim_network_destroy(tr_sim_network **self); /* after its transports */

size_t tr_sim_network_flying(const tr_sim_network *self);
size_t tr_sim_network_due(const tr_sim_network *self); /* how many of them could land now */
uint64_t
tr_sim_network_next_ns(const tr_sim_network *self); /* when the next is due; UINT64_MAX: none flies */
/* Lands the which-th of those that are due: it is delivered by the next progress of the transport of the node that is
 * returned, of the incarnation; -1: nobody is there. in_order lands the oldest of the same link instead. *frame says what it was. */
int32_t tr_sim_network_land(tr_sim_network *self, size_t which, tr_frame *frame, uint32_t *incarnation);
/* From now on the end sends only *n_left frames more, counted down, whatever it believes; then its process has died in the
 * midst of what it does. NULL: as many as it likes. */
void tr_sim_network_limit(tr_sim_network *self, int32_t node, uint32_t incarnation, uint32_t *n_left);
/* Who has none left tries to send another: told before that comes to nothing. */
void tr_sim_network_on_silent(tr_sim_network *self, void (*told)(void *context, const uint32_t *n_left),
                              void *context);
/* Its process is gone: it sends nothing any more, not even that it goes. Some of what flies from it is lost. Its peers hear
 * of it late or, one in four, never. */
void tr_sim_network_kill(tr_sim_network *self, int32_t node, uint32_t incarnation);
/* The connection between two nodes breaks: what flies and what is sent there is lost. `told` hears of it, the other perhaps. */
void tr_sim_network_cut(tr_sim_network *self, int32_t told, int32_t other);

/* The i-th frame that flies, in no order; *body (may be NULL) its bytes. For audits. */
const tr_frame *tr_sim_network_frame(const tr_sim_network *self, size_t i, const void **body);
/* Is it on its way between two that still have a connection, the one that it was sent on? */
bool tr_sim_network_is_current(const tr_sim_network *self, size_t i);
tr_sim_counters tr_sim_network_count(const tr_sim_network *self);

#ifdef __cplusplus
}
#endif
#endif
