/* pipelines/layout.h - how many replicas of how many workers a training has, on how many hosts: what may change while it runs (`troupe scale`).
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_LAYOUT_H
#define TROUPE_PIPELINES_LAYOUT_H

#include "pipelines/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_layout {
    int32_t data, pipeline, pieces, hosts; /* 0, in a wish: as it is */
} tr_layout;

tr_layout tr_layout_of(const tr_recipe *recipe);
bool tr_layout_is_same(const tr_layout *a, const tr_layout *b);

/* "data=4 pipeline=2 pieces=1 hosts=2", each at most once. Errors: TR_EINVAL, with what a person should know. */
tr_status tr_layout_parse(tr_layout *out, const char *text, tr_error *err);
/* The same as JSON, {"data": 4, "pipeline": 2}. */
tr_status tr_layout_parse_json(tr_layout *out, const char *text, size_t size_bytes, tr_error *err);

/* The recipe in another layout, checked as any recipe. Where the cut changes, stages are balanced anew. *out is the caller's
 * to release. Errors: TR_EINVAL, TR_ENOMEM. */
tr_status tr_layout_recipe(tr_recipe *out, const tr_recipe *recipe, const tr_layout *layout, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
