/* test/pipelines/schedule_test.c - which order of work falls out of mailboxes and credits: real stages in simulation, where
 * forward, backward and weight gradient take given times on the virtual clock and messages take none. What the trace tells
 * is compared with 1F1B as it is written down in the literature, and, to the nanosecond, with a scheduler of a few lines
 * that follows the design's rule: backward, then forward if a stash credit is free, weight gradients as filler.
 * Source of 1F1B: Narayanan et al., PipeDream, 2019.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "pipelines/files.h"

#include "actors/checkpoint.h"
#include "actors/coordinator.h"
#include "actors/monitor.h"
#include "actors/roles.h"
#include "pipelines/job_plan.h"
#include "pipelines/sources.h"
#include "runtime/simulation.h"

#include <inttypes.h>

enum { STAGES = 4, MICROBATCHES = 16, STEPS = 2, KINDS = 3, MOST_ACTIONS = KINDS * MICROBATCHES };
enum { F = TR_SPAN_FORWARD, B = TR_SPAN_BACKWARD, W = TR_SPAN_WEIGHT };

typedef struct action {
    int kind;
    uint32_t microbatch;
    uint64_t begin_ns, end_ns;
} action;

/* One step, by stage, each in the order in which it was done. */
typedef struct schedule {
    action actions[STAGES][MOST_ACTIONS];
    uint32_t n[STAGES];
} schedule;

typedef uint64_t durations[STAGES][KINDS];

static const durations equal = {
    {1000, 1000, 1000}, {1000, 1000, 1000}, {1000, 1000, 1000}, {1000, 1000, 1000}};
/* A backward that does both and a weight gradient of no time is a fused backward: the gradient is sent after both. */
static const durations fused = {{1000, 2000, 0}, {1000, 2000, 0}, {1000, 2000, 0}, {1000, 2000, 0}};
/* No sum of a few of these is a sum of a few others: nothing happens twice at one time. */
static const durations uneven = {{1009, 1213, 907}, {1511, 1733, 1319}, {701, 811, 653}, {1901, 2203, 1607}};
static const durations slow_first = {
    {3001, 3203, 2801}, {1009, 1103, 907}, {1013, 1109, 911}, {1019, 1117, 919}};

/* --- the real stages --- */

typedef struct job {
    tr_recipe recipe;
    tr_data *data;
    tr_job_plan plan;
    const durations *takes;
    schedule seen[STEPS];
} job;

static uint64_t duration_of(void *context, tr_actor_id who, const char *what, uint32_t step, uint32_t m)
{
    (void)step, (void)m;
    static const char *const names[KINDS] = {"forward", "backward", "weight"};
    const job *self = context;
    for (uint32_t s = 0; s < STAGES; s++)
        for (int k = 0; k < KINDS; k++)
            if (who == tr_role_find_stage(&self->plan.topology, 0, s) && strcmp(what, names[k]) == 0)
                return (*self->takes)[s][k];
    return 0;
}

static void on_trace(void *context, tr_actor_id who, const tr_span *spans, uint32_t n_spans,
                     uint64_t n_dropped)
{
    job *self = context;
    CU_ASSERT_EQUAL(n_dropped, 0);
    for (uint32_t s = 0; s < STAGES; s++)
        for (uint32_t i = 0; i < n_spans && who == tr_role_find_stage(&self->plan.topology, 0, s); i++) {
            if (spans[i].kind > TR_SPAN_WEIGHT) continue;
            schedule *seen = &self->seen[spans[i].step - 1];
            CU_ASSERT_FATAL(seen->n[s] < MOST_ACTIONS);
            seen->actions[s][seen->n[s]++] =
                (action){(int)spans[i].kind, spans[i].microbatch, spans[i].begin_ns, spans[i].end_ns};
        }
}

static double learning_rate(void *context, uint32_t step)
{
    (void)context, (void)step;
    return 1e-3;
}

static tr_status ignore_record(void *context, const tr_step_record *record, tr_error *err)
{
    (void)context, (void)record, (void)err;
    return TR_OK;
}

static void ignore_note(void *context, const char *kind, const char *text)
{
    (void)context, (void)kind, (void)text;
}

static void ignore_tick(void *context)
{
    (void)context;
}

static tr_status begin(void *context, uint32_t updates, tr_error *err)
{
    (void)context, (void)updates, (void)err;
    return TR_OK;
}

static tr_status write_nothing(void *context, uint32_t parameter, uint32_t part, uint64_t offset_bytes,
                               const void *bytes, size_t size_bytes, tr_error *err)
{
    (void)context, (void)parameter, (void)part, (void)offset_bytes, (void)bytes, (void)size_bytes, (void)err;
    return TR_OK;
}

static tr_status commit(void *context, char *path, size_t path_capacity, tr_error *err)
{
    (void)context, (void)err;
    snprintf(path, path_capacity, "nowhere");
    return TR_OK;
}

static void abandon(void *context)
{
    (void)context;
}

static void prepare(job *self, const char *text_path, int extra_stash)
{
    static const char text[] =
        "run: none\n"
        "model: {family: llama, layers: 4, width: 8, heads: 2, kv_heads: 1, inner: 16, vocabulary: 256}\n"
        "train: {steps: 2, sequence: 8, microbatch: 1, accumulate: 16, groups: 4, seed: 7}\n"
        "lr: {peak: 1e-3}\n"
        "layout: {pipeline: 4}\n"
        "trace: true\n";
    tr_error err;
    tr_model_config config = {0};
    const tr_start start = {0};
    char *data = tr_format("data={text: %s, holdout: 0}", text_path);
    char *stash = tr_format("layout.stash=%d", extra_stash);
    const char *overrides[] = {data, stash};
    CHECK_OK(tr_recipe_parse(&self->recipe, text, sizeof text - 1, "recipe", overrides, 2, &err));
    CHECK_OK(tr_model_config_from_recipe(&config, &self->recipe, &err));
    CHECK_OK(tr_data_open(&self->data, &self->recipe, config.vocabulary, &err));
    CHECK_OK(tr_job_plan_init(&self->plan, &self->recipe, &config, self->data, &start, &err));
    tr_free(data);
    tr_free(stash);
}

static void simulate(job *self, uint64_t seed)
{
    uint64_t n_elements = 0;
    tr_error err;
    for (size_t i = 0; i < self->plan.model.parameters.count; i++)
        n_elements += (uint64_t)self->plan.n_elements[i];
    tr_coordinator_context coordinator = {.plan = self->plan.training,
                                          .n_elements = self->plan.n_elements,
                                          .n_parameters = (uint32_t)self->plan.model.parameters.count,
                                          .learning_rate = learning_rate};
    tr_monitor_context monitor = {.context = self,
                                  .record = ignore_record,
                                  .note = ignore_note,
                                  .tick = ignore_tick,
                                  .trace = on_trace};
    tr_checkpoint_writer writer = {.total_bytes = 3 * sizeof(float) * n_elements,
                                   .begin = begin,
                                   .write = write_nothing,
                                   .commit = commit,
                                   .abandon = abandon};
    const tr_actor_kind kinds[] = {
        {"stage", &tr_stage_behavior, (void *)(uintptr_t)&tr_pipeline_stage_source},
        {"data_shard", &tr_data_shard_behavior, (void *)(uintptr_t)&tr_pipeline_shard_source},
        {TR_ROLE_COORDINATOR, &tr_coordinator_behavior, &coordinator},
        {TR_ROLE_CHECKPOINT, &tr_checkpoint_behavior, &writer},
        {TR_ROLE_MONITOR, &tr_monitor_behavior, &monitor}};
    const tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};
    const tr_sim_faults gentle = {.in_order = true};
    tr_simulation_options options = {.seed = seed,
                                     .topology = &self->plan.topology,
                                     .registry = &registry,
                                     .data = gentle,
                                     .control = gentle,
                                     .max_events = 200000,
                                     .duration_ns = duration_of,
                                     .context = self};
    tr_simulation *simulation;
    CHECK_OK(tr_simulation_new(&simulation, &options, &err));
    CHECK_OK(tr_simulation_run(simulation, &err));
    tr_simulation_destroy(&simulation);
}

static void release(job *self)
{
    tr_job_plan_release(&self->plan);
    tr_data_close(&self->data);
    tr_recipe_release(&self->recipe);
}

/* --- the rule, in a few lines --- */

/* When the m-th action of a kind ended at a stage; UINT64_MAX: it has not begun. */
typedef uint64_t ends[STAGES][KINDS][MICROBATCHES];

static bool by(const ends done, int stage, int kind, uint32_t m, uint64_t now)
{
    return done[stage][kind][m] <= now;
}

static int choose(const ends done, const uint32_t n[KINDS], int s, uint32_t credits, uint64_t now)
{
    bool last = s + 1 == STAGES;
    if (n[B] < n[F] && (last || by(done, s + 1, B, n[B], now))) return B;
    bool arrived = n[F] < MICROBATCHES && (s == 0 || by(done, s - 1, F, n[F], now));
    bool stash = n[F] - n[W] < credits;
    /* The next stage has a slot for each stash credit and one more; a slot is free again after its weight gradient. */
    bool slot = last || n[F] < credits || by(done, s + 1, W, n[F] - credits, now);
    if (arrived && stash && slot) return F;
    return n[W] < n[B] ? W : -1;
}

static void follow_rule(const durations takes, uint32_t extra, schedule *out)
{
    static ends done;
    uint64_t free_at[STAGES] = {0}, now = 0, next;
    memset(done, 0xff, sizeof done);
    memset(out, 0, sizeof *out);
    for (uint32_t n[STAGES][KINDS] = {{0}}; now != UINT64_MAX; now = next) {
        next = UINT64_MAX;
        for (int s = 0; s < STAGES; s++) {
            uint32_t credits = (uint32_t)(STAGES - s) + extra;
            int kind = free_at[s] <= now
                           ? choose((const uint64_t(*)[KINDS][MICROBATCHES])done, n[s], s, credits, now)
                           : -1;
            if (kind >= 0) {
                uint32_t m = n[s][kind]++;
                free_at[s] = done[s][kind][m] = now + takes[s][kind];
                out->actions[s][out->n[s]++] = (action){kind, m, now, free_at[s]};
            }
            if (free_at[s] > now && free_at[s] < next) next = free_at[s];
        }
    }
}

/* --- comparing --- */

static uint64_t first_begin(const schedule *self)
{
    return self->actions[0][0].begin_ns;
}

static double idle_share(const schedule *self)
{
    uint64_t end = 0, busy = 0;
    for (int s = 0; s < STAGES; s++)
        for (uint32_t i = 0; i < self->n[s]; i++) {
            busy += self->actions[s][i].end_ns - self->actions[s][i].begin_ns;
            if (self->actions[s][i].end_ns > end) end = self->actions[s][i].end_ns;
        }
    return 1 - (double)busy / (double)((end - first_begin(self)) * STAGES);
}

static void print(const schedule *self, const char *title)
{
    fprintf(stderr, "\n%s\n", title);
    for (int s = 0; s < STAGES; s++) {
        for (uint32_t i = 0; i < self->n[s]; i++)
            fprintf(stderr, " %c%u@%" PRIu64, "FBW"[self->actions[s][i].kind],
                    self -> actions[s][i].microbatch, self->actions[s][i].begin_ns - first_begin(self));
        fputc('\n', stderr);
    }
}

static void expect_rule(const job *self, uint32_t extra)
{
    schedule rule;
    follow_rule(*self->takes, extra, &rule);
    for (int t = 0; t < STEPS; t++) {
        const schedule *seen = &self->seen[t];
        bool same = true;
        for (int s = 0; s < STAGES; s++) {
            same &= seen->n[s] == MOST_ACTIONS && rule.n[s] == MOST_ACTIONS;
            for (uint32_t i = 0; same && i < MOST_ACTIONS; i++) {
                const action *a = &seen->actions[s][i], *b = &rule.actions[s][i];
                same = a->kind == b->kind && a->microbatch == b->microbatch &&
                       a->begin_ns - first_begin(seen) == b->begin_ns &&
                       a->end_ns - a->begin_ns == b->end_ns - b->begin_ns;
            }
        }
        CU_ASSERT(same);
        if (same) continue;
        print(seen, "seen");
        print(&rule, "by the rule");
    }
}

/* Warm-up forwards, then one forward, one backward; weight gradients (of no time) are left out. */
static void expect_1f1b(const job *self)
{
    for (int t = 0; t < STEPS; t++)
        for (int s = 0; s < STAGES; s++) {
            const schedule *seen = &self->seen[t];
            uint32_t n_forward = 0, n_backward = 0, ahead = (uint32_t)(STAGES - s), bad = 0;
            for (uint32_t i = 0; i < seen->n[s]; i++) {
                const action *a = &seen->actions[s][i];
                if (a->kind == W) continue;
                bool forward = n_forward < MICROBATCHES && n_forward - n_backward < ahead;
                bad += a->kind != (forward ? F : B);
                bad += a->microbatch != (forward ? n_forward : n_backward);
                n_forward += forward;
                n_backward += !forward;
            }
            CU_ASSERT(n_forward == MICROBATCHES && n_backward == MICROBATCHES && bad == 0);
        }
}

static void expect_bounds(const job *self, uint32_t extra)
{
    for (int t = 0; t < STEPS; t++)
        for (uint32_t s = 0; s < STAGES; s++) {
            uint32_t held = 0, most = 0, next_weight = 0;
            for (uint32_t i = 0; i < self->seen[t].n[s]; i++) {
                const action *a = &self->seen[t].actions[s][i];
                held += a->kind == F;
                most = held > most ? held : most;
                held -= a->kind == W;
                if (a->kind == W) CU_ASSERT_EQUAL(a->microbatch, next_weight++);
            }
            CU_ASSERT(most <= STAGES - s + extra && held == 0);
        }
}

/* Calls `check` for some seeds: which event comes first among those of one time. */
static void with(const durations *takes, uint32_t extra, const char *title, double wanted_idle,
                 void (*check)(const job *self, uint32_t extra))
{
    char *directory = enter_directory(), *text = path_in(directory, "text");
    tr_error err;
    static char words[4000];
    memset(words, 'a', sizeof words);
    CHECK_OK(tr_file_write(text, words, sizeof words, &err));
    for (uint64_t seed = 0; seed < 10; seed++) {
        static job self;
        self = (job){.takes = takes};
        prepare(&self, text, (int)extra);
        simulate(&self, seed);
        expect_bounds(&self, extra);
        check(&self, extra);
        double idle = idle_share(&self.seen[0]);
        if (seed == 0) printf("%s: %.1f%% idle\n", title, 100 * idle);
        if (wanted_idle > 0) CU_ASSERT_DOUBLE_EQUAL(idle, wanted_idle, 0.0005);
        release(&self);
    }
    tr_free(text);
    leave_directory(directory);
}

static void check_1f1b(const job *self, uint32_t extra)
{
    (void)extra;
    expect_1f1b(self);
}

/* --- promises --- */

static void credits_of_the_distance_to_the_end_and_a_fused_backward_are_1f1b(void)
{
    /* Of M + P - 1 times three, P - 1 times three are spent waiting: 3 / 19. */
    with(&fused, 0, "equal stages, P-s credits, fused", 3.0 / 19, check_1f1b);
}

static void weight_gradients_fill_the_gaps_of_equal_stages(void)
{
    with(&equal, 0, "equal stages, P-s credits, separate weight gradients", 6.0 / 54, expect_rule);
    with(&equal, 1, "equal stages, P-s + 1 credits", 0, expect_rule);
    with(&equal, 3, "equal stages, P-s + 3 credits", 0, expect_rule);
}

static void weight_gradients_fill_the_gaps_of_uneven_stages(void)
{
    for (uint32_t extra = 0; extra <= 2; extra++) {
        with(&uneven, extra, "uneven stages, separate weight gradients", 0, expect_rule);
        with(&slow_first, extra, "a slow first stage", 0, expect_rule);
    }
}

static const check_test tests[] = {
    CHECK_TEST(credits_of_the_distance_to_the_end_and_a_fused_backward_are_1f1b),
    CHECK_TEST(weight_gradients_fill_the_gaps_of_equal_stages),
    CHECK_TEST(weight_gradients_fill_the_gaps_of_uneven_stages),
};
CHECK_MAIN("schedule", tests)
