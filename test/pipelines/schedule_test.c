/* test/pipelines/schedule_test.c - which order of work falls out of mailboxes and credits: real stages in simulation, where
 * forward, backward and weight gradient take given times on the virtual clock and messages take none. What the trace tells
 * is compared with 1F1B as it is written down in the literature, and, to the nanosecond, with a scheduler of a few lines
 * that follows the design's rule: backward, then forward if a stash credit is free, weight gradients as filler; between the
 * pieces of a worker the oldest micro-batch first. What pipelines/schedule.c foretells must be the same.
 * Source of 1F1B: Narayanan et al., PipeDream, 2019.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "pipelines/files.h"

#include "actors/checkpoint.h"
#include "actors/coordinator.h"
#include "actors/monitor.h"
#include "actors/roles.h"
#include "pipelines/job_plan.h"
#include "pipelines/schedule.h"
#include "pipelines/sources.h"
#include "runtime/simulation.h"

#include <inttypes.h>

enum { MOST_WORKERS = 4, MOST_PIECES = 3, MOST_STAGES = MOST_WORKERS * MOST_PIECES };
enum { MOST_MICROBATCHES = 16, MOST_STEPS = 2, KINDS = 3, MOST_ACTIONS = KINDS * MOST_MICROBATCHES };
enum { F = TR_SPAN_FORWARD, B = TR_SPAN_BACKWARD, W = TR_SPAN_WEIGHT };

#define WORKERS ((uint32_t)CHECK_SIZE(MOST_WORKERS, 2))
#define MICROBATCHES ((uint32_t)CHECK_SIZE(MOST_MICROBATCHES, 4))
#define STEPS CHECK_SIZE(MOST_STEPS, 1)

typedef struct action {
    int kind;
    uint32_t microbatch;
    uint64_t begin_ns, end_ns;
} action;

/* One step, by stage, each in the order in which it was done. */
typedef struct schedule {
    action actions[MOST_STAGES][MOST_ACTIONS];
    uint32_t n[MOST_STAGES];
} schedule;

typedef uint64_t durations[MOST_STAGES][KINDS];

static const durations equal = {
    {1000, 1000, 1000}, {1000, 1000, 1000}, {1000, 1000, 1000}, {1000, 1000, 1000}};
/* A backward that does both and a weight gradient of no time is a fused backward: the gradient is sent after both. */
static const durations fused = {{1000, 2000, 0}, {1000, 2000, 0}, {1000, 2000, 0}, {1000, 2000, 0}};
/* No sum of a few of these is a sum of a few others: nothing happens twice at one time. */
static const durations uneven = {{1009, 1213, 907}, {1511, 1733, 1319}, {701, 811, 653}, {1901, 2203, 1607}};
static const durations slow_first = {
    {3001, 3203, 2801}, {1009, 1103, 907}, {1013, 1109, 911}, {1019, 1117, 919}};
/* As layers on CPUs take it: weight gradients are too short for one more credit to fill the gaps with. */
static const durations short_weights = {
    {1000, 1100, 620}, {1000, 1100, 620}, {1000, 1100, 620}, {1000, 1100, 620}};
static const durations short_halves = {{500, 550, 310}, {500, 550, 310}, {500, 550, 310}, {500, 550, 310},
                                       {500, 550, 310}, {500, 550, 310}, {500, 550, 310}, {500, 550, 310}};
/* Two pieces for each worker: half as long, or of any length. */
static const durations equal_halves = {{500, 500, 500}, {500, 500, 500}, {500, 500, 500}, {500, 500, 500},
                                       {500, 500, 500}, {500, 500, 500}, {500, 500, 500}, {500, 500, 500}};
static const durations equal_thirds = {{300, 300, 300}, {300, 300, 300}, {300, 300, 300}, {300, 300, 300},
                                       {300, 300, 300}, {300, 300, 300}, {300, 300, 300}, {300, 300, 300},
                                       {300, 300, 300}, {300, 300, 300}, {300, 300, 300}, {300, 300, 300}};
static const durations uneven_halves = {{509, 613, 457},  {761, 867, 661},   {353, 401, 331},
                                        {947, 1103, 809}, {607, 709, 557},   {389, 443, 367},
                                        {877, 997, 787},  {1201, 1409, 1123}};
static const durations dear_head = {{503, 601, 409}, {509, 607, 419}, {521, 613, 421}, {523, 617, 431},
                                    {541, 619, 433}, {547, 631, 439}, {557, 641, 443}, {1409, 1511, 1307}};

/* --- the real stages --- */

typedef struct job {
    tr_recipe recipe;
    tr_data *data;
    tr_job_plan plan;
    const durations *takes;
    uint32_t n_pieces, n_stages, extra;
    schedule seen[MOST_STEPS];
} job;

/* The design's stash credits. */
static uint32_t credits_of(const job *self, uint32_t s)
{
    uint32_t to_end = self->n_pieces > 1 ? WORKERS : WORKERS - s;
    uint32_t credits = (self->n_pieces == 1 && self->extra && s > to_end ? s : to_end) + self->extra;
    return credits < MICROBATCHES ? credits : MICROBATCHES;
}

static uint64_t duration_of(void *context, tr_actor_id who, const char *what, uint32_t step, uint32_t m)
{
    (void)step, (void)m;
    static const char *const names[KINDS] = {"forward", "backward", "weight"};
    const job *self = context;
    for (uint32_t s = 0; s < self->n_stages; s++)
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
    for (uint32_t s = 0; s < self->n_stages; s++)
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

static void prepare(job *self, const char *text_path)
{
    static const char text[] =
        "run: none\n"
        "model: {family: llama, width: 8, heads: 2, kv_heads: 1, inner: 16, vocabulary: 256}\n"
        "train: {sequence: 8, microbatch: 1, groups: 4, seed: 7}\n"
        "lr: {peak: 1e-3}\n"
        "trace: true\n";
    tr_error err;
    tr_model_config config = {0};
    const tr_start start = {0};
    char *data = tr_format("data={text: %s, holdout: 0}", text_path);
    char *stash = tr_format("layout.stash=%u", self->extra);
    char *pieces = tr_format("layout.pieces=%u", self->n_pieces);
    char *steps = tr_format("train.steps=%d", STEPS);
    char *microbatches = tr_format("train.accumulate=%u", MICROBATCHES);
    char *layers = tr_format("model.layers=%u", CHECK_SIZE((uint32_t)MOST_STAGES, self->n_stages));
    char *pipeline = tr_format("layout.pipeline=%u", WORKERS);
    const char *overrides[] = {data, stash, pieces, pipeline, steps, microbatches, layers};
    CHECK_OK(tr_recipe_parse(&self->recipe, text, sizeof text - 1, "recipe", overrides, 7, &err));
    CHECK_OK(tr_model_config_from_recipe(&config, &self->recipe, &err));
    CHECK_OK(tr_data_open(&self->data, &self->recipe, config.vocabulary, &err));
    CHECK_OK(tr_job_plan_init(&self->plan, &self->recipe, &config, self->data, &start, &err));
    tr_free(data);
    tr_free(stash);
    tr_free(pieces);
    tr_free(steps);
    tr_free(microbatches);
    tr_free(layers);
    tr_free(pipeline);
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
                                     .max_events = CHECK_SIZE(200000, 1500),
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
typedef uint64_t ends[MOST_STAGES][KINDS][MOST_MICROBATCHES];
static ends done;

static bool by(uint32_t stage, int kind, uint32_t m, uint64_t now)
{
    return done[stage][kind][m] <= now;
}

static int choose(const job *self, const uint32_t n[KINDS], uint32_t s, uint64_t now)
{
    bool last = s + 1 == self->n_stages;
    if (n[B] < n[F] && (last || by(s + 1, B, n[B], now))) return B;
    bool arrived = n[F] < MICROBATCHES && (s == 0 || by(s - 1, F, n[F], now));
    bool stash = n[F] - n[W] < credits_of(self, s);
    /* The next stage has a slot for each stash credit and one more; a slot is free again after its weight gradient. */
    uint32_t slots = credits_of(self, s + 1) + 1;
    bool slot = last || n[F] < slots || by(s + 1, W, n[F] - slots, now);
    if (arrived && stash && slot) return F;
    return n[W] < n[B] ? W : -1;
}

/* Backward before forward before weight gradient, then the oldest micro-batch, then the latest stage. */
static bool comes_first(int kind, uint32_t m, int other_kind, uint32_t other_m)
{
    static const int class_of[KINDS] = {[F] = 2, [B] = 1, [W] = 3};
    if (other_kind < 0 || kind < 0) return kind >= 0;
    if (kind != other_kind) return class_of[kind] < class_of[other_kind];
    return m <= other_m;
}

static void follow_rule(const job *self, schedule *out)
{
    uint64_t free_at[MOST_WORKERS] = {0}, now = 0, next;
    memset(done, 0xff, sizeof done);
    memset(out, 0, sizeof *out);
    for (uint32_t n[MOST_STAGES][KINDS] = {{0}}; now != UINT64_MAX; now = next) {
        next = UINT64_MAX;
        for (uint32_t w = 0; w < WORKERS; w++) {
            int kind = -1;
            uint32_t s = 0;
            for (uint32_t t = w; t < self->n_stages && free_at[w] <= now; t += WORKERS) {
                int own = choose(self, n[t], t, now);
                if (own < 0 || !comes_first(own, n[t][own], kind, kind < 0 ? 0 : n[s][kind])) continue;
                kind = own;
                s = t;
            }
            if (kind >= 0) {
                uint32_t m = n[s][kind]++;
                free_at[w] = done[s][kind][m] = now + (*self->takes)[s][kind];
                out->actions[s][out->n[s]++] = (action){kind, m, now, free_at[w]};
            }
            if (free_at[w] > now && free_at[w] < next) next = free_at[w];
        }
    }
}

/* --- comparing --- */

static uint64_t first_begin(const schedule *self)
{
    return self->actions[0][0].begin_ns;
}

static double idle_share(const job *self, const schedule *of)
{
    uint64_t end = 0, busy = 0;
    for (uint32_t s = 0; s < self->n_stages; s++)
        for (uint32_t i = 0; i < of->n[s]; i++) {
            busy += of->actions[s][i].end_ns - of->actions[s][i].begin_ns;
            if (of->actions[s][i].end_ns > end) end = of->actions[s][i].end_ns;
        }
    return 1 - (double)busy / (double)((end - first_begin(of)) * WORKERS);
}

static void print(const job *of, const schedule *self, const char *title)
{
    fprintf(stderr, "\n%s\n", title);
    for (uint32_t s = 0; s < of->n_stages; s++) {
        for (uint32_t i = 0; i < self->n[s]; i++)
            fprintf(stderr, " %c%u@%" PRIu64, "FBW"[self->actions[s][i].kind],
                    self -> actions[s][i].microbatch, self->actions[s][i].begin_ns - first_begin(self));
        fputc('\n', stderr);
    }
}

static void foretell(const job *self, schedule *out)
{
    tr_stage_times times[MOST_STAGES];
    tr_schedule foretold;
    tr_error err;
    for (uint32_t s = 0; s < self->n_stages; s++)
        for (int k = 0; k < KINDS; k++) times[s].ns[k] = (*self->takes)[s][k];
    CHECK_OK(tr_schedule_foretell(&foretold, &self->plan.training, 0, times, &err));
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < foretold.n_actions; i++) {
        const tr_schedule_action *a = &foretold.actions[i];
        out->actions[a->stage][out->n[a->stage]++] =
            (action){(int)a->phase, a->microbatch, a->begin_ns, a->end_ns};
    }
    CU_ASSERT_DOUBLE_EQUAL(foretold.idle, idle_share(self, out), 1e-9);
    tr_schedule_release(&foretold);
}

static void expect_same(const job *self, const schedule *seen, const schedule *wanted, const char *title)
{
    bool same = true;
    for (uint32_t s = 0; s < self->n_stages; s++) {
        same &= seen->n[s] == KINDS * MICROBATCHES && wanted->n[s] == seen->n[s];
        for (uint32_t i = 0; same && i < seen->n[s]; i++) {
            const action *a = &seen->actions[s][i], *b = &wanted->actions[s][i];
            same = a->kind == b->kind && a->microbatch == b->microbatch &&
                   a->begin_ns - first_begin(seen) == b->begin_ns &&
                   a->end_ns - a->begin_ns == b->end_ns - b->begin_ns;
        }
    }
    CU_ASSERT(same);
    if (same) return;
    print(self, seen, "seen");
    print(self, wanted, title);
}

static void expect_rule(const job *self)
{
    static schedule rule, foretold;
    follow_rule(self, &rule);
    foretell(self, &foretold);
    expect_same(self, &foretold, &rule, "by the rule, and not as foretold");
    for (int t = 0; t < STEPS; t++) expect_same(self, &self->seen[t], &rule, "by the rule");
}

/* Warm-up forwards, then one forward, one backward; weight gradients (of no time) are left out. */
static void expect_1f1b(const job *self)
{
    for (int t = 0; t < STEPS; t++)
        for (uint32_t s = 0; s < WORKERS; s++) {
            const schedule *seen = &self->seen[t];
            uint32_t n_forward = 0, n_backward = 0, ahead = WORKERS - s, bad = 0;
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

/* No stage holds more than its stash credits, weight gradients come in order, and a worker does one thing at a time. */
static void expect_bounds(const job *self)
{
    for (int t = 0; t < STEPS; t++)
        for (uint32_t s = 0; s < self->n_stages; s++) {
            uint32_t held = 0, most = 0, next_weight = 0;
            for (uint32_t i = 0; i < self->seen[t].n[s]; i++) {
                const action *a = &self->seen[t].actions[s][i];
                held += a->kind == F;
                most = held > most ? held : most;
                held -= a->kind == W;
                if (a->kind == W) CU_ASSERT_EQUAL(a->microbatch, next_weight++);
                for (uint32_t q = s + WORKERS; q < self->n_stages; q += WORKERS)
                    for (uint32_t k = 0; k < self->seen[t].n[q]; k++) {
                        const action *b = &self->seen[t].actions[q][k];
                        CU_ASSERT(a->end_ns <= b->begin_ns || b->end_ns <= a->begin_ns);
                    }
            }
            CU_ASSERT(most <= credits_of(self, s) && held == 0);
            CU_ASSERT_EQUAL(self->plan.budgets[s].stash_credits, credits_of(self, s));
        }
}

/* Micro-batches of whole workers that one of them holds at the most, a piece being a part of its layers. */
static double most_held(const job *self)
{
    double most = 0;
    for (uint32_t w = 0; w < WORKERS; w++) {
        uint64_t now = 0;
        for (uint32_t at[MOST_PIECES] = {0}, held = 0; now != UINT64_MAX;) {
            uint32_t next = 0;
            now = UINT64_MAX;
            for (uint32_t v = 0; v < self->n_pieces; v++) {
                uint32_t s = w + v * WORKERS;
                if (at[v] == self->seen[0].n[s] || self->seen[0].actions[s][at[v]].begin_ns >= now) continue;
                now = self->seen[0].actions[s][at[v]].begin_ns;
                next = v;
            }
            if (now == UINT64_MAX) break;
            int kind = self->seen[0].actions[w + next * WORKERS][at[next]++].kind;
            held += kind == F;
            if ((double)held / self->n_pieces > most) most = (double)held / self->n_pieces;
            held -= kind == W;
        }
    }
    return most;
}

/* What a worker has to do for a micro-batch. */
static uint64_t work_of(const job *self, uint32_t worker)
{
    uint64_t sum_ns = 0;
    for (uint32_t s = worker; s < self->n_stages; s += WORKERS)
        for (int k = 0; k < KINDS; k++) sum_ns += (*self->takes)[s][k];
    return sum_ns;
}

/* Calls `check` for some seeds: which event comes first among those of one time. lost_ns: what each of equal workers waits
 * in a step for each other one; 0: not known. */
static void with(const durations *takes, uint32_t n_pieces, uint32_t extra, const char *title, double lost_ns,
                 void (*check)(const job *self))
{
    char *directory = enter_directory(), *text = path_in(directory, "text");
    tr_error err;
    static char words[4000];
    memset(words, 'a', sizeof words);
    CHECK_OK(tr_file_write(text, words, sizeof words, &err));
    for (uint64_t seed = 0; seed < CHECK_SIZE(10, 1); seed++) {
        static job self;
        self = (job){.takes = takes, .n_pieces = n_pieces, .n_stages = n_pieces * WORKERS, .extra = extra};
        prepare(&self, text);
        simulate(&self, seed);
        expect_bounds(&self);
        check(&self);
        double idle = idle_share(&self, &self.seen[0]), held = most_held(&self);
        if (seed == 0)
            printf("%s, %u more: %.1f%% idle, at most %.1f micro-batches held\n", title, extra, 100 * idle,
                   held);
        CU_ASSERT(held <= WORKERS + extra); /* as much as the first of 1F1B and that many more */
        double busy_ns = MICROBATCHES * (double)work_of(&self, 0), waits_ns = (WORKERS - 1) * lost_ns;
        if (lost_ns > 0) CU_ASSERT_DOUBLE_EQUAL(idle, waits_ns / (waits_ns + busy_ns), 0.0005);
        release(&self);
    }
    tr_free(text);
    leave_directory(directory);
}

/* --- promises --- */

static void credits_of_the_distance_to_the_end_and_a_fused_backward_are_1f1b(void)
{
    /* Of M + P - 1 times three, P - 1 times three are spent waiting: 3 / 19. */
    with(&fused, 1, 0, "equal stages, fused", 3000, expect_1f1b);
}

static void weight_gradients_fill_the_gaps_of_equal_stages(void)
{
    with(&equal, 1, 0, "equal stages", 2000, expect_rule);
    if (CHECK_SIZE(false, true)) return;
    /* With one more at the first stage and as many at the last nothing is lost but the time until all have begun: 3 / 51. */
    with(&equal, 1, 1, "equal stages", 1000, expect_rule);
    with(&equal, 1, 3, "equal stages", 1000, expect_rule);
}

static void weight_gradients_fill_the_gaps_of_uneven_stages(void)
{
    for (uint32_t extra = CHECK_SIZE(0, 2); extra <= 2; extra++) {
        with(&uneven, 1, extra, "uneven stages", 0, expect_rule);
        if (CHECK_SIZE(true, false)) with(&slow_first, 1, extra, "a slow first stage", 0, expect_rule);
    }
}

static void two_pieces_of_a_worker_halve_what_is_left(void)
{
    /* The last worker begins after three pieces, not after three stages, and no time is lost after that: 500. */
    if (CHECK_SIZE(true, false)) with(&equal_halves, 2, 0, "two equal pieces", 2500.0 / 3, expect_rule);
    with(&equal_halves, 2, 1, "two equal pieces", 500, expect_rule);
    if (CHECK_SIZE(false, true)) return;
    with(&equal_halves, 2, 2, "two equal pieces", 500, expect_rule);
    with(&equal_thirds, 3, 1, "three equal pieces", 300, expect_rule);
}

static void pieces_that_share_a_worker_choose_as_one(void)
{
    for (uint32_t extra = CHECK_SIZE(0, 2); extra <= 2; extra++) {
        with(&uneven_halves, 2, extra, "two uneven pieces", 0, expect_rule);
        if (CHECK_SIZE(true, false)) with(&dear_head, 2, extra, "two pieces and a dear head", 0, expect_rule);
    }
}

/* Nothing is lost but the time until the last worker has its first input: 3 forwards of a stage. */
static void expect_chosen(const job *self)
{
    tr_stage_times times[MOST_STAGES];
    uint32_t extra = 0;
    tr_error err;
    for (uint32_t s = 0; s < self->n_stages; s++)
        for (int k = 0; k < KINDS; k++) times[s].ns[k] = (*self->takes)[s][k];
    tr_training_plan plan = self->plan.training;
    plan.extra_stash = 7; /* says nothing */
    CHECK_OK(tr_schedule_choose_stash(&extra, &plan, 0, times, &err));
    CU_ASSERT_EQUAL(extra, self->extra);
    expect_rule(self);
}

static void the_stash_that_is_chosen_from_times_fills_the_gaps(void)
{
    with(&equal, 1, 1, "equal stages, chosen", 1000, expect_chosen);
    with(&short_weights, 1, CHECK_SIZE(4, 2), "short weight gradients, chosen", 1000, expect_chosen);
    if (CHECK_SIZE(false, true)) return;
    with(&short_halves, 2, 4, "two pieces of short weight gradients, chosen", 500, expect_chosen);
}

static const check_test tests[] = {
    CHECK_TEST(credits_of_the_distance_to_the_end_and_a_fused_backward_are_1f1b),
    CHECK_TEST(weight_gradients_fill_the_gaps_of_equal_stages),
    CHECK_TEST(weight_gradients_fill_the_gaps_of_uneven_stages),
    CHECK_TEST(two_pieces_of_a_worker_halve_what_is_left),
    CHECK_TEST(pieces_that_share_a_worker_choose_as_one),
    CHECK_TEST(the_stash_that_is_chosen_from_times_fills_the_gaps),
};
CHECK_MAIN("schedule", tests)
