/* test/cli/sample_test.c - `troupe sample` and `troupe eval` on what `troupe train` left: samples depend on their seed
 * alone, and the loss that eval prints is the one that training found on the same bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

#include <math.h>

enum { TEXT_BYTES = 8000, HELDOUT_BYTES = 2000, SEQUENCE = 48, STEPS = 40 };

static char *directory, *run, *checkpoint, *heldout; /* of all tests */

static void set_up(void)
{
    directory = enter_directory();
    run = path_in(directory, "run");
    checkpoint = path_in(run, "checkpoints/step-40");
    heldout = path_in(directory, "heldout.txt");
    char *text = path_in(directory, "words.txt"), *recipe = path_in(directory, "recipe.yaml"), *bytes = NULL;
    size_t size = 0;
    tr_error err;
    write_words(text, TEXT_BYTES);
    CHECK_OK(tr_file_read(text, &bytes, &size, &err));
    CU_ASSERT_FATAL(size == TEXT_BYTES);
    CHECK_OK(tr_file_write(heldout, bytes + TEXT_BYTES - HELDOUT_BYTES, HELDOUT_BYTES, &err));
    char *yaml =
        tr_format("run: %s\n"
                  "model: {family: llama, layers: 2, width: 48, heads: 4, kv_heads: 2, vocabulary: 256}\n"
                  "data: {text: %s, holdout: 0.25}\n"
                  "train: {steps: %d, sequence: %d, microbatch: 2, accumulate: 4}\n"
                  "lr: {peak: 1e-2, warmup: 5}\n"
                  "layout: {data: 2, pipeline: 1}\n"
                  "validate: {every: 20, windows: 4}\n",
                  run, text, STEPS, SEQUENCE);
    write_text(recipe, yaml);
    CU_ASSERT_FATAL(command_succeeds((const char *const[]){"train", recipe, NULL}));
    tr_free(yaml);
    tr_free(bytes);
    tr_free(recipe);
    tr_free(text);
}

static void tear_down(void)
{
    tr_free(heldout);
    tr_free(checkpoint);
    tr_free(run);
    leave_directory(directory);
}

/* What it wrote; the caller's to release. */
static command_run sample(const char *prompt, const char *temperature, const char *seed, const char *threads)
{
    command_run command;
    command_start(&command, (const char *const[]){"sample", checkpoint, "--prompt", prompt, "--tokens", "60",
                                                  "--temperature", temperature, "--seed", seed, "--threads",
                                                  threads, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    return command;
}

static bool says_the_same(const command_run *a, const command_run *b)
{
    return a->out_size == b->out_size && memcmp(a->out_text, b->out_text, a->out_size) == 0;
}

static void likeliest_text_needs_no_seed(void)
{
    command_run one = sample("the sea ", "0", "1", "1"), other = sample("the sea ", "0", "2", "2");
    CU_ASSERT(says_the_same(&one, &other));
    CU_ASSERT(strncmp(one.out_text, "the sea ", strlen("the sea ")) == 0);
    CU_ASSERT(one.out_size == strlen("the sea ") + 60 + 1); /* the prompt, 60 bytes, the end of the line */
    CU_ASSERT_STRING_EQUAL(one.err_text, "");
    command_release(&one);
    command_release(&other);
}

static void text_follows_from_the_seed(void)
{
    command_run one = sample("and ", "1", "5", "1"), again = sample("and ", "1", "5", "2"),
                other = sample("and ", "1", "6", "1");
    CU_ASSERT(says_the_same(&one, &again));
    CU_ASSERT(!says_the_same(&one, &other));
    command_release(&one);
    command_release(&again);
    command_release(&other);
}

static double loss_of_eval(const char *threads, long long *bytes)
{
    char *sequence = tr_format("--sequence=%d", SEQUENCE);
    command_run command;
    command_start(&command,
                  (const char *const[]){"eval", checkpoint, "--text", heldout, sequence, threads, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    double loss = 0;
    CU_ASSERT(sscanf(command.out_text, "loss %lf nats a byte over %lld bytes", &loss, bytes) == 2);
    command_release(&command);
    tr_free(sequence);
    return loss;
}

static void eval_finds_the_loss_that_training_found(void)
{
    json_t *log = log_of(run);
    CU_ASSERT(log_is_complete(log, STEPS));
    const json_t *last = json_array_get(log, STEPS - 1);
    double trained = json_number_value(json_object_get(last, "validation_loss"));
    CU_ASSERT(json_is_real(json_object_get(last, "validation_loss")) && trained > 0);
    for (int threads = 1; threads <= 2; threads++) {
        long long bytes = 0;
        double loss = loss_of_eval(threads == 1 ? "--threads=1" : "--threads=2", &bytes);
        CU_ASSERT(bytes == HELDOUT_BYTES - 1);
        /* 1e-6 for batches of another shape, and half a unit of the six places printed */
        bool near = fabs(loss - trained) <= 1.5e-6;
        if (!near) fprintf(stderr, "\neval found %.6f, training %.9f\n", loss, trained);
        CU_ASSERT(near);
    }
    json_decref(log);
}

static void refused(const char *const *arguments, const char *words)
{
    command_run command;
    command_start(&command, arguments);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 2));
    CU_ASSERT(text_has(command.err_text, words));
    CU_ASSERT_STRING_EQUAL(command.out_text, "");
    command_release(&command);
}

static void what_cannot_be_read_is_refused(void)
{
    refused((const char *const[]){"sample", NULL}, "which checkpoint");
    refused((const char *const[]){"sample", directory, NULL}, "config.json");
    refused((const char *const[]){"sample", checkpoint, "--temperature", "warm", NULL}, "'warm'");
    refused((const char *const[]){"sample", checkpoint, "--prompt", NULL}, "--prompt");
    refused((const char *const[]){"sample", "test/golden/llama", NULL}, "vocabulary");
    refused((const char *const[]){"eval", checkpoint, NULL}, "--text");
    refused((const char *const[]){"eval", checkpoint, "--text", "/nowhere/text", NULL}, "/nowhere/text");
    refused((const char *const[]){"eval", "/nowhere", "--text", heldout, NULL}, "/nowhere");
}

static const check_test tests[] = {
    CHECK_TEST(set_up),
    CHECK_TEST(likeliest_text_needs_no_seed),
    CHECK_TEST(text_follows_from_the_seed),
    CHECK_TEST(eval_finds_the_loss_that_training_found),
    CHECK_TEST(what_cannot_be_read_is_refused),
    CHECK_TEST(tear_down),
};

CHECK_MAIN("cli/sample", tests)
