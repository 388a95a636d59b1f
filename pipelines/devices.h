/* pipelines/devices.h - which stage computes on which device of this machine. Workers with a stage on a GPU are dealt out to
 * the GPUs in turns; several may share one. The head decides, and tells the workers.
 * Nothing is asked for of a GPU's memory, so that the head holds none. GPUs that have failed too often are left out: the dealing
 * is a function of how many are left, and changes no bit.
 * For tests on CPUs devices may be played (chaos.devices): they are dealt out as GPUs are, and are all the CPU.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_DEVICES_H
#define TROUPE_PIPELINES_DEVICES_H

#include "actors/plan.h"
#include "base/device.h"
#include "pipelines/device_record.h"
#include "pipelines/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_stage_place {
    tr_device_kind kind;
    int32_t index; /* of a GPU; of the CPU 0, or one more than that of the device that it plays */
} tr_stage_place;

typedef struct tr_devices {
    tr_stage_place *stages; /* by replica * n_stages + stage; owned */
    int32_t n_out;          /* devices that were left out when this was chosen */
    char text
        [TR_ERROR_SIZE]; /* what was chosen and why, for people; "" where nobody asked for more than the CPU */
} tr_devices;

/* record: which are left out; NULL: none. Errors: what is asked for by name cannot be used: those of tr_program_devices,
 * TR_EUNSUPPORTED (the model has what GPUs do not compute yet); then `auto` is the CPU. TR_EDEVICE: all are left out; then `auto`
 * is not the CPU, which would compute other bits in the middle of a run. TR_ENOMEM.
 * only_saves: of a job that computes nothing more. Where a device has failed the CPU does that. */
tr_status tr_devices_choose(tr_devices *out, const tr_recipe *recipe, const tr_training_plan *plan,
                            const tr_model_config *config, const tr_device_record *record, bool only_saves,
                            tr_error *err);
void tr_devices_release(tr_devices *self);

/* "cuda:1, cuda:2": those of n places that are devices, each once. */
void tr_stage_places_list(const tr_stage_place *places, uint32_t n, char *text, size_t capacity);

/* Its index in a tr_device_record; -1: the CPU, which is in none. */
int32_t tr_stage_place_device(tr_stage_place self);
/* "cpu", "cuda:1"; "cpu:1" where it plays a device. */
void tr_stage_place_name(tr_stage_place self, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
