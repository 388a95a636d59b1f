/* actors/stage_collect.h - the gradients of replicas on devices that can hand memory to each other, summed there and not on the
 * host. Internal to the stage. `self->collect` is NULL where that is out of the question: the CPU, one replica, several
 * pieces on a worker (two groups on a device would need one order for both).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_COLLECT_H
#define TROUPE_ACTORS_STAGE_COLLECT_H

#include "actors/stage_buckets.h"
#include "actors/stage_device.h"

/* After tr__reduce_init and the program. */
tr_status tr__collect_init(tr__stage *self, tr_error *err);
/* Ends what is under way on the device: before anything waits for the device, or frees what is on it. */
void tr__collect_release(tr__stage *self);

/* Who could join is asked, and all join, or all stay with the host. Until then the first reduction waits. */
void tr__collect_start(tr__stage *self);
void tr__collect_receive(tr__stage *self, const tr_message *message); /* TR_TOPIC_GROUP */
bool tr__collect_is_deciding(const tr__stage *self);
bool tr__collect_is_used(const tr__stage *self);
/* With ZeRO 2, where it is used: is there no memory for all gradients at once (stage_buckets.h)? Then the elements of their memory, and
 * where an element of the flat gradient lies in it. */
bool tr__collect_streams(const tr__stage *self);
int64_t tr__collect_gradient_elements(const tr__stage *self);
int64_t tr__collect_place(const tr__stage *self, int64_t element);

/* Something is under way that tells of its end only when asked; one look. false: the node has failed. */
bool tr__collect_is_busy(const tr__stage *self);
bool tr__collect_look(tr__stage *self);

/* For the weight gradients of the replica's last micro-batch: what is final is sent while the rest is computed. */
void tr__collect_overlap(tr__stage *self, tr_bindings *bindings);
/* What has not been sent is, and the reduction is queued to its end. In tr__reduce_end_group it takes the place of sums on
 * the device where some of it has begun. false: the node has failed. */
bool tr__collect_has_begun(const tr__stage *self);
bool tr__collect_finish(tr__stage *self);
bool tr__collect_is_done(const tr__stage *self);
void tr__collect_take_sum(tr__stage *self); /* then: as self->sum */
void tr__collect_end_step(tr__stage *self);
/* With ZeRO: queues transfers between the replicas' devices, behind all that the stage has queued; tr__collect_is_done tells of their end,
 * too. false: the node has failed. */
bool tr__collect_share(tr__stage *self, const tr_transfer *transfers, size_t n);
void tr__collect_end_sharing(tr__stage *self);

#endif
