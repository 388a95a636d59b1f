/* actors/stage_zero.h - a stage of which each replica holds a shard of the state (ZeRO): its parameters come whole from all of them.
 * Internal to the stage. `self->zero` is NULL where every replica has all of the state.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_ZERO_H
#define TROUPE_ACTORS_STAGE_ZERO_H

#include "actors/stage_internal.h"

/* After the edges and tr__reduce_init. */
tr_status tr__zero_init(tr__stage *self, tr_error *err);
/* With the state of self->slot there, or where it is apart from slots, laid out as one: memory for all parameters, to which the
 * program is bound. */
tr_status tr__zero_bind(tr__stage *self, const float *apart, tr_error *err);
void tr__zero_release(tr__stage *self);

/* The own shard is that of self->step: it goes to the others, and theirs are waited for. At the beginning of an epoch, and
 * behind each update. */
void tr__zero_begin(tr__stage *self);
/* All parameters of self->step are here: work on its micro-batches may begin. */
bool tr__zero_is_whole(const tr__stage *self);
bool tr__zero_awaits(const tr__stage *self); /* the others' */
bool tr__zero_is_possible(const tr__stage *self);
bool tr__zero_advance(tr__stage *self); /* false: the actor has failed */

#endif
