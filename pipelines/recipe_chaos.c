/* pipelines/recipe_chaos.c - faults on purpose in a recipe: what reads as none is refused, and so is what the run could not show.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/recipe_schema.h"

#include "runtime/chaos.h"
#include "runtime/fault.h"

#include <stdio.h>
#include <string.h>

static int line_of(const tr__recipe_reading *self, const char *key)
{
    return self->lines[tr__recipe_field_index(key)];
}

/* NULL: it can. */
static const char *why_not(const tr_recipe *recipe, tr_fault_kind kind)
{
    bool of_disk = TR_FAULTS_OF_DISK & TR_FAULT_BIT(kind),
         of_recovery = TR_FAULTS_OF_RECOVERY & TR_FAULT_BIT(kind);
    if (of_disk && recipe->checkpoint.every == 0)
        return "no checkpoint but the last is written where checkpoint.every is 0";
    if (of_recovery && recipe->recovery == TR_RECOVERY_OFF) return "nobody is replaced where recovery is off";
    return NULL;
}

uint32_t tr_recipe_faults(const tr_recipe *recipe, char *left_out, size_t capacity)
{
    uint32_t kinds = TR_FAULTS_ALL, without = 0;
    const char *last = NULL;
    size_t used = 0;
    left_out[0] = 0;
    if (!(recipe->chaos.faults_per_minute > 0)) return 0;
    if (tr_faults_parse(recipe->chaos.faults, &kinds, NULL)) return 0; /* was refused */
    for (int kind = 0; kind < TR_FAULT_KINDS; kind++)
        if ((kinds & TR_FAULT_BIT(kind)) && why_not(recipe, (tr_fault_kind)kind))
            without |= TR_FAULT_BIT(kind);
    for (int kind = 0; kind < TR_FAULT_KINDS && used < capacity; kind++) {
        if (!(without & TR_FAULT_BIT(kind))) continue;
        const char *why = why_not(recipe, (tr_fault_kind)kind);
        if (last && last != why)
            used += (size_t)snprintf(left_out + used, capacity - used, ": %s; ", last);
        else if (last)
            used += (size_t)snprintf(left_out + used, capacity - used, ", ");
        if (used < capacity)
            used +=
                (size_t)snprintf(left_out + used, capacity - used, "%s", tr_fault_name((tr_fault_kind)kind));
        last = why;
    }
    if (last && used < capacity) snprintf(left_out + used, capacity - used, ": %s", last);
    return kinds & ~without;
}

static tr_status check_faults(const tr__recipe_reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    tr_error problem = {0};
    uint32_t kinds = 0;
    int line = line_of(self, "chaos.faults");
    if (!recipe->chaos.faults) return TR_OK;
    if (tr_faults_parse(recipe->chaos.faults, &kinds, &problem))
        return tr__recipe_refuse(self, line, "chaos.faults", "", err, "%s", problem.message);
    if (!(recipe->chaos.faults_per_minute > 0))
        return tr__recipe_refuse(self, line, "chaos.faults", NULL, err,
                                 "says which faults, but not how many; give chaos.faults_per_minute");
    for (int kind = 0; kind < TR_FAULT_KINDS; kind++) {
        const char *why = kinds & TR_FAULT_BIT(kind) ? why_not(recipe, (tr_fault_kind)kind) : NULL;
        if (why)
            return tr__recipe_refuse(self, line, "chaos.faults", "", err,
                                     "cannot have '%s': %s; leave it out", tr_fault_name((tr_fault_kind)kind),
                                     why);
    }
    return TR_OK;
}

/* Faults on purpose end processes, and are said right before anything begins. */
tr_status tr__recipe_check_chaos(const tr__recipe_reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    tr_chaos chaos;
    tr_error problem = {0};
    if (tr_chaos_parse(&chaos, recipe->chaos.at, &problem))
        return tr__recipe_refuse(self, line_of(self, "chaos.at"), "chaos.at", "", err, "%s", problem.message);
    if (recipe->chaos.devices && tr__recipe_asks_for_gpus(recipe))
        return tr__recipe_refuse(self, line_of(self, "chaos.devices"), "chaos.devices", NULL, err,
                                 "is for stages on CPUs; give device: cpu, or leave it out");
    tr_status status = check_faults(self, err);
    if (status || recipe->layout.processes) return status;
    const char *key = recipe->chaos.at                      ? "chaos.at"
                      : recipe->chaos.kills_per_minute > 0  ? "chaos.kills_per_minute"
                      : recipe->chaos.faults_per_minute > 0 ? "chaos.faults_per_minute"
                      : recipe->chaos.devices               ? "chaos.devices"
                                                            : NULL;
    if (!key) return TR_OK;
    return tr__recipe_refuse(self, line_of(self, key), key, NULL, err,
                             "has no worker to kill where layout.processes is false; leave one of them out");
}
