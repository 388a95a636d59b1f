/* test/ops/optimizer_test.c - sums, norms and AdamW against the textbook in double.
 * Tolerances: AdamW rounds each of about six operations once, 6e-8 each: 1e-6 of the value and of the step.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/optimizer.h"

#include "kernel_check.h"

/* The last is large enough to go past the caches, where that is done. */
static const int64_t sizes[] = {
    1, 15, 17, 130, TR_NORM_BLOCK, TR_NORM_BLOCK + 1, 3 * TR_NORM_BLOCK - 5, (1 << 18) + 21};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void accumulate_is_exact(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 3 * N_SIZES; c++) {
        int64_t n = sizes[c / 3];
        float *a = filled(n, 1, 1), *b = filled(n, 1, 2), *kept = filled(n, 1, 1);
        tr_accumulate(a, b, n, threads.pool[c % 3]);
        for (int64_t i = 0; i < n; i++)
            if (a[i] != kept[i] + b[i]) CU_FAIL("a sum is wrong");
        floats_free(a, n), floats_free(b, n), floats_free(kept, n);
    }
    pools_destroy(&threads);
}

/* Into a place of its own, at any alignment, and into each operand; and what is cleared is 0. */
static void sums_are_the_same_wherever_they_go(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 3 * N_SIZES; c++) {
        int64_t n = sizes[c / 3];
        float *a = filled(n, 1, 1), *b = filled(n, 1, 2), *out = guarded_floats(n),
              *shifted = guarded_floats(n + 1);
        tr_thread_pool *pool = threads.pool[c % 3];
        tr_sum(out, a, b, n, pool);
        tr_sum(shifted + 1, a, b, n, pool);
        shifted[0] = 7;
        bool right = true;
        for (int64_t i = 0; i < n; i++) right = right && out[i] == a[i] + b[i];
        CU_ASSERT(right);
        CU_ASSERT(memcmp(shifted + 1, out, (size_t)n * sizeof(float)) == 0 && shifted[0] == 7);
        tr_sum(b, a, b, n, pool);
        CU_ASSERT(memcmp(b, out, (size_t)n * sizeof(float)) == 0);
        tr_clear(out, n, pool);
        for (int64_t i = 0; i < n; i++) right = right && out[i] == 0;
        CU_ASSERT(right);
        floats_free(a, n), floats_free(b, n), floats_free(out, n), floats_free(shifted, n + 1);
    }
    pools_destroy(&threads);
}

/* Sums of at most 16384 squares in double: 1e-12 relatively. A tensor cut at a block gives the same sums. */
static void square_sums_are_those_of_blocks(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 3 * N_SIZES; c++) {
        int64_t n = sizes[c / 3], blocks = tr_norm_block_count(n);
        float *x = filled(n, 2, 1);
        double *sums = guarded_new((size_t)blocks * sizeof *sums), alone;
        tr_square_sums(x, n, sums, threads.pool[c % 3]);
        for (int64_t k = 0; k < blocks; k++) {
            int64_t first = k * TR_NORM_BLOCK, count = n - first < TR_NORM_BLOCK ? n - first : TR_NORM_BLOCK;
            double right = 0;
            for (int64_t i = 0; i < count; i++) right += (double)x[first + i] * (double)x[first + i];
            CU_ASSERT_DOUBLE_EQUAL(sums[k], right, 1e-12 * right);
            tr_square_sums(x + first, count, &alone, NULL);
            CU_ASSERT(alone == sums[k]);
        }
        CU_ASSERT(guarded_free(sums, (size_t)blocks * sizeof *sums));
        floats_free(x, n);
    }
    pools_destroy(&threads);
}

/* One element, as torch.optim.AdamW has it, in double. */
static void textbook(double *p, double *m, double *v, double g, const tr_adamw_options *o)
{
    double beta1 = (double)o->beta1, beta2 = (double)o->beta2, lr = (double)o->lr;
    g *= (double)o->gradient_scale;
    *p *= 1 - lr * (double)o->weight_decay;
    *m = beta1 * *m + (1 - beta1) * g;
    *v = beta2 * *v + (1 - beta2) * g * g;
    double denominator = sqrt(*v) / sqrt(1 - pow(beta2, o->step)) + (double)o->eps;
    *p -= lr / (1 - pow(beta1, o->step)) * *m / denominator;
}

static void adamw_follows_the_textbook_in_place_and_out_of_place(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 3 * N_SIZES; c++) {
        tr_adamw_options o = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, 1 + (uint32_t)c};
        int64_t n = sizes[c / 3];
        float *x[4], *out[3];
        for (int i = 0; i < 4; i++) x[i] = filled(n, 1, (uint64_t)i + 1);
        for (int i = 0; i < 3; i++) out[i] = guarded_floats(n);
        for (int64_t i = 0; i < n; i++) x[2][i] = fabsf(x[2][i]) + 1e-3f; /* v is a mean of squares */
        tr_adamw(x[0], x[1], x[2], x[3], out[0], out[1], out[2], NULL, n, &o, threads.pool[c % 3]);
        bool right = true;
        for (int64_t i = 0; i < n; i++) {
            double p = (double)x[0][i], m = (double)x[1][i], v = (double)x[2][i];
            textbook(&p, &m, &v, (double)x[3][i], &o);
            right = right && fabs((double)out[0][i] - p) <= 1e-7 + 1e-6 * fabs(p);
            right = right && fabs((double)out[1][i] - m) <= 1e-7 + 1e-6 * fabs(m);
            right = right && fabs((double)out[2][i] - v) <= 1e-7 + 1e-6 * fabs(v);
        }
        CU_ASSERT(right);
        tr_adamw(x[0], x[1], x[2], x[3], x[0], x[1], x[2], NULL, n, &o, NULL);
        for (int i = 0; i < 3; i++) CU_ASSERT(memcmp(x[i], out[i], (size_t)n * sizeof(float)) == 0);
        for (int i = 0; i < 4; i++) floats_free(x[i], n);
        for (int i = 0; i < 3; i++) floats_free(out[i], n);
    }
    pools_destroy(&threads);
}

static const check_test tests[] = {
    CHECK_TEST(accumulate_is_exact),
    CHECK_TEST(sums_are_the_same_wherever_they_go),
    CHECK_TEST(square_sums_are_those_of_blocks),
    CHECK_TEST(adamw_follows_the_textbook_in_place_and_out_of_place),
};

CHECK_MAIN("optimizer", tests)
