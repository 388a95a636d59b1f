/* test/cli/recovery_run.h - a training whose workers die at moments that a test names, and what must be as in one whose
 * workers do not: the losses of all steps, and the bytes of checkpoints.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CLI_RECOVERY_RUN_H
#define TROUPE_TEST_CLI_RECOVERY_RUN_H

#include "disturbed_run.h"

#include "runtime/state.h"

#include <fcntl.h>

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
    {"stopped by somebody", "1/stage 1 of replica 0/forward/12/STOP", 1},
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
    {"long after a checkpoint", "1/stage 0 of replica 1/backward/22/KILL", 1},
};

static char *undisturbed;
static const char *dtype = "float32", *more[4]; /* overrides; NULL: none */
/* Looks at what a run with deaths has left behind, beside that it has the bits; NULL: nobody does. */
static bool (*is_as_expected)(const case_ *what, const char *run);

static inline char *write_recipe(const char *run, const char *transport, const char *points)
{
    char *text = path_in(directory, "words.txt"), *recipe = tr_format("%s.yaml", run);
    char *yaml = tr_format(
        "run: %s\n"
        "model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256, tie: true}\n"
        "data: {text: %s}\n"
        "train: {steps: %d, sequence: 32, microbatch: 2, accumulate: 4}\n"
        "lr: {peak: 1e-3}\n"
        "layout: {data: 2, pipeline: 2}\n"
        "transport: %s\n"
        "validate: {every: 6}\n"
        "checkpoint: {every: 4, keep: 0}\n"
        "dtype: %s\n"
        "%s%s%s\n",
        run, text, STEPS, transport, dtype, *points ? "chaos: {at: '" : "", points, *points ? "'}" : "");
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
    return recipe;
}

static inline bool flip_both_slots(int32_t pid, const char *descriptor)
{
    char path[320], name[256] = "";
    snprintf(path, sizeof path, "/proc/%d/fd/%s", pid, descriptor);
    if (readlink(path, name, sizeof name - 1) <= 0 || strncmp(name, "/memfd:stage", 12) != 0) return false;
    tr_state_region *region = NULL;
    tr_error err;
    int file = open(path, O_RDWR | O_CLOEXEC);
    CU_ASSERT_FATAL(file >= 0 && tr_state_region_open(&region, file, &err) == TR_OK);
    for (int slot = 0; slot < 2; slot++) *(unsigned char *)tr_state_slot(region, slot) ^= 1;
    tr_state_region_destroy(&region);
    return true;
}

/* A worker dies, and what it held is not what it was: no generation is left that all hold. Its agent alone can die without
 * that (cli/agent). */
static inline void lose_a_state(const char *run)
{
    int32_t pid = 0;
    int n = 0;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        if (strcmp(json_string_value(json_object_get(event, "event")), "worker_started") == 0)
            pid = (int32_t)json_integer_value(json_object_get(event, "pid"));
    }
    json_decref(events);
    CU_ASSERT_FATAL(pid > 1 && kill(pid, SIGSTOP) == 0);
    command_nap_ms(50); /* all its threads */
    char *path = tr_format("/proc/%d/fd", pid);
    DIR *entries = opendir(path);
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        n += flip_both_slots(pid, entry->d_name);
    if (entries) closedir(entries);
    tr_free(path);
    CU_ASSERT(n > 0);
    kill(pid, SIGKILL);
}

static inline bool same_run(const char *run)
{
    bool same = same_log(undisturbed, run, STEPS);
    for (int step = AT; step <= STEPS; step += STEPS - AT)
        same = same_checkpoint(undisturbed, run, step) && same;
    return same;
}

/* A worker dies with all that there was of its state: the newest checkpoint is what there is. */
static inline void comes_from_the_disk(const char *key)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", "");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, key, NULL});
    CU_ASSERT_FATAL(wait_for_steps(&command, run, 6));
    lose_a_state(run);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(same_run(run));
    CU_ASSERT(count_events(run, "from_disk") == 1);
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static inline void say_what_happened(const case_ *what, const char *run, const char *transport, int deaths)
{
    fprintf(stderr, "\nin %s over %s: %d deaths\n", what->name, transport, deaths);
    tell_events(run);
}

static inline void mends(const case_ *what, const char *transport)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, what->points);
    bool good =
        command_succeeds((const char *const[]){"train", recipe, more[0], more[1], more[2], more[3], NULL});
    good = good && same_run(run);
    good = good && (!is_as_expected || is_as_expected(what, run));
    int deaths = good ? count_events(run, "worker_died") : -1;
    if (!good || deaths < 1 || deaths > what->deaths) say_what_happened(what, run, transport, deaths);
    CU_ASSERT(good);
    CU_ASSERT(deaths >= 1 && deaths <= what->deaths);
    CU_ASSERT(!good || count_events(run, "recovered") >= 1);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static inline void train_with(const char *first, const char *second, const char *third, const char *fourth)
{
    more[0] = first, more[1] = second, more[2] = third, more[3] = fourth;
}

/* A second undisturbed run, with the overrides that there are now but for what `how` says otherwise (NULL: nothing), in the
 * place of the one that it returns, for back_to. */
static inline char *compare_with_another(const char *name, const char *how)
{
    char *before = undisturbed;
    undisturbed = path_in(directory, name);
    char *recipe = write_recipe(undisturbed, "zmq", "");
    CU_ASSERT(command_succeeds(
        (const char *const[]){"train", recipe, how ? how : more[0], more[1], more[2], more[3], NULL}));
    tr_free(recipe);
    return before;
}

static inline void back_to(char *before)
{
    tr_free(undisturbed);
    undisturbed = before;
}

/* It ends with exit 1 and these words. */
static inline void cannot_be_mended(const char *points, const char *override, const char *words)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", points);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, override, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(text_has(command.err_text, words));
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* Trains what all runs are compared with, then runs the tests; what main returns. */
static inline int recovery_tests(const char *name, const check_test *tests, size_t n_tests)
{
    enter_with_words();
    undisturbed = path_in(directory, "undisturbed");
    char *recipe = write_recipe(undisturbed, "zmq", "");
    if (!command_succeeds((const char *const[]){"train", recipe, NULL})) return 1;
    tr_free(recipe);
    int result = check_run(name, tests, n_tests);
    tr_free(undisturbed);
    leave_directory(directory);
    return result;
}

#endif
