/* bench/pipelines.c - how much of a step pipelines idle, and what the runtime takes of it.
 * pipelines [--json] [--rounds N] [--only schedule|processes]
 *   schedule: 4 workers, 16 micro-batches, stages of equally many layers that take what a layer of the quickstart's model is
 *     measured to take here; the step is the one that stages come to by their rule (pipelines/schedule.c, which a test holds
 *     to real stages in simulated time, to the nanosecond). Idle: the share of the workers' time between the first forward
 *     and the last weight gradient.
 *   processes: the command trains the quickstart's model on a made-up text. Idle of two stages in two processes, from
 *     trace.json; tokens a second of 2 x 1 and 1 x 2 beside one worker with two threads, in turns; and what one worker
 *     alone does not compute: its time between steps' first forwards less forward, backward, weight gradient, sums and update.
 * Medians over steps and runs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"
#include "base/memory.h"
#include "bench/rows.h"
#include "pipelines/data.h"
#include "pipelines/job_plan.h"
#include "pipelines/measure.h"

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, MICROBATCHES = 16, STEPS = 30, TRACED_STEPS = 8, SKIPPED_STEPS = 3, TEXT_BYTES = 400000 };
enum { PATIENCE_MS = 120000, MOST_STEPS = 64, MOST_STAGES = 8 };

static char directory[64] = "/tmp/troupe-bench-XXXXXX";

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "pipelines: %s: %s\n", what, why);
    exit(1);
}

static void must(tr_status status, const tr_error *err)
{
    if (status != TR_OK) fail("cannot go on", err->message);
}

static void in_directory(char path[256], const char *name)
{
    snprintf(path, 256, "%s/%s", directory, name);
}

static void clean_up(void)
{
    char command[128];
    if (strchr(directory, 'X')) return; /* was never made */
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    if (system(command) != 0) fprintf(stderr, "pipelines: could not remove %s\n", directory);
}

/* Words by chance: what is learned is of no interest. */
static void make_files(void)
{
    static const char *const words[] = {"and ",    "the ",  "of ",   "kings ",
                                        "saying ", "went ", "unto ", "land\n"};
    static const char recipe[] =
        "run: %s/run\n"
        "model: {family: llama, layers: 4, width: 128, heads: 4, kv_heads: 2, inner: 352, tie: true,\n"
        "        initializer_range: 0.04}\n"
        "data: {text: %s/text, tokenizer: bytes, holdout: 0}\n"
        "train: {steps: %d, sequence: 256, microbatch: 2, accumulate: 4, seed: 1}\n"
        "lr: {peak: 3e-3, warmup: 100, decay: cosine, floor: 0.03}\n"
        "layout: {processes: true}\n"
        "transport: ucx\n";
    if (!mkdtemp(directory)) fail(directory, "cannot be made");
    atexit(clean_up);
    char path[256];
    in_directory(path, "text");
    FILE *file = fopen(path, "w");
    uint32_t draw = 1;
    for (size_t n = 0; file && n < TEXT_BYTES;) {
        draw = draw * 1664525u + 1013904223u;
        n += (size_t)fprintf(file, "%s", words[draw >> 29]);
    }
    if (!file || fclose(file) != 0) fail(path, "cannot be written");
    in_directory(path, "recipe.yaml");
    file = fopen(path, "w");
    if (!file || fprintf(file, recipe, directory, directory, STEPS) < 0 || fclose(file) != 0)
        fail(path, "cannot be written");
}

/* ---- the schedule of 4 workers ---- */

/* What a layer takes, in the middle of the model. */
static tr_stage_times measure_layer(void)
{
    tr_error err;
    tr_recipe recipe;
    tr_data *data;
    tr_model_config config = {0};
    tr_job_plan plan;
    const tr_start start = {0};
    char path[256];
    in_directory(path, "recipe.yaml");
    must(tr_recipe_read(&recipe, path, NULL, 0, &err), &err);
    must(tr_model_config_from_recipe(&config, &recipe, &err), &err);
    must(tr_data_open(&data, &recipe, config.vocabulary, &err), &err);
    must(tr_job_plan_init(&plan, &recipe, &config, data, &start, &err), &err);
    tr_stage_times units[MOST_STAGES];
    must(tr_measure_units(&plan.model, TR_RECOMPUTE_NONE, 1, units, NULL, &err), &err);
    tr_stage_times layer = units[2]; /* the embedding is the first */
    tr_job_plan_release(&plan);
    tr_data_close(&data);
    tr_recipe_release(&recipe);
    return layer;
}

static tr_training_plan plan_of(uint32_t n_workers, uint32_t n_pieces, uint32_t extra_stash)
{
    return (tr_training_plan){.n_replicas = 1,
                              .n_stages = n_workers * n_pieces,
                              .n_pieces = n_pieces,
                              .n_microbatches = MICROBATCHES,
                              .n_groups = 4,
                              .extra_stash = extra_stash};
}

static double foretold(const tr_training_plan *plan, const tr_stage_times *stages)
{
    tr_error err;
    tr_schedule schedule;
    must(tr_schedule_foretell(&schedule, plan, 0, stages, &err), &err);
    double idle = 100 * schedule.idle;
    tr_schedule_release(&schedule);
    return idle;
}

static uint32_t best_stash(const tr_training_plan *plan, const tr_stage_times *stages)
{
    tr_error err;
    uint32_t extra;
    must(tr_schedule_choose_stash(&extra, plan, 0, stages, &err), &err);
    return extra;
}

/* No order of work can idle less, of equal stages. A worker begins when the first input has reached it. With one piece a
 * worker it can do no more forwards before its first backward, and keep no more weight gradients for the time behind its
 * last one, than it has credits: P - 1 - s forwards and backwards must have come back to it by then, and s backwards and a
 * weight gradient follow. */
static double floor_of(const tr_training_plan *plan, const tr_stage_times *stage)
{
    double forward = (double)stage->ns[TR_PHASE_FORWARD], backward = (double)stage->ns[TR_PHASE_BACKWARD];
    double weight = (double)stage->ns[TR_PHASE_WEIGHT], busy = forward + backward + weight, longest = 0;
    uint32_t workers = tr_plan_workers(plan);
    for (uint32_t s = 0; s < workers; s++) {
        double before = s * forward, behind = 0;
        if (plan->n_pieces == 1) {
            double credits = tr_plan_stash_credits(plan, 0, s);
            double waits = workers * forward + (workers - 1 - s) * backward - credits * forward;
            if (waits > before) before = waits;
            behind = s * backward + weight - credits * weight;
        }
        double step = before + busy * plan->n_pieces * MICROBATCHES + (behind > 0 ? behind : 0);
        if (step > longest) longest = step;
    }
    return 100 * (1 - busy * plan->n_pieces * MICROBATCHES / longest);
}

/* With the default of layout.stash, and with the one that `troupe plan --measure` would propose. */
static void report_schedule(bool json)
{
    rows_load load = rows_load_begin();
    tr_stage_times layer = measure_layer();
    for (uint32_t pieces = 1; pieces <= 2; pieces++) {
        tr_stage_times stages[MOST_STAGES], whole = layer;
        for (int phase = 0; phase < TR_PHASE_COUNT; phase++) whole.ns[phase] = layer.ns[phase] * 4 / pieces;
        for (uint32_t s = 0; s < WORKERS * pieces; s++) stages[s] = whole;
        tr_training_plan plan = plan_of(WORKERS, pieces, 1);
        for (int planned = 0; planned < 2; planned++) {
            if (planned) plan.extra_stash = best_stash(&plan, stages);
            char name[128];
            snprintf(name, sizeof name, "idle, 4 workers x 16, %s, measured layers, stash: %u%s (schedule)",
                     pieces == 1 ? "one piece" : "two pieces", plan.extra_stash,
                     planned ? ", as planned" : "");
            const row one = {.name = name,
                             .unit = "%",
                             .ours = foretold(&plan, stages),
                             .baseline =
                                 100 * (WORKERS - 1.0) / ((double)pieces * MICROBATCHES + WORKERS - 1),
                             .baseline_name = pieces == 1 ? "1F1B" : "interleaved 1F1B",
                             .limit = floor_of(&plan, &whole),
                             .limit_name = "any order",
                             .target = pieces == 1 ? 6.5 : 3.5,
                             .load = rows_load_since(&load)};
            row_print(&one, json);
        }
    }
}

/* ---- the command ---- */

/* Runs it with these overrides, into the directory's `run`, which is made anew. */
static void train(const char *const *overrides, size_t n)
{
    char path[256], *arguments[24] = {TROUPE_COMMAND, "train", path};
    char run[256];
    in_directory(run, "run");
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", run);
    if (system(command) != 0) fail(run, "cannot be removed");
    in_directory(path, "recipe.yaml");
    for (size_t i = 0; i < n; i++) arguments[3 + i] = (char *)(uintptr_t)overrides[i];
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) fail("the system", "starts no process");
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (nowhere < 0 || dup2(nowhere, 1) < 0) _exit(127);
        execv(arguments[0], arguments);
        _exit(127);
    }
    int status = 0, waited_ms = 0;
    for (pid_t ended = 0; (ended = waitpid(child, &status, WNOHANG)) != child; waited_ms += 20) {
        if (ended < 0) fail("the training", "is lost");
        if (waited_ms == PATIENCE_MS) kill(child, SIGTERM);
        if (waited_ms > PATIENCE_MS + 5000) kill(child, SIGKILL);
        tr_clock_sleep_ms(20);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("the training", "failed; its words are above");
}

/* Adds the tokens a second of each step but the first ones. */
static void read_log(samples *out)
{
    char path[256], line[4096];
    in_directory(path, "run/log.jsonl");
    FILE *file = fopen(path, "re");
    if (!file) fail(path, "is not there");
    while (fgets(line, sizeof line, file)) {
        json_t *record = json_loads(line, 0, NULL);
        if (json_integer_value(json_object_get(record, "step")) > SKIPPED_STEPS)
            samples_add(out, json_number_value(json_object_get(record, "tokens_per_s")));
        json_decref(record);
    }
    fclose(file);
}

/* ---- trace.json ---- */

/* Of one step, in microseconds. */
typedef struct traced {
    double begin, end;                          /* first forward, last weight gradient, of all stages */
    double computed;                            /* forward, backward and weight gradient, of all stages */
    double worked;                              /* the same with sums and update */
    double phases[MOST_STAGES][TR_PHASE_COUNT]; /* by stage */
} traced;

/* Stages are rows in the order of their numbers: their thread's number, less that of the first. */
static int64_t first_stage_of(const json_t *events)
{
    int64_t first = INT64_MAX;
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event)
    {
        const char *name = json_string_value(json_object_get(json_object_get(event, "args"), "name"));
        int64_t tid = json_integer_value(json_object_get(event, "tid"));
        if (name && strncmp(name, "stage ", 6) == 0 && tid < first) first = tid;
    }
    return first;
}

static int phase_of(const char *name)
{
    static const char *const names[TR_PHASE_COUNT] = {[TR_PHASE_FORWARD] = "forward",
                                                      [TR_PHASE_BACKWARD] = "backward",
                                                      [TR_PHASE_WEIGHT] = "weight gradient"};
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        if (strcmp(name, names[phase]) == 0) return phase;
    return -1;
}

static void take_span(traced *steps, int64_t stage, const json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "name"));
    int64_t step = json_integer_value(json_object_get(json_object_get(event, "args"), "step"));
    double ts = json_number_value(json_object_get(event, "ts")),
           dur = json_number_value(json_object_get(event, "dur"));
    if (!name || step < 1 || step >= MOST_STEPS || stage < 0 || stage >= MOST_STAGES) return;
    traced *of = &steps[step];
    int phase = phase_of(name);
    if (phase < 0) {
        if (strcmp(name, "reduce") == 0 || strcmp(name, "update") == 0) of->worked += dur;
        return;
    }
    if (of->computed == 0 || ts < of->begin) of->begin = ts;
    if (ts + dur > of->end) of->end = ts + dur;
    of->computed += dur;
    of->worked += dur;
    of->phases[stage][phase] += dur;
}

static void read_trace(traced steps[MOST_STEPS])
{
    char path[256];
    json_error_t why;
    in_directory(path, "run/trace.json");
    json_t *events = json_load_file(path, 0, &why), *event;
    if (!events) fail(path, why.text);
    memset(steps, 0, MOST_STEPS * sizeof *steps);
    int64_t first = first_stage_of(events);
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "ph"));
        if (kind && strcmp(kind, "X") == 0)
            take_span(steps, json_integer_value(json_object_get(event, "tid")) - first, event);
    }
    json_decref(events);
}

/* ---- rows of real processes ---- */

static void report_idle_of_two(uint32_t pieces, int rounds, bool json)
{
    static traced steps[MOST_STEPS];
    static samples idle, wanted;
    idle.n = wanted.n = 0;
    rows_load load = rows_load_begin();
    char steps_word[64], pieces_word[64];
    snprintf(steps_word, sizeof steps_word, "train.steps=%d", TRACED_STEPS);
    snprintf(pieces_word, sizeof pieces_word, "layout.pieces=%u", pieces);
    const char *const overrides[] = {steps_word,         pieces_word,  "layout.pipeline=2",
                                     "layout.threads=1", "trace=true", "train.accumulate=16"};
    for (int round = 0; round < rounds; round++) {
        train(overrides, sizeof overrides / sizeof *overrides);
        read_trace(steps);
        for (int s = SKIPPED_STEPS; s <= TRACED_STEPS; s++) {
            const traced *of = &steps[s];
            if (of->computed <= 0) continue;
            samples_add(&idle, 100 * (1 - of->computed / (2 * (of->end - of->begin))));
            tr_stage_times stages[MOST_STAGES];
            for (uint32_t k = 0; k < 2 * pieces; k++)
                for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
                    stages[k].ns[phase] = (uint64_t)(of->phases[k][phase] * 1e3 / MICROBATCHES);
            const tr_training_plan plan = plan_of(2, pieces, 1); /* the default of layout.stash */
            samples_add(&wanted, foretold(&plan, stages));
        }
    }
    const row one = {.name = pieces == 1 ? "idle, 2 processes x 16, one piece (trace)"
                                         : "idle, 2 processes x 16, two pieces (trace)",
                     .unit = "%",
                     .ours = samples_median(&idle),
                     .baseline = 100 / ((double)pieces * MICROBATCHES + 1),
                     .baseline_name = pieces == 1 ? "1F1B, equal stages" : "interleaved, equal stages",
                     .limit = samples_median(&wanted),
                     .limit_name = "messages of no time",
                     .target = pieces == 1 ? 6.5 : 3.5,
                     .load = rows_load_since(&load)};
    row_print(&one, json);
}

static void report_layouts(int rounds, bool json)
{
    static const char *const layouts[3][3] = {{"layout.data=1", "layout.pipeline=1", "layout.threads=2"},
                                              {"layout.data=2", "layout.pipeline=1", "layout.threads=1"},
                                              {"layout.data=1", "layout.pipeline=2", "layout.threads=1"}};
    static samples tokens[3];
    rows_load load = rows_load_begin();
    for (int round = 0; round < rounds; round++)
        for (int k = 0; k < 3; k++) {
            train(layouts[k], 3);
            read_log(&tokens[k]);
        }
    double alone = samples_median(&tokens[0]);
    for (int k = 1; k < 3; k++) {
        const row one = {.name = k == 1 ? "2 x 1 on two processors" : "1 x 2 on two processors",
                         .unit = "tokens/s",
                         .ours = samples_median(&tokens[k]),
                         .baseline = alone,
                         .baseline_name = "one worker, two threads",
                         .limit = (double)NAN,
                         .limit_name = "",
                         .target = 0.95 * alone,
                         .load = rows_load_since(&load)};
        row_print(&one, json);
    }
}

static void report_overhead(int rounds, bool json)
{
    static traced steps[MOST_STEPS];
    static samples share;
    rows_load load = rows_load_begin();
    const char *const overrides[] = {"layout.threads=1", "trace=true"};
    for (int round = 0; round < rounds; round++) {
        train(overrides, 2);
        read_trace(steps);
        for (int s = SKIPPED_STEPS; s < STEPS; s++) {
            double period = steps[s + 1].begin - steps[s].begin;
            if (steps[s].computed > 0 && steps[s + 1].computed > 0)
                samples_add(&share, 100 * (1 - steps[s].worked / period));
        }
    }
    const row one = {.name = "runtime's share of a step: messages, credits, commit, log",
                     .unit = "%",
                     .ours = samples_median(&share),
                     .baseline = (double)NAN,
                     .baseline_name = "",
                     .limit = 0,
                     .limit_name = "kernels alone",
                     .target = 1,
                     .load = rows_load_since(&load)};
    row_print(&one, json);
}

int main(int argc, char **argv)
{
    int rounds = 3;
    const char *only = "";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            rounds = atoi(argv[++i]);
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--json") != 0)
            rounds = 0;
    }
    bool known = !*only || strcmp(only, "schedule") == 0 || strcmp(only, "processes") == 0;
    if (rounds < 1 || rounds > 20 || !known) {
        fprintf(stderr, "usage: pipelines [--json] [--rounds N] [--only schedule|processes]\n");
        return 2;
    }
    bool json = rows_flag(argc, argv, "--json");
    make_files();
    if (strcmp(only, "processes") != 0) report_schedule(json);
    if (strcmp(only, "schedule") == 0) return 0;
    report_idle_of_two(1, rounds, json);
    report_idle_of_two(2, rounds, json);
    report_layouts(rounds, json);
    report_overhead(rounds, json);
    return 0;
}
