/* test/base/rng_test.c - Philox against the vectors of its authors, and the numbers made from it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include "base/hash.h"
#include "check.h"

#include <math.h>
#include <string.h>

/* Source: kat_vectors of the Random123 distribution, "philox4x32 10". */
static void philox_has_the_published_vectors(void)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        tr_philox(known[i].counter, known[i].key, out);
        CU_ASSERT(memcmp(out, known[i].out, sizeof out) == 0);
    }
}

/* Every part of the key and every half of the index counts. */
static void all_parts_of_a_key_matter(void)
{
    const tr_rng_key keys[] = {{1, 2, 3, 4}, {2, 2, 3, 4}, {1, 3, 3, 4}, {1, 2, 4, 4},
                               {1, 2, 3, 5}, {1, 2, 4, 3}, {2, 1, 3, 4}, {1 | (uint64_t)1 << 40, 2, 3, 4}};
    enum { N = sizeof keys / sizeof *keys };
    const uint64_t indices[] = {0, 1, (uint64_t)1 << 32, UINT64_MAX};
    uint64_t seen[N * 4];
    for (size_t k = 0; k < N; k++)
        for (size_t i = 0; i < 4; i++) {
            seen[k * 4 + i] = tr_rng_u64(&keys[k], indices[i]);
            CU_ASSERT_EQUAL(tr_rng_u64(&keys[k], indices[i]), seen[k * 4 + i]);
            for (size_t j = 0; j < k * 4 + i; j++) CU_ASSERT_NOT_EQUAL(seen[j], seen[k * 4 + i]);
        }
}

/* Mean 1/2 and variance 1/12 of n numbers have standard errors 0.289/sqrt(n) and 0.0745/sqrt(n); five of them. */
static void uniform_numbers_fill_their_interval(void)
{
    enum { N = 1 << 18, BINS = 64 };
    static int bins[BINS];
    const tr_rng_key key = {7, tr_hash64_text("uniform"), 0, 0};
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = tr_rng_uniform(&key, i);
        CU_ASSERT_FATAL(u >= 0 && u < 1);
        sum += u;
        squares += (u - 0.5) * (u - 0.5);
        bins[(int)(u * BINS)]++;
    }
    CU_ASSERT_DOUBLE_EQUAL(sum / N, 0.5, 5 * 0.289 / sqrt(N));
    CU_ASSERT_DOUBLE_EQUAL(squares / N, 1.0 / 12, 5 * 0.0745 / sqrt(N));
    double chi = 0, expected = (double)N / BINS;
    for (int b = 0; b < BINS; b++) chi += (bins[b] - expected) * (bins[b] - expected) / expected;
    CU_ASSERT(chi < 63 + 5 * sqrt(2 * 63.0)); /* 63 degrees of freedom */
}

/* Moments 1 to 4 are 0, 1, 0, 3 with standard errors 1, sqrt(2), sqrt(15), sqrt(96) over sqrt(n). */
static void normal_numbers_have_their_moments(void)
{
    enum { N = 1 << 18 };
    static float x[N];
    const tr_rng_key key = {11, tr_hash64_text("normal"), 0, 0};
    tr_rng_normal(&key, 0, N, x);
    double moment[5] = {0}, lag = 0, largest = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)x[i], power = 1;
        CU_ASSERT_FATAL(isfinite(v));
        for (int k = 1; k <= 4; k++) moment[k] += (power *= v) / N;
        if (i) lag += v * (double)x[i - 1] / N;
        largest = fmax(largest, fabs(v));
    }
    double unit = 5 / sqrt(N);
    CU_ASSERT_DOUBLE_EQUAL(moment[1], 0, unit);
    CU_ASSERT_DOUBLE_EQUAL(moment[2], 1, unit * sqrt(2));
    CU_ASSERT_DOUBLE_EQUAL(moment[3], 0, unit * sqrt(15));
    CU_ASSERT_DOUBLE_EQUAL(moment[4], 3, unit * sqrt(96));
    CU_ASSERT_DOUBLE_EQUAL(lag, 0, unit);    /* neighbours know nothing of each other */
    CU_ASSERT(largest > 4 && largest < 9.5); /* tails: sqrt(2 log 2^64) at most */
}

/* So that a shard of a tensor gets the numbers of the whole. */
static void normal_numbers_depend_on_their_index_alone(void)
{
    const tr_rng_key key = {3, 4, 5, 6};
    float whole[100], part[100];
    tr_rng_normal(&key, UINT64_MAX / 2 - 50, 100, whole);
    for (uint64_t begin = 0; begin < 100; begin += 7)
        for (uint64_t count = 0; begin + count <= 100; count += 13) {
            tr_rng_normal(&key, UINT64_MAX / 2 - 50 + begin, count, part);
            CU_ASSERT(memcmp(part, whole + begin, count * sizeof *part) == 0);
        }
}

static const check_test tests[] = {
    CHECK_TEST(philox_has_the_published_vectors),           CHECK_TEST(all_parts_of_a_key_matter),
    CHECK_TEST(uniform_numbers_fill_their_interval),        CHECK_TEST(normal_numbers_have_their_moments),
    CHECK_TEST(normal_numbers_depend_on_their_index_alone),
};
CHECK_MAIN("rng", tests)
