/* pipelines/weights.c - fresh weights, and the tensors of a model directory matched with a model's
 * parameters.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/weights.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "pipelines/model_family.h"
#include "pipelines/safetensors.h"

#include <string.h>

struct tr_weights {
    tr_safetensors *file;
    size_t count;
    const tr_tensor_info **tensors; /* by parameter */
};

void tr_weights_initialize(const tr_model_parameter *parameter, uint64_t seed, float *out)
{
    tr_weights_initialize_range(parameter, seed, 0, tr_shape_elements(&parameter->shape), out);
}

void tr_weights_initialize_range(const tr_model_parameter *parameter, uint64_t seed, int64_t first, int64_t n,
                                 float *out)
{
    if (parameter->std == 0.0f) {
        for (int64_t i = 0; i < n; i++) out[i] = parameter->mean;
        return;
    }
    tr_rng_key key = {.seed = seed, .stream = tr_hash64_text(parameter->name)};
    tr_rng_normal(&key, (uint64_t)first, (uint64_t)n, out);
    for (int64_t i = 0; i < n; i++) out[i] = parameter->mean + parameter->std * out[i];
}

/* The parameter that a tensor of the file is, or -1. */
static int64_t parameter_of(const tr_model_parameters *parameters, const char *prefix, const char *tensor)
{
    size_t prefix_length = strlen(prefix);
    for (size_t i = 0; i < parameters->count; i++) {
        const char *name = parameters->items[i].name;
        if (strcmp(name, tensor) == 0) return (int64_t)i;
        if (strncmp(name, prefix, prefix_length) == 0 && strcmp(name + prefix_length, tensor) == 0)
            return (int64_t)i;
    }
    return -1;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static bool is_harmless(const tr_model_config *config, const char *tensor)
{
    if (config->tied && strcmp(tensor, "lm_head.weight") == 0) return true;
    for (const char *const *end = tr__model_family(config->family)->harmless; *end; end++)
        if (ends_with(tensor, *end)) return true;
    return false;
}

static tr_status check_tensor(const tr_tensor_info *tensor, const tr_model_parameter *parameter,
                              tr_error *err)
{
    if (!tensor->readable || tensor->dtype == TR_I32 || tensor->dtype == TR_I64 || tensor->dtype == TR_U8)
        return tr_fail(err, TR_EUNSUPPORTED,
                       "%s: tensor '%s' is stored as '%s'; weights are read from F32, F64, BF16 and F16",
                       tensor->file, tensor->name, tensor->stored_as);
    if (tr_shape_equal(&tensor->shape, &parameter->shape)) return TR_OK;
    char has[80], needs[80];
    tr_shape_text(&tensor->shape, has);
    tr_shape_text(&parameter->shape, needs);
    return tr_fail(err, TR_EINVAL,
                   "%s: tensor '%s' has the shape %s, but the model that config.json describes needs %s",
                   tensor->file, tensor->name, has, needs);
}

static tr_status match_tensor(tr_weights *self, const tr_tensor_info *tensor, const tr_model_config *config,
                              const tr_model_parameters *parameters, tr_error *err)
{
    int64_t i = parameter_of(parameters, tr__model_family(config->family)->prefix, tensor->name);
    if (i < 0) {
        if (is_harmless(config, tensor->name)) return TR_OK;
        return tr_fail(err, TR_EINVAL,
                       "%s: tensor '%s' is no part of the %s model that config.json describes; a layer too "
                       "many, or another kind of model?",
                       tensor->file, tensor->name, tr_family_name(config->family));
    }
    if (self->tensors[i])
        return tr_fail(err, TR_EINVAL, "%s: tensors '%s' and '%s' are the same parameter; remove one",
                       tensor->file, self->tensors[i]->name, tensor->name);
    self->tensors[i] = tensor;
    return check_tensor(tensor, &parameters->items[i], err);
}

static tr_status match_all(tr_weights *self, const char *directory, const tr_model_config *config,
                           const tr_model_parameters *parameters, tr_error *err)
{
    for (size_t i = 0; i < tr_safetensors_count(self->file); i++) {
        tr_status status = match_tensor(self, tr_safetensors_at(self->file, i), config, parameters, err);
        if (status != TR_OK) return status;
    }
    for (size_t i = 0; i < self->count; i++) {
        if (self->tensors[i]) continue;
        char shape[80];
        tr_shape_text(&parameters->items[i].shape, shape);
        return tr_fail(err, TR_ENOTFOUND,
                       "%s: there is no tensor '%s' %s, which the model that config.json describes needs",
                       directory, parameters->items[i].name, shape);
    }
    return TR_OK;
}

tr_status tr_weights_open(tr_weights **out, const char *directory, const tr_model_config *config,
                          const tr_model_parameters *parameters, tr_error *err)
{
    tr_weights *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "%s: no memory for its weights", directory);
    tr_status status = tr_safetensors_open_model(&self->file, directory, err);
    if (status != TR_OK) goto failed;
    self->count = parameters->count;
    self->tensors = tr_alloc_zero(self->count + 1, sizeof(const tr_tensor_info *));
    if (!self->tensors) {
        status = tr_fail(err, TR_ENOMEM, "%s: no memory for a list of %zu tensors", directory, self->count);
        goto failed;
    }
    status = match_all(self, directory, config, parameters, err);
    if (status != TR_OK) goto failed;
    *out = self;
    return TR_OK;
failed:
    tr_weights_close(&self);
    return status;
}

void tr_weights_close(tr_weights **self)
{
    if (!*self) return;
    tr_safetensors_close(&(*self)->file);
    tr_free((*self)->tensors);
    tr_free(*self);
    *self = NULL;
}

tr_status tr_weights_read(const tr_weights *self, size_t index, float *out, tr_error *err)
{
    TR_ASSERT(index < self->count);
    const tr_tensor_info *tensor = self->tensors[index];
    return tr_tensor_read_f32(tensor, 0, tr_shape_elements(&tensor->shape), out, err);
}

const char *tr_weights_source_name(const tr_weights *self, size_t index)
{
    TR_ASSERT(index < self->count);
    return self->tensors[index]->name;
}
