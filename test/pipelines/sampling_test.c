/* test/pipelines/sampling_test.c - the choice follows the options and nothing else.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/sampling.h"

#include "check.h"

#include <math.h>
#include <string.h>

static tr_error err;

enum { V = 6, DRAWS = 20000 };
static const float logits[V] = {0.5f, 2.0f, -1.0f, 2.0f, 1.0f, -INFINITY};

static void draw(const tr_sampling_options *options, const float *from, int counts[V])
{
    tr_sampler *sampler = NULL;
    memset(counts, 0, V * sizeof *counts);
    CHECK_OK(tr_sampler_new(&sampler, V, options, &err));
    for (uint32_t i = 0; i < DRAWS; i++) counts[tr_sampler_choose(sampler, from, i)]++;
    tr_sampler_destroy(&sampler);
}

static void temperature_zero_takes_the_lowest_of_the_largest(void)
{
    int counts[V];
    draw(&(tr_sampling_options){.temperature = 0, .top_p = 1, .seed = 3}, logits, counts);
    CU_ASSERT_EQUAL(counts[1], DRAWS);
}

/* Five standard deviations of a binomial count. */
static void check_share(int count, double share)
{
    double spread = 5 * sqrt(DRAWS * share * (1 - share)) + 1e-9;
    CU_ASSERT(fabs(count - DRAWS * share) <= spread);
}

static void shares_follow_the_softmax_at_the_temperature(void)
{
    static const double temperatures[] = {1, 0.5, 3};
    for (int k = 0; k < 3; k++) {
        int counts[V];
        double sum = 0;
        draw(&(tr_sampling_options){.temperature = temperatures[k], .top_p = 1, .seed = 11}, logits, counts);
        for (int i = 0; i < V; i++) sum += exp(logits[i] / temperatures[k]);
        for (int i = 0; i < V; i++) check_share(counts[i], exp(logits[i] / temperatures[k]) / sum);
        CU_ASSERT_EQUAL(counts[5], 0);
    }
}

static void top_k_cuts_ties_at_the_lower_id(void)
{
    int counts[V];
    draw(&(tr_sampling_options){.temperature = 1, .top_k = 1, .top_p = 1}, logits, counts);
    CU_ASSERT_EQUAL(counts[1], DRAWS);
    draw(&(tr_sampling_options){.temperature = 1, .top_k = 3, .top_p = 1}, logits, counts);
    CU_ASSERT(counts[0] == 0 && counts[2] == 0 && counts[1] && counts[3] && counts[4]);
    draw(&(tr_sampling_options){.temperature = 1, .top_k = 99, .top_p = 1}, logits, counts);
    CU_ASSERT(counts[0] && counts[2]);
}

static void top_p_keeps_the_fewest_that_reach_it(void)
{
    int counts[V];
    const float shares[V] = {logf(0.1f), logf(0.4f), logf(0.3f), logf(0.2f), -INFINITY, -INFINITY};
    draw(&(tr_sampling_options){.temperature = 1, .top_p = 0.39}, shares, counts);
    CU_ASSERT_EQUAL(counts[1], DRAWS);
    draw(&(tr_sampling_options){.temperature = 1, .top_p = 0.6}, shares, counts);
    CU_ASSERT(counts[1] && counts[2] && !counts[3] && !counts[0]);
    check_share(counts[1], 4.0 / 7); /* what stays keeps its proportions */
    draw(&(tr_sampling_options){.temperature = 1, .top_p = 1e-9}, shares, counts);
    CU_ASSERT_EQUAL(counts[1], DRAWS);
}

static void the_same_seed_and_position_choose_the_same(void)
{
    tr_sampler *a = NULL, *b = NULL, *c = NULL;
    tr_sampling_options options = {.temperature = 1, .top_p = 1, .seed = 5}, other = options;
    other.seed = 6;
    CHECK_OK(tr_sampler_new(&a, V, &options, &err));
    CHECK_OK(tr_sampler_new(&b, V, &options, &err));
    CHECK_OK(tr_sampler_new(&c, V, &other, &err));
    int32_t chosen[100];
    int differ = 0;
    for (uint32_t i = 0; i < 100; i++) chosen[i] = tr_sampler_choose(a, logits, i);
    for (uint32_t i = 100; i-- > 0;) {
        CU_ASSERT_EQUAL(tr_sampler_choose(b, logits, i), chosen[i]);
        differ += tr_sampler_choose(c, logits, i) != chosen[i];
    }
    CU_ASSERT(differ > 20);
    tr_sampler_destroy(&a);
    tr_sampler_destroy(&b);
    tr_sampler_destroy(&c);
}

static void what_is_no_number_is_never_chosen(void)
{
    int counts[V];
    const float odd[V] = {NAN, 1, NAN, 2, -INFINITY, NAN}, none[V] = {NAN, NAN, NAN, NAN, NAN, NAN};
    const float endless[V] = {1, INFINITY, 0, INFINITY, 0, 0},
                nothing[V] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (int k = 0; k < 2; k++) {
        tr_sampling_options options = {.temperature = k, .top_p = 1};
        draw(&options, odd, counts);
        CU_ASSERT_EQUAL(counts[1] + counts[3], DRAWS);
        draw(&options, none, counts);
        CU_ASSERT_EQUAL(counts[0], DRAWS);
        draw(&options, endless, counts);
        CU_ASSERT_EQUAL(counts[1], DRAWS);
        draw(&options, nothing, counts);
        CU_ASSERT_EQUAL(counts[0], DRAWS);
    }
    draw(&(tr_sampling_options){.temperature = 1e-300, .top_p = 1}, logits, counts);
    CU_ASSERT_EQUAL(counts[1] + counts[3], DRAWS);
}

static void options_out_of_range_are_refused(void)
{
    static const tr_sampling_options wrong[] = {
        {.temperature = -1, .top_p = 1},
        {.temperature = NAN, .top_p = 1},
        {.temperature = INFINITY, .top_p = 1},
        {.temperature = 1, .top_p = 0},
        {.temperature = 1, .top_p = 1.1},
        {.temperature = 1, .top_p = NAN},
        {.temperature = 1, .top_k = -1, .top_p = 1},
    };
    tr_sampler *sampler = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CU_ASSERT_EQUAL(tr_sampler_new(&sampler, V, &wrong[i], &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_sampler_new(&sampler, 0, &(tr_sampling_options){.top_p = 1}, &err), TR_EINVAL);
    CU_ASSERT_PTR_NULL(sampler);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(temperature_zero_takes_the_lowest_of_the_largest),
        CHECK_TEST(shares_follow_the_softmax_at_the_temperature),
        CHECK_TEST(top_k_cuts_ties_at_the_lower_id),
        CHECK_TEST(top_p_keeps_the_fewest_that_reach_it),
        CHECK_TEST(the_same_seed_and_position_choose_the_same),
        CHECK_TEST(what_is_no_number_is_never_chosen),
        CHECK_TEST(options_out_of_range_are_refused),
    };
    return check_run("sampling", tests, sizeof tests / sizeof *tests);
}
