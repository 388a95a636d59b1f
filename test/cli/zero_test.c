/* test/cli/zero_test.c - replicas that hold a shard of the state each (layout.zero): the bits are those of replicas that hold all of
 * it, in every layout, whoever dies at any moment, from every checkpoint, and from one kind of layout to the other.
 * SPDX-License-Identifier: Apache-2.0 */
#include "recovery_run.h"

static const char *const files[] = {"model.safetensors", "trainer/optimizer.safetensors"};

/* Beside the moments at which others die: those that are of shards alone. */
static const case_ of_shards[] = {
    {"sending parameters", "1/stage 1 of replica 1/sending parameters/12/KILL", 1},
    {"gathering parameters", "1/stage 0 of replica 0/gathering parameters/13/KILL", 1},
    {"the first gathering", "1/stage 0 of replica 1/gathering parameters/0/KILL", 1},
    {"gathering behind a death",
     "1/stage 0 of replica 1/backward/12/KILL,2/stage 1 of replica 0/gathering parameters/any/KILL", 2},
    {"checkpointing of another replica", "1/stage 1 of replica 1/saving/12/KILL", 1},
};

static void a_death_at_any_moment_changes_no_bit(void)
{
    static const int which[] = {1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14};
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        more[0] = i % 2 ? "layout.zero=1" : "layout.zero=2";
        mends(&cases[which[i]], i % 3 ? "ucx" : "zmq");
    }
    memset(more, 0, sizeof more);
}

static void nor_does_one_while_shards_travel(void)
{
    for (size_t i = 0; i < sizeof of_shards / sizeof *of_shards; i++) {
        more[0] = i % 2 ? "layout.zero=2" : "layout.zero=1";
        mends(&of_shards[i], i % 2 ? "ucx" : "zmq");
    }
    more[0] = "layout.zero=1";
    more[1] = "supervision.hold_every=5"; /* and where it computes apart from what is held */
    mends(&of_shards[0], "ucx");
    mends(&of_shards[3], "zmq");
    memset(more, 0, sizeof more);
}

/* Nobody else has that shard: the newest checkpoint is what there is. */
static void a_lost_shard_comes_from_the_disk(void)
{
    comes_from_the_disk("layout.zero=1");
}

/* The next one takes the workers with their shards over. */
static void a_dead_head_is_followed(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", "");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "layout.zero=1", NULL});
    CU_ASSERT_FATAL(wait_for_steps(&command, run, 6));
    kill(command.pid, SIGKILL);
    command_wait(&command, COMMAND_SECONDS);
    command_release(&command);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "layout.zero=1", "--resume", NULL}));
    CU_ASSERT(same_run(run));
    CU_ASSERT(count_events(run, "from_disk") == 0);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* From a checkpoint of one layout each time on in another: shards or not is nothing that a checkpoint knows. */
static void a_run_goes_on_in_any_layout(void)
{
    static const char *const turns[][4] = {
        {"layout.zero=1", "layout.data=2", "layout.pipeline=1", "train.steps=8"},
        {"layout.zero=0", "layout.data=1", "layout.pipeline=2", "train.steps=12"},
        {"layout.zero=2", "layout.data=4", "layout.pipeline=1", "train.steps=16"},
        {"layout.zero=1", "layout.data=3", "layout.pipeline=2", "train.steps=20"},
        {"layout.zero=0", "layout.data=2", "layout.pipeline=2", "train.steps=24"}};
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "zmq", "");
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++)
        CU_ASSERT_FATAL(command_succeeds((const char *const[]){"train", recipe, turns[i][0], turns[i][1],
                                                               turns[i][2], turns[i][3], "lr.decay=constant",
                                                               i ? "--resume" : NULL, NULL}));
    char *plain = path_in(directory, "plain"), *key = tr_format("run=%s", plain);
    CU_ASSERT_FATAL(command_succeeds((const char *const[]){"train", recipe, key, "lr.decay=constant", NULL}));
    json_t *left = log_of(plain), *right = log_of(run);
    for (size_t f = 0; f < 2; f++) CU_ASSERT(checkpoints_agree(plain, run, STEPS, files[f]));
    CU_ASSERT(json_array_size(right) == STEPS);
    for (size_t i = 0; i < STEPS; i++) { /* held-out losses are due where each part ended, too */
        CU_ASSERT(json_equal(json_object_get(json_array_get(left, i), "loss"),
                             json_object_get(json_array_get(right, i), "loss")));
        CU_ASSERT(json_equal(json_object_get(json_array_get(left, i), "grad_norm"),
                             json_object_get(json_array_get(right, i), "grad_norm")));
    }
    json_decref(left), json_decref(right);
    tr_directory_remove_tree(run, NULL);
    tr_directory_remove_tree(plain, NULL);
    tr_free(plain), tr_free(key), tr_free(recipe), tr_free(run);
}

/* Tensors of many blocks of the norm, so that shards begin within them; in both dtypes, tied and not. */
static void no_layout_changes_a_bit(void)
{
    static const char *const models[][2] = {
        {"model={family: llama, layers: 3, width: 160, heads: 4, vocabulary: 256, tie: true}",
         "dtype=float32"},
        {"model={family: gpt2, layers: 2, width: 144, heads: 4, vocabulary: 300}", "dtype=bfloat16"}};
    static const char *const layouts[][4] = {
        {"layout.data=1", "layout.pipeline=1", "layout.zero=1"},
        {"layout.data=2", "layout.pipeline=1", "layout.zero=0"},
        {"layout.data=2", "layout.pipeline=1", "layout.zero=1"},
        {"layout.data=3", "layout.pipeline=1", "layout.zero=2"},
        {"layout.data=4", "layout.pipeline=1", "layout.zero=1"},
        {"layout.data=2", "layout.pipeline=2", "layout.zero=2"},
        {"layout.data=3", "layout.pipeline=2", "layout.zero=1"},
        {"layout.data=2", "layout.pipeline=1", "layout.zero=2", "supervision.hold_every=4"}};
    char *run = path_in(directory, "run"), *plain = path_in(directory, "plain"),
         *recipe = write_recipe(run, "ucx", ""), *key = tr_format("run=%s", plain);
    for (size_t m = 0; m < 2; m++) {
        CU_ASSERT_FATAL(command_succeeds((const char *const[]){"train", recipe, key, models[m][0],
                                                               models[m][1], "layout.data=1",
                                                               "layout.pipeline=1", "train.steps=8", NULL}));
        json_t *left = log_of(plain);
        for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
            bool good = command_succeeds((const char *const[]){"train", recipe, models[m][0], models[m][1],
                                                               "train.steps=8", layouts[i][0], layouts[i][1],
                                                               layouts[i][2], layouts[i][3], NULL});
            json_t *right = log_of(run);
            good = good && log_is_complete(right, 8) && logs_agree(left, right);
            for (size_t f = 0; f < 2; f++) good = good && checkpoints_agree(plain, run, 8, files[f]);
            if (!good)
                fprintf(stderr, "\n%s %s %s is not what one replica is\n", layouts[i][0], layouts[i][1],
                        layouts[i][2]);
            CU_ASSERT(good);
            json_decref(right);
            tr_directory_remove_tree(run, NULL);
        }
        json_decref(left);
        tr_directory_remove_tree(plain, NULL);
    }
    tr_free(key), tr_free(recipe), tr_free(plain), tr_free(run);
}

static void refuses(const char *recipe, const char *with, const char *words)
{
    command_run command;
    command_start(&command, (const char *const[]){"plan", recipe, "layout.zero=1", with, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 2));
    CU_ASSERT(text_has(command.err_text, words));
    command_release(&command);
}

static void what_does_not_go_with_it_is_refused_in_a_line(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", "");
    refuses(recipe, "recovery=replay",
            "is for replicas that hold all of the state, and layout.zero is 1; give recovery: step");
    refuses(recipe, "layout.zero=3", "layout.zero '3' is out of range; give a whole number from 0 to 2");
    command_run command, scale;
    command_start(&command, (const char *const[]){"train", recipe, "layout.zero=1", NULL});
    CU_ASSERT_FATAL(wait_for_steps(&command, run, 2));
    command_start(&scale, (const char *const[]){"scale", run, "data=1", NULL});
    command_wait(&scale, COMMAND_SECONDS);
    CU_ASSERT(scale.exit_code != 0);
    CU_ASSERT(text_has(scale.err_text, "its replicas hold a shard of the state each (layout.zero: 1)"));
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(same_run(run));
    command_release(&command);
    command_release(&scale);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static void the_plan_tells_what_is_saved(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", "");
    command_run command;
    double held, all, beside;
    command_start(&command, (const char *const[]){"plan", recipe, "layout.zero=1", NULL});
    command_wait(&command, COMMAND_SECONDS);
    const char *line = command.out_text ? strstr(command.out_text, "ZeRO stage 1:") : NULL;
    CU_ASSERT_FATAL(line != NULL);
    CU_ASSERT(
        sscanf(line,
               "ZeRO stage 1: the replicas of a stage share its state, %lf MiB in all, and not %lf MiB; all "
               "parameters beside it: %lf MiB",
               &held, &all, &beside) == 3);
    CU_ASSERT(held > 0.45 * all && held < 0.55 * all && beside > 0);
    command_release(&command);
    tr_free(recipe);
    tr_free(run);
}

static const check_test tests[] = {
    CHECK_TEST(no_layout_changes_a_bit),
    CHECK_TEST(a_death_at_any_moment_changes_no_bit),
    CHECK_TEST(nor_does_one_while_shards_travel),
    CHECK_TEST(a_lost_shard_comes_from_the_disk),
    CHECK_TEST(a_dead_head_is_followed),
    CHECK_TEST(a_run_goes_on_in_any_layout),
    CHECK_TEST(what_does_not_go_with_it_is_refused_in_a_line),
    CHECK_TEST(the_plan_tells_what_is_saved),
};

int main(void)
{
    return recovery_tests("zero", tests, sizeof tests / sizeof *tests);
}
