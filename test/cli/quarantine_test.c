/* test/cli/quarantine_test.c - a device that fails again and again is left out, and its workers are dealt out to the others; with
 * none left the run ends with a checkpoint. No bit changes. Here the CPU plays the devices (chaos.devices), and a worker says that
 * its own has failed; cli/cuda_quarantine_test.c is the same on real ones.
 * The workers of replica 0 are 1 and 2, those of replica 1 are 3 and 4; of two devices each replica has one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "recovery_run.h"

#define TWO "chaos.devices=2"
#define OF_REPLICA_0                                                                                         \
    "1/stage 0 of replica 0/backward/8/DEVICE,2/stage 1 of replica 0/forward/12/DEVICE,"                     \
    "3/stage 0 of replica 0/weight/14/DEVICE"

/* After this step, or the one before: whoever fails at the beginning of a step may be ahead of others, who have not published. */
static bool ends_with(const command_run *command, const char *words, int step)
{
    char *one = tr_format("%s; --resume goes on after step %d\n", words, step),
         *other = tr_format("%s; --resume goes on after step %d\n", words, step - 1);
    bool good = one && other && (strstr(command->err_text, one) || strstr(command->err_text, other));
    if (!good) fprintf(stderr, "\nexpected \"%s\" in:\n%s\n", one, command->err_text);
    tr_free(one), tr_free(other);
    return good;
}

static bool same_end(const char *run)
{
    return same_log(undisturbed, run, STEPS) && same_checkpoint(undisturbed, run, STEPS);
}

/* Of a run that has come to its end: so many deaths, and so many devices left out. */
static void expect(const char *run, int deaths, int quarantined)
{
    bool good = same_end(run) && count_events(run, "worker_died") == deaths &&
                count_events(run, "recovered") == deaths && count_events(run, "quarantined") == quarantined;
    if (!good) say_what_happened(&(case_){"quarantine", "", 0}, run, "?", deaths);
    CU_ASSERT(good);
}

static void forget(char *run, char *recipe)
{
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static void is_left_out(const char *transport, const char *key)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, OF_REPLICA_0);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, TWO, key, NULL}));
    expect(run, 3, 1);
    CU_ASSERT(has_event(run, "quarantined",
                        "cpu:0 is quarantined for 3 failures of its workers; the last: worker 1 (pid "));
    CU_ASSERT(has_event(run, "quarantined",
                        " ended with exit code 3 (its device failed) while stage 0 of replica 0 was"));
    CU_ASSERT(has_event(run, "quarantined", "; it goes on on cpu:1"));
    CU_ASSERT(has_event(run, "device", "device: cpu, 2 devices (only played), without cpu:0"));
    forget(run, recipe);
}

static void a_device_that_fails_again_and_again_is_left_out(void)
{
    is_left_out("ucx", NULL);
    is_left_out("zmq", NULL);
    is_left_out("ucx", "recovery=replay");
    is_left_out("zmq", "supervision.hold_every=4");
}

/* Four workers on three devices: 0 has two of them. */
static void failures_are_counted_by_device(void)
{
    char *run = path_in(directory, "run"),
         *recipe = write_recipe(run, "ucx", OF_REPLICA_0 ",4/stage 1 of replica 1/forward/18/DEVICE");
    CU_ASSERT(command_succeeds(
        (const char *const[]){"train", recipe, "chaos.devices=3", "supervision.quarantine_after=4", NULL}));
    expect(run, 4, 0);
    forget(run, recipe);
    run = path_in(directory, "run"), recipe = write_recipe(run, "ucx", OF_REPLICA_0);
    CU_ASSERT(command_succeeds(
        (const char *const[]){"train", recipe, "chaos.devices=4", NULL})); /* 0 twice, 1 once */
    expect(run, 3, 0);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "chaos.devices=4", "run=twice",
                                                     "supervision.quarantine_after=2", NULL}));
    expect("twice", 3, 1);
    CU_ASSERT(has_event("twice", "quarantined", "; it goes on on cpu:1, cpu:2, cpu:3"));
    tr_directory_remove_tree("twice", NULL);
    forget(run, recipe);
}

static void where_none_shall_be_left_out_none_is(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "zmq", OF_REPLICA_0);
    CU_ASSERT(command_succeeds(
        (const char *const[]){"train", recipe, TWO, "supervision.quarantine_after=0", NULL}));
    expect(run, 3, 0);
    forget(run, recipe);
}

/* The same stage fails on the one and, since it was dealt out anew, then on the other. Who goes on by hand may have mended them. */
static void with_no_device_left_the_run_ends_with_a_checkpoint(void)
{
    char *run = path_in(directory, "run"),
         *recipe = write_recipe(
             run, "zmq", "1/stage 0 of replica 0/backward/8/DEVICE,2/stage 0 of replica 0/forward/14/DEVICE");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, TWO, "supervision.quarantine_after=1",
                                                  "checkpoint.every=0", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(
        text_has(command.err_text,
                 "troupe: cpu:1 is quarantined for 1 failure of its workers; the last: worker 1 (pid ") &&
        ends_with(&command, "; no other device is left", 14));
    CU_ASSERT(count_events(run, "quarantined") == 2 && count_events(run, "worker_died") == 2);
    command_release(&command);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, TWO, "supervision.quarantine_after=1",
                                                     "chaos.at=null", "--resume", NULL}));
    CU_ASSERT(same_end(run));
    CU_ASSERT_EQUAL(count_events(run, "quarantined"), 2);
    forget(run, recipe);
}

/* A run goes on from step 4, and has taken that checkpoint away when it is planned anew, and once more when it is saved. */
static void the_checkpoint_that_it_began_with_may_be_gone(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "zmq", "");
    command_run command;
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, NULL}));
    for (int step = 8; step <= STEPS; step += 4) {
        char *later = tr_format("%s/checkpoints/step-%d", run, step);
        CU_ASSERT_EQUAL(tr_directory_remove_tree(later, NULL), TR_OK);
        tr_free(later);
    }
    command_start(
        &command,
        (const char *const[]){
            "train", recipe, "--resume", TWO, "supervision.quarantine_after=1", "checkpoint.keep=1",
            "chaos.at=2/stage 0 of replica 0/backward/14/DEVICE,3/stage 0 of replica 0/backward/18/DEVICE",
            NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(ends_with(&command, "; no other device is left", 18));
    command_release(&command);
    char *first = tr_format("%s/checkpoints/step-4", run);
    CU_ASSERT(!tr_path_is_directory(first));
    tr_free(first);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "--resume", NULL}));
    CU_ASSERT(same_end(run));
    forget(run, recipe);
}

/* Too many deaths end a run before its devices are all left out: its state is saved in any case. */
static void too_many_deaths_end_the_run_all_the_same(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", OF_REPLICA_0);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, TWO, "supervision.intensity=2",
                                                  "supervision.quarantine_after=9", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(
        ends_with(&command, "that was death number 3, and 2 within 60 s are the most that are mended", 14));
    command_release(&command);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "chaos.at=null", "--resume", NULL}));
    CU_ASSERT(same_end(run));
    forget(run, recipe);
}

int main(void)
{
    if (getenv("TROUPE_TEST_DEVICE")) return 77;
    static const check_test tests[] = {
        CHECK_TEST(a_device_that_fails_again_and_again_is_left_out),
        CHECK_TEST(failures_are_counted_by_device),
        CHECK_TEST(where_none_shall_be_left_out_none_is),
        CHECK_TEST(with_no_device_left_the_run_ends_with_a_checkpoint),
        CHECK_TEST(the_checkpoint_that_it_began_with_may_be_gone),
        CHECK_TEST(too_many_deaths_end_the_run_all_the_same),
    };
    return recovery_tests("cli/quarantine", tests, sizeof tests / sizeof *tests);
}
