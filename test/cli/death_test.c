/* test/cli/death_test.c - a process of the job that is killed ends the run: soon, with exit 1, naming who it was and
 * what it did, and with nothing left behind.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

/* The promise is 2 seconds; the machine that runs the tests may have other work, so one more is allowed. */
static const double MOST_SECONDS = 3;
enum { WORKERS = 4, MOST_PROCESSES = 16, MOST_NAMES = 256 };

typedef struct job {
    char *directory, *run;
    command_run command;
    int32_t workers[WORKERS + 1]; /* by node, from 1 */
    int32_t agent;
} job;

/* --- what there is --- */

static bool all_are_gone(const job *self)
{
    int left = process_lives(self->agent);
    for (int i = 1; i <= WORKERS; i++) left += process_lives(self->workers[i]);
    return left == 0;
}

typedef struct names {
    char *items[MOST_NAMES];
    size_t count;
} names;

/* Only what a job of ours can make there, by UCX: /dev/shm belongs to everybody on the machine. */
static void list_shared_memory(names *out)
{
    out->count = 0;
    DIR *entries = opendir("/dev/shm");
    for (struct dirent *entry; entries && out->count < MOST_NAMES && (entry = readdir(entries));)
        if (strncmp(entry->d_name, "ucx", 3) == 0) out->items[out->count++] = tr_strdup(entry->d_name);
    if (entries) closedir(entries);
}

static void release_names(names *self)
{
    while (self->count) tr_free(self->items[--self->count]);
}

static bool has_name(const names *self, const char *name)
{
    for (size_t i = 0; i < self->count; i++)
        if (strcmp(self->items[i], name) == 0) return true;
    return false;
}

/* Other jobs on the machine come and go, so only what stays counts. */
static bool nothing_new_stays(const names *before)
{
    bool clean = false;
    for (int i = 0; i < 100 && !clean; i++) {
        names now;
        clean = true;
        list_shared_memory(&now);
        for (size_t k = 0; k < now.count; k++) {
            clean &= has_name(before, now.items[k]);
            if (i == 99 && !has_name(before, now.items[k]))
                fprintf(stderr, "\nleft behind: /dev/shm/%s\n", now.items[k]);
        }
        release_names(&now);
        if (!clean) command_nap_ms(50);
    }
    return clean;
}

/* System V segments that a process of the job made. */
static int count_segments(const job *self)
{
    FILE *stream = fopen("/proc/sysvipc/shm", "re");
    char line[512];
    int n = 0;
    while (stream && fgets(line, sizeof line, stream)) {
        int32_t maker = 0;
        if (sscanf(line, "%*d %*d %*o %*u %d", &maker) != 1) continue;
        for (int i = 1; i <= WORKERS; i++) n += maker == self->workers[i];
    }
    if (stream) fclose(stream);
    return n;
}

/* The kernel calls a process gone when its first thread is; what the others have mapped goes a moment later. */
static bool no_segment_is_left(const job *self)
{
    for (int i = 0; i < 100 && count_segments(self) > 0; i++) command_nap_ms(20);
    return count_segments(self) == 0;
}

/* --- a job in the middle of its training --- */

static void read_pids(job *self)
{
    json_t *events = events_of(self->run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "event"));
        json_int_t node = json_integer_value(json_object_get(event, "node"));
        if (kind && strcmp(kind, "worker_started") == 0 && node >= 1 && node <= WORKERS)
            self->workers[node] = (int32_t)json_integer_value(json_object_get(event, "pid"));
    }
    json_decref(events);
    for (int n = 1; n <= WORKERS; n++) CU_ASSERT_FATAL(self->workers[n] > 1);
    self->agent = 0;
    (void)process_children(self->command.pid, '\0', &self->agent);
    CU_ASSERT_FATAL(self->agent > 1);
}

static void begin(job *self, const char *transport)
{
    *self = (job){.directory = enter_directory()};
    self->run = path_in(self->directory, "run");
    char *text = path_in(self->directory, "words.txt"), *recipe = path_in(self->directory, "recipe.yaml");
    write_words(text, 4000);
    char *yaml = tr_format("run: %s\n"
                           "model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256}\n"
                           "data: {text: %s}\n"
                           "train: {steps: 1000000, sequence: 32, microbatch: 2, accumulate: 4}\n"
                           "lr: {peak: 1e-4}\n"
                           "layout: {data: 2, pipeline: 2}\n"
                           "transport: %s\n"
                           "recovery: off\n",
                           self->run, text, transport);
    write_text(recipe, yaml);
    command_start(&self->command, (const char *const[]){"train", recipe, NULL});
    bool under_way = wait_for_steps(&self->command, self->run, 5);
    if (!under_way) {
        command_wait(&self->command, 0);
        command_ended(&self->command, 0);
    }
    CU_ASSERT_FATAL(under_way);
    read_pids(self);
    tr_free(yaml);
    tr_free(recipe);
    tr_free(text);
}

/* Kills the process and awaits what was promised. */
static void kill_and_check(job *self, int32_t victim, const names *before)
{
    double killed = command_now_s();
    CU_ASSERT(kill(victim, SIGKILL) == 0);
    command_wait(&self->command, COMMAND_SECONDS);
    double took = command_now_s() - killed;
    printf("\n    ended %.2f s after the kill ", took);
    CU_ASSERT(took <= MOST_SECONDS);
    CU_ASSERT(command_ended(&self->command, 1));
    while (!all_are_gone(self) && command_now_s() < killed + MOST_SECONDS) command_nap_ms(10);
    CU_ASSERT(all_are_gone(self));
    CU_ASSERT(no_segment_is_left(self));
    CU_ASSERT(nothing_new_stays(before));
}

static void end(job *self)
{
    command_release(&self->command);
    tr_free(self->run);
    leave_directory(self->directory);
}

/* `worker 2 (pid N) was killed by signal 9 (Killed) while stage 0.1 was in forward of step 7, micro-batch 2`. */
static bool names_an_actor_and_its_work(const char *text)
{
    const char *activity = strstr(text, " while ");
    bool good = activity && (strstr(activity, "stage") || strstr(activity, "data shard")) &&
                strstr(activity, " was ") && strstr(activity, " of step ");
    if (!good) fprintf(stderr, "\nno actor and no work in: %s", text);
    return good;
}

static void check_told(const job *self, int node)
{
    char *words = tr_format("worker %d (pid %d) was killed by signal 9", node, self->workers[node]);
    CU_ASSERT(text_has(self->command.err_text, words));
    CU_ASSERT(names_an_actor_and_its_work(self->command.err_text));
    bool in_events = false;
    json_t *events = events_of(self->run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        if (strcmp(json_string_value(json_object_get(event, "event")), "worker_died") != 0) continue;
        in_events |= json_integer_value(json_object_get(event, "node")) == node &&
                     strstr(json_string_value(json_object_get(event, "text")), words) != NULL;
    }
    json_decref(events);
    CU_ASSERT(in_events);
    tr_free(words);
}

static void worker_dies(const char *transport, int node)
{
    names before;
    job self;
    list_shared_memory(&before);
    begin(&self, transport);
    kill_and_check(&self, self.workers[node], &before);
    check_told(&self, node);
    end(&self);
    release_names(&before);
}

static void agent_dies(const char *transport)
{
    names before;
    job self;
    list_shared_memory(&before);
    begin(&self, transport);
    kill_and_check(&self, self.agent, &before);
    char *words = tr_format("the agent (pid %d) was killed by signal 9", self.agent);
    CU_ASSERT(text_has(self.command.err_text, words));
    tr_free(words);
    end(&self);
    release_names(&before);
}

/* Nobody is left to say anything, but nobody may stay either. */
static void head_dies(const char *transport)
{
    names before;
    job self;
    list_shared_memory(&before);
    begin(&self, transport);
    double killed = command_now_s();
    kill(self.command.pid, SIGKILL);
    command_wait(&self.command, COMMAND_SECONDS);
    while (!all_are_gone(&self) && command_now_s() < killed + MOST_SECONDS) command_nap_ms(10);
    CU_ASSERT(all_are_gone(&self));
    CU_ASSERT(no_segment_is_left(&self));
    CU_ASSERT(nothing_new_stays(&before));
    end(&self);
    release_names(&before);
}

static void death_of_a_worker_ends_a_run_over_ucx(void)
{
    worker_dies("ucx", 1);
    worker_dies("ucx", 4);
}

static void death_of_a_worker_ends_a_run_over_zmq(void)
{
    worker_dies("zmq", 2);
    worker_dies("zmq", 3);
}

static void death_of_the_agent_ends_a_run(void)
{
    agent_dies("ucx");
    agent_dies("zmq");
}

static void death_of_the_head_leaves_nothing(void)
{
    head_dies("ucx");
    head_dies("zmq");
}

static const check_test tests[] = {
    CHECK_TEST(death_of_a_worker_ends_a_run_over_ucx),
    CHECK_TEST(death_of_a_worker_ends_a_run_over_zmq),
    CHECK_TEST(death_of_the_agent_ends_a_run),
    CHECK_TEST(death_of_the_head_leaves_nothing),
};

CHECK_MAIN("cli/death", tests)
