/* test/actors/tiny_model.h - a model of four units for tests of training: embedding E, two layers silu(W x + b), and a head
 * tied to E; cut into 1 to 4 stages. Beside it the same in plain double loops, with its own AdamW: the reference.
 * Letters: V vocabulary, C width, B rows, T sequence. Parameters: 0 E (V,C), 1 W1 (C,C), 2 b1 (C), 3 W2, 4 b2.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_ACTORS_TINY_MODEL_H
#define TROUPE_TEST_ACTORS_TINY_MODEL_H

#include "actors/data_shard.h"
#include "actors/stage.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "ops/autodiff.h"
#include "ops/operations.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TINY = 5, N_UNITS = 4, EMBEDDING_USE = 0, HEAD_USE = 5 };

typedef struct tiny_config {
    tr_training_plan plan;
    uint32_t replica, stage;
    int64_t vocabulary, width;
    bool measures; /* see tr_stage_spec.measure_products */
    bool poisoned; /* the first weight is not a number */
    uint32_t
        bad_token_at; /* the first token of this step (from 1) is none of the vocabulary; 0: of no step */
    const float *const *from; /* state to begin with, by 3 * parameter + part; NULL: fresh */
} tiny_config;

static const tr_stage_optimizer tiny_optimizer = {
    .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .weight_decay = 0.1f};

/* How stages hand gradients to each other, and in which pieces. */
static const tr_collectives *tiny_collectives;
static int64_t tiny_bucket_elements;
/* Of stages apart: where one of this number sends and takes messages through the host alone; -1: none, N_UNITS: all. */
static int tiny_unlinked = -1;

static tr_device_kind tiny_device(void)
{
    const char *name = getenv("TROUPE_TEST_DEVICE");
    tr_device_kind kind = TR_DEVICE_CPU;
    TR_ASSERT(!name || tr_device_kind_parse(&kind, name, NULL) == TR_OK);
    return kind;
}

static bool tiny_graphs(void)
{
    return getenv("TROUPE_TEST_GRAPHS") != NULL;
}

static int64_t tiny_elements(const tiny_config *c, uint32_t parameter)
{
    const int64_t sizes[N_TINY] = {c->vocabulary * c->width, c->width * c->width, c->width,
                                   c->width * c->width, c->width};
    return sizes[parameter];
}

static void tiny_fresh(const tiny_config *c, uint32_t parameter, float *p)
{
    tr_rng_key key = {5, 100 + parameter, 0, 0};
    int64_t n = tiny_elements(c, parameter);
    tr_rng_normal(&key, 0, (uint64_t)n, p);
    for (int64_t i = 0; i < n; i++) p[i] *= 0.5f;
}

/* --- data: function of the row alone; every fifth place has no target --- */

static void tiny_row(const tiny_config *c, uint64_t stream, uint32_t a, uint32_t b, uint32_t row,
                     int32_t *tokens, int32_t *targets)
{
    tr_rng_key key = {9, stream, a, b};
    for (uint32_t t = 0; t < c->plan.sequence; t++) {
        uint64_t at = (uint64_t)row * (c->plan.sequence + 1) + t;
        tokens[t] = (int32_t)(tr_rng_u64(&key, at) % (uint64_t)c->vocabulary);
        targets[t] =
            (t + row + b) % 5 == 4 ? -1 : (int32_t)(tr_rng_u64(&key, at + 1) % (uint64_t)c->vocabulary);
    }
}

static tr_status tiny_shard_open(void *context, const void *config, size_t config_bytes, tr_shard_spec *spec,
                                 tr_error *err)
{
    (void)context;
    TR_ASSERT(config_bytes == sizeof(tiny_config));
    tiny_config *own = tr_alloc(sizeof *own);
    if (!own) return tr_fail(err, TR_ENOMEM, "no memory for a tiny shard");
    memcpy(own, config, sizeof *own);
    *spec = (tr_shard_spec){.plan = own->plan, .replica = own->replica, .private_ = own};
    return TR_OK;
}

static void tiny_training_row(const tr_shard_spec *spec, uint32_t step, uint32_t microbatch, uint32_t row,
                              int32_t *tokens, int32_t *targets)
{
    const tiny_config *c = spec->private_;
    tiny_row(c, 1, step, microbatch, row, tokens, targets);
    if (step + 1 == c->bad_token_at) tokens[0] = (int32_t)c->vocabulary + 5;
}

static uint32_t tiny_window(const tr_training_plan *plan, uint32_t n_windows, uint32_t window)
{
    return n_windows == plan->all_windows ? window : 2 * window; /* while training every second one */
}

static void tiny_window_row(const tr_shard_spec *spec, uint32_t n_windows, uint32_t window, int32_t *tokens,
                            int32_t *targets)
{
    tiny_row(spec->private_, 2, 0, 0, tiny_window(&spec->plan, n_windows, window), tokens, targets);
}

static void tiny_shard_close(tr_shard_spec *spec)
{
    tr_free(spec->private_);
    *spec = (tr_shard_spec){0};
}

static const tr_shard_source tiny_shard_source = {.open = tiny_shard_open,
                                                  .training_row = tiny_training_row,
                                                  .window_row = tiny_window_row,
                                                  .close = tiny_shard_close};

/* From where a stage is opened until it loads its first parameter or is closed, this allocation fails; 0: none. */
static uint64_t tiny_fail_after;
static _Thread_local uint64_t tiny_left; /* of the stage's thread: others allocate meanwhile */

static inline bool tiny_must_fail(void)
{
    return tiny_left && --tiny_left == 0;
}

/* --- stages --- */

static void tiny_set_use(tr_graph *g, int32_t use)
{
    if (tr_graph_node_count(g) > 0) /* none where memory failed; the graph keeps that error */
        tr_graph_set_use(g, tr_graph_node_count(g) - 1, use);
}

static void tiny_forward(const tiny_config *c, tr_stage_spec *s, tr_range units, tr_value by_index[N_TINY])
{
    static const char *const names[] = {"E", "W1", "b1", "W2", "b2"};
    tr_graph *g = s->graph;
    int64_t b = c->plan.rows, t = c->plan.sequence, w = c->width;
    tr_value x = TR_NO_VALUE;
    if (units.begin == 0)
        s->tokens = tr_graph_input(g, "tokens", TR_I32, TR_SHAPE2(b, t));
    else
        s->activation_in = x = tr_graph_input(g, "activation_in", TR_F32, TR_SHAPE3(b, t, w));
    for (uint32_t unit = units.begin; unit < units.end; unit++) {
        tr_graph_begin_unit(g);
        if (unit == 0 || unit == 3)
            by_index[0] = tr_graph_parameter(g, "E", TR_F32, TR_SHAPE2(c->vocabulary, w));
        if (unit == 0) {
            x = tr_embedding(g, s->tokens, by_index[0]);
            tiny_set_use(g, EMBEDDING_USE);
        } else if (unit < 3) {
            uint32_t at = 2 * unit - 1;
            by_index[at] = tr_graph_parameter(g, names[at], TR_F32, TR_SHAPE2(w, w));
            by_index[at + 1] = tr_graph_parameter(g, names[at + 1], TR_F32, TR_SHAPE1(w));
            x = tr_linear(g, x, by_index[at], by_index[at + 1], TR_WEIGHT_OUT_IN);
            tiny_set_use(g, (int32_t)(2 * unit - 1));
            x = tr_activate(g, x, TR_SILU);
            tiny_set_use(g, (int32_t)(2 * unit));
        } else {
            s->targets = tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(b, t));
            x = tr_linear(g, x, by_index[0], TR_NO_VALUE, TR_WEIGHT_OUT_IN);
            tiny_set_use(g, HEAD_USE);
            s->loss = tr_cross_entropy(g, x, s->targets);
            tiny_set_use(g, HEAD_USE + 1);
            tr_graph_mark_output(g, s->loss);
        }
    }
    if (units.end == N_UNITS) return;
    s->activation_out = x;
    tr_graph_mark_output(g, x);
}

static tr_status tiny_backward(const tiny_config *c, tr_stage_spec *s, tr_error *err)
{
    tr_graph *g = s->graph;
    tr_value output = s->loss, gradient;
    if (output != TR_NO_VALUE)
        gradient = s->factor = tr_graph_input(g, "factor", TR_F32, TR_SHAPE1(1));
    else
        gradient = s->gradient_in =
            tr_graph_input(g, "gradient_in", TR_F32, TR_SHAPE3(c->plan.rows, c->plan.sequence, c->width));
    if (output == TR_NO_VALUE) output = s->activation_out;
    return tr_autodiff(g, &output, &gradient, 1, &s->activation_in, &s->gradient_out,
                       s->activation_in != TR_NO_VALUE, err);
}

static uint32_t tiny_stage_of_unit(const tr_training_plan *plan, uint32_t unit)
{
    uint32_t stage = 0;
    while (tr_share(N_UNITS, plan->n_stages, stage).end <= unit) stage++;
    return stage;
}

/* The gradient of one use in this piece, or TR_NO_VALUE. */
static tr_value tiny_gradient(const tr_graph *g, tr_value parameter, uint32_t use)
{
    for (tr_value v = 0; v < tr_graph_value_count(g); v++) {
        const tr_value_info *info = tr_graph_value(g, v);
        if (info->kind == TR_VALUE_GRADIENT && info->parameter == parameter && info->use == (int32_t)use)
            return v;
    }
    return TR_NO_VALUE;
}

static tr_status tiny_parameters(const tiny_config *c, tr_stage_spec *s, const tr_value by_index[N_TINY],
                                 tr_error *err)
{
    s->parameters = tr_alloc_zero(N_TINY, sizeof *s->parameters);
    if (!s->parameters) return tr_fail(err, TR_ENOMEM, "no memory for tiny parameters");
    for (uint32_t i = 0; i < N_TINY; i++) {
        if (by_index[i] == TR_NO_VALUE) continue;
        tr_stage_parameter *p = &s->parameters[s->n_parameters];
        *p = (tr_stage_parameter){.index = i,
                                  .n_elements = tiny_elements(c, i),
                                  .value = by_index[i],
                                  .decayed = i != 2 && i != 4,
                                  .uses = tr_alloc_zero(2, sizeof *p->uses),
                                  .n_uses = i == 0 ? 2 : 1};
        snprintf(p->name, sizeof p->name, "tiny %u", i);
        s->n_parameters++;
        if (!p->uses) return tr_fail(err, TR_ENOMEM, "no memory for tiny uses");
        p->uses[0] = (tr_stage_use){.use = i == 0  ? EMBEDDING_USE
                                           : i < 3 ? 1
                                                   : 3,
                                    .stage = tiny_stage_of_unit(&c->plan, (i + 1) / 2)};
        p->uses[1] = (tr_stage_use){.use = HEAD_USE, .stage = c->plan.n_stages - 1};
        for (uint32_t u = 0; u < p->n_uses; u++)
            p->uses[u].gradient = tiny_gradient(s->graph, p->value, p->uses[u].use);
        p->owned = p->uses[0].stage == s->stage;
    }
    return TR_OK;
}

static void tiny_stage_close(tr_stage_spec *spec)
{
    tiny_left = 0;
    for (uint32_t i = 0; i < spec->n_parameters; i++) tr_free(spec->parameters[i].uses);
    tr_free(spec->parameters);
    tr_graph_destroy(&spec->graph);
    tr_free(spec->private_);
    *spec = (tr_stage_spec){0};
}

static tr_status tiny_stage_open(void *context, const void *config, size_t config_bytes, tr_stage_spec *spec,
                                 tr_error *err)
{
    tiny_left = tiny_fail_after;
    (void)context;
    TR_ASSERT(config_bytes == sizeof(tiny_config));
    tiny_config *c = tr_alloc(sizeof *c);
    if (!c) {
        tiny_left = 0;
        return tr_fail(err, TR_ENOMEM, "no memory for a tiny stage");
    }
    memcpy(c, config, sizeof *c);
    *spec = (tr_stage_spec){.plan = c->plan,
                            .optimizer = tiny_optimizer,
                            .replica = c->replica,
                            .stage = c->stage,
                            .stash_credits = tr_plan_stash_credits(&c->plan, c->replica, c->stage),
                            .n_threads = 1,
                            .device = tiny_device(),
                            .apart = getenv("TROUPE_STAGE_APART") != NULL,
                            .measure_products = c->measures,
                            .cuda_graphs = tiny_graphs(),
                            .links = tiny_unlinked != N_UNITS && tiny_unlinked != (int)c->stage,
                            .collectives = tiny_collectives,
                            .bucket_elements = tiny_bucket_elements,
                            .tokens = TR_NO_VALUE,
                            .targets = TR_NO_VALUE,
                            .activation_in = TR_NO_VALUE,
                            .activation_out = TR_NO_VALUE,
                            .gradient_in = TR_NO_VALUE,
                            .gradient_out = TR_NO_VALUE,
                            .factor = TR_NO_VALUE,
                            .loss = TR_NO_VALUE,
                            .private_ = c};
    tr_value by_index[N_TINY] = {TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE};
    tr_status status = tr_graph_new(&spec->graph, err);
    if (!status) {
        tiny_forward(c, spec, tr_share(N_UNITS, c->plan.n_stages, c->stage), by_index);
        status = tr_graph_check(spec->graph, err);
    }
    if (!status) status = tiny_backward(c, spec, err);
    if (!status) status = tr_graph_check(spec->graph, err);
    if (!status) status = tiny_parameters(c, spec, by_index, err);
    if (status) tiny_stage_close(spec);
    return status;
}

static tr_status tiny_load(const tr_stage_spec *spec, const tr_stage_parameter *parameter, float *p, float *m,
                           float *v, tr_error *err)
{
    tiny_left = 0;
    (void)err;
    const tiny_config *c = spec->private_;
    size_t bytes = (size_t)parameter->n_elements * sizeof *p;
    float *const into[] = {p, m, v};
    memset(m, 0, bytes);
    memset(v, 0, bytes);
    tiny_fresh(c, parameter->index, p);
    for (uint32_t part = 0; part < 3 && c->from; part++)
        memcpy(into[part], c->from[3 * parameter->index + part], bytes);
    if (c->poisoned) p[0] = NAN;
    return TR_OK;
}

static const tr_stage_source tiny_stage_source = {
    .open = tiny_stage_open, .load = tiny_load, .close = tiny_stage_close};

#endif
