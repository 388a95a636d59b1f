/* pipelines/state_moves.h - the state of a training dealt out anew: which bytes of the slots of one layout are which of
 * another's. State is keyed by tensor: a stage of the next layout takes parameter and both moments of each of its tensors
 * from a stage that has them, whatever the cut was. All replicas hold the same bytes, so any of them may give.
 * Threads: none of this is shared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_STATE_MOVES_H
#define TROUPE_PIPELINES_STATE_MOVES_H

#include "pipelines/job_plan.h"
#include "runtime/change.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Both are plans of one model. A stage that stays what it was is one move of a whole slot, from itself. *moves is the
 * caller's to tr_free. Errors: TR_ENOMEM. */
tr_status tr_state_moves(const tr_job_plan *from, const tr_job_plan *to, tr_state_move **moves,
                         size_t *n_moves, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
