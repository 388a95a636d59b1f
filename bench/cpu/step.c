/* bench/cpu/step.c - see step.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/cpu/step.h"

#include "base/buffer.h"
#include "base/memory.h"
#include "base/rng.h"
#include "ops/optimizer.h"
#include "ops/program.h"
#include "pipelines/job_plan.h"
#include "pipelines/weights.h"
#include "runtime/state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { POSITIONS = 1024, HEAD_SIZE = 64, PAGE = 4096, MOST_OPS = 64, LINE = TR_CACHE_LINE / 4 };

/* What a stage does beside running its program. */
typedef enum work { ZERO, TIE, NORM, UPDATE, PUBLISH, N_WORKS } work;
static const char *const work_names[N_WORKS] = {"zero gradients", "add tied uses", "square sums", "adamw",
                                                "publish (hash)"};

typedef struct parameter {
    int64_t offset;       /* in each third of a slot */
    int64_t gradients[2]; /* in the flat gradient, by use */
    float *total;         /* of a tied one */
    tr_bf16 *rounded;
} parameter;

struct cpu_step {
    tr_recipe recipe;
    tr_model_plan model;
    tr_stage_spec spec;
    tr_program *program;
    tr_thread_pool *pool;
    tr_state_region *state;
    parameter *parameters;
    int64_t slot_elements;
    tr_buffer *gradient; /* flat */
    tr_bf16 *rounded;
    void **bound, *stash, *scratch;
    int32_t *tokens, *targets;
    double loss, *sums;
    float factor;
    int slot;
    uint32_t step, n_counted;
    uint64_t works[N_WORKS];
    tr_op_time before[MOST_OPS]; /* when times were forgotten */
    size_t n_before;
};

uint64_t cpu_step_processor_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int64_t aligned(int64_t n)
{
    return (n + LINE - 1) / LINE * LINE;
}

static float *part(cpu_step *self, int slot, int which)
{
    return (float *)tr_state_slot(self->state, slot) + which * self->slot_elements;
}

static tr_status plan(cpu_step *self, const cpu_row *row, tr_dtype dtype, int n_threads, tr_error *err)
{
    char text[1024];
    tr_model_config config = {0};
    snprintf(text, sizeof text,
             "run: none\n"
             "model: {family: gpt2, layers: %d, width: %d, heads: %d, vocabulary: %d, positions: %d}\n"
             "data: {tokens: none}\n"
             "train: {steps: 1000000, sequence: %d, microbatch: %d}\n"
             "lr: {peak: 1e-4, decay: constant}\n"
             "layout: {threads: %d, processes: false}\n"
             "dtype: %s\n",
             row->layers, row->width, row->width / HEAD_SIZE, row->vocabulary, POSITIONS, row->sequence,
             row->rows, n_threads, tr_dtype_name(dtype));
    tr_training_plan training = {.n_replicas = 1,
                                 .n_stages = 1,
                                 .n_pieces = 1,
                                 .n_steps = 1000000,
                                 .n_microbatches = 1,
                                 .n_groups = 1,
                                 .rows = (uint32_t)row->rows,
                                 .sequence = (uint32_t)row->sequence};
    tr_status status = tr_recipe_parse(&self->recipe, text, strlen(text), "training", NULL, 0, err);
    if (!status) status = tr_model_config_from_recipe(&config, &self->recipe, err);
    if (!status) status = tr_model_plan_init(&self->model, &config, &self->recipe, err);
    if (!status) status = tr_model_plan_stage(&self->model, &self->recipe, &training, 0, 0, &self->spec, err);
    return status;
}

/* Offsets of parameters in a slot and of their uses in the flat gradient, as stage_reduce.c has them. */
static tr_status place(cpu_step *self, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    int64_t flat = 0, rounded = 0, most = 0;
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        const tr_stage_parameter *known = &spec->parameters[i];
        parameter *p = &self->parameters[i];
        p->offset = self->slot_elements;
        self->slot_elements += aligned(known->n_elements);
        TR_ASSERT(known->n_uses <= 2);
        for (uint32_t u = 0; u < known->n_uses; u++, flat += aligned(known->n_elements))
            p->gradients[u] = flat;
        if (known->n_uses > 1)
            p->total = tr_alloc_aligned(TR_CACHE_LINE, (size_t)known->n_elements * sizeof(float));
        if (tr_graph_value(spec->graph, known->value)->dtype == TR_BF16)
            rounded += 2 * aligned((known->n_elements + 1) / 2);
        if (known->n_elements > most) most = known->n_elements;
    }
    self->sums = tr_alloc((size_t)tr_norm_block_count(most) * sizeof *self->sums);
    self->rounded = tr_alloc_aligned(TR_CACHE_LINE, (size_t)rounded * sizeof *self->rounded);
    tr_status status = tr_buffer_new(&self->gradient, (size_t)flat * sizeof(float), err);
    if (status) return status;
    return tr_state_region_new(&self->state, "bench", (uint64_t)self->slot_elements * 3 * sizeof(float), err);
}

static void bind_parameters(cpu_step *self)
{
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        parameter *p = &self->parameters[i];
        self->bound[self->spec.parameters[i].value] =
            p->rounded ? (void *)p->rounded : (void *)(part(self, self->slot, 0) + p->offset);
    }
}

static void load(cpu_step *self)
{
    tr_bf16 *at = self->rounded;
    memset(part(self, 0, 1), 0, (size_t)self->slot_elements * 2 * sizeof(float));
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr_stage_parameter *known = &self->spec.parameters[i];
        parameter *p = &self->parameters[i];
        float *values = part(self, 0, 0) + p->offset, *gradients = self->gradient->data;
        tr_weights_initialize(&self->model.parameters.items[known->index], 1, values);
        for (uint32_t u = 0; u < known->n_uses; u++)
            self->bound[known->uses[u].gradient] = gradients + p->gradients[u];
        if (tr_graph_value(self->spec.graph, known->value)->dtype != TR_BF16) continue;
        p->rounded = at;
        tr_round_to_bf16(values, at, known->n_elements, self->pool);
        at += 2 * aligned((known->n_elements + 1) / 2);
    }
    bind_parameters(self);
}

static void fill(cpu_step *self, const cpu_row *row)
{
    const tr_rng_key key = {.seed = 1, .stream = 0x53544550 /* "STEP" */};
    int64_t n = (int64_t)row->rows * row->sequence;
    for (int64_t i = 0; i < n; i++) {
        self->tokens[i] = (int32_t)(tr_rng_u64(&key, (uint64_t)i) % (uint64_t)row->vocabulary);
        self->targets[i] = (int32_t)(tr_rng_u64(&key, (uint64_t)(n + i)) % (uint64_t)row->vocabulary);
    }
    self->factor = 1.0f / (float)n;
    self->bound[self->spec.tokens] = self->tokens;
    self->bound[self->spec.targets] = self->targets;
    self->bound[self->spec.factor] = &self->factor;
    self->bound[self->spec.loss] = &self->loss;
}

tr_status cpu_step_new(cpu_step **out, const cpu_row *row, tr_dtype dtype, int n_threads, tr_error *err)
{
    cpu_step *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a step");
    tr_status status = plan(self, row, dtype, n_threads, err);
    tr_program_options options = {
        .device = TR_DEVICE_CPU, .n_threads = n_threads, .clock_ns = cpu_step_processor_ns};
    if (!status) status = tr_program_new(&self->program, self->spec.graph, &options, err);
    if (!status) status = tr_thread_pool_new(&self->pool, n_threads, err);
    if (status) goto failed;
    size_t ids = (size_t)row->rows * (size_t)row->sequence;
    self->parameters = tr_alloc_zero(self->spec.n_parameters, sizeof *self->parameters);
    self->bound = tr_alloc_zero((size_t)tr_graph_value_count(self->spec.graph), sizeof *self->bound);
    self->stash = tr_alloc_aligned(PAGE, tr_program_stash_bytes(self->program));
    self->scratch = tr_alloc_aligned(PAGE, tr_program_scratch_bytes(self->program));
    self->tokens = tr_alloc_aligned(TR_CACHE_LINE, ids * sizeof *self->tokens);
    self->targets = tr_alloc_aligned(TR_CACHE_LINE, ids * sizeof *self->targets);
    if (!self->parameters || !self->bound || !self->stash || !self->scratch || !self->tokens ||
        !self->targets)
        status = tr_fail(err, TR_ENOMEM, "no memory for a step of '%s'", row->name);
    if (!status) status = place(self, err);
    if (status) goto failed;
    load(self);
    fill(self, row);
    *out = self;
    return TR_OK;
failed:
    cpu_step_destroy(&self);
    return status;
}

void cpu_step_destroy(cpu_step **out)
{
    cpu_step *self = *out;
    if (!self) return;
    for (uint32_t i = 0; self->parameters && i < self->spec.n_parameters; i++)
        tr_free(self->parameters[i].total);
    tr_free(self->parameters);
    tr_state_region_destroy(&self->state);
    tr_buffer_release(&self->gradient);
    tr_free(self->rounded);
    tr_free(self->sums);
    tr_free(self->targets);
    tr_free(self->tokens);
    tr_free(self->scratch);
    tr_free(self->stash);
    tr_free(self->bound);
    tr_thread_pool_destroy(&self->pool);
    tr_program_destroy(&self->program);
    tr_stage_spec_release(&self->spec);
    tr_model_plan_release(&self->model);
    tr_recipe_release(&self->recipe);
    tr_free(self);
    *out = NULL;
}

/* --- one step --- */

/* The time since *clock_ns goes to `which`. */
static void note(cpu_step *self, work which, uint64_t *clock_ns)
{
    uint64_t now_ns = cpu_step_processor_ns();
    self->works[which] += now_ns - *clock_ns;
    *clock_ns = now_ns;
}

static const float *total(const cpu_step *self, const parameter *p)
{
    return p->total ? p->total : (const float *)self->gradient->data + p->gradients[0];
}

static void add_tied(cpu_step *self)
{
    const float *gradients = self->gradient->data;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const parameter *p = &self->parameters[i];
        if (!p->total) continue;
        int64_t n = self->spec.parameters[i].n_elements;
        tr_sum(p->total, gradients + p->gradients[0], gradients + p->gradients[1], n, self->pool);
    }
}

static double square_norm(cpu_step *self)
{
    double square = 0;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        int64_t n = self->spec.parameters[i].n_elements;
        tr_square_sums(total(self, &self->parameters[i]), n, self->sums, self->pool);
        for (int64_t b = 0; b < tr_norm_block_count(n); b++) square += self->sums[b];
    }
    return square;
}

static void update(cpu_step *self, double norm)
{
    const tr_stage_optimizer *known = &self->spec.optimizer;
    int from = self->slot, into = 1 - from;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const parameter *p = &self->parameters[i];
        tr_adamw_options options = {.lr = 1e-4f,
                                    .beta1 = known->beta1,
                                    .beta2 = known->beta2,
                                    .eps = known->eps,
                                    .weight_decay =
                                        self->spec.parameters[i].decayed ? known->weight_decay : 0,
                                    .gradient_scale = norm > 1 ? (float)(1 / norm) : 1,
                                    .step = self->step + 1};
        tr_adamw(part(self, from, 0) + p->offset, part(self, from, 1) + p->offset,
                 part(self, from, 2) + p->offset, total(self, p), part(self, into, 0) + p->offset,
                 part(self, into, 1) + p->offset, part(self, into, 2) + p->offset, p->rounded,
                 self->spec.parameters[i].n_elements, &options, self->pool);
    }
}

double cpu_step_run(cpu_step *self)
{
    tr_bindings bindings = {.values = self->bound,
                            .stash = self->stash,
                            .scratch = self->scratch,
                            .pool = self->pool,
                            .random = {.training = true, .seed = 1, .step = self->step}};
    tr_program_run(self->program, TR_PHASE_FORWARD, &bindings);
    tr_program_run(self->program, TR_PHASE_BACKWARD, &bindings);
    uint64_t clock_ns = cpu_step_processor_ns();
    tr_clear(self->gradient->data, (int64_t)(self->gradient->size_bytes / sizeof(float)), self->pool);
    note(self, ZERO, &clock_ns);
    tr_program_run(self->program, TR_PHASE_WEIGHT, &bindings);
    clock_ns = cpu_step_processor_ns();
    add_tied(self);
    note(self, TIE, &clock_ns);
    double norm = sqrt(square_norm(self));
    note(self, NORM, &clock_ns);
    tr_state_open(self->state, 1 - self->slot);
    update(self, norm);
    self->slot = 1 - self->slot;
    self->step++;
    note(self, UPDATE, &clock_ns);
    tr_state_publish(self->state, self->slot, (uint64_t)self->step + 1, self->pool);
    note(self, PUBLISH, &clock_ns);
    bind_parameters(self);
    self->n_counted++;
    return self->loss * (double)self->factor;
}

/* --- what it took --- */

void cpu_step_forget_times(cpu_step *self)
{
    self->n_before = tr_program_times(self->program, self->before, MOST_OPS);
    memset(self->works, 0, sizeof self->works);
    self->n_counted = 0;
}

static int longest_first(const void *left, const void *right)
{
    const tr_op_time *a = left, *b = right;
    return (a->nanoseconds < b->nanoseconds) - (a->nanoseconds > b->nanoseconds);
}

/* Of all nodes of that operation. */
static double op_flops(const cpu_step *self, const char *name)
{
    double flops = 0;
    for (int32_t n = 0; n < tr_graph_node_count(self->spec.graph); n++) {
        const tr_node *node = tr_graph_node(self->spec.graph, n);
        if (strcmp(node->op->name, name) == 0 && node->op->flops)
            flops += node->op->flops(self->spec.graph, node);
    }
    return flops;
}

void cpu_step_print_times(const cpu_step *self, FILE *stream)
{
    tr_op_time times[MOST_OPS + N_WORKS];
    size_t n = tr_program_times(self->program, times, MOST_OPS);
    TR_ASSERT(n <= MOST_OPS);
    uint32_t steps = self->n_counted ? self->n_counted : 1;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < self->n_before; k++) {
            if (strcmp(times[i].name, self->before[k].name) != 0) continue;
            times[i].nanoseconds -= self->before[k].nanoseconds;
            times[i].calls -= self->before[k].calls;
        }
    for (int w = 0; w < N_WORKS; w++)
        times[n++] = (tr_op_time){.name = work_names[w], .nanoseconds = self->works[w], .calls = steps};
    qsort(times, n, sizeof *times, longest_first);
    for (size_t i = 0; i < n; i++)
        fprintf(stream, "op %.3f %llu %.4f %s\n", (double)times[i].nanoseconds * 1e-6 / steps,
                (unsigned long long)times[i].calls / steps, op_flops(self, times[i].name) * 1e-9,
                times[i].name);
}

double cpu_step_product_flops(const cpu_step *self)
{
    double flops = 0;
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        flops += tr_program_flops(self->program, (tr_phase)phase);
    return flops;
}

/* Three arrays and the gradient in, three out; and the rounded copies. */
double cpu_step_update_bytes(const cpu_step *self)
{
    double bytes = 0;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++)
        bytes += (double)self->spec.parameters[i].n_elements * (self->parameters[i].rounded ? 30 : 28);
    return bytes;
}
