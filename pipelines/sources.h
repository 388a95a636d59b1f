/* pipelines/sources.h - what stages and data shards ask the pipelines floor for: their piece of the model
 * with its weights, and rows of data. Both are made from the actor's config, a tr_place, in the process where
 * the actor lives.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_SOURCES_H
#define TROUPE_PIPELINES_SOURCES_H

#include "actors/data_shard.h"
#include "actors/stage.h"

extern const tr_stage_source tr_pipeline_stage_source;
extern const tr_shard_source tr_pipeline_shard_source;

#endif
