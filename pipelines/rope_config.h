/* pipelines/rope_config.h - reads what a llama's config.json says of rotary positions: rope_theta and
 * rope_scaling (transformers before 5) or rope_parameters (since).
 * Internal to pipelines/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_ROPE_CONFIG_H
#define TROUPE_PIPELINES_ROPE_CONFIG_H

#include "pipelines/config_reader.h"
#include "pipelines/rope_scaling.h"

/* *out is the caller's to release, whatever the reader's status is then. */
void tr__rope_config_read(tr_config_reader *reader, int32_t positions, int32_t head_size,
                          tr_rope_scaling *out);

#endif
