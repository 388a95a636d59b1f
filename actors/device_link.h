/* actors/device_link.h - bodies of messages that stay on devices: the sender's pool of them, and what the receiver sees of it.
 * A pool has a slot for each credit of its edge; the message carries a descriptor, and the receiver's device copies from the
 * sender's. Nothing here waits for another process: a message goes when its body is written, and its credit comes back
 * when the body has been copied, so a slot is written and read by turns. See actors/DESIGN.md for what deaths do.
 * Threads: a pool and a view from one thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_DEVICE_LINK_H
#define TROUPE_ACTORS_DEVICE_LINK_H

#include "base/device_share.h"
#include "base/pack.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The body of a message whose content is in a slot: numbers of this machine, since both ends are on it. */
typedef struct tr_link_descriptor {
    uint64_t pool;
    uint64_t use; /* of the pool, from 1 on without a gap */
    uint64_t offset_bytes, size_bytes;
    uint32_t slot, zero_;
} tr_link_descriptor;

/* --- the sender's --- */

typedef struct tr_link_pool {
    tr_buffer *memory; /* NULL: there is none */
    uint8_t handle[TR_DEVICE_HANDLE_BYTES];
    uint64_t id; /* another one in every epoch */
    uint64_t stride_bytes, n_uses;
    uint32_t n_slots, epoch;
    bool is_offered; /* somebody may have it open, */
    bool is_counted; /* ... which is no matter: see tr_device_share_is_counted */
} tr_link_pool;

/* Bytes of the device for so many slots. */
uint64_t tr_link_pool_bytes(uint32_t n_slots, uint64_t slot_bytes);
/* Memory that an earlier epoch's pool of this device and size has left, or new; its beginning is written with what a view's
 * look expects. Errors: those of tr_device_share_new. */
tr_status tr_link_pool_open(tr_link_pool *self, tr_stream *stream, uint32_t epoch, uint32_t n_slots,
                            uint64_t slot_bytes, tr_error *err);
/* While others may have it open, a GPU's memory cannot be freed: it stays until tr_link_pools_forget in a later epoch. */
void tr_link_pool_close(tr_link_pool *self);
/* Nobody of an earlier epoch than this one has anything open: what pools have left is freed. */
void tr_link_pools_forget(uint32_t epoch);
/* What a view needs to know; from now on somebody may have it open. Five items. */
void tr_link_pool_offer(tr_link_pool *self, tr_packer *packer);
/* Where the body goes, and its descriptor: the next use. */
void *tr_link_pool_place(tr_link_pool *self, uint32_t slot, uint64_t size_bytes, tr_link_descriptor *out);

/* --- the receiver's --- */

typedef struct tr_link_view {
    tr_buffer *memory; /* NULL: nothing is open */
    uint64_t id, stride_bytes, n_uses;
    uint32_t n_slots;
} tr_link_view;

/* What an offer says, which must be of n_slots for bodies of size_bytes, is opened and looked at through the device: the words
 * that the sender has written there must arrive on it. Errors: those of tr_device_share_open, TR_ECORRUPT. */
tr_status tr_link_view_open(tr_link_view *self, tr_stream *stream, tr_unpacker *offer, uint32_t n_slots,
                            uint64_t size_bytes, tr_error *err);
void tr_link_view_close(tr_link_view *self); /* before: nothing on the device reads it any more */
/* Where the body of a message lies that took slot `slot`. Errors: TR_ECORRUPT (it is not the pool's next use, or not a body of
 * size_bytes in that slot). */
tr_status tr_link_view_find(tr_link_view *self, const void *body, uint64_t body_bytes, uint32_t slot,
                            uint64_t size_bytes, const void **out, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
