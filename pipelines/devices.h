/* pipelines/devices.h - which stage computes on which device of this machine. Workers with a stage on a GPU are dealt out to
 * the GPUs in turns; several may share one. The head decides, and tells the workers.
 * Nothing is asked for of a GPU's memory, so that the head holds none.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_DEVICES_H
#define TROUPE_PIPELINES_DEVICES_H

#include "actors/plan.h"
#include "base/device.h"
#include "pipelines/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_stage_place {
    tr_device_kind kind;
    int32_t index;
} tr_stage_place;

typedef struct tr_devices {
    tr_stage_place *stages; /* by replica * n_stages + stage; owned */
    char text
        [TR_ERROR_SIZE]; /* what was chosen and why, for people; "" where nobody asked for more than the CPU */
} tr_devices;

/* Errors: what is asked for by name cannot be used: those of tr_program_devices, TR_EUNSUPPORTED (the model has what GPUs
 * do not compute yet); TR_ENOMEM. `auto` is the CPU then. */
tr_status tr_devices_choose(tr_devices *out, const tr_recipe *recipe, const tr_training_plan *plan,
                            const tr_model_config *config, tr_error *err);
void tr_devices_release(tr_devices *self);

/* "cpu", "cuda:1" */
void tr_stage_place_name(tr_stage_place self, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
