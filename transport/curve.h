/* transport/curve.h - the keys by which the nodes of a job know one another over ZeroMQ, and the file they lie in.
 * A job has one CURVE key pair, which all its nodes hold: as servers they prove that they have its secret half, and
 * as clients they do so again, since none but this public key is let in. So whoever has the file may join the job,
 * nobody else can, and what they say is encrypted. CURVE keeps the two uses of a pair apart by its nonces' prefixes.
 * The file is plain text, mode 0600; one that others may read or write is refused, as ssh does.
 * Sources: zmq_curve(7), zmq_curve_keypair(3), https://rfc.zeromq.org/spec/26/
 * Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_CURVE_H
#define TROUPE_TRANSPORT_CURVE_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_CURVE_CHARS = 41 }; /* Z85 of 32 bytes, and a NUL */

typedef struct tr_curve_key {
    char public_half[TR_CURVE_CHARS], secret_half[TR_CURVE_CHARS];
} tr_curve_key;

/* Errors: TR_EUNSUPPORTED (a libzmq without CURVE), TR_EIO. */
tr_status tr_curve_key_new(tr_curve_key *out, tr_error *err);

/* A new file, mode 0600. Errors: TR_EEXIST (nothing is ever overwritten), TR_ENOTFOUND (no such directory), TR_EIO. */
tr_status tr_curve_key_write(const tr_curve_key *self, const char *path, tr_error *err);

/* Errors: TR_ENOTFOUND, TR_EINVAL (no file, others may open it, or it is no key; never quotes what it holds),
 * TR_EUNSUPPORTED, TR_EIO. */
tr_status tr_curve_key_read(tr_curve_key *out, const char *path, tr_error *err);

/* Do the halves belong together? Errors: TR_EINVAL, TR_EUNSUPPORTED. */
tr_status tr_curve_key_check(const tr_curve_key *self, tr_error *err);
void tr_curve_key_wipe(tr_curve_key *self); /* overwrites it, also where nobody reads it again */

#ifdef __cplusplus
}
#endif
#endif
