/* pipelines/devices.c - see devices.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/devices.h"

#include "base/memory.h"
#include "ops/program.h"

#include <stdio.h>

/* How many of the stages of a replica ask for this. */
static uint32_t count_asking(const tr_recipe *recipe, const tr_training_plan *plan, tr_recipe_device device)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < plan->n_stages; s++) n += tr_recipe_stage_device(recipe, (int32_t)s) == device;
    return n;
}

static tr_status count_gpus(const tr_recipe *recipe, const tr_model_config *config, int32_t *n_gpus,
                            tr_error *err)
{
    tr_error problem = {0};
    tr_status status = tr_program_devices(TR_DEVICE_CUDA, n_gpus, err);
    if (!status && recipe->train.fp8 && tr_program_has_fp8(TR_DEVICE_CUDA, &problem))
        status = tr_fail(err, TR_EUNSUPPORTED, "%s; leave train.fp8 out", problem.message);
    if (!status && config->attention_dropout > 0)
        status = tr_fail(err, TR_EUNSUPPORTED,
                         "device 'cuda' has no attention with dropout yet, and the model's is %g; give "
                         "model.dropout: 0, or device: cpu",
                         config->attention_dropout);
    return status;
}

/* What there is to be dealt out. */
typedef struct deck {
    tr_device_kind kind;
    int32_t n; /* of this host; 0: only the CPU */
    bool played;
    const tr_device_record *record;
} deck;

static bool takes_one(const tr_recipe *recipe, uint32_t stage, const deck *devices)
{
    tr_recipe_device asked = tr_recipe_stage_device(recipe, (int32_t)stage);
    return devices->played || asked == TR_RECIPE_CUDA || (asked == TR_RECIPE_AUTO && devices->n > 0);
}

/* The GPU of the turn-th of n workers that want one. Where there are more workers than GPUs neighbours share, so that the
 * workers of a replica are together and the replicas of a stage apart: they hand gradients to each other. */
static int32_t gpu_of(int32_t turn, int32_t n_turns, int32_t n_gpus)
{
    return n_turns <= n_gpus ? turn : (int32_t)((int64_t)turn * n_gpus / n_turns);
}

static int32_t count_turns(const tr_recipe *recipe, const tr_training_plan *plan, const deck *devices)
{
    int32_t n = 0;
    for (uint32_t worker = 0; worker < tr_plan_workers(plan); worker++) {
        bool takes = false;
        for (uint32_t s = 0; s < plan->n_stages; s++)
            takes |= tr_plan_worker(plan, s) == worker && takes_one(recipe, s, devices);
        n += takes;
    }
    return n * (int32_t)plan->n_replicas;
}

/* Workers in their order; those without a stage on a device take no turn. */
static void deal_out(tr_devices *self, const tr_recipe *recipe, const tr_training_plan *plan,
                     const deck *devices)
{
    int32_t turn = 0, n_turns = count_turns(recipe, plan, devices),
            n_left = tr_device_record_left(devices->record, devices->n);
    for (uint32_t r = 0; r < plan->n_replicas; r++)
        for (uint32_t worker = 0; worker < tr_plan_workers(plan); worker++) {
            bool took = false;
            for (uint32_t s = 0; s < plan->n_stages; s++) {
                if (tr_plan_worker(plan, s) != worker || !takes_one(recipe, s, devices)) continue;
                TR_ASSERT(n_left > 0); /* who asks for one by name was refused where there is none */
                int32_t index =
                    tr_device_record_nth(devices->record, devices->n, gpu_of(turn, n_turns, n_left));
                self->stages[r * plan->n_stages + s] =
                    (tr_stage_place){devices->kind, index + devices->played};
                took = true;
            }
            turn += took;
        }
}

static void describe(tr_devices *self, const deck *devices, const char *how)
{
    tr_device *device = NULL;
    int32_t first = tr_device_record_nth(devices->record, devices->n, 0);
    const char *name = "only played", *before = ", without ";
    if (!devices->played)
        name = tr_device_open(&device, TR_DEVICE_CUDA, first, NULL) == TR_OK ? tr_device_name(device) : "?";
    size_t used = (size_t)snprintf(self->text, sizeof self->text, "device: %s%s, %d %s%s (%s)", how,
                                   tr_device_kind_name(devices->kind), devices->n,
                                   devices->played ? "device" : "GPU", devices->n == 1 ? "" : "s", name);
    for (int32_t i = 0; self->n_out && i < devices->n && i < TR_MOST_DEVICES; i++) {
        if (!devices->record->is_out[i] || used + 32 > sizeof self->text) continue;
        used += (size_t)snprintf(self->text + used, sizeof self->text - used, "%s%s:%d", before,
                                 tr_device_kind_name(devices->kind), i);
        before = ", ";
    }
    tr_device_close(&device);
}

static tr_status find_gpus(tr_devices *self, deck *devices, const tr_recipe *recipe,
                           const tr_model_config *config, bool must, tr_error *err)
{
    tr_error problem = {0};
    devices->kind = TR_DEVICE_CUDA;
    tr_status status = count_gpus(recipe, config, &devices->n, &problem);
    if (!status) return TR_OK;
    devices->n = 0;
    if (must) return tr_fail(err, problem.status, "device: %s", problem.message);
    snprintf(self->text, sizeof self->text, "device: auto is cpu: %.*s", TR_ERROR_SIZE - 32, problem.message);
    return TR_OK;
}

static tr_status choose(tr_devices *self, const tr_recipe *recipe, const tr_training_plan *plan,
                        const tr_model_config *config, deck *devices, tr_error *err)
{
    uint32_t n_asking = count_asking(recipe, plan, TR_RECIPE_CUDA),
             n_auto = count_asking(recipe, plan, TR_RECIPE_AUTO);
    tr_status status = TR_OK;
    if (!devices->played && n_asking + n_auto == 0) return TR_OK;
    if (!devices->played) status = find_gpus(self, devices, recipe, config, n_asking > 0, err);
    if (status) return status;
    if (devices->n > 0 && tr_device_record_left(devices->record, devices->n) == 0)
        return tr_fail(err, TR_EDEVICE, "no other %s is left", devices->played ? "device" : "GPU");
    deal_out(self, recipe, plan, devices);
    if (devices->n > 0) describe(self, devices, n_auto ? "auto is " : "");
    return TR_OK;
}

tr_status tr_devices_choose(tr_devices *out, const tr_recipe *recipe, const tr_training_plan *plan,
                            const tr_model_config *config, const tr_device_record *record, bool only_saves,
                            tr_error *err)
{
    deck devices = {.n = recipe->chaos.devices, .played = recipe->chaos.devices > 0, .record = record};
    *out =
        (tr_devices){.stages = tr_alloc_zero((size_t)plan->n_replicas * plan->n_stages, sizeof *out->stages),
                     .n_out = tr_device_record_out(record)};
    if (!out->stages) return tr_fail(err, TR_ENOMEM, "no memory for the devices of stages");
    if (only_saves && tr_device_record_has_failures(record)) return TR_OK;
    tr_status status = choose(out, recipe, plan, config, &devices, err);
    if (status) tr_devices_release(out);
    return status;
}

void tr_devices_release(tr_devices *self)
{
    tr_free(self->stages);
    *self = (tr_devices){0};
}

int32_t tr_stage_place_device(tr_stage_place self)
{
    return self.kind == TR_DEVICE_CPU ? self.index - 1 : self.index;
}

void tr_stage_place_name(tr_stage_place self, char *text, size_t capacity)
{
    int32_t device = tr_stage_place_device(self);
    if (device < 0)
        snprintf(text, capacity, "cpu");
    else
        snprintf(text, capacity, "%s:%d", tr_device_kind_name(self.kind), device);
}

void tr_stage_places_list(const tr_stage_place *places, uint32_t n, char *text, size_t capacity)
{
    size_t used = 0;
    text[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        char name[32];
        uint32_t before = 0;
        while (tr_stage_place_device(places[before]) != tr_stage_place_device(places[i])) before++;
        tr_stage_place_name(places[i], name, sizeof name);
        bool is_new = before == i && tr_stage_place_device(places[i]) >= 0;
        if (!is_new || used + sizeof name > capacity) continue;
        used += (size_t)snprintf(text + used, capacity - used, "%s%s", used ? ", " : "", name);
    }
}
