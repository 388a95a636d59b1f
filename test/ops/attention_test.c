/* test/ops/attention_test.c - attention's kernels against the plain reference, by differences, on odd shapes.
 * Tolerances: outputs are means of values in (-1, 1), gradients sums of a few of them; scores are sums of D
 * products with errors near 1e-6 that move probabilities by as much relatively. 1e-5 leaves room for T terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/attention.h"

#include "kernel_check.h"

static const tr_attention_shape shapes[] = {
    {1, 1, 0, 1, 1, 2, 0.7f, TR_F32, NULL},    {2, 5, 0, 2, 2, 6, 0.4f, TR_F32, NULL},
    {1, 17, 0, 4, 2, 12, 0.3f, TR_F32, NULL},  {2, 33, 0, 4, 1, 64, 0.5f, TR_F32, NULL},
    {1, 130, 0, 2, 1, 16, 1.0f, TR_F32, NULL}, {1, 64, 0, 2, 2, 32, 0.2f, TR_F32, NULL},
    {1, 65, 0, 2, 2, 128, 0.1f, TR_F32, NULL}, {1, 200, 0, 3, 3, 48, 0.2f, TR_F32, NULL},
    {3, 3, 0, 8, 2, 10, 3.0f, TR_F32, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* q, k, v, y, lse, dy, dq, dk, dv in this order. */
enum { Q, K, V, Y, LSE, DY, DQ, DK, DV, N_TENSORS };

typedef struct problem {
    tr_attention_shape shape;
    float *x[N_TENSORS];
    int64_t n[N_TENSORS];
    void *workspace;
    size_t workspace_bytes;
} problem;

static problem problem_new(tr_attention_shape s)
{
    problem p = {.shape = s};
    int64_t rows = s.batch * s.time, q = rows * s.heads * s.head_size;
    int64_t kv = s.batch * (s.first + s.time) * s.kv_heads * s.head_size;
    int64_t n[N_TENSORS] = {q, kv, kv, q, rows * s.heads, q, q, kv, kv};
    memcpy(p.n, n, sizeof n);
    for (int i = 0; i < N_TENSORS; i++) {
        p.x[i] = guarded_floats(n[i]);
        if (i == Q || i == K || i == V || i == DY) fill(p.x[i], n[i], 1, (uint64_t)i);
    }
    p.workspace_bytes = tr_cpu_attention_workspace(&s, 3);
    size_t backward = tr_cpu_attention_backward_workspace(&s, 3);
    if (backward > p.workspace_bytes) p.workspace_bytes = backward;
    p.workspace = guarded_new(p.workspace_bytes);
    return p;
}

static void problem_free(problem *p)
{
    for (int i = 0; i < N_TENSORS; i++) floats_free(p->x[i], p->n[i]);
    CU_ASSERT(guarded_free(p->workspace, p->workspace_bytes));
}

static tr_attention_tensors tensors_of(const problem *p)
{
    return (tr_attention_tensors){.q = p->x[Q],
                                  .k = p->x[K],
                                  .v = p->x[V],
                                  .y = p->x[Y],
                                  .dy = p->x[DY],
                                  .lse = p->x[LSE],
                                  .dq = p->x[DQ],
                                  .dk = p->x[DK],
                                  .dv = p->x[DV]};
}

static void forward(problem *p, tr_thread_pool *pool)
{
    memset(p->workspace, 0xFF, p->workspace_bytes);
    tr_cpu_attention(p->x[Q], p->x[K], p->x[V], p->x[Y], p->x[LSE], p->workspace, &p->shape, pool);
}

static void backward(problem *p, tr_thread_pool *pool)
{
    tr_attention_tensors tensors = tensors_of(p);
    memset(p->workspace, 0xFF, p->workspace_bytes);
    tr_cpu_attention_backward(&tensors, p->workspace, &p->shape, pool);
}

static void agree_with_the_reference(const tr_dropout_mask *dropout)
{
    for (int c = 0; c < N_SHAPES; c++) {
        problem p = problem_new(shapes[c]), right = problem_new(shapes[c]);
        p.shape.dropout = right.shape.dropout = dropout;
        forward(&p, NULL);
        backward(&p, NULL);
        tr_attention_tensors tensors = tensors_of(&right);
        CHECK_SPARED(tr_attention_reference(right.x[Q], right.x[K], right.x[V], right.x[Y], right.x[LSE],
                                            &right.shape));
        CHECK_SPARED(tr_attention_backward_reference(&tensors, &right.shape));
        CU_ASSERT(near(p.x[Y], right.x[Y], p.n[Y], 1e-6, 1e-5));
        CU_ASSERT(near(p.x[LSE], right.x[LSE], p.n[LSE], 1e-6, 1e-6));
        for (int i = DQ; i <= DV; i++) CU_ASSERT(near(p.x[i], right.x[i], p.n[i], 5e-6, 1e-5));
        problem_free(&p);
        problem_free(&right);
    }
}

static void forward_and_backward_agree_with_the_reference(void)
{
    agree_with_the_reference(NULL);
}

static const tr_dropout_mask mask = {.key = {1234, 5678}, .threshold = 0x40000000, .scale = 4.0f / 3};

/* The reference asks for the factor of each place by itself. */
static void with_dropout_they_agree_as_well(void)
{
    agree_with_the_reference(&mask);
}

static void threads_do_not_change_a_bit(void)
{
    pools threads = pools_new();
    for (int c = 0; c < N_SHAPES; c++) {
        problem first = problem_new(shapes[c]), p = problem_new(shapes[c]);
        first.shape.dropout = p.shape.dropout = c % 2 ? &mask : NULL;
        forward(&first, NULL);
        backward(&first, NULL);
        for (int t = 0; t < 3; t++) {
            forward(&p, threads.pool[t]);
            backward(&p, threads.pool[t]);
            for (int i = 0; i < N_TENSORS; i++)
                CU_ASSERT(memcmp(first.x[i], p.x[i], (size_t)p.n[i] * sizeof(float)) == 0);
        }
        problem_free(&first);
        problem_free(&p);
    }
    pools_destroy(&threads);
}

static double loss(void *context)
{
    problem *p = context;
    forward(p, NULL);
    return weighted(p->x[Y], p->x[DY], p->n[Y]);
}

/* Steps of 1e-2: truncation near 1e-4 of third derivatives, which are small; rounding near 1e-7 / 1e-2. */
static void gradients_agree_with_differences(void)
{
    problem p = problem_new((tr_attention_shape){1, 5, 0, 4, 2, 6, 0.4f, TR_F32, NULL});
    forward(&p, NULL);
    backward(&p, NULL);
    for (int i = 0; i < 3; i++)
        for (int64_t j = 0; j < p.n[Q + i]; j++)
            CU_ASSERT_DOUBLE_EQUAL(difference(loss, &p, p.x[Q + i] + j, 1e-2f), (double)p.x[DQ + i][j], 2e-4);
    problem_free(&p);
}

/* A query behind a prefix of keys, at every offset of a block's edge, by blocks and row by row. */
static void rows_behind_a_cache_agree_with_the_reference(void)
{
    const int64_t firsts[] = {0, 1, 15, 16, 59, 63, 64, 100, 127};
    for (size_t c = 0; c < sizeof firsts / sizeof *firsts; c++)
        for (int64_t time = 1; time <= 81; time += 16) {
            problem p = problem_new((tr_attention_shape){1, time, firsts[c], 4, 2, 20, 0.4f, TR_F32, NULL});
            float *right = guarded_floats(p.n[Y]);
            CHECK_SPARED(tr_attention_reference(p.x[Q], p.x[K], p.x[V], right, NULL, &p.shape));
            tr_cpu_attention(p.x[Q], p.x[K], p.x[V], p.x[Y], NULL, p.workspace, &p.shape, NULL);
            CU_ASSERT(near(p.x[Y], right, p.n[Y], 1e-6, 1e-5));
            memset(p.x[Y], 0xFF, (size_t)p.n[Y] * sizeof(float));
            tr_cpu_attention_rows(p.x[Q], p.x[K], p.x[V], p.x[Y], p.workspace, &p.shape, NULL);
            CU_ASSERT(near(p.x[Y], right, p.n[Y], 1e-6, 1e-5));
            floats_free(right, p.n[Y]);
            problem_free(&p);
        }
}

/* Scores of +-600 must neither overflow nor lose the row. */
static void large_scores_stay_finite(void)
{
    problem p = problem_new((tr_attention_shape){1, 70, 0, 2, 1, 16, 100.0f, TR_F32, NULL});
    problem right = problem_new(p.shape);
    forward(&p, NULL);
    backward(&p, NULL);
    CHECK_SPARED(
        tr_attention_reference(right.x[Q], right.x[K], right.x[V], right.x[Y], right.x[LSE], &right.shape));
    CU_ASSERT(near(p.x[Y], right.x[Y], p.n[Y], 1e-3, 1e-3));
    for (int i = DQ; i <= DV; i++)
        for (int64_t j = 0; j < p.n[i]; j++) CU_ASSERT(isfinite(p.x[i][j]));
    problem_free(&p);
    problem_free(&right);
}

static void memory_grows_in_proportion_to_time(void)
{
    tr_attention_shape half = {1, 4096, 0, 6, 6, 64, 0.125f, TR_F32, NULL},
                       whole = {1, 8192, 0, 6, 6, 64, 0.125f, TR_F32, NULL};
    double forward_ratio =
        (double)tr_cpu_attention_workspace(&whole, 2) / (double)tr_cpu_attention_workspace(&half, 2);
    double backward_ratio = (double)tr_cpu_attention_backward_workspace(&whole, 2) /
                            (double)tr_cpu_attention_backward_workspace(&half, 2);
    CU_ASSERT(forward_ratio > 1.9 && forward_ratio <= 2.0);
    CU_ASSERT(backward_ratio > 1.9 && backward_ratio <= 2.0);
}

static const check_test tests[] = {
    CHECK_TEST(forward_and_backward_agree_with_the_reference),
    CHECK_TEST(with_dropout_they_agree_as_well),
    CHECK_TEST(threads_do_not_change_a_bit),
    CHECK_TEST(gradients_agree_with_differences),
    CHECK_TEST(rows_behind_a_cache_agree_with_the_reference),
    CHECK_TEST(large_scores_stay_finite),
    CHECK_TEST(memory_grows_in_proportion_to_time),
};

CHECK_MAIN("attention", tests)
