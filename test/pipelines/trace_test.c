/* test/pipelines/trace_test.c - what trace.json tells of real runs, in processes and in one: that it is whole, and that the
 * stages did what the design promises, whatever the machine's timing was.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

enum { STEPS = 6, MICROBATCHES = 8, MOST_STAGES = 4, MOST_REPLICAS = 2, KINDS = 3, SLACK_NS = 1 };

static const char *const kinds[KINDS] = {"forward", "backward", "weight gradient"};

static const struct {
    const char *name, *data, *layout, *processes;
    int n_replicas, n_stages, n_pieces, extra;
} layouts[] = {
    {"two", "layout.data=2", "layout={pipeline: 2, stash: 1}", "layout.processes=true", 2, 2, 1, 1},
    {"four", "layout.data=1", "layout={pipeline: 4, stash: 1}", "layout.processes=false", 1, 4, 1, 1},
    {"tight", "layout.data=1", "layout={pipeline: 4, stash: 0}", "layout.processes=false", 1, 4, 1, 0},
    {"pieces", "layout.data=2", "layout={pipeline: 2, pieces: 2, stash: 1}", "layout.processes=true", 2, 4, 2,
     1},
    {"tight-pieces", "layout.data=1", "layout={pipeline: 2, pieces: 2, stash: 0}", "layout.processes=true", 1,
     4, 2, 0},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static char *directory, *recipe;

/* Of one micro-batch of one step at one stage, by kind. */
typedef struct work {
    int count[KINDS];
    int64_t begin_ns[KINDS], end_ns[KINDS];
} work;
static work works[MOST_REPLICAS][MOST_STAGES][STEPS + 1][MICROBATCHES];
static int n_work_spans;

static void set_up(void)
{
    directory = enter_directory();
    recipe = path_in(directory, "recipe.yaml");
    char *text = path_in(directory, "words.txt");
    write_words(text, 6000);
    char *yaml =
        tr_format("run: %s/plain\n"
                  "model: {family: llama, layers: 4, width: 32, heads: 4, kv_heads: 2, vocabulary: 256}\n"
                  "data: {text: %s, holdout: 0.1}\n"
                  "train: {steps: %d, sequence: 32, microbatch: 1, accumulate: %d, seed: 3}\n"
                  "lr: {peak: 5e-3, warmup: 10}\n"
                  "supervision: {lease: 0}\n"
                  "validate: {every: 2, windows: 3}\n"
                  "checkpoint: {every: 2}\n",
                  directory, text, STEPS, MICROBATCHES);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
    for (int l = 0; l < LAYOUTS; l++) {
        char *run = tr_format("run=%s/%s", directory, layouts[l].name);
        CU_ASSERT_FATAL(
            command_succeeds((const char *const[]){"train", recipe, run, "trace=true", layouts[l].layout,
                                                   layouts[l].data, layouts[l].processes, NULL}));
        tr_free(run);
    }
}

static void tear_down(void)
{
    tr_free(recipe);
    leave_directory(directory);
}

static json_t *read_trace(const char *run)
{
    char *path = tr_format("%s/%s/trace.json", directory, run);
    json_error_t error;
    json_t *trace = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!trace) fprintf(stderr, "\n%s:%d: %s\n", path, error.line, error.text);
    CU_ASSERT_FATAL(json_is_array(trace));
    tr_free(path);
    return trace;
}

static int64_t number_of(const json_t *event, const char *key)
{
    const json_t *value = json_object_get(event, key);
    return value ? json_integer_value(value)
                 : json_integer_value(json_object_get(json_object_get(event, "args"), key));
}

static int64_t ns_of(const json_t *event, const char *key)
{
    return (int64_t)(json_number_value(json_object_get(event, key)) * 1000 + 0.5);
}

/* "stage 1 of replica 0" by its row; false: it is no stage's. */
static bool find_stage(const json_t *trace, int64_t tid, int *replica, int *stage)
{
    size_t i;
    json_t *event;
    json_array_foreach((json_t *)(uintptr_t)trace, i, event)
    {
        if (strcmp(text_of(event, "name"), "thread_name") != 0 || number_of(event, "tid") != tid) continue;
        return sscanf(text_of(json_object_get(event, "args"), "name"), "stage %d of replica %d", stage,
                      replica) == 2;
    }
    return false;
}

static int kind_of(const json_t *event)
{
    for (int k = 0; k < KINDS; k++)
        if (strcmp(kinds[k], text_of(event, "name")) == 0) return k;
    return -1;
}

static void gather(const json_t *trace)
{
    memset(works, 0, sizeof works);
    n_work_spans = 0;
    size_t i;
    json_t *event;
    json_array_foreach((json_t *)(uintptr_t)trace, i, event)
    {
        int kind = kind_of(event), replica, stage;
        int64_t step = number_of(event, "step"), m = number_of(event, "microbatch");
        if (kind < 0) continue;
        CU_ASSERT_FATAL(find_stage(trace, number_of(event, "tid"), &replica, &stage));
        CU_ASSERT_FATAL(step >= 1 && step <= STEPS && m >= 0 && m < MICROBATCHES);
        work *at = &works[replica][stage][step][m];
        at->count[kind]++;
        at->begin_ns[kind] = ns_of(event, "ts");
        at->end_ns[kind] = at->begin_ns[kind] + ns_of(event, "dur");
        n_work_spans++;
    }
}

/* Calls `check` for each stage's step of every layout, with the replica's micro-batches. */
static void for_each_step(void (*check)(int layout, int replica, int stage, int step, int first, int end))
{
    for (int l = 0; l < LAYOUTS; l++) {
        json_t *trace = read_trace(layouts[l].name);
        gather(trace);
        int each = MICROBATCHES / layouts[l].n_replicas;
        CU_ASSERT_EQUAL(n_work_spans, KINDS * STEPS * MICROBATCHES * layouts[l].n_stages);
        for (int r = 0; r < layouts[l].n_replicas; r++)
            for (int s = 0; s < layouts[l].n_stages; s++)
                for (int step = 1; step <= STEPS; step++) check(l, r, s, step, r * each, (r + 1) * each);
        json_decref(trace);
    }
}

/* --- promises --- */

static void check_once(int layout, int r, int s, int step, int first, int end)
{
    (void)layout;
    for (int m = first; m < end; m++)
        for (int k = 0; k < KINDS; k++) CU_ASSERT_EQUAL(works[r][s][step][m].count[k], 1);
}

static void every_microbatch_has_each_span_once_a_stage(void)
{
    for_each_step(check_once);
}

static int workers_of(int layout)
{
    return layouts[layout].n_stages / layouts[layout].n_pieces;
}

static int credits_of(int layout, int s)
{
    int extra = layouts[layout].extra, to_end = workers_of(layout) - (layouts[layout].n_pieces > 1 ? 0 : s);
    bool keeps_weights = layouts[layout].n_pieces == 1 && extra > 0 && s > to_end;
    return (keeps_weights ? s : to_end) + extra;
}

static void check_stash(int layout, int r, int s, int step, int first, int end)
{
    int credits = credits_of(layout, s);
    for (int m = first; m < end; m++) { /* most are held when one has just come */
        int held = 0;
        int64_t now = works[r][s][step][m].begin_ns[0];
        for (int o = first; o < end; o++)
            held += works[r][s][step][o].begin_ns[0] <= now && works[r][s][step][o].end_ns[2] > now;
        CU_ASSERT(held >= 1 && held <= credits);
    }
}

static void a_stage_holds_no_more_than_its_stash_credits(void)
{
    for_each_step(check_stash);
}

/* A worker's pieces: one thing at a time, and together no more than what the plan has memory for. */
static void check_worker(int layout, int r, int s, int step, int first, int end)
{
    for (int m = first; m < end; m++) {
        int held = 0;
        const work *own = &works[r][s][step][m];
        for (int q = s % workers_of(layout); q < layouts[layout].n_stages; q += workers_of(layout))
            for (int o = first; o < end; o++) {
                const work *other = &works[r][q][step][o];
                held += other->begin_ns[0] <= own->begin_ns[0] && other->end_ns[2] > own->begin_ns[0];
                for (int k = 0; k < KINDS * KINDS && q != s; k++)
                    CU_ASSERT(own->end_ns[k / KINDS] <= other->begin_ns[k % KINDS] + SLACK_NS ||
                              other->end_ns[k % KINDS] <= own->begin_ns[k / KINDS] + SLACK_NS);
            }
        CU_ASSERT(held <= layouts[layout].n_pieces * credits_of(layout, 0));
    }
}

static void the_pieces_of_a_worker_take_turns_and_keep_within_its_memory(void)
{
    for_each_step(check_worker);
}

static void check_order(int layout, int r, int s, int step, int first, int end)
{
    (void)layout;
    for (int m = first; m < end; m++) {
        const work *at = &works[r][s][step][m];
        CU_ASSERT(at->end_ns[0] <= at->begin_ns[1] + SLACK_NS && at->end_ns[1] <= at->begin_ns[2] + SLACK_NS);
        for (int k = 0; k < KINDS && m > first; k++)
            CU_ASSERT(works[r][s][step][m - 1].end_ns[k] <= at->begin_ns[k] + SLACK_NS);
    }
}

static void weight_gradients_come_in_the_order_of_microbatches(void)
{
    for_each_step(check_order);
}

static void check_neighbours(int layout, int r, int s, int step, int first, int end)
{
    for (int m = first; m < end && s + 1 < layouts[layout].n_stages; m++) {
        const work *here = &works[r][s][step][m], *next = &works[r][s + 1][step][m];
        CU_ASSERT(here->end_ns[0] <= next->begin_ns[0] + SLACK_NS);
        CU_ASSERT(next->end_ns[1] <= here->begin_ns[1] + SLACK_NS);
    }
}

static void forwards_flow_down_the_stages_and_backwards_up(void)
{
    for_each_step(check_neighbours);
}

static void spans_of_one_actor_never_overlap(void)
{
    for (int l = 0; l < LAYOUTS; l++) {
        json_t *trace = read_trace(layouts[l].name), *event;
        int64_t ends[64] = {0};
        size_t i, n_waiting = 0;
        json_array_foreach(trace, i, event)
        {
            if (strcmp(text_of(event, "ph"), "X") != 0) continue;
            int64_t row = number_of(event, "tid"), begin = ns_of(event, "ts");
            CU_ASSERT_FATAL(row > 0 && row < 64);
            CU_ASSERT(begin + SLACK_NS >= ends[row] && ns_of(event, "dur") >= 0);
            ends[row] = begin + ns_of(event, "dur");
            n_waiting += strcmp(text_of(event, "name"), "waiting") == 0;
        }
        CU_ASSERT(n_waiting > 0);
        json_decref(trace);
    }
}

static size_t count(const json_t *trace, const char *phase, const char *name)
{
    size_t i, n = 0;
    json_t *event;
    json_array_foreach((json_t *)(uintptr_t)trace, i, event) n +=
        strcmp(text_of(event, "ph"), phase) == 0 && strcmp(text_of(event, "name"), name) == 0;
    return n;
}

static void everything_an_actor_does_has_its_span(void)
{
    for (int l = 0; l < LAYOUTS; l++) {
        json_t *trace = read_trace(layouts[l].name);
        size_t stages = (size_t)layouts[l].n_replicas * (size_t)layouts[l].n_stages;
        CU_ASSERT_EQUAL(count(trace, "M", "process_name"), stages / (size_t)layouts[l].n_pieces + 1);
        CU_ASSERT_EQUAL(count(trace, "M", "thread_name"), 3 + stages + (size_t)layouts[l].n_replicas);
        CU_ASSERT_EQUAL(count(trace, "X", "update"), stages * STEPS);
        CU_ASSERT(count(trace, "X", "reduce") >= stages * STEPS);
        CU_ASSERT(count(trace, "X", "reading") >= STEPS * MICROBATCHES);
        CU_ASSERT(count(trace, "X", "sending") >= STEPS * MICROBATCHES);
        CU_ASSERT(count(trace, "X", "evaluation") > 0 && count(trace, "X", "saving") > 0);
        json_decref(trace);
    }
}

static void a_trace_changes_no_bit_and_is_not_written_unasked(void)
{
    char *plain = path_in(directory, "plain"), *traced = path_in(directory, "four");
    char *none = path_in(plain, "trace.json");
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, NULL}));
    json_t *expected = log_of(plain), *log = log_of(traced);
    CU_ASSERT(log_is_complete(log, STEPS) && logs_agree(expected, log));
    CU_ASSERT(checkpoints_agree(plain, traced, STEPS, "model.safetensors"));
    CU_ASSERT(!tr_path_exists(none));
    json_decref(expected);
    json_decref(log);
    tr_free(none);
    tr_free(plain);
    tr_free(traced);
}

static void the_trace_of_a_killed_run_is_whole(void)
{
    static const int signals[] = {SIGKILL, SIGINT};
    for (int i = 0; i < 2; i++) {
        char *run = tr_format("%s/killed-%d", directory, signals[i]), *key = tr_format("run=%s", run);
        command_run command;
        command_start(&command, (const char *const[]){"train", recipe, key, "trace=true",
                                                      "train.steps=100000", "layout.pipeline=2", NULL});
        CU_ASSERT(wait_for_steps(&command, run, 3));
        kill(command.pid, signals[i]);
        command_wait(&command, COMMAND_SECONDS);
        command_release(&command);
        json_t *trace = read_trace(strrchr(run, '/') + 1);
        CU_ASSERT(count(trace, "X", "update") >= 2);
        json_decref(trace);
        tr_free(key);
        tr_free(run);
    }
}

static const check_test tests[] = {
    CHECK_TEST(set_up),
    CHECK_TEST(every_microbatch_has_each_span_once_a_stage),
    CHECK_TEST(a_stage_holds_no_more_than_its_stash_credits),
    CHECK_TEST(the_pieces_of_a_worker_take_turns_and_keep_within_its_memory),
    CHECK_TEST(weight_gradients_come_in_the_order_of_microbatches),
    CHECK_TEST(forwards_flow_down_the_stages_and_backwards_up),
    CHECK_TEST(spans_of_one_actor_never_overlap),
    CHECK_TEST(everything_an_actor_does_has_its_span),
    CHECK_TEST(a_trace_changes_no_bit_and_is_not_written_unasked),
    CHECK_TEST(the_trace_of_a_killed_run_is_whole),
    CHECK_TEST(tear_down),
};

CHECK_MAIN("trace", tests)
