/* test/cli/audit_test.c - audits: a bit flips in a computation, nobody dies of it, and another worker that computes the same again
 * finds it before anything wrong is in the state. Who erred is told and replaced, and the run ends with the bits of one
 * in which nobody erred.
 * SPDX-License-Identifier: Apache-2.0 */
#include "recovery_run.h"

#include "actors/plan.h"

enum { MICROBATCHES = 4, STAGES = 2 }; /* of a step, of the small run */

static void begin(const char *first, const char *second)
{
    train_with("supervision.audit=1", first, second, NULL);
}

static const char *what_differed, *who_erred, *words_of_it;

static bool tells_who_erred(const case_ *what, const char *run)
{
    (void)what;
    return count_events(run, "corruption") == 1 && event_says(run, "corruption", what_differed) &&
           count_events(run, "corruption_decided") == 1 && event_says(run, "corruption_decided", who_erred) &&
           event_says(run, "corruption_decided", words_of_it);
}

/* Who computed it first erred: one process is replaced, before anything is committed. */
static void flips_in(const char *name, const char *points, const char *result, const char *who)
{
    const case_ flip = {name, points, 1};
    what_differed = result;
    who_erred = who;
    words_of_it = "agrees with the audit";
    is_as_expected = tells_who_erred;
    mends(&flip, "zmq");
    mends(&flip, "ucx");
}

static void flips_in_each_phase(void)
{
    flips_in("an activation", "1/stage 0 of replica 1/forward/12/FLIP",
             "'stage 0 of replica 1' again, and another activation came out",
             "what 'stage 0 of replica 1' computed first");
    flips_in("a gradient", "1/stage 1 of replica 0/backward/12/FLIP",
             "'stage 1 of replica 0' again, and another gradient came out",
             "what 'stage 1 of replica 0' computed first");
    flips_in("a loss", "1/stage 1 of replica 1/forward/12/FLIP",
             "'stage 1 of replica 1' again, and another loss came out",
             "what 'stage 1 of replica 1' computed first");
    flips_in("a weight gradient", "1/stage 0 of replica 0/weight/12/FLIP",
             "'stage 0 of replica 0' again, and another weight gradient came out",
             "what 'stage 0 of replica 0' computed first");
}

static void a_flipped_bit_is_found_and_changes_none(void)
{
    begin(NULL, NULL);
    flips_in_each_phase();
}

static void so_it_is_with_replay(void)
{
    begin("recovery=replay", NULL);
    flips_in_each_phase();
}

/* The first one is replaced before anybody knows better, and then the one who audited. */
static void an_auditor_that_errs_is_replaced(void)
{
    static const case_ flip = {"an audit", "1/stage 1 of replica 0/audit/12/FLIP", 2};
    what_differed = "'stage 1 of replica 0' computed micro-batch";
    who_erred = "the audit by 'stage 1 of replica 0' was wrong; worker 2 is replaced as well";
    words_of_it = "agrees with what 'stage 1 of replica 1' computed first";
    is_as_expected = tells_who_erred;
    begin(NULL, NULL);
    mends(&flip, "zmq");
    mends(&flip, "ucx");
    begin("recovery=replay", NULL);
    mends(&flip, "ucx");
    mends(&flip, "zmq");
}

/* Of all replicas: the last is audited by the first. Sums of gradients travel, as groups have several micro-batches. */
static void so_it_is_with_larger_groups_and_more_replicas(void)
{
    static const case_ flips[] = {{"the second of a group", "1/stage 0 of replica 2/weight/12/FLIP", 1},
                                  {"an audit of the last", "1/stage 0 of replica 0/audit/12/FLIP", 2}};
    begin("layout={data: 3, pipeline: 1}", "train={accumulate: 7, groups: 3, steps: 24, sequence: 32, "
                                           "microbatch: 2}");
    char *before = compare_with_another("undisturbed-groups", "supervision.audit=0");
    is_as_expected = NULL;
    for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
        mends(&flips[i], "ucx");
        mends(&flips[i], "zmq");
    }
    back_to(before);
}

static uint64_t audits_told(const char *run)
{
    json_t *events = events_of(run), *event;
    size_t i;
    unsigned long n = 0;
    json_array_foreach(events, i,
                       event) if (strcmp(json_string_value(json_object_get(event, "event")), "audited") == 0)
        CU_ASSERT(sscanf(json_string_value(json_object_get(event, "text")), "stages computed %lu", &n) == 1);
    json_decref(events);
    return n;
}

static uint64_t audits_due(double rate)
{
    const tr_training_plan plan = {.audit = (uint32_t)(rate * TR_AUDIT_ALL)};
    uint64_t n = 0;
    for (uint32_t step = 0; step < STEPS; step++)
        for (uint32_t m = 0; m < MICROBATCHES; m++) n += tr_plan_is_audited(&plan, 1, step, m); /* seed: 1 */
    return STAGES * n;
}

static void without_a_fault_nothing_changes_but_the_count(void)
{
    static const struct {
        double rate;
        const char *key, *transport, *recovery;
    } runs[] = {{1, "supervision.audit=1", "ucx", "recovery=step"},
                {0.25, "supervision.audit=0.25", "zmq", "recovery=step"},
                {0.25, "supervision.audit=0.25", "ucx", "recovery=replay"},
                {0, "supervision.audit=0", "zmq", "recovery=step"}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char *run = path_in(directory, "run"), *recipe = write_recipe(run, runs[i].transport, "");
        CU_ASSERT(
            command_succeeds((const char *const[]){"train", recipe, runs[i].key, runs[i].recovery, NULL}));
        CU_ASSERT(same_run(run));
        CU_ASSERT_EQUAL(audits_told(run), audits_due(runs[i].rate));
        CU_ASSERT_EQUAL(count_events(run, "audited"), runs[i].rate > 0);
        CU_ASSERT(!count_events(run, "corruption") && !count_events(run, "worker_died"));
        tr_directory_remove_tree(run, NULL);
        tr_free(recipe);
        tr_free(run);
    }
    CU_ASSERT(audits_due(0.25) > 0 && audits_due(0.25) < audits_due(1));
    CU_ASSERT_EQUAL(audits_due(1), STEPS * MICROBATCHES * STAGES);
}

/* Those who die while they audit, or are audited, are replaced like any; nothing is wrong with what they did. */
static void a_death_in_an_audit_is_a_death(void)
{
    static const case_ deaths[] = {
        {"audit", "1/stage 1 of replica 0/audit/12/KILL", 1},
        {"weight", "1/stage 0 of replica 1/weight/12/KILL", 1},
        {"both of a pair", "1/stage 1 of replica 1/audit/12/KILL,1/stage 1 of replica 0/update/12/KILL", 2}};
    is_as_expected = NULL;
    for (int replay = 0; replay < 2; replay++) {
        begin(replay ? "recovery=replay" : NULL, NULL);
        for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) mends(&deaths[i], i % 2 ? "ucx" : "zmq");
    }
}

static void where_three_differ_the_run_ends(void)
{
    cannot_be_mended("1/stage 1 of replica 0/backward/12/FLIP,2/stage 1 of replica 0/backward/12/FLIP",
                     "supervision.audit=1", "gave three results: nothing can be trusted here");
}

static void what_does_not_go_with_it_is_refused_by_name(void)
{
    static const char *const with[][3] = {{"layout.data=1", NULL, "needs another replica"},
                                          {"supervision.hold_every=2", NULL, "give hold_every: 1"},
                                          {"device=cuda", NULL, "is for stages on CPUs"},
                                          {"layout.processes=false", "transport=inproc", "no other worker"},
                                          {"supervision.audit=1.5", NULL, "from 0 to 1"},
                                          {"supervision.audit=1e-7", NULL, "give at least 0.000001"}};
    char *run = path_in(directory, "refused"), *recipe = write_recipe(run, "zmq", "");
    for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
        command_run command;
        command_start(&command, (const char *const[]){"train", recipe, "supervision.audit=0.01", with[i][0],
                                                      with[i][1], NULL});
        command_wait(&command, COMMAND_SECONDS);
        bool good = command_ended(&command, 2) && text_has(command.err_text, "supervision.audit '") &&
                    text_has(command.err_text, with[i][2]);
        if (!good) fprintf(stderr, "\n%s: %s\n", with[i][0], command.err_text);
        CU_ASSERT(good);
        command_release(&command);
    }
    tr_free(recipe);
    tr_free(run);
}

int main(void)
{
    if (getenv("TROUPE_TEST_DEVICE")) return 77; /* it is for CPUs */
    static const check_test tests[] = {
        CHECK_TEST(a_flipped_bit_is_found_and_changes_none),
        CHECK_TEST(so_it_is_with_replay),
        CHECK_TEST(an_auditor_that_errs_is_replaced),
        CHECK_TEST(so_it_is_with_larger_groups_and_more_replicas),
        CHECK_TEST(without_a_fault_nothing_changes_but_the_count),
        CHECK_TEST(a_death_in_an_audit_is_a_death),
        CHECK_TEST(where_three_differ_the_run_ends),
        CHECK_TEST(what_does_not_go_with_it_is_refused_by_name),
    };
    return recovery_tests("cli/audit", tests, sizeof tests / sizeof *tests);
}
