/* base/pack.h - the bodies of control messages: one MessagePack array of numbers, texts and byte strings.
 * Writing never fails in the middle: running out of memory is remembered and told by tr_pack_finish. Reading
 * is bounded by the bytes given; after the first thing that is not as asked for, every further read gives 0
 * and `good` is false, so that a reader checks once, at the end. Format:
 * https://github.com/msgpack/msgpack/blob/master/spec.md Threads: each packer and unpacker belongs to one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_PACK_H
#define TROUPE_BASE_PACK_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_packer {
    unsigned char *bytes; /* the caller's after tr_pack_finish; free with tr_free */
    size_t size_bytes, capacity;
    bool failed;
} tr_packer;

void tr_pack_begin(tr_packer *self, uint32_t n_fields); /* an array of so many fields follows */
void tr_pack_u64(tr_packer *self, uint64_t value);
void tr_pack_f64(tr_packer *self, double value); /* bit for bit */
void tr_pack_text(tr_packer *self, const char *text);
void tr_pack_bytes(tr_packer *self, const void *bytes, size_t size_bytes);
tr_status tr_pack_finish(tr_packer *self, tr_error *err); /* TR_ENOMEM: nothing is left to free */

typedef struct tr_unpacker {
    const unsigned char *at, *end;
    uint32_t n_left; /* fields of the array not yet read */
    bool good;
} tr_unpacker;

void tr_unpack_begin(tr_unpacker *self, const void *bytes, size_t size_bytes);
uint32_t tr_unpack_fields(const tr_unpacker *self); /* still to be read */
uint64_t tr_unpack_u64(tr_unpacker *self);
double tr_unpack_f64(tr_unpacker *self);
void tr_unpack_text(tr_unpacker *self, char *text, size_t capacity); /* too long: not good */
const void *tr_unpack_bytes(tr_unpacker *self, size_t *size_bytes);  /* points into the message, unaligned */
bool tr_unpack_done(const tr_unpacker *self);                        /* good, and nothing left over */

#ifdef __cplusplus
}
#endif
#endif
