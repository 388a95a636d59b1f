/* actors/stage_depart.h - what a stage sends when its device has written it. Internal to the stage.
 * On the CPU a message's body is there when its phase has run. On a GPU the phase has only been queued, and the copy of its
 * result behind it; the stage goes on with what is next, and the message goes when an event says that its body has come.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_DEPART_H
#define TROUPE_ACTORS_STAGE_DEPART_H

#include "actors/stage_device.h"

/* Sends `body` along `edge`, now or when the device has written it; it keeps its own reference. false: the node has failed. */
bool tr__depart(tr__stage *self, const tr__departure *what);
/* The oldest could go, or what came has been copied and can be given back, or the device has failed. */
bool tr__departure_is_ready(const tr__stage *self);
bool tr__depart_ready(tr__stage *self); /* does it. false: the node has failed */
/* Something of both is under way, and tells of its end only when asked. */
bool tr__departures_are_busy(const tr__stage *self);
bool tr__may_send(const tr__stage *self, uint32_t edge);
bool tr__may_queue(const tr__stage *self, tr_phase phase);
uint32_t tr__departures_on(const tr__stage *self, uint32_t edge); /* that wait */

#endif
