/* test/cli/observe_test.c - `troupe ps` and `top` tell what a run does, or how it ended, and change nothing in it; a run
 * that stalls names the actor that everyone waits for, and goes on with the same bits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

#include <sys/ioctl.h>
#include <termios.h>

enum { STEPS = 400, ACTORS = 9 };
static const double WITHIN_S = 40;

static char *directory, *undisturbed;

/* Runs long enough to be looked at; what is disturbed in it leads to no death. */
static char *write_recipe(const char *run, const char *more)
{
    char *text = path_in(directory, "words.txt"), *recipe = tr_format("%s.yaml", run);
    char *yaml =
        tr_format("run: %s\n"
                  "model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256, tie: true}\n"
                  "data: {text: %s}\n"
                  "train: {steps: %d, sequence: 32, microbatch: 2, accumulate: 4}\n"
                  "lr: {peak: 1e-3}\n"
                  "layout: {data: 2, pipeline: 2}\n"
                  "checkpoint: {every: 0, keep: 0}\n"
                  "%s",
                  run, text, STEPS, more);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
    return recipe;
}

static const char watchful[] = "transport: zmq\nrecovery: 'off'\nsupervision: {stall_after: 1}\n";

static json_t *ps_json(const char *run, int exit_code)
{
    command_run ps;
    command_start(&ps, (const char *const[]){"ps", run, "--json", NULL});
    command_wait(&ps, COMMAND_SECONDS);
    json_t *object = command_ended(&ps, exit_code) ? json_loads(ps.out_text, 0, NULL) : NULL;
    if (!object) fprintf(stderr, "\nno JSON: %s%s", ps.out_text, ps.err_text);
    command_release(&ps);
    return object;
}

static const json_t *actor_of(const json_t *object, const char *name)
{
    const json_t *actors = json_object_get(object, "actors");
    for (size_t i = 0; i < json_array_size(actors); i++) {
        const json_t *actor = json_array_get(actors, i);
        if (strcmp(json_string_value(json_object_get(actor, "name")), name) == 0) return actor;
    }
    fprintf(stderr, "\nno actor '%s'\n", name);
    return NULL;
}

static json_int_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* What the first event of a kind says; free it. NULL: there is none. */
static char *words_of_event(const char *run, const char *kind)
{
    char *text = NULL;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        if (!text && strcmp(text_of(event, "event"), kind) == 0) text = tr_strdup(text_of(event, "text"));
    }
    json_decref(events);
    return text;
}

static bool await_event(const char *run, const char *kind)
{
    for (double until = command_now_s() + WITHIN_S; command_now_s() < until; command_nap_ms(20))
        if (count_events(run, kind) > 0) return true;
    fprintf(stderr, "\nno event '%s'\n", kind);
    return false;
}

static void what_is_no_run_is_bad_input(void)
{
    static const struct {
        const char *arguments[4], *words;
    } cases[] = {{{"ps", "/nowhere/at/all"}, "there is no run '/nowhere/at/all'"},
                 {{"top", "/nowhere/at/all"}, "there is no run '/nowhere/at/all'"},
                 {{"ps", "/proc"}, "it has no recipe.yaml"},
                 {{"ps"}, "which run? usage: troupe ps RUN"},
                 {{"top"}, "which run? usage: troupe top RUN"},
                 {{"ps", "--wide", "/proc"}, "there is no option '--wide'"},
                 {{"ps", "/a", "/b"}, "one run too many"},
                 {{"top", "/proc", "--interval=0"}, "--interval '0' is not a number from 0.1 to 3600"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        command_run command;
        command_start(&command, cases[i].arguments);
        command_wait(&command, COMMAND_SECONDS);
        CU_ASSERT(command_ended(&command, 2));
        CU_ASSERT(text_has(command.err_text, cases[i].words));
        command_release(&command);
    }
}

/* Each actor once, where it is, and that it has done something. */
static void check_actors(const json_t *seen, bool processes)
{
    CU_ASSERT(json_is_true(json_object_get(seen, "running")));
    CU_ASSERT(number_of(seen, "step") >= 3 && number_of(seen, "steps") == STEPS);
    CU_ASSERT_EQUAL(number_of(seen, "epoch"), 1);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(seen, "actors")), ACTORS);
    const json_t *clock = actor_of(seen, "coordinator"), *stage = actor_of(seen, "stage 1 of replica 1");
    if (!clock || !stage) {
        CU_FAIL("an actor is missing");
        return;
    }
    CU_ASSERT_EQUAL(number_of(clock, "node"), 0);
    CU_ASSERT(number_of(stage, "node") > 0 && number_of(stage, "handled") > 10 &&
              number_of(stage, "step") >= 2);
    CU_ASSERT_EQUAL(number_of(stage, "epoch"), 1);
    CU_ASSERT_STRING_EQUAL(text_of(stage, "process"), "well");
    CU_ASSERT(text_of(stage, "doing")[0] != 0);
    CU_ASSERT((number_of(stage, "pid") != number_of(clock, "pid")) == processes);
}

static void a_running_job_shows_its_actors(const char *override, bool processes)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "");
    command_run train, ps;
    command_start(&train, (const char *const[]){"train", recipe, override, NULL});
    CU_ASSERT_FATAL(wait_for_steps(&train, run, 3));
    json_t *seen = ps_json(run, 0);
    check_actors(seen, processes);
    json_decref(seen);
    command_start(&ps, (const char *const[]){"ps", run, NULL});
    command_wait(&ps, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&ps, 0));
    CU_ASSERT(text_has(ps.out_text, "/400, loss ") &&
              text_has(ps.out_text, " tokens/s, epoch 1, running for "));
    CU_ASSERT(text_has(ps.out_text, "data shard 1 "));
    command_release(&ps);
    command_wait(&train, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&train, 0));
    command_release(&train);
    json_t *ended = ps_json(run, 1);
    CU_ASSERT(json_is_false(json_object_get(ended, "running")));
    CU_ASSERT_EQUAL(number_of(ended, "step"), STEPS);
    CU_ASSERT_STRING_EQUAL(text_of(ended, "ended"), "done after step 400");
    json_decref(ended);
    char *list = path_in(run, "processes.json");
    CU_ASSERT_FALSE(tr_path_exists(list));
    tr_free(list);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static void processes_are_shown(void)
{
    a_running_job_shows_its_actors("transport=ucx", true);
}

static void so_are_threads(void)
{
    a_running_job_shows_its_actors("layout.processes=false", false);
}

/* Whether one of the things that the actor waits for has these words. */
static bool waits_for(const json_t *seen, const char *name, const char *words)
{
    const json_t *waits = json_object_get(actor_of(seen, name), "waits");
    for (size_t i = 0; i < json_array_size(waits); i++)
        if (strstr(json_string_value(json_array_get(waits, i)), words)) return true;
    return false;
}

/* Wherever in its step stage 1 of replica 0 was stopped. */
static void check_waits(const json_t *seen)
{
    static const char *const stages[] = {"stage 0 of replica 0", "stage 0 of replica 1",
                                         "stage 1 of replica 1"};
    CU_ASSERT(waits_for(seen, "coordinator", "word that gradients are reduced from stage 1 of replica 0"));
    CU_ASSERT(waits_for(seen, "data shard 0", "a credit of t"));
    CU_ASSERT(waits_for(seen, "data shard 1", "a credit of t"));
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        CU_ASSERT(waits_for(seen, stages[i], " from stage ") ||
                  waits_for(seen, stages[i], "the commit from coordinator"));
    CU_ASSERT(!waits_for(seen, "checkpoint", "") && !waits_for(seen, "monitor", ""));
}

static void a_stall_names_whom_all_wait_for_and_changes_no_bit(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, watchful);
    command_run train;
    command_start(&train, (const char *const[]){"train", recipe, NULL});
    CU_ASSERT_FATAL(wait_for_steps(&train, run, 20));
    json_t *seen = ps_json(run, 0);
    const json_t *stage = actor_of(seen, "stage 1 of replica 0");
    pid_t pid = (pid_t)number_of(stage, "pid");
    json_int_t node = number_of(stage, "node");
    json_decref(seen);
    CU_ASSERT_FATAL(pid > 1);
    kill(pid, SIGSTOP);
    bool told = await_event(run, "stalled");
    seen = ps_json(run, 0);
    CU_ASSERT_STRING_EQUAL(text_of(actor_of(seen, "stage 1 of replica 0"), "process"), "stopped");
    CU_ASSERT_STRING_EQUAL(text_of(actor_of(seen, "stage 0 of replica 0"), "process"), "well");
    check_waits(seen);
    json_decref(seen);
    command_nap_ms(2500); /* no second report */
    kill(pid, SIGCONT);
    CU_ASSERT(told);
    command_wait(&train, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&train, 0));
    CU_ASSERT_EQUAL(count_events(run, "stalled"), 1);
    CU_ASSERT_EQUAL(count_events(run, "going_on"), 1);
    CU_ASSERT_EQUAL(count_events(run, "worker_died"), 0);
    char *text = words_of_event(run, "stalled"), *end = words_of_event(run, "going_on");
    char *who = tr_format("wait for stage 1 of replica 0 (worker %d, pid %d), whose process was stopped",
                          (int)node, (int)pid);
    CU_ASSERT(text && text_has(text, who) && text_has(text, "waits for "));
    CU_ASSERT(text_has(train.out_text, who) && text_has(train.out_text, "going on: step "));
    double took_s = 0;
    const char *number = end ? strstr(end, " ended, ") : NULL;
    CU_ASSERT(number && sscanf(number, " ended, %lf s after", &took_s) == 1 && took_s > 3 &&
              took_s < 3 * WITHIN_S);
    json_t *left = log_of(undisturbed), *right = log_of(run);
    CU_ASSERT(log_is_complete(right, STEPS) && logs_agree(left, right));
    CU_ASSERT(checkpoints_agree(undisturbed, run, STEPS, "model.safetensors"));
    json_decref(left);
    json_decref(right);
    command_release(&train);
    tr_directory_remove_tree(run, NULL);
    tr_free(who);
    tr_free(text);
    tr_free(end);
    tr_free(recipe);
    tr_free(run);
}

static void a_head_that_was_killed_left_no_word(void)
{
    char *run = path_in(directory, "run"),
         *recipe = write_recipe(run, "transport: zmq\nsupervision: {lease: 1}\n");
    command_run train;
    command_start(&train, (const char *const[]){"train", recipe, NULL});
    CU_ASSERT_FATAL(wait_for_steps(&train, run, 3));
    kill(train.pid, SIGKILL);
    command_wait(&train, COMMAND_SECONDS);
    json_t *seen = ps_json(run, 1);
    CU_ASSERT(text_has(text_of(seen, "ended"), "of its workers wait for `troupe train --resume`"));
    for (double until = command_now_s() + 30; command_now_s() < until; command_nap_ms(100)) {
        json_decref(seen);
        seen = ps_json(run, 1);
        if (!strstr(text_of(seen, "ended"), "wait")) break; /* the lease has ended */
    }
    const char *last = "ended without a last word, as when it is killed";
    CU_ASSERT(text_has(text_of(seen, "ended"), last) && !strstr(text_of(seen, "ended"), "wait"));
    CU_ASSERT(number_of(seen, "step") >= 3);
    json_decref(seen);
    command_release(&train);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static int count_words(const char *text, const char *words)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, words)); at++) n++;
    return n;
}

static void top_repeats_until_the_run_ends(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "transport: zmq\n");
    command_run train, top;
    command_start(&train, (const char *const[]){"train", recipe, NULL});
    CU_ASSERT_FATAL(wait_for_steps(&train, run, 3));
    command_start(&top, (const char *const[]){"top", run, "--interval", "0.1", NULL});
    command_wait(&train, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&train, 0));
    command_wait(&top, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&top, 0));
    CU_ASSERT(count_words(top.out_text, "ACTOR ") >= 2);
    CU_ASSERT_EQUAL(count_words(top.out_text, "\x1b"), 0);
    CU_ASSERT(text_has(top.out_text, "is not running; its last step was 400"));
    command_release(&top);
    command_start(&top, (const char *const[]){"top", run, NULL});
    command_wait(&top, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&top, 1));
    command_release(&top);
    command_release(&train);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* `troupe top` in the foreground of a terminal of its own. Returns the terminal's other end. */
static int start_on_terminal(const char *run, pid_t *pid, int *terminal)
{
    int other = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    CU_ASSERT_FATAL(other >= 0 && grantpt(other) == 0 && unlockpt(other) == 0);
    *terminal = open(ptsname(other), O_RDWR | O_NOCTTY | O_CLOEXEC);
    CU_ASSERT_FATAL(*terminal >= 0);
    ioctl(*terminal, TIOCSWINSZ, &(struct winsize){.ws_row = 12, .ws_col = 50});
    fflush(NULL);
    *pid = fork();
    if (*pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setsid() > 0 && ioctl(*terminal, TIOCSCTTY, 0) == 0 && dup2(*terminal, 0) == 0 &&
            dup2(*terminal, 1) == 1)
            execl(TROUPE_COMMAND, TROUPE_COMMAND, "top", run, "--interval=0.2", (char *)NULL);
        _exit(127);
    }
    return other;
}

/* Reads what is drawn until it holds the words twice; the text so far. */
static bool is_drawn_twice(int other, const char *words, char *text, size_t capacity)
{
    size_t n = 0;
    for (double until = command_now_s() + WITHIN_S; command_now_s() < until && n + 1 < capacity;) {
        struct pollfd drawn = {.fd = other, .events = POLLIN};
        if (poll(&drawn, 1, 100) <= 0) continue;
        ssize_t got = read(other, text + n, capacity - 1 - n);
        if (got <= 0) break;
        n += (size_t)got;
        text[n] = 0;
        if (count_words(text, words) >= 2) return true;
    }
    return false;
}

/* The exit code; COMMAND_TOO_LONG where it does not end. Drawing goes on meanwhile and must find its reader. */
static int await_exit(pid_t pid, int other)
{
    char text[4096];
    int status;
    for (double until = command_now_s() + WITHIN_S; command_now_s() < until;) {
        struct pollfd drawn = {.fd = other, .events = POLLIN};
        if (poll(&drawn, 1, 20) > 0 && read(other, text, sizeof text) < 0) command_nap_ms(20);
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : COMMAND_KILLED;
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return COMMAND_TOO_LONG;
}

static void leaves_by(char key, const char *run)
{
    static char text[1 << 16];
    struct termios settings;
    pid_t pid;
    int terminal, other = start_on_terminal(run, &pid, &terminal);
    CU_ASSERT(is_drawn_twice(other, "\x1b[H", text, sizeof text));
    CU_ASSERT(strstr(text, "ACTOR ") && strstr(text, "\x1b[K"));
    int longest = 0;
    for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) /* \e[2J\e[H ... \e[K\r */
        if (end - line > longest) longest = (int)(end - line);
    CU_ASSERT(longest <= 50 + 12);
    CU_ASSERT(write(other, &key, 1) == 1);
    CU_ASSERT_EQUAL(await_exit(pid, other), 0);
    CU_ASSERT(tcgetattr(terminal, &settings) == 0 && settings.c_lflag & ICANON && settings.c_lflag & ECHO);
    close(terminal);
    close(other);
}

static void q_and_ctrl_c_leave_top_and_not_the_run(void)
{
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "transport: zmq\n");
    command_run train;
    command_start(&train, (const char *const[]){"train", recipe, "train.steps=100000", NULL});
    CU_ASSERT_FATAL(wait_for_steps(&train, run, 3));
    leaves_by('q', run);
    leaves_by('\x03', run);
    json_t *seen = ps_json(run, 0);
    CU_ASSERT(json_is_true(json_object_get(seen, "running")));
    json_decref(seen);
    kill(train.pid, SIGTERM);
    command_wait(&train, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&train, 1));
    seen = ps_json(run, 1);
    CU_ASSERT(text_has(text_of(seen, "ended"), "as asked; --resume goes on from there"));
    json_decref(seen);
    command_release(&train);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(what_is_no_run_is_bad_input),
        CHECK_TEST(processes_are_shown),
        CHECK_TEST(so_are_threads),
        CHECK_TEST(a_stall_names_whom_all_wait_for_and_changes_no_bit),
        CHECK_TEST(a_head_that_was_killed_left_no_word),
        CHECK_TEST(top_repeats_until_the_run_ends),
        CHECK_TEST(q_and_ctrl_c_leave_top_and_not_the_run),
    };
    directory = enter_directory();
    undisturbed = path_in(directory, "undisturbed");
    char *text = path_in(directory, "words.txt");
    write_words(text, 4000);
    tr_free(text);
    char *recipe = write_recipe(undisturbed, watchful);
    if (!command_succeeds((const char *const[]){"train", recipe, NULL})) return 1;
    tr_free(recipe);
    int result = check_run("cli/observe", tests, sizeof tests / sizeof *tests);
    tr_free(undisturbed);
    leave_directory(directory);
    return result;
}
