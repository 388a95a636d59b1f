/* transport/address.h - where nodes listen, and whether others than this machine's own processes could reach it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_ADDRESS_H
#define TROUPE_TRANSPORT_ADDRESS_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_BIND_CHARS = 80 };

/* "10.0.0.5" or "fd00::2", an address of this machine, as "tcp://10.0.0.5:*". No names, no wildcards: the others are
 * told this very address. Errors: TR_EINVAL. */
tr_status tr_address_bind(char bind[TR_BIND_CHARS], const char *host, tr_error *err);

/* Does "ipc://...", "tcp://127.0.0.1:5" or "tcp://[::1]:*" stay on this machine? Names do not count, nor what
 * cannot be read: they may lead anywhere. */
bool tr_address_is_local(const char *address);
bool tr_host_is_local(const char *host); /* the same for "127.0.0.1" and "::1" */

/* Can this process listen there, at "tcp://HOST:*" as tr_address_bind writes it? Errors: TR_EINVAL. */
tr_status tr_address_try(const char *bind, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
