/* pipelines/sources.c - see sources.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/sources.h"

#include "base/memory.h"
#include "pipelines/checkpoint_files.h"
#include "pipelines/job_plan.h"
#include "pipelines/weights.h"

#include <stdlib.h>
#include <string.h>

/* The configuration that training begins with: the checkpoint's own, else what the recipe names. The checkpoint itself may
 * have been removed for newer ones by when a worker is replaced. */
static tr_status read_config(const tr_place *place, tr_model_config *out, tr_error *err)
{
    if (place->start.origin == TR_ORIGIN_CHECKPOINT)
        return tr_model_config_parse(out, place->config, place->start.directory, err);
    return tr_model_config_from_recipe(out, &place->recipe, err);
}

/* --- stages --- */

typedef struct stage_source {
    tr_place place;
    tr_model_plan model;
    tr_weights *weights; /* of a directory, NULL when fresh */
    tr_moments *moments; /* of a checkpoint, else NULL */
} stage_source;

static void stage_source_destroy(stage_source *self)
{
    tr_moments_close(&self->moments);
    tr_weights_close(&self->weights);
    tr_model_plan_release(&self->model);
    tr_place_release(&self->place);
    tr_free(self);
}

/* Not before they are read: who finds its state in a slot has no use for them. */
static tr_status open_weights(stage_source *self, tr_error *err)
{
    const tr_start *start = &self->place.start;
    if (self->weights || start->origin == TR_ORIGIN_FRESH) return TR_OK;
    tr_status status =
        tr_weights_open(&self->weights, start->directory, &self->model.config, &self->model.parameters, err);
    if (!status && start->origin == TR_ORIGIN_CHECKPOINT)
        status = tr_moments_open(&self->moments, start->directory, err);
    return status;
}

static tr_status stage_open(void *context, const void *config, size_t config_bytes, tr_stage_spec *spec,
                            tr_error *err)
{
    (void)context;
    stage_source *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a stage's source");
    tr_status status = tr_place_unpack(&self->place, config, config_bytes, err);
    if (status) {
        tr_place_release(&self->place);
        tr_free(self);
        return status;
    }
    tr_model_config model = {0};
    const tr_place *place = &self->place;
    status = read_config(place, &model, err);
    if (!status) status = tr_model_plan_init(&self->model, &model, &place->recipe, err);
    if (!status)
        status = tr_model_plan_stage(&self->model, &place->recipe, &place->plan, place->replica, place->stage,
                                     spec, err);
    if (status) {
        stage_source_destroy(self);
        return status;
    }
    spec->device = place->device.kind;
    spec->device_index = spec->device == TR_DEVICE_CPU ? 0 : place->device.index; /* it may play another */
    spec->apart = getenv("TROUPE_STAGE_APART") != NULL;
    const char *bucket = getenv("TROUPE_BUCKET_ELEMENTS"); /* for tests, whose models are smaller than one */
    if (bucket) spec->bucket_elements = strtoll(bucket, NULL, 10);
    if (spec->device == TR_DEVICE_CUDA) spec->collectives = &tr_nccl;
    spec->links = place->recipe.layout.cuda_ipc && (spec->apart || spec->device == TR_DEVICE_CUDA);
    spec->measure_products =
        spec->device == TR_DEVICE_CUDA && place->recipe.train.products == TR_PRODUCTS_MEASURED;
    spec->cuda_graphs = place->recipe.layout.cuda_graphs;
    spec->private_ = self;
    return TR_OK;
}

static tr_status stage_load(const tr_stage_spec *spec, const tr_stage_parameter *parameter, float *p,
                            float *m, float *v, tr_error *err)
{
    stage_source *self = spec->private_;
    size_t bytes = (size_t)parameter->n_elements * sizeof(float);
    tr_status status = open_weights(self, err);
    if (status) return status;
    memset(m, 0, bytes);
    memset(v, 0, bytes);
    if (!self->weights) {
        tr_weights_initialize(&self->model.parameters.items[parameter->index], self->place.recipe.train.seed,
                              p);
        return TR_OK;
    }
    status = tr_weights_read(self->weights, parameter->index, p, err);
    if (!status && self->moments)
        status = tr_moments_read(self->moments, parameter->name, parameter->n_elements, m, v, err);
    return status;
}

static void stage_close(tr_stage_spec *spec)
{
    stage_source *self = spec->private_;
    tr_stage_spec_release(spec);
    if (self) stage_source_destroy(self);
}

const tr_stage_source tr_pipeline_stage_source = {
    .open = stage_open, .load = stage_load, .close = stage_close};

/* --- data shards --- */

typedef struct shard_source {
    tr_place place;
    tr_data *data;
    int64_t *few; /* the windows measured while training */
} shard_source;

static void shard_source_destroy(shard_source *self)
{
    tr_free(self->few);
    tr_data_close(&self->data);
    tr_place_release(&self->place);
    tr_free(self);
}

static tr_status open_data(shard_source *self, tr_error *err)
{
    tr_model_config config = {0};
    tr_status status = read_config(&self->place, &config, err);
    if (status) return status;
    status = tr_data_open(&self->data, &self->place.recipe, config.vocabulary, err);
    tr_model_config_release(&config);
    if (status) return status;
    int32_t n = self->place.recipe.validate.windows;
    self->few = tr_alloc((size_t)(n > 0 ? n : 1) * sizeof *self->few);
    if (!self->few) return tr_fail(err, TR_ENOMEM, "no memory for %d windows", n);
    (void)tr_data_validation_windows(self->data, n, self->few);
    return TR_OK;
}

static tr_status shard_open(void *context, const void *config, size_t config_bytes, tr_shard_spec *spec,
                            tr_error *err)
{
    (void)context;
    shard_source *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a shard's source");
    tr_status status = tr_place_unpack(&self->place, config, config_bytes, err);
    if (status) {
        tr_place_release(&self->place);
        tr_free(self);
        return status;
    }
    status = open_data(self, err);
    if (status)
        shard_source_destroy(self);
    else
        *spec = (tr_shard_spec){.plan = self->place.plan, .replica = self->place.replica, .private_ = self};
    return status;
}

static void training_row(const tr_shard_spec *spec, uint32_t step, uint32_t microbatch, uint32_t row,
                         int32_t *tokens, int32_t *targets)
{
    const shard_source *self = spec->private_;
    tr_data_fill_training(self->data, step, microbatch, row, tokens, targets);
}

static void window_row(const tr_shard_spec *spec, uint32_t n_windows, uint32_t window, int32_t *tokens,
                       int32_t *targets)
{
    const shard_source *self = spec->private_;
    bool all = n_windows == spec->plan.all_windows;
    tr_data_fill_validation(self->data, all ? (int64_t)window : self->few[window], tokens, targets);
}

static void shard_close(tr_shard_spec *spec)
{
    if (spec->private_) shard_source_destroy(spec->private_);
    *spec = (tr_shard_spec){0};
}

const tr_shard_source tr_pipeline_shard_source = {
    .open = shard_open, .training_row = training_row, .window_row = window_row, .close = shard_close};
