/* actors/stage_choices.h - a stage's side of choices.h: it asks when it begins, and computes nothing before it has been
 * answered, so all replicas of a stage have the same algorithms from the first step on. Internal to the stage.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_CHOICES_H
#define TROUPE_ACTORS_STAGE_CHOICES_H

#include "actors/stage_internal.h"

void tr__stage_choices_start(tr__stage *self); /* asks, where the spec wants it */
void tr__stage_choices_receive(tr__stage *self, const tr_message *message); /* TR_TOPIC_CHOICES */
void tr__stage_choices_release(tr__stage *self);                            /* after the program */

#endif
