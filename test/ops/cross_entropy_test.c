/* test/ops/cross_entropy_test.c - loss, log-sum-exp and gradient against the plain reference.
 * Tolerances: exponentials have errors near 1e-7 and sums are kept in double, so the loss of a row is good to
 * 1e-6 and a probability to 1e-6 of itself (its log-sum-exp is a float of size up to 16).
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/cross_entropy.h"

#include "kernel_check.h"

typedef struct problem {
    int64_t rows, vocabulary;
    float *logits, *lse, *dlogits;
    int32_t *targets;
    double *row_losses, loss;
} problem;

static problem problem_new(int64_t rows, int64_t vocabulary)
{
    problem p = {.rows = rows, .vocabulary = vocabulary};
    p.logits = filled(rows * vocabulary, 8, 1);
    p.lse = guarded_floats(rows);
    p.dlogits = guarded_floats(rows * vocabulary);
    p.targets = guarded_new((size_t)rows * sizeof *p.targets);
    p.row_losses = guarded_new((size_t)rows * sizeof *p.row_losses);
    for (int64_t r = 0; r < rows; r++) p.targets[r] = r % 5 == 3 ? -1 : (int32_t)((r * 7 + 1) % vocabulary);
    return p;
}

static void problem_free(problem *p)
{
    floats_free(p->logits, p->rows * p->vocabulary), floats_free(p->lse, p->rows);
    floats_free(p->dlogits, p->rows * p->vocabulary);
    CU_ASSERT(guarded_free(p->targets, (size_t)p->rows * sizeof *p->targets));
    CU_ASSERT(guarded_free(p->row_losses, (size_t)p->rows * sizeof *p->row_losses));
}

static void run(problem *p, float factor, tr_thread_pool *pool)
{
    tr_cpu_cross_entropy(p->logits, p->targets, &p->loss, p->lse, p->row_losses, p->rows, p->vocabulary,
                         TR_F32, pool);
    tr_cpu_cross_entropy_backward(p->logits, p->targets, p->lse, factor, p->dlogits, p->rows, p->vocabulary,
                                  TR_F32, pool);
}

static const int64_t sizes[][2] = {{1, 1}, {3, 7}, {17, 320}, {33, 50}, {5, 5000}, {130, 16}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void loss_and_gradient_agree_with_the_reference(void)
{
    for (int c = 0; c < N_SIZES; c++) {
        problem p = problem_new(sizes[c][0], sizes[c][1]);
        int64_t n = p.rows * p.vocabulary;
        float *lse = guarded_floats(p.rows), *dlogits = guarded_floats(n);
        run(&p, 0.25f, NULL);
        double loss = tr_cross_entropy_reference(p.logits, p.targets, lse, p.rows, p.vocabulary);
        tr_cross_entropy_backward_reference(p.logits, p.targets, 0.25f, dlogits, p.rows, p.vocabulary);
        CU_ASSERT_DOUBLE_EQUAL(p.loss, loss, 1e-6 * (double)p.rows);
        CU_ASSERT(near(p.lse, lse, p.rows, 1e-6, 1e-7));
        CU_ASSERT(near(p.dlogits, dlogits, n, 5e-7, 2e-6));
        floats_free(lse, p.rows), floats_free(dlogits, n);
        problem_free(&p);
    }
}

static void threads_and_writing_over_the_logits_do_not_change_a_bit(void)
{
    pools threads = pools_new();
    for (int c = 0; c < N_SIZES; c++) {
        problem first = problem_new(sizes[c][0], sizes[c][1]);
        run(&first, 0.5f, NULL);
        for (int t = 0; t < 3; t++) {
            problem p = problem_new(sizes[c][0], sizes[c][1]);
            run(&p, 0.5f, threads.pool[t]);
            size_t bytes = (size_t)(p.rows * p.vocabulary) * sizeof(float);
            CU_ASSERT(p.loss == first.loss);
            CU_ASSERT(memcmp(p.lse, first.lse, (size_t)p.rows * sizeof(float)) == 0);
            CU_ASSERT(memcmp(p.dlogits, first.dlogits, bytes) == 0);
            tr_cpu_cross_entropy_backward(p.logits, p.targets, p.lse, 0.5f, p.logits, p.rows, p.vocabulary,
                                          TR_F32, NULL);
            CU_ASSERT(memcmp(p.logits, first.dlogits, bytes) == 0);
            problem_free(&p);
        }
        problem_free(&first);
    }
    pools_destroy(&threads);
}

static void rows_without_target_count_nothing(void)
{
    problem p = problem_new(4, 20);
    for (int r = 0; r < 4; r++) p.targets[r] = -1 - r;
    run(&p, 1, NULL);
    CU_ASSERT(p.loss == 0);
    for (int64_t i = 0; i < 80; i++) CU_ASSERT(p.dlogits[i] == 0);
    problem_free(&p);
}

static double loss(void *context)
{
    problem *p = context;
    tr_cpu_cross_entropy(p->logits, p->targets, &p->loss, p->lse, p->row_losses, p->rows, p->vocabulary,
                         TR_F32, NULL);
    return p->loss;
}

/* Steps of 1e-2: truncation near 1e-5, rounding of exponentials near 1e-6 / 1e-2. */
static void gradient_agrees_with_differences(void)
{
    problem p = problem_new(5, 7);
    for (int64_t i = 0; i < 35; i++) p.logits[i] /= 4;
    run(&p, 1, NULL);
    for (int64_t i = 0; i < 35; i++)
        CU_ASSERT_DOUBLE_EQUAL(difference(loss, &p, p.logits + i, 1e-2f), (double)p.dlogits[i], 1e-4);
    problem_free(&p);
}

static void large_logits_stay_finite(void)
{
    problem p = problem_new(3, 40);
    for (int64_t i = 0; i < 120; i++) p.logits[i] *= 1e4f;
    run(&p, 1, NULL);
    CU_ASSERT(isfinite(p.loss));
    for (int64_t i = 0; i < 120; i++) CU_ASSERT(isfinite(p.dlogits[i]));
    problem_free(&p);
}

static const check_test tests[] = {
    CHECK_TEST(loss_and_gradient_agree_with_the_reference),
    CHECK_TEST(threads_and_writing_over_the_logits_do_not_change_a_bit),
    CHECK_TEST(rows_without_target_count_nothing),
    CHECK_TEST(gradient_agrees_with_differences),
    CHECK_TEST(large_logits_stay_finite),
};

CHECK_MAIN("cross_entropy", tests)
