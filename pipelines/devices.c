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

static bool is_on_gpu(const tr_recipe *recipe, uint32_t stage, int32_t n_gpus)
{
    tr_recipe_device asked = tr_recipe_stage_device(recipe, (int32_t)stage);
    return asked == TR_RECIPE_CUDA || (asked == TR_RECIPE_AUTO && n_gpus > 0);
}

/* The GPU of the turn-th of n workers that want one. Where there are more workers than GPUs neighbours share, so that the
 * workers of a replica are together and the replicas of a stage apart: they hand gradients to each other. */
static int32_t gpu_of(int32_t turn, int32_t n_turns, int32_t n_gpus)
{
    return n_turns <= n_gpus ? turn : (int32_t)((int64_t)turn * n_gpus / n_turns);
}

static int32_t count_turns(const tr_recipe *recipe, const tr_training_plan *plan, int32_t n_gpus)
{
    int32_t n = 0;
    for (uint32_t worker = 0; worker < tr_plan_workers(plan); worker++) {
        bool takes = false;
        for (uint32_t s = 0; s < plan->n_stages; s++)
            takes |= tr_plan_worker(plan, s) == worker && is_on_gpu(recipe, s, n_gpus);
        n += takes;
    }
    return n * (int32_t)plan->n_replicas;
}

/* Workers in their order; those without a stage on a GPU take no turn. */
static void deal_out(tr_devices *self, const tr_recipe *recipe, const tr_training_plan *plan, int32_t n_gpus)
{
    int32_t turn = 0, n_turns = count_turns(recipe, plan, n_gpus);
    for (uint32_t r = 0; r < plan->n_replicas; r++)
        for (uint32_t worker = 0; worker < tr_plan_workers(plan); worker++) {
            bool took = false;
            for (uint32_t s = 0; s < plan->n_stages; s++) {
                if (tr_plan_worker(plan, s) != worker || !is_on_gpu(recipe, s, n_gpus)) continue;
                TR_ASSERT(n_gpus > 0); /* who asks for one by name was refused where there is none */
                self->stages[r * plan->n_stages + s] =
                    (tr_stage_place){TR_DEVICE_CUDA, gpu_of(turn, n_turns, n_gpus)};
                took = true;
            }
            turn += took;
        }
}

static void describe_gpus(tr_devices *self, int32_t n_gpus, const char *how)
{
    tr_device *device = NULL;
    const char *name =
        tr_device_open(&device, TR_DEVICE_CUDA, 0, NULL) == TR_OK ? tr_device_name(device) : "?";
    snprintf(self->text, sizeof self->text, "device: %scuda, %d GPU%s (%s)", how, n_gpus,
             n_gpus == 1 ? "" : "s", name);
    tr_device_close(&device);
}

tr_status tr_devices_choose(tr_devices *out, const tr_recipe *recipe, const tr_training_plan *plan,
                            const tr_model_config *config, tr_error *err)
{
    *out =
        (tr_devices){.stages = tr_alloc_zero((size_t)plan->n_replicas * plan->n_stages, sizeof *out->stages)};
    if (!out->stages) return tr_fail(err, TR_ENOMEM, "no memory for the devices of stages");
    uint32_t n_asking = count_asking(recipe, plan, TR_RECIPE_CUDA),
             n_auto = count_asking(recipe, plan, TR_RECIPE_AUTO);
    if (n_asking + n_auto == 0) return TR_OK;
    int32_t n_gpus = 0;
    tr_error problem = {0};
    if (count_gpus(recipe, config, &n_gpus, &problem) != TR_OK) {
        if (n_asking) {
            tr_devices_release(out);
            return tr_fail(err, problem.status, "device: %s", problem.message);
        }
        n_gpus = 0;
        snprintf(out->text, sizeof out->text, "device: auto is cpu: %.*s", TR_ERROR_SIZE - 32,
                 problem.message);
    }
    deal_out(out, recipe, plan, n_gpus);
    if (n_gpus > 0) describe_gpus(out, n_gpus, n_auto ? "auto is " : "");
    return TR_OK;
}

void tr_devices_release(tr_devices *self)
{
    tr_free(self->stages);
    *self = (tr_devices){0};
}

void tr_stage_place_name(tr_stage_place self, char *text, size_t capacity)
{
    if (self.kind == TR_DEVICE_CPU)
        snprintf(text, capacity, "cpu");
    else
        snprintf(text, capacity, "%s:%d", tr_device_kind_name(self.kind), self.index);
}
