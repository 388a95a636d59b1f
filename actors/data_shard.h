/* actors/data_shard.h - the actor that feeds one replica: tokens to its first stage, targets to its last.
 * What it sends is a function of the plan alone: the replica's micro-batches of every step in order, and
 * after the updates at which something is measured, its share of the held-out windows (micro-batch j to
 * replica j mod n_replicas). So nobody tells it anything; credits hold it back. It announces how many targets
 * a step has one step ahead.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_DATA_SHARD_H
#define TROUPE_ACTORS_DATA_SHARD_H

#include "actors/plan.h"
#include "runtime/actor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_shard_spec {
    tr_training_plan plan;
    uint32_t replica;
    void *private_; /* the source's */
} tr_shard_spec;

typedef struct tr_shard_source {
    void *context;
    tr_status (*open)(void *context, const void *config, size_t config_bytes, tr_shard_spec *spec,
                      tr_error *err);
    /* Row `row` of a micro-batch: tokens[sequence], targets[sequence]; a negative target counts nothing. */
    void (*training_row)(const tr_shard_spec *spec, uint32_t step, uint32_t microbatch, uint32_t row,
                         int32_t *tokens, int32_t *targets);
    /* Window 0 .. n_windows-1 of the held-out part.
     * n_windows tells the few measured while training from all. */
    void (*window_row)(const tr_shard_spec *spec, uint32_t n_windows, uint32_t window, int32_t *tokens,
                       int32_t *targets);
    void (*close)(tr_shard_spec *spec);
} tr_shard_source;

/* Context of the registry entry: a const tr_shard_source *. */
extern const tr_behavior tr_data_shard_behavior;

#ifdef __cplusplus
}
#endif
#endif
