/* actors/stage_examine.h - a step whose loss or gradient was no number is run once more, and there each stage looks at what every
 * operation has written, to say which one made it (non_finite.h has the coordinator's part).
 * Internal to the stage. `self->finding` is NULL where the plan examines no step; then nothing is looked at.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_EXAMINE_H
#define TROUPE_ACTORS_STAGE_EXAMINE_H

#include "actors/stage_internal.h"

tr_status tr__examine_init(tr__stage *self, tr_error *err);
/* Before the phase is run: it is looked at if it is of the step. *flight and *bindings stay until it has been run. */
void tr__examine(tr__stage *self, const tr__flight *flight, tr_phase phase, tr_bindings *bindings);
/* Before READY: tells the coordinator what was found. */
void tr__examine_report(tr__stage *self);

#endif
