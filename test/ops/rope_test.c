/* test/ops/rope_test.c - rotations against the plain reference, in place, back again, and from a position.
 * Tolerances: cosines and sines are rounded to float (6e-8), products and the sum again: below 4e-7 for
 * inputs in (-1, 1) and a magnitude of 1.3.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/rope.h"

#include "kernel_check.h"

#include <math.h>

/* batch, time, heads, head size, first position */
static const int64_t sizes[][5] = {{1, 1, 1, 2, 0},   {2, 5, 3, 6, 0},       {1, 33, 2, 12, 7},
                                   {2, 17, 4, 64, 0}, {1, 130, 2, 36, 1000}, {1, 1, 8, 128, 4095}};
/* theta^(-2i/D) of one head; at most 64. */
static const double *frequencies_of(int64_t head_size, double theta)
{
    static double frequencies[64];
    for (int i = 0; i < head_size / 2; i++) frequencies[i] = pow(theta, -2.0 * i / (double)head_size);
    return frequencies;
}

enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void rotations_agree_with_the_reference_on_any_number_of_threads(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 6 * N_SIZES; c++) {
        const int64_t *s = sizes[c / 6];
        bool inverse = c & 1;
        int64_t n = s[0] * s[1] * s[2] * s[3];
        float *x = filled(n, 1, 1), *y = guarded_floats(n), *right = guarded_floats(n);
        float *table = guarded_floats(s[1] * s[3]);
        const double *frequencies = frequencies_of(s[3], 10000);
        double magnitude = c % 4 < 2 ? 1 : 1.3;
        tr_rope_table(table, s[4], s[1], (int32_t)s[3], frequencies, magnitude);
        tr_cpu_rope(x, table, y, s[0], s[1], s[2], s[3], inverse, TR_F32, threads.pool[c % 3]);
        tr_rope_reference(x, right, s[0], s[1], s[2], s[3], s[4], frequencies, magnitude, inverse);
        CU_ASSERT(near(y, right, n, 4e-7, 0));
        tr_cpu_rope(x, table, x, s[0], s[1], s[2], s[3], inverse, TR_F32, NULL);
        CU_ASSERT(memcmp(x, y, (size_t)n * sizeof *y) == 0);
        floats_free(x, n), floats_free(y, n), floats_free(right, n), floats_free(table, s[1] * s[3]);
    }
    pools_destroy(&threads);
}

typedef struct problem {
    float *x, *y, *dy, *table;
} problem;

static double loss(void *context)
{
    problem *p = context;
    tr_cpu_rope(p->x, p->table, p->y, 1, 5, 2, 6, false, TR_F32, NULL);
    return weighted(p->y, p->dy, 60);
}

/* Linear in x: a wide step has no truncation error. */
static void gradient_agrees_with_differences(void)
{
    problem p = {filled(60, 1, 1), guarded_floats(60), filled(60, 1, 2), guarded_floats(30)};
    float dx[60];
    tr_rope_table(p.table, 3, 5, 6, frequencies_of(6, 100), 1.5);
    tr_cpu_rope(p.dy, p.table, dx, 1, 5, 2, 6, true, TR_F32, NULL);
    for (int i = 0; i < 60; i++)
        CU_ASSERT_DOUBLE_EQUAL(difference(loss, &p, p.x + i, 0.5f), (double)dx[i], 2e-6);
    floats_free(p.x, 60), floats_free(p.y, 60), floats_free(p.dy, 60), floats_free(p.table, 30);
}

static const check_test tests[] = {
    CHECK_TEST(rotations_agree_with_the_reference_on_any_number_of_threads),
    CHECK_TEST(gradient_agrees_with_differences),
};

CHECK_MAIN("rope", tests)
