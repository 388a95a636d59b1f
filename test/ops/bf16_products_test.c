/* test/ops/bf16_products_test.c - linear and attention in bfloat16 against the plain references on the same (rounded)
 * inputs. Runs twice: as the processor can, and held to instructions without bfloat16, where products take the other
 * way (test/CMakeLists.txt sets ONEDNN_MAX_CPU_ISA for it).
 * Slacks: products of two bfloat16 are exact in float32, so sums lose what float32 sums do (linear_test.c); what is
 * inside attention is float32, as in attention_test.c, save y, which the backward reads rounded. So it is held to the
 * float32 kernel on the same y to the last bit, and to the reference, which has its own y, as follows: a row sum of
 * y dy is off by at most 2^-9 D, and that times scale and a probability goes to k and q, which are below 1.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bf16_check.h"

#include "ops/cpu/attention.h"
#include "ops/cpu/linear.h"
#include "ops/cpu/matmul.h"
#include "ops/operations.h"
#include "ops/program.h"

/* Below, at and over tiles, and one of a long sum and a small result, which oneDNN would cut over threads. */
static const int64_t cases[][3] = {{1, 1, 1},      {1, 17, 5},     {3, 5, 2},       {17, 33, 65},
                                   {5, 130, 17},   {130, 64, 3},   {257, 48, 1031}, {1, 96, 400},
                                   {4096, 64, 64}, {300, 520, 130}};
enum { N_CASES = sizeof cases / sizeof *cases };

static double tolerance(int64_t k)
{
    return 5e-8 * (double)k + 3e-7;
}

static void forward_agrees_with_the_reference_on_any_number_of_threads(void)
{
    pools p = pools_new();
    for (int c = 0; c < 4 * N_CASES; c++) {
        int64_t rows = cases[c / 4][0], in = cases[c / 4][1], out = cases[c / 4][2];
        bool in_out = c & 1, with_bias = c & 2;
        both x = both_filled(rows * in, 1, 1), w = both_filled(in * out, 1, 2), y = both_new(rows * out),
             again = both_new(rows * out);
        float *b = filled(out, 1, 3);
        tr_linear_reference(x.full, w.full, with_bias ? b : NULL, y.full, rows, in, out, in_out);
        tr_cpu_linear(x.half, w.half, with_bias ? b : NULL, y.half, rows, in, out, in_out, TR_BF16, NULL);
        CU_ASSERT(both_agree("y", &y, tolerance(in), 1e-6));
        for (int t = 0; t < 3; t++) {
            tr_cpu_linear(x.half, w.half, with_bias ? b : NULL, again.half, rows, in, out, in_out, TR_BF16,
                          p.pool[t]);
            CU_ASSERT(same_halves(y.half, again.half, y.n));
        }
        both_free(&x), both_free(&w), both_free(&y), both_free(&again), floats_free(b, out);
    }
    pools_destroy(&p);
}

/* What accumulate adds to; the reference does not. */
static void fill_pending(both *dx)
{
    both pending = both_filled(dx->n, 1, 11);
    memcpy(dx->half, pending.half, (size_t)dx->n * sizeof *dx->half);
    both_free(&pending);
}

static void gradients_agree_with_the_reference_on_any_number_of_threads(void)
{
    pools p = pools_new();
    for (int c = 0; c < 4 * N_CASES; c++) {
        int64_t rows = cases[c / 4][0], in = cases[c / 4][1], out = cases[c / 4][2];
        bool in_out = c & 1, accumulate = c & 2;
        both x = both_filled(rows * in, 1, 1), w = both_filled(in * out, 1, 2),
             dy = both_filled(rows * out, 1, 3);
        both dx = both_new(rows * in), again = both_new(rows * in), pending = both_filled(rows * in, 1, 11);
        float *dw = filled(in * out, 1, 12), *dw0 = filled(in * out, 1, 12), *dw1 = guarded_floats(in * out);
        float *db = filled(out, 1, 13), *db0 = filled(out, 1, 13);
        tr_linear_backward_reference(dy.full, x.full, w.full, dx.full, dw0, db0, rows, in, out, in_out);
        for (int64_t i = 0; accumulate && i < dx.n; i++) dx.full[i] += pending.full[i];
        fill_pending(&dx);
        tr_cpu_linear_dx(dy.half, w.half, dx.half, rows, in, out, in_out, accumulate, TR_BF16, NULL);
        tr_cpu_linear_dw(dy.half, x.half, dw, rows, in, out, in_out, TR_BF16, NULL);
        tr_cpu_linear_db(dy.half, db, rows, out, TR_BF16, NULL);
        CU_ASSERT(both_agree("dx", &dx, tolerance(out), 1e-6));
        CU_ASSERT(near(dw, dw0, in * out, tolerance(rows), 1e-6));
        CU_ASSERT(near(db, db0, out, 1e-6, 1e-6));
        for (int t = 0; t < 3; t++) {
            fill_pending(&again);
            fill(dw1, in * out, 1, 12);
            tr_cpu_linear_dx(dy.half, w.half, again.half, rows, in, out, in_out, accumulate, TR_BF16,
                             p.pool[t]);
            tr_cpu_linear_dw(dy.half, x.half, dw1, rows, in, out, in_out, TR_BF16, p.pool[t]);
            CU_ASSERT(same_halves(dx.half, again.half, dx.n));
            CU_ASSERT(memcmp(dw, dw1, (size_t)(in * out) * sizeof *dw) == 0);
        }
        both_free(&x), both_free(&w), both_free(&dy), both_free(&dx), both_free(&again), both_free(&pending);
        floats_free(dw, in * out), floats_free(dw0, in * out), floats_free(dw1, in * out);
        floats_free(db, out), floats_free(db0, out);
    }
    pools_destroy(&p);
}

/* More shapes than a thread keeps primitives of: the first ones are made anew, and are right again. */
static void many_shapes_are_right_to_the_last(void)
{
    for (int64_t n = 1; n <= 1100; n += n < 1000 ? 1 : 100) {
        int64_t out = n % 560 + 1;
        both x = both_filled(12, 1, 1), w = both_filled(4 * out, 1, 2), y = both_new(3 * out);
        tr_linear_reference(x.full, w.full, NULL, y.full, 3, 4, out, false);
        tr_cpu_linear(x.half, w.half, NULL, y.half, 3, 4, out, false, TR_BF16, NULL);
        CU_ASSERT(both_agree("y", &y, tolerance(4), 1e-6));
        both_free(&x), both_free(&w), both_free(&y);
    }
}

/* One shape with a result of either dtype, in turn: a thread keeps what it made for each. */
static void results_of_either_dtype_do_not_mix(void)
{
    enum { M = 3, N = 7, K = 5 };
    both a = both_filled(M * K, 1, 1), b = both_filled(K * N, 1, 2), c = both_new(M * N);
    float *wide = guarded_floats(M * N);
    tr_matmul p = {
        .m = M, .n = N, .k = K, .a = a.half, .b = b.half, .a_stride = K, .b_stride = N, .c_stride = N};
    tr_linear_reference(a.full, b.full, NULL, c.full, M, K, N, true);
    p.dtype = TR_BF16;
    for (int i = 0; i < 4; i++) {
        bool narrow = i & 1;
        p.c = narrow ? (void *)c.half : (void *)wide;
        p.c_dtype = narrow ? TR_BF16 : TR_F32;
        tr_matmul_single(&p);
        CU_ASSERT(narrow ? both_agree("c", &c, tolerance(K), 1e-6)
                         : near(wide, c.full, M * N, tolerance(K), 1e-6));
    }
    both_free(&a), both_free(&b), both_free(&c), floats_free(wide, M * N);
}

/* ---- attention ---- */

static const tr_attention_shape shapes[] = {
    {1, 1, 0, 1, 1, 2, 0.7f, TR_BF16, NULL},    {2, 5, 0, 2, 2, 6, 0.4f, TR_BF16, NULL},
    {1, 17, 0, 4, 2, 12, 0.3f, TR_BF16, NULL},  {2, 33, 0, 4, 1, 64, 0.5f, TR_BF16, NULL},
    {1, 130, 0, 2, 1, 16, 1.0f, TR_BF16, NULL}, {1, 64, 0, 2, 2, 32, 0.2f, TR_BF16, NULL},
    {1, 65, 0, 2, 2, 128, 0.1f, TR_BF16, NULL}, {3, 3, 0, 8, 2, 10, 3.0f, TR_BF16, NULL},
};

typedef struct problem {
    both q, k, v, y, dy, dq, dk, dv;
    float *lse;
    void *workspace;
    size_t workspace_bytes;
    int64_t n_lse;
} problem;

static problem problem_new(const tr_attention_shape *s)
{
    int64_t rows = s->batch * s->time, q = rows * s->heads * s->head_size;
    int64_t kv = s->batch * (s->first + s->time) * s->kv_heads * s->head_size;
    size_t forward = tr_cpu_attention_workspace(s, 3), backward = tr_cpu_attention_backward_workspace(s, 3);
    problem p = {.n_lse = rows * s->heads, .workspace_bytes = forward > backward ? forward : backward};
    p.q = both_filled(q, 1, 1), p.k = both_filled(kv, 1, 2), p.v = both_filled(kv, 1, 3);
    p.dy = both_filled(q, 1, 4);
    p.y = both_new(q), p.dq = both_new(q), p.dk = both_new(kv), p.dv = both_new(kv);
    p.lse = guarded_floats(p.n_lse);
    p.workspace = guarded_new(p.workspace_bytes);
    return p;
}

static void problem_free(problem *p)
{
    both *all[] = {&p->q, &p->k, &p->v, &p->y, &p->dy, &p->dq, &p->dk, &p->dv};
    for (int i = 0; i < 8; i++) both_free(all[i]);
    floats_free(p->lse, p->n_lse);
    CU_ASSERT(guarded_free(p->workspace, p->workspace_bytes));
}

static void run(problem *p, const tr_attention_shape *s, tr_thread_pool *pool)
{
    tr_attention_tensors halves = {.q = p->q.half, .k = p->k.half, .v = p->v.half, .y = p->y.half};
    halves.dy = p->dy.half, halves.lse = p->lse;
    halves.dq = p->dq.half, halves.dk = p->dk.half, halves.dv = p->dv.half;
    tr_cpu_attention(p->q.half, p->k.half, p->v.half, p->y.half, p->lse, p->workspace, s, pool);
    tr_cpu_attention_backward(&halves, p->workspace, s, pool);
}

/* What the probabilities of one key can sum up to, over all queries and heads. */
static double most_probability(const tr_attention_shape *s)
{
    const int64_t group = s->heads / s->kv_heads;
    return (double)(s->time * group);
}

static void agree_with_float32(problem *p, const tr_attention_shape *s)
{
    tr_attention_shape plain = *s;
    plain.dtype = TR_F32;
    for (int64_t i = 0; i < p->y.n; i++) p->y.full[i] = tr_f32_of_bf16(p->y.half[i]);
    tr_attention_tensors full = {.q = p->q.full, .k = p->k.full, .v = p->v.full, .y = p->y.full};
    full.dy = p->dy.full, full.lse = p->lse;
    full.dq = p->dq.full, full.dk = p->dk.full, full.dv = p->dv.full;
    tr_cpu_attention_backward(&full, p->workspace, &plain, NULL);
    CU_ASSERT(both_agree("dq", &p->dq, 0, 0) && both_agree("dk", &p->dk, 0, 0) &&
              both_agree("dv", &p->dv, 0, 0));
}

static void attention_agrees_with_the_reference_on_any_number_of_threads(void)
{
    pools threads = pools_new();
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        const tr_attention_shape *s = &shapes[c];
        problem p = problem_new(s), again = problem_new(s);
        float *lse = guarded_floats(p.n_lse);
        run(&p, s, NULL);
        tr_attention_tensors full = {
            .q = p.q.full, .k = p.k.full, .v = p.v.full, .y = p.y.full, .dy = p.dy.full};
        full.lse = lse, full.dq = p.dq.full, full.dk = p.dk.full, full.dv = p.dv.full;
        CHECK_SPARED(tr_attention_reference(p.q.full, p.k.full, p.v.full, p.y.full, lse, s));
        CHECK_SPARED(tr_attention_backward_reference(&full, s));
        CU_ASSERT(both_agree("y", &p.y, 1e-6, 1e-5) && near(p.lse, lse, p.n_lse, 1e-6, 1e-6));
        double of_y = (double)(s->scale / 512 * (float)s->head_size);
        CU_ASSERT(both_agree("dq", &p.dq, 5e-6 + of_y, 1e-5) && both_agree("dv", &p.dv, 5e-6, 1e-5));
        CU_ASSERT(both_agree("dk", &p.dk, 5e-6 + of_y * most_probability(s), 1e-5));
        agree_with_float32(&p, s);
        for (int t = 0; t < 3; t++) {
            run(&again, s, threads.pool[t]);
            CU_ASSERT(same_halves(p.y.half, again.y.half, p.y.n) &&
                      same_halves(p.dq.half, again.dq.half, p.dq.n));
            CU_ASSERT(same_halves(p.dk.half, again.dk.half, p.dk.n) &&
                      same_halves(p.dv.half, again.dv.half, p.dv.n));
        }
        floats_free(lse, p.n_lse);
        problem_free(&p), problem_free(&again);
    }
    pools_destroy(&threads);
}

static void rows_behind_a_cache_agree_with_the_reference(void)
{
    static const int64_t firsts[] = {0, 15, 16, 63, 100};
    for (size_t c = 0; c < sizeof firsts / sizeof *firsts; c++)
        for (int64_t time = 1; time <= 49; time += 16) {
            tr_attention_shape s = {1, time, firsts[c], 4, 2, 20, 0.4f, TR_BF16, NULL};
            problem p = problem_new(&s);
            CHECK_SPARED(tr_attention_reference(p.q.full, p.k.full, p.v.full, p.y.full, NULL, &s));
            tr_cpu_attention(p.q.half, p.k.half, p.v.half, p.y.half, NULL, p.workspace, &s, NULL);
            CU_ASSERT(both_agree("by blocks", &p.y, 1e-6, 1e-5));
            tr_cpu_attention_rows(p.q.half, p.k.half, p.v.half, p.y.half, p.workspace, &s, NULL);
            CU_ASSERT(both_agree("by rows", &p.y, 1e-6, 1e-5));
            problem_free(&p);
        }
}

/* The operation itself: new rows go into caches of bfloat16 at the position, and nowhere else. */
static void cached_attention_appends_its_rows(void)
{
    enum { T = 3, FIRST = 2, ROWS = 8, H = 4, KV = 2, D = 6, NEW = T * KV * D, SEEN = (FIRST + T) * KV * D };
    tr_error err = {0};
    tr_graph *g = NULL;
    tr_program *program = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value q = tr_graph_input(g, "q", TR_BF16, TR_SHAPE3(1, T, H * D)),
             k = tr_graph_input(g, "k", TR_BF16, TR_SHAPE3(1, T, KV * D)),
             v = tr_graph_input(g, "v", TR_BF16, TR_SHAPE3(1, T, KV * D)),
             cache_k = tr_graph_state(g, "ck", TR_BF16, TR_SHAPE2(ROWS, KV * D)),
             cache_v = tr_graph_state(g, "cv", TR_BF16, TR_SHAPE2(ROWS, KV * D)),
             position = tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1));
    tr_attention_options options = {H, KV, D, 0.4f, 0};
    tr_value y = tr_attention_cached(g, q, k, v, cache_k, cache_v, position, &options);
    CHECK_OK(tr_graph_check(g, &err));
    tr_graph_mark_output(g, y);
    CHECK_OK(tr_program_new(&program, g, &(tr_program_options){.n_threads = 1}, &err));
    both queries = both_filled(T * H * D, 1, 1), keys = both_filled(SEEN, 1, 2),
         values = both_filled(SEEN, 1, 3);
    both got = both_new(T * H * D), caches[2] = {both_new(ROWS * KV * D), both_new(ROWS * KV * D)};
    memcpy(caches[0].half, keys.half, (SEEN - NEW) * sizeof(tr_bf16));
    memcpy(caches[1].half, values.half, (SEEN - NEW) * sizeof(tr_bf16));
    int32_t first = FIRST;
    void *bound[16] = {0}, *scratch = guarded_new(tr_program_scratch_bytes(program));
    bound[q] = queries.half, bound[k] = keys.half + SEEN - NEW, bound[v] = values.half + SEEN - NEW;
    bound[cache_k] = caches[0].half, bound[cache_v] = caches[1].half, bound[position] = &first,
    bound[y] = got.half;
    tr_program_run(program, TR_PHASE_FORWARD, &(tr_bindings){.values = bound, .scratch = scratch});
    tr_attention_shape s = {1, T, FIRST, H, KV, D, 0.4f, TR_BF16, NULL};
    CHECK_SPARED(tr_attention_reference(queries.full, keys.full, values.full, got.full, NULL, &s));
    CU_ASSERT(both_agree("y", &got, 1e-6, 1e-5));
    CU_ASSERT(same_halves(caches[0].half, keys.half, SEEN) && same_halves(caches[1].half, values.half, SEEN));
    CU_ASSERT(caches[0].half[SEEN] == 0xffff && caches[1].half[SEEN] == 0xffff);
    CU_ASSERT(guarded_free(scratch, tr_program_scratch_bytes(program)));
    both_free(&queries), both_free(&keys), both_free(&values), both_free(&got);
    both_free(&caches[0]), both_free(&caches[1]);
    tr_program_destroy(&program);
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(forward_agrees_with_the_reference_on_any_number_of_threads),
    CHECK_TEST(gradients_agree_with_the_reference_on_any_number_of_threads),
    CHECK_TEST(many_shapes_are_right_to_the_last),
    CHECK_TEST(results_of_either_dtype_do_not_mix),
    CHECK_TEST(attention_agrees_with_the_reference_on_any_number_of_threads),
    CHECK_TEST(rows_behind_a_cache_agree_with_the_reference),
    CHECK_TEST(cached_attention_appends_its_rows),
};

CHECK_MAIN("bf16_products", tests)
