/* test/pipelines/generate_test.c - generation with caches says what the whole forward says, and the same seed
 * the same text.
 * Tolerance 1e-5: logits of order 1, the same sums in other blocks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/generate.h"

#include "base/file.h"
#include "check.h"
#include "model_runs.h"
#include "pipelines/data.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <unistd.h>

static const char *const cases[] = {"test/golden/gpt2", "test/golden/llama"};
enum { N_CASES = 2, V = 320, N_NEW = 40 };

/* logits (n,V) of the first n golden tokens by one forward without caches. Free it. */
static float *whole_forward(const char *directory, const int32_t *tokens, int32_t n)
{
    tr_loaded_model model;
    tr_forward forward;
    tr_model_options options = {.kind = TR_MODEL_LOGITS, .batch = 1, .sequence = n};
    float *logits = tr__alloc_tensor((int64_t)n * V, sizeof(float));
    int32_t *copy = tr__alloc_tensor(n, sizeof(int32_t));
    memcpy(copy, tokens, (size_t)n * sizeof *copy);
    MUST(tr__loaded_model_open(&model, directory, err));
    MUST(tr__forward_init(&forward, &model, &options, 1, err));
    forward.bound[forward.values.tokens] = copy;
    forward.bound[forward.values.logits] = logits;
    tr__forward_run(&forward, NULL);
    tr__forward_release(&forward);
    tr__loaded_model_release(&model);
    tr_free(copy);
    return logits;
}

static double difference(const float *a, const float *b)
{
    double worst = 0.0;
    for (int i = 0; i < V; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* Reads the golden tokens in parts of the given sizes and compares the logits behind each part. */
static double read_in_parts(const char *directory, const int *parts, int n_threads)
{
    int32_t *tokens, *targets;
    tr_generator *generator;
    double worst = 0.0;
    size_t read = 0;
    golden_rows(directory, 1, &tokens, &targets);
    float *wanted = whole_forward(directory, tokens, GOLDEN_T);
    MUST(tr_generator_open(&generator, directory, 0, n_threads, err));
    for (int i = 0; parts[i]; i++) {
        const float *logits;
        MUST(tr_generator_read(generator, tokens + read, (size_t)parts[i], &logits, err));
        read += (size_t)parts[i];
        worst = fmax(worst, difference(logits, wanted + (read - 1) * V));
    }
    tr_generator_close(&generator);
    tr_free(wanted);
    tr_free(tokens);
    tr_free(targets);
    return worst;
}

static void caches_give_the_logits_of_the_whole_sequence(void)
{
    static const int single[GOLDEN_T + 1] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                             1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const int mixed[] = {3, 16, 1, 12, 0}, chunks[] = {32, 0};
    for (int c = 0; c < N_CASES; c++) {
        double worst = read_in_parts(cases[c], CHECK_SIZE(single, chunks), 1);
        worst = fmax(worst, read_in_parts(cases[c], mixed, CHECK_SIZE(2, 1)));
        if (CHECK_SIZE(false, true)) continue;
        worst = fmax(worst, read_in_parts(cases[c], chunks, 1));
        printf("\n    %s: cached logits differ by %.2g at most ", cases[c], worst);
        CU_ASSERT(worst <= 1e-5);
    }
}

static void full_cache_starts_again_with_its_last_half(void)
{
    for (int c = 0; c < N_CASES; c++) {
        int32_t *tokens, *targets;
        tr_generator *generator;
        const float *logits;
        golden_rows(cases[c], 1, &tokens, &targets);
        MUST(tr_generator_open(&generator, cases[c], 8, 1, err));
        MUST(tr_generator_read(generator, tokens, 10, &logits, err)); /* 8 fill it; 4..7 stay, then 8 and 9 */
        float *wanted = whole_forward(cases[c], tokens + 4, 6);
        CU_ASSERT(difference(logits, wanted + 5 * V) <= 1e-5);
        MUST(
            tr_generator_read(generator, tokens + 10, 10, &logits, err)); /* and again at 12 and 16 and ... */
        tr_free(wanted);
        wanted = whole_forward(cases[c], tokens + 12, 8);
        CU_ASSERT(difference(logits, wanted + 7 * V) <= 1e-5);
        tr_generator_close(&generator);
        tr_free(wanted);
        tr_free(tokens);
        tr_free(targets);
    }
}

/* The golden llama with longrope, whose frequencies are others beyond 12 tokens, and for all tokens then. */
static char *longrope_model(void)
{
    char directory[] = "/tmp/troupe-test-XXXXXX", path[80], from[PATH_MAX];
    TR_ASSERT(mkdtemp(directory));
    json_t *config = json_load_file("test/golden/llama/config.json", 0, NULL);
    json_object_del(config, "rope_parameters");
    json_object_set_new(config, "rope_scaling",
                        json_pack("{s:s, s:i, s:[f,f,f,f,f,f], s:[f,f,f,f,f,f]}", "rope_type", "longrope",
                                  "original_max_position_embeddings", 12, "short_factor", 1.0, 1.0, 1.1, 1.2,
                                  1.3, 1.4, "long_factor", 1.0, 1.5, 2.0, 3.0, 4.0, 5.0));
    snprintf(path, sizeof path, "%s/config.json", directory);
    TR_ASSERT(json_dump_file(config, path, 0) == 0);
    json_decref(config);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    TR_ASSERT(realpath("test/golden/llama/model.safetensors", from) && symlink(from, path) == 0);
    return tr_strdup(directory);
}

static void caches_are_read_again_where_a_sequence_gets_other_frequencies(void)
{
    char *directory = longrope_model();
    int32_t *tokens, *targets;
    tr_generator *generator;
    const float *logits;
    golden_rows(cases[1], 1, &tokens, &targets);
    MUST(tr_generator_open(&generator, directory, 24, 1, err));
    for (int again = 0; again < 2; again++) { /* from long back to short, too */
        float *short_ones = whole_forward(directory, tokens, 12),
              *long_ones = whole_forward(directory, tokens, 20);
        tr_generator_reset(generator);
        MUST(tr_generator_read(generator, tokens, 12, &logits, err));
        CU_ASSERT(difference(logits, short_ones + 11 * V) <= 1e-5);
        MUST(tr_generator_read(generator, tokens + 12, 1, &logits, err));
        CU_ASSERT(difference(logits, long_ones + 12 * V) <= 1e-5);
        MUST(tr_generator_read(generator, tokens + 13, 7, &logits, err));
        CU_ASSERT(difference(logits, long_ones + 19 * V) <= 1e-5);
        CU_ASSERT(difference(short_ones + 11 * V, long_ones + 11 * V) > 1e-3); /* it matters */
        tr_free(short_ones);
        tr_free(long_ones);
    }
    MUST(tr_generator_read(generator, tokens + 20, 5, &logits, err)); /* full at 24: 12..23 stay, then 24 */
    float *wanted = whole_forward(directory, tokens + 12, 13);
    CU_ASSERT(difference(logits, wanted + 12 * V) <= 1e-5);
    tr_free(wanted);
    tr_generator_close(&generator);
    tr_directory_remove_tree(directory, NULL);
    tr_free(directory);
    tr_free(tokens);
    tr_free(targets);
}

typedef struct text {
    int32_t tokens[64];
    int n, stop_at;
} text;

static bool append(void *context, int32_t token)
{
    text *t = context;
    t->tokens[t->n++] = token;
    return t->n != t->stop_at;
}

static text generate(tr_generator *generator, double temperature, uint64_t seed, int n_new, int stop_at)
{
    static const int32_t prompt[] = {70, 105, 114, 115, 116};
    tr_sampling_options options = {.temperature = temperature, .top_k = 50, .top_p = 0.95, .seed = seed};
    text t = {.stop_at = stop_at};
    MUST(tr_generator_run(generator, prompt, 5, n_new, &options, append, &t, err));
    return t;
}

static void same_seed_gives_the_same_text(void)
{
    tr_generator *one, *two;
    MUST(tr_generator_open(&one, cases[1], 0, 1, err));
    MUST(tr_generator_open(&two, cases[1], 0, 2, err));
    text a = generate(one, 1.0, 7, N_NEW, 0), b = generate(two, 1.0, 7, N_NEW, 0);
    text c = generate(one, 1.0, 7, N_NEW, 0), d = generate(one, 1.0, 8, N_NEW, 0),
         e = generate(one, 1.0, 7, N_NEW, 9);
    CU_ASSERT_EQUAL(a.n, N_NEW);
    CU_ASSERT(memcmp(&a, &b, sizeof a) == 0);
    CU_ASSERT(memcmp(&a, &c, sizeof a) == 0);
    CU_ASSERT(memcmp(&a, &d, sizeof a) != 0);
    CU_ASSERT(e.n == 9 && memcmp(a.tokens, e.tokens, 9 * sizeof *e.tokens) == 0);
    tr_generator_close(&one);
    tr_generator_close(&two);
}

static void temperature_zero_takes_the_likeliest_token(void)
{
    for (int c = 0; c < N_CASES; c++) {
        tr_generator *generator;
        int32_t tokens[5 + 12] = {70, 105, 114, 115, 116};
        MUST(tr_generator_open(&generator, cases[c], 0, 1, err));
        text t = generate(generator, 0.0, 1, 12, 0);
        memcpy(tokens + 5, t.tokens, 12 * sizeof *tokens);
        float *logits = whole_forward(cases[c], tokens, 16);
        for (int i = 0; i < 12; i++) {
            const float *row = logits + (4 + i) * V;
            int best = 0;
            for (int v = 1; v < V; v++)
                if (row[v] > row[best]) best = v;
            CU_ASSERT_EQUAL(t.tokens[i], best);
        }
        tr_free(logits);
        tr_generator_close(&generator);
    }
}

static void tokens_outside_the_vocabulary_are_refused(void)
{
    static const int32_t bad[] = {1, 320}, negative[] = {-1};
    tr_generator *generator;
    const float *logits;
    tr_error error = {0};
    MUST(tr_generator_open(&generator, cases[0], 0, 1, err));
    CU_ASSERT_EQUAL(tr_generator_read(generator, bad, 2, &logits, &error), TR_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.message, "'320'"));
    CU_ASSERT_EQUAL(tr_generator_read(generator, negative, 1, &logits, &error), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_generator_read(generator, bad, 0, &logits, &error), TR_EINVAL);
    tr_generator_close(&generator);
}

/* -log softmax(logits)[target] */
static double loss_of(const float *logits, int32_t target)
{
    double largest = (double)logits[0], sum = 0.0;
    for (int v = 1; v < V; v++) largest = fmax(largest, (double)logits[v]);
    for (int v = 0; v < V; v++) sum += exp((double)logits[v] - largest);
    return log(sum) + largest - (double)logits[target];
}

enum { TEXT_BYTES = 301, WINDOW = 24 };

/* 300 predictions in windows of 24: 12 whole ones and half of one. */
static void evaluation_is_the_mean_loss_of_every_byte_but_the_first(void)
{
    char directory[] = "/tmp/troupe-text-XXXXXX", path[64], bytes[TEXT_BYTES];
    for (int i = 0; i < TEXT_BYTES; i++) bytes[i] = (char)('a' + i * i % 23);
    TR_ASSERT(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/text", directory);
    const size_t n_bytes = CHECK_SIZE(TEXT_BYTES, 2 * WINDOW);
    MUST(tr_file_write(path, bytes, n_bytes, err));
    for (int c = 0; c < N_CASES; c++) {
        tr_evaluation one, two;
        double sum = 0.0;
        MUST(tr_evaluate(&one, cases[c], path, WINDOW, 1, NULL, NULL, err));
        MUST(tr_evaluate(&two, cases[c], path, WINDOW, CHECK_SIZE(2, 1), NULL, NULL, err));
        CU_ASSERT_EQUAL(one.tokens, (int)n_bytes - 1);
        CU_ASSERT(memcmp(&one.loss, &two.loss, sizeof one.loss) == 0);
        for (int first = 0, end = (int)n_bytes - 1; first < end; first += WINDOW) {
            int32_t tokens[WINDOW], n = 0;
            for (; n < WINDOW && first + n < end; n++) tokens[n] = (unsigned char)bytes[first + n];
            float *logits = whole_forward(cases[c], tokens, n);
            for (int t = 0; t < n; t++) sum += loss_of(logits + t * V, bytes[first + t + 1]);
            tr_free(logits);
        }
        CU_ASSERT_DOUBLE_EQUAL(one.loss, sum / (double)(n_bytes - 1), 1e-5);
    }
    tr_directory_remove_tree(directory, NULL);
}

static void lack_of_memory_is_an_error(void)
{
    tr_status status = TR_ENOMEM;
    for (uint64_t n = 1; status != TR_OK; n += 1 + n / 16) {
        tr_generator *generator;
        tr_error error = {0};
        n += CHECK_SIZE(0, n / 3);
        tr_memory_fail_after(n);
        status = tr_generator_open(&generator, cases[1], 0, 1, &error);
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK || (status == TR_ENOMEM && error.message[0]));
        if (status == TR_OK) tr_generator_close(&generator);
    }
}

/* The failed read has read nothing; the next goes on as if it had not been. */
static void lack_of_memory_for_other_frequencies_leaves_a_generator_that_works(void)
{
    char *directory = longrope_model();
    int32_t *tokens, *targets;
    tr_generator *generator;
    const float *logits;
    golden_rows(cases[1], 1, &tokens, &targets);
    float *wanted = whole_forward(directory, tokens, 13);
    tr_status status = TR_ENOMEM;
    MUST(tr_generator_open(&generator, directory, 0, 1, err));
    MUST(tr_generator_read(generator, tokens, 12, &logits, err));
    for (uint64_t n = 1; status != TR_OK; n += 1 + n / 16) {
        tr_error error = {0};
        n += CHECK_SIZE(0, n / 3);
        tr_memory_fail_after(n);
        status = tr_generator_read(generator, tokens + 12, 1, &logits, &error);
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK || (status == TR_ENOMEM && error.message[0]));
        if (n == 1) CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
    CU_ASSERT(difference(logits, wanted + 12 * V) <= 1e-5);
    tr_generator_close(&generator);
    tr_directory_remove_tree(directory, NULL);
    tr_free(directory);
    tr_free(wanted);
    tr_free(tokens);
    tr_free(targets);
}

static const check_test tests[] = {
    CHECK_TEST(caches_give_the_logits_of_the_whole_sequence),
    CHECK_TEST(full_cache_starts_again_with_its_last_half),
    CHECK_TEST(caches_are_read_again_where_a_sequence_gets_other_frequencies),
    CHECK_TEST(same_seed_gives_the_same_text),
    CHECK_TEST(temperature_zero_takes_the_likeliest_token),
    CHECK_TEST(tokens_outside_the_vocabulary_are_refused),
    CHECK_TEST(lack_of_memory_is_an_error),
    CHECK_TEST(lack_of_memory_for_other_frequencies_leaves_a_generator_that_works),
    CHECK_TEST(evaluation_is_the_mean_loss_of_every_byte_but_the_first),
};

CHECK_MAIN("pipelines/generate", tests)
