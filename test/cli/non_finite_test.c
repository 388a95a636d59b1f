/* test/cli/non_finite_test.c - a loss or a gradient that is no number updates nothing and is computed again. If it was a mistake
 * nobody sees a difference; if it is numerical the run ends and says where it came from, or leaves out that update, with the
 * same bits in any layout and whoever dies.
 * SPDX-License-Identifier: Apache-2.0 */
#include "recovery_run.h"

static bool event_says_once(const char *run, const char *kind, const char *words)
{
    return count_events(run, kind) == 1 && event_says(run, kind, words);
}

/* --- a mistake --- */

static void computed_again(const char *transport, const char *points, const char *one, const char *two)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, points);
    bool good = command_succeeds((const char *const[]){"train", recipe, one, two, NULL}) && same_run(run) &&
                event_says_once(run, "run_again", "step 13 has a loss of") &&
                event_says_once(run, "non_finite_fluke", "step 13, run again, has a loss of") &&
                count_events(run, "recovered") == 1 && count_events(run, "worker_died") == 0;
    if (!good) say_what_happened(&(case_){points, points, 0}, run, transport, 0);
    CU_ASSERT(good);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* Nobody died: supervision.intensity has no part in it. */
static void a_mistake_changes_no_bit(void)
{
    computed_again("ucx", "1/stage 0 of replica 1/forward/12/NAN", "supervision.intensity=1", NULL);
    computed_again("zmq", "1/stage 1 of replica 0/backward/12/NAN", "supervision.non_finite=skip", NULL);
    computed_again("zmq", "1/stage 1 of replica 1/forward/12/NAN", NULL, NULL);
    computed_again("ucx", "1/stage 0 of replica 0/weight/12/NAN", NULL, NULL);
}

static void nor_with_replay_nor_where_few_states_are_held(void)
{
    computed_again("zmq", "1/stage 0 of replica 1/forward/12/NAN", "recovery=replay", NULL);
    computed_again("ucx", "1/stage 1 of replica 0/weight/12/NAN", "recovery=replay",
                   "supervision.non_finite=skip");
    computed_again("ucx", "1/stage 0 of replica 0/weight/12/NAN", "supervision.hold_every=5", NULL);
}

/* Of another kind each time: neither of them can be believed. */
static void three_results_end_the_run(void)
{
    char *run = path_in(directory, "run"),
         *recipe = write_recipe(run, "ucx",
                                "1/stage 0 of replica 1/forward/12/NAN,2/stage 1 of replica 0/weight/12/NAN,"
                                "3/stage 1 of replica 1/weight/12/NAN,3/stage 1 of replica 0/forward/12/NAN");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(text_has(command.err_text, "3 runs of it gave 3 results"));
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* A death while it is run again is one more epoch, and the first that counts. */
static void a_death_meanwhile_is_mended(void)
{
    char *run = path_in(directory, "run"),
         *recipe = write_recipe(
             run, "zmq", "1/stage 0 of replica 1/forward/12/NAN,2/stage 1 of replica 0/backward/12/KILL");
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "supervision.intensity=1", NULL}));
    CU_ASSERT(same_run(run));
    CU_ASSERT(count_events(run, "run_again") == 1 && count_events(run, "worker_died") == 1);
    CU_ASSERT(event_says_once(run, "non_finite_fluke", "training goes on with what is right"));
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* --- it is numerical: the learning rate of step 6 is absurd; then the squares in a norm overflow, and its backward fails --- */

static const char explodes[] =
    "lr.values=[1e-3,1e-3,1e-3,1e-3,1e-3,1e30,1e-3,1e-3,1e-3,1e-3,1e-3,1e-3,1e-3,1e-3,1e-3,1e-3,1e-3,1e-3,"
    "1e-3,1e-3,1e-3,1e-3,1e-3,1e-3]";

static void ends(const char *transport, const char *more_, int runs, const char *words)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, "");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "lr.peak=null", explodes, more_, NULL});
    command_wait(&command, COMMAND_SECONDS);
    bool good = command_ended(&command, 1) && text_has(command.err_text, "step 7 has a loss of") &&
                text_has(command.err_text, "nothing was updated") && text_has(command.err_text, words);
    json_t *log = log_of(run);
    CU_ASSERT(good && log_is_complete(log, 6));
    CU_ASSERT_EQUAL(count_events(run, "run_again"), runs - 1);
    if (getenv("TROUPE_TEST_SHOW")) fprintf(stderr, "\n%s", command.err_text);
    json_decref(log);
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static void what_comes_again_ends_the_run_and_says_where_it_began(void)
{
#define WHERE(stage)                                                                                         \
    "step 7 has a loss of 5.54518 and a gradient norm of nan, and run again the same bits: this is "         \
    "numerical; "                                                                                            \
    "it first appeared in the backward of micro-batch 0 in " stage                                           \
    ": nan in what 'rmsnorm_backward' wrote, "
    ends("ucx", NULL, 2,
         WHERE("'stage 1 of replica 0' (worker 2)") "operation 21 of 45, in the head, which reads "
                                                    "'model.norm.weight'; n");
    ends("zmq", "recovery=replay", 2, WHERE("'stage 1 of replica 0' (worker 2)"));
    ends("zmq", "layout={data: 1, pipeline: 1}", 2, WHERE("'stage 0 of replica 0' (worker 1)"));
    ends("ucx", "supervision.hold_every=4", 2, WHERE("'stage 1 of replica 0' (worker 2)"));
}

/* Then nothing can be run again. */
static void without_recovery_it_ends_at_once(void)
{
    ends("ucx", "recovery=off", 1, "; nothing was updated; try a smaller lr.peak");
}

static void a_state_that_gives_no_numbers_any_more_ends_the_run_after_all(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "zmq", "");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "lr.peak=null", explodes,
                                                  "validate.every=0", "supervision.non_finite=skip", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(text_has(command.err_text, "step 17 has a loss of"));
    CU_ASSERT(text_has(command.err_text, "the state gives no numbers any more"));
    json_t *log = log_of(run);
    CU_ASSERT(log_is_complete(log, 16));
    for (size_t i = 6; i < json_array_size(log); i++)
        CU_ASSERT(json_is_true(json_object_get(json_array_get(log, i), "skipped")));
    json_decref(log);
    command_release(&command);
    char *path = path_in(run, "log.jsonl");
    FILE *end = fopen(path, "ae");
    CU_ASSERT_FATAL(end != NULL);
    fputs("{\"step\": 17, \"loss\": null, \"grad_norm\": null, \"skipped\": true}\n",
          end); /* as one is logged */
    fclose(end);
    tr_free(path);
    command_start(&command, (const char *const[]){"ps", run, "--json", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1) && text_has(command.out_text, "\"loss\": null"));
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* --- the update is left out --- */

/* The same gradient is none each time that step 13 is computed. */
#define NUMERICAL "1/stage 0 of replica 0/weight/12/NAN,2/stage 0 of replica 0/weight/12/NAN"

static char *left_out(const char *name, const char *transport, const char *points, const char *one,
                      const char *two)
{
    char *run = path_in(directory, name), *recipe = write_recipe(run, transport, points);
    CU_ASSERT(command_succeeds(
        (const char *const[]){"train", recipe, "supervision.non_finite=skip", one, two, NULL}));
    bool good = event_says_once(run, "update_left_out", "step 13 has a loss of") &&
                count_events(run, "run_again") == 1;
    json_t *log = log_of(run);
    const json_t *line = json_array_get(log, 12);
    good = good && log_is_complete(log, STEPS) && json_is_true(json_object_get(line, "skipped")) &&
           json_is_null(json_object_get(line, "grad_norm")) && json_is_real(json_object_get(line, "loss"));
    for (size_t i = 0; i < json_array_size(log); i++)
        good = good && (i == 12 || !json_object_get(json_array_get(log, i), "skipped"));
    if (!good) say_what_happened(&(case_){name, points, 0}, run, transport, 0);
    CU_ASSERT(good);
    json_decref(log);
    tr_free(recipe);
    return run;
}

static void expect_same(const char *left, char *right)
{
    json_t *a = log_of(left), *b = log_of(right);
    bool same = log_is_complete(b, STEPS) && logs_agree(a, b);
    same = same && checkpoints_agree(left, right, STEPS, "model.safetensors") &&
           checkpoints_agree(left, right, STEPS, "trainer/optimizer.safetensors");
    CU_ASSERT(same);
    json_decref(a);
    json_decref(b);
    tr_directory_remove_tree(right, NULL);
    tr_free(right);
}

static void leaving_an_update_out_gives_the_same_bits_in_any_layout(void)
{
    char *first = left_out("left-out", "zmq", NUMERICAL, NULL, NULL);
    json_t *with = log_of(first), *without = log_of(undisturbed);
    CU_ASSERT(strcmp(json_string_value(json_object_get(json_array_get(with, 12), "loss_hex")),
                     json_string_value(json_object_get(json_array_get(without, 12), "loss_hex"))) == 0);
    CU_ASSERT(strcmp(json_string_value(json_object_get(json_array_get(with, 13), "loss_hex")),
                     json_string_value(json_object_get(json_array_get(without, 13), "loss_hex"))) != 0);
    json_decref(with);
    json_decref(without);
    expect_same(first, left_out("run", "ucx", NUMERICAL, "layout={data: 1, pipeline: 1}", NULL));
    expect_same(first, left_out("run", "ucx", NUMERICAL, "recovery=replay", NULL));
    expect_same(first, left_out("run", "zmq", NUMERICAL, "supervision.hold_every=5", NULL));
    static const char again[] = ",3/stage 0 of replica 0/weight/12/NAN"; /* in the epoch behind a death */
    static const char *const deaths[] = {
        "2/stage 1 of replica 1/update/12/KILL", "2/stage 1 of replica 0/voting/12/KILL",
        "2/stage 0 of replica 0/waiting for commit/12/KILL", "2/stage 1 of replica 1/forward/16/KILL"};
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) {
        char *points = tr_format("%s,%s%s", NUMERICAL, deaths[i], again);
        bool few = i == 3; /* it goes back behind the step */
        expect_same(first,
                    left_out("run", i % 2 ? "ucx" : "zmq", points, few ? "supervision.hold_every=12" : NULL,
                             few ? "checkpoint.every=12" : NULL));
        tr_free(points);
    }
    tr_directory_remove_tree(first, NULL);
    tr_free(first);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(a_mistake_changes_no_bit),
        CHECK_TEST(nor_with_replay_nor_where_few_states_are_held),
        CHECK_TEST(three_results_end_the_run),
        CHECK_TEST(a_death_meanwhile_is_mended),
        CHECK_TEST(what_comes_again_ends_the_run_and_says_where_it_began),
        CHECK_TEST(without_recovery_it_ends_at_once),
        CHECK_TEST(a_state_that_gives_no_numbers_any_more_ends_the_run_after_all),
        CHECK_TEST(leaving_an_update_out_gives_the_same_bits_in_any_layout),
    };
    return recovery_tests("cli/non_finite", tests, sizeof tests / sizeof *tests);
}
