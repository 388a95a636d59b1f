/* transport/frame.h - the 64 bytes in front of every message between processes; the wire format.
 * All numbers little-endian, at the offsets of the struct below (checked at compile time on little-endian
 * hosts, the only ones supported). The header's checksum is always verified. The hash of the body is verified
 * when TR_FRAME_HASHED is set.
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_FRAME_H
#define TROUPE_TRANSPORT_FRAME_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TR_FRAME_BYTES = 64,
    TR_FRAME_MAGIC = 0x5254, /* 'T' 'R' */
    TR_FRAME_VERSION = 1
};

typedef enum tr_frame_kind {
    TR_FRAME_HELLO = 1, /* first frame on a link: MessagePack {job key, node, incarnation, version} */
    TR_FRAME_DATA,      /* a message along an edge; took one slot of it */
    TR_FRAME_CREDIT, /* slots given back to the sender of an edge; slot and sequence, or more of both as body */
    TR_FRAME_CONTROL, /* actor to actor beside all edges: small, own quota; `edge` is the topic */
    TR_FRAME_SYSTEM,  /* node to node: plans, starts, heartbeats, deaths; `edge` is the topic */
    TR_FRAME_KIND_END
} tr_frame_kind;

enum {
    TR_FRAME_HASHED = 1,     /* body_hash is the tr_hash64 of the body */
    TR_FRAME_EVALUATION = 2, /* a micro-batch that is only measured, not learned from; for actors */
    TR_FRAME_SURVIVOR =
        4, /* its sender's process was there in an earlier epoch; for actors, see actors/replay.h */
    TR_FRAME_DESCRIPTOR = 8 /* the body says where it is on a device; for actors, see actors/device_link.h */
};

typedef struct tr_frame {
    uint16_t magic;
    uint8_t version;
    uint8_t kind; /* tr_frame_kind */
    uint16_t flags;
    uint16_t slot;
    uint32_t header_crc; /* CRC-32C of the 64 bytes with this field 0 */
    uint32_t epoch;
    uint64_t source, destination; /* identities of actors; of nodes for HELLO and SYSTEM */
    uint32_t
        incarnation; /* of the source: its node's in the upper half of an actor's, its restarts in the lower */
    uint32_t edge;
    uint32_t sequence; /* per (source incarnation, edge), from 0 */
    uint32_t step;
    uint32_t microbatch;
    uint32_t body_bytes;
    uint64_t body_hash;
} tr_frame;

/* Sets magic, version and header_crc; everything else is the caller's. */
void tr_frame_seal(tr_frame *frame);

/* Is this a frame of this version with a right checksum, a known kind and at most max_body_bytes?
 * Errors: TR_ECORRUPT, TR_EREFUSED (another version). */
tr_status tr_frame_check(const tr_frame *frame, uint32_t max_body_bytes, tr_error *err);
tr_status tr_frame_check_body(const tr_frame *frame, const void *body, tr_error *err); /* TR_ECORRUPT */

#ifdef __cplusplus
}
#endif
#endif
