/* base/pack.h - MessagePack bodies of control messages: written through msgpack-c, read by a bounded cursor.
 * Why an own reader: msgpack-c's unpacker allocates what the bytes declare, so four hostile bytes ask for
 * gigabytes. This one allocates nothing, believes no count that the remaining bytes could not hold, and fails
 * once for all: after the first fault every read gives zero, so that a decoder reads everything and asks
 * `tr_unpacker_done` at the end.
 * Source: https://github.com/msgpack/msgpack/blob/master/spec.md
 * Threads: an object belongs to one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_PACK_H
#define TROUPE_BASE_PACK_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_packer {
    char *bytes;
    size_t size_bytes, capacity_;
    bool no_memory_;
} tr_packer;

void tr_packer_init(tr_packer *self);
void tr_packer_release(tr_packer *self);
void tr_pack_array(tr_packer *self, size_t count);
void tr_pack_uint(tr_packer *self, uint64_t value);
void tr_pack_int(tr_packer *self, int64_t value);
void tr_pack_f64(tr_packer *self, double value); /* bit for bit */
void tr_pack_text(tr_packer *self, const char *text);
void tr_pack_bytes(tr_packer *self, const void *bytes, size_t size_bytes);
/* Gives the bytes to the caller (tr_free) and leaves self empty.
 * Errors: TR_ENOMEM, of this or any call before. */
tr_status tr_packer_take(tr_packer *self, void **bytes, size_t *size_bytes, tr_error *err);

typedef struct tr_unpacker {
    const uint8_t *next, *end;
    bool bad;
} tr_unpacker;

void tr_unpacker_init(tr_unpacker *self, const void *bytes, size_t size_bytes);
uint32_t tr_unpack_array(tr_unpacker *self, uint32_t max_count); /* the count of what follows */
uint64_t tr_unpack_uint(tr_unpacker *self, uint64_t max);
int64_t tr_unpack_int(tr_unpacker *self, int64_t min, int64_t max);
double tr_unpack_f64(tr_unpacker *self);
/* Always terminated; refuses a NUL inside. */
void tr_unpack_text(tr_unpacker *self, char *text, size_t capacity);
const void *tr_unpack_bytes(tr_unpacker *self, size_t *size_bytes); /* points into the message */
/* Was everything well-formed and read to the end? Errors: TR_ECORRUPT; `what` names it: "topology". */
tr_status tr_unpacker_done(const tr_unpacker *self, const char *what, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
