/* pipelines/measure.c - see measure.h. A unit is a piece of one unit, so what runs is what stages run; what they share
 * with other processes of the machine (memory, caches) is not in it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/measure.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "ops/program.h"
#include "pipelines/balance.h"
#include "pipelines/forward.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096, LEAST_REPETITIONS = 7, MOST_REPETITIONS = 51 };
/* A unit has its least repetitions unless they take too long, and more while they take no time that matters. */
static const uint64_t too_long_ns = 3000000000, no_time_ns = 200000000;
static const uint64_t quiet_ns = 2000000000; /* between words of progress */

/* --- one unit --- */

typedef struct bench {
    tr_piece piece;
    tr_program *program;
    void **bound; /* by value; owned */
    int32_t n_values;
    void *stash, *scratch;
} bench;

static void bench_release(bench *self)
{
    for (int32_t v = 0; self->bound && v < self->n_values; v++) tr_free(self->bound[v]);
    tr_free(self->bound);
    tr_free(self->stash);
    tr_free(self->scratch);
    tr_program_destroy(&self->program);
    tr_piece_release(&self->piece);
}

/* Like what training has there, so that no kernel finds it easy: no zeros, no overflow. Ids are drawn below `n_ids`. */
static void fill(const tr_value_info *info, tr_value value, int64_t n_ids, void *memory)
{
    const tr_rng_key key = {.seed = 1, .stream = (uint64_t)value};
    int64_t n = tr_shape_elements(&info->shape);
    if (info->dtype == TR_I32) {
        for (int64_t i = 0; i < n; i++)
            ((int32_t *)memory)[i] = (int32_t)(tr_rng_u64(&key, (uint64_t)i) % (uint64_t)n_ids);
    } else if (info->dtype == TR_F32) {
        float *numbers = memory,
              some[BLOCK]; /* the same again and again: drawing takes longer than computing */
        tr_rng_normal(&key, 0, BLOCK, some);
        for (int64_t i = 0; i < n; i++) numbers[i] = some[i % BLOCK] * 0.02f;
    } else if (info->dtype == TR_BF16) {
        float some[BLOCK];
        tr_rng_normal(&key, 0, BLOCK, some);
        for (int64_t i = 0; i < n; i++) ((tr_bf16 *)memory)[i] = tr_bf16_of_f32(some[i % BLOCK] * 0.02f);
    }
}

static tr_status bind(bench *self, int64_t n_ids, tr_error *err)
{
    const tr_graph *graph = self->piece.graph;
    self->n_values = tr_graph_value_count(graph);
    self->bound = tr_alloc_zero((size_t)self->n_values, sizeof *self->bound);
    self->stash = tr__alloc_tensor((int64_t)tr_program_stash_bytes(self->program), 1);
    self->scratch = tr__alloc_tensor((int64_t)tr_program_scratch_bytes(self->program), 1);
    bool good = self->bound && self->stash && self->scratch;
    for (tr_value v = 0; v < self->n_values && good; v++) {
        const tr_value_info *info = tr_graph_value(graph, v);
        bool output =
            v == self->piece.activation_out || v == self->piece.gradient_out || v == self->piece.loss;
        if ((info->kind == TR_VALUE_INTERMEDIATE && !output) || info->kind == TR_VALUE_CONSTANT) continue;
        self->bound[v] = tr__alloc_tensor(tr_shape_elements(&info->shape), tr_dtype_bytes(info->dtype));
        good = self->bound[v] != NULL;
        if (good && (info->kind == TR_VALUE_INPUT || info->kind == TR_VALUE_PARAMETER))
            fill(info, v, n_ids, self->bound[v]);
    }
    return good ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory to measure a part of the model");
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void measure(bench *self, tr_thread_pool *pool, tr_stage_times *out)
{
    tr_bindings bindings = {.values = self->bound,
                            .stash = self->stash,
                            .scratch = self->scratch,
                            .pool = pool,
                            .random = {.training = true, .seed = 1}}; /* dropout takes its time */
    uint64_t times[TR_PHASE_COUNT][MOST_REPETITIONS], began_ns = tr_clock_ns(), taken_ns = 0;
    size_t n = 0;
    for (bool warm = false; n == 0 || (n < LEAST_REPETITIONS && taken_ns < too_long_ns) ||
                            (n < MOST_REPETITIONS && taken_ns < no_time_ns);
         n += warm, warm = true) { /* the first does not count */
        for (int phase = 0; phase < TR_PHASE_COUNT; phase++) {
            uint64_t begin = tr_clock_ns();
            tr_program_run(self->program, (tr_phase)phase, &bindings);
            times[phase][n] =
                tr_program_has_phase(self->program, (tr_phase)phase) ? tr_clock_ns() - begin : 0;
        }
        taken_ns = tr_clock_ns() - began_ns;
    }
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++) {
        qsort(times[phase], n, sizeof **times, compare);
        out->ns[phase] = times[phase][n / 2];
    }
}

static tr_status measure_unit(const tr_model_plan *model, int32_t unit, tr_recompute recompute, int n_threads,
                              tr_thread_pool *pool, tr_stage_times *out, tr_error *err)
{
    bench self = {0};
    tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = n_threads};
    tr_status status = tr_partition_extract(model->whole, &model->values, unit, unit + 1, TR_PIECE_TRAINING,
                                            &self.piece, err);
    if (!status && model->fp8) status = tr_piece_use_fp8(&self.piece, err);
    if (!status) status = tr_piece_recompute(&self.piece, recompute, err);
    if (!status) status = tr_program_new(&self.program, self.piece.graph, &options, err);
    if (!status) status = bind(&self, model->config.vocabulary, err);
    if (!status) measure(&self, pool, out);
    bench_release(&self);
    return status;
}

tr_status tr_measure_units(const tr_model_plan *model, tr_recompute recompute, int n_threads,
                           tr_stage_times *units, FILE *progress, tr_error *err)
{
    int32_t n_units = tr_graph_unit_count(model->whole);
    tr_thread_pool *pool = NULL;
    uint64_t told_ns = tr_clock_ns();
    tr_status status = tr_thread_pool_new(&pool, n_threads, err);
    for (int32_t u = 0; u < n_units && !status; u++) {
        if (progress && tr_clock_ns() - told_ns > quiet_ns) {
            fprintf(progress, "measured %d of %d units ...\n", u, n_units);
            fflush(progress);
            told_ns = tr_clock_ns();
        }
        status = measure_unit(model, u, recompute, n_threads, pool, &units[u], err);
    }
    tr_thread_pool_destroy(&pool);
    return status;
}

/* --- for people --- */

static uint64_t sum_of(const tr_stage_times *times)
{
    uint64_t sum = 0;
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++) sum += times->ns[phase];
    return sum;
}

static void print_units(const tr_stage_times *units, int32_t n_layers, int n_threads, FILE *stream)
{
    uint64_t all = 0;
    for (int32_t u = 0; u < n_layers + 2; u++) all += sum_of(&units[u]);
    fprintf(stream,
            "\nmeasured here, for one micro-batch, kernel threads: %d; medians in milliseconds\n"
            "%-16s %11s %11s %11s %11s\n",
            n_threads, "unit", "forward", "backward", "weight", "together");
    for (int32_t u = 0; u < n_layers + 2; u++) {
        char name[32];
        snprintf(name, sizeof name,
                 u == 0         ? "embedding"
                 : u > n_layers ? "head and loss"
                                : "layer %d",
                 u - 1);
        fprintf(stream, "%-16s", name);
        for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
            fprintf(stream, " %11.3f", (double)units[u].ns[phase] * 1e-6);
        fprintf(stream, " %11.3f %4.0f%%\n", (double)sum_of(&units[u]) * 1e-6,
                all ? 100 * (double)sum_of(&units[u]) / (double)all : 0);
    }
}

static void print_list(const int32_t *layers, uint32_t n_stages, FILE *stream)
{
    for (uint32_t s = 0; s < n_stages; s++) fprintf(stream, "%s%d", s ? ", " : "[", layers[s]);
    fputc(']', stream);
}

static tr_status print_cut(const char *name, const tr_stage_times *units, const int32_t *layers,
                           const tr_training_plan *plan, FILE *stream, tr_error *err)
{
    tr_schedule schedule;
    tr_stage_times *stages = tr_alloc_zero(plan->n_stages, sizeof *stages);
    if (!stages) return tr_fail(err, TR_ENOMEM, "no memory for %u stages", plan->n_stages);
    tr_balance_stage_times(units, layers, plan->n_stages, stages);
    tr_status status = tr_schedule_foretell(&schedule, plan, 0, stages, err);
    tr_free(stages);
    if (status) return status;
    fprintf(stream, "%-16s %7.1f%% %11.3f %6u  ", name, 100 * schedule.idle, (double)schedule.end_ns * 1e-6,
            plan->extra_stash);
    print_list(layers, plan->n_stages, stream);
    fputc('\n', stream);
    tr_schedule_release(&schedule);
    return TR_OK;
}

static void layers_of(const tr_partition *partition, int32_t n_layers, int32_t *layers)
{
    for (int32_t s = 0; s < partition->n_stages; s++) {
        int32_t first = s == 0 ? 1 : partition->first_unit[s];
        layers[s] = (s + 1 == partition->n_stages ? n_layers + 1 : partition->first_unit[s + 1]) - first;
    }
}

/* What the plan would be with this cut; its memory is all that people are shown of it. */
static tr_status print_memory_with(const tr_job_plan *plan, int32_t *layers, uint32_t stash,
                                   tr_model_config *config, const tr_data *data, FILE *stream, tr_error *err)
{
    tr_recipe recipe = *plan->recipe; /* borrows all but the list */
    recipe.layout.stages = (tr_recipe_stage_list){.items = layers, .count = plan->training.n_stages};
    recipe.layout.stash = (int32_t)stash;
    tr_job_plan balanced;
    tr_status status = tr_job_plan_init(&balanced, &recipe, config, data, &plan->start, err);
    if (status) return status;
    tr_job_plan_print_memory(&balanced, stream);
    tr_job_plan_release(&balanced);
    return TR_OK;
}

static tr_status choose_stash(const tr_training_plan *plan, const tr_stage_times *units,
                              const int32_t *layers, uint32_t *out, tr_error *err)
{
    *out = plan->extra_stash;
    if (tr_plan_workers(plan) == 1) return TR_OK; /* alone it holds one, whatever is said */
    tr_stage_times *stages = tr_alloc_zero(plan->n_stages, sizeof *stages);
    if (!stages) return tr_fail(err, TR_ENOMEM, "no memory for %u stages", plan->n_stages);
    tr_balance_stage_times(units, layers, plan->n_stages, stages);
    tr_status status = tr_schedule_choose_stash(out, plan, 0, stages, err);
    tr_free(stages);
    return status;
}

static tr_status print_cuts(const tr_job_plan *plan, const tr_stage_times *units, int32_t *current,
                            int32_t *balanced, uint32_t *stash, FILE *stream, tr_error *err)
{
    const tr_training_plan *training = &plan->training;
    fprintf(stream, "\n%-16s %8s %11s %6s  %s\n", "cut", "idle", "step, ms", "stash", "layers of each stage");
    tr_status status = print_cut(plan->recipe->layout.stages.count ? "the recipe's" : "by arithmetic", units,
                                 current, training, stream, err);
    if (!status) status = print_cut("by measure", units, balanced, training, stream, err);
    if (!status) status = choose_stash(training, units, balanced, stash, err);
    tr_training_plan with = *training;
    with.extra_stash = *stash;
    if (!status && *stash != training->extra_stash)
        status = print_cut("and its stash", units, balanced, &with, stream, err);
    if (status) return status;
    fprintf(stream, "(foretold: a processor for each kernel thread, and messages that take no time)\n\n"
                    "for the recipe, in layout:\n    stages: ");
    print_list(balanced, training->n_stages, stream);
    fprintf(stream, "\n    stash: %u\n", *stash);
    return TR_OK;
}

tr_status tr_measure_print(const tr_job_plan *plan, tr_model_config *config, const tr_data *data,
                           FILE *stream, FILE *progress, tr_error *err)
{
    int32_t n_layers = plan->model.config.layers;
    uint32_t n_stages = plan->training.n_stages, stash = plan->training.extra_stash;
    tr_stage_times *units = tr_alloc_zero((size_t)n_layers + 2, sizeof *units);
    int32_t *cuts = tr_alloc_zero((size_t)n_stages * 2, sizeof *cuts),
            *balanced = cuts ? cuts + n_stages : NULL;
    tr_status status = TR_OK;
    if (!units || !cuts) status = tr_fail(err, TR_ENOMEM, "no memory to measure %d layers", n_layers);
    if (!status)
        status = tr_measure_units(&plan->model, plan->recipe->layout.recompute, plan->recipe->layout.threads,
                                  units, progress, err);
    if (!status) status = tr_balance(units, n_layers, &plan->training, balanced, err);
    if (!status) {
        layers_of(&plan->model.partition, n_layers, cuts);
        print_units(units, n_layers, plan->recipe->layout.threads, stream);
        status = print_cuts(plan, units, cuts, balanced, &stash, stream, err);
    }
    if (!status) status = print_memory_with(plan, balanced, stash, config, data, stream, err);
    tr_model_config_release(config);
    tr_free(cuts);
    tr_free(units);
    return status;
}
