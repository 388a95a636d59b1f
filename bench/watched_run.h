/* bench/watched_run.h - a training as a subprocess, followed by what it writes: log.jsonl, events.jsonl.
 * Who disturbs a job must know who lives in it and when it is well again. Both files grow by whole lines, so each look reads
 * only what is new.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BENCH_WATCHED_RUN_H
#define TROUPE_BENCH_WATCHED_RUN_H

#include "base/clock.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WATCHED_NODES = 64, WATCHED_ARGUMENTS = 32 };

typedef struct watched_process {
    int32_t pid;
    bool is_dead; /* as the run says */
} watched_process;

typedef struct watched_run {
    char directory[512];
    pid_t head; /* 0: ended, and status says how */
    int status;
    off_t log_at, events_at;
    uint32_t step; /* newest in the log */
    double step_s; /* when that was seen, monotonic */
    uint32_t epoch;
    int32_t n_nodes, workers[WATCHED_NODES]; /* pids by node, from 1 on */
    int32_t
        agent; /* the newest that followed one that had died; 0: none did. The first is its workers' parent */
    watched_process *all; /* workers that ever were; n_all of them */
    size_t n_all, all_capacity;
    uint32_t n_deaths, n_rotten, n_from_disk, n_readopted;
    bool is_well; /* all were ready, and a new step was logged, since it began or somebody died */
    /* Of the newest event of that kind, monotonic. */
    double died_s, fenced_s, recovered_s, first_new_s;
    char last_death[512];
} watched_run;

static inline double watched_now_s(void)
{
    return (double)tr_clock_ns() * 1e-9;
}

static inline void watched_nap_ms(double ms)
{
    long ns = (long)(ms * 1e6);
    nanosleep(&(struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}, NULL);
}

static inline void watched_take_event(watched_run *self, const json_t *event)
{
    const char *kind = json_string_value(json_object_get(event, "event")),
               *text = json_string_value(json_object_get(event, "text"));
    double at_s = json_number_value(json_object_get(event, "monotonic_s"));
    int32_t node = (int32_t)json_integer_value(json_object_get(event, "node")),
            pid = (int32_t)json_integer_value(json_object_get(event, "pid"));
    const json_t *epoch = json_object_get(event, "epoch");
    if (!kind) return;
    if (epoch) self->epoch = (uint32_t)json_integer_value(epoch);
    if (strcmp(kind, "worker_started") == 0 && node > 0 && node < WATCHED_NODES) {
        if (tr_array_reserve((void **)&self->all, &self->all_capacity, self->n_all + 1, sizeof *self->all,
                             NULL))
            abort();
        self->all[self->n_all++] = (watched_process){.pid = pid};
        self->workers[node] = pid;
        if (node >= self->n_nodes) self->n_nodes = node + 1;
    } else if (strcmp(kind, "worker_died") == 0) {
        self->n_deaths++;
        self->is_well = false;
        self->died_s = at_s;
        snprintf(self->last_death, sizeof self->last_death, "%s", text ? text : "");
        for (size_t i = 0; i < self->n_all; i++) self->all[i].is_dead |= self->all[i].pid == pid;
    } else if (strcmp(kind, "agent_replaced") == 0) {
        self->agent = pid;
    } else if (strcmp(kind, "worker_fenced") == 0) {
        self->fenced_s = at_s;
    } else if (strcmp(kind, "state_rotten") == 0) {
        self->n_rotten++;
    } else if (strcmp(kind, "from_disk") == 0) {
        self->n_from_disk++;
    } else if (strcmp(kind, "recovered") == 0 || strcmp(kind, "readopted") == 0) {
        self->recovered_s = at_s;
        self->n_readopted += strcmp(kind, "readopted") == 0;
    } else if (strcmp(kind, "first_new_step") == 0) {
        self->first_new_s = at_s;
        self->is_well = true;
    }
}

static inline void watched_take_step(watched_run *self, const json_t *record)
{
    self->step = (uint32_t)json_integer_value(json_object_get(record, "step"));
    self->step_s = watched_now_s();
}

/* Calls take for each whole line behind *at. */
static inline void watched_read(watched_run *self, const char *name, off_t *at,
                                void (*take)(watched_run *self, const json_t *line))
{
    char path[600], bytes[65536];
    snprintf(path, sizeof path, "%s/%s", self->directory, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    for (ssize_t n; file >= 0 && (n = pread(file, bytes, sizeof bytes, *at)) > 0;) {
        const char *line = bytes, *end = NULL;
        while ((end = memchr(line, '\n', (size_t)(bytes + n - line)))) {
            json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
            if (object) take(self, object);
            json_decref(object);
            line = end + 1;
        }
        if (line == bytes) break; /* not whole yet */
        *at += line - bytes;
    }
    if (file >= 0) close(file);
}

/* Reads what is new; false: it has ended. */
static inline bool watched_look(watched_run *self)
{
    bool ended = self->head && waitpid(self->head, &self->status, WNOHANG) == self->head;
    if (ended) self->head = 0;
    watched_read(self, "events.jsonl", &self->events_at, watched_take_event);
    watched_read(self, "log.jsonl", &self->log_at, watched_take_step);
    return self->head != 0;
}

/* troupe train RECIPE ..., quiet, ended with us. `arguments` end with NULL. A resume begins with an own look at the log, and perhaps with the
 * workers there are. */
static inline void watched_start(watched_run *self, const char *troupe, const char *directory,
                                 const char *const *arguments, int output)
{
    const char *argv[WATCHED_ARGUMENTS + 3] = {troupe, "train"};
    for (int i = 0; i < WATCHED_ARGUMENTS && arguments[i]; i++) argv[i + 2] = arguments[i];
    snprintf(self->directory, sizeof self->directory, "%s", directory);
    self->log_at = 0;
    self->step = 0;
    self->is_well = true;
    pid_t parent = getpid();
    fflush(NULL);
    self->head = fork();
    if (self->head < 0) abort();
    if (self->head > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent && dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0)
        execv(troupe, (char *const *)(uintptr_t)argv);
    _exit(127);
}

/* Waits until the log has this step; false where it ended or the time passed before. */
static inline bool watched_reach(watched_run *self, uint32_t step, double seconds)
{
    double until_s = watched_now_s() + seconds;
    while (watched_look(self)) {
        if (self->step >= step) return true;
        if (watched_now_s() > until_s) return false;
        watched_nap_ms(2);
    }
    return self->step >= step;
}

static inline bool watched_is_dead(const watched_run *self, int32_t pid)
{
    for (size_t i = 0; i < self->n_all; i++)
        if (self->all[i].pid == pid && self->all[i].is_dead) return true;
    return false;
}

/* Ends and reaps it; what it leaves is for its own to clear away. */
static inline void watched_kill(watched_run *self)
{
    if (!self->head) return;
    kill(self->head, SIGKILL);
    while (waitpid(self->head, &self->status, 0) < 0 && errno == EINTR) {
    }
    self->head = 0;
    watched_look(self);
}

#endif
