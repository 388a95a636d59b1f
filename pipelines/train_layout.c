/* pipelines/train_layout.c - in which layout a run goes on that was scaled: the last one that its log of epochs names. A
 * person who asks for another layout than the run's own recipe has means that.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_scale.h"

#include "base/file.h"
#include "base/memory.h"

#include <string.h>

tr_status tr__training_keep_recipe(tr__training *self, tr_recipe *recipe, tr_error *err)
{
    tr_recipe *kept = tr_alloc(sizeof *kept);
    tr_status status = tr_array_reserve((void **)&self->recipes, &self->recipes_capacity, self->n_recipes + 1,
                                        sizeof *self->recipes, err);
    if (!kept && !status) status = tr_fail(err, TR_ENOMEM, "no memory for a recipe");
    if (status) {
        tr_free(kept);
        tr_recipe_release(recipe);
        return status;
    }
    *kept = *recipe;
    self->recipes[self->n_recipes++] = kept;
    return TR_OK;
}

/* From here on the training has this layout. */
static tr_status go_over(tr__training *self, const tr_layout *layout, tr_error *err)
{
    tr_recipe recipe;
    tr_status status = tr_layout_recipe(&recipe, self->recipe, layout, err);
    if (!status) status = tr__training_keep_recipe(self, &recipe, err);
    if (!status) self->recipe = self->recipes[self->n_recipes - 1];
    return status;
}

static bool asks_for_another(const tr_recipe *before, const tr_recipe *now)
{
    tr_layout was = tr_layout_of(before), is = tr_layout_of(now);
    const tr_recipe_stage_list *a = &before->layout.stages, *b = &now->layout.stages;
    return !tr_layout_is_same(&was, &is) || a->count != b->count ||
           (a->count && memcmp(a->items, b->items, a->count * sizeof *a->items) != 0);
}

tr_status tr__training_find_layout(tr__training *self, tr_error *err)
{
    tr_recipe before;
    char *path = tr_format("%s/recipe.yaml", self->recipe->run),
         *log = tr_format("%s/epochs.jsonl", self->recipe->run);
    tr_status status = path && log ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory for a path");
    bool there = !status && tr_path_exists(path);
    if (there) status = tr_recipe_read(&before, path, NULL, 0, err);
    if (!status && there) {
        if (!asks_for_another(&before, self->recipe))
            self->n_layouts =
                tr_epoch_log_layouts(log, self->layouts, sizeof self->layouts / sizeof *self->layouts);
        tr_recipe_release(&before);
    }
    tr_free(path);
    tr_free(log);
    tr_layout now = tr_layout_of(self->recipe);
    if (status || !self->n_layouts || tr_layout_is_same(&self->layouts[0], &now)) return status;
    return go_over(self, &self->layouts[0], err);
}

tr_status tr__training_try_layout_before(tr__training *self, tr_error *err)
{
    const tr_topology *theirs = &self->orphans->offer.topology;
    if (self->n_layouts < 2 || tr_topology_has_same_places(theirs, &self->plan->topology)) return TR_OK;
    tr_recipe recipe;
    tr_job_plan *plan;
    tr_model_config config = {0};
    tr_status status = tr_layout_recipe(&recipe, self->recipe, &self->layouts[1], err);
    if (!status) status = tr__training_keep_recipe(self, &recipe, err);
    if (!status) status = tr_start_read_config(&self->start, self->recipe, &config, err);
    if (!status)
        status = tr__training_make_plan(self, self->recipes[self->n_recipes - 1], &self->start, &config,
                                        &plan, err);
    if (status) return status;
    if (tr_topology_has_same_places(theirs, &plan->topology)) {
        self->recipe = plan->recipe;
        self->plan = plan;
    }
    return TR_OK;
}
