/* pipelines/model.c - the part of a model that no family differs in: inputs, units, loss, and the list of
 * parameters.
 * The list is made by building a graph of one token, so that it cannot disagree with the graph.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model.h"

#include "base/memory.h"
#include "pipelines/model_family.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 128 };

static const tr_model_family *const families[] = {&tr__llama, &tr__gpt2};

const tr_model_family *tr__model_family(tr_family family)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (families[i]->family == family) return families[i];
    TR_ASSERT(false && "a family without an entry in the table");
    return NULL;
}

static void start_of(const tr_model_builder *b, tr_model_init init, float *mean, float *std)
{
    *mean = init == TR_INIT_ONES ? 1.0f : 0.0f;
    *std = 0.0f;
    if (init == TR_INIT_NORMAL) *std = b->config->initializer_range;
    if (init == TR_INIT_RESIDUAL)
        *std = (float)((double)b->config->initializer_range / sqrt(2.0 * (double)b->config->layers));
}

static tr_status remember(tr_model_builder *b, tr_model_init init, tr_shape shape, const char *name)
{
    tr_model_parameters *list = b->parameters;
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].name, name) == 0) return TR_OK;
    tr_status status =
        tr_array_reserve((void **)&list->items, &list->capacity_, list->count + 1, sizeof *list->items, NULL);
    if (status != TR_OK) return status;
    tr_model_parameter parameter = {.name = tr_strdup(name), .shape = shape, .decays = shape.rank >= 2};
    if (!parameter.name) return TR_ENOMEM;
    start_of(b, init, &parameter.mean, &parameter.std);
    list->items[list->count++] = parameter;
    return TR_OK;
}

tr_value tr__model_parameter(tr_model_builder *b, tr_model_init init, tr_shape shape, const char *format, ...)
{
    char name[NAME_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    TR_ASSERT(length > 0 && length < NAME_SIZE);
    if (b->parameters && remember(b, init, shape, name) != TR_OK)
        tr_graph_set_error(b->graph, TR_ENOMEM, "no memory for the list of parameters");
    return tr_graph_parameter(b->graph, name, shape.rank >= 2 ? b->options->dtype : TR_F32, shape);
}

tr_value tr__model_linear(tr_model_builder *b, tr_value x, int64_t outputs, tr_weight_layout layout,
                          tr_model_init init, bool has_bias, const char *name)
{
    const tr_shape *shape = &tr_graph_value(b->graph, x)->shape;
    if (shape->rank < 1) return TR_NO_VALUE; /* an earlier builder failed, and the graph says which */
    int64_t inputs = shape->dims[shape->rank - 1];
    tr_shape weight_shape =
        layout == TR_WEIGHT_OUT_IN ? TR_SHAPE2(outputs, inputs) : TR_SHAPE2(inputs, outputs);
    tr_value w = tr__model_parameter(b, init, weight_shape, "%s.weight", name);
    tr_value bias = TR_NO_VALUE;
    if (has_bias) bias = tr__model_parameter(b, TR_INIT_ZEROS, TR_SHAPE1(outputs), "%s.bias", name);
    return tr_linear(b->graph, x, w, bias, layout);
}

tr_value tr__model_dropout(tr_model_builder *b, tr_value x, double rate)
{
    return b->options->kind == TR_MODEL_TRAINING ? tr_dropout(b->graph, x, rate) : x;
}

tr_value tr__model_attention(tr_model_builder *b, tr_value q, tr_value k, tr_value v, int32_t layer)
{
    const tr_model_config *c = b->config;
    tr_attention_options options = {.heads = c->heads,
                                    .kv_heads = c->kv_heads,
                                    .head_size = c->head_size,
                                    .scale = tr_model_config_attention_scale(c, layer)};
    if (b->options->kind == TR_MODEL_TRAINING) options.dropout = c->attention_dropout;
    if (b->options->kind != TR_MODEL_GENERATION) return tr_attention(b->graph, q, k, v, &options);
    tr_shape shape = TR_SHAPE2(b->options->cache_rows, (int64_t)c->kv_heads * c->head_size);
    char name[32];
    snprintf(name, sizeof name, "cache.%d.k", layer);
    tr_value cache_k = tr_graph_state(b->graph, name, b->options->dtype, shape);
    snprintf(name, sizeof name, "cache.%d.v", layer);
    tr_value cache_v = tr_graph_state(b->graph, name, b->options->dtype, shape);
    return tr_attention_cached(b->graph, q, k, v, cache_k, cache_v, b->position, &options);
}

static tr_status check_options(const tr_model_config *c, const tr_model_options *o, tr_error *err)
{
    if (o->batch < 1 || o->sequence < 1 || o->sequence > tr_model_config_longest_sequence(c))
        return tr_fail(err, TR_EINVAL,
                       "a batch of %d sequences of %d tokens: both must be at least 1, and the model has %d "
                       "positions; give a shorter sequence",
                       o->batch, o->sequence, c->positions);
    if (o->kind == TR_MODEL_GENERATION &&
        (o->batch != 1 || o->cache_rows < o->sequence || o->cache_rows > c->positions))
        return tr_fail(err, TR_EINVAL,
                       "generation with %d cache rows for %d sequences of %d new tokens: there must be 1 "
                       "sequence, and from %d to %d cache rows",
                       o->cache_rows, o->batch, o->sequence, o->sequence, c->positions);
    return TR_OK;
}

static void build(tr_model_builder *b, tr_model_values *values)
{
    const tr_model_family *family = tr__model_family(b->config->family);
    tr_model_kind kind = b->options->kind;
    tr_graph *g = b->graph;
    tr_shape rows = TR_SHAPE2(b->options->batch, b->options->sequence);
    tr_graph_begin_unit(g);
    b->tokens = values->tokens = tr_graph_input(g, "tokens", TR_I32, rows);
    if (kind == TR_MODEL_TRAINING) values->targets = tr_graph_input(g, "targets", TR_I32, rows);
    if (kind == TR_MODEL_GENERATION)
        b->position = values->position = tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1));

    tr_value x = family->embed(b);
    for (int32_t layer = 0; layer < b->config->layers; layer++) {
        tr_graph_begin_unit(g);
        x = family->layer(b, x, layer);
    }
    tr_graph_begin_unit(g);
    x = family->head(b, x);
    if (kind == TR_MODEL_TRAINING)
        x = values->loss = tr_cross_entropy(g, x, values->targets);
    else
        values->logits = x;
    tr_graph_mark_output(g, x);
}

static tr_status make_graph(const tr_model_config *config, const tr_model_options *options,
                            tr_model_parameters *parameters, tr_graph **graph, tr_model_values *values,
                            tr_error *err)
{
    tr_model_values made = {TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE};
    tr_graph *g;
    tr_status status = check_options(config, options, err);
    if (status != TR_OK) return status;
    status = tr_graph_new(&g, err);
    if (status != TR_OK) return status;
    tr_model_builder b = {.graph = g,
                          .config = config,
                          .options = options,
                          .tokens = TR_NO_VALUE,
                          .position = TR_NO_VALUE,
                          .parameters = parameters};
    build(&b, &made);
    status = tr_graph_check(g, err);
    if (status != TR_OK) {
        tr_graph_destroy(&g);
        return status;
    }
    *graph = g;
    *values = made;
    return TR_OK;
}

tr_status tr_model_graph(const tr_model_config *config, const tr_model_options *options, tr_graph **graph,
                         tr_model_values *values, tr_error *err)
{
    return make_graph(config, options, NULL, graph, values, err);
}

tr_status tr_model_parameters_list(tr_model_parameters *out, const tr_model_config *config, tr_error *err)
{
    tr_model_options options = {.kind = TR_MODEL_LOGITS, .batch = 1, .sequence = 1};
    tr_model_parameters list = {0};
    tr_model_values values;
    tr_graph *graph;
    tr_status status = make_graph(config, &options, &list, &graph, &values, err);
    if (status != TR_OK) {
        tr_model_parameters_release(&list);
        return status;
    }
    tr_graph_destroy(&graph);
    *out = list;
    return TR_OK;
}

void tr_model_parameters_release(tr_model_parameters *self)
{
    for (size_t i = 0; i < self->count; i++) tr_free(self->items[i].name);
    tr_free(self->items);
    *self = (tr_model_parameters){0};
}
