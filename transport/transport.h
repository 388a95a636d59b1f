/* transport/transport.h - moves messages between nodes (processes, or threads that play one).
 * Kinds behind one table: "inproc" (pointers through a queue), "ucx" (active messages; shared memory
 * and TCP; eager and rendezvous), "zmq" (ROUTER/DEALER over ipc and tcp), and for tests "sim" (sim.h). A transport never blocks, never
 * retries on its own, and never decides what a message means. Back-pressure is the credits' business above:
 * what is sent is queued until it is gone. Order: frames of one kind of source and edge may arrive out of
 * order over ucx; receivers number them. A peer is named by its node number, which is the caller's choice
 * (the placement's).
 * Threads: one thread at a time calls a transport.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_TRANSPORT_H
#define TROUPE_TRANSPORT_TRANSPORT_H

#include "transport/curve.h"
#include "transport/message.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_transport tr_transport;

enum { TR_TRANSPORT_MAX_DESCRIPTORS = 4, TR_ADDRESS_CHARS = 4096, TR_JOB_KEY_BYTES = 16 };

/* Called from within tr_transport_progress and tr_transport_send, on the calling thread. */
typedef struct tr_transport_events {
    void *context;
    /* Where the body of a checked frame shall go: a buffer with a reference for the transport, of at least
     * body_bytes, or NULL to refuse the frame (counted, dropped). Never asked by inproc, which passes the
     * sender's buffer on. */
    tr_buffer *(*place)(void *context, int32_t peer, const tr_frame *frame);
    /* A whole message arrived; it is the callee's now. */
    void (*deliver)(void *context, int32_t peer, tr_message *message);
    /* The link to a peer broke (once a peer). Sends to it are dropped from now on. */
    void (*peer_lost)(void *context, int32_t peer, const char *reason);
    /* What a peer sent came with other bytes than their checksum is of, and was dropped: something is missing between what comes
     * before and behind it. The link stays; what is to be done is the user's to know. Once for all since the last time. May
     * be NULL. */
    void (*damaged)(void *context, int32_t peer, const char *reason);
} tr_transport_events;

typedef struct tr_transport_options {
    int32_t node;                      /* this node's number */
    uint32_t incarnation;              /* of this node */
    uint8_t job_key[TR_JOB_KEY_BYTES]; /* peers with another key are refused at the handshake */
    const char *bind; /* zmq: where to listen, "ipc://@name" or "tcp://127.0.0.1:*"; NULL: chosen */
    /* zmq: only peers with the same are spoken with, and encrypted; NULL: none, and only peers on this machine. Copied. */
    const tr_curve_key *key;
    uint32_t heartbeat_timeout_ms; /* zmq: a peer silent for so long is lost; 0: 30 s */
    /* ucx: somebody else tells of dead peers, as a job's agent does by pidfds: no keepalive. UCX 1.13's follows, now and
     * then, a null pointer into an endpoint that is being closed (ucp_ep_do_uct_ep_am_keepalive). */
    bool deaths_are_told;
    uint32_t max_body_bytes;        /* larger frames are refused; 0: 1 GiB */
    bool hash_bodies;               /* send and verify body hashes */
    struct tr_sim_network *network; /* sim only: what it goes through */
} tr_transport_options;

typedef struct tr_transport_counters {
    uint64_t frames_sent, frames_received, bytes_sent, bytes_received;
    uint64_t refused; /* frames that were damaged, foreign, or not placed */
    uint64_t starved; /* links broken or not made for want of memory here: no frame is lost alone */
} tr_transport_counters;

/* kind: "inproc", "ucx", "zmq" or "sim". events is copied.
 * Errors: TR_EINVAL (kind; an address beyond this machine without a key), TR_EIO (the library's words), TR_ENOMEM. */
tr_status tr_transport_new(tr_transport **out, const char *kind, const tr_transport_options *options,
                           const tr_transport_events *events, tr_error *err);

/* Text that another node's tr_transport_connect understands; lives as long as the transport. */
const char *tr_transport_address(const tr_transport *self);

/* Makes `peer` reachable at `address`. Links are two-way; both sides may connect, or only one: the other
 * learns of the peer from its HELLO. Does not wait. Errors: TR_EINVAL, TR_EIO. */
tr_status tr_transport_connect(tr_transport *self, int32_t peer, const char *address, tr_error *err);

/* Takes *message and nulls it, always. Seals the frame where it leaves the process. The body is kept until it is gone and must not change
 * meanwhile. Errors: TR_ECLOSED (peer unknown or lost: the message is dropped), TR_ENOMEM (the link breaks), TR_EIO. */
tr_status tr_transport_send(tr_transport *self, int32_t peer, tr_message **message, tr_error *err);

/* For tests: a bit of the next data frame that is sent flips on its way. */
void tr_transport_damage_next(tr_transport *self);

/* Does what can be done without waiting: delivers arrivals, finishes sends.
 * Returns how much happened; 0: nothing. */
int tr_transport_progress(tr_transport *self);
/* true: progress would find nothing to do. A look that costs a load or two, for whoever looks again and again; false where
 * the kind cannot tell. Any thread, also beside the one that calls the transport. */
bool tr_transport_quiet(const tr_transport *self);

/* For sleeping: descriptors to poll(2) for reading. Before sleeping call arm: true means "sleep now, a
 * descriptor will tell", false "something happened, progress again". */
int tr_transport_descriptors(const tr_transport *self, int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS]);
bool tr_transport_arm(tr_transport *self);

size_t tr_transport_unsent(const tr_transport *self);           /* messages accepted and not yet gone */
void tr_transport_disconnect(tr_transport *self, int32_t peer); /* quietly: no peer_lost */
/* Disconnects all, and begins anew with nothing that a killed peer could have left behind: for who outlives its peers. The
 * address may be another one, and the descriptors. Peers greet from now on as `oldest` or a later incarnation: what earlier
 * ones had still under way is dropped without a word. Errors: TR_EIO; then it is merely disconnected. */
tr_status tr_transport_renew(tr_transport *self, uint32_t oldest, tr_error *err);
tr_transport_counters tr_transport_count(const tr_transport *self);
void tr_transport_destroy(tr_transport **self); /* waits at most 100 ms for unsent messages */

#ifdef __cplusplus
}
#endif
#endif
