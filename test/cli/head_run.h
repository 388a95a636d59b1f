/* test/cli/head_run.h - a small training whose head is killed, for the tests of what comes after.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CLI_HEAD_RUN_H
#define TROUPE_TEST_CLI_HEAD_RUN_H

#include "command.h"

enum { STEPS = 24, AT = 12, WORKERS = 4, MOST_PIDS = 32, MOST_SECONDS = 20 };

static char *directory, *undisturbed;

typedef struct job {
    char *run, *recipe;
    command_run command;
    int32_t agent, workers[WORKERS + 1]; /* by node */
    int n_logged;                        /* when the head died */
} job;

/* --- processes --- */

/* '\0' where there is none, or only its zombie. */
static inline char state_of(int32_t pid, int32_t *parent)
{
    char path[64], line[512] = "", state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *stream = fopen(path, "re");
    const char *behind = stream && fgets(line, sizeof line, stream) ? strrchr(line, ')') : NULL;
    if (stream) fclose(stream);
    if (!behind || sscanf(behind + 1, " %c %d", &state, parent) != 2) return 0;
    if (state == 'Z' || state == 'X') state = '\0';
    return state;
}

static inline bool lives(int32_t pid)
{
    int32_t parent;
    return pid && state_of(pid, &parent) != 0;
}

static inline int count_alive(const job *self)
{
    int n = lives(self->agent);
    for (int i = 1; i <= WORKERS; i++) n += lives(self->workers[i]);
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
        if (self->workers[n] && state_of(self->workers[n], &parent) && parent != self->command.pid)
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

static inline size_t n_logged(const job *self)
{
    json_t *log = log_of(self->run);
    size_t n = json_array_size(log);
    json_decref(log);
    return n;
}

static inline void kill_head(job *self)
{
    kill(self->command.pid, SIGKILL);
    command_wait(&self->command, COMMAND_SECONDS);
    CU_ASSERT(self->command.exit_code == COMMAND_KILLED + SIGKILL);
    self->n_logged = (int)n_logged(self);
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
    int32_t parent;
    while (command_now_s() < until) {
        read_pids(self);
        if (self->workers[node] && state_of(self->workers[node], &parent) == 'T') return true;
        command_nap_ms(2);
    }
    return false;
}

static inline const char *text_of(const json_t *event, const char *key)
{
    const char *text = json_string_value(json_object_get(event, key));
    return text ? text : "";
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

static inline bool same_checkpoint(const char *run, int step)
{
    return checkpoints_agree(undisturbed, run, step, "model.safetensors") &&
           checkpoints_agree(undisturbed, run, step, "trainer/optimizer.safetensors");
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
    json_t *left = log_of(undisturbed), *right = log_of(run);
    bool same = log_is_complete(right, STEPS) && logs_agree(left, right);
    json_decref(left);
    json_decref(right);
    same = same && ((!strict && was_made_later(run, AT)) || same_checkpoint(run, AT));
    return same && same_checkpoint(run, STEPS) && checkpoints_are_whole(run);
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
    json_t *events = events_of(self->run), *event;
    size_t i;
    json_array_foreach(events, i, event)
        fprintf(stderr, "    %.3f %s: %s\n", json_real_value(json_object_get(event, "monotonic_s")),
                text_of(event, "event"), text_of(event, "text"));
    json_decref(events);
}

/* Before all tests: what every run is compared with. */
static inline bool train_undisturbed(void)
{
    directory = enter_directory();
    undisturbed = path_in(directory, "undisturbed");
    char *text = path_in(directory, "words.txt");
    write_words(text, 4000);
    tr_free(text);
    char *recipe = write_recipe(undisturbed, "zmq", "");
    bool good = command_succeeds((const char *const[]){"train", recipe, NULL});
    tr_free(recipe);
    return good;
}

#endif
