/* test/ops/op_check.h - what tests of operations share: guarded buffers, comparisons, and the check of a
 * whole graph. check_graph builds a small graph with the public builders, differentiates it, runs it, and
 * holds it to four promises:
 * - every gradient is the one that central differences of the forward give;
 * - gradients are added to what was there;
 * - nothing outside of a bound buffer, the stash and the scratch is written, and nothing bound for reading
 * either;
 * - 1, 2 and 3 threads give the same bits; on a GPU (guard.h), three runs do.
 *
 * Why the differences are accurate: the function differentiated is sum(output * weight) in double, by the
 * four-point formula with h = 1/32, whose error is h^4/30 f^(5), about 3e-8 f^(5). Values lie on a grid of
 * 2^-12, so that x +- h is exact. Rounding of float outputs gives about 1e-7 sqrt(outputs) / h, 1e-4 for a
 * thousand of them; so gradients agree within 5e-4 + 1e-3 |gradient|, where a wrong formula is off by some
 * tenths.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_OPS_OP_CHECK_H
#define TROUPE_TEST_OPS_OP_CHECK_H

#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "ops/autodiff.h"
#include "ops/chunk_logits.h"
#include "ops/program.h"
#include "test/check.h"
#include "test/ops/guard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_MAX_OUTPUTS = 4, CHECK_MAX_DIFFERENCES = 300 };

/* ---- guarded memory ---- */

typedef struct guarded {
    unsigned char *data; /* cache-line aligned */
    size_t bytes;
} guarded;

static inline guarded guard_new(size_t bytes)
{
    return (guarded){.data = guarded_new(bytes), .bytes = bytes};
}

static inline bool guard_intact(const guarded *self)
{
    return guarded_intact(self->data, self->bytes);
}

static inline void guard_free(guarded *self)
{
    if (self->data) CU_ASSERT(guarded_free(self->data, self->bytes));
    self->data = NULL;
}

/* n guarded floats: standard normal numbers on a grid of 2^-12, the same for the same seed. */
static inline guarded guard_normal(int64_t n, uint64_t seed)
{
    guarded memory = guard_new((size_t)n * sizeof(float));
    float *x = (float *)memory.data;
    tr_rng_normal(&(tr_rng_key){.seed = seed, .stream = tr_hash64_text("test")}, 0, (uint64_t)n, x);
    for (int64_t i = 0; i < n; i++) x[i] = rintf(x[i] * 4096.0f) / 4096.0f;
    return memory;
}

static inline float *floats_of(const guarded *memory)
{
    return (float *)memory->data;
}

/* |a - b| <= absolute + relative |b| everywhere; prints the worst element where not. NaN is near nothing. */
static inline bool all_near(const char *what, const float *a, const float *b, int64_t n, double absolute,
                            double relative)
{
    int64_t worst = -1;
    double worst_excess = 0;
    for (int64_t i = 0; i < n; i++) {
        double excess = fabs((double)a[i] - b[i]) - (absolute + relative * fabs(b[i]));
        if (excess <= 0) continue;
        if (worst >= 0 && !(excess > worst_excess)) continue;
        worst = i;
        worst_excess = excess;
    }
    if (worst >= 0)
        fprintf(stderr, "%s: element %lld of %lld is %.9g, should be %.9g\n", what, (long long)worst,
                (long long)n, a[worst], b[worst]);
    return worst < 0;
}

/* ---- whole graphs ---- */

typedef struct graph_case {
    const char *name;
    int (*build)(tr_graph *g, const void *context,
                 tr_value outputs[CHECK_MAX_OUTPUTS]); /* returns how many outputs */
    const void *context;
    int32_t id_limit;  /* i32 inputs are drawn from [0, id_limit), one in eight -1 where negative_ids; 0: all
                          are 0 */
    bool negative_ids; /* for targets: inputs named "targets" only */
    bool away_from_zero;       /* values keep 1/8 away from 0, where ReLU has its kink */
    double scale;              /* of parameters and inputs; 0 means 1 */
    double absolute, relative; /* tolerances; 0 means 5e-4, 1e-3 */
    tr_random random;          /* of all runs */
    int64_t logits_chunk;      /* > 0: through tr_graph_chunk_logits */
} graph_case;

typedef struct graph_check {
    const graph_case *of;
    tr_graph *graph;
    tr_program *program;
    tr_value outputs[CHECK_MAX_OUTPUTS], output_gradients[CHECK_MAX_OUTPUTS];
    int n_outputs;
    tr_value *inputs, *input_gradients; /* float inputs */
    int n_inputs;
    int n_values;
    guarded *buffers, *originals; /* by value; only of bound ones */
    void **pointers;
    guarded stash, scratch;
} graph_check;

static inline bool is_bound(const tr_value_info *value)
{
    return value->kind != TR_VALUE_INTERMEDIATE || value->is_output;
}

static inline void check_differentiate(graph_check *self)
{
    tr_error err = {0};
    tr_graph *g = self->graph;
    int n_forward = tr_graph_value_count(g);
    self->inputs = calloc((size_t)n_forward, sizeof *self->inputs);
    self->input_gradients = calloc((size_t)n_forward, sizeof *self->input_gradients);
    for (tr_value v = 0; v < n_forward; v++)
        if (tr_graph_value(g, v)->kind == TR_VALUE_INPUT && tr_graph_value(g, v)->dtype == TR_F32)
            self->inputs[self->n_inputs++] = v;
    for (int i = 0; i < self->n_outputs; i++) {
        const tr_value_info *output = tr_graph_value(g, self->outputs[i]);
        tr_shape shape = output->dtype == TR_F64 ? TR_SHAPE1(1) : output->shape;
        self->output_gradients[i] = tr_graph_input(g, "output gradient", TR_F32, shape);
        tr_graph_mark_output(g, self->outputs[i]);
    }
    CHECK_OK(tr_autodiff(g, self->outputs, self->output_gradients, self->n_outputs, self->inputs,
                         self->input_gradients, self->n_inputs, &err));
}

static inline void check_fill(const graph_check *self, tr_value v)
{
    const tr_value_info *value = tr_graph_value(self->graph, v);
    guarded *buffer = &self->buffers[v];
    int64_t n = tr_shape_elements(&value->shape);
    double scale = self->of->scale > 0 ? self->of->scale : 1;
    if (value->dtype == TR_I32) {
        tr_rng_key key = {.seed = 5, .stream = (uint64_t)v};
        for (int64_t i = 0; i < n; i++) {
            int32_t *id = (int32_t *)buffer->data + i;
            *id = self->of->id_limit > 0
                      ? (int32_t)(tr_rng_u64(&key, (uint64_t)i) % (uint64_t)self->of->id_limit)
                      : 0;
            if (self->of->negative_ids && strcmp(value->name, "targets") == 0 && i % 8 == 3) *id = -1;
        }
    } else if (value->kind == TR_VALUE_INTERMEDIATE) {
        memset(buffer->data, 0xff, buffer->bytes);
    } else if (value->dtype == TR_F32) {
        guarded normal = guard_normal(n, 100 + (uint64_t)v);
        for (int64_t i = 0; i < n; i++) {
            float x = floats_of(&normal)[i];
            if (self->of->away_from_zero) x += copysignf(0.125f, x);
            floats_of(buffer)[i] = rintf((float)(x * scale) * 4096.0f) / 4096.0f;
        }
        guard_free(&normal);
    } else {
        memset(buffer->data, 0, buffer->bytes);
    }
}

static inline bool check_begin(graph_check *self, const graph_case *of)
{
    tr_error err = {0};
    *self = (graph_check){.of = of};
    CHECK_OK(tr_graph_new(&self->graph, &err));
    self->n_outputs = of->build(self->graph, of->context, self->outputs);
    if (tr_graph_check(self->graph, &err) != TR_OK) {
        fprintf(stderr, "%s: %s\n", of->name, err.message);
        CU_FAIL("the graph could not be built");
        tr_graph_destroy(&self->graph);
        return false;
    }
    check_differentiate(self);
    if (of->logits_chunk > 0) {
        tr_graph *chunked = NULL;
        CHECK_OK(tr_graph_chunk_logits(&chunked, self->graph, of->logits_chunk, &err));
        tr_graph_destroy(&self->graph);
        self->graph = chunked;
    }
    tr_program_options options = {
        .device = guard_target()->kind, .stream = guard_target()->stream, .n_threads = 3, .poison = true};
    CHECK_OK(tr_program_new(&self->program, self->graph, &options, &err));
    if (!self->program) return false;
    self->n_values = tr_graph_value_count(self->graph);
    self->buffers = calloc((size_t)self->n_values, sizeof *self->buffers);
    self->originals = calloc((size_t)self->n_values, sizeof *self->originals);
    self->pointers = calloc((size_t)self->n_values, sizeof *self->pointers);
    for (tr_value v = 0; v < self->n_values; v++) {
        const tr_value_info *value = tr_graph_value(self->graph, v);
        if (!is_bound(value)) continue;
        size_t bytes = tr_dtype_bytes(value->dtype) * (size_t)tr_shape_elements(&value->shape);
        self->buffers[v] = guard_new(bytes);
        self->originals[v] = guard_new(bytes);
        self->pointers[v] = self->buffers[v].data;
        check_fill(self, v);
        memcpy(self->originals[v].data, self->buffers[v].data, bytes);
    }
    self->stash = guard_new(tr_program_stash_bytes(self->program));
    self->scratch = guard_new(tr_program_scratch_bytes(self->program));
    return true;
}

static inline void check_end(graph_check *self)
{
    for (tr_value v = 0; v < self->n_values; v++) {
        guard_free(&self->buffers[v]);
        guard_free(&self->originals[v]);
    }
    guard_free(&self->stash);
    guard_free(&self->scratch);
    free(self->buffers);
    free(self->originals);
    free(self->pointers);
    free(self->inputs);
    free(self->input_gradients);
    tr_program_destroy(&self->program);
    tr_graph_destroy(&self->graph);
}

static inline void check_run_phases(graph_check *self, tr_phase last, tr_thread_pool *pool)
{
    tr_bindings bindings = {.values = (void *const *)self->pointers,
                            .stash = self->stash.data,
                            .scratch = self->scratch.data,
                            .pool = pool,
                            .random = self->of->random};
    for (int phase = TR_PHASE_FORWARD; phase <= (int)last; phase++)
        tr_program_run(self->program, (tr_phase)phase, &bindings);
    tr_error err = {0};
    CHECK_OK(tr_program_synchronize(self->program, &err));
    CU_ASSERT(guard_intact(&self->stash));
    CU_ASSERT(guard_intact(&self->scratch));
}

/* From the same beginning, with so many threads; what is only read must come out as it was. */
static inline void check_run_whole(graph_check *self, int n_threads)
{
    tr_error err = {0};
    tr_thread_pool *pool = NULL;
    CHECK_OK(tr_thread_pool_new(&pool, n_threads, &err));
    for (tr_value v = 0; v < self->n_values; v++)
        /* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): what has a pointer has an original */
        if (self->pointers[v]) memcpy(self->pointers[v], self->originals[v].data, self->originals[v].bytes);
    check_run_phases(self, TR_PHASE_WEIGHT, pool);
    for (tr_value v = 0; v < self->n_values; v++) {
        tr_value_kind kind = tr_graph_value(self->graph, v)->kind;
        if (!self->pointers[v]) continue;
        CU_ASSERT(guard_intact(&self->buffers[v]));
        if (kind == TR_VALUE_INPUT || kind == TR_VALUE_PARAMETER)
            /* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): what has a pointer has an original */
            CU_ASSERT(memcmp(self->pointers[v], self->originals[v].data, self->originals[v].bytes) == 0);
    }
    tr_thread_pool_destroy(&pool);
}

/* A hash of everything that came out. */
static inline uint64_t check_bits(const graph_check *self)
{
    uint64_t bits = 0;
    for (tr_value v = 0; v < self->n_values; v++)
        if (self->pointers[v])
            bits = bits * 0x9e3779b97f4a7c15u + tr_hash64(self->buffers[v].data, self->buffers[v].bytes);
    return bits;
}

static inline double check_objective(graph_check *self)
{
    check_run_phases(self, TR_PHASE_FORWARD, NULL);
    double sum = 0;
    for (int k = 0; k < self->n_outputs; k++) {
        const tr_value_info *output = tr_graph_value(self->graph, self->outputs[k]);
        const float *weight = self->pointers[self->output_gradients[k]];
        if (output->dtype == TR_F64) {
            sum += *(const double *)self->pointers[self->outputs[k]] * weight[0];
            continue;
        }
        const float *y = self->pointers[self->outputs[k]];
        for (int64_t i = 0; i < tr_shape_elements(&output->shape); i++) sum += (double)y[i] * weight[i];
    }
    return sum;
}

static inline double check_difference(graph_check *self, float *x)
{
    const float h = 1.0f / 32, at = *x;
    double f[4];
    const float steps[4] = {h, -h, 2 * h, -2 * h};
    for (int i = 0; i < 4; i++) {
        *x = at + steps[i];
        f[i] = check_objective(self);
    }
    *x = at;
    return (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * (double)h);
}

/* Compares the gradient (of which `start` was there before; NULL: nothing) of value v with differences. */
static inline void check_one(graph_check *self, tr_value v, const double *gradient)
{
    const tr_value_info *value = tr_graph_value(self->graph, v);
    int64_t n = tr_shape_elements(&value->shape),
            stride = (n + CHECK_MAX_DIFFERENCES - 1) / CHECK_MAX_DIFFERENCES;
    double absolute = self->of->absolute > 0 ? self->of->absolute : 5e-4;
    double relative = self->of->relative > 0 ? self->of->relative : 1e-3;
    int n_wrong = 0;
    for (int64_t i = 0; i < n; i += stride) {
        double numeric = check_difference(self, (float *)self->pointers[v] + i);
        if (fabs(gradient[i] - numeric) <= absolute + relative * fabs(numeric)) continue;
        if (n_wrong++ == 0)
            fprintf(stderr, "%s: gradient of '%s' (value %d), element %lld: %.9g, differences give %.9g\n",
                    self->of->name, value->name, v, (long long)i, gradient[i], numeric);
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
}

/* The gradient of value v, in double: of all uses of a parameter, less what was there; or of an input. */
static inline double *check_gradient_of(const graph_check *self, tr_value v)
{
    int64_t n = tr_shape_elements(&tr_graph_value(self->graph, v)->shape);
    double *sum = calloc((size_t)n, sizeof *sum);
    for (tr_value g = 0; g < self->n_values; g++) {
        const tr_value_info *value = tr_graph_value(self->graph, g);
        if (value->kind != TR_VALUE_GRADIENT || value->parameter != v) continue;
        for (int64_t i = 0; i < n; i++)
            sum[i] += (double)floats_of(&self->buffers[g])[i] - floats_of(&self->originals[g])[i];
    }
    for (int k = 0; k < self->n_inputs; k++) {
        if (self->inputs[k] != v || self->input_gradients[k] == TR_NO_VALUE) continue;
        for (int64_t i = 0; i < n; i++) sum[i] += floats_of(&self->buffers[self->input_gradients[k]])[i];
    }
    return sum;
}

static inline void check_graph(const graph_case *of)
{
    graph_check self;
    if (!check_begin(&self, of)) return;
    check_run_whole(&self, 1);
    uint64_t bits = check_bits(&self);
    for (int n_threads = 2; n_threads <= 3; n_threads++) {
        check_run_whole(&self, n_threads);
        CU_ASSERT_EQUAL(check_bits(&self), bits);
    }
    for (tr_value v = 0; v < self.n_values; v++) {
        bool is_input = false;
        for (int k = 0; k < self.n_inputs; k++) is_input = is_input || self.inputs[k] == v;
        if (tr_graph_value(self.graph, v)->kind != TR_VALUE_PARAMETER && !is_input) continue;
        double *gradient = check_gradient_of(&self, v);
        check_one(&self, v, gradient);
        free(gradient);
    }
    check_end(&self);
}

#endif
