/* test/cli/recovery_test.c - lose any worker, with its state or without, at any moment and get the same bits: every step's loss, the
 * checkpoints' bytes. Who dies, in what, and in which epoch is said by chaos.at, so that each moment is hit.
 * SPDX-License-Identifier: Apache-2.0 */
#include "recovery_run.h"

static void all_cases(const char *transport)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) mends(&cases[i], transport);
}

static void a_death_at_any_moment_changes_no_bit_over_ucx(void)
{
    all_cases("ucx");
}

static void a_death_at_any_moment_changes_no_bit_over_zmq(void)
{
    all_cases("zmq");
}

/* A worker that still holds its links, and computes for ever: nobody but the watchdog can tell. */
static void an_actor_in_a_dead_loop_is_found(void)
{
    static const case_ loop = {"a dead loop", "1/stage 1 of replica 0/backward/12/LOOP", 1};
    more[0] = "supervision.hung_after=5";
    mends(&loop, "ucx");
    memset(more, 0, sizeof more);
}

/* There the weights that are computed with are a copy of those in the slots. */
static void nor_does_it_in_bfloat16(void)
{
    dtype = "bfloat16";
    char *before = compare_with_another("undisturbed-bfloat16", NULL);
    mends(&cases[2], "ucx");
    mends(&cases[7], "zmq");
    back_to(before);
    dtype = "float32";
}

/* States are held every few steps, and where a checkpoint is due: more is run again, and it is the same. */
static void nor_does_it_where_few_states_are_held(void)
{
    static const char *const every[][4] = {{"supervision.hold_every=5"},
                                           {"supervision.hold_every=64", "checkpoint.every=12"}};
    static const int which[] = {3, 6, 7, 8, 12, 13, 14, 15};
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        memcpy(more, every[i % 2], sizeof every[i % 2]);
        mends(&cases[which[i]], i % 3 ? "ucx" : "zmq");
    }
    memset(more, 0, sizeof more);
}

/* Layers computed twice give the bits of those that are kept. */
static void nor_does_it_where_layers_are_computed_again(void)
{
    static const char *const every[][4] = {{"layout.recompute=full"}, {"layout.recompute=selective"}};
    static const int which[] = {1, 2, 4, 6};
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        memcpy(more, every[i % 2], sizeof every[i % 2]);
        mends(&cases[which[i]], i % 3 ? "ucx" : "zmq");
    }
    memset(more, 0, sizeof more);
}

/* Then the newest checkpoint is what there is. */
static void a_lost_state_changes_no_bit_either(void)
{
    comes_from_the_disk(NULL);
}

/* The coordinator's newest records are of steps behind those slots, then. */
static void nor_does_a_workers_before_the_first_step_after_it(void)
{
    char *run = path_in(directory, "run"),
         *recipe = write_recipe(run, "ucx", "2/stage 0 of replica 0/forward/12/KILL");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "checkpoint.every=12", NULL});
    CU_ASSERT_FATAL(wait_for_steps(&command, run, 17));
    lose_a_state(run);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(same_run(run));
    CU_ASSERT(count_events(run, "from_disk") == 1);
    CU_ASSERT(count_events(run, "worker_died") == 2);
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* What the log of this process begins behind cannot be gone back to: that is a resume's to do. */
static void a_checkpoint_that_was_damaged_since_ends_the_run_with_a_message(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", "");
    char *weights = path_in(run, "checkpoints/step-8/model.safetensors");
    CU_ASSERT_FATAL(command_succeeds((const char *const[]){"train", recipe, "train.steps=8", NULL}));
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "train.steps=100000", "checkpoint.every=0",
                                                  "--resume", NULL});
    CU_ASSERT_FATAL(wait_for_steps(&command, run, 10));
    CU_ASSERT(truncate(weights, 100) == 0);
    lose_a_state(run);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(text_has(command.err_text,
                       "the checkpoint after step 8, from which this run went on, is damaged; "
                       "--resume goes back to the one after step 4"));
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(weights);
    tr_free(recipe);
    tr_free(run);
}

/* Newer checkpoints push out the one that a resumed run began with; who is replaced then must not need it. */
static void a_resumed_run_does_not_need_the_checkpoint_it_began_with(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "zmq", "");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, NULL});
    CU_ASSERT_FATAL(wait_for_steps(&command, run, 5));
    kill(command.pid, SIGINT);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    command_release(&command);
    CU_ASSERT(command_succeeds((const char *const[]){
        "train", recipe, "--resume", "checkpoint.keep=1", "checkpoint.every=1",
        "chaos.at=2/stage 1 of replica 0/backward/22/KILL,3/data shard 1/reading/23/KILL", NULL}));
    int deaths = count_events(run, "worker_died");
    if (deaths < 2) fprintf(stderr, "\n%d deaths instead of 2\n", deaths);
    CU_ASSERT(deaths >= 2);
    CU_ASSERT(same_log(undisturbed, run, STEPS));
    CU_ASSERT(checkpoints_agree(undisturbed, run, STEPS, "trainer/optimizer.safetensors"));
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* In the last epoch nothing is computed: whoever did would die of it. */
static void too_many_deaths_end_the_run_with_a_checkpoint(const char *more_points, const char *override,
                                                          bool saves)
{
    char *run = path_in(directory, "run"), *newest = path_in(run, "checkpoints/step-6");
    char *points = tr_format("1/stage 0 of replica 0/forward/6/KILL,2/stage 0 of replica 0/forward/6/KILL,"
                             "3/stage 0 of replica 0/forward/6/KILL%s",
                             more_points);
    char *recipe = write_recipe(run, "zmq", points);
    command_run command;
    command_start(&command,
                  (const char *const[]){"train", recipe, "supervision.intensity=1", override, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(text_has(command.err_text, "1 within 60 s are the most that are mended"));
    /* Otherwise after step 4, if that checkpoint had been made by then. */
    CU_ASSERT_EQUAL(strstr(command.err_text, "--resume goes on after step 6") != NULL, saves);
    CU_ASSERT_EQUAL(count_events(run, "worker_died"), saves ? 2 : 3);
    CU_ASSERT_EQUAL(tr_path_exists(newest), saves);
    command_release(&command);
    /* The run goes on from its checkpoint, in an epoch that no earlier one had. */
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "--resume", override, NULL}));
    CU_ASSERT(same_run(run));
    tr_directory_remove_tree(run, NULL);
    tr_free(points);
    tr_free(newest);
    tr_free(recipe);
    tr_free(run);
}

static void too_many_deaths_end_the_run(void)
{
    too_many_deaths_end_the_run_with_a_checkpoint("", NULL, true);
    too_many_deaths_end_the_run_with_a_checkpoint("", "recovery=replay", true);
    too_many_deaths_end_the_run_with_a_checkpoint("", "supervision.hold_every=3", true);
    too_many_deaths_end_the_run_with_a_checkpoint(",3/stage 1 of replica 0/restoring/any/KILL", NULL, false);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(a_death_at_any_moment_changes_no_bit_over_ucx),
        CHECK_TEST(a_death_at_any_moment_changes_no_bit_over_zmq),
        CHECK_TEST(an_actor_in_a_dead_loop_is_found),
        CHECK_TEST(nor_does_it_in_bfloat16),
        CHECK_TEST(nor_does_it_where_few_states_are_held),
        CHECK_TEST(nor_does_it_where_layers_are_computed_again),
        CHECK_TEST(a_lost_state_changes_no_bit_either),
        CHECK_TEST(nor_does_a_workers_before_the_first_step_after_it),
        CHECK_TEST(a_checkpoint_that_was_damaged_since_ends_the_run_with_a_message),
        CHECK_TEST(a_resumed_run_does_not_need_the_checkpoint_it_began_with),
        CHECK_TEST(too_many_deaths_end_the_run),
    };
    return recovery_tests("cli/recovery", tests, sizeof tests / sizeof *tests);
}
