/* test/cli/damage_test.c - a message that comes with other bits than were sent is dropped, and nobody waits for it: everything is
 * sent again, a worker whose messages come damaged again and again is replaced, and a host whose processes make mistakes again and
 * again is given up. No bit changes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "recovery_run.h"

#define ONCE "1/stage 0 of replica 0/forward/12/DAMAGE"
#define THRICE                                                                                               \
    "1/stage 0 of replica 1/forward/12/DAMAGE,2/stage 0 of replica 1/forward/13/DAMAGE,"                     \
    "3/stage 0 of replica 1/forward/14/DAMAGE"

/* A checkpoint that was being written on the way may have been given up for a newer one. */
static bool same_end(const char *run)
{
    json_t *left = log_of(undisturbed), *right = log_of(run);
    bool same = log_is_complete(right, STEPS) && logs_agree(left, right) &&
                checkpoints_agree(undisturbed, run, STEPS, "model.safetensors") &&
                checkpoints_agree(undisturbed, run, STEPS, "trainer/optimizer.safetensors");
    json_decref(left);
    json_decref(right);
    return same;
}

static void goes_on(const char *transport, const char *points, const char *one, int damaged, int deaths)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, points);
    bool good = command_succeeds((const char *const[]){"train", recipe, one, NULL}) && same_end(run) &&
                count_events(run, "frame_damaged") == damaged && count_events(run, "worker_died") == deaths &&
                count_events(run, "worker_fenced") == deaths && count_events(run, "recovered") == damaged &&
                count_events(run, "quarantined") == 0;
    if (!good)
        say_what_happened(&(case_){points, points, 0}, run, transport, count_events(run, "worker_died"));
    CU_ASSERT(good);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* Nobody died: supervision.intensity has no part in it. */
static void a_damaged_message_is_sent_again(void)
{
    goes_on("ucx", ONCE, "supervision.intensity=1", 1, 0);
    goes_on("zmq", ONCE, NULL, 1, 0);
    goes_on("zmq", "1/stage 1 of replica 1/backward/12/DAMAGE", "recovery=replay", 1, 0);
    goes_on("ucx", "1/data shard 0/reading/12/DAMAGE,1/stage 0 of replica 0/reduce/20/DAMAGE", NULL, 1, 0);
}

static void who_sends_damaged_messages_again_and_again_is_replaced(void)
{
    goes_on("ucx", THRICE, NULL, 3, 1);
    goes_on("zmq", THRICE, "supervision.quarantine_after=2", 3, 1);
}

/* With its state in a checkpoint, from which it may go on elsewhere. */
static void ends_here(const char *transport, const char *points, const char *one, const char *two,
                      const char *words)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, points);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, one, two, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(
        command_ended(&command, 1) &&
        text_has(command.err_text, "this host is quarantined for 1 mistake of its processes; the last: ") &&
        text_has(command.err_text, words) &&
        text_has(command.err_text, "; no spare host takes its place; --resume goes on after step 1"));
    CU_ASSERT_EQUAL(count_events(run, "quarantined"), 1);
    command_release(&command);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "chaos.at=null", "--resume", NULL}));
    CU_ASSERT(same_end(run));
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static void a_host_with_too_many_mistakes_is_given_up(void)
{
    ends_here("ucx", THRICE, "supervision.quarantine_after=1", NULL,
              "a message of worker 3 to worker 4 came damaged again");
    ends_here("zmq", THRICE, "supervision.quarantine_after=1", NULL,
              "a message of worker 3 to worker 4 came damaged again");
    ends_here("ucx", "1/stage 1 of replica 0/backward/12/FLIP", "supervision.quarantine_after=1",
              "supervision.audit=1", "what 'stage 1 of replica 0' computed first");
    ends_here("zmq", "1/stage 0 of replica 0/audit/12/FLIP", "supervision.quarantine_after=1",
              "supervision.audit=1", "the audit by 'stage 0 of replica 0' was wrong");
}

static void without_recovery_the_run_ends(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", ONCE);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "recovery=off", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(
        text_has(command.err_text, "a message of worker 1 to worker 2 came damaged (a frame's header has"));
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

int main(void)
{
    if (getenv("TROUPE_TEST_DEVICE")) return 77; /* audits are for CPUs, and messages are the same */
    static const check_test tests[] = {
        CHECK_TEST(a_damaged_message_is_sent_again),
        CHECK_TEST(who_sends_damaged_messages_again_and_again_is_replaced),
        CHECK_TEST(a_host_with_too_many_mistakes_is_given_up),
        CHECK_TEST(without_recovery_the_run_ends),
    };
    return recovery_tests("cli/damage", tests, sizeof tests / sizeof *tests);
}
