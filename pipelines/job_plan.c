/* pipelines/job_plan.c - see job_plan.h: from the recipe to the training plan and to what each stage needs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/job_plan.h"

#include "base/memory.h"
#include "base/pack.h"
#include "ops/program.h"

#include <stdio.h>
#include <string.h>

tr_status tr_start_read_config(const tr_start *self, const tr_recipe *recipe, tr_model_config *out,
                               tr_error *err)
{
    if (self->origin == TR_ORIGIN_CHECKPOINT) return tr_model_config_read(out, self->directory, err);
    return tr_model_config_from_recipe(out, recipe, err);
}

/* --- the model, cut --- */

tr_status tr_model_plan_init(tr_model_plan *self, tr_model_config *config, const tr_recipe *recipe,
                             tr_error *err)
{
    *self = (tr_model_plan){.config = *config, .fp8 = recipe->train.fp8};
    *config = (tr_model_config){0};
    tr_model_options options = {.kind = TR_MODEL_TRAINING,
                                .batch = recipe->train.microbatch,
                                .sequence = recipe->train.sequence,
                                .dtype = recipe->dtype == TR_RECIPE_BFLOAT16 ? TR_BF16 : TR_F32};
    tr_status status = tr_model_graph(&self->config, &options, &self->whole, &self->values, err);
    if (!status) status = tr_model_parameters_list(&self->parameters, &self->config, err);
    if (!status) {
        const tr_recipe_stage_list *stages = &recipe->layout.stages;
        status = stages->count
                     ? tr_partition_explicit(&self->partition, self->whole, stages->items,
                                             (int32_t)stages->count, err)
                     : tr_partition_balanced(&self->partition, self->whole, tr_recipe_stages(recipe), err);
    }
    if (!status) status = tr_partition_uses(&self->partition, self->whole, &self->uses, &self->n_uses, err);
    if (status) tr_model_plan_release(self);
    return status;
}

void tr_model_plan_release(tr_model_plan *self)
{
    tr_free(self->uses);
    tr_partition_release(&self->partition);
    tr_model_parameters_release(&self->parameters);
    tr_graph_destroy(&self->whole);
    tr_model_config_release(&self->config);
    *self = (tr_model_plan){0};
}

/* --- the numbers that all share --- */

tr_status tr_training_plan_from_recipe(tr_training_plan *out, const tr_recipe *recipe, const tr_data *data,
                                       uint32_t first_step, tr_error *err)
{
    int64_t windows = tr_data_validation_count(data);
    *out = (tr_training_plan){.n_replicas = (uint32_t)recipe->layout.data,
                              .n_stages = (uint32_t)tr_recipe_stages(recipe),
                              .n_pieces = (uint32_t)recipe->layout.pieces,
                              .n_steps = (uint32_t)recipe->train.steps,
                              .first_step = first_step,
                              .n_microbatches = (uint32_t)recipe->train.accumulate,
                              .n_groups = (uint32_t)recipe->train.groups,
                              .rows = (uint32_t)recipe->train.microbatch,
                              .sequence = (uint32_t)recipe->train.sequence,
                              .validate_every = (uint32_t)recipe->validate.every,
                              .all_windows = (uint32_t)windows,
                              .checkpoint_every = (uint32_t)recipe->checkpoint.every,
                              .extra_stash = (uint32_t)recipe->layout.stash,
                              .hold_every = (uint32_t)recipe->supervision.hold_every,
                              .trace = recipe->trace,
                              .replay = recipe->recovery == TR_RECOVERY_REPLAY,
                              .zero = recipe->layout.data > 1 ? (uint32_t)recipe->layout.zero : 0,
                              .audit = (uint32_t)(recipe->supervision.audit * TR_AUDIT_ALL + 0.5),
                              .clip_norm = (float)recipe->optimizer.clip_norm};
    int64_t *few = tr_alloc((size_t)recipe->validate.windows * sizeof *few);
    if (!few) return tr_fail(err, TR_ENOMEM, "no memory for %d windows", recipe->validate.windows);
    out->validation_windows = (uint32_t)tr_data_validation_windows(data, recipe->validate.windows, few);
    tr_free(few);
    return TR_OK;
}

/* --- a stage --- */

static uint32_t count_uses(const tr_model_plan *self, int32_t parameter)
{
    uint32_t n = 0;
    for (size_t i = 0; i < self->n_uses; i++) n += self->uses[i].parameter == parameter;
    return n;
}

static tr_value gradient_of_use(const tr_piece *piece, int32_t parameter, int32_t use)
{
    for (int32_t i = 0; i < piece->n_gradients; i++)
        if (piece->gradients[i].index == parameter && piece->gradients[i].use == use)
            return piece->gradients[i].value;
    return TR_NO_VALUE;
}

static tr_status fill_parameter(const tr_model_plan *self, const tr_piece *piece, int32_t position,
                                uint32_t stage, tr_stage_parameter *out, tr_error *err)
{
    int32_t index = piece->parameters[position].index;
    const tr_model_parameter *known = &self->parameters.items[index];
    uint32_t n_uses = count_uses(self, index);
    *out = (tr_stage_parameter){.index = (uint32_t)index,
                                .n_elements = tr_shape_elements(&known->shape),
                                .value = piece->parameters[position].value,
                                .decayed = known->decays,
                                .uses = tr_alloc_zero(n_uses, sizeof *out->uses)};
    snprintf(out->name, sizeof out->name, "%s", known->name);
    if (!out->uses) return tr_fail(err, TR_ENOMEM, "no memory for the uses of '%s'", known->name);
    for (size_t i = 0; i < self->n_uses; i++) {
        const tr_parameter_use *use = &self->uses[i];
        if (use->parameter != index) continue;
        out->uses[out->n_uses++] = (tr_stage_use){.use = (uint32_t)use->use,
                                                  .stage = (uint32_t)use->stage,
                                                  .gradient = gradient_of_use(piece, index, use->use)};
    }
    out->owned = out->n_uses > 0 && out->uses[0].stage == stage;
    return TR_OK;
}

tr_status tr_model_plan_stage(const tr_model_plan *self, const tr_recipe *recipe,
                              const tr_training_plan *plan, uint32_t replica, uint32_t stage,
                              tr_stage_spec *spec, tr_error *err)
{
    tr_piece piece = {0};
    tr_status status =
        tr_partition_extract(self->whole, &self->values, self->partition.first_unit[stage],
                             self->partition.first_unit[stage + 1], TR_PIECE_TRAINING, &piece, err);
    if (!status) status = tr_piece_chunk_logits(&piece, recipe->layout.logits, err);
    if (!status && self->fp8) status = tr_piece_use_fp8(&piece, err);
    if (!status) status = tr_piece_recompute(&piece, recipe->layout.recompute, err);
    if (status) {
        tr_piece_release(&piece);
        return status;
    }
    *spec = (tr_stage_spec){.plan = *plan,
                            .optimizer = {.beta1 = (float)recipe->optimizer.betas[0],
                                          .beta2 = (float)recipe->optimizer.betas[1],
                                          .eps = (float)recipe->optimizer.eps,
                                          .weight_decay = (float)recipe->optimizer.weight_decay},
                            .replica = replica,
                            .stage = stage,
                            .stash_credits = tr_plan_stash_credits(plan, replica, stage),
                            .n_threads = recipe->layout.threads,
                            .seed = recipe->train.seed,
                            .graph = piece.graph,
                            .n_units = tr_graph_unit_count(self->whole),
                            .tokens = piece.tokens,
                            .targets = piece.targets,
                            .activation_in = piece.activation_in,
                            .activation_out = piece.activation_out,
                            .gradient_in = piece.gradient_in,
                            .gradient_out = piece.gradient_out,
                            .factor = piece.factor,
                            .loss = piece.loss};
    piece.graph = NULL; /* the spec's now */
    spec->parameters = tr_alloc_zero((size_t)piece.n_parameters, sizeof *spec->parameters);
    if (!spec->parameters) status = tr_fail(err, TR_ENOMEM, "no memory for a stage's parameters");
    for (int32_t i = 0; !status && i < piece.n_parameters; i++, spec->n_parameters++)
        status = fill_parameter(self, &piece, i, stage, &spec->parameters[i], err);
    tr_piece_release(&piece);
    if (status) tr_stage_spec_release(spec);
    return status;
}

void tr_stage_spec_release(tr_stage_spec *spec)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): without parameters n_parameters is 0 */
    for (uint32_t i = 0; i < spec->n_parameters; i++) tr_free(spec->parameters[i].uses);
    tr_free(spec->parameters);
    tr_graph_destroy(&spec->graph);
    *spec = (tr_stage_spec){0};
}

/* --- what travels to an actor --- */

/* All numbers of the training plan as one list, so that packing and unpacking cannot disagree. */
enum { PLAN_NUMBERS = 23, PLACE_PARTS = 11 };
static void plan_numbers(tr_training_plan *plan, uint32_t *numbers[PLAN_NUMBERS])
{
    uint32_t *list[PLAN_NUMBERS] = {&plan->n_replicas,
                                    &plan->n_stages,
                                    &plan->n_pieces,
                                    &plan->n_steps,
                                    &plan->first_step,
                                    &plan->n_microbatches,
                                    &plan->n_groups,
                                    &plan->rows,
                                    &plan->sequence,
                                    &plan->validate_every,
                                    &plan->all_windows,
                                    &plan->validation_windows,
                                    &plan->checkpoint_every,
                                    &plan->extra_stash,
                                    &plan->trace,
                                    &plan->again,
                                    &plan->hold_every,
                                    &plan->replay,
                                    &plan->until,
                                    &plan->audit,
                                    &plan->zero,
                                    &plan->examined,
                                    &plan->examination};
    memcpy(numbers, list, sizeof list);
}

void tr_place_release(tr_place *self)
{
    tr_free(self->config);
    tr_recipe_release(&self->recipe);
    *self = (tr_place){0};
}

tr_status tr_place_pack(const tr_job_plan *plan, uint32_t replica, uint32_t stage, void **bytes,
                        size_t *size_bytes, tr_error *err)
{
    char *recipe;
    tr_status status = tr_recipe_to_json(plan->recipe, &recipe, err);
    if (status) return status;
    tr_training_plan training = plan->training;
    uint32_t *numbers[PLAN_NUMBERS];
    plan_numbers(&training, numbers);
    tr_packer packer;
    tr_packer_init(&packer);
    const char *config = plan->start.origin == TR_ORIGIN_CHECKPOINT ? plan->model.config.json : "";
    tr_stage_place device = plan->devices.stages[replica * plan->training.n_stages + stage];
    tr_pack_array(&packer, PLAN_NUMBERS + PLACE_PARTS);
    for (int i = 0; i < PLAN_NUMBERS; i++) tr_pack_uint(&packer, *numbers[i]);
    tr_pack_f64(&packer, (double)training.clip_norm);
    tr_pack_uint(&packer, (uint64_t)plan->start.origin);
    tr_pack_text(&packer, plan->start.directory);
    tr_pack_uint(&packer, plan->start.updates);
    tr_pack_uint(&packer, plan->start.tokens);
    tr_pack_uint(&packer, replica);
    tr_pack_uint(&packer, stage);
    tr_pack_uint(&packer, (uint64_t)device.kind);
    tr_pack_uint(&packer, (uint64_t)device.index);
    tr_pack_bytes(&packer, config, strlen(config));
    tr_pack_bytes(&packer, recipe, strlen(recipe));
    tr_free(recipe);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

tr_status tr_place_unpack(tr_place *out, const void *bytes, size_t size_bytes, tr_error *err)
{
    *out = (tr_place){0};
    uint32_t *numbers[PLAN_NUMBERS];
    plan_numbers(&out->plan, numbers);
    tr_unpacker body;
    tr_unpacker_init(&body, bytes, size_bytes);
    if (tr_unpack_array(&body, PLAN_NUMBERS + PLACE_PARTS) != PLAN_NUMBERS + PLACE_PARTS) body.bad = true;
    for (int i = 0; i < PLAN_NUMBERS; i++) *numbers[i] = (uint32_t)tr_unpack_uint(&body, UINT32_MAX);
    out->plan.clip_norm = (float)tr_unpack_f64(&body);
    out->start.origin = (tr_origin)tr_unpack_uint(&body, TR_ORIGIN_CHECKPOINT);
    tr_unpack_text(&body, out->start.directory, sizeof out->start.directory);
    out->start.updates = (uint32_t)tr_unpack_uint(&body, UINT32_MAX);
    out->start.tokens = tr_unpack_uint(&body, UINT64_MAX);
    out->replica = (uint32_t)tr_unpack_uint(&body, UINT32_MAX);
    out->stage = (uint32_t)tr_unpack_uint(&body, UINT32_MAX);
    out->device.kind = (tr_device_kind)tr_unpack_uint(&body, TR_DEVICE_KIND_COUNT - 1);
    out->device.index = (int32_t)tr_unpack_uint(&body, INT32_MAX);
    size_t recipe_bytes, config_bytes;
    const void *config = tr_unpack_bytes(&body, &config_bytes);
    const void *recipe = tr_unpack_bytes(&body, &recipe_bytes);
    tr_status status = tr_unpacker_done(&body, "place in a job", err);
    if (status) return status;
    if (out->start.origin == TR_ORIGIN_CHECKPOINT) {
        out->config = tr_alloc_zero(config_bytes + 1, 1);
        if (!out->config) return tr_fail(err, TR_ENOMEM, "no memory for the configuration of a model");
        if (config_bytes) memcpy(out->config, config, config_bytes);
    }
    return tr_recipe_from_json(&out->recipe, recipe, recipe_bytes, err);
}
