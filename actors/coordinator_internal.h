/* actors/coordinator_internal.h - what a coordinator keeps, shared by coordinator.c (what it does) and coordinator_waits.c
 * (what it waits for).
 * Internal to actors/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_COORDINATOR_INTERNAL_H
#define TROUPE_ACTORS_COORDINATOR_INTERNAL_H

#include "actors/arbiter.h"
#include "actors/coordinator.h"

enum { TR__NO_CHECKPOINT = UINT32_MAX };

typedef struct tr__coordinator {
    tr_actor *actor;
    const tr_coordinator_context *known;
    tr_actor_id checkpoint, monitor;
    tr_actor_id *stages; /* by replica * n_stages + stage */
    uint32_t n_stages_all;

    uint32_t step;        /* being gathered */
    uint32_t ring;        /* see tr_plan_steps_ahead */
    uint64_t *counted;    /* targets of step, at step % ring */
    uint32_t *n_counted;  /* shards that have announced them */
    double *losses;       /* by micro-batch */
    uint32_t n_losses;    /* micro-batches */
    double *sums;         /* square sums by (tensor, block) */
    int64_t *first_block; /* of each parameter; one more for the end */
    uint32_t n_ready;
    bool *is_ready, *has_voted; /* by stage, as in `stages`: for this step, for the one before */
    uint64_t busy_ns, began_ns;
    uint64_t tokens; /* targets seen so far */
    tr__arbiter arbiter;
    struct {
        bool is; /* found by a stage: where a value that is no number came from */
        uint32_t microbatch, phase, stage, replica;
        char *text;
    } non_finite;           /* see non_finite.h */
    uint32_t n_left_out;    /* updates in a row, before the step that is gathered */
    tr_audit_totals audits; /* where there is no journal */

    tr_step_record record;  /* of the step committed last, until it is told */
    bool record_held;       /* evaluations of it are awaited */
    uint32_t n_untold;      /* records on their way to the monitor */
    double *evaluated_loss; /* by micro-batch of the evaluation */
    uint64_t *evaluated_tokens;
    uint32_t n_evaluated;

    /* Generations: the newest that all stages hold or will before anything is held again, and the newest that is on another
     * host as well. A state is overwritten only when a newer one of all stages is there too. */
    uint64_t held_generation, copied;
    uint32_t n_updated;       /* votes for the step committed last */
    uint32_t n_checkpoints;   /* asked for and not yet answered */
    uint32_t last_checkpoint; /* updates; TR__NO_CHECKPOINT before the first */
    /* Why the checkpoint that should have been the last could not be written; NULL: it was, or is awaited. */
    char *lost;
    bool stopping, ended;
    bool again;           /* this is not its first life */
    bool pausing, paused; /* wanted; since nobody works towards another state than all hold */
    bool held;            /* the state after `step` is in slots when all have voted */
    uint32_t pause_at;    /* not before this step: the one at hand is finished */
} tr__coordinator;

/* Ends the job. */
void tr__coordinator_fail(tr__coordinator *self, tr_status status, const char *text);
bool tr__coordinator_waits_for_copies(const tr__coordinator *self);
/* Nothing is committed until the monitor has taken a record. */
static inline bool tr__coordinator_is_far_ahead(const tr__coordinator *self)
{
    uint32_t most = self->known->most_untold;
    return self->n_untold >= (most ? most : (uint32_t)TR_COORDINATOR_UNTOLD);
}

/* See tr_behavior.waits; state: a tr__coordinator. */
uint32_t tr__coordinator_waits(const tr_actor *actor, const void *state, tr_wait *waits, uint32_t capacity);

#endif
