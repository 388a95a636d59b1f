/* test/pipelines/data_test.c - which row comes when, and that every held-out token is predicted once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/data.h"

#include "check.h"
#include "pipelines/files.h"
#include "pipelines/safetensors.h"

static tr_error err;
static char *directory;

enum { T = 5 };

/* A recipe over `data` with sequence 5, micro-batches of 2 rows, 3 a step. */
static tr_status open_data(tr_data **out, const char *data, int32_t vocabulary)
{
    char *text = tr_format(
        "run: r\nmodel: {hf: m}\ndata: %s\ntrain: {steps: 9, sequence: 5, microbatch: 2, accumulate: 3}\n"
        "lr: {peak: 1}\n",
        data);
    tr_recipe recipe;
    err = (tr_error){0};
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", NULL, 0, &err));
    tr_status status = tr_data_open(out, &recipe, vocabulary, &err);
    tr_recipe_release(&recipe);
    tr_free(text);
    return status;
}

/* A text whose byte i is i modulo 251, so that a byte tells its place. */
static tr_status open_text(tr_data **out, size_t n, const char *holdout)
{
    char *path = path_in(directory, "text"), *bytes = tr_alloc(n + 1);
    for (size_t i = 0; i < n; i++) bytes[i] = (char)(i % 251);
    CHECK_OK(tr_file_write(path, bytes, n, &err));
    char *data = tr_format("{text: %s, holdout: %s}", path, holdout);
    tr_status status = open_data(out, data, 256);
    tr_free(bytes);
    tr_free(path);
    tr_free(data);
    return status;
}

/* (rows, 6) ids: row r holds 10 r + 0 .. 5. */
static tr_status open_rows(tr_data **out, int64_t rows, tr_dtype dtype, const char *more, int32_t vocabulary)
{
    char *path = path_in(directory, "rows.safetensors");
    tr_safetensors_writer *writer = NULL;
    tr_shape shape = TR_SHAPE2(rows, T + 1);
    CHECK_OK(tr_safetensors_writer_new(&writer, path, &err));
    CHECK_OK(tr_safetensors_writer_declare(writer, "ids", dtype, &shape, &err));
    CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
    for (int64_t i = 0; i < rows * (T + 1); i++) {
        int64_t wide = i / (T + 1) * 10 + i % (T + 1);
        int32_t narrow = (int32_t)wide;
        size_t size = dtype == TR_I64 ? 8 : 4;
        const void *from = dtype == TR_I64 ? (const void *)&wide : &narrow;
        CHECK_OK(tr_safetensors_writer_put(writer, 0, (uint64_t)i * size, from, size, &err));
    }
    CHECK_OK(tr_safetensors_writer_commit(&writer, &err));
    char *data = tr_format("{tokens: %s%s}", path, more);
    tr_status status = open_data(out, data, vocabulary);
    tr_free(path);
    tr_free(data);
    return status;
}

static void rows_of_text_stay_in_the_training_part(void)
{
    tr_data *data = NULL;
    CHECK_OK(open_text(&data, 200, "0.25"));
    CU_ASSERT(tr_data_training_tokens(data) == 150 && tr_data_heldout_tokens(data) == 50);
    int32_t tokens[T], targets[T];
    bool first = false, last = false;
    for (uint32_t step = 0; step < 3000; step++) {
        tr_data_fill_training(data, step, step % 3, step % 2, tokens, targets);
        for (int i = 0; i < T; i++) CU_ASSERT(tokens[i] == tokens[0] + i && targets[i] == tokens[0] + i + 1);
        CU_ASSERT(tokens[0] >= 0 && targets[T - 1] < 150);
        first = first || tokens[0] == 0;
        last = last || targets[T - 1] == 149;
    }
    CU_ASSERT(first && last); /* both ends are reached */
    tr_data_close(&data);
}

static void a_row_depends_on_seed_step_microbatch_and_index_alone(void)
{
    tr_data *a = NULL, *b = NULL;
    CHECK_OK(open_text(&a, 240, "0"));
    CHECK_OK(open_text(&b, 240, "0"));
    int32_t tokens[T], again[T], targets[T];
    int same = 0;
    for (uint32_t k = 0; k < 18; k++)
        tr_data_fill_training(b, k, 0, 0, again, targets); /* what was asked before */
    for (uint32_t k = 0; k < 18; k++) {
        tr_data_fill_training(a, 7, k % 3, k % 2, tokens, targets);
        tr_data_fill_training(b, 7, k % 3, k % 2, again, targets);
        CU_ASSERT(memcmp(tokens, again, sizeof tokens) == 0);
        tr_data_fill_training(b, 8, k % 3, k % 2, again, targets);
        same += memcmp(tokens, again, sizeof tokens) == 0;
        tr_data_fill_training(b, 7, (k + 1) % 3, k % 2, again, targets);
        same += memcmp(tokens, again, sizeof tokens) == 0;
        tr_data_fill_training(b, 7, k % 3, (k + 1) % 2, again, targets);
        same += memcmp(tokens, again, sizeof tokens) == 0;
    }
    CU_ASSERT(same <= 9); /* by chance only */
    tr_data_close(&a);
    tr_data_close(&b);
}

/* Counts how often each held-out byte is predicted, for every length of the held-out part. */
static void every_heldout_byte_but_the_first_is_predicted_once(void)
{
    for (size_t n = 14; n < 60; n++) {
        tr_data *data = NULL;
        CHECK_OK(open_text(&data, n, "0.5"));
        int64_t cut = tr_data_training_tokens(data), count = tr_data_validation_count(data), total = 0;
        int predicted[64] = {0};
        CU_ASSERT_EQUAL(cut, (int64_t)n / 2);
        for (int64_t w = 0; w < count; w++) {
            int32_t tokens[T], targets[T], counted = 0;
            tr_data_fill_validation(data, w, tokens, targets);
            for (int i = 0; i < T; i++) {
                if (targets[i] < 0) continue;
                predicted[targets[i]]++;
                counted++;
                CU_ASSERT_EQUAL(targets[i], tokens[i] + 1);
            }
            CU_ASSERT(counted > 0 && counted == tr_data_validation_targets(data, w));
            total += counted;
        }
        for (size_t i = 0; i < n; i++) CU_ASSERT_EQUAL(predicted[i], (int64_t)i > cut);
        CU_ASSERT_EQUAL(total, tr_data_heldout_tokens(data) - 1);
        tr_data_close(&data);
    }
}

static void a_few_windows_are_spread_evenly_and_whole(void)
{
    tr_data *data = NULL;
    CHECK_OK(open_text(&data, 240, "0.5")); /* 119 predictions: 23 whole windows and one of 4 */
    int64_t windows[64];
    CU_ASSERT_EQUAL(tr_data_validation_count(data), 24);
    CU_ASSERT_EQUAL(tr_data_validation_windows(data, 4, windows), 4);
    CU_ASSERT(windows[0] == 0 && windows[1] == 5 && windows[2] == 11 && windows[3] == 17);
    CU_ASSERT_EQUAL(tr_data_validation_windows(data, 23, windows), 23);
    CU_ASSERT_EQUAL(windows[22], 22);
    CU_ASSERT_EQUAL(tr_data_validation_windows(data, 64, windows), 24);
    CU_ASSERT_EQUAL(windows[23], 23);
    CU_ASSERT_EQUAL(tr_data_validation_windows(data, 0, windows), 0);
    tr_data_close(&data);
    CHECK_OK(open_text(&data, 240, "0"));
    CU_ASSERT(tr_data_validation_count(data) == 0 && tr_data_validation_windows(data, 4, windows) == 0);
    tr_data_close(&data);
}

static void rows_of_ids_come_in_order_and_wrap(void)
{
    static const tr_dtype dtypes[] = {TR_I32, TR_I64};
    for (int k = 0; k < 2; k++) {
        tr_data *data = NULL;
        CHECK_OK(open_rows(&data, 7, dtypes[k], ", key: ids", 66));
        CU_ASSERT(tr_data_validation_count(data) == 0 && tr_data_training_tokens(data) == 42);
        int32_t tokens[T], targets[T];
        for (uint32_t row = 0; row < 40; row++) {
            tr_data_fill_training(data, row / 6, row / 2 % 3, row % 2, tokens, targets);
            for (int i = 0; i < T; i++)
                CU_ASSERT(tokens[i] == (int32_t)(row % 7) * 10 + i && targets[i] == tokens[i] + 1);
        }
        tr_data_close(&data);
    }
}

static void the_last_rows_are_held_out(void)
{
    tr_data *data = NULL;
    CHECK_OK(open_rows(&data, 7, TR_I32, ", key: ids, holdout: 0.3", 66));
    CU_ASSERT(tr_data_validation_count(data) == 3 && tr_data_training_tokens(data) == 24);
    int32_t tokens[T], targets[T];
    tr_data_fill_validation(data, 0, tokens, targets);
    CU_ASSERT(tokens[0] == 40 && targets[T - 1] == 45 && tr_data_validation_targets(data, 2) == T);
    tr_data_fill_training(data, 0, 2, 0, tokens, targets); /* row 4 of 4 */
    CU_ASSERT_EQUAL(tokens[0], 0);
    tr_data_close(&data);
}

static void what_cannot_be_trained_on_is_refused(void)
{
    tr_data *data = NULL;
    CU_ASSERT_EQUAL(open_rows(&data, 7, TR_I32, ", key: ids", 65), TR_EINVAL);
    CU_ASSERT(message_has(&err, "'65' in row 6, column 5 is outside the model's vocabulary of 65"));
    CU_ASSERT_EQUAL(open_rows(&data, 7, TR_I32, "", 66), TR_ENOTFOUND);
    CU_ASSERT(message_has(&err, "there is no tensor 'tokens'; see data.key"));
    CU_ASSERT_EQUAL(open_rows(&data, 7, TR_F32, ", key: ids", 66), TR_EINVAL);
    CU_ASSERT(message_has(&err, "holds F32; token ids must be I32 or I64"));
    CU_ASSERT_EQUAL(open_rows(&data, 0, TR_I32, ", key: ids", 66), TR_EINVAL);
    CU_ASSERT(message_has(&err, "has the shape (0, 6); it must be (rows, 6)"));
    CU_ASSERT_EQUAL(open_rows(&data, 1, TR_I32, ", key: ids, holdout: 0.1", 66), TR_EINVAL);
    CU_ASSERT(message_has(&err, "leaves none of 1 rows"));
    CU_ASSERT_EQUAL(open_text(&data, 5, "0"), TR_EINVAL);
    CU_ASSERT(message_has(&err, "5 bytes to train on are fewer than one row of 6"));
    CU_ASSERT_EQUAL(open_text(&data, 0, "0"), TR_EINVAL);
    CU_ASSERT_EQUAL(open_text(&data, 100, "0.01"), TR_EINVAL);
    CU_ASSERT(message_has(&err, "too few to predict one"));
    CU_ASSERT_EQUAL(open_data(&data, "{text: /nonexistent/x}", 256), TR_ENOTFOUND);
    CU_ASSERT_PTR_NULL(data);
    CHECK_OK(open_text(&data, 6, "0")); /* the shortest that can */
    tr_data_close(&data);
}

static void a_text_alone_is_all_held_out(void)
{
    tr_data *data = NULL;
    char *path = path_in(directory, "text");
    CHECK_OK(tr_file_write(path, "abcdefg", 7, &err));
    CHECK_OK(tr_data_open_text(&data, path, T, 256, &err));
    CU_ASSERT(tr_data_validation_count(data) == 2 && tr_data_heldout_tokens(data) == 7);
    int32_t tokens[T], targets[T];
    tr_data_fill_validation(data, 1, tokens, targets);
    CU_ASSERT(tokens[0] == 'f' && targets[0] == 'g' && targets[1] == -1 && tokens[1] == 0);
    tr_data_close(&data);
    CU_ASSERT_EQUAL(tr_data_open_text(&data, path, T, 'g', &err), TR_EINVAL);
    CU_ASSERT(message_has(&err, "byte 6 is 103, outside the model's vocabulary of 103"));
    tr_free(path);
}

static void golden_rows_are_read(void)
{
    tr_recipe recipe;
    static const char text[] =
        "run: r\nmodel: {hf: test/golden/gpt2}\n"
        "data: {tokens: test/golden/gpt2/golden.safetensors}\n"
        "train: {steps: 30, sequence: 32, microbatch: 4, accumulate: 2}\nlr: {peak: 1e-3}\n";
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", NULL, 0, &err));
    tr_data *data = NULL;
    CHECK_OK(tr_data_open(&data, &recipe, 320, &err));
    CU_ASSERT_EQUAL(tr_data_training_tokens(data) % 33, 0);
    tr_data_close(&data);
    tr_recipe_release(&recipe);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(rows_of_text_stay_in_the_training_part),
        CHECK_TEST(a_row_depends_on_seed_step_microbatch_and_index_alone),
        CHECK_TEST(every_heldout_byte_but_the_first_is_predicted_once),
        CHECK_TEST(a_few_windows_are_spread_evenly_and_whole),
        CHECK_TEST(rows_of_ids_come_in_order_and_wrap),
        CHECK_TEST(the_last_rows_are_held_out),
        CHECK_TEST(what_cannot_be_trained_on_is_refused),
        CHECK_TEST(a_text_alone_is_all_held_out),
        CHECK_TEST(golden_rows_are_read),
    };
    directory = enter_directory();
    int failed = check_run("data", tests, sizeof tests / sizeof *tests);
    leave_directory(directory);
    return failed;
}
