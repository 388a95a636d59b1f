/* test/ops/kernel_check.h - what tests of kernels share: guarded arrays of floats, numbers to fill them with,
 * comparisons with an absolute and a relative tolerance, and central differences.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_OPS_KERNEL_CHECK_H
#define TROUPE_TEST_OPS_KERNEL_CHECK_H

#include "base/memory.h"
#include "base/thread_pool.h"

#include "check.h"
#include "ops/guard.h"

#include <math.h>
#include <string.h>

static inline float *guarded_floats(int64_t n)
{
    return guarded_new((size_t)n * sizeof(float));
}

/* Frees n guarded floats; a check of the test that no guard was written to. */
static inline void floats_free(float *data, int64_t n)
{
    CU_ASSERT(guarded_free(data, (size_t)n * sizeof(float)));
}

/* Numbers in (-size, size), the same for the same seed. */
static inline void fill(float *x, int64_t n, float size, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = size * ((float)(state >> 40) / 8388608.0f - 1.0f);
    }
}

static inline float *filled(int64_t n, float size, uint64_t seed)
{
    float *x = guarded_floats(n);
    fill(x, n, size, seed);
    return x;
}

/* |a - b| <= absolute + relative |b| everywhere; says where it is not. */
static inline bool near(const float *a, const float *b, int64_t n, double absolute, double relative)
{
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)a[i] - (double)b[i]);
        if (error <= absolute + relative * fabs((double)b[i])) continue;
        fprintf(stderr, "  element %lld: %.9g, expected %.9g\n", (long long)i, (double)a[i], (double)b[i]);
        return false;
    }
    return true;
}

/* Pools of 1, 2 and 3 threads; [0] is NULL's equal. */
typedef struct pools {
    tr_thread_pool *pool[3];
} pools;

static inline pools pools_new(void)
{
    pools p = {0};
    tr_error err;
    for (int i = 0; i < 3; i++) CHECK_OK(tr_thread_pool_new(&p.pool[i], i + 1, &err));
    return p;
}

static inline void pools_destroy(pools *p)
{
    for (int i = 0; i < 3; i++) tr_thread_pool_destroy(&p->pool[i]);
}

/* d loss / d x[i] by central differences, for comparison with a kernel's gradient. `loss` recomputes all. */
static inline double difference(double (*loss)(void *), void *context, float *x, float step)
{
    float kept = *x;
    *x = kept + step;
    float above = *x; /* what was really stored */
    double up = loss(context);
    *x = kept - step;
    double width = (double)above - (double)*x;
    double down = loss(context);
    *x = kept;
    return (up - down) / width;
}

/* The sum of x[i] * weight[i] in double: a loss whose gradient with respect to x is `weight`. */
static inline double weighted(const float *x, const float *weight, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)weight[i];
    return sum;
}

#endif
