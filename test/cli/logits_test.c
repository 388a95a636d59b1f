/* test/cli/logits_test.c - `layout.logits`: the plan tells how many logits exist at a time, and layouts and deaths change no bit of
 * a run whose logits exist by chunks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

enum { STEPS = 6 };

static char *directory, *recipe;

static void write_recipe(void)
{
    char *text = path_in(directory, "words.txt");
    recipe = path_in(directory, "recipe.yaml");
    write_words(text, 4000);
    char *yaml = tr_format("run: unused\nmodel: {layers: 2, width: 16, heads: 2}\ndata: {text: %s}\n"
                           "train: {steps: %d, sequence: 8, microbatch: 2, accumulate: 4}\nlr: {peak: 1e-2}\n"
                           "validate: {every: 2, windows: 3}\ncheckpoint: {every: 6}\n",
                           text, STEPS);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
}

static char *train(const char *name, const char *layout, const char *more)
{
    char *run = path_in(directory, name), *run_key = tr_format("run=%s", run);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, run_key, layout, more, NULL}));
    tr_free(run_key);
    return run;
}

static bool same_run(const char *reference, const char *run)
{
    json_t *left = log_of(reference), *right = log_of(run);
    bool same = log_is_complete(left, STEPS) && log_is_complete(right, STEPS) && logs_agree(left, right) &&
                checkpoints_agree(reference, run, STEPS, "model.safetensors") &&
                checkpoints_agree(reference, run, STEPS, "trainer/optimizer.safetensors");
    json_decref(left);
    json_decref(right);
    return same;
}

/* 5, 5, 5 and 1 of a micro-batch's 16 tokens. */
static void layouts_and_deaths_change_no_bit(void)
{
    char *alone = train("1x1", "layout={logits: 5, processes: false}", NULL);
    char *killed = train("killed", "layout={logits: 5, data: 2, pipeline: 2}",
                         "chaos.at=1/stage 1 of replica 1/backward/3/KILL");
    char *again = train("again", "layout={logits: 5, pipeline: 2, recompute: full}",
                        "chaos.at=1/stage 1 of replica 0/forward/2/KILL");
    CU_ASSERT(same_run(alone, killed));
    CU_ASSERT(same_run(alone, again));
    tr_free(again);
    tr_free(killed);
    tr_free(alone);
}

/* Held-out losses come from forwards alone: those of the first steps agree with the whole to some roundings. */
static void losses_are_those_of_the_whole(void)
{
    char *chunks = path_in(directory, "1x1"), *whole = train("whole", "layout={processes: false}", NULL);
    json_t *left = log_of(chunks), *right = log_of(whole);
    CU_ASSERT_FATAL(log_is_complete(left, STEPS) && log_is_complete(right, STEPS));
    int n_held_out = 0;
    for (size_t i = 0; i < STEPS; i++) {
        static const char *const keys[] = {"loss", "grad_norm", "validation_loss"};
        for (int k = 0; k < 3; k++) {
            const json_t *a = json_object_get(json_array_get(left, i), keys[k]),
                         *b = json_object_get(json_array_get(right, i), keys[k]);
            n_held_out += k == 2 && json_is_real(a);
            CU_ASSERT((k < 2 || !b) || json_is_real(a));
            CU_ASSERT(!json_is_real(a) || json_real_value(a) > 0);
            if (json_is_real(a)) CU_ASSERT_DOUBLE_EQUAL(json_real_value(a), json_real_value(b), 1e-4);
        }
    }
    CU_ASSERT(n_held_out > 0);
    json_decref(left);
    json_decref(right);
    tr_free(whole);
    tr_free(chunks);
}

static void expect_plan(const char *key, const char *other_key, const char *words)
{
    command_run command;
    command_start(&command, (const char *const[]){"plan", recipe, key, other_key, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    if (!text_has(command.out_text, words)) fprintf(stderr, "%s: not told: %s\n", key, words);
    CU_ASSERT(text_has(command.out_text, words));
    command_release(&command);
}

static void the_plan_tells_how_many_exist_at_a_time(void)
{
    expect_plan("layout.logits=0", NULL, "logits: of all 16 tokens of a micro-batch");
    expect_plan("layout.logits=16", NULL, "logits: of all 16 tokens of a micro-batch");
    expect_plan("layout.logits=5", NULL, "logits: of 5 of 16 tokens at a time");
    expect_plan("model={layers: 2, width: 16, heads: 2, vocabulary: 50304}",
                "train={steps: 1, sequence: 512, microbatch: 32}",
                "logits: of 2048 of 16384 tokens at a time, 393.0 MiB instead of 3144.0");
}

int main(void)
{
    directory = enter_directory();
    write_recipe();
    static const check_test tests[] = {
        CHECK_TEST(layouts_and_deaths_change_no_bit),
        CHECK_TEST(losses_are_those_of_the_whole),
        CHECK_TEST(the_plan_tells_how_many_exist_at_a_time),
    };
    int result = check_run("cli/logits", tests, sizeof tests / sizeof *tests);
    tr_free(recipe);
    leave_directory(directory);
    return result;
}
