/* test/pipelines/dropout_train_test.c - training with dropout: what its masks depend on, that evaluation has none, and
 * that a GPT-2 with transformers' rates learns.
 * Rows are all the same one and weights come from a file, so that two losses at a rate of learning of 0 differ by
 * masks alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"
#include "pipelines/safetensors.h"

#include <math.h>

enum { ROWS = 24, SEQUENCE = 32, STEPS = 3, LONG_STEPS = 40 };

static char *directory, *recipe;

static void set_up(void)
{
    static int32_t ids[ROWS * (SEQUENCE + 1)];
    for (int i = 0; i < ROWS * (SEQUENCE + 1); i++) ids[i] = i % (SEQUENCE + 1) * 7 % 40;
    directory = enter_directory();
    recipe = path_in(directory, "recipe.yaml");
    char *tokens = path_in(directory, "rows.safetensors");
    tr_error err;
    tr_safetensors_writer *writer = NULL;
    tr_shape shape = {.rank = 2, .dims = {ROWS, SEQUENCE + 1}};
    CHECK_OK(tr_safetensors_writer_new(&writer, tokens, &err));
    CHECK_OK(tr_safetensors_writer_declare(writer, "tokens", TR_I32, &shape, &err));
    CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
    CHECK_OK(tr_safetensors_writer_put(writer, 0, 0, ids, sizeof ids, &err));
    CHECK_OK(tr_safetensors_writer_commit(&writer, &err));
    char *yaml = tr_format("run: unused\n"
                           "model: {hf: test/golden/gpt2}\n"
                           "data: {tokens: %s, holdout: 0.25}\n"
                           "train: {steps: %d, sequence: %d, microbatch: 1}\n"
                           "lr: {peak: 0}\n"
                           "layout: {processes: false}\n",
                           tokens, STEPS, SEQUENCE);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(tokens);
}

static void tear_down(void)
{
    tr_free(recipe);
    leave_directory(directory);
}

/* The log of a training with two or three (else NULL) overrides. */
static json_t *log_of_three(const char *name, const char *first, const char *second, const char *third)
{
    char *run = path_in(directory, name), *key = tr_format("run=%s", run);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, key, first, second, third, NULL}));
    json_t *log = log_of(run);
    CU_ASSERT_FATAL(json_array_size(log) > 0);
    tr_free(key);
    tr_free(run);
    return log;
}

static json_t *log_with(const char *name, const char *first, const char *second)
{
    return log_of_three(name, first, second, NULL);
}

static double number_of(const json_t *log, size_t step, const char *key)
{
    return json_number_value(json_object_get(json_array_get(log, step - 1), key));
}

static void masks_depend_on_seed_step_and_microbatch(void)
{
    json_t *plain = log_with("plain", "model.dropout=0", "train.seed=1"),
           *dropped = log_with("dropped", "model.dropout=0.1", "train.seed=1"),
           *again = log_with("again", "model.dropout=0.1", "train.seed=1"),
           *seeded = log_with("seeded", "model.dropout=0.1", "train.seed=2"),
           *twice = log_with("twice", "model.dropout=0.1", "train.accumulate=2"),
           *plain_twice = log_with("plain_twice", "model.dropout=0", "train.accumulate=2");
    double loss = number_of(plain, 1, "loss"), first = number_of(dropped, 1, "loss");
    CU_ASSERT(loss > 1);
    CU_ASSERT(number_of(plain, 2, "loss") == loss && number_of(plain_twice, 1, "loss") == loss);
    CU_ASSERT(logs_agree(dropped, again));
    CU_ASSERT(first != loss);
    CU_ASSERT(number_of(dropped, 2, "loss") != first);
    CU_ASSERT(number_of(dropped, 3, "loss") != number_of(dropped, 2, "loss"));
    CU_ASSERT(number_of(seeded, 1, "loss") != first);
    CU_ASSERT(number_of(twice, 1, "loss") != first);
    json_t *logs[] = {plain, dropped, again, seeded, twice, plain_twice};
    for (size_t i = 0; i < sizeof logs / sizeof *logs; i++) json_decref(logs[i]);
}

/* Nothing is learnt, so it is the same each time; and the loss without dropout, the held-out rows being those that are
 * trained on (sums of more rows are rounded otherwise). */
static void evaluation_drops_nothing(void)
{
    json_t *plain = log_with("e0", "model.dropout=0", "validate.every=1"),
           *dropped = log_with("e5", "model.dropout=0.5", "validate.every=1"),
           *stages = log_with("e5x2", "model.dropout=0.5", "layout.pipeline=2");
    double loss = number_of(plain, 1, "loss"), held_out = number_of(plain, 1, "validation_loss");
    CU_ASSERT_DOUBLE_EQUAL(held_out, loss, 1e-12);
    for (size_t step = 1; step <= STEPS; step++) {
        CU_ASSERT(number_of(dropped, step, "validation_loss") == held_out);
        CU_ASSERT(fabs(number_of(dropped, step, "loss") - loss) > 1e-3);
    }
    CU_ASSERT(number_of(stages, STEPS, "validation_loss") == held_out);
    json_decref(plain);
    json_decref(dropped);
    json_decref(stages);
}

/* Where one thing alone is dropped, something is. */
static void each_rate_of_a_gpt2_counts(void)
{
    static const char *const keys[] = {"attn_pdrop", "embd_pdrop", "resid_pdrop"};
    json_t *plain = log_with("k0", "model.dropout=0", "train.seed=1");
    double losses[3];
    for (int k = 0; k < 3; k++) {
        char *model = tr_format("%s/%s", directory, keys[k]), *config = path_in(model, "config.json"),
             *weights = path_in(model, "model.safetensors"), *hf = tr_format("model.hf=%s", model),
             *name = tr_format("run-%d", k), *text = NULL;
        size_t size = 0;
        tr_error err;
        CHECK_OK(tr_directory_make(model, &err));
        json_t *json = json_load_file("test/golden/gpt2/config.json", 0, NULL);
        json_object_set_new(json, keys[k], json_real(0.1));
        CU_ASSERT(json_dump_file(json, config, 0) == 0);
        json_decref(json);
        CHECK_OK(tr_file_read("test/golden/gpt2/model.safetensors", &text, &size, &err));
        CHECK_OK(tr_file_write(weights, text, size, &err));
        json_t *log = log_with(name, hf, "train.seed=1");
        losses[k] = number_of(log, 1, "loss");
        CU_ASSERT(losses[k] != number_of(plain, 1, "loss"));
        for (int i = 0; i < k; i++) CU_ASSERT(losses[k] != losses[i]);
        json_decref(log);
        tr_free(text);
        tr_free(name);
        tr_free(hf);
        tr_free(weights);
        tr_free(config);
        tr_free(model);
    }
    json_decref(plain);
}

static void a_gpt2_learns_with_the_rates_of_transformers(void)
{
    json_t *log = log_of_three("learns", "train={steps: 40, accumulate: 4}", "lr={peak: 3e-3, warmup: 5}",
                               "model.dropout=0.1");
    CU_ASSERT(log_is_complete(log, LONG_STEPS));
    double first = number_of(log, 1, "loss"), last = number_of(log, LONG_STEPS, "loss"),
           held_out = number_of(log, LONG_STEPS, "validation_loss");
    printf("\n    from %.3f to %.3f, held out %.3f ", first, last, held_out);
    CU_ASSERT(last < first / 4);
    CU_ASSERT(held_out < last); /* of the same row, with nothing dropped */
    json_decref(log);
}

static const check_test tests[] = {
    CHECK_TEST(set_up),
    CHECK_TEST(masks_depend_on_seed_step_and_microbatch),
    CHECK_TEST(evaluation_drops_nothing),
    CHECK_TEST(each_rate_of_a_gpt2_counts),
    CHECK_TEST(a_gpt2_learns_with_the_rates_of_transformers),
    CHECK_TEST(tear_down),
};

CHECK_MAIN("pipelines/dropout_train", tests)
