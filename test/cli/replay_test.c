/* test/cli/replay_test.c - recovery by replay: the deaths of cli/recovery, with the same bits, and those who live do not
 * compute again what they have. How much was computed in the step that was gone back to is told by events.jsonl.
 * SPDX-License-Identifier: Apache-2.0 */
#include "recovery_run.h"

enum {
    STAGES = 4,
    OWN = 2,
    ALL = 8
}; /* of the small run: micro-batches of a stage and of all stages, a step */

typedef struct replayed {
    unsigned n_kept, n_stages, n_forwards, n_backwards, n_weights, n_sent, n_compared;
} replayed;

/* What is told of the first step behind the first change of epoch. */
static bool read_replayed(const char *run, replayed *out)
{
    json_t *events = events_of(run), *event;
    size_t i;
    bool found = false;
    json_array_foreach(events, i, event)
    {
        if (found || strcmp(json_string_value(json_object_get(event, "event")), "replayed") != 0) continue;
        found = sscanf(json_string_value(json_object_get(event, "text")),
                       "step %*u: %u of %u stages kept their work; computed were %u forwards, %u backwards, "
                       "%u weight gradients; %u messages were sent again, %u compared",
                       &out->n_kept, &out->n_stages, &out->n_forwards, &out->n_backwards, &out->n_weights,
                       &out->n_sent, &out->n_compared) == 7;
    }
    json_decref(events);
    return found;
}

static bool is_one_of(const case_ *what, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(what->name, *names) == 0) return true;
    return false;
}

/* The one that died computes all of its step again. The others have all of theirs where it died at the step's end; else
 * what they do not have yet, and at least something is left to nobody. */
static bool only_the_dead_compute(const case_ *what, const char *run)
{
    static const char *const at_the_end[] = {"vote of the gradients", "update", NULL};
    static const char *const with_no_step_left[] = {"the last update", NULL};
    static const char *const in_the_middle[] = {"backward", "weight", "reduce", NULL};
    replayed seen = {0};
    if (is_one_of(what, with_no_step_left)) return true;
    if (what->deaths > 1) return count_events(run, "replayed") >= 1;
    bool good = read_replayed(run, &seen) && seen.n_kept == STAGES - 1 && seen.n_stages == STAGES;
    if (is_one_of(what, at_the_end))
        good = good && seen.n_forwards == OWN && seen.n_backwards == OWN && seen.n_weights == OWN;
    if (is_one_of(what, in_the_middle))
        good =
            good && seen.n_forwards >= OWN && seen.n_forwards < ALL && seen.n_sent > 0 && seen.n_compared > 0;
    if (!good)
        fprintf(stderr, "\nkept by %u, computed %u forwards, %u backwards, %u weight gradients, sent %u\n",
                seen.n_kept, seen.n_forwards, seen.n_backwards, seen.n_weights, seen.n_sent);
    return good;
}

static void begin(const char *first, const char *second, const char *third)
{
    train_with("recovery=replay", first, second, third);
    is_as_expected = only_the_dead_compute;
}

static void all_cases(const char *transport)
{
    begin(NULL, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) mends(&cases[i], transport);
}

static void whoever_dies_only_they_compute_again_over_ucx(void)
{
    all_cases("ucx");
}

static void whoever_dies_only_they_compute_again_over_zmq(void)
{
    all_cases("zmq");
}

/* Copies of the weights that are computed with, and masks of dropout: neither is kept, both are made again. */
static void also_in_bfloat16_with_dropout(void)
{
    static const int which[] = {2, 4, 6, 7, 9};
    begin("model.dropout=0.1", "model.family=gpt2", NULL);
    dtype = "bfloat16";
    char *before = compare_with_another("undisturbed-bfloat16", "recovery=step");
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) mends(&cases[which[i]], i % 2 ? "ucx" : "zmq");
    back_to(before);
    dtype = "float32";
}

/* The backward brings the weight gradients with it. */
static void also_where_layers_are_computed_again(void)
{
    static const int which[] = {1, 2, 4, 6};
    begin("layout.recompute=full", NULL, NULL);
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) mends(&cases[which[i]], i % 2 ? "ucx" : "zmq");
}

/* A worker that dies takes two pieces along, and so does one that lives keep two. */
static void also_with_two_pieces_a_worker(void)
{
    static const case_ deaths[] = {{"piece 0", "1/stage 0 of replica 0/forward/12/KILL", 1},
                                   {"piece 3", "1/stage 3 of replica 0/backward/12/KILL", 1},
                                   {"piece 1", "1/stage 1 of replica 0/weight/12/KILL", 1},
                                   {"piece 2", "1/stage 2 of replica 0/update/12/KILL", 1}};
    begin("layout.data=1", "layout.pieces=2", "model.layers=4");
    char *before = compare_with_another("undisturbed-pieces", "recovery=step");
    is_as_expected = NULL;
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) mends(&deaths[i], i % 2 ? "ucx" : "zmq");
    back_to(before);
}

static void trains_through(const char *transport, void (*fault)(const char *run), int n_from_disk)
{
    begin(NULL, NULL, NULL);
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, transport, "");
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, more[0], NULL});
    CU_ASSERT_FATAL(wait_for_steps(&command, run, 6));
    fault(run);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(same_run(run));
    CU_ASSERT(count_events(run, "from_disk") == n_from_disk);
    replayed seen = {0};
    CU_ASSERT(n_from_disk || (read_replayed(run, &seen) && seen.n_kept == STAGES && seen.n_compared > 0));
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

/* Who begins from a checkpoint has nothing of the step before it: all compute, with the same bits. */
static void a_lost_state_leaves_nothing_to_replay(void)
{
    trains_through("ucx", lose_a_state, 1);
}

static void kill_agent(const char *run)
{
    int32_t agent = agent_of(run);
    CU_ASSERT_FATAL(agent > 1 && kill(agent, SIGKILL) == 0);
}

/* All workers outlive it, with their work. */
static void the_agents_death_costs_nobody_a_computation(void)
{
    trains_through("ucx", kill_agent, 0);
    trains_through("zmq", kill_agent, 0);
}

/* The erring one computes a gradient that the stage before it has the hash of, or of which it will get another one. */
static bool finds_the_one_who_erred(const case_ *what, const char *run)
{
    bool second = strcmp(what->name, "the second computation") == 0;
    return event_says(run, "corruption", "'stage 0 of replica 0' was sent the gradient") &&
           event_says(run, "corruption_decided",
                      second ? "what 'stage 1 of replica 0' sent the second time"
                             : "what 'stage 1 of replica 0' sent the first time");
}

static void a_flipped_bit_is_found_and_changes_none(void)
{
    static const case_ flip = {
        "the second computation",
        "1/stage 1 of replica 0/waiting for commit/12/KILL,2/stage 1 of replica 0/backward/12/FLIP", 2};
    begin(NULL, NULL, NULL);
    is_as_expected = finds_the_one_who_erred;
    mends(&flip, "ucx");
    mends(&flip, "zmq");
}

/* Where the wrong step was committed before its maker died, what is logged is wrong: then the run says so and ends. */
static void one_in_the_first_computation_is_found_or_ends_the_run(void)
{
    static const case_ flip = {
        "the first computation",
        "1/stage 1 of replica 0/backward/12/FLIP,1/stage 1 of replica 0/waiting for commit/12/KILL", 2};
    char *run = path_in(directory, "run"), *recipe = write_recipe(run, "ucx", flip.points);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "recovery=replay", NULL});
    command_wait(&command, COMMAND_SECONDS);
    bool mended = command.exit_code == 0 && same_run(run);
    CU_ASSERT(mended ||
              (command_ended(&command, 1) && text_has(command.err_text, "was run again and gave a loss of")));
    CU_ASSERT(finds_the_one_who_erred(&flip, run));
    command_release(&command);
    tr_directory_remove_tree(run, NULL);
    tr_free(recipe);
    tr_free(run);
}

static void where_each_computation_errs_the_run_ends(void)
{
    cannot_be_mended(
        "1/stage 1 of replica 0/backward/12/FLIP,1/stage 1 of replica 0/waiting for commit/12/KILL,"
        "2/stage 1 of replica 0/backward/12/FLIP,3/stage 1 of replica 0/backward/12/FLIP",
        "recovery=replay", "gave three results: nothing can be trusted here");
}

static void what_does_not_go_with_it_is_refused_by_name(void)
{
    static const char *const with[][2] = {{"supervision.hold_every=2", "goes back one step"},
                                          {"device=cuda", "is for stages on CPUs"},
                                          {"layout.processes=false", "where a fault ends the run"}};
    char *run = path_in(directory, "refused"), *recipe = write_recipe(run, "zmq", "");
    for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
        command_run command;
        bool threads = i == 2;
        command_start(&command, (const char *const[]){"train", recipe, "recovery=replay", with[i][0],
                                                      threads ? "transport=inproc" : NULL, NULL});
        command_wait(&command, COMMAND_SECONDS);
        CU_ASSERT(command_ended(&command, 2));
        CU_ASSERT(text_has(command.err_text, "recovery 'replay'") && text_has(command.err_text, with[i][1]));
        command_release(&command);
    }
    tr_free(recipe);
    tr_free(run);
}

int main(void)
{
    if (getenv("TROUPE_TEST_DEVICE")) return 77; /* it is for CPUs */
    static const check_test tests[] = {
        CHECK_TEST(whoever_dies_only_they_compute_again_over_ucx),
        CHECK_TEST(whoever_dies_only_they_compute_again_over_zmq),
        CHECK_TEST(also_in_bfloat16_with_dropout),
        CHECK_TEST(also_where_layers_are_computed_again),
        CHECK_TEST(also_with_two_pieces_a_worker),
        CHECK_TEST(a_lost_state_leaves_nothing_to_replay),
        CHECK_TEST(the_agents_death_costs_nobody_a_computation),
        CHECK_TEST(a_flipped_bit_is_found_and_changes_none),
        CHECK_TEST(one_in_the_first_computation_is_found_or_ends_the_run),
        CHECK_TEST(where_each_computation_errs_the_run_ends),
        CHECK_TEST(what_does_not_go_with_it_is_refused_by_name),
    };
    return recovery_tests("cli/replay", tests, sizeof tests / sizeof *tests);
}
