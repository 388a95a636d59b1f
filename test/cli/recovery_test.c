/* test/cli/recovery_test.c - lose any worker, or the agent, at any moment and get the same bits: every step's loss, the
 * checkpoints' bytes. Who dies, in what, and in which epoch is said by chaos.at, so that each moment is hit.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

enum { STEPS = 24, AT = 12 };

typedef struct case_ {
    const char *name, *points;
    int deaths;
} case_;

static const case_ cases[] = {
    {"reading", "1/data shard 1/reading/12/KILL", 1},
    {"forward", "1/stage 0 of replica 1/forward/12/KILL", 1},
    {"backward", "1/stage 1 of replica 0/backward/12/KILL", 1},
    {"weight", "1/stage 1 of replica 1/weight/12/SEGV", 1},
    {"reduce", "1/stage 0 of replica 0/reduce/12/KILL", 1},
    {"vote of the gradients", "1/stage 1 of replica 0/waiting for commit/12/KILL", 1},
    {"update", "1/stage 1 of replica 1/update/12/ABRT", 1},
    {"vote of the update", "1/stage 0 of replica 0/voting/12/KILL", 1},
    {"checkpointing", "1/stage 1 of replica 0/saving/12/KILL", 1},
    {"measuring", "1/stage 1 of replica 0/evaluation/12/KILL", 1},
    {"three at once",
     "1/stage 0 of replica 0/forward/12/KILL,1/stage 1 of replica 0/forward/12/KILL,"
     "1/stage 0 of replica 1/forward/12/KILL",
     3},
    {"during the recovery, twice",
     "1/stage 1 of replica 0/forward/12/KILL,2/stage 0 of replica 1/restoring/any/KILL,"
     "3/stage 1 of replica 0/restoring/any/KILL",
     3},
    {"the first step", "1/stage 1 of replica 0/backward/0/KILL", 1},
    {"the last update", "1/stage 1 of replica 0/voting/23/KILL", 1},
};

static char *directory, *undisturbed;

static char *write_recipe(const char *run, const char *transport, const char *points)
{
    char *text = path_in(directory, "words.txt"), *recipe = tr_format("%s.yaml", run);
    char *yaml =
        tr_format("run: %s\n"
                  "model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256, tie: true}\n"
                  "data: {text: %s}\n"
                  "train: {steps: %d, sequence: 32, microbatch: 2, accumulate: 4}\n"
                  "lr: {peak: 1e-3}\n"
                  "layout: {data: 2, pipeline: 2}\n"
                  "transport: %s\n"
                  "validate: {every: 6}\n"
                  "checkpoint: {every: 4, keep: 0}\n"
                  "%s%s%s\n",
                  run, text, STEPS, transport, *points ? "chaos: {at: '" : "", points, *points ? "'}" : "");
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
    return recipe;
}

static int count_events(const char *run, const char *kind)
{
    int n = 0;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event) n +=
        strcmp(json_string_value(json_object_get(event, "event")), kind) == 0;
    json_decref(events);
    return n;
}

static bool same_run(const char *run)
{
    json_t *left = log_of(undisturbed), *right = log_of(run);
    bool same = log_is_complete(right, STEPS) && logs_agree(left, right);
    json_decref(left);
    json_decref(right);
    for (int step = AT; step <= STEPS; step += STEPS - AT) {
        same = checkpoints_agree(undisturbed, run, step, "model.safetensors") && same;
        same = checkpoints_agree(undisturbed, run, step, "trainer/optimizer.safetensors") && same;
    }
    return same;
}

static void mends(const case_ *what, const char *transport)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, what->points);
    bool good = command_succeeds((const char *const[]){"train", recipe, NULL});
    good = good && same_run(run);
    int deaths = good ? count_events(run, "worker_died") : -1;
    if (!good || deaths < 1 || deaths > what->deaths)
        fprintf(stderr, "\nin %s over %s: %d deaths\n", what->name, transport, deaths);
    CU_ASSERT(good);
    CU_ASSERT(deaths >= 1 && deaths <= what->deaths);
    CU_ASSERT(!good || count_events(run, "recovered") >= 1);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

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

int main(void)
{
    directory = enter_directory();
    undisturbed = path_in(directory, "undisturbed");
    char *text = path_in(directory, "words.txt");
    write_words(text, 4000);
    tr_free(text);
    char *recipe = write_recipe(undisturbed, "zmq", "");
    if (!command_succeeds((const char *const[]){"train", recipe, NULL})) return 1;
    tr_free(recipe);
    static const check_test tests[] = {
        CHECK_TEST(a_death_at_any_moment_changes_no_bit_over_ucx),
        CHECK_TEST(a_death_at_any_moment_changes_no_bit_over_zmq),
    };
    int result = check_run("cli/recovery", tests, sizeof tests / sizeof *tests);
    tr_free(undisturbed);
    leave_directory(directory);
    return result;
}
