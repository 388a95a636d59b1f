/* base/local_socket.h - how processes of one user on one host speak to each other beside the transports: sockets whose messages
 * keep their bounds, come in order, and can carry descriptors (unix(7), SOCK_SEQPACKET, SCM_RIGHTS). One listens under a
 * name in a directory, for its own user only; or a pair is made and one end inherited.
 * Threads: none of this is shared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_LOCAL_SOCKET_H
#define TROUPE_BASE_LOCAL_SOCKET_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_LOCAL_MOST_DESCRIPTORS = 64 }; /* with one message; the kernel's bound is 253 */

/* directory: a descriptor. What a dead process left there under that name is replaced, so that there is one listener is the
 * caller's business. It does not block; its mode is 0600. Errors: TR_EIO. */
tr_status tr_local_listen(int directory, const char *name, int *listener, tr_error *err);
/* The next who waits there and is of this user, or root: a connection that does not block. *pid: its, may be NULL. -1: nobody. */
int tr_local_accept(int listener, int32_t *pid);
/* Errors: TR_ENOTFOUND: nobody listens there; TR_EIO. */
tr_status tr_local_connect(int directory, const char *name, int *connection, tr_error *err);
/* Errors: TR_EIO. */
tr_status tr_local_pair(int ends[2], tr_error *err);

/* Whole, with the descriptors, which stay the caller's; it does not wait. false: it could not be sent. */
bool tr_local_send(int socket, const void *bytes, size_t size_bytes, const int *descriptors, int count);
/* The next message that waits there, as recv(2), without waiting. Its descriptors are the caller's; more than room, or a
 * message longer than capacity, count as an error (EBADMSG), and nothing of it is left open. */
ssize_t tr_local_receive(int socket, void *bytes, size_t capacity, int *descriptors, int room, int *count);

#ifdef __cplusplus
}
#endif
#endif
