/* cli/ps.c - `troupe ps` and `troupe top`: what each actor of a run does, once or again and again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/topics.h"
#include "base/clock.h"
#include "cli/command.h"
#include "pipelines/observe.h"

#include <jansson.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { ROW_BYTES = 1024, MOST_COLUMNS = ROW_BYTES - 1 };

/* Where rows go: a terminal's are cut at its edge and wipe what was there. */
typedef struct screen {
    bool terminal;
    int columns, rows_left; /* of a terminal */
} screen;

static void put_row(screen *to, const char *row)
{
    if (!to->terminal) {
        puts(row);
    } else if (to->rows_left > 0) {
        printf("%.*s\x1b[K\n", to->columns, row);
        to->rows_left--;
    }
}

static void say_duration(uint64_t now_ns, uint64_t since_ns, char *text, size_t capacity)
{
    double s = now_ns > since_ns ? (double)(now_ns - since_ns) * 1e-9 : 0;
    if (since_ns == 0)
        snprintf(text, capacity, "-");
    else if (s < 1)
        snprintf(text, capacity, "%.0f ms", s * 1e3);
    else if (s < 600)
        snprintf(text, capacity, "%.1f s", s);
    else
        snprintf(text, capacity, "%.0f min", s / 60);
}

static void put_header(screen *to, const char *run, const tr_observation *seen)
{
    char row[ROW_BYTES], loss[64] = "", age[32];
    const tr_processes *processes = &seen->processes;
    if (seen->step) snprintf(loss, sizeof loss, ", loss %.4f, %.0f tokens/s", seen->loss, seen->tokens_per_s);
    say_duration(seen->now_ns, processes->began_ns, age, sizeof age);
    snprintf(row, sizeof row, "%s: step %u/%u%s, epoch %u, running for %s", run, seen->step,
             processes->n_steps, loss, processes->epoch, age);
    put_row(to, row);
}

static void say_number(uint32_t number, char text[16])
{
    if (number == TR_ACTIVITY_NONE)
        snprintf(text, 16, "-");
    else
        snprintf(text, 16, "%u", number);
}

static int longest_name(const tr_topology *topology)
{
    int longest = 5;
    for (size_t i = 0; i < topology->n_actors; i++)
        if ((int)strlen(topology->actors[i].name) > longest) longest = (int)strlen(topology->actors[i].name);
    return longest;
}

/* Of the column HOST, which a job on one has not got. */
static int host_width(const tr_observation *seen)
{
    int width = 0;
    for (size_t i = 0; i < seen->processes.topology.n_actors; i++) {
        int length = (int)strlen(seen->actors[i].host_name);
        if (length > width) width = length;
    }
    if (width && (int)strlen(seen->processes.host) > width) width = (int)strlen(seen->processes.host);
    return width;
}

static const char *host_of(const tr_observation *seen, const tr_actor_seen *one)
{
    return one->host_name[0] ? one->host_name : one->pid ? seen->processes.host : "-";
}

static void say_bytes(uint64_t bytes, char text[16])
{
    double mib = (double)bytes / (1 << 20);
    if (!bytes)
        snprintf(text, 16, "-");
    else if (mib < 10000)
        snprintf(text, 16, "%.0f MiB", mib);
    else
        snprintf(text, 16, "%.1f GiB", mib / 1024);
}

static void put_actor(screen *to, const tr_observation *seen, tr_actor_id id, int name_width,
                      int host_columns)
{
    const tr_actor_spec *actor = tr_topology_actor(&seen->processes.topology, id);
    const tr_actor_seen *one = &seen->actors[id - 1];
    const tr_activity_record *record = &one->record;
    char row[ROW_BYTES], where[32] = "head", life[32] = "-", doing[256], since[32], step[16], microbatch[16];
    char memory[16], host[TR_HOST_CHARS] = "";
    if (actor->node) snprintf(where, sizeof where, "worker %d", actor->node);
    if (host_columns) snprintf(host, sizeof host, "%s", host_of(seen, one));
    say_bytes(one->resident_bytes, memory);
    if (record->actor)
        snprintf(life, sizeof life, "%u.%u", record->incarnation >> 16, record->incarnation & 0xffff);
    say_duration(seen->now_ns, tr_observation_doing(seen, id, doing, sizeof doing), since, sizeof since);
    say_number(record->what[0] ? record->step : TR_ACTIVITY_NONE, step);
    say_number(record->what[0] ? record->microbatch : TR_ACTIVITY_NONE, microbatch);
    snprintf(row, sizeof row, "%-*s  %-9s%*s%-*s %8d %9s %5s %6s %5s %6u %9llu %9s  %s", name_width,
             actor->name, where, host_columns ? 2 : 0, "", host_columns, host, one->pid, memory, life, step,
             microbatch, record->queued, (unsigned long long)record->handled, since, doing);
    put_row(to, row);
}

static void put_all(screen *to, const char *run, const tr_observation *seen)
{
    char row[ROW_BYTES];
    const tr_topology *topology = &seen->processes.topology;
    int width = longest_name(topology), hosts = host_width(seen);
    put_header(to, run, seen);
    snprintf(row, sizeof row, "%-*s  %-9s%*s%-*s %8s %9s %5s %6s %5s %6s %9s %9s  %s", width, "ACTOR",
             "WHERE", hosts ? 2 : 0, "", hosts, hosts ? "HOST" : "", "PID", "MEMORY", "LIFE", "STEP", "BATCH",
             "QUEUED", "HANDLED", "FOR", "DOING");
    put_row(to, row);
    for (size_t i = 0; i < topology->n_actors; i++) put_actor(to, seen, i + 1, width, hosts);
    if (!seen->held_up) return;
    int n = snprintf(row, sizeof row, "%u wait for ", seen->stall.n_waiting);
    tr_stall_describe(&seen->stall, topology, seen->actors, tr_topic_name, seen->now_ns, row + n,
                      sizeof row - (size_t)n);
    put_row(to, row);
}

/* ---- JSON ---- */

static json_t *number_or_null(uint32_t number)
{
    return number == TR_ACTIVITY_NONE ? json_null() : json_integer(number);
}

static json_t *actor_object(const tr_observation *seen, tr_actor_id id)
{
    static const char *const processes[] = {"well", "silent", "stopped", "gone"};
    const tr_topology *topology = &seen->processes.topology;
    const tr_actor_spec *actor = tr_topology_actor(topology, id);
    const tr_actor_seen *one = &seen->actors[id - 1];
    const tr_activity_record *record = &one->record;
    char doing[256], text[256];
    tr_wait waits[TR_ACTIVITY_WAITS];
    uint64_t since_ns = tr_observation_doing(seen, id, doing, sizeof doing);
    json_t *list = json_array();
    uint32_t n = record->running ? 0 : tr_activity_waits(record, waits);
    for (uint32_t i = 0; i < n; i++) {
        tr_wait_describe(topology, &waits[i], tr_topic_name, text, sizeof text);
        json_array_append_new(list, json_string(text));
    }
    json_t *since = since_ns && seen->now_ns >= since_ns ? json_real((double)(seen->now_ns - since_ns) * 1e-9)
                                                         : json_null();
    bool acted = record->what[0] != 0;
    json_t *memory = one->resident_bytes ? json_integer((json_int_t)one->resident_bytes) : json_null();
    return json_pack(
        "{s:s, s:s, s:i, s:s, s:i, s:o, s:i, s:s, s:i, s:i, s:s, s:b, s:o, s:o, s:o, s:o, s:I, s:I}", "name",
        actor->name, "kind", actor->behavior, "node", actor->node, "host", one->pid ? host_of(seen, one) : "",
        "host_number", one->host, "memory_bytes", memory, "pid", one->pid, "process", processes[one->process],
        "epoch", (int)(record->incarnation >> 16), "restarts", (int)(record->incarnation & 0xffff), "doing",
        doing, "running", (int)record->running, "for_s", since, "waits", list, "step",
        acted ? number_or_null(record->step) : json_null(), "microbatch",
        acted ? number_or_null(record->microbatch) : json_null(), "queued", (json_int_t)record->queued,
        "handled", (json_int_t)record->handled);
}

static int print_json(const char *run, const tr_observation *seen)
{
    json_t *object = json_pack("{s:s, s:b, s:o, s:o, s:o}", "run", run, "running", (int)seen->runs, "step",
                               seen->step ? json_integer(seen->step) : json_null(), "loss",
                               seen->step && isfinite(seen->loss) ? json_real(seen->loss) : json_null(),
                               "tokens_per_s", seen->step ? json_real(seen->tokens_per_s) : json_null());
    if (object && seen->runs) {
        json_t *actors = json_array();
        for (size_t i = 0; i < seen->processes.topology.n_actors; i++)
            json_array_append_new(actors, actor_object(seen, i + 1));
        json_object_set_new(object, "steps", json_integer(seen->processes.n_steps));
        json_object_set_new(object, "epoch", json_integer(seen->processes.epoch));
        json_object_set_new(object, "actors", actors);
    } else if (object) {
        json_object_set_new(object, "ended", json_string(seen->ended));
    }
    char *text = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
    json_decref(object);
    if (!text) return command_usage("JSON cannot hold the name '%s', or there is no memory", run);
    puts(text);
    free(text); /* jansson's */
    return seen->runs ? EXIT_DONE : EXIT_FAILED;
}

/* ---- the commands ---- */

static void say_not_running(const char *run, const tr_observation *seen, FILE *stream)
{
    if (seen->step)
        fprintf(stream, "%s is not running; its last step was %u (loss %.4f): %s\n", run, seen->step,
                seen->loss, seen->ended);
    else
        fprintf(stream, "%s is not running; it logged no step: %s\n", run, seen->ended);
}

static int one_run(const char *run, const char *argument, const char *called, const char **out)
{
    if (argument[0] == '-' && argument[1])
        return command_usage("there is no option '%s'; `troupe %s --help` lists them", argument, called);
    if (run) return command_usage("'%s' is one run too many: the first is '%s'", argument, run);
    *out = argument;
    return EXIT_DONE;
}

static int run_ps(int n, char **arguments)
{
    const char *run = NULL;
    bool json = false;
    for (int i = 0; i < n; i++) {
        if (strcmp(arguments[i], "--json") == 0) {
            json = true;
            continue;
        }
        int code = one_run(run, arguments[i], "ps", &run);
        if (code != EXIT_DONE) return code;
    }
    if (!run) return command_usage("which run? usage: troupe ps RUN [--json]");
    tr_observation seen;
    tr_error error;
    if (tr_observe(&seen, run, &error)) return command_failed(&error);
    int code = seen.runs ? EXIT_DONE : EXIT_FAILED;
    screen plain = {0};
    if (json)
        code = print_json(run, &seen);
    else if (seen.runs)
        put_all(&plain, run, &seen);
    else
        say_not_running(run, &seen, stdout);
    tr_observation_release(&seen);
    return code;
}

static volatile sig_atomic_t leave;

static void on_signal(int signal)
{
    (void)signal;
    leave = 1;
}

static struct termios before;
static bool keys_are_ours;

/* Keys as they are pressed, unseen; only where we stand in the foreground: elsewhere the terminal stops who changes it. */
static void take_keys(void)
{
    if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() ||
        tcgetattr(STDIN_FILENO, &before) != 0)
        return;
    struct termios raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    keys_are_ours = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void give_keys_back(void)
{
    if (keys_are_ours) tcsetattr(STDIN_FILENO, TCSANOW, &before);
    keys_are_ours = false;
}

/* Until the time is over, a signal comes, or q is pressed. */
static void rest(double seconds)
{
    uint64_t until_ns = tr_clock_ns() + (uint64_t)(seconds * 1e9);
    for (uint64_t now_ns; !leave && (now_ns = tr_clock_ns()) < until_ns;) {
        struct pollfd keys = {.fd = keys_are_ours ? STDIN_FILENO : -1, .events = POLLIN};
        char key;
        if (poll(&keys, 1, (int)((until_ns - now_ns) / 1000000 + 1)) <= 0) continue;
        ssize_t got = read(STDIN_FILENO, &key, 1);
        if (got <= 0) keys_are_ours = false; /* the terminal is gone */
        if (got == 1 && (key == 'q' || key == 'Q')) leave = 1;
    }
}

static void draw(const char *run, const tr_observation *seen, bool terminal)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
        size = (struct winsize){.ws_row = 24, .ws_col = 80};
    screen to = {
        .terminal = terminal, .columns = size.ws_col ? size.ws_col : 80, .rows_left = size.ws_row - 1};
    if (to.columns > MOST_COLUMNS) to.columns = MOST_COLUMNS;
    if (terminal) fputs("\x1b[H", stdout);
    put_all(&to, run, seen);
    puts(terminal ? "\x1b[J" : "");
    fflush(stdout);
}

/* Looks until the run ends or the person leaves. */
static int watch(const char *run, double interval)
{
    bool terminal = isatty(STDOUT_FILENO), has_run = false;
    int code = EXIT_DONE;
    for (bool goes_on = true; goes_on && !leave;) {
        tr_observation seen;
        tr_error error;
        if (tr_observe(&seen, run, &error)) {
            give_keys_back();
            return command_failed(&error);
        }
        goes_on = seen.runs;
        if (seen.runs) {
            if (terminal && !has_run) fputs("\x1b[2J", stdout);
            draw(run, &seen, terminal);
        } else {
            say_not_running(run, &seen, stdout);
            code = has_run ? EXIT_DONE : EXIT_FAILED;
        }
        has_run |= seen.runs;
        tr_observation_release(&seen);
        if (ferror(stdout)) return EXIT_DONE; /* its reader had enough */
        if (goes_on) rest(interval);
    }
    return code;
}

static int run_top(int n, char **arguments)
{
    const char *run = NULL, *text = NULL;
    double interval = 1;
    bool failed = false;
    for (int i = 0; i < n; i++) {
        if (command_option("--interval", n, arguments, &i, &text, &failed)) {
            if (failed || !command_number("--interval", text, 0.1, 3600, &interval)) return EXIT_USAGE;
            continue;
        }
        int code = one_run(run, arguments[i], "top", &run);
        if (code != EXIT_DONE) return code;
    }
    if (!run) return command_usage("which run? usage: troupe top RUN [--interval SECONDS]");
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    take_keys();
    int code = watch(run, interval);
    give_keys_back();
    return code;
}

static void print_columns(void)
{
    puts("\n"
         "  WHERE    the head's process or a worker's      LIFE     epoch, and restarts within it\n"
         "  HOST     where there are several               MEMORY   of its process, resident\n"
         "  STEP     steps done before the one at hand     BATCH    micro-batch of the step\n"
         "  QUEUED   messages in its mailbox               HANDLED  messages since its process began\n"
         "  DOING    what it does or waits for, and from whom; FOR how long");
}

static void help_ps(void)
{
    puts("usage: troupe ps RUN [--json]\n"
         "\n"
         "Prints what each actor of a running training does. RUN is its directory. The job is not asked and "
         "notices\n"
         "nothing, so that stuck workers are seen as well; only its own user can look, on the host it runs "
         "on.\n"
         "  --json       one JSON object, with all that each actor waits for\n"
         "Exit: 0 it runs, 1 it does not (its last step and how it ended are told), 2 there is no such run.");
    print_columns();
}

static void help_top(void)
{
    puts(
        "usage: troupe top RUN [--interval SECONDS]\n"
        "\n"
        "The same as `troupe ps`, again and again, until the run ends. q or Ctrl-C leaves; the run goes on.\n"
        "  --interval SECONDS    between two looks, from 0.1 on (1)\n"
        "Exit: 0 it ran, 1 it does not run, 2 there is no such run.");
    print_columns();
}

const command command_ps = {"ps", "what each actor of a running training does", run_ps, help_ps};
const command command_top = {"top", "the same, live", run_top, help_top};
