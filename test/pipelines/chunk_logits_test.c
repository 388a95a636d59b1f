/* test/pipelines/chunk_logits_test.c - models whose logits exist by chunks: losses and gradients are those of the whole but for
 * roundings of one sum, and their bits depend neither on the cut nor on recomputation.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/chunk_logits.h"

#include "check.h"
#include "model_runs.h"

#include <math.h>

enum { BATCH = 2, SEQUENCE = 24, N_CONFIGS = N_VARIANTS, N_TOKENS = BATCH * SEQUENCE };

static void open_run(model_run *r, int which, int n_pieces, tr_dtype dtype, tr_recompute recompute,
                     int64_t logits)
{
    tr_loaded_model model;
    fresh_model(&model, variants[which]);
    run_open_model_chunked(r, &model, BATCH, SEQUENCE, n_pieces, dtype, recompute, logits);
}

/* Two micro-batches, so that gradients are added to; one of the targets in seven is none. */
static double step(model_run *r)
{
    int32_t *tokens = tr__alloc_tensor(N_TOKENS, sizeof *tokens),
            *targets = tr__alloc_tensor(N_TOKENS, sizeof *targets);
    double loss = 0;
    for (uint32_t m = 0; m < 2; m++) {
        for (int i = 0; i < N_TOKENS; i++) {
            tokens[i] = (int32_t)(i * 37 + (int)m * 11) % 320;
            targets[i] = i % 7 == 5 ? -1 : (int32_t)(i * 53 + (int)m * 7) % 320;
        }
        *r->loss = NAN;
        loss += run_microbatch(r, tokens, targets, 1.0f / N_TOKENS);
    }
    tr_free(targets);
    tr_free(tokens);
    return loss;
}

/* The largest difference of gradients, as a share of their parameter's norm. */
static double distance(const model_run *a, const model_run *b)
{
    double worst = 0;
    for (size_t i = 0; i < a->model.parameters.count; i++) {
        int64_t n = tr_shape_elements(&a->model.parameters.items[i].shape);
        float *left = run_gradient(a, (int32_t)i), *right = run_gradient(b, (int32_t)i);
        double difference = 0, size = 0;
        for (int64_t e = 0; e < n; e++) {
            difference += ((double)left[e] - (double)right[e]) * ((double)left[e] - (double)right[e]);
            size += (double)right[e] * (double)right[e];
        }
        worst = fmax(worst, sqrt(difference / (size + 1e-30)));
        tr_free(left);
        tr_free(right);
    }
    return worst;
}

static bool same_bits(const model_run *a, const model_run *b)
{
    bool same = true;
    for (size_t i = 0; i < a->model.parameters.count; i++) {
        size_t bytes = (size_t)tr_shape_elements(&a->model.parameters.items[i].shape) * sizeof(float);
        float *left = run_gradient(a, (int32_t)i), *right = run_gradient(b, (int32_t)i);
        same = same && memcmp(left, right, bytes) == 0;
        tr_free(left);
        tr_free(right);
    }
    return same;
}

/* float32 products have other tiles: some roundings. In bfloat16 a logit may then be rounded to its neighbour. */
static void losses_and_gradients_are_those_of_the_whole(void)
{
    for (int k = 0; k < 2 * N_CONFIGS; k++) {
        tr_dtype dtype = k < N_CONFIGS ? TR_F32 : TR_BF16;
        model_run whole, chunks;
        open_run(&whole, k % N_CONFIGS, 1, dtype, TR_RECOMPUTE_NONE, 0);
        open_run(&chunks, k % N_CONFIGS, 1, dtype, TR_RECOMPUTE_NONE, 20);
        double wanted = step(&whole), got = step(&chunks);
        CU_ASSERT(wanted > 0 && fabs(got / wanted - 1) < (dtype == TR_F32 ? 1e-6 : 1e-3));
        CU_ASSERT(distance(&chunks, &whole) < (dtype == TR_F32 ? 2e-6 : 1e-2));
        run_close(&chunks);
        run_close(&whole);
    }
}

static void expect_equal_bits(int which, tr_dtype dtype, int n_pieces, tr_recompute recompute)
{
    model_run one, other;
    open_run(&one, which, 1, dtype, TR_RECOMPUTE_NONE, 20);
    open_run(&other, which, n_pieces, dtype, recompute, 20);
    double wanted = step(&one), got = step(&other);
    CU_ASSERT(wanted > 0 && memcmp(&wanted, &got, sizeof got) == 0);
    CU_ASSERT(same_bits(&other, &one));
    run_close(&other);
    run_close(&one);
}

static void neither_the_cut_nor_recomputation_changes_a_bit(void)
{
    for (int which = 0; which < N_CONFIGS; which++)
        for (tr_recompute what = TR_RECOMPUTE_NONE; what <= TR_RECOMPUTE_FULL; what++)
            for (int n_pieces = 1; n_pieces <= 3; n_pieces++)
                expect_equal_bits(which, TR_F32, n_pieces, what);
    expect_equal_bits(0, TR_BF16, 2, TR_RECOMPUTE_FULL);
}

/* Only the piece with the loss is another, and brings its weight gradients with the backward. */
static void only_the_last_piece_changes(void)
{
    model_run r;
    open_run(&r, 0, 3, TR_F32, TR_RECOMPUTE_NONE, 20);
    for (int s = 0; s < 3; s++) CU_ASSERT_EQUAL(tr_program_has_phase(r.programs[s], TR_PHASE_WEIGHT), s < 2);
    run_close(&r);
    open_run(&r, 0, 3, TR_F32, TR_RECOMPUTE_NONE, N_TOKENS);
    CU_ASSERT(tr_program_has_phase(r.programs[2], TR_PHASE_WEIGHT));
    run_close(&r);
}

/* What is evaluated has its loss behind the forward, and it is the one that training with the same weights tells. */
static void evaluations_need_no_backward(void)
{
    model_run r;
    int32_t *tokens = tr__alloc_tensor(N_TOKENS, sizeof *tokens);
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = i * 37 % 320;
    open_run(&r, 0, 1, TR_F32, TR_RECOMPUTE_NONE, 20);
    double trained = run_microbatch(&r, tokens, tokens, 1.0f / N_TOKENS);
    r.random.training = false;
    *r.loss = NAN;
    run_phase(&r, 0, TR_PHASE_FORWARD);
    CU_ASSERT(trained > 0 && *r.loss == trained);
    tr_free(tokens);
    run_close(&r);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(losses_and_gradients_are_those_of_the_whole),
        CHECK_TEST(neither_the_cut_nor_recomputation_changes_a_bit),
        CHECK_TEST(only_the_last_piece_changes),
        CHECK_TEST(evaluations_need_no_backward),
    };
    return check_run("pipelines/chunk_logits", tests, sizeof tests / sizeof *tests);
}
