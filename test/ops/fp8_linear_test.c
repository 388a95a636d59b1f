/* test/ops/fp8_linear_test.c - linear layers in FP8 on the CPU: against products in double of the very codes (finite differences
 * would see the steps of the codes), and what the pass over the graph takes, keeps and makes again.
 * Bounds: products differ from double by float32 sums (k <= 100 terms: 1e-5 of the sum of magnitudes at most, far less as a rule), and
 * what is stored in bfloat16 by half a unit in its 8th bit, 2^-9 of itself.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/fp8_linear.h"

#include "base/memory.h"
#include "base/rng.h"
#include "check.h"
#include "ops/autodiff.h"
#include "ops/operations.h"
#include "ops/program.h"
#include "ops/recompute.h"
#include "ops/use_fp8.h"

#include <math.h>
#include <stdlib.h>

/* Two layers one behind the other, x -> v -> w, with a bias each and x added at the end: so x has a pending gradient. */
typedef struct layers {
    int64_t rows, in, hidden;
    bool in_out;
    tr_recompute recompute;
    bool plain; /* not in FP8 */
    bool deep;  /* with a norm in front and an activation between, which can be made again */
} layers;

typedef struct job {
    tr_graph *graph;
    tr_program *program;
    tr_thread_pool *pool;
    void **bound;
    void *stash, *scratch;
    tr_value x, v, w, b, c, y, dy, dx;
    uint64_t weights;
} job;

static size_t bytes_of(const tr_value_info *value)
{
    return (size_t)tr_shape_elements(&value->shape) * tr_dtype_bytes(value->dtype);
}

static tr_value matrix(tr_graph *g, const char *name, int64_t in, int64_t out, bool in_out)
{
    return tr_graph_parameter(g, name, TR_BF16, in_out ? TR_SHAPE2(in, out) : TR_SHAPE2(out, in));
}

static void build(job *j, const layers *l)
{
    tr_error err = {0};
    tr_weight_layout layout = l->in_out ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN;
    CHECK_OK(tr_graph_new(&j->graph, &err));
    tr_graph *g = j->graph;
    tr_graph_begin_unit(g);
    j->x = tr_graph_input(g, "x", TR_BF16, TR_SHAPE3(2, l->rows / 2, l->in));
    j->v = matrix(g, "v", l->in, l->hidden, l->in_out);
    j->b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(l->hidden));
    j->w = matrix(g, "w", l->hidden, l->in, l->in_out);
    j->c = tr_graph_parameter(g, "c", TR_F32, TR_SHAPE1(l->in));
    tr_value x = j->x;
    if (l->deep) x = tr_rmsnorm(g, x, tr_graph_parameter(g, "norm", TR_F32, TR_SHAPE1(l->in)), 1e-5f);
    tr_value h = tr_linear(g, x, j->v, j->b, layout);
    if (l->deep) h = tr_activate(g, h, TR_GELU_TANH);
    tr_value last = tr_linear(g, h, j->w, j->c, layout);
    tr_graph_begin_unit(g);
    j->y = tr_add(g, j->x, last);
    tr_graph_mark_output(g, j->y);
    j->dy = tr_graph_input(g, "dy", TR_BF16, TR_SHAPE3(2, l->rows / 2, l->in));
    CHECK_OK(tr_autodiff(g, &j->y, &j->dy, 1, &j->x, &j->dx, 1, &err));
}

static void rewrite(job *j, const layers *l)
{
    tr_error err = {0};
    tr_graph *graph = NULL;
    if (!l->plain) {
        CHECK_OK(tr_graph_use_fp8(&graph, j->graph, &err));
        tr_graph_destroy(&j->graph);
        j->graph = graph;
    }
    if (l->recompute == TR_RECOMPUTE_NONE) return;
    CHECK_OK(tr_graph_recompute(&graph, j->graph, l->recompute, &err));
    tr_graph_destroy(&j->graph);
    j->graph = graph;
}

static void fill(const tr_value_info *value, tr_value v, uint64_t seed, void *to)
{
    for (int64_t i = 0; i < tr_shape_elements(&value->shape); i++) {
        float x;
        tr_rng_normal(&(tr_rng_key){.seed = seed, .stream = (uint64_t)v}, (uint64_t)i, 1, &x);
        if (value->dtype == TR_BF16)
            ((tr_bf16 *)to)[i] = tr_bf16_of_f32(x * (value->kind == TR_VALUE_PARAMETER ? 0.1f : 1.0f));
        else
            ((float *)to)[i] = x;
    }
}

static bool is_bound(const tr_value_info *value)
{
    return value->kind != TR_VALUE_INTERMEDIATE || value->is_output;
}

static void prepare(job *j, int n_threads)
{
    tr_error err = {0};
    tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = n_threads, .poison = true};
    CHECK_OK(tr_program_new(&j->program, j->graph, &options, &err));
    CHECK_OK(tr_thread_pool_new(&j->pool, n_threads, &err));
    int32_t n = tr_graph_value_count(j->graph);
    j->bound = tr_alloc_zero((size_t)n, sizeof *j->bound);
    for (tr_value v = 0; v < n; v++) {
        const tr_value_info *value = tr_graph_value(j->graph, v);
        if (!is_bound(value)) continue;
        j->bound[v] = tr_alloc_aligned(TR_CACHE_LINE, bytes_of(value));
        memset(j->bound[v], 0xff, bytes_of(value));
        if (value->kind != TR_VALUE_INTERMEDIATE) fill(value, v, 3, j->bound[v]);
    }
    j->stash = tr_alloc_aligned(TR_CACHE_LINE, tr_program_stash_bytes(j->program) + 1);
    j->scratch = tr_alloc_aligned(TR_CACHE_LINE, tr_program_scratch_bytes(j->program) + 1);
}

static void open_job(job *j, const layers *l, int n_threads)
{
    *j = (job){0};
    build(j, l);
    rewrite(j, l);
    prepare(j, n_threads);
}

static void run(job *j)
{
    tr_bindings bindings = {
        .values = j->bound, .stash = j->stash, .scratch = j->scratch, .pool = j->pool, .weights = j->weights};
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        tr_program_run(j->program, (tr_phase)phase, &bindings);
}

static void close_job(job *j)
{
    int32_t n = tr_graph_value_count(j->graph);
    for (tr_value v = 0; v < n; v++) tr_free(j->bound[v]);
    tr_free(j->bound);
    tr_free(j->stash);
    tr_free(j->scratch);
    tr_thread_pool_destroy(&j->pool);
    tr_program_destroy(&j->program);
    tr_graph_destroy(&j->graph);
}

static tr_value gradient_of(const job *j, tr_value parameter)
{
    for (tr_value v = 0; v < tr_graph_value_count(j->graph); v++)
        if (tr_graph_value(j->graph, v)->kind == TR_VALUE_GRADIENT &&
            tr_graph_value(j->graph, v)->parameter == parameter)
            return v;
    return TR_NO_VALUE;
}

/* --- the reference --- */

typedef struct coded {
    uint8_t *codes, *turned;
    float inverse;
    tr_dtype format;
} coded;

static coded code(const void *halves, int64_t rows, int64_t columns, tr_dtype format)
{
    int64_t n = rows * columns;
    coded made = {.codes = malloc((size_t)n), .turned = malloc((size_t)n), .format = format};
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = tr_f32_of_bf16(((const tr_bf16 *)halves)[i]);
    tr_quantise_reference(x, rows, columns, format, made.codes, made.turned, &made.inverse);
    free(x);
    return made;
}

static void uncode(coded *self)
{
    free(self->codes);
    free(self->turned);
}

/* a (m,k) b (n,k)' in double; freed by the caller. */
static double *multiply(const coded *a, bool a_turned, const coded *b, bool b_turned, int64_t m, int64_t n,
                        int64_t k)
{
    double *c = malloc((size_t)(m * n) * sizeof *c);
    tr_fp8_product_reference(a_turned ? a->turned : a->codes, a->format, a->inverse,
                             b_turned ? b->turned : b->codes, b->format, b->inverse, c,
                             (tr_fp8_product){m, n, k});
    return c;
}

static bool near(double got, double wanted, double relative, double absolute)
{
    return fabs(got - wanted) <= absolute + relative * fabs(wanted);
}

/* A layer y = x w + b alone, with dy given: all that it makes is checked against codes. */
static void check_layer(int64_t rows, int64_t in, int64_t out, bool in_out)
{
    tr_error err = {0};
    job j = {0};
    CHECK_OK(tr_graph_new(&j.graph, &err));
    tr_graph_begin_unit(j.graph);
    j.x = tr_graph_input(j.graph, "x", TR_BF16, TR_SHAPE2(rows, in));
    j.w = matrix(j.graph, "w", in, out, in_out);
    j.b = tr_graph_parameter(j.graph, "b", TR_F32, TR_SHAPE1(out));
    j.y = tr_linear(j.graph, j.x, j.w, j.b, in_out ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN);
    tr_graph_begin_unit(j.graph);
    tr_graph_mark_output(j.graph, j.y);
    j.dy = tr_graph_input(j.graph, "dy", TR_BF16, TR_SHAPE2(rows, out));
    CHECK_OK(tr_autodiff(j.graph, &j.y, &j.dy, 1, &j.x, &j.dx, 1, &err));
    rewrite(&j, &(layers){0});
    prepare(&j, 2);
    tr_value dw = gradient_of(&j, j.w);
    float *before = malloc((size_t)(in * out) * sizeof *before);
    memcpy(before, j.bound[dw], (size_t)(in * out) * sizeof *before);
    run(&j);

    coded x = code(j.bound[j.x], rows, in, TR_E4M3), dy = code(j.bound[j.dy], rows, out, TR_E5M2);
    coded w = code(j.bound[j.w], in_out ? in : out, in_out ? out : in, TR_E4M3);
    double *y = multiply(&x, false, &w, in_out, rows, out, in);
    double *dx = multiply(&dy, false, &w, !in_out, rows, in, out);
    double *grown =
        in_out ? multiply(&x, true, &dy, true, in, out, rows) : multiply(&dy, true, &x, true, out, in, rows);
    int n_wrong = 0;
    for (int64_t i = 0; i < rows * out; i++)
        n_wrong += !near((double)tr_f32_of_bf16(((tr_bf16 *)j.bound[j.y])[i]),
                         y[i] + (double)((float *)j.bound[j.b])[i % out], 0x1p-8, 1e-5);
    CU_ASSERT_EQUAL(n_wrong, 0);
    for (int64_t i = 0; i < rows * in; i++)
        n_wrong += !near((double)tr_f32_of_bf16(((tr_bf16 *)j.bound[j.dx])[i]), dx[i], 0x1p-8, 1e-5);
    CU_ASSERT_EQUAL(n_wrong, 0);
    for (int64_t i = 0; i < in * out; i++)
        n_wrong += !near((double)((float *)j.bound[dw])[i], (double)before[i] + grown[i], 1e-6, 1e-4);
    CU_ASSERT_EQUAL(n_wrong, 0);
    free(before), free(y), free(dx), free(grown);
    uncode(&x), uncode(&dy), uncode(&w);
    close_job(&j);
}

static void a_layer_is_the_product_of_its_codes(void)
{
    static const int64_t sizes[][3] = {{16, 16, 16}, {32, 48, 80}, {48, 96, 16}, {16, 32, 400}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int in_out = 0; in_out < 2; in_out++) check_layer(sizes[i][0], sizes[i][1], sizes[i][2], in_out);
}

/* --- the pass --- */

static int count(const tr_graph *graph, const char *op)
{
    int n = 0;
    for (int32_t i = 0; i < tr_graph_node_count(graph); i++)
        n += strcmp(tr_graph_node(graph, i)->op->name, op) == 0;
    return n;
}

static void what_fits_is_taken_and_nothing_else(void)
{
    static const struct {
        layers l;
        int taken;
    } cases[] = {{{.rows = 32, .in = 48, .hidden = 80}, 2},
                 {{.rows = 30, .in = 48, .hidden = 80}, 0},
                 {{.rows = 32, .in = 40, .hidden = 80}, 0},
                 {{.rows = 32, .in = 48, .hidden = 88, .in_out = true}, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job j;
        open_job(&j, &cases[i].l, 1);
        CU_ASSERT_EQUAL(count(j.graph, "linear_fp8"), cases[i].taken);
        CU_ASSERT_EQUAL(count(j.graph, "linear_fp8_dx"), cases[i].taken);
        CU_ASSERT_EQUAL(count(j.graph, "linear_fp8_dw"), cases[i].taken);
        CU_ASSERT_EQUAL(count(j.graph, "linear"), 2 - cases[i].taken);
        CU_ASSERT_EQUAL(count(j.graph, "linear_dw"), 2 - cases[i].taken);
        /* x, v, h, w and the gradients of h and y: each once, whoever reads it. */
        CU_ASSERT_EQUAL(count(j.graph, "quantise"), 3 * cases[i].taken);
        CU_ASSERT_EQUAL(tr_program_kept_bytes(j.program) != 0, cases[i].taken != 0);
        close_job(&j);
    }
}

/* The last layer's logits keep their digits. */
static void logits_stay_as_they_are(void)
{
    tr_error err = {0};
    tr_graph *g = NULL, *coded_graph = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value x = tr_graph_input(g, "x", TR_BF16, TR_SHAPE2(32, 16)),
             targets = tr_graph_input(g, "targets", TR_I32, TR_SHAPE1(32));
    tr_value h = tr_linear(g, x, matrix(g, "v", 16, 32, false), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    tr_value logits = tr_linear(g, h, matrix(g, "w", 32, 64, false), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    tr_graph_mark_output(g, tr_cross_entropy(g, logits, targets));
    tr_fp8_layers found = tr_graph_fp8_layers(g);
    CU_ASSERT(found.n_taken == 1 && found.n_left == 0);
    CHECK_OK(tr_graph_use_fp8(&coded_graph, g, &err));
    CU_ASSERT(count(coded_graph, "linear_fp8") == 1 && count(coded_graph, "linear") == 1);
    tr_graph_destroy(&coded_graph);
    tr_graph_destroy(&g);
}

static bool same_values(const job *a, const job *b, int32_t n_values)
{
    bool same = true;
    for (tr_value v = 0; v < n_values; v++)
        if (a->bound[v] && tr_graph_value(a->graph, v)->kind != TR_VALUE_PARAMETER)
            same = same && memcmp(a->bound[v], b->bound[v], bytes_of(tr_graph_value(a->graph, v))) == 0;
    return same;
}

static void threads_change_no_bit(void)
{
    const layers l = {.rows = 64, .in = 96, .hidden = 400, .deep = true};
    job one, three;
    open_job(&one, &l, 1);
    open_job(&three, &l, 3);
    run(&one);
    run(&three);
    CU_ASSERT(same_values(&one, &three, tr_graph_value_count(one.graph)));
    close_job(&three);
    close_job(&one);
}

static void what_is_made_again_has_the_bits_of_the_first_time_and_is_not_kept(void)
{
    for (int in_out = 0; in_out < 2; in_out++) {
        layers l = {.rows = 64, .in = 96, .hidden = 400, .deep = true, .in_out = in_out};
        job plain;
        open_job(&plain, &l, 1);
        run(&plain);
        size_t before = tr_program_stash_bytes(plain.program);
        for (l.recompute = TR_RECOMPUTE_SELECTIVE; l.recompute <= TR_RECOMPUTE_FULL; l.recompute++) {
            job again;
            open_job(&again, &l, 1);
            run(&again);
            CU_ASSERT(same_values(&plain, &again, tr_graph_value_count(plain.graph)));
            CU_ASSERT(tr_program_stash_bytes(again.program) < before);
            /* All but h in bfloat16, the roots of the norm, and some scales is made again: no codes. */
            CU_ASSERT(tr_program_stash_bytes(again.program) <= 2 * 64 * 400 + 4 * 64 + 8 * TR_CACHE_LINE);
            CU_ASSERT_EQUAL(tr_program_kept_bytes(again.program), tr_program_kept_bytes(plain.program));
            before = tr_program_stash_bytes(again.program);
            close_job(&again);
        }
        close_job(&plain);
    }
}

/* Two bytes for each weight: in its own order, and turned. Activations are kept in one byte instead of two. */
static void memory_is_what_the_codes_take(void)
{
    layers l = {.rows = 256, .in = 96, .hidden = 384, .plain = true};
    job plain, coded_job;
    open_job(&plain, &l, 1);
    l.plain = false;
    open_job(&coded_job, &l, 1);
    size_t codes = tr_program_kept_bytes(coded_job.program), weights = 2 * 96 * 384;
    CU_ASSERT(codes >= 2 * weights && codes <= 2 * weights + 6 * TR_CACHE_LINE);
    CU_ASSERT_EQUAL(tr_program_kept_bytes(plain.program), 0);
    CU_ASSERT(tr_program_stash_bytes(coded_job.program) > 0);
    close_job(&coded_job);
    close_job(&plain);
}

/* --- weights --- */

static void codes_of_weights_are_made_once_a_version(void)
{
    job j, fresh;
    const layers l = {.rows = 32, .in = 48, .hidden = 80};
    open_job(&j, &l, 1);
    open_job(&fresh, &l, 1);
    size_t bytes = bytes_of(tr_graph_value(j.graph, j.y));
    void *old = malloc(bytes);
    j.weights = 7;
    run(&j);
    memcpy(old, j.bound[j.y], bytes);
    fill(tr_graph_value(j.graph, j.v), j.v, 99,
         j.bound[j.v]); /* unnoticed as long as the version is the same */
    run(&j);
    CU_ASSERT(memcmp(old, j.bound[j.y], bytes) == 0);
    j.weights = 8;
    run(&j);
    CU_ASSERT(memcmp(old, j.bound[j.y], bytes) != 0);
    fill(tr_graph_value(fresh.graph, fresh.v), fresh.v, 99, fresh.bound[fresh.v]);
    run(&fresh);
    CU_ASSERT(memcmp(fresh.bound[fresh.y], j.bound[j.y], bytes) == 0);
    j.weights = 0; /* no version: each time */
    fill(tr_graph_value(j.graph, j.v), j.v, 3, j.bound[j.v]);
    run(&j);
    CU_ASSERT(memcmp(old, j.bound[j.y], bytes) == 0);
    fill(tr_graph_value(j.graph, j.v), j.v, 99, j.bound[j.v]);
    run(&j);
    CU_ASSERT(memcmp(fresh.bound[fresh.y], j.bound[j.y], bytes) == 0);
    free(old);
    close_job(&fresh);
    close_job(&j);
}

/* As a stage does that goes on with what it had stashed before an epoch. */
static void a_program_that_begins_behind_the_forward_makes_them_as_well(void)
{
    job first, later;
    const layers l = {.rows = 32, .in = 48, .hidden = 80};
    open_job(&first, &l, 1);
    open_job(&later, &l, 1);
    first.weights = 4;
    tr_bindings bindings = {.values = first.bound,
                            .stash = first.stash,
                            .scratch = first.scratch,
                            .pool = first.pool,
                            .weights = 4};
    tr_program_run(first.program, TR_PHASE_FORWARD, &bindings);
    size_t bytes = bytes_of(tr_graph_value(first.graph, first.dx));
    void *dx = malloc(bytes);
    tr_program_run(later.program, TR_PHASE_BACKWARD, &bindings);
    memcpy(dx, first.bound[first.dx], bytes);
    memset(first.bound[first.dx], 0xff, bytes);
    run(&first);
    CU_ASSERT(memcmp(dx, first.bound[first.dx], bytes) == 0);
    free(dx);
    close_job(&later);
    close_job(&first);
}

/* One number that is none makes all of a product none, so that the norm of the gradient is none. */
static void what_is_no_number_is_not_hidden(void)
{
    static const float odd[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        job j;
        open_job(&j, &(layers){.rows = 32, .in = 48, .hidden = 80}, 1);
        ((tr_bf16 *)j.bound[j.dy])[5] = tr_bf16_of_f32(odd[i]);
        run(&j);
        const float *dw = j.bound[gradient_of(&j, j.w)];
        CU_ASSERT(isnan(dw[0]) && isnan(dw[48 * 80 - 1]));
        CU_ASSERT(isfinite(tr_f32_of_bf16(((tr_bf16 *)j.bound[j.y])[0])));
        close_job(&j);
    }
}

static const check_test tests[] = {
    CHECK_TEST(a_layer_is_the_product_of_its_codes),
    CHECK_TEST(what_fits_is_taken_and_nothing_else),
    CHECK_TEST(logits_stay_as_they_are),
    CHECK_TEST(threads_change_no_bit),
    CHECK_TEST(what_is_made_again_has_the_bits_of_the_first_time_and_is_not_kept),
    CHECK_TEST(memory_is_what_the_codes_take),
    CHECK_TEST(codes_of_weights_are_made_once_a_version),
    CHECK_TEST(a_program_that_begins_behind_the_forward_makes_them_as_well),
    CHECK_TEST(what_is_no_number_is_not_hidden),
};

CHECK_MAIN("ops/fp8_linear", tests)
