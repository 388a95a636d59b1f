/* actors/plan.h - the arithmetic of a training run that every actor must agree on: which replica holds which
 * micro-batches, which groups they are reduced in, in which tree, and after which updates something is
 * measured or saved. All of it is a function of the numbers below, so that nobody has to be told. Updates are
 * counted: "after u updates".
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_PLAN_H
#define TROUPE_ACTORS_PLAN_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_MAX_HOLD_EVERY = 64 };

typedef struct tr_training_plan {
    uint32_t n_replicas, n_stages;
    uint32_t n_pieces;           /* stages that a worker hosts, a divisor of n_stages; 0 is 1 */
    uint32_t n_steps;            /* updates in all */
    uint32_t first_step;         /* updates already done when the run begins (resume) */
    uint32_t until;              /* updates after which the job only saves its state; 0: n_steps */
    uint32_t n_microbatches;     /* of a step, over all replicas */
    uint32_t n_groups;           /* reduction groups of a step, 1 .. n_microbatches, at most TR_MAX_GROUPS */
    uint32_t rows, sequence;     /* of a micro-batch */
    uint32_t validate_every;     /* updates; 0: only after the last */
    uint32_t validation_windows; /* measured while training */
    uint32_t all_windows;        /* measured after the last update; 0: there is no held-out part */
    uint32_t checkpoint_every;   /* updates; 0: only after the last */
    uint32_t extra_stash;        /* see tr_plan_stash_credits */
    uint32_t hold_every;         /* updates, at most TR_MAX_HOLD_EVERY; see tr_plan_holds_after. 0 is 1 */
    uint32_t again; /* 1: first_step was reached before in this run: what is measured then may be missing */
    uint32_t trace; /* 1: actors tell the monitor what they did when */
    uint32_t
        replay; /* 1: stages keep what they send and compute, so that a death does not make all compute again */
    uint32_t
        zero; /* ZeRO: replicas hold 1: a shard of the state each; 2: and of the summed gradient. With one replica 0 */
    uint32_t audit; /* micro-batches of a million that another replica's stages compute again; 0: none */
    /* The result of step examined - 1 was no number: it is run once more, for the examination-th time, and stages look at what
     * every operation writes. 0: of none. */
    uint32_t examined, examination;
    float clip_norm; /* 0: off */
} tr_training_plan;

typedef struct tr_range {
    uint32_t begin, end; /* end is not in it */
} tr_range;

/* Contiguous shares of 0 .. n-1 for `parts`, the larger ones first. */
tr_range tr_share(uint32_t n, uint32_t parts, uint32_t part);

tr_range tr_plan_groups(const tr_training_plan *plan, uint32_t replica); /* whole reduction groups it holds */
tr_range tr_plan_group(const tr_training_plan *plan, uint32_t group);    /* micro-batches of a group */
tr_range tr_plan_microbatches(const tr_training_plan *plan, uint32_t replica); /* those of its groups */

/* The fixed binary tree over the groups: where [begin, end) is cut in two. Left parts are powers of two. */
uint32_t tr_tree_split(tr_range range);
/* Does adding `right` to its left neighbour `left` make a node of the tree over n_groups? */
bool tr_tree_siblings(uint32_t n_groups, tr_range left, tr_range right);

/* The nodes of the tree that replica `replica` can sum alone, from left to right: what it sends to the
 * others. Returns how many there are; blocks (may be NULL) has room for TR_MAX_BLOCKS. */
enum { TR_MAX_BLOCKS = 64, TR_MAX_GROUPS = 256 };
uint32_t tr_plan_blocks(const tr_training_plan *plan, uint32_t replica, tr_range blocks[TR_MAX_BLOCKS]);

/* Workers of a replica, and the one among them that hosts a stage: stages are dealt out in turns, so that a worker of P
 * has the stages p, p+P, p+2P, ... */
uint32_t tr_plan_workers(const tr_training_plan *plan);
uint32_t tr_plan_worker(const tr_training_plan *plan, uint32_t stage);

/* Micro-batches that a stage may hold between forward and weight gradient, of P workers:
 *   one piece each:      P-s at stage s, which is exactly 1F1B. With extra_stash max(P-s, s) and so many more: one hides
 *                        the time that messages take; what late stages hold beyond 1F1B's are weight gradients, kept for
 *                        the end of the step, where they fill the time between the last backwards. No stage may hold
 *                        more than the first one;
 *   several pieces each: P and extra_stash at every stage. A worker of V pieces then holds at most V (P + extra_stash)
 *                        of them, in all as much as the first worker has with one piece that is V times as large.
 * Never more than the replica has in a step; a worker that is alone needs only one. */
uint32_t tr_plan_stash_credits(const tr_training_plan *plan, uint32_t replica, uint32_t stage);
/* Micro-batches that a data shard may have under way to its first stage. */
uint32_t tr_plan_token_slots(const tr_training_plan *plan, uint32_t replica);
/* A shard never works on a step so far ahead of the one that is being computed: its micro-batches may all be
 * of different steps, and it announces one more. What is kept by step is kept in rings of this size. */
uint32_t tr_plan_steps_ahead(const tr_training_plan *plan);

/* The updates after which no step is computed any more. */
uint32_t tr_plan_last_step(const tr_training_plan *plan);

/* Is this micro-batch computed again? By all of its stages, each by the same stage of the next replica. */
enum { TR_AUDIT_ALL = 1000000 };
bool tr_plan_is_audited(const tr_training_plan *plan, uint64_t seed, uint32_t step, uint32_t microbatch);

/* Held-out windows to measure then. */
uint32_t tr_plan_windows_after(const tr_training_plan *plan, uint32_t updates);
/* The same in micro-batches. */
uint32_t tr_plan_evaluations_after(const tr_training_plan *plan, uint32_t updates);
bool tr_plan_checkpoint_after(const tr_training_plan *plan, uint32_t updates);
/* Is that state held in slots, so that the job can go back to it? Every hold_every updates, and where a checkpoint is due. */
bool tr_plan_holds_after(const tr_training_plan *plan, uint32_t updates);

#ifdef __cplusplus
}
#endif
#endif
