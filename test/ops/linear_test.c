/* test/ops/linear_test.c - linear and its gradients in both weight layouts.
 * Tolerances: sums of k products of numbers in (-1, 1) wander by about sqrt(k) / 3, so each of k additions
 * rounds by 2e-8 sqrt(k) at most typically; roundings add up like a random walk to 1e-8 k. Five times that.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/linear.h"

#include "kernel_check.h"

typedef struct linear_case {
    int64_t rows, in, out;
} linear_case;

static const linear_case cases[] = {{1, 1, 1},    {1, 17, 5},   {3, 5, 2},       {17, 33, 65},
                                    {5, 130, 17}, {130, 64, 3}, {257, 48, 1031}, {1, 96, 400}};
enum { N_CASES = sizeof cases / sizeof *cases };

static double tolerance(int64_t k)
{
    return 5e-8 * (double)k + 3e-7;
}

static void forward_agrees_with_the_reference_on_any_number_of_threads(void)
{
    pools p = pools_new();
    for (int c = 0; c < 4 * N_CASES; c++) {
        linear_case s = cases[c / 4];
        bool in_out = c & 1, with_bias = c & 2;
        float *x = filled(s.rows * s.in, 1, 1), *w = filled(s.in * s.out, 1, 2), *b = filled(s.out, 1, 3);
        float *right = guarded_floats(s.rows * s.out), *first = guarded_floats(s.rows * s.out);
        tr_linear_reference(x, w, with_bias ? b : NULL, right, s.rows, s.in, s.out, in_out);
        for (int t = 0; t < 3; t++) {
            float *y = guarded_floats(s.rows * s.out);
            tr_cpu_linear(x, w, with_bias ? b : NULL, y, s.rows, s.in, s.out, in_out, TR_F32, p.pool[t]);
            CU_ASSERT(near(y, right, s.rows * s.out, tolerance(s.in), 1e-6));
            if (t == 0) memcpy(first, y, (size_t)(s.rows * s.out) * sizeof *y);
            CU_ASSERT(memcmp(first, y, (size_t)(s.rows * s.out) * sizeof *y) == 0);
            floats_free(y, s.rows * s.out);
        }
        floats_free(x, s.rows * s.in), floats_free(w, s.in * s.out), floats_free(b, s.out);
        floats_free(right, s.rows * s.out), floats_free(first, s.rows * s.out);
    }
    pools_destroy(&p);
}

/* dx, dw, db of one case; dw and db start from `start`, dx too where accumulate. */
static void backward(linear_case s, bool in_out, bool accumulate, tr_thread_pool *pool, const float *dy,
                     const float *x, const float *w, float *gradients[3])
{
    fill(gradients[0], s.rows * s.in, 1, 11);
    fill(gradients[1], s.out * s.in, 1, 12);
    fill(gradients[2], s.out, 1, 13);
    tr_cpu_linear_dx(dy, w, gradients[0], s.rows, s.in, s.out, in_out, accumulate, TR_F32, pool);
    tr_cpu_linear_dw(dy, x, gradients[1], s.rows, s.in, s.out, in_out, TR_F32, pool);
    tr_cpu_linear_db(dy, gradients[2], s.rows, s.out, TR_F32, pool);
}

static void gradients_agree_with_the_reference_on_any_number_of_threads(void)
{
    pools p = pools_new();
    for (int c = 0; c < 4 * N_CASES; c++) {
        linear_case s = cases[c / 4];
        bool in_out = c & 1, accumulate = c & 2;
        int64_t sizes[3] = {s.rows * s.in, s.in * s.out, s.out};
        float *x = filled(s.rows * s.in, 1, 1), *w = filled(s.in * s.out, 1, 2);
        float *dy = filled(s.rows * s.out, 1, 3), *right[3], *first[3], *got[3], *pending;
        for (int i = 0; i < 3; i++) {
            right[i] = filled(sizes[i], 1, 11 + i);
            first[i] = guarded_floats(sizes[i]);
            got[i] = guarded_floats(sizes[i]);
        }
        pending = filled(sizes[0], 1, 11);
        tr_linear_backward_reference(dy, x, w, right[0], right[1], right[2], s.rows, s.in, s.out, in_out);
        for (int64_t i = 0; accumulate && i < sizes[0]; i++) right[0][i] += pending[i];
        backward(s, in_out, accumulate, NULL, dy, x, w, first);
        CU_ASSERT(near(first[0], right[0], sizes[0], tolerance(s.out), 1e-6));
        CU_ASSERT(near(first[1], right[1], sizes[1], tolerance(s.rows), 1e-6));
        CU_ASSERT(near(first[2], right[2], sizes[2], 1e-6, 1e-6));
        for (int t = 0; t < 3; t++) {
            backward(s, in_out, accumulate, p.pool[t], dy, x, w, got);
            for (int i = 0; i < 3; i++)
                CU_ASSERT(memcmp(first[i], got[i], (size_t)sizes[i] * sizeof(float)) == 0);
        }
        for (int i = 0; i < 3; i++)
            floats_free(right[i], sizes[i]), floats_free(first[i], sizes[i]), floats_free(got[i], sizes[i]);
        floats_free(x, s.rows * s.in), floats_free(w, s.in * s.out), floats_free(dy, s.rows * s.out);
        floats_free(pending, sizes[0]);
    }
    pools_destroy(&p);
}

typedef struct loss_context {
    linear_case s;
    bool in_out;
    float *x, *w, *b, *y, *dy;
} loss_context;

static double loss(void *context)
{
    loss_context *c = context;
    tr_cpu_linear(c->x, c->w, c->b, c->y, c->s.rows, c->s.in, c->s.out, c->in_out, TR_F32, NULL);
    return weighted(c->y, c->dy, c->s.rows * c->s.out);
}

/* y is linear in each input, so a wide step has no truncation error and rounding stays near 1e-6. */
static void gradients_agree_with_differences(void)
{
    for (int layout = 0; layout < 2; layout++) {
        linear_case s = {3, 5, 4};
        loss_context c = {.s = s, .in_out = layout};
        c.x = filled(15, 1, 1), c.w = filled(20, 1, 2), c.b = filled(4, 1, 3);
        c.y = guarded_floats(12), c.dy = filled(12, 1, 4);
        float dx[15], dw[20] = {0}, db[4] = {0};
        tr_cpu_linear_dx(c.dy, c.w, dx, s.rows, s.in, s.out, c.in_out, false, TR_F32, NULL);
        tr_cpu_linear_dw(c.dy, c.x, dw, s.rows, s.in, s.out, c.in_out, TR_F32, NULL);
        tr_cpu_linear_db(c.dy, db, s.rows, s.out, TR_F32, NULL);
        for (int i = 0; i < 15; i++)
            CU_ASSERT_DOUBLE_EQUAL(difference(loss, &c, c.x + i, 0.5f), (double)dx[i], 5e-6);
        for (int i = 0; i < 20; i++)
            CU_ASSERT_DOUBLE_EQUAL(difference(loss, &c, c.w + i, 0.5f), (double)dw[i], 5e-6);
        for (int i = 0; i < 4; i++)
            CU_ASSERT_DOUBLE_EQUAL(difference(loss, &c, c.b + i, 0.5f), (double)db[i], 5e-6);
        floats_free(c.x, 15), floats_free(c.w, 20), floats_free(c.b, 4), floats_free(c.y, 12),
            floats_free(c.dy, 12);
    }
}

static const check_test tests[] = {
    CHECK_TEST(forward_agrees_with_the_reference_on_any_number_of_threads),
    CHECK_TEST(gradients_agree_with_the_reference_on_any_number_of_threads),
    CHECK_TEST(gradients_agree_with_differences),
};

CHECK_MAIN("linear", tests)
