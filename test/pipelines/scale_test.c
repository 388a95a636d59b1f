/* test/pipelines/scale_test.c - a wish for another layout is read or refused with a line, the last one of a run is found
 * again, and its state is dealt out tensor by tensor, whatever the cuts are.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/state_moves.h"

#include "actors/roles.h"
#include "check.h"
#include "pipelines/epoch_log.h"
#include "pipelines/files.h"
#include "pipelines/train_scale.h"
#include "runtime/head.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static tr_error err;

static void expect_refused(tr_status status, const char *words)
{
    CU_ASSERT_EQUAL(status, TR_EINVAL);
    CU_ASSERT(strstr(err.message, words) != NULL);
    if (!strstr(err.message, words)) fprintf(stderr, "\n'%s' lacks '%s'\n", err.message, words);
}

static void a_wish_is_read_or_refused_with_a_line(void)
{
    tr_layout read;
    CHECK_OK(tr_layout_parse(&read, "data=4", &err));
    CU_ASSERT(read.data == 4 && read.pipeline == 0 && read.pieces == 0);
    CHECK_OK(tr_layout_parse(&read, " pieces=2  data=65536 pipeline=3 ", &err));
    CU_ASSERT(read.data == 65536 && read.pipeline == 3 && read.pieces == 2);
    expect_refused(tr_layout_parse(&read, "", &err), "scale to what?");
    expect_refused(tr_layout_parse(&read, "data", &err), "'data' is not data=N");
    expect_refused(tr_layout_parse(&read, "data=", &err), "'data=' is not data=N");
    expect_refused(tr_layout_parse(&read, "data= 2", &err), "'data=' is not data=N");
    expect_refused(tr_layout_parse(&read, "data=2,pieces=2", &err), "is not data=N");
    expect_refused(tr_layout_parse(&read, "data=99999999999999999999", &err), "is not data=N");
    expect_refused(tr_layout_parse(&read, "data=65537", &err), "from 1 to 65536");
    expect_refused(tr_layout_parse(&read, "data=-1", &err), "from 1 to 65536");
    expect_refused(tr_layout_parse(&read, "=3", &err), "'' cannot be scaled");
    expect_refused(tr_layout_parse(&read, "data=2 data=2", &err), "given twice");
    CU_ASSERT(read.data == 65536); /* as it was */
}

static tr_status parse_json(tr_layout *read, const char *text)
{
    return tr_layout_parse_json(read, text, strlen(text), &err);
}

static void so_is_one_in_a_file(void)
{
    tr_layout read;
    CHECK_OK(parse_json(&read, "{\"data\": 4, \"pipeline\": 2}\n"));
    CU_ASSERT(read.data == 4 && read.pipeline == 2 && read.pieces == 0);
    expect_refused(parse_json(&read, ""), "it is no JSON object");
    expect_refused(parse_json(&read, "[4]"), "it is no JSON object");
    expect_refused(parse_json(&read, "{\"data\": \"4\"}"), "'data' is not a whole number");
    expect_refused(parse_json(&read, "{\"data\": 4.5}"), "'data' is not a whole number");
    expect_refused(parse_json(&read, "{\"data\": 4, \"data\": 4}"), "it is no JSON object");
    expect_refused(parse_json(&read, "{\"steps\": 4}"), "'steps' cannot be scaled");
    expect_refused(parse_json(&read, "{}"), "scale to what?");
}

static void the_last_layouts_of_a_run_are_found_again(void)
{
    static const tr_layout one = {1, 2, 1, 1}, two = {4, 1, 3, 2};
    char *home = enter_directory(), *path = path_in(home, "epochs.jsonl");
    tr_layout found[2];
    tr_epoch_log *log;
    CU_ASSERT_EQUAL(tr_epoch_log_layouts(path, found, 2), 0);
    CHECK_OK(tr_epoch_log_open(&log, path, &err));
    CHECK_OK(tr_epoch_log_begin(log, 1, &err));
    CU_ASSERT_EQUAL(tr_epoch_log_layouts(path, found, 2), 0);
    CHECK_OK(tr_epoch_log_begin_in(log, 2, &two, &err));
    CHECK_OK(tr_epoch_log_begin_in(log, 3, &one, &err));
    CHECK_OK(tr_epoch_log_from(log, 3, 17, &err));
    CHECK_OK(tr_epoch_log_begin_in(log, 4, &one, &err));
    CHECK_OK(tr_epoch_log_begin(log, 5, &err));
    CU_ASSERT_EQUAL(tr_epoch_log_layouts(path, found, 2), 2);
    CU_ASSERT(tr_layout_is_same(&found[0], &one) && tr_layout_is_same(&found[1], &two));
    CHECK_OK(tr_epoch_log_begin_in(log, 6, &two, &err));
    CU_ASSERT_EQUAL(tr_epoch_log_layouts(path, found, 2), 2);
    CU_ASSERT(tr_layout_is_same(&found[0], &two) && tr_layout_is_same(&found[1], &one));
    CU_ASSERT_EQUAL(tr_epoch_log_layouts(path, found, 1), 1);
    CU_ASSERT(tr_layout_is_same(&found[0], &two));
    tr_epoch_log_close(&log);
    FILE *file = fopen(path, "ae");
    CU_ASSERT_FATAL(file != NULL);
    fputs("{\"epoch\":7,\"data\":9,\"pi", file); /* a head died of writing it: nobody acted in it */
    fclose(file);
    CU_ASSERT_EQUAL(tr_epoch_log_layouts(path, found, 2), 2);
    CU_ASSERT(tr_layout_is_same(&found[0], &two));
    CHECK_OK(tr_epoch_log_open(&log, path, &err));
    CU_ASSERT_EQUAL(tr_epoch_log_first(log), 8);
    tr_epoch_log_close(&log);
    file = fopen(path, "ae");
    CU_ASSERT_FATAL(file != NULL);
    fputs("\n{\"epoch\":8,\"data\":2,\"pipeline\":1,\"pieces\":1}\n",
          file); /* as it was before hosts changed */
    fputs("{\"epoch\":9,\"data\":2,\"pipeline\":1,\"pieces\":12,\"hos\n",
          file); /* cut short, and gone on behind */
    fclose(file);
    CU_ASSERT_EQUAL(tr_epoch_log_layouts(path, found, 2), 2);
    CU_ASSERT(found[0].data == 2 && found[0].pieces == 1 && found[0].hosts == 0);
    tr_free(path);
    leave_directory(home);
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    CU_ASSERT(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = bytes ? bytes : limit.rlim_max;
    CU_ASSERT(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

/* Nothing of it, or a part. */
static void what_could_not_be_recorded_is_not_recorded_later(void)
{
    static const tr_layout one = {1, 2, 1, 1}, two = {4, 1, 3, 2};
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t more = 0; more <= 30; more += 30) {
        char *directory = enter_directory(), *path = path_in(directory, "epochs.jsonl");
        struct stat info;
        tr_layout found;
        tr_epoch_log *log;
        CHECK_OK(tr_epoch_log_open(&log, path, &err));
        CHECK_OK(tr_epoch_log_begin_in(log, 1, &one, &err));
        CU_ASSERT(stat(path, &info) == 0);
        limit_files((rlim_t)info.st_size + more);
        tr_status status = tr_epoch_log_begin_in(log, 2, &two, &err);
        limit_files(0);
        CU_ASSERT_EQUAL(status, TR_EIO);
        CHECK_OK(tr_epoch_log_begin(log, 3, &err));
        tr_epoch_log_close(&log);
        CU_ASSERT(tr_epoch_log_layouts(path, &found, 1) == 1 && tr_layout_is_same(&found, &one));
        CHECK_OK(tr_epoch_log_open(&log, path, &err));
        CU_ASSERT_EQUAL(tr_epoch_log_first(log), 4);
        tr_epoch_log_close(&log);
        tr_free(path);
        leave_directory(directory);
    }
}

/* --- the deal --- */

static char *home;
static tr_recipe recipe;
static tr_data *data;

static void enter(const char *layout)
{
    home = enter_directory();
    char *path = path_in(home, "text"), *bytes = tr_alloc(4000);
    for (int i = 0; i < 4000; i++) bytes[i] = (char)('a' + i % 26);
    CHECK_OK(tr_file_write(path, bytes, 4000, &err));
    char *text = tr_format("run: r\nmodel: {family: llama, layers: 4, width: 18, heads: 3, inner: 25, "
                           "vocabulary: 256, tie: true}\n"
                           "data: {text: %s, holdout: 0.2}\n"
                           "train: {steps: 9, sequence: 8, microbatch: 2, accumulate: 4, groups: 4}\n"
                           "lr: {peak: 0.1}\nlayout: %s\n",
                           path, layout);
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", NULL, 0, &err));
    CHECK_OK(tr_data_open(&data, &recipe, 256, &err));
    tr_free(path), tr_free(bytes), tr_free(text);
}

static void leave(void)
{
    tr_data_close(&data);
    tr_recipe_release(&recipe);
    leave_directory(home);
}

static void another_cut_is_balanced_anew(void)
{
    tr_recipe next;
    tr_layout wish = {.data = 2};
    enter("{pipeline: 2, stages: [1, 3]}");
    CHECK_OK(tr_layout_recipe(&next, &recipe, &wish, &err));
    CU_ASSERT(next.layout.data == 2 && next.layout.stages.count == 2);
    CU_ASSERT(tr_recipe_numerics_differ(&recipe, &next) == NULL);
    tr_recipe_release(&next);
    wish = (tr_layout){.pipeline = 3};
    CHECK_OK(tr_layout_recipe(&next, &recipe, &wish, &err));
    CU_ASSERT(next.layout.data == 1 && next.layout.pipeline == 3 && next.layout.stages.count == 0);
    tr_recipe_release(&next);
    wish = (tr_layout){.data = 5};
    expect_refused(tr_layout_recipe(&next, &recipe, &wish, &err),
                   "layout.data '5' is more replicas than reduction groups (4)");
    CU_ASSERT(strncmp(err.message, "layout.data", 11) == 0);
    wish = (tr_layout){.data = 2};
    CHECK_OK(tr_layout_recipe(&next, &recipe, &wish, &err));
    next.supervision.audit = 0.01;
    tr_recipe audited = next;
    wish = (tr_layout){.data = 1};
    expect_refused(tr_layout_recipe(&next, &audited, &wish, &err), "needs another replica");
    tr_recipe_release(&audited);
    leave();
}

static float value_at(uint32_t tensor, int part, int64_t i)
{
    return (float)(tensor * 100000 + (uint32_t)part * 30000) + (float)i;
}

/* What the slot of a stage holds, by what the stage itself knows of its parameters. */
static float *slot_of(const tr_job_plan *plan, uint32_t replica, uint32_t stage, size_t *n)
{
    tr_stage_spec spec;
    CHECK_SPARED(CHECK_OK(
        tr_model_plan_stage(&plan->model, plan->recipe, &plan->training, replica, stage, &spec, &err)));
    int64_t part_elements = 0, at = 0;
    for (uint32_t i = 0; i < spec.n_parameters; i++)
        part_elements += (spec.parameters[i].n_elements + 15) / 16 * 16;
    *n = (size_t)part_elements * 3;
    float *slot = tr_alloc_zero(*n, sizeof *slot);
    for (int part = 0; part < 3; part++) {
        at = part * part_elements;
        for (uint32_t i = 0; i < spec.n_parameters; i++) {
            for (int64_t e = 0; e < spec.parameters[i].n_elements; e++)
                slot[at + e] = value_at(spec.parameters[i].index, part, e);
            at += (spec.parameters[i].n_elements + 15) / 16 * 16;
        }
    }
    tr_stage_spec_release(&spec);
    return slot;
}

static void make_plan(tr_job_plan *plan, tr_recipe *owned, const tr_layout *layout)
{
    static const tr_start fresh = {.origin = TR_ORIGIN_FRESH};
    tr_model_config config = {0};
    CHECK_OK(tr_layout_recipe(owned, &recipe, layout, &err));
    CHECK_OK(tr_model_config_from_recipe(&config, owned, &err));
    CHECK_OK(tr_job_plan_init(plan, owned, &config, data, &fresh, &err));
}

static void find_place(const tr_job_plan *plan, tr_actor_id id, uint32_t *replica, uint32_t *stage)
{
    for (*replica = 0; *replica < plan->training.n_replicas; ++*replica)
        for (*stage = 0; *stage < plan->training.n_stages; ++*stage)
            if (tr_role_find_stage(&plan->topology, *replica, *stage) == id) return;
    CU_FAIL_FATAL("moves name who is no stage");
}

/* Carries the moves out, and looks at each slot of the new layout. */
static void expect_dealt(const tr_layout *before, const tr_layout *after)
{
    tr_job_plan from, to;
    tr_recipe owned[2];
    tr_state_move *moves;
    size_t n_moves, at = 0, n, n_from;
    CHECK_SPARED(make_plan(&from, &owned[0], before)); /* another test's: here moves are */
    CHECK_SPARED(make_plan(&to, &owned[1], after));
    CHECK_OK(tr_state_moves(&from, &to, &moves, &n_moves, &err));
    for (uint32_t r = 0; r < to.training.n_replicas; r++) {
        for (uint32_t s = 0; s < to.training.n_stages; s++) {
            tr_actor_id id = tr_role_find_stage(&to.topology, r, s);
            float *expected = slot_of(&to, r, s, &n), *dealt = tr_alloc_zero(n, sizeof *dealt);
            CU_ASSERT_EQUAL_FATAL(n * sizeof(float), tr_topology_actor(&to.topology, id)->state_bytes);
            for (; at < n_moves && moves[at].to == id; at++) {
                uint32_t replica, stage = 0;
                find_place(&from, moves[at].from, &replica, &stage);
                float *source = slot_of(&from, replica, stage, &n_from);
                CU_ASSERT_FATAL(moves[at].from_offset + moves[at].bytes <= n_from * sizeof(float));
                CU_ASSERT_FATAL(moves[at].to_offset + moves[at].bytes <= n * sizeof(float));
                memcpy((char *)dealt + moves[at].to_offset, (char *)source + moves[at].from_offset,
                       moves[at].bytes);
                tr_free(source);
            }
            CU_ASSERT(memcmp(dealt, expected, n * sizeof *dealt) == 0);
            tr_free(dealt);
            tr_free(expected);
        }
    }
    CU_ASSERT_EQUAL(at, n_moves);
    tr_free(moves);
    tr_job_plan_release(&from);
    tr_job_plan_release(&to);
    for (int i = 0; i < 2; i++) tr_recipe_release(&owned[i]);
}

static void state_is_dealt_tensor_by_tensor(void)
{
    static const tr_layout layouts[] = {{1, 1, 1, 1}, {3, 1, 1, 1}, {2, 2, 1, 1},
                                        {1, 4, 1, 1}, {2, 2, 2, 1}, {1, 3, 1, 1}};
    enum { N = sizeof layouts / sizeof *layouts };
    enter("{}");
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) expect_dealt(&layouts[i], &layouts[j]);
    leave();
}

/* So that it keeps its memory. */
static void who_stays_what_it_was_takes_its_own_slot(void)
{
    static const tr_layout before = {2, 2, 1, 1}, after = {4, 2, 1, 1};
    tr_job_plan from, to;
    tr_recipe owned[2];
    tr_state_move *moves;
    size_t n_moves;
    enter("{}");
    make_plan(&from, &owned[0], &before);
    make_plan(&to, &owned[1], &after);
    CHECK_OK(tr_state_moves(&from, &to, &moves, &n_moves, &err));
    CU_ASSERT_EQUAL_FATAL(n_moves, 8);
    for (size_t i = 0; i < n_moves; i++) {
        const tr_actor_spec *giver = tr_topology_actor(&from.topology, moves[i].from),
                            *taker = tr_topology_actor(&to.topology, moves[i].to);
        CU_ASSERT(moves[i].bytes == taker->state_bytes && giver->state_bytes == taker->state_bytes);
        CU_ASSERT(i >= 4 || strcmp(giver->name, taker->name) == 0);
    }
    tr_free(moves);
    tr_job_plan_release(&from);
    tr_job_plan_release(&to);
    for (int i = 0; i < 2; i++) tr_recipe_release(&owned[i]);
    leave();
}

/* --- a death on the way --- */

static int count_events(const tr_run *run, const char *what)
{
    char *path = tr_format("%s/r/events.jsonl", home), *text = NULL;
    size_t size;
    int n = 0;
    CHECK_OK(tr_file_read(path, &text, &size, &err));
    CU_ASSERT(run != NULL);
    for (const char *at = text; at && (at = strstr(at, what)); at++) n++;
    tr_free(text), tr_free(path);
    return n;
}

/* The head knows of it before it hears that the coordinator has paused: the job is changed when all are back, and who wanted
 * to leave may ask again. */
static void a_death_behind_the_pause_is_waited_out(void)
{
    static const char wish[] = "{\"data\": 2}";
    const tr_job_event recovered = {.kind = TR_JOB_RECOVERED};
    struct tr_head head = {.phase = TR_HEAD_GREETING};
    tr_job_changes changes;
    tr_recipe own, first;
    tr_job_plan plan;
    enter("{}");
    char *directory = path_in(home, "r"), *file = path_in(home, "r/scale.json");
    make_plan(&plan, &first, &(tr_layout){1, 2, 1, 1});
    own = first;
    own.run = directory;
    tr__training training = {.recipe = &own, .given = &own, .data = data, .plan = &plan, .directory = -1};
    CHECK_OK(tr_run_open(&training.run, &own, 0, NULL, &err));
    CHECK_OK(tr__scale_new(&training.scale, &training, &changes, &err));
    for (int time = 1; time <= 2;
         time++) { /* a worker's wish, which a change goes with that nobody else wants */
        changes.on_leaving(&training, &head, 1);
        tr__scale_paused(training.scale, 3);
        changes.on_ready(&training, &head);
        tr__scale_event(training.scale, &recovered);
        CU_ASSERT_EQUAL(count_events(training.run, "worker_leaving"), time);
    }
    CHECK_OK(tr_file_write(file, wish, sizeof wish - 1, &err));
    tr__scale_tick(training.scale);
    for (int time = 1; time <= 2; time++) {
        tr__scale_paused(training.scale, 3);
        changes.on_ready(&training, &head);
        tr__scale_event(training.scale, &recovered);
    }
    CU_ASSERT_EQUAL(count_events(training.run, "scale_refused"), 0);
    tr__scale_end(training.scale, "the run has ended");
    CU_ASSERT_EQUAL(count_events(training.run, "scale_refused"), 1); /* so there was one to refuse */
    tr__scale_destroy(&training.scale);
    tr_run_close(&training.run);
    while (training.n_plans) {
        tr_job_plan_release(training.plans[--training.n_plans]);
        tr_free(training.plans[training.n_plans]);
    }
    while (training.n_recipes) {
        tr_recipe_release(training.recipes[--training.n_recipes]);
        tr_free(training.recipes[training.n_recipes]);
    }
    tr_free(training.plans), tr_free(training.recipes);
    close(training.directory);
    tr_job_plan_release(&plan);
    tr_recipe_release(&first);
    tr_free(directory), tr_free(file);
    leave();
}

static const check_test tests[] = {
    CHECK_TEST(a_wish_is_read_or_refused_with_a_line),
    CHECK_TEST(so_is_one_in_a_file),
    CHECK_TEST(the_last_layouts_of_a_run_are_found_again),
    CHECK_TEST(what_could_not_be_recorded_is_not_recorded_later),
    CHECK_TEST(another_cut_is_balanced_anew),
    CHECK_TEST(state_is_dealt_tensor_by_tensor),
    CHECK_TEST(who_stays_what_it_was_takes_its_own_slot),
    CHECK_TEST(a_death_behind_the_pause_is_waited_out),
};
CHECK_MAIN("pipelines/scale", tests)
