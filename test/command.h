/* test/command.h - the built `troupe` as a subprocess: start it, wait for it within a time, read what it said and
 * wrote. Its output goes to memory files, so that a full pipe never holds it up; it dies with the test.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_COMMAND_H
#define TROUPE_TEST_COMMAND_H

#include "check.h"
#include "pipelines/files.h"
#include "processes.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { COMMAND_MOST_ARGUMENTS = 32, COMMAND_SECONDS = 120, COMMAND_KILLED = 128, COMMAND_TOO_LONG = -1 };

typedef struct command_run {
    pid_t pid; /* 0: has ended */
    int out, err;
    int exit_code; /* COMMAND_KILLED + signal, or COMMAND_TOO_LONG */
    char *out_text, *err_text;
    size_t out_size;
} command_run;

static inline double command_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline void command_nap_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* `arguments` behind the program's name, NULL at the end. The program may be another (TROUPE_TEST_COMMAND), where the tests
 * have moved; and trainings may be on another device (TROUPE_TEST_DEVICE). */
static inline void command_start(command_run *self, const char *const *arguments)
{
    const char *elsewhere = getenv("TROUPE_TEST_COMMAND"), *device = getenv("TROUPE_TEST_DEVICE");
    char *argv[COMMAND_MOST_ARGUMENTS + 3] = {(char *)(uintptr_t)(elsewhere ? elsewhere : TROUPE_COMMAND)};
    int n = 1;
    for (; n <= COMMAND_MOST_ARGUMENTS && arguments[n - 1]; n++)
        argv[n] = (char *)(uintptr_t)arguments[n - 1];
    char key[64];
    snprintf(key, sizeof key, "device=%s", device ? device : "");
    if (device && n > 1 && strcmp(argv[1], "train") == 0) argv[n] = key;
    *self = (command_run){.out = memfd_create("out", MFD_CLOEXEC), .err = memfd_create("err", MFD_CLOEXEC)};
    TR_ASSERT(self->out >= 0 && self->err >= 0);
    pid_t parent = getpid();
    fflush(NULL);
    self->pid = fork();
    TR_ASSERT(self->pid >= 0);
    if (self->pid > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent && dup2(self->out, STDOUT_FILENO) >= 0 && dup2(self->err, STDERR_FILENO) >= 0)
        execv(argv[0], argv);
    _exit(127);
}

static inline char *command_text(int descriptor, size_t *size)
{
    struct stat info;
    TR_ASSERT(fstat(descriptor, &info) == 0);
    char *text = tr_alloc_zero((size_t)info.st_size + 1, 1);
    ssize_t n = pread(descriptor, text, (size_t)info.st_size, 0);
    if (size) *size = n < 0 ? 0 : (size_t)n;
    close(descriptor);
    return text;
}

/* The exit code. What runs longer is killed: that is for a test that hangs, no promise about time. */
static inline int command_wait(command_run *self, double seconds)
{
    double until = command_now_s() + seconds;
    int status = 0;
    bool late = false;
    while (waitpid(self->pid, &status, late ? 0 : WNOHANG) == 0) {
        late = command_now_s() > until;
        if (late) kill(self->pid, SIGKILL);
        if (!late) command_nap_ms(5);
    }
    self->pid = 0;
    self->exit_code = late                  ? COMMAND_TOO_LONG
                      : WIFSIGNALED(status) ? COMMAND_KILLED + WTERMSIG(status)
                                            : WEXITSTATUS(status);
    self->out_text = command_text(self->out, &self->out_size);
    self->err_text = command_text(self->err, NULL);
    return self->exit_code;
}

static inline void command_release(command_run *self)
{
    if (self->pid) command_wait(self, 0);
    tr_free(self->out_text);
    tr_free(self->err_text);
    *self = (command_run){0};
}

/* Whether it ended with this code; what it said is shown where it did not. */
static inline bool command_ended(const command_run *self, int exit_code)
{
    if (self->exit_code == exit_code) return true;
    fprintf(stderr, "\nexit code %d instead of %d; it said:\n%s%s", self->exit_code, exit_code,
            self->out_text, self->err_text);
    return false;
}

static inline bool text_has(const char *text, const char *words)
{
    if (strstr(text, words)) return true;
    fprintf(stderr, "\nexpected \"%s\" in:\n%s", words, text);
    return false;
}

/* Starts and awaits; arguments end with NULL. For commands whose output does not matter: true when all is well. */
static inline bool command_succeeds(const char *const *arguments)
{
    command_run run;
    command_start(&run, arguments);
    command_wait(&run, COMMAND_SECONDS);
    bool good = command_ended(&run, 0);
    command_release(&run);
    return good;
}

/* --- files a command leaves --- */

static inline void write_text(const char *path, const char *text)
{
    tr_error err;
    CHECK_OK(tr_file_write(path, text, strlen(text), &err));
}

/* The whole lines of a .jsonl file, as an array; empty where there is no file yet. */
static inline json_t *lines_of(const char *path)
{
    json_t *lines = json_array();
    char *text = NULL;
    size_t size = 0;
    if (tr_file_read(path, &text, &size, NULL)) return lines;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (!object) fprintf(stderr, "%s: no JSON: %.*s\n", path, (int)(end - line), line);
        CU_ASSERT_FATAL(object != NULL);
        json_array_append_new(lines, object);
    }
    tr_free(text);
    return lines;
}

static inline json_t *log_of(const char *run)
{
    char *path = path_in(run, "log.jsonl");
    json_t *lines = lines_of(path);
    tr_free(path);
    return lines;
}

static inline json_t *events_of(const char *run)
{
    char *path = path_in(run, "events.jsonl");
    json_t *lines = lines_of(path);
    tr_free(path);
    return lines;
}

static inline const char *text_of(const json_t *event, const char *key)
{
    const char *text = json_string_value(json_object_get(event, key));
    return text ? text : "";
}

/* Whether some event of this kind has these words. */
static inline bool has_event(const char *run, const char *kind, const char *words)
{
    json_t *events = events_of(run), *event;
    size_t i;
    bool found = false;
    json_array_foreach(events, i, event) found =
        found || (strcmp(text_of(event, "event"), kind) == 0 && strstr(text_of(event, "text"), words));
    json_decref(events);
    return found;
}

/* The first one is the parent of its workers; one that follows is named when it begins. 0: not known now. */
static inline int32_t agent_of(const char *run)
{
    int32_t worker = 0, follows = 0, parent = 0;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "event"));
        int32_t pid = (int32_t)json_integer_value(json_object_get(event, "pid"));
        if (kind && strcmp(kind, "worker_started") == 0) worker = pid;
        if (kind && strcmp(kind, "agent_replaced") == 0) follows = pid;
    }
    json_decref(events);
    if (!follows) (void)process_state(worker, &parent);
    return follows ? follows : parent > 1 ? parent : 0;
}

static inline int count_events(const char *run, const char *kind)
{
    int n = 0;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event) n +=
        strcmp(json_string_value(json_object_get(event, "event")), kind) == 0;
    json_decref(events);
    return n;
}

/* Whole lines, not looked at: this is what waits ask again and again. */
static inline size_t steps_logged(const char *run)
{
    char *path = path_in(run, "log.jsonl"), *text = NULL;
    size_t size = 0, n = 0;
    if (tr_file_read(path, &text, &size, NULL) == TR_OK)
        for (size_t i = 0; i < size; i++) n += text[i] == '\n';
    tr_free(text);
    tr_free(path);
    return n;
}

/* Waits until the run has logged `steps` steps; false where it ended or COMMAND_SECONDS passed before. */
static inline bool wait_for_steps(const command_run *run, const char *directory, size_t steps)
{
    double until = command_now_s() + COMMAND_SECONDS;
    for (size_t n = 0; n < steps; command_nap_ms(2)) {
        siginfo_t ended = {0};
        waitid(P_PID, (id_t)run->pid, &ended, WEXITED | WNOHANG | WNOWAIT);
        if (ended.si_pid || command_now_s() > until) return false;
        n = steps_logged(directory);
    }
    return true;
}

/* Steps 1 .. n, each once, in order. */
static inline bool log_is_complete(const json_t *log, size_t n_steps)
{
    size_t n = json_array_size(log);
    bool good = n == n_steps;
    for (size_t i = 0; i < n; i++)
        good &= json_integer_value(json_object_get(json_array_get(log, i), "step")) == (json_int_t)i + 1;
    if (!good) fprintf(stderr, "\nthe log has %zu lines instead of steps 1 to %zu\n", n, n_steps);
    return good;
}

/* The numbers of two logs that depend on the training alone, bit for bit. */
static inline bool logs_agree(const json_t *left, const json_t *right)
{
    static const char *const keys[] = {"step", "loss",   "loss_hex",       "grad_norm",
                                       "lr",   "tokens", "validation_loss"};
    size_t n = json_array_size(left), differences = json_array_size(right) != n;
    for (size_t i = 0; i < n; i++) {
        const json_t *a = json_array_get(left, i), *b = json_array_get(right, i);
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            json_t *x = json_object_get(a, keys[k]), *y = json_object_get(b, keys[k]);
            if ((!x && !y) || (x && y && json_equal(x, y))) continue;
            if (differences++ == 0) fprintf(stderr, "\n%s of line %zu differs\n", keys[k], i + 1);
        }
    }
    return differences == 0;
}

/* One file of the checkpoint after `step` is the same in two runs. */
static inline bool checkpoints_agree(const char *left, const char *right, int step, const char *file)
{
    char *a = tr_format("%s/checkpoints/step-%d/%s", left, step, file),
         *b = tr_format("%s/checkpoints/step-%d/%s", right, step, file);
    bool equal = files_are_equal(a, b);
    if (!equal) fprintf(stderr, "\n%s and %s differ\n", a, b);
    tr_free(a);
    tr_free(b);
    return equal;
}

/* A number that changes with anything that is done to what lies at `path`: a file more, another size or time. */
static inline uint64_t looks_of(const char *path)
{
    struct stat info;
    uint64_t sum = 0;
    if (lstat(path, &info)) return 0;
    sum = (uint64_t)info.st_ino * 31 + (uint64_t)info.st_size * 17 + (uint64_t)info.st_mtim.tv_nsec +
          (uint64_t)info.st_mtim.tv_sec * 1000003;
    DIR *entries = S_ISDIR(info.st_mode) ? opendir(path) : NULL;
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *child = path_in(path, entry->d_name);
        sum += 7 * looks_of(child);
        tr_free(child);
    }
    if (entries) closedir(entries);
    return sum;
}

/* A text of made-up words, the same every time. */
static inline void write_words(const char *path, size_t size)
{
    static const char *const words[] = {"the ", "sea ",    "rose ",  "and ",  "fell ",  "upon ",
                                        "a ",   "stone, ", "while ", "wind ", "was.\n", "so ",
                                        "he ",  "said ",   "this ",  "light "};
    char *text = tr_alloc_zero(size + 16, 1);
    uint32_t state = 12345;
    for (size_t n = 0; n < size; n += strlen(text + n)) {
        state = state * 1664525u + 1013904223u;
        strcpy(text + n, words[state >> 28]);
    }
    tr_error err;
    CHECK_OK(tr_file_write(path, text, size, &err));
    tr_free(text);
}

#endif
