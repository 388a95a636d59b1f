/* test/cli/scale_run.h - a run whose layout changes while it goes on, and what it must have in common with one that was left alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CLI_SCALE_RUN_H
#define TROUPE_TEST_CLI_SCALE_RUN_H

#include "disturbed_run.h"
#include "pipelines/epoch_log.h"

enum { STEPS = 1200, EACH = 200, MOST_NODES = 16 }; /* a checkpoint after EACH of them */
#define ENDLESS "train.steps=1000000"

static char *undisturbed[2]; /* by dtype */

typedef struct job {
    char *run, *recipe;
    const char *dtype;
    command_run command;
} job;

static inline void write_recipe(job *self, const char *transport, const char *more)
{
    char *text = path_in(directory, "words.txt");
    char *yaml =
        tr_format("run: %s\n"
                  "model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256, tie: true}\n"
                  "data: {text: %s}\n"
                  "train: {steps: %d, sequence: 16, microbatch: 1, accumulate: 4}\n"
                  "lr: {peak: 1e-3}\n"
                  "transport: %s\n"
                  "validate: {every: 300, windows: 2}\n"
                  "checkpoint: {every: %d, keep: 0}\n"
                  "supervision: {intensity: 50}\n"
                  "dtype: %s\n"
                  "%s",
                  self->run, text, STEPS, transport, EACH, self->dtype, more);
    self->recipe = tr_format("%s.yaml", self->run);
    write_text(self->recipe, yaml);
    tr_free(yaml);
    tr_free(text);
}

/* key: an override, or NULL. */
static inline void begin(job *self, const char *transport, const char *dtype, const char *more,
                         const char *key)
{
    *self = (job){.run = path_in(directory, "run"), .dtype = dtype};
    write_recipe(self, transport, more);
    command_start(&self->command, (const char *const[]){"train", self->recipe, key, NULL});
}

static inline void resume(job *self)
{
    command_release(&self->command);
    command_start(&self->command, (const char *const[]){"train", self->recipe, "--resume", NULL});
}

static inline void end(job *self)
{
    command_release(&self->command);
    tr_directory_remove_tree(self->run, NULL);
    tr_free(self->recipe);
    tr_free(self->run);
}

static inline bool makes_steps(const job *self, size_t n)
{
    return wait_for_steps(&self->command, self->run, steps_logged(self->run) + n);
}

/* `what` is in what it says. */
static inline bool scale(const job *self, const char *a, const char *b, int code, const char *what)
{
    command_run command;
    command_start(&command, (const char *const[]){"scale", self->run, a, b, NULL});
    command_wait(&command, COMMAND_SECONDS);
    bool good = command_ended(&command, code) && text_has(code ? command.err_text : command.out_text, what);
    command_release(&command);
    return good;
}

/* How many processes a node has had, and the last one. */
static inline int lives_of(const job *self, int node, int32_t *pid)
{
    int n = 0;
    json_t *events = events_of(self->run), *event;
    size_t i;
    *pid = 0;
    json_array_foreach(events, i, event)
    {
        if (strcmp(json_string_value(json_object_get(event, "event")), "worker_started") != 0 ||
            json_integer_value(json_object_get(event, "node")) != node)
            continue;
        *pid = (int32_t)json_integer_value(json_object_get(event, "pid"));
        n++;
    }
    json_decref(events);
    return n;
}

static inline bool is_gone_within(int32_t pid, double seconds)
{
    double until = command_now_s() + seconds;
    while (process_lives(pid) && command_now_s() < until) command_nap_ms(2);
    return !process_lives(pid);
}

/* 0 would be this test's own group. */
static inline void kill_one(int32_t pid)
{
    CU_ASSERT_FATAL(pid > 1);
    kill(pid, SIGKILL);
}

static inline int32_t head_of(const job *self)
{
    char *path = path_in(self->run, "processes.json");
    json_t *processes = json_load_file(path, 0, NULL);
    json_t *head = json_array_get(json_object_get(processes, "nodes"), 0);
    int32_t pid = (int32_t)json_integer_value(json_object_get(head, "pid"));
    json_decref(processes);
    tr_free(path);
    return pid;
}

/* It ends, with the undisturbed run's bits. */
static inline bool ends_the_same(job *self)
{
    const char *other = undisturbed[strcmp(self->dtype, "float32") != 0];
    command_wait(&self->command, COMMAND_SECONDS);
    bool same = command_ended(&self->command, 0) && same_log(other, self->run, STEPS);
    /* One that a head died of writing may be another step's. */
    for (int step = count_events(self->run, "readopted") ? STEPS : EACH; same && step <= STEPS; step += EACH)
        same = same_checkpoint(other, self->run, step);
    for (int node = 1; node < MOST_NODES; node++) {
        int32_t pid;
        (void)lives_of(self, node, &pid);
        if (same && process_lives(pid)) fprintf(stderr, "\nworker %d (pid %d) was left behind\n", node, pid);
        same = same && !process_lives(pid);
    }
    char *socket = path_in(self->run, "scale.sock");
    same = same && !tr_path_exists(socket);
    tr_free(socket);
    if (!same) tell_events(self->run);
    return same;
}

static inline bool nobody_died(const job *self)
{
    bool none = !count_events(self->run, "worker_died") && !count_events(self->run, "worker_fenced") &&
                !count_events(self->run, "recovered");
    if (!none) tell_events(self->run);
    return none;
}

#endif
