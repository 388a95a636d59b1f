/* test/ops/cuda_check.h - runs a graph, forward and backward, on a GPU and on the CPU, whose kernels are tested against the
 * plain references: the same graph and numbers, float32 on the CPU; on the GPU float32 and bfloat16, in the device's own
 * memory between guards. Twice on the GPU, for equal bits.
 * What is compared is |gpu - cpu| / (|cpu| + sqrt(n) / 100) in the 2-norm over the n elements of each output and each
 * gradient: numbers are of the order of 1, and a gradient that cancels (of one key's softmax) is right where it is small
 * beside them. float32 kernels differ in the order of sums: 1e-5 is some tens of roundings. bfloat16 keeps 8 bits, so an element is off by up to 2^-9 each
 * time it is stored; two or three stores and rounded probabilities make less than 1.2e-2. Inputs are rounded to bfloat16
 * for both, so that only arithmetic differs.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_OPS_CUDA_CHECK_H
#define TROUPE_TEST_OPS_CUDA_CHECK_H

#include "base/device.h"
#include "base/rng.h"
#include "ops/autodiff.h"
#include "ops/chunk_logits.h"
#include "ops/fp8.h"
#include "ops/operations.h"
#include "ops/program.h"
#include "ops/use_fp8.h"
#include "test/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, MOST_OUTPUTS = 4 };

static tr_device *device;
static tr_stream *stream;
static bool with_graphs; /* programs launch CUDA graphs where they can */
static bool with_fp8;    /* products are in FP8, on both sides, and what is not is in bfloat16 */
static uint64_t variant; /* other numbers */
static bool short_run; /* for sanitizers, under which kernels are many times slower: leaves out large cases */

typedef struct op_case op_case;
struct op_case {
    const char *name;
    /* Returns how many outputs; d: the case's sizes. */
    int (*build)(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs);
    int64_t d[6];     /* the last one, where it is not 0: rows of a chunk of logits, on the GPU */
    int32_t id_limit; /* of int32 inputs but "position", which is 1; "targets" may be negative */
};

/* One graph with its memory on one device. */
typedef struct side {
    tr_graph *graph;
    tr_program *program;
    tr_device *device;
    tr_stream *stream;
    int n_values, n_outputs;
    tr_value outputs[MOST_OUTPUTS], output_gradients[MOST_OUTPUTS], inputs[8], input_gradients[8];
    int n_inputs;
    void **bound;      /* by value */
    float **results;   /* by value, in host memory as float32; NULL where none */
    uint64_t n_intact; /* guards that stayed whole */
    void *stash, *scratch;
    bool begin;     /* gradients of parameters are NaN and begin with the run */
    bool from_zero; /* they are 0 and added to */
} side;

static size_t bytes_of(const tr_value_info *value)
{
    return tr_dtype_bytes(value->dtype) * (size_t)tr_shape_elements(&value->shape);
}

static bool is_bound(const tr_value_info *value)
{
    return value->kind != TR_VALUE_CONSTANT && (value->kind != TR_VALUE_INTERMEDIATE || value->is_output);
}

/* Numbers that bfloat16 has, a function of the value's place in the graph. */
static float number(tr_value v, int64_t i)
{
    float x;
    tr_rng_normal(&(tr_rng_key){.seed = 7 + variant, .stream = (uint64_t)v}, (uint64_t)i, 1, &x);
    return tr_f32_of_bf16(tr_bf16_of_f32(x));
}

/* What value v begins as, in host memory of its dtype. */
static void fill(const op_case *c, const tr_graph *g, tr_value v, void *to)
{
    const tr_value_info *value = tr_graph_value(g, v);
    for (int64_t i = 0; i < tr_shape_elements(&value->shape); i++) {
        float x = number(v, i) * (value->kind == TR_VALUE_PARAMETER && value->shape.rank == 2 ? 0.2f : 1.0f);
        if (value->kind == TR_VALUE_INTERMEDIATE) x = NAN;
        if (value->dtype == TR_F32) ((float *)to)[i] = x;
        if (value->dtype == TR_BF16) ((tr_bf16 *)to)[i] = tr_bf16_of_f32(x);
        if (value->dtype == TR_F64) ((double *)to)[i] = (double)x;
        if (value->dtype != TR_I32) continue;
        int32_t id = (int32_t)(tr_rng_u64(&(tr_rng_key){.seed = 5, .stream = 1}, (uint64_t)i) %
                               (uint64_t)(c->id_limit > 0 ? c->id_limit : 1));
        if (strcmp(value->name, "targets") == 0 && i % 8 == 3) id = -1;
        ((int32_t *)to)[i] = strcmp(value->name, "position") == 0 ? 1 : id;
    }
}

static void differentiate(side *s)
{
    tr_error err = {0};
    int n = tr_graph_value_count(s->graph);
    for (tr_value v = 0; v < n; v++) {
        const tr_value_info *value = tr_graph_value(s->graph, v);
        if (value->kind == TR_VALUE_INPUT && value->dtype != TR_I32) s->inputs[s->n_inputs++] = v;
    }
    for (int i = 0; i < s->n_outputs; i++) {
        const tr_value_info *output = tr_graph_value(s->graph, s->outputs[i]);
        bool loss = output->dtype == TR_F64;
        s->output_gradients[i] = tr_graph_input(s->graph, "dy", loss ? TR_F32 : output->dtype,
                                                loss ? TR_SHAPE1(1) : output->shape);
        tr_graph_mark_output(s->graph, s->outputs[i]);
    }
    CHECK_OK(tr_autodiff(s->graph, s->outputs, s->output_gradients, s->n_outputs, s->inputs,
                         s->input_gradients, s->n_inputs, &err));
}

static void *allocate(const side *s, size_t bytes)
{
    void *memory = NULL;
    tr_error err = {0};
    CHECK_OK(tr_device_allocate(s->device, TR_MEMORY_DEVICE, bytes + 2 * GUARD, &memory, &err));
    CHECK_OK(tr_stream_fill(s->stream, memory, 0xa5, bytes + 2 * GUARD, &err));
    return (char *)memory + GUARD;
}

static bool open_side(side *s, const op_case *c, tr_dtype dtype, tr_device *on, tr_stream *with,
                      bool backward)
{
    tr_error err = {0};
    *s = (side){.device = on, .stream = with};
    CHECK_OK(tr_graph_new(&s->graph, &err));
    s->n_outputs = c->build(s->graph, c, dtype, s->outputs);
    if (backward)
        differentiate(s);
    else
        for (int i = 0; i < s->n_outputs; i++) tr_graph_mark_output(s->graph, s->outputs[i]);
    if (c->d[5] > 0 && tr_device_kind_of(on) != TR_DEVICE_CPU) {
        tr_graph *chunked = NULL;
        CHECK_OK(tr_graph_chunk_logits(&chunked, s->graph, c->d[5], &err));
        tr_graph_destroy(&s->graph);
        s->graph = chunked;
    }
    if (with_fp8) {
        tr_graph *coded = NULL;
        CHECK_OK(tr_graph_use_fp8(&coded, s->graph, &err));
        tr_graph_destroy(&s->graph);
        s->graph = coded;
    }
    tr_program_options options = {.device = tr_device_kind_of(on),
                                  .stream = with,
                                  .n_threads = 1,
                                  .poison = true,
                                  .graphs = with_graphs};
    if (tr_program_new(&s->program, s->graph, &options, &err) != TR_OK) {
        fprintf(stderr, "%s: %s\n", c->name, err.message);
        CU_FAIL("no program");
        return false;
    }
    s->n_values = tr_graph_value_count(s->graph);
    s->bound = calloc((size_t)s->n_values, sizeof *s->bound);
    s->results = calloc((size_t)s->n_values, sizeof *s->results);
    for (tr_value v = 0; v < s->n_values; v++)
        if (is_bound(tr_graph_value(s->graph, v)))
            s->bound[v] = allocate(s, bytes_of(tr_graph_value(s->graph, v)));
    s->stash = allocate(s, tr_program_stash_bytes(s->program));
    s->scratch = allocate(s, tr_program_scratch_bytes(s->program));
    return true;
}

static void free_memory(const side *s, void *memory)
{
    if (memory) tr_device_free(s->device, TR_MEMORY_DEVICE, (char *)memory - GUARD);
}

static void close_side(side *s)
{
    for (tr_value v = 0; v < s->n_values; v++) {
        free_memory(s, s->bound[v]);
        free(s->results[v]);
    }
    free_memory(s, s->stash);
    free_memory(s, s->scratch);
    free(s->bound);
    free(s->results);
    tr_program_destroy(&s->program);
    tr_graph_destroy(&s->graph);
}

/* True where the guards round `memory` are as they were. */
static bool intact(const side *s, const void *memory, size_t bytes)
{
    unsigned char guards[2 * GUARD];
    tr_error err = {0};
    bool whole = true;
    CHECK_OK(tr_stream_copy(s->stream, guards, (const char *)memory - GUARD, GUARD, &err));
    CHECK_OK(tr_stream_copy(s->stream, guards + GUARD, (const char *)memory + bytes, GUARD, &err));
    CHECK_OK(tr_stream_synchronize(s->stream, &err));
    for (int i = 0; i < 2 * GUARD; i++) whole = whole && guards[i] == 0xa5;
    return whole;
}

static void take_result(side *s, tr_value v)
{
    const tr_value_info *value = tr_graph_value(s->graph, v);
    int64_t n = tr_shape_elements(&value->shape);
    void *raw = malloc(bytes_of(value));
    tr_error err = {0};
    CHECK_OK(tr_stream_copy(s->stream, raw, s->bound[v], bytes_of(value), &err));
    CHECK_OK(tr_stream_synchronize(s->stream, &err));
    if (!s->results[v]) s->results[v] = malloc((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        s->results[v][i] = value->dtype == TR_F32    ? ((float *)raw)[i]
                           : value->dtype == TR_BF16 ? tr_f32_of_bf16(((tr_bf16 *)raw)[i])
                           : value->dtype == TR_F64  ? (float)((double *)raw)[i]
                           : tr_is_fp8(value->dtype) ? (float)((uint8_t *)raw)[i]
                                                     : 0;
    free(raw);
}

/* From the beginning: all phases, then what came out. */
static void run_side(side *s, const op_case *c)
{
    tr_error err = {0};
    for (tr_value v = 0; v < s->n_values; v++) {
        if (!s->bound[v]) continue;
        size_t bytes = bytes_of(tr_graph_value(s->graph, v));
        void *begin = malloc(bytes);
        fill(c, s->graph, v, begin);
        if (tr_graph_value(s->graph, v)->kind == TR_VALUE_GRADIENT && (s->begin || s->from_zero))
            memset(begin, s->begin ? 0xff : 0, bytes);
        CHECK_OK(tr_stream_copy(s->stream, s->bound[v], begin, bytes, &err));
        CHECK_OK(tr_stream_synchronize(s->stream, &err));
        free(begin);
    }
    tr_bindings bindings = {
        .values = s->bound,
        .stash = s->stash,
        .scratch = s->scratch,
        .random = {.training = true, .seed = 3, .step = 2, .microbatch = 1 + (uint32_t)variant},
        .begin_gradients = s->begin};
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        tr_program_run(s->program, (tr_phase)phase, &bindings);
    CHECK_OK(tr_program_synchronize(s->program, &err));
    bool whole = intact(s, s->stash, tr_program_stash_bytes(s->program)) &&
                 intact(s, s->scratch, tr_program_scratch_bytes(s->program));
    for (tr_value v = 0; v < s->n_values; v++) {
        if (!s->bound[v]) continue;
        whole = whole && intact(s, s->bound[v], bytes_of(tr_graph_value(s->graph, v)));
        take_result(s, v);
    }
    if (!whole) fprintf(stderr, "%s: a guard was written to\n", c->name);
    CU_ASSERT(whole);
}

static void compare(const op_case *c, const side *right, const side *got, tr_dtype dtype)
{
    for (tr_value v = 0; v < right->n_values; v++) {
        if (!right->results[v]) continue;
        const tr_value_info *value = tr_graph_value(right->graph, v);
        double difference = 0, size = 0, n = (double)tr_shape_elements(&value->shape);
        for (int64_t i = 0; i < (int64_t)n; i++) {
            double d = (double)got->results[v][i] - (double)right->results[v][i];
            difference += d * d;
            size += (double)right->results[v][i] * (double)right->results[v][i];
        }
        double relative = sqrt(difference) / (sqrt(size) + sqrt(n) / 100),
               limit = dtype == TR_F32 ? 1e-5 : 1.2e-2;
        if (!(relative <= limit))
            fprintf(stderr, "%s (%lld, %lld, %lld, %lld), %s: value %d '%s' differs by %.3g of its norm\n",
                    c->name, (long long)c->d[0], (long long)c->d[1], (long long)c->d[2], (long long)c->d[3],
                    tr_dtype_name(dtype), v, value->name, relative);
        CU_ASSERT(relative <= limit);
    }
}

static bool same_bits(const side *s, float **before)
{
    bool same = true;
    for (tr_value v = 0; v < s->n_values; v++) {
        if (!s->results[v]) continue;
        size_t bytes = (size_t)tr_shape_elements(&tr_graph_value(s->graph, v)->shape) * sizeof(float);
        same = same && memcmp(before[v], s->results[v], bytes) == 0;
    }
    return same;
}

/* They are the caller's then. */
static float **take_results(side *s)
{
    float **results = calloc((size_t)s->n_values, sizeof *results);
    memcpy(results, s->results, (size_t)s->n_values * sizeof *results);
    memset(s->results, 0, (size_t)s->n_values * sizeof *results);
    return results;
}

static void free_results(const side *s, float **results)
{
    for (tr_value v = 0; v < s->n_values; v++) free(results[v]);
    free(results);
}

/* Gradients that begin with a run have the bits of those that are added to zeros. */
static inline void check_beginning(const op_case *c)
{
    for (int k = 0; k < 2; k++) {
        side got;
        if (!open_side(&got, c, k == 0 ? TR_F32 : TR_BF16, device, stream, true)) continue;
        got.from_zero = true;
        run_side(&got, c);
        float **added = take_results(&got);
        got.from_zero = false;
        got.begin = true;
        run_side(&got, c);
        if (!same_bits(&got, added)) fprintf(stderr, "%s: begun gradients have other bits\n", c->name);
        CU_ASSERT(same_bits(&got, added));
        free_results(&got, added);
        close_side(&got);
    }
}

static void check_case(const op_case *c, bool backward)
{
    if (short_run && c->d[0] * c->d[1] * (c->d[2] > 0 ? c->d[2] : 1) * (c->d[4] > 0 ? c->d[4] : 1) > 150000)
        return;
    tr_error err = {0};
    tr_device *cpu = NULL;
    tr_stream *cpu_stream = NULL;
    side right;
    CHECK_OK(tr_device_open(&cpu, TR_DEVICE_CPU, 0, &err));
    CHECK_OK(tr_stream_new(&cpu_stream, cpu, &err));
    if (!open_side(&right, c, with_fp8 ? TR_BF16 : TR_F32, cpu, cpu_stream, backward)) return;
    run_side(&right, c);
    for (int k = with_fp8; k < 2; k++) {
        side got;
        tr_dtype dtype = k == 0 ? TR_F32 : TR_BF16;
        if (!open_side(&got, c, dtype, device, stream, backward)) continue;
        run_side(&got, c);
        compare(c, &right, &got, dtype);
        float **first = take_results(&got);
        run_side(&got, c);
        if (!same_bits(&got, first)) fprintf(stderr, "%s: the second run has other bits\n", c->name);
        CU_ASSERT(same_bits(&got, first));
        free_results(&got, first);
        close_side(&got);
    }
    close_side(&right);
    tr_stream_destroy(&cpu_stream);
    tr_device_close(&cpu);
}

/* Arguments: "short", without the large cases; "no-products", without the first tests, of products, whose library a race
 * checker does not survive. */
static int check_on_gpu(int argc, char **argv, const char *name, const check_test *tests, size_t n_tests,
                        size_t n_products)
{
    size_t skipped = 0;
    for (int i = 1; i < argc; i++) {
        short_run = short_run || strcmp(argv[i], "short") == 0;
        if (strcmp(argv[i], "no-products") == 0) skipped = n_products;
    }
    tr_error err = {0};
    if (tr_device_open(&device, TR_DEVICE_CUDA, 0, &err) != TR_OK ||
        tr_stream_new(&stream, device, &err) != TR_OK) {
        printf("not run: %s\n", err.message);
        return err.status == TR_EUNSUPPORTED || err.status == TR_ENOTFOUND ? 77 : 1; /* CTest: skipped */
    }
    printf("on %s\n", tr_device_name(device));
    int failed = check_run(name, tests + skipped, n_tests - skipped);
    tr_stream_destroy(&stream);
    tr_device_close(&device);
    return failed;
}

#endif
