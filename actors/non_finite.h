/* actors/non_finite.h - the coordinator's part where the loss or the gradient of a step is no number. Nothing is updated. The step is
 * run again, in a new epoch from the newest generation; there the stages look at what every operation writes (stage_examine.h).
 * If it is a number then, a processor or memory made a mistake, and training goes on with what is right. If the same bits come
 * again it is numerical: the job ends and says in which operation it first appeared, or, where the recipe wants it so, the
 * update of this step is left out by all.
 * Why leaving it out changes no bit in another layout or after a death: whether a step's losses and sums are numbers is a function of
 * (state, step), as they are; the state that follows is the one before, byte for byte; and a step that is run again and was left
 * out is so at once, by the record that was kept before its commit went out.
 * Internal to the coordinator.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_NON_FINITE_H
#define TROUPE_ACTORS_NON_FINITE_H

#include "actors/coordinator_internal.h"

typedef enum tr__update_way { TR__UPDATE, TR__LEAVE_OUT, TR__NO_COMMIT } tr__update_way;

enum {
    TR__MOST_RUNS = 3,      /* of a step that gives another result each time */
    TR__MOST_LEFT_OUT = 10, /* updates in a row */
};

/* What becomes of the step that is gathered. NO_COMMIT: the job ends or begins anew, and the coordinator does nothing more.
 * What is no number in *loss and *norm becomes one and the same NaN, as it is logged. */
tr__update_way tr__non_finite_judge(tr__coordinator *self, double *loss, double *norm);
/* TR_TOPIC_NON_FINITE; false: it does not read as it should. */
bool tr__non_finite_take(tr__coordinator *self, const tr_frame *frame, tr_unpacker *body);
/* In another life: how many updates were left out right before the step that it begins with. */
uint32_t tr__non_finite_left_out(const tr_coordinator_journal *journal, uint32_t step);

#endif
