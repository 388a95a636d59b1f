/* pipelines/forward.c - loads a model directory and makes forward programs over its weights.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/forward.h"

#include "base/memory.h"
#include "pipelines/weights.h"

#include <string.h>

void *tr__alloc_tensor(int64_t elements, size_t element_bytes)
{
    size_t size_bytes = (size_t)elements * element_bytes;
    if (size_bytes == 0) size_bytes = TR_CACHE_LINE;
    void *memory = tr_alloc_aligned(TR_CACHE_LINE, size_bytes);
    if (memory) memset(memory, 0, size_bytes);
    return memory;
}

static tr_status read_weights(tr_loaded_model *self, const tr_weights *source, tr_error *err)
{
    size_t count = self->parameters.count;
    self->weights = tr_alloc_zero(count + 1, sizeof *self->weights);
    if (!self->weights) return tr_fail(err, TR_ENOMEM, "no memory for a list of %zu tensors", count);
    for (size_t i = 0; i < count; i++) {
        const tr_model_parameter *parameter = &self->parameters.items[i];
        self->weights[i] = tr__alloc_tensor(tr_shape_elements(&parameter->shape), sizeof(float));
        if (!self->weights[i]) return tr_fail(err, TR_ENOMEM, "no memory for tensor '%s'", parameter->name);
        tr_status status = tr_weights_read(source, i, self->weights[i], err);
        if (status != TR_OK) return status;
    }
    return TR_OK;
}

tr_status tr__loaded_model_open(tr_loaded_model *out, const char *directory, tr_error *err)
{
    tr_loaded_model self = {0};
    tr_weights *source = NULL;
    tr_status status = tr_model_config_read(&self.config, directory, err);
    if (status != TR_OK) return status;
    status = tr_model_parameters_list(&self.parameters, &self.config, err);
    if (status == TR_OK) status = tr_weights_open(&source, directory, &self.config, &self.parameters, err);
    if (status == TR_OK) status = read_weights(&self, source, err);
    tr_weights_close(&source);
    if (status == TR_OK)
        *out = self;
    else
        tr__loaded_model_release(&self);
    return status;
}

void tr__loaded_model_release(tr_loaded_model *self)
{
    for (size_t i = 0; self->weights && i < self->parameters.count; i++) tr_free(self->weights[i]);
    tr_free(self->weights);
    tr_model_parameters_release(&self->parameters);
    tr_model_config_release(&self->config);
    *self = (tr_loaded_model){0};
}

/* The i-th parameter of the graph is the i-th of the list. */
static void bind_weights(tr_forward *self, const tr_loaded_model *model)
{
    size_t i = 0;
    for (tr_value v = 0; v < tr_graph_value_count(self->graph); v++)
        if (tr_graph_value(self->graph, v)->kind == TR_VALUE_PARAMETER) self->bound[v] = model->weights[i++];
    TR_ASSERT(i == model->parameters.count);
}

static tr_status allocate(tr_forward *self, tr_error *err)
{
    size_t stash_bytes = tr_program_stash_bytes(self->program);
    size_t scratch_bytes = tr_program_scratch_bytes(self->program);
    self->bound = tr_alloc_zero((size_t)tr_graph_value_count(self->graph), sizeof *self->bound);
    self->stash = tr__alloc_tensor((int64_t)stash_bytes, 1);
    self->scratch = tr__alloc_tensor((int64_t)scratch_bytes, 1);
    if (self->bound && self->stash && self->scratch) return TR_OK;
    return tr_fail(err, TR_ENOMEM, "no memory for the %zu bytes that a forward needs; try a shorter sequence",
                   stash_bytes + scratch_bytes);
}

tr_status tr__forward_init(tr_forward *out, const tr_loaded_model *model, const tr_model_options *options,
                           int n_threads, tr_error *err)
{
    tr_forward self = {0};
    tr_program_options program_options = {.device = TR_DEVICE_CPU, .n_threads = n_threads};
    tr_status status = tr_model_graph(&model->config, options, &self.graph, &self.values, err);
    if (status == TR_OK) status = tr_program_new(&self.program, self.graph, &program_options, err);
    if (status == TR_OK) status = allocate(&self, err);
    if (status != TR_OK) {
        tr__forward_release(&self);
        return status;
    }
    bind_weights(&self, model);
    *out = self;
    return TR_OK;
}

void tr__forward_release(tr_forward *self)
{
    tr_free(self->scratch);
    tr_free(self->stash);
    tr_free(self->bound);
    tr_program_destroy(&self->program);
    tr_graph_destroy(&self->graph);
    *self = (tr_forward){0};
}

void tr__forward_run(tr_forward *self, tr_thread_pool *pool)
{
    tr_bindings bindings = {
        .values = self->bound, .stash = self->stash, .scratch = self->scratch, .pool = pool};
    tr_program_run(self->program, TR_PHASE_FORWARD, &bindings);
}
