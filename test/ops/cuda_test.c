/* test/ops/cuda_test.c - every operation on a GPU, forward and backward, against the CPU's kernels, which are
 * tested against the plain references: the same graph and numbers, float32 on the CPU; on the GPU float32 and
 * bfloat16, in the device's own memory. Twice on the GPU, for equal bits.
 * What is compared is |gpu - cpu| / (|cpu| + sqrt(n) / 100) in the 2-norm over the n elements of each output and each
 * gradient: numbers are of the order of 1, and a gradient that cancels (of one key's softmax) is right where it is small
 * beside them. float32 kernels differ in the order of sums: 1e-5 is some tens of roundings. bfloat16 keeps 8 bits, so an element is off by up to 2^-9 each
 * time it is stored; two or three stores and rounded probabilities make less than 1.2e-2. Inputs are rounded to bfloat16
 * for both, so that only arithmetic differs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/device.h"
#include "base/rng.h"
#include "ops/autodiff.h"
#include "ops/operations.h"
#include "ops/program.h"
#include "test/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, MOST_OUTPUTS = 4 };

static tr_device *device;
static tr_stream *stream;
static bool short_run; /* for sanitizers, under which kernels are many times slower: leaves out large cases */

typedef struct op_case op_case;
struct op_case {
    const char *name;
    /* Returns how many outputs; d: the case's sizes. */
    int (*build)(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs);
    int64_t d[6];
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
    tr_rng_normal(&(tr_rng_key){.seed = 7, .stream = (uint64_t)v}, (uint64_t)i, 1, &x);
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
    tr_program_options options = {
        .device = tr_device_kind_of(on), .stream = with, .n_threads = 1, .poison = true};
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
        CHECK_OK(tr_stream_copy(s->stream, s->bound[v], begin, bytes, &err));
        CHECK_OK(tr_stream_synchronize(s->stream, &err));
        free(begin);
    }
    tr_bindings bindings = {.values = s->bound,
                            .stash = s->stash,
                            .scratch = s->scratch,
                            .random = {.training = true, .seed = 3, .step = 2, .microbatch = 1}};
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
    if (!open_side(&right, c, TR_F32, cpu, cpu_stream, backward)) return;
    run_side(&right, c);
    for (int k = 0; k < 2; k++) {
        side got;
        tr_dtype dtype = k == 0 ? TR_F32 : TR_BF16;
        if (!open_side(&got, c, dtype, device, stream, backward)) continue;
        run_side(&got, c);
        compare(c, &right, &got, dtype);
        float **first = calloc((size_t)got.n_values, sizeof *first);
        memcpy(first, got.results, (size_t)got.n_values * sizeof *first);
        memset(got.results, 0, (size_t)got.n_values * sizeof *first);
        run_side(&got, c);
        if (!same_bits(&got, first)) fprintf(stderr, "%s: the second run has other bits\n", c->name);
        CU_ASSERT(same_bits(&got, first));
        for (tr_value v = 0; v < got.n_values; v++) free(first[v]);
        free(first);
        close_side(&got);
    }
    close_side(&right);
    tr_stream_destroy(&cpu_stream);
    tr_device_close(&cpu);
}

/* ---- the cases: d is (rows or B, T or columns, ...) ---- */

static int build_linear(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    bool in_out = c->d[3] % 2, biased = c->d[3] / 2;
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_shape shape = in_out ? TR_SHAPE2(c->d[1], c->d[2]) : TR_SHAPE2(c->d[2], c->d[1]);
    tr_value w = tr_graph_parameter(g, "w", dtype, shape), u = tr_graph_parameter(g, "u", dtype, shape);
    tr_value b = biased ? tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(c->d[2])) : TR_NO_VALUE;
    outputs[0] = tr_linear(g, x, w, b, in_out ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN);
    outputs[1] = tr_linear(g, x, u, TR_NO_VALUE, in_out ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN); /* pending */
    return 2;
}

static void linear_with_either_layout_and_bias(void)
{
    static const int64_t sizes[][3] = {{1, 1, 1},    {3, 5, 7},     {17, 24, 40},    {33, 100, 65},
                                       {128, 64, 8}, {257, 96, 48}, {512, 768, 320}, {40, 1000, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 4; kind++)
            check_case(&(op_case){"linear", build_linear, {sizes[i][0], sizes[i][1], sizes[i][2], kind}, 0},
                       true);
}

static int build_norm(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value y = c->d[2] ? tr_layernorm(g, x, w, b, 1e-5f) : tr_rmsnorm(g, x, w, 1e-5f);
    outputs[0] = tr_add(g, x, y); /* so that something is pending for x */
    return 1;
}

static void layernorm_and_rmsnorm(void)
{
    static const int64_t sizes[][2] = {{1, 2}, {5, 7}, {33, 64}, {70, 33}, {513, 768}, {4, 5000}, {5000, 12}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 2; kind++)
            check_case(
                &(op_case){kind ? "layernorm" : "rmsnorm", build_norm, {sizes[i][0], sizes[i][1], kind}, 0},
                true);
}

static int build_activations(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_activation kind = (tr_activation)c->d[1];
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE1(c->d[0]));
    tr_value up = tr_graph_input(g, "up", dtype, TR_SHAPE1(c->d[0]));
    outputs[0] = tr_activate(g, x, kind);
    outputs[1] = tr_gated(g, up, x, kind);
    outputs[2] = tr_add(g, x, up);
    return 3;
}

static int build_dropout(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE1(c->d[0]));
    outputs[0] = tr_dropout(g, tr_dropout(g, x, 0.1), 0.5);
    return 1;
}

/* A mask that differs in one element of a hundred thousand is off by more than the tolerance. */
static void dropout_has_the_masks_of_the_cpu(void)
{
    static const int64_t sizes[] = {1, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"dropout", build_dropout, {sizes[i]}, 0}, true);
}

static void activations_gates_and_sums(void)
{
    static const int64_t sizes[] = {1, 3, 8, 31, 1025, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = TR_GELU_TANH; kind <= TR_RELU; kind++)
            check_case(&(op_case){"activations", build_activations, {sizes[i], kind}, 0}, true);
}

static int build_split(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    const int64_t widths[] = {c->d[1], c->d[2], c->d[3]};
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], widths[0] + widths[1] + widths[2])),
             parts[3];
    tr_split(g, x, widths, 3, parts);
    outputs[0] = parts[0]; /* nothing flows to the second */
    outputs[1] = parts[2];
    return 2;
}

static void splits_and_joins(void)
{
    static const int64_t sizes[][4] = {
        {1, 1, 1, 1}, {5, 3, 2, 9}, {65, 16, 8, 24}, {300, 768, 768, 768}, {7, 2, 4, 6}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"split", build_split, {sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]}, 0},
                   true);
}

static int build_embeddings(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value ids = tr_graph_input(g, "ids", TR_I32, TR_SHAPE2(c->d[0], c->d[1]));
    tr_value table = tr_graph_parameter(g, "table", dtype, TR_SHAPE2(c->id_limit, c->d[2]));
    tr_value places = tr_graph_parameter(g, "places", dtype, TR_SHAPE2(c->d[1] + 3, c->d[2]));
    tr_value position = c->d[3] ? tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)) : TR_NO_VALUE;
    outputs[0] = tr_position_embedding(g, tr_embedding(g, ids, table), places, position);
    return 1;
}

static void embeddings_with_few_and_many_ids(void)
{
    static const int64_t sizes[][3] = {{1, 1, 1}, {3, 7, 5}, {4, 200, 24}, {16, 260, 64}};
    static const int32_t limits[] = {1, 3, 300, 50257};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 4; k++)
            check_case(
                &(op_case){
                    "embedding", build_embeddings, {sizes[i][0], sizes[i][1], sizes[i][2], k % 2}, limits[k]},
                true);
}

static int build_rope(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_rope_options options = {.head_size = (int32_t)c->d[3], .theta = 10000, .magnitude = 1.25f};
    tr_value position = c->d[4] ? tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)) : TR_NO_VALUE;
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE3(c->d[0], c->d[1], c->d[2] * c->d[3]));
    outputs[0] = tr_rope(g, x, position, &options);
    return 1;
}

static void rotations_with_and_without_a_position(void)
{
    static const int64_t sizes[][4] = {{1, 1, 1, 2}, {2, 5, 3, 6}, {2, 130, 4, 64}, {1, 1000, 2, 128}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 2; k++)
            check_case(
                &(op_case){"rope", build_rope, {sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], k}, 0},
                true);
}

static int build_loss(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    outputs[0] = tr_cross_entropy(g, x, tr_graph_input(g, "targets", TR_I32, TR_SHAPE1(c->d[0])));
    return 1;
}

static void losses_of_odd_vocabularies(void)
{
    static const int64_t sizes[][2] = {{1, 1},    {3, 7},     {17, 320},  {5, 5001},
                                       {130, 16}, {9, 50257}, {600, 1000}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"cross_entropy", build_loss, {sizes[i][0], sizes[i][1]}, (int32_t)sizes[i][1]},
                   true);
}

/* B, T, H, K, D */
static int build_attention(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_attention_options options = {.heads = (int32_t)c->d[2],
                                    .kv_heads = (int32_t)c->d[3],
                                    .head_size = (int32_t)c->d[4],
                                    .scale = 1.0f / sqrtf((float)c->d[4])};
    tr_shape q = TR_SHAPE3(c->d[0], c->d[1], c->d[2] * c->d[4]),
             kv = TR_SHAPE3(c->d[0], c->d[1], c->d[3] * c->d[4]);
    outputs[0] = tr_attention(g, tr_graph_input(g, "q", dtype, q), tr_graph_input(g, "k", dtype, kv),
                              tr_graph_input(g, "v", dtype, kv), &options);
    return 1;
}

static void attention_with_any_head_size(void)
{
    static const int64_t sizes[][5] = {
        {1, 1, 1, 1, 2},   {2, 5, 2, 2, 6},    {1, 17, 4, 2, 12}, {2, 33, 4, 1, 32},  {1, 130, 2, 1, 16},
        {1, 65, 2, 2, 80}, {1, 40, 2, 1, 200}, {3, 3, 8, 2, 10},  {2, 200, 3, 3, 48}, {1, 129, 2, 1, 256}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        op_case c = {.name = "attention", .build = build_attention};
        memcpy(c.d, sizes[i], sizeof sizes[i]);
        check_case(&c, true);
    }
}

static void attention_on_tensor_cores(void)
{
    static const int64_t times[] = {1, 15, 16, 63, 64, 65, 127, 128, 129, 200, 333};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        for (int size = 64; size <= 128; size += 64)
            for (int kv_heads = 1; kv_heads <= 4; kv_heads *= 2)
                check_case(&(op_case){"attention", build_attention, {2, times[i], 4, kv_heads, size}, 0},
                           true);
}

/* T new rows behind one that stands in the cache. */
static int build_cached(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_attention_options options = {.heads = (int32_t)c->d[2],
                                    .kv_heads = (int32_t)c->d[3],
                                    .head_size = (int32_t)c->d[4],
                                    .scale = 0.3f};
    tr_shape q = TR_SHAPE3(1, c->d[1], c->d[2] * c->d[4]), kv = TR_SHAPE3(1, c->d[1], c->d[3] * c->d[4]);
    tr_shape cache = TR_SHAPE2(c->d[1] + 9, c->d[3] * c->d[4]);
    outputs[0] =
        tr_attention_cached(g, tr_graph_input(g, "q", dtype, q), tr_graph_input(g, "k", dtype, kv),
                            tr_graph_input(g, "v", dtype, kv), tr_graph_state(g, "keys", dtype, cache),
                            tr_graph_state(g, "values", dtype, cache),
                            tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)), &options);
    return 1;
}

static void attention_over_a_cache(void)
{
    static const int64_t sizes[][5] = {{1, 1, 2, 1, 64}, {1, 7, 4, 2, 20}, {1, 70, 2, 2, 64}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        op_case c = {.name = "attention_cached", .build = build_cached};
        memcpy(c.d, sizes[i], sizeof sizes[i]);
        check_case(&c, false);
    }
}

static const check_test tests[] = {
    CHECK_TEST(linear_with_either_layout_and_bias),
    CHECK_TEST(layernorm_and_rmsnorm),
    CHECK_TEST(activations_gates_and_sums),
    CHECK_TEST(dropout_has_the_masks_of_the_cpu),
    CHECK_TEST(splits_and_joins),
    CHECK_TEST(embeddings_with_few_and_many_ids),
    CHECK_TEST(rotations_with_and_without_a_position),
    CHECK_TEST(losses_of_odd_vocabularies),
    CHECK_TEST(attention_with_any_head_size),
    CHECK_TEST(attention_on_tensor_cores),
    CHECK_TEST(attention_over_a_cache),
};

/* Arguments: "short", without the large cases; "no-products", without the test of linear, whose library a race checker
 * does not survive. */
int main(int argc, char **argv)
{
    int skipped = 0;
    for (int i = 1; i < argc; i++) {
        short_run = short_run || strcmp(argv[i], "short") == 0;
        if (strcmp(argv[i], "no-products") == 0) skipped = 1; /* it is the first */
    }
    tr_error err = {0};
    if (tr_device_open(&device, TR_DEVICE_CUDA, 0, &err) != TR_OK ||
        tr_stream_new(&stream, device, &err) != TR_OK) {
        printf("not run: %s\n", err.message);
        return err.status == TR_EUNSUPPORTED || err.status == TR_ENOTFOUND ? 77 : 1; /* CTest: skipped */
    }
    printf("on %s\n", tr_device_name(device));
    int failed = check_run("ops/cuda", tests + skipped, sizeof tests / sizeof *tests - (size_t)skipped);
    tr_stream_destroy(&stream);
    tr_device_close(&device);
    return failed;
}
