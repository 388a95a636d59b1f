/* bench/gpu/training.c - see training.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/gpu/training.h"

#include "base/memory.h"
#include "ops/autodiff.h"
#include "ops/chunk_logits.h"
#include "ops/cuda/optimizer.h"
#include "ops/optimizer.h"
#include "ops/use_fp8.h"

#include <string.h>

enum { MOST_MICROBATCHES = 64 };

/* What is timed beside the graph lies between two of them. */
enum { UPDATING, NORM_THERE, UPDATED, N_MARKS };

typedef struct parameter {
    tr_value value;
    int64_t n;
    float *master, *m, *v;
    tr_bf16 *copy;   /* what the graph reads, or NULL: the master */
    float *gradient; /* of the first use, and in the end of all */
    float *other_uses[3];
    int n_other_uses;
} parameter;

struct gpu_training {
    const tr_loaded_model *model;
    gpu_training_options options;
    tr_device *device;
    tr_stream *stream;
    tr_graph *graph;
    tr_model_values values;
    tr_value factor_value;
    tr_program *program;
    tr_cuda_optimizer *optimizer;
    parameter *parameters;
    void **bound;
    void *stash, *scratch;
    char *gradients; /* all of them, in one piece */
    size_t gradient_bytes, device_bytes;
    float *factor;
    double *losses; /* of a step's micro-batches */
    uint64_t n_updates;
    int n_microbatches;
    tr_event *marks[N_MARKS]; /* with time_kernels */
    gpu_training_times times;
};

static tr_status allocate(gpu_training *self, size_t bytes, void **out, tr_error *err)
{
    self->device_bytes += bytes;
    return tr_device_allocate(self->device, TR_MEMORY_DEVICE, bytes, out, err);
}

static size_t rounded_up(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static tr_status chunk_logits(gpu_training *self, tr_error *err)
{
    tr_graph *graph;
    tr_status status = tr_graph_chunk_logits(&graph, self->graph, self->options.logits, err);
    if (status != TR_OK) return status;
    tr_graph_destroy(&self->graph);
    self->graph = graph;
    return TR_OK;
}

static tr_status use_fp8(gpu_training *self, tr_error *err)
{
    tr_graph *graph;
    if (!self->options.fp8) return TR_OK;
    tr_status status = tr_graph_use_fp8(&graph, self->graph, err);
    if (status != TR_OK) return status;
    tr_graph_destroy(&self->graph);
    self->graph = graph;
    return TR_OK;
}

static tr_status build(gpu_training *self, tr_error *err)
{
    tr_model_options options = {.kind = TR_MODEL_TRAINING,
                                .batch = self->options.batch,
                                .sequence = self->options.sequence,
                                .dtype = self->options.dtype};
    tr_value none = TR_NO_VALUE, no_gradient = TR_NO_VALUE;
    tr_program_options how = {.device = tr_device_kind_of(self->device),
                              .stream = self->stream,
                              .n_threads = 1,
                              .time_kernels = self->options.time_kernels,
                              .choices = self->options.choices};
    tr_status status = tr_model_graph(&self->model->config, &options, &self->graph, &self->values, err);
    if (status != TR_OK) return status;
    self->factor_value = tr_graph_input(self->graph, "factor", TR_F32, TR_SHAPE1(1));
    status =
        tr_autodiff(self->graph, &self->values.loss, &self->factor_value, 1, &none, &no_gradient, 0, err);
    if (status == TR_OK) status = chunk_logits(self, err);
    if (status == TR_OK) status = use_fp8(self, err);
    return status == TR_OK ? tr_program_new(&self->program, self->graph, &how, err) : status;
}

static tr_status upload(gpu_training *self, parameter *p, const float *weights, tr_error *err)
{
    size_t bytes = (size_t)p->n * sizeof(float);
    tr_status status = allocate(self, bytes, (void **)&p->master, err);
    if (status == TR_OK) status = allocate(self, bytes, (void **)&p->m, err);
    if (status == TR_OK) status = allocate(self, bytes, (void **)&p->v, err);
    if (status == TR_OK) status = tr_stream_copy(self->stream, p->master, weights, bytes, err);
    if (status == TR_OK) status = tr_stream_fill(self->stream, p->m, 0, bytes, err);
    if (status == TR_OK) status = tr_stream_fill(self->stream, p->v, 0, bytes, err);
    self->bound[p->value] = p->master;
    if (status != TR_OK || tr_graph_value(self->graph, p->value)->dtype != TR_BF16) return status;
    status = allocate(self, (size_t)p->n * sizeof(tr_bf16), (void **)&p->copy, err);
    if (status == TR_OK) status = tr_cuda_round_bf16(self->stream, p->master, p->copy, p->n, err);
    self->bound[p->value] = p->copy;
    return status;
}

/* The i-th parameter of the graph is the i-th of the model's list. */
static tr_status place_parameters(gpu_training *self, tr_error *err)
{
    size_t i = 0;
    for (tr_value v = 0; v < tr_graph_value_count(self->graph); v++) {
        const tr_value_info *value = tr_graph_value(self->graph, v);
        if (value->kind != TR_VALUE_PARAMETER) continue;
        parameter *p = &self->parameters[i];
        p->value = v;
        p->n = tr_shape_elements(&value->shape);
        tr_status status = upload(self, p, self->model->weights[i++], err);
        if (status != TR_OK) return status;
    }
    TR_ASSERT(i == self->model->parameters.count);
    return TR_OK;
}

static parameter *parameter_of(gpu_training *self, tr_value value)
{
    for (size_t i = 0;; i++)
        if (self->parameters[i].value == value) return &self->parameters[i];
}

/* Uses in graph order: autodiff makes their gradients from the last to the first, so they are put by their use. */
static tr_status place_gradients(gpu_training *self, tr_error *err)
{
    int32_t n = tr_graph_value_count(self->graph), n_nodes = tr_graph_node_count(self->graph);
    size_t at = 0;
    for (tr_value v = 0; v < n; v++)
        if (tr_graph_value(self->graph, v)->kind == TR_VALUE_GRADIENT)
            self->gradient_bytes +=
                rounded_up((size_t)tr_shape_elements(&tr_graph_value(self->graph, v)->shape) * 4);
    tr_status status = allocate(self, self->gradient_bytes, (void **)&self->gradients, err);
    for (int32_t use = 0; status == TR_OK && use < n_nodes; use++)
        for (tr_value v = 0; v < n; v++) {
            const tr_value_info *value = tr_graph_value(self->graph, v);
            if (value->kind != TR_VALUE_GRADIENT || value->use != use) continue;
            parameter *p = parameter_of(self, value->parameter);
            float *gradient = (float *)(self->gradients + at);
            self->bound[v] = gradient;
            at += rounded_up((size_t)p->n * 4);
            if (!p->gradient) {
                p->gradient = gradient;
                continue;
            }
            TR_ASSERT(p->n_other_uses < 3);
            p->other_uses[p->n_other_uses++] = gradient;
        }
    return status;
}

static tr_status place_rest(gpu_training *self, tr_error *err)
{
    size_t tokens = (size_t)self->options.batch * (size_t)self->options.sequence * sizeof(int32_t);
    tr_status status = allocate(self, tr_program_stash_bytes(self->program), &self->stash, err);
    if (status == TR_OK)
        status = allocate(self, tr_program_scratch_bytes(self->program), &self->scratch, err);
    if (status == TR_OK) status = allocate(self, tokens, &self->bound[self->values.tokens], err);
    if (status == TR_OK) status = allocate(self, tokens, &self->bound[self->values.targets], err);
    if (status == TR_OK) status = allocate(self, sizeof(float), (void **)&self->factor, err);
    if (status == TR_OK)
        status = allocate(self, MOST_MICROBATCHES * sizeof(double), (void **)&self->losses, err);
    self->bound[self->factor_value] = self->factor;
    return status;
}

static tr_status make_marks(gpu_training *self, tr_error *err)
{
    tr_status status = TR_OK;
    for (int i = 0; self->options.time_kernels && status == TR_OK && i < N_MARKS; i++)
        status = tr_event_new(&self->marks[i], self->device, true, err);
    return status;
}

static void mark(gpu_training *self, int which)
{
    if (self->marks[which]) tr_event_record(self->marks[which], self->stream, NULL);
}

static double between(const gpu_training *self, int first, int last)
{
    double ms = 0;
    tr_event_elapsed_ms(self->marks[first], self->marks[last], &ms, NULL);
    return ms;
}

static tr_status make_optimizer(gpu_training *self, tr_error *err)
{
    size_t n = self->model->parameters.count;
    tr_cuda_tensor *tensors = tr_alloc_zero(n, sizeof *tensors);
    if (!tensors) return tr_fail(err, TR_ENOMEM, "no memory for a table of %zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        const parameter *p = &self->parameters[i];
        bool decays = self->model->parameters.items[i].decays;
        tensors[i] = (tr_cuda_tensor){.p = p->master,
                                      .m = p->m,
                                      .v = p->v,
                                      .g = p->gradient,
                                      .bf16 = p->copy,
                                      .n = p->n,
                                      .weight_decay = decays ? (float)self->options.weight_decay : 0.0f};
    }
    tr_status status = tr_cuda_optimizer_new(&self->optimizer, self->stream, tensors, n, err);
    tr_free(tensors);
    return status;
}

tr_status gpu_training_new(gpu_training **out, tr_device *device, const tr_loaded_model *model,
                           const gpu_training_options *options, tr_error *err)
{
    gpu_training *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a training");
    self->model = model;
    self->options = *options;
    self->device = device;
    tr_status status = tr_stream_new(&self->stream, device, err);
    if (status == TR_OK) status = build(self, err);
    if (status == TR_OK) {
        self->bound = tr_alloc_zero((size_t)tr_graph_value_count(self->graph), sizeof *self->bound);
        self->parameters = tr_alloc_zero(model->parameters.count + 1, sizeof *self->parameters);
        if (!self->bound || !self->parameters) status = tr_fail(err, TR_ENOMEM, "no memory for a training");
    }
    if (status == TR_OK) status = place_parameters(self, err);
    if (status == TR_OK) status = place_gradients(self, err);
    if (status == TR_OK) status = place_rest(self, err);
    if (status == TR_OK) status = make_optimizer(self, err);
    if (status == TR_OK) status = make_marks(self, err);
    if (status != TR_OK) {
        gpu_training_destroy(&self);
        return status;
    }
    *out = self;
    return TR_OK;
}

static void free_device(gpu_training *self, void *memory)
{
    tr_device_free(self->device, TR_MEMORY_DEVICE, memory);
}

void gpu_training_destroy(gpu_training **self)
{
    gpu_training *t = *self;
    if (!t) return;
    tr_cuda_optimizer_destroy(&t->optimizer);
    tr_program_destroy(&t->program);
    for (size_t i = 0; t->parameters && i < t->model->parameters.count; i++) {
        parameter *p = &t->parameters[i];
        free_device(t, p->master);
        free_device(t, p->m);
        free_device(t, p->v);
        free_device(t, p->copy);
    }
    if (t->bound) {
        free_device(t, t->bound[t->values.tokens]);
        free_device(t, t->bound[t->values.targets]);
    }
    free_device(t, t->gradients);
    free_device(t, t->stash);
    free_device(t, t->scratch);
    free_device(t, t->factor);
    free_device(t, t->losses);
    for (int i = 0; i < N_MARKS; i++) tr_event_destroy(&t->marks[i]);
    tr_stream_destroy(&t->stream);
    tr_graph_destroy(&t->graph);
    tr_free(t->parameters);
    tr_free(t->bound);
    tr_free(t);
    *self = NULL;
}

tr_status gpu_training_microbatch(gpu_training *self, const int32_t *tokens, const int32_t *targets,
                                  float factor, bool first, tr_error *err)
{
    size_t bytes = (size_t)self->options.batch * (size_t)self->options.sequence * sizeof(int32_t);
    tr_status status = TR_OK;
    if (first) self->n_microbatches = 0;
    TR_ASSERT(self->n_microbatches < MOST_MICROBATCHES);
    self->bound[self->values.loss] = self->losses + self->n_microbatches++;
    if (status == TR_OK)
        status = tr_stream_copy(self->stream, self->bound[self->values.tokens], tokens, bytes, err);
    if (status == TR_OK)
        status = tr_stream_copy(self->stream, self->bound[self->values.targets], targets, bytes, err);
    if (status == TR_OK) status = tr_stream_copy(self->stream, self->factor, &factor, sizeof factor, err);
    if (status != TR_OK) return status;
    tr_bindings bindings = {.values = self->bound,
                            .stash = self->stash,
                            .scratch = self->scratch,
                            .random = {.training = true},
                            .begin_gradients = first,
                            .weights = self->n_updates + 1};
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        tr_program_run(self->program, (tr_phase)phase, &bindings);
    return TR_OK;
}

tr_status gpu_training_update(gpu_training *self, double lr, uint32_t step, tr_error *err)
{
    const gpu_training_options *o = &self->options;
    tr_cuda_step_options options = {.lr = lr,
                                    .beta1 = o->beta1,
                                    .beta2 = o->beta2,
                                    .eps = o->eps,
                                    .clip_norm = o->clip_norm,
                                    .step = step};
    tr_status status = TR_OK;
    self->n_updates++;
    mark(self, UPDATING);
    for (size_t i = 0; i < self->model->parameters.count; i++)
        for (int use = 0; status == TR_OK && use < self->parameters[i].n_other_uses; use++)
            status = tr_cuda_accumulate(self->stream, self->parameters[i].gradient,
                                        self->parameters[i].other_uses[use], self->parameters[i].n, err);
    if (status == TR_OK) status = tr_cuda_optimizer_norm(self->optimizer, err);
    mark(self, NORM_THERE);
    if (status == TR_OK) status = tr_cuda_optimizer_step(self->optimizer, &options, err);
    mark(self, UPDATED);
    return status;
}

tr_status gpu_training_read(gpu_training *self, double *loss, double *norm, tr_error *err)
{
    double losses[MOST_MICROBATCHES], sum = 0;
    tr_status status = tr_stream_copy(self->stream, losses, self->losses, sizeof losses, err);
    if (status == TR_OK)
        status =
            tr_stream_copy(self->stream, norm, tr_cuda_optimizer_norm_at(self->optimizer), sizeof *norm, err);
    if (status == TR_OK) status = tr_program_synchronize(self->program, err);
    if (status != TR_OK) return status;
    if (self->options.time_kernels) {
        self->times.norm += between(self, UPDATING, NORM_THERE);
        self->times.adamw += between(self, NORM_THERE, UPDATED);
    }
    for (int i = 0; i < self->n_microbatches; i++) sum += losses[i];
    *loss = sum;
    return TR_OK;
}

tr_status gpu_training_weights(gpu_training *self, size_t index, float *out, tr_error *err)
{
    const parameter *p = &self->parameters[index];
    tr_status status = tr_stream_copy(self->stream, out, p->master, (size_t)p->n * sizeof(float), err);
    return status == TR_OK ? tr_stream_synchronize(self->stream, err) : status;
}

gpu_training_times gpu_training_other_times(const gpu_training *self)
{
    return self->times;
}

size_t gpu_training_device_bytes(const gpu_training *self)
{
    return self->device_bytes + tr_program_kept_bytes(self->program);
}

const tr_program *gpu_training_program(const gpu_training *self)
{
    return self->program;
}

tr_stream *gpu_training_stream(gpu_training *self)
{
    return self->stream;
}
