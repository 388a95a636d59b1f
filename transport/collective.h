/* transport/collective.h - groups of devices that hand memory to each other directly: how the gradients of replicas travel
 * between GPUs. What goes through transport.h is messages, in the host's memory; an exchange is queued on a stream, from
 * device memory to device memory, and all members of a group must queue the same ones in the same order.
 * The kinds are a table, handed to whoever uses it: nobody above knows a library. `tr_nccl` is the one there is.
 * A group begins with a name that one member makes and tells the others (by messages), lives for one epoch, and is left by
 * each member alone, at any moment: a member that is gone can leave the others' exchanges unfinished for ever, and leaving
 * ends one's own.
 * Threads: a group from one thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_COLLECTIVE_H
#define TROUPE_TRANSPORT_COLLECTIVE_H

#include "base/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TR_GROUP_NAME_BYTES = 128,
    TR_GROUP_LAUNCH_MS = 20000, /* until an exchange is queued; all that it needs is here */
    TR_GROUP_LEAVE_MS = 5000    /* until what it had under way is off the device */
};

typedef struct tr_group tr_group;

typedef struct tr_group_options {
    uint8_t name[TR_GROUP_NAME_BYTES];
    uint32_t n_members, member; /* at least 2 */
    tr_stream *stream;          /* of its exchanges; outlives the group */
} tr_group_options;

/* One piece of an exchange. Between two members sends and receives match in their order, and in size. */
typedef struct tr_transfer {
    uint32_t peer;
    bool sends;
    void *memory; /* of the stream's device */
    size_t size_bytes;
} tr_transfer;

typedef struct tr_collectives {
    /* What it is, for people: "NCCL 2.28.9". Errors: TR_EUNSUPPORTED (its library is not here, named). */
    tr_status (*describe)(char *text, size_t capacity, tr_error *err);
    /* A name for a group that nobody has had. Errors: those of describe, TR_EIO. */
    tr_status (*name_group)(uint8_t name[TR_GROUP_NAME_BYTES], tr_error *err);
    /* Begins to join, and returns; leave it also when settling fails. Errors: those of describe, TR_EIO, TR_ENOMEM. */
    tr_status (*join)(tr_group **out, const tr_group_options *options, tr_error *err);
    /* Polls. Settled: all members have joined, and each has heard from each. Later it finds what has failed since.
     * Errors: TR_EIO. */
    tr_status (*settle)(tr_group *self, bool *settled, tr_error *err);
    /* Queues all transfers as one; none of size 0. Errors: TR_EIO. */
    tr_status (*exchange)(tr_group *self, const tr_transfer *transfers, size_t n_transfers, tr_error *err);
    /* Ends what is under way, and nulls *self; NULL-safe. Errors: TR_EIO: the device still works on it after
     * TR_GROUP_LEAVE_MS; then nothing of it may be freed, and the process must go. */
    tr_status (*leave)(tr_group **self, tr_error *err);
} tr_collectives;

/* NCCL, looked for at run time (libnccl.so.2, or what TROUPE_NCCL names), between GPUs of one host. */
extern const tr_collectives tr_nccl;

#ifdef __cplusplus
}
#endif
#endif
