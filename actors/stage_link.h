/* actors/stage_link.h - activations, gradients and tied gradients that go from device to device, past the host's memory. Internal to
 * the stage.
 * At the beginning of an epoch the sender of each edge offers its pool (device_link.h), and the receiver takes it or says why
 * not; until then, and where it does not, bodies go through pinned memory in the messages themselves. Each message says
 * which way it went, so nobody waits for the answer, and no bit depends on it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_LINK_H
#define TROUPE_ACTORS_STAGE_LINK_H

#include "actors/stage_device.h"

/* After the stage's edges are known and its device is open. */
tr_status tr__links_init(tr__stage *self, tr_error *err);
void tr__links_start(tr__stage *self); /* offers */
void tr__links_receive(tr__stage *self,
                       const tr_message *message); /* TR_TOPIC_LINK; also where there are no links */
/* Behind the device's streams: nothing is under way. NULL-safe. */
void tr__links_release(tr__stage *self);

/* What is going to be sent along out_activation or out_gradient: memory for a body, or a descriptor with its place in the
 * pool. NULL: no memory. */
tr_buffer *tr__links_take(tr__stage *self, uint32_t edge);
/* Where the body goes that this descriptor describes; NULL: it is none, the body goes into the buffer. */
void *tr__links_place(const tr__stage *self, const tr_buffer *buffer);

/* May tied gradients go along this edge on the device? Then waits until `from`, on the device, is in a slot, and sends word of it.
 * false: the node has failed. */
bool tr__links_carry(const tr__stage *self, uint32_t edge);
bool tr__links_send(tr__stage *self, uint32_t edge, const void *from, uint64_t size_bytes, uint32_t index);
/* Queues the copy of what such a message describes; it goes back when the stream is done. false: the node has failed. */
bool tr__links_copy(tr__stage *self, const tr_message *message, void *to, uint64_t size_bytes);

/* Queues the copy of a message's body to where the micro-batch reads it, and takes the message until that is done. false: the node
 * has failed. */
bool tr__links_enter(tr__stage *self, tr_message **message, uint32_t flight, void *to, uint64_t size_bytes);
/* Behind each phase: what it has read in its micro-batch's place may be written again when it is done. */
bool tr__links_note_phase(tr__stage *self, uint32_t flight);

bool tr__links_are_busy(const tr__stage *self);    /* bodies are being copied, */
bool tr__links_has_arrived(const tr__stage *self); /* ... and the first is there: */
bool tr__links_release_arrived(tr__stage *self);   /* its message goes back. false: the node has failed */

#endif
