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

enum { TR_MAX_DOORS = 16 };

/* One place where the head may be. */
typedef struct tr_door_place {
    char address[TR_DOOR_CHARS]; /* the door's, "tcp://10.0.0.5:7600" */
    char bind
        [TR_BIND_CHARS]; /* of this host, "tcp://10.0.0.6:*", by which it is reached from there; "": no way leads there now */
} tr_door_place;

typedef struct tr_knock_options {
    const tr_door_place *doors; /* tried by turns: a job has one head, but another one may come after it */
    int32_t n_doors;            /* 1 to TR_MAX_DOORS */
    const tr_curve_key *key;
    const tr_join_request *request;
    uint32_t wait_ms; /* for somebody to be there */
    bool has_joined;  /* with this key: a handshake that breaks off is of a head that went away */
} tr_knock_options;

/* Release *launch, whose bind says where this host listens; *door: who let it in. Errors: TR_EREFUSED, with the head's words, when
 * no other door opened in that turn; TR_ENOTFOUND: nobody was there; TR_EIO, TR_ECORRUPT. */
tr_status tr_door_knock(const tr_knock_options *options, tr_launch *launch, int32_t *door, tr_error *err);

/* From "10.0.0.5:7600" or "[fd00::1]:7600". Errors: TR_EINVAL (no numbers); TR_ENOTFOUND: there is no way from here to it; then
 * the address is there, and the bind is "". */
tr_status tr_door_place_read(tr_door_place *self, const char *text, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
