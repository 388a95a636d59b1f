/* runtime/door.h - where a host knocks that wants to join a job: one known address of the head, over ZeroMQ with the job's
 * key, apart from all links of the job. Who has the key and the same program is handed a launch, as a child of this host is,
 * and becomes an agent with it; everybody else is refused in a line that both sides tell. Behind the door the job's own
 * random key holds, so an agent of an earlier run, or of a head that died, is refused by that.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_DOOR_H
#define TROUPE_RUNTIME_DOOR_H

#include "runtime/host_messages.h"
#include "runtime/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_door tr_door;

typedef struct tr_door_options {
    const char *listen;      /* "tcp://10.0.0.5:7600" */
    const tr_curve_key *key; /* copied */
    void *context;
    /* *launch is released by the door. Errors: TR_EREFUSED and others, whose text the joiner is told. */
    tr_status (*admit)(void *context, const tr_join_request *request, tr_launch *launch, tr_error *err);
    void (*refused)(void *context, const char *text); /* who, and why */
} tr_door_options;

/* Errors: TR_EINVAL, TR_EIO (somebody listens there already), TR_ENOMEM. */
tr_status tr_door_open(tr_door **out, const tr_door_options *options, tr_error *err);
void tr_door_progress(tr_door *self); /* answers who has knocked; every now and then */
void tr_door_close(tr_door **self);

typedef struct tr_knock_options {
    const char *address; /* the door's, "tcp://10.0.0.5:7600" */
    const char *bind;    /* of this host, "tcp://10.0.0.6:*"; what the launch will say */
    const tr_curve_key *key;
    const tr_join_request *request;
    uint32_t wait_ms; /* for somebody to be there */
} tr_knock_options;

/* Release *launch. Errors: TR_EREFUSED, with the head's words; TR_ENOTFOUND: nobody was there; TR_EIO, TR_ECORRUPT. */
tr_status tr_door_knock(const tr_knock_options *options, tr_launch *launch, tr_error *err);

/* "10.0.0.5:7600" or "[fd00::1]:7600" as the door's address, and the address of this host from where it is reached, as a
 * bind. Errors: TR_EINVAL (no numbers, no way there). */
tr_status tr_door_address(char address[TR_DOOR_CHARS], char bind[TR_BIND_CHARS], const char *text,
                          tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
