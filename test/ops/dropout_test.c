/* test/ops/dropout_test.c - the masks of dropout, alone and inside attention: their rate, what they depend on and
 * what they do not, kernels against a plain reference with the same masks, and gradients by differences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/attention.h"
#include "ops/cpu/dropout.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

static const tr_random run = {.training = true, .seed = 11, .step = 3, .microbatch = 2};
static const double rates[] = {0.1, 0.5, 0.9};
enum { N_RATES = sizeof rates / sizeof *rates };

static tr_dropout_mask mask_of(const tr_random *random, double rate, int32_t use)
{
    tr_dropout_mask mask = {.threshold = 0};
    CU_ASSERT_FATAL(tr_dropout_mask_init(&mask, random, rate, use));
    return mask;
}

/* So many of n are kept, within five standard deviations of a binomial distribution. */
static bool count_is_likely(int64_t kept, int64_t n, double rate)
{
    double expected = (double)n * (1 - rate), deviation = sqrt((double)n * rate * (1 - rate));
    return fabs((double)kept - expected) <= 5 * deviation;
}

/* Rows, columns and planes each: none of them may be all of one kind. */
static void the_rate_is_kept_everywhere(void)
{
    enum { PLANES = 6, ROWS = 70, COLUMNS = 131 };
    for (int r = 0; r < N_RATES; r++) {
        tr_dropout_mask mask = mask_of(&run, rates[r], 5);
        CU_ASSERT_DOUBLE_EQUAL(mask.scale, 1 / (1 - rates[r]), 1e-6);
        int64_t by_plane[PLANES] = {0}, by_row[ROWS] = {0}, by_column[COLUMNS] = {0};
        for (uint32_t p = 0; p < PLANES; p++)
            for (uint32_t t = 0; t < ROWS; t++)
                for (uint64_t c = 0; c < COLUMNS; c++) {
                    float factor = tr_dropout_factor(&mask, p, t, c);
                    CU_ASSERT_FATAL(factor == 0 || factor == mask.scale);
                    by_plane[p] += factor > 0, by_row[t] += factor > 0, by_column[c] += factor > 0;
                }
        for (int i = 0; i < PLANES; i++) CU_ASSERT(count_is_likely(by_plane[i], ROWS * COLUMNS, rates[r]));
        for (int i = 0; i < ROWS; i++) CU_ASSERT(count_is_likely(by_row[i], PLANES * COLUMNS, rates[r]));
        for (int i = 0; i < COLUMNS; i++) CU_ASSERT(count_is_likely(by_column[i], PLANES * ROWS, rates[r]));
    }
}

/* Masks of other keys, and the same mask moved, agree in as many places as chance wants. */
static void every_part_of_the_key_gives_another_mask(void)
{
    enum { N = 20000 };
    const tr_random others[] = {run, {true, 12, 3, 2}, {true, 11, 4, 2}, {true, 11, 3, 1}, {true, 11, 2, 3}};
    tr_dropout_mask first = mask_of(&run, 0.5, 7);
    for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
        tr_dropout_mask other = mask_of(&others[k], 0.5, k == 0 ? 8 : 7); /* 0: another use alone */
        int64_t equal = 0;
        for (uint64_t i = 0; i < N; i++)
            equal += tr_dropout_factor(&first, 0, 0, i) == tr_dropout_factor(&other, 0, 0, i);
        CU_ASSERT(count_is_likely(equal, N, 0.5));
    }
    for (uint64_t shift = 1; shift <= 64; shift *= 2) {
        int64_t equal = 0;
        for (uint64_t i = 0; i < N; i++)
            equal += tr_dropout_factor(&first, 0, 0, i) == tr_dropout_factor(&first, 0, 0, i + shift);
        CU_ASSERT(count_is_likely(equal, N, 0.5));
    }
    tr_dropout_mask again = mask_of(&run, 0.5, 7);
    CU_ASSERT(memcmp(&first, &again, sizeof first) == 0);
}

/* 64 places from `column` on, a bit for each that is kept, the first highest. */
static uint64_t kept_bits(const tr_dropout_mask *mask, uint32_t plane, uint32_t row, uint64_t column)
{
    uint64_t bits = 0;
    for (uint64_t c = column; c < column + 64; c++)
        bits = bits << 1 | (tr_dropout_factor(mask, plane, row, c) > 0);
    return bits;
}

/* Bits that may never change, since a resumed run draws them again. Computed by another implementation of Philox
 * from the description in ops/dropout.h. */
static void masks_stay_what_they_were(void)
{
    const tr_dropout_mask mask = {.key = {1, 2}, .threshold = 0x80000000, .scale = 2};
    CU_ASSERT_EQUAL(kept_bits(&mask, 0, 0, 0), 0x0df0c6590d05e3cd);
    CU_ASSERT_EQUAL(kept_bits(&mask, 3, 5, (uint64_t)1 << 40), 0x030f303ffa9bf6b2);
    CU_ASSERT_EQUAL(kept_bits(&mask, 3, 5, 64), 0xf8bfb6e26d4c74e6);
}

/* The words are those of the project's one generator with the key (seed, "dropout" and use, step, micro-batch). */
static void masks_are_drawn_from_the_one_generator(void)
{
    const uint64_t stream[2] = {tr_hash64_text("dropout"), 7};
    const tr_rng_key key = {run.seed, tr_hash64(stream, sizeof stream), run.step, run.microbatch};
    tr_dropout_mask mask = mask_of(&run, 0.25, 7);
    for (uint64_t block = 0; block < 1000; block++) {
        uint64_t words = tr_rng_u64(&key, block), column = block / 16 * 64 + block % 16;
        CU_ASSERT_EQUAL(tr_dropout_factor(&mask, 0, 0, column) > 0, (uint32_t)words >= 0x40000000);
        CU_ASSERT_EQUAL(tr_dropout_factor(&mask, 0, 0, column + 16) > 0, words >> 32 >= 0x40000000);
    }
}

static void the_kernel_agrees_with_the_reference_also_in_place(void)
{
    static const int64_t sizes[] = {1, 3, 15, 16, 17, 63, 64, 65, 100, 8191, 8192, 8193, 20011};
    tr_error err = {0};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int r = 0; r < N_RATES; r++) {
            int64_t n = sizes[s];
            tr_dropout_mask mask = mask_of(&run, rates[r], (int32_t)s);
            guarded x = guard_normal(n, 1), y = guard_new((size_t)n * 4), right = guard_new((size_t)n * 4);
            tr_dropout_reference(floats_of(&x), floats_of(&right), n, &mask);
            for (int n_threads = 1; n_threads <= 3; n_threads++) {
                tr_thread_pool *pool = NULL;
                CHECK_OK(tr_thread_pool_new(&pool, n_threads, &err));
                memset(y.data, 0xff, y.bytes);
                tr_cpu_dropout(floats_of(&x), floats_of(&y), n, &mask, TR_F32, pool);
                CU_ASSERT(memcmp(y.data, right.data, y.bytes) == 0);
                tr_thread_pool_destroy(&pool);
            }
            tr_cpu_dropout(floats_of(&x), floats_of(&x), n, &mask, TR_F32, NULL);
            CU_ASSERT(memcmp(x.data, right.data, x.bytes) == 0);
            guard_free(&x);
            guard_free(&y);
            guard_free(&right);
        }
}

static void drawn_blocks_agree_with_single_places(void)
{
    enum { ROWS = 5 };
    tr_dropout_mask mask = mask_of(&run, 0.3, 9);
    const uint64_t columns[] = {0, 64, 6400, (uint64_t)1 << 40};
    guarded factors = guard_new(ROWS * TR_DROPOUT_GROUP * 4);
    for (int k = 0; k < 4; k++) {
        tr_cpu_dropout_factors(&mask, 7, 1000, columns[k], ROWS, floats_of(&factors));
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint64_t c = 0; c < TR_DROPOUT_GROUP; c++)
                CU_ASSERT_EQUAL(floats_of(&factors)[r * TR_DROPOUT_GROUP + c],
                                tr_dropout_factor(&mask, 7, 1000 + r, columns[k] + c));
    }
    guard_free(&factors);
}

/* Two of a rate, so that their masks must be those of their own uses; and one whose input is read again. */
static int build_elementwise(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    (void)context;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(2, 5, 17));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE2(17, 17));
    tr_value a = tr_dropout(g, tr_linear(g, x, w, TR_NO_VALUE, TR_WEIGHT_OUT_IN), 0.3);
    tr_value b = tr_dropout(g, tr_activate(g, a, TR_SILU), 0.3);
    outputs[0] = tr_add(g, tr_add(g, x, b), tr_dropout(g, x, 0.5));
    return 1;
}

static int build_attention(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    const tr_attention_options *options = context;
    int64_t q_width = (int64_t)options->heads * options->head_size,
            kv_width = (int64_t)options->kv_heads * options->head_size;
    tr_value q = tr_graph_input(g, "q", TR_F32, TR_SHAPE3(2, 7, q_width));
    tr_value k = tr_graph_input(g, "k", TR_F32, TR_SHAPE3(2, 7, kv_width));
    tr_value v = tr_graph_input(g, "v", TR_F32, TR_SHAPE3(2, 7, kv_width));
    outputs[0] = tr_attention(g, tr_attention(g, q, k, v, options), k, v, options);
    return 1;
}

static const tr_attention_options attention = {
    .heads = 4, .kv_heads = 2, .head_size = 6, .scale = 0.4f, .dropout = 0.4};

/* Differences of the forward know its mask: another one in the backward would be far off. */
static void gradients_are_those_of_differences(void)
{
    check_graph(&(graph_case){.name = "dropout", .build = build_elementwise, .random = run});
    check_graph(&(graph_case){
        .name = "attention with dropout", .build = build_attention, .context = &attention, .random = run});
}

static uint64_t bits_of(const graph_case *of)
{
    graph_check check;
    if (!check_begin(&check, of)) return 0;
    check_run_whole(&check, 1);
    uint64_t bits = check_bits(&check);
    check_end(&check);
    return bits;
}

static void only_training_drops(void)
{
    const tr_random evaluation = {.seed = 11, .step = 3, .microbatch = 2};
    tr_attention_options none = attention;
    none.dropout = 0;
    graph_case of = {.name = "attention", .build = build_attention, .context = &attention, .random = run};
    uint64_t trained = bits_of(&of);
    of.random = evaluation;
    uint64_t evaluated = bits_of(&of);
    of.context = &none;
    CU_ASSERT_EQUAL(bits_of(&of), evaluated);
    of.random = run;
    CU_ASSERT_EQUAL(bits_of(&of), evaluated); /* a rate of 0 is no dropout, bit for bit */
    CU_ASSERT_NOT_EQUAL(trained, evaluated);
}

static void elementwise_dropout_passes_on_what_is_not_trained(void)
{
    graph_check check;
    graph_case of = {.name = "dropout", .build = build_elementwise};
    if (!check_begin(&check, &of)) return;
    check_run_whole(&check, 1);
    guarded plain = guard_new(check.buffers[check.outputs[0]].bytes);
    const void *output = check.buffers[check.outputs[0]].data;
    CU_ASSERT_FATAL(output != NULL);
    memcpy(plain.data, output, plain.bytes);
    const float *x = floats_of(&check.buffers[check.inputs[0]]), *w = NULL;
    for (tr_value v = 0; v < check.n_values; v++)
        if (tr_graph_value(check.graph, v)->kind == TR_VALUE_PARAMETER) w = floats_of(&check.buffers[v]);
    CU_ASSERT_FATAL(w != NULL);
    for (int64_t i = 0; i < 2 * 5 * 17; i++) {
        double a = 0;
        for (int64_t j = 0; j < 17; j++) a += (double)x[i / 17 * 17 + j] * (double)w[i % 17 * 17 + j];
        CU_ASSERT_DOUBLE_EQUAL(floats_of(&plain)[i], 2 * (double)x[i] + a / (1 + exp(-a)), 1e-4);
    }
    guard_free(&plain);
    check_end(&check);
}

static void a_rate_of_nothing_adds_nothing_and_others_are_refused(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE1(4));
    CU_ASSERT_EQUAL(tr_dropout(g, x, 0), x);
    CU_ASSERT_EQUAL(tr_graph_node_count(g), 0);
    CU_ASSERT_EQUAL(tr_dropout(g, x, 1), TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "dropout: the rate 1 is not in [0, 1)");
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(the_rate_is_kept_everywhere),
    CHECK_TEST(every_part_of_the_key_gives_another_mask),
    CHECK_TEST(masks_stay_what_they_were),
    CHECK_TEST(masks_are_drawn_from_the_one_generator),
    CHECK_TEST(the_kernel_agrees_with_the_reference_also_in_place),
    CHECK_TEST(drawn_blocks_agree_with_single_places),
    CHECK_TEST(gradients_are_those_of_differences),
    CHECK_TEST(only_training_drops),
    CHECK_TEST(elementwise_dropout_passes_on_what_is_not_trained),
    CHECK_TEST(a_rate_of_nothing_adds_nothing_and_others_are_refused),
};
CHECK_MAIN("dropout", tests)
