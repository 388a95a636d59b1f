/* pipelines/train_devices.c - GPUs that fail: which one it was, how often it has, and the plan without it.
 * The runtime tells of a worker whose device failed, and knows no devices; here the failures of each are counted, in the memory
 * that the next head finds. A device with too many is left out: the next epoch begins with the same plan, whose workers are
 * dealt out to the devices that are left. Neither layout nor bits change. With none left there is nothing to go on with: a CPU
 * would compute other bits than the run has had, so the state is saved (by the CPU, which can) and the run ends.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_internal.h"

#include "actors/roles.h"

#include <string.h>

tr_status tr__training_read_config(const tr__training *self, tr_model_config *out, tr_error *err)
{
    const tr_job_plan *plan = self->plan;
    if (plan->start.origin != TR_ORIGIN_CHECKPOINT)
        return tr_start_read_config(&plan->start, self->recipe, out, err);
    return tr_model_config_parse(out, plan->model.config.json, plan->start.directory, err);
}

/* Of a worker: all of its stages that are on a device are on the same one. -1: none is. */
static int32_t device_of(const tr_job_plan *plan, int32_t node, tr_stage_place *place)
{
    const tr_training_plan *training = &plan->training;
    for (uint32_t i = 0; i < training->n_replicas * training->n_stages; i++) {
        tr_actor_id id = tr_role_find_stage(&plan->topology, i / training->n_stages, i % training->n_stages);
        *place = plan->devices.stages[i];
        if (tr_topology_actor(&plan->topology, id)->node == node && tr_stage_place_device(*place) >= 0)
            return tr_stage_place_device(*place);
    }
    return -1;
}

/* The latest plan once more, with the devices that are left: kept, and not the latest yet. */
static tr_status plan_again(tr__training *self, tr_job_plan **out, tr_error *err)
{
    tr_model_config config = {0};
    const tr_start start = self->plan->start;
    tr_status status = tr__training_read_config(self, &config, err);
    return status ? status : tr__training_make_plan(self, self->recipe, &start, &config, out, err);
}

static bool is_dealt_anew(const tr__training *self)
{
    return self->plan->devices.n_out != tr_device_record_out(tr_head_memory_devices(self->memory));
}

tr_job_verdict tr__training_device_failed(void *context, int32_t node, const char *text, char *line,
                                          size_t capacity)
{
    tr__training *self = context;
    tr_stage_place place;
    tr_job_plan *next;
    tr_error why;
    char name[32], others[256];
    uint32_t most = (uint32_t)self->recipe->supervision.quarantine_after;
    int32_t device = device_of(self->plan, node, &place);
    if (device < 0 || !tr_device_record_fail(tr_head_memory_devices(self->memory), device, most))
        return TR_JOB_DEVICE_STAYS;
    tr_stage_place_name(place, name, sizeof name);
    bool goes_on = plan_again(self, &next, &why) == TR_OK; /* what cannot be is found before all begin anew */
    if (goes_on)
        tr_stage_places_list(next->devices.stages, next->training.n_replicas * next->training.n_stages,
                             others, sizeof others);
    snprintf(line, capacity, "%s is quarantined for %u failure%s of its workers; the last: %.600s; %s%.300s",
             name, most, most == 1 ? "" : "s", text, goes_on ? "it goes on on " : "",
             goes_on ? others : why.message);
    return goes_on ? TR_JOB_DEVICE_LEFT_OUT : TR_JOB_NO_DEVICE_LEFT;
}

tr_status tr__training_deal_again(tr__training *self, const tr_topology **topology, tr_error *err)
{
    if (!is_dealt_anew(self)) return TR_OK;
    tr_status status = plan_again(self, &self->plan, err);
    if (status) return status;
    tr__training_tell_coordinator(self);
    tr_run_note(self->run, "device", self->plan->devices.text);
    *topology = &self->plan->topology;
    return TR_OK;
}

/* A head that had none left ended, and whoever begins anew shall see the reason again if there still is one. */
tr_status tr__training_deal_as_before(tr__training *self, tr_error *err)
{
    tr_device_record *record = tr_head_memory_devices(self->memory);
    tr_error none;
    if (!is_dealt_anew(self)) return TR_OK;
    tr_status status = plan_again(self, &self->plan, &none);
    if (status == TR_EDEVICE) {
        memset(record, 0, sizeof *record);
        status = TR_OK;
    }
    if (status && err) *err = none;
    return status;
}
