/* Training under simulation: the real actors, topology and partition of a job, with a model so small that its arithmetic is
 * a stand-in, on nodes whose network delays, loses, repeats and reorders. Whatever the seed and the layout, every record and
 * every checkpoint has the same bits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include "actors/checkpoint.h"
#include "actors/coordinator.h"
#include "actors/monitor.h"
#include "actors/roles.h"
#include "base/hash.h"
#include "pipelines/job_plan.h"
#include "pipelines/sources.h"
#include "runtime/simulation.h"

enum { STEPS = 3, MAX_CHECKPOINTS = 4, MAX_EVENTS = 200000 };

static const char recipe_text[] =
    "model: {family: llama, layers: 4, width: 8, heads: 2, kv_heads: 1, inner: 16, vocabulary: 256, "
    "positions: 8, tie: true}\n"
    "train: {steps: 3, sequence: 8, microbatch: 1, accumulate: 5, groups: 5, seed: 7}\n"
    "lr: {peak: 1e-2, warmup: 1}\n"
    "optimizer: {clip_norm: 0.5}\n"
    "validate: {every: 2, windows: 3}\n"
    "checkpoint: {every: 2}\n";

static const struct {
    const char *data, *pipeline, *pieces;
} layouts[] = {{"layout.data=1", "layout.pipeline=1", "layout.pieces=1"},
               {"layout.data=1", "layout.pipeline=3", "layout.pieces=1"},
               {"layout.data=3", "layout.pipeline=1", "layout.pieces=1"},
               {"layout.data=2", "layout.pipeline=2", "layout.pieces=1"},
               {"layout.data=2", "layout.pipeline=3", "layout.pieces=1"},
               {"layout.data=1", "layout.pipeline=2", "layout.pieces=2"},
               {"layout.data=2", "layout.pipeline=2", "layout.pieces=2"}};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static struct {
    tr_recipe recipe;
    tr_data *data;
    tr_job_plan plan;
} jobs[LAYOUTS];
static char text_path[200];

/* What a run leaves behind. */
typedef struct outcome {
    struct {
        double loss, grad_norm, lr, validation_loss;
        uint64_t tokens;
    } records[STEPS];
    uint32_t n_records, n_checkpoints, updates;     /* updates: of the checkpoint at work */
    uint64_t checkpoints[MAX_CHECKPOINTS], written; /* the same whatever the order of chunks */
} outcome;

static outcome expected;
static bool is_expected;

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        tr_error error_, *err = &error_;                                                                     \
        if ((call) != TR_OK) fprintf(stderr, "%s\n", error_.message), exit(1);                               \
    } while (0)

static void prepare(void)
{
    const char *directory = getenv("TMPDIR");
    char override[260];
    snprintf(text_path, sizeof text_path, "%s/troupe-simulation-XXXXXX", directory ? directory : "/tmp");
    int file = mkstemp(text_path);
    for (int i = 0; i < 60; i++) dprintf(file, "%d bottles stand on the wall\n", i * i);
    close(file);
    snprintf(override, sizeof override, "data={text: %s, holdout: 0.03}", text_path);
    for (size_t i = 0; i < LAYOUTS; i++) {
        const char *overrides[] = {override, layouts[i].data, layouts[i].pipeline, layouts[i].pieces,
                                   "run=none"};
        tr_model_config config = {0};
        const tr_start start = {0};
        MUST(tr_recipe_parse(&jobs[i].recipe, recipe_text, sizeof recipe_text - 1, "recipe", overrides, 5,
                             err));
        MUST(tr_model_config_from_recipe(&config, &jobs[i].recipe, err));
        MUST(tr_data_open(&jobs[i].data, &jobs[i].recipe, config.vocabulary, err));
        MUST(tr_job_plan_init(&jobs[i].plan, &jobs[i].recipe, &config, jobs[i].data, &start, err));
    }
}

static void clean_up(void)
{
    unlink(text_path);
    for (size_t i = 0; i < LAYOUTS; i++) {
        tr_job_plan_release(&jobs[i].plan);
        tr_data_close(&jobs[i].data);
        tr_recipe_release(&jobs[i].recipe);
    }
}

/* ---- what the head's actors are given ---- */

static double learning_rate(void *context, uint32_t step)
{
    return tr_recipe_learning_rate(context, (int32_t)step);
}

static tr_status on_record(void *context, const tr_step_record *record, tr_error *err)
{
    outcome *self = context;
    if (self->n_records == STEPS || record->step != self->n_records + 1)
        return tr_fail(err, TR_ECORRUPT, "record %u came as number %u", record->step, self->n_records + 1);
    self->records[self->n_records].loss = record->loss;
    self->records[self->n_records].grad_norm = record->grad_norm;
    self->records[self->n_records].lr = record->lr;
    self->records[self->n_records].validation_loss = record->has_validation ? record->validation_loss : 0;
    self->records[self->n_records++].tokens = record->tokens;
    return TR_OK;
}

static tr_status begin_checkpoint(void *context, uint32_t updates, tr_error *err)
{
    outcome *self = context;
    if (self->n_checkpoints == MAX_CHECKPOINTS) return tr_fail(err, TR_ECORRUPT, "too many checkpoints");
    self->written = 0;
    self->updates = updates;
    self->checkpoints[self->n_checkpoints] = updates;
    return TR_OK;
}

static tr_status write_checkpoint(void *context, uint32_t parameter, uint32_t part, uint64_t offset_bytes,
                                  const void *bytes, size_t size_bytes, tr_error *err)
{
    (void)err;
    outcome *self = context;
    uint64_t where[] = {parameter, part, offset_bytes, tr_hash64(bytes, size_bytes)};
    self->checkpoints[self->n_checkpoints] += tr_hash64(where, sizeof where);
    self->written += size_bytes;
    return TR_OK;
}

static tr_status commit_checkpoint(void *context, char *path, size_t path_capacity, tr_error *err)
{
    outcome *self = context;
    if (self->n_records < self->updates)
        return tr_fail(err, TR_ECORRUPT, "a checkpoint of step %u before record %u", self->updates,
                       self->n_records + 1);
    snprintf(path, path_capacity, "%" PRIu64 " bytes", self->written);
    self->n_checkpoints++;
    return TR_OK;
}

static void abandon_checkpoint(void *context)
{
    (void)context;
}

static void ignore_note(void *context, const char *kind, const char *text)
{
    (void)context, (void)kind, (void)text;
}

static void ignore_tick(void *context)
{
    (void)context;
}

/* ---- one run ---- */

static tr_status train(size_t layout, uint64_t seed, FILE *trace, outcome *out, tr_error *err)
{
    const tr_job_plan *plan = &jobs[layout].plan;
    uint64_t n_elements = 0;
    for (size_t i = 0; i < plan->model.parameters.count; i++) n_elements += (uint64_t)plan->n_elements[i];
    tr_coordinator_context coordinator = {.plan = plan->training,
                                          .n_elements = plan->n_elements,
                                          .n_parameters = (uint32_t)plan->model.parameters.count,
                                          .context = &jobs[layout].recipe,
                                          .learning_rate = learning_rate};
    tr_monitor_context monitor = {
        .context = out, .record = on_record, .note = ignore_note, .tick = ignore_tick};
    tr_checkpoint_writer writer = {.context = out,
                                   .total_bytes = 3 * sizeof(float) * n_elements,
                                   .begin = begin_checkpoint,
                                   .write = write_checkpoint,
                                   .commit = commit_checkpoint,
                                   .abandon = abandon_checkpoint};
    const tr_actor_kind kinds[] = {
        {"stage", &tr_stage_behavior, (void *)(uintptr_t)&tr_pipeline_stage_source},
        {"data_shard", &tr_data_shard_behavior, (void *)(uintptr_t)&tr_pipeline_shard_source},
        {TR_ROLE_COORDINATOR, &tr_coordinator_behavior, &coordinator},
        {TR_ROLE_CHECKPOINT, &tr_checkpoint_behavior, &writer},
        {TR_ROLE_MONITOR, &tr_monitor_behavior, &monitor}};
    const tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};
    tr_simulation_options options = {.seed = seed,
                                     .topology = &plan->topology,
                                     .registry = &registry,
                                     .activation_max_ns = 10000 * (seed % 4),
                                     .max_events = MAX_EVENTS,
                                     .trace = trace};
    tr_simulation_faults(seed, &options.data, &options.control);
    tr_simulation *simulation;
    tr_status status = tr_simulation_new(&simulation, &options, err);
    if (status != TR_OK) return status;
    status = tr_simulation_run(simulation, err);
    tr_simulation_destroy(&simulation);
    return status;
}

static bool training_gives_the_same_bits_in_every_layout(uint64_t seed, FILE *trace)
{
    outcome got = {0};
    tr_error err;
    if (!is_expected) { /* one stage, one replica, a gentle network */
        if (train(0, 0, NULL, &expected, &err) != TR_OK) return fprintf(stderr, "%s\n", err.message), false;
        is_expected = true;
    }
    if (train(seed % LAYOUTS, seed, trace, &got, &err) != TR_OK)
        return fprintf(stderr, "%s\n", err.message), false;
    if (got.n_records == STEPS && got.n_checkpoints == 2 && memcmp(&got, &expected, sizeof got) == 0)
        return true;
    fprintf(stderr, "%s %s %s: %u records, %u checkpoints, losses %a %a %a and not %a %a %a\n",
            layouts[seed % LAYOUTS].data, layouts[seed % LAYOUTS].pipeline, layouts[seed % LAYOUTS].pieces,
            got.n_records, got.n_checkpoints, got.records[0].loss, got.records[1].loss, got.records[2].loss,
            expected.records[0].loss, expected.records[1].loss, expected.records[2].loss);
    return false;
}

int main(int argc, char **argv)
{
    static const simulate_case cases[] = {
        {"training_gives_the_same_bits_in_every_layout", 2000, training_gives_the_same_bits_in_every_layout},
    };
    prepare();
    int result = simulate_main(cases, sizeof cases / sizeof *cases, argc, argv);
    clean_up();
    return result;
}
