/* pipelines/balance.h - a cut of the model by what its units were measured to take, for the shortest step.
 * The costliest stage alone does not tell how long a step is: with several pieces the sums of workers count, and what is
 * dear late in the pipeline is felt otherwise than what is dear early. So cuts are judged by foretelling the step.
 * Threads: plain functions.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_BALANCE_H
#define TROUPE_PIPELINES_BALANCE_H

#include "pipelines/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* units: n_layers + 2 of them: the embedding, each layer, the head. layers: of each of the plan's stages, at least one. */

/* What the stages take that have so many layers. */
void tr_balance_stage_times(const tr_stage_times *units, const int32_t *layers, uint32_t n_stages,
                            tr_stage_times *stages);

/* Begins with the most even cut and moves layers as long as that shortens the foretold step; keeps the even cut
 * where all of it would gain next to nothing. Equal input gives an equal cut. Fills layers, one for each stage.
 * Errors: TR_EINVAL (more stages than layers), TR_ENOMEM. */
tr_status tr_balance(const tr_stage_times *units, int32_t n_layers, const tr_training_plan *plan,
                     int32_t *layers, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
