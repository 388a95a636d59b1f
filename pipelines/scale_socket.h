/* pipelines/scale_socket.h - how a person's wish for another layout reaches the head of a run: a socket in the run's
 * directory, open to its own user only. A wish is one line ("data=4"), and so is each answer, behind its kind.
 * Threads: none of this is shared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_SCALE_SOCKET_H
#define TROUPE_PIPELINES_SCALE_SOCKET_H

#include "runtime/lease.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TR_SCALE_SOCKET TR_LEASE_HEAD_SOCKET

enum { TR_SCALE_LINE_BYTES = TR_ERROR_SIZE + 128 };

typedef enum tr_scale_answer {
    TR_SCALE_SAYS = 's',    /* on the way */
    TR_SCALE_DONE = 'd',    /* the last word, as the others below */
    TR_SCALE_REFUSED = 'r', /* nothing has changed: it cannot be done */
    TR_SCALE_FAILED = 'f'   /* nothing has changed: it did not succeed */
} tr_scale_answer;

/* directory: a descriptor. The caller has the run's lock: what a dead head left there is replaced. *listener does not block.
 * Errors: TR_EIO. */
tr_status tr_scale_listen(int directory, int *listener, tr_error *err);
void tr_scale_unlink(int directory);
/* The next who waits there and may speak; -1: nobody. It does not block. */
int tr_scale_accept(int listener);
/* Errors: TR_ENOTFOUND: no such run, or nobody listens; TR_EIO. */
tr_status tr_scale_connect(const char *run, int *connection, tr_error *err);

bool tr_scale_tell(int connection, const char *line); /* false: nobody hears it */
bool tr_scale_answer_with(int connection, tr_scale_answer kind, const char *line);
/* One line, of at most capacity - 1 bytes. 1: there; 0: none yet; -1: the other side is gone. */
int tr_scale_hear(int connection, char *line, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
