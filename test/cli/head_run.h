/* test/cli/head_run.h - a small training whose head is killed, for the tests of what comes after.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CLI_HEAD_RUN_H
#define TROUPE_TEST_CLI_HEAD_RUN_H

#include "disturbed_run.h"

enum { STEPS = 24, AT = 12, WORKERS = 4, MOST_PIDS = 32, MOST_SECONDS = 20 };

static char *undisturbed;

/* A moment that a worker stops itself in (chaos.at), for somebody else to be killed in it. */
typedef struct moment {
    const char *name, *points;
    int node;  /* whose worker stops */
    bool dies; /* instead of going on */
} moment;

static const moment moments[] = {
    {"reading", "1/data shard 1/reading/12/STOP", 3, false},
    {"forward", "1/stage 0 of replica 1/forward/12/STOP", 3, false},
    {"backward", "1/stage 1 of replica 0/backward/12/STOP", 2, false},
    {"reduce", "1/stage 0 of replica 0/reduce/12/STOP", 1, false},
    {"vote of the gradients", "1/stage 1 of replica 0/waiting for commit/12/STOP", 2, false},
    {"update", "1/stage 1 of replica 1/update/12/STOP", 4, false},
    {"vote of the update", "1/stage 0 of replica 0/voting/12/STOP", 1, false},
    {"checkpointing", "1/stage 1 of replica 0/saving/12/STOP", 2, false},
    {"measuring", "1/stage 1 of replica 0/evaluation/12/STOP", 2, false},
    {"the recovery of a worker's death",
     "1/stage 1 of replica 0/forward/12/KILL,2/stage 0 of replica 1/restoring/any/STOP", 3, false},
    {"update, with a worker", "1/stage 1 of replica 1/update/12/STOP", 4, true},
    {"the last update", "1/stage 1 of replica 0/voting/23/STOP", 2, false},
};
enum { MOMENTS = sizeof moments / sizeof *moments };

typedef struct job {
    char *run, *recipe;
    command_run command;
    int32_t agent, workers[WORKERS + 1]; /* by node */
    int n_logged;                        /* when the head died */
} job;

/* --- processes --- */

static inline int count_alive(const job *self)
{
    int n = process_lives(self->agent);
    for (int i = 1; i <= WORKERS; i++) n += process_lives(self->workers[i]);
    return n;
}

static inline bool all_gone_within(const job *self, double seconds)
{
    double until = command_now_s() + seconds;
    while (count_alive(self) && command_now_s() < until) command_nap_ms(5);
    return count_alive(self) == 0;
}

/* The first agent is the parent of its workers; one that follows is named when it begins. */
static inline void read_pids(job *self)
{
    int32_t parent = 0, follows = 0;
    json_t *events = events_of(self->run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "event"));
        json_int_t node = json_integer_value(json_object_get(event, "node"));
        int32_t pid = (int32_t)json_integer_value(json_object_get(event, "pid"));
        if (strcmp(kind, "worker_started") == 0 && node >= 1 && node <= WORKERS) self->workers[node] = pid;
        if (strcmp(kind, "agent_replaced") == 0) follows = pid;
    }
    json_decref(events);
    for (int n = 1; n <= WORKERS && !follows; n++) /* the head is the parent when the agent has died */
        if (process_lives(self->workers[n]) && process_state(self->workers[n], &parent) &&
            parent != self->command.pid)
            self->agent = parent;
    if (follows) self->agent = follows;
}

/* --- runs --- */

static inline char *write_recipe(const char *run, const char *transport, const char *more)
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
                  "%s",
                  run, text, STEPS, transport, more);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
    return recipe;
}

static inline void begin(job *self, const char *transport, const char *more, const char *point)
{
    *self = (job){.run = path_in(directory, "run")};
    self->recipe = write_recipe(self->run, transport, more);
    char *at = *point ? tr_format("chaos.at=%s", point) : NULL;
    command_start(&self->command, (const char *const[]){"train", self->recipe, at, NULL});
    tr_free(at);
}

static inline void end(job *self)
{
    command_release(&self->command);
    tr_directory_remove_tree(self->run, NULL);
    tr_free(self->recipe);
    tr_free(self->run);
}

static inline void kill_head(job *self)
{
    kill(self->command.pid, SIGKILL);
    command_wait(&self->command, COMMAND_SECONDS);
    CU_ASSERT(self->command.exit_code == COMMAND_KILLED + SIGKILL);
    self->n_logged = (int)steps_logged(self->run);
    command_release(&self->command);
}

/* Under way, and then without a head. */
static inline void behead(job *self, const char *transport, const char *more)
{
    begin(self, transport, more, "");
    CU_ASSERT_FATAL(wait_for_steps(&self->command, self->run, 6));
    read_pids(self);
    kill_head(self);
}

/* Waits until the worker has stopped itself, by pids that its events tell. */
static inline bool reach_the_moment(job *self, int node)
{
    double until = command_now_s() + COMMAND_SECONDS;
    while (command_now_s() < until) {
        read_pids(self);
        if (process_state(self->workers[node], NULL) == 'T') return true;
        command_nap_ms(2);
    }
    return false;
}

/* The last event of this kind; NULL: none. The caller's. */
static inline json_t *event_of(const char *run, const char *kind, int *count)
{
    json_t *events = events_of(run), *event, *found = NULL;
    size_t i;
    *count = 0;
    json_array_foreach(events, i, event)
    {
        if (strcmp(text_of(event, "event"), kind) != 0) continue;
        json_decref(found);
        found = json_incref(event);
        ++*count;
    }
    json_decref(events);
    return found;
}

static inline bool has_checkpoint(const char *run, int step)
{
    char *path = tr_format("%s/checkpoints/step-%d", run, step);
    bool there = tr_path_is_directory(path);
    tr_free(path);
    return there;
}

/* An epoch that ends when its stages have sent a checkpoint, and gone on, and it has not got its name yet, takes it along: then
 * there is another one in its place, of the state that was gone on from. */
static inline bool was_made_later(const char *run, int step)
{
    bool later = false;
    for (int i = 1; i <= 4; i++) later |= has_checkpoint(run, step + i);
    bool died = count_events(run, "readopted") + count_events(run, "agent_replaced") > 0;
    return later && died && !has_checkpoint(run, step);
}

/* Nothing that was half written stays. */
static inline bool checkpoints_are_whole(const char *run)
{
    char *path = path_in(run, "checkpoints");
    DIR *entries = opendir(path);
    bool whole = entries != NULL;
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        whole &= entry->d_name[0] != '.' || !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
    if (entries) closedir(entries);
    tr_free(path);
    return whole;
}

/* strict: with the checkpoint in the middle, whenever the head died. */
static inline bool same_run(const char *run, bool strict)
{
    bool same = same_log(undisturbed, run, STEPS);
    same = same && ((!strict && was_made_later(run, AT)) || same_checkpoint(undisturbed, run, AT));
    return same && same_checkpoint(undisturbed, run, STEPS) && checkpoints_are_whole(run);
}

/* No epoch is begun twice. */
static inline bool epochs_are_used_once(const char *run)
{
    char *path = path_in(run, "epochs.jsonl");
    json_t *lines = lines_of(path), *line;
    json_int_t last = 0;
    bool good = json_array_size(lines) > 0;
    size_t i;
    json_array_foreach(lines, i, line)
    {
        if (json_object_get(line, "generation")) continue;
        good &= json_integer_value(json_object_get(line, "epoch")) > last;
        last = json_integer_value(json_object_get(line, "epoch"));
    }
    json_decref(lines);
    tr_free(path);
    return good;
}

static inline void say_what_happened(const char *name, const job *self)
{
    fprintf(stderr, "\nin %s, with %d steps logged:\n", name, self->n_logged);
    tell_events(self->run);
}

/* Trains what all runs are compared with, then runs the tests; what main returns. */
static inline int head_tests(const char *name, const check_test *tests, size_t n_tests)
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
