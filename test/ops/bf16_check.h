/* test/ops/bf16_check.h - what tests of bfloat16 kernels share: tensors held twice, as bfloat16 for the kernel and as
 * the floats of the same values for the plain reference, and the comparison of what came out.
 * A kernel computes in float32 and rounds once. So what it may give is known exactly: if the float result is within
 * `absolute + relative |right|` of the reference, as the tests of the float32 kernels show, the bfloat16 lies between
 * the roundings of the two ends of that interval. A kernel that truncates, or rounds twice, falls out of it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_OPS_BF16_CHECK_H
#define TROUPE_TEST_OPS_BF16_CHECK_H

#include "ops/tensor.h"

#include "kernel_check.h"

typedef struct both {
    int64_t n;
    tr_bf16 *half; /* between guards */
    float *full;   /* between guards */
} both;

/* Nothing in it but NaN: an output. */
static inline both both_new(int64_t n)
{
    return (both){n, guarded_new((size_t)n * sizeof(tr_bf16)), guarded_floats(n)};
}

/* Numbers in (-size, size) that bfloat16 holds. */
static inline both both_filled(int64_t n, float size, uint64_t seed)
{
    both x = both_new(n);
    fill(x.full, n, size, seed);
    for (int64_t i = 0; i < n; i++) {
        x.half[i] = tr_bf16_of_f32(x.full[i]);
        x.full[i] = tr_f32_of_bf16(x.half[i]);
    }
    return x;
}

static inline void both_free(both *x)
{
    CU_ASSERT(guarded_free(x->half, (size_t)x->n * sizeof(tr_bf16)));
    floats_free(x->full, x->n);
}

/* What the kernel left in x->half against what the reference left in x->full. */
static inline bool both_agree(const char *what, const both *x, double absolute, double relative)
{
    for (int64_t i = 0; i < x->n; i++) {
        double right = (double)x->full[i], slack = absolute + relative * fabs(right);
        float got = tr_f32_of_bf16(x->half[i]), low = tr_f32_of_bf16(tr_bf16_of_f32((float)(right - slack))),
              high = tr_f32_of_bf16(tr_bf16_of_f32((float)(right + slack)));
        if (got >= low && got <= high) continue;
        fprintf(stderr, "  %s: element %lld of %lld is %.9g, expected %.9g to %.9g\n", what, (long long)i,
                (long long)x->n, (double)got, (double)low, (double)high);
        return false;
    }
    return true;
}

static inline bool same_halves(const tr_bf16 *a, const tr_bf16 *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

#endif
