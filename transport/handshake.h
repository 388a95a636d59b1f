/* transport/handshake.h - what a peer says first: the body of a HELLO frame.
 * A MessagePack array: job key (16 bytes), node, incarnation, version, address. The address is where the sender
 * receives, so that one connect makes a link of two directions. A HELLO without a body means goodbye.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_HANDSHAKE_H
#define TROUPE_TRANSPORT_HANDSHAKE_H

#include "transport/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_HANDSHAKE_VERSION = 1, TR_HELLO_MAX_BYTES = TR_ADDRESS_CHARS + 128 };

typedef struct tr_hello {
    uint8_t job_key[TR_JOB_KEY_BYTES];
    int32_t node;
    uint32_t incarnation;
    uint32_t version;
    char address[TR_ADDRESS_CHARS];
} tr_hello;

/* At most TR_HELLO_MAX_BYTES, the caller's to tr_free. Errors: TR_ENOMEM. */
tr_status tr_hello_write(const tr_hello *self, void **bytes, size_t *size_bytes, tr_error *err);

/* Reads what may be hostile; never more than size_bytes, allocates nothing. Errors: TR_ECORRUPT. */
tr_status tr_hello_read(tr_hello *self, const void *bytes, size_t size_bytes, tr_error *err);

/* May the peer who said this join us? Keys are never printed. Errors: TR_EREFUSED, in words for a log. */
tr_status tr_hello_check(const tr_hello *self, const uint8_t job_key[TR_JOB_KEY_BYTES], tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
