/* actors/stage_device.h - a stage whose memory is a device's and not the host's: what stage.c and its sisters ask for then.
 * Internal to the stage. `self->device` is NULL where the stage computes in the memory that messages and slots are in.
 * Every function that can fail in a handler returns false when the device has failed: the node ends then, nothing more is
 * sent, and the supervisor replaces the process.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_DEVICE_H
#define TROUPE_ACTORS_STAGE_DEVICE_H

#include "actors/stage_internal.h"
#include "ops/optimizer.h"

/* Before the program is made, which wants the stream. */
tr_status tr__device_open(tr__stage *self, tr_error *err);
/* Memory for what the program, its inputs and outputs and the losses need; all buffers of messages become pinned. */
tr_status tr__device_allocate_work(tr__stage *self, tr_error *err);
/* Of the device's kind, contents undefined, given back with the device. */
tr_status tr__device_memory(tr__stage *self, tr_memory_kind kind, size_t size_bytes, void **out,
                            tr_error *err);
/* The state in the slot that is the newest comes to the device, and rounded copies are made of it. */
tr_status tr__device_load_state(tr__stage *self, tr_error *err);
void tr__device_release(tr__stage *self); /* after the program; also what open has left half done */
/* Waits for all that was queued: before memory that it uses goes. */
void tr__device_settle(tr__stage *self);
tr_stream *tr__device_stream(const tr__stage *self);

/* stage_failure.c. What its device could not do: the node ends with TR_EDEVICE where that is a GPU; else with the error as it is. */
void tr__device_failed(tr__stage *self, const tr_error *error);
/* The same for what is told otherwise, as by `init`: returns the status to go on with, which is *err's then. */
tr_status tr__device_blame(const tr__stage *self, tr_status status, tr_error *err);
/* What devices could not do together, an exchange or a link: a peer's fault, unless each call to the own one fails. Returns false. */
bool tr__device_failed_or_peer(tr__stage *self, const tr_error *error);

/* Brings what has come for the phase to the device, and binds it and all that the phase writes. */
bool tr__device_bind(tr__stage *self, tr__flight *flight, tr_phase phase);
/* Could bind do so without waiting for the device? */
bool tr__device_may_bind(const tr__stage *self, tr_phase phase);
/* Behind the phase: brings what others wait for to the host. It is there when a mark behind it is past. */
bool tr__device_collect(tr__stage *self, tr__flight *flight, tr_phase phase);

/* An event behind what has been queued, kept in one of TR__MOST_DEPARTURES places. */
bool tr__device_mark(tr__stage *self, uint32_t mark);
bool tr__device_is_past(const tr__stage *self, uint32_t mark); /* or the device has failed */
bool tr__device_check(tr__stage *self, uint32_t mark);         /* it is past, and all has gone well */

/* Contents are of an earlier use: gradients begin by being written. NULL: no memory, or the device has failed. */
tr_buffer *tr__device_take_flat(tr__stage *self);
bool tr__device_accumulate(tr__stage *self, tr_buffer *into, const tr_buffer *from);
tr_buffer *tr__device_take_shard(tr__stage *self); /* for the sum of the own shard alone; NULL: no memory */
bool tr__device_blocks_to_host(tr__stage *self);   /* before other replicas read them */
bool tr__device_take_sum(tr__stage *self);     /* self->reduced, made on the host, is the step's gradient */
bool tr__device_tied_to_host(tr__stage *self); /* into self->reduced, before other stages read them */
/* The uses of a tied parameter, some on the device, some in messages, into their total. */
bool tr__device_tie(tr__stage *self);

/* Losses of the step and the sums of squares, read when all is done; *sums are of the parameters in their order. */
bool tr__device_read_step(tr__stage *self, const double **sums);
/* Queues the update (options NULL: it is left out), and behind it the copy of the new state to slot `into`, unless that is TR__NO_SLOT. */
enum { TR__NO_SLOT = -1 };
bool tr__device_update(tr__stage *self, const tr_adamw_options *options, int into);
bool tr__device_is_copying(const tr__stage *self); /* the newest slot is being written */
bool tr__device_has_copied(const tr__stage *self); /* ... and could be published without waiting */
bool tr__device_end_copy(tr__stage *self);         /* waits */

#endif
