/* test/actors/tiny_job.h - a whole training job over the tiny model in this process: topology, a checkpoint writer that
 * counts every byte, and what the monitor heard.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_ACTORS_TINY_JOB_H
#define TROUPE_TEST_ACTORS_TINY_JOB_H

#include "actors/checkpoint.h"
#include "actors/coordinator.h"
#include "actors/monitor.h"
#include "actors/roles.h"
#include "actors/stage_shard.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "check.h"
#include "runtime/job.h"
#include "runtime/simulation.h"
#include "tiny_model.h"

#include <signal.h>
#include <unistd.h>

enum { MOST_STEPS = 256, MOST_NOTES = 256 };

typedef enum writer_fault { NO_FAULT, FAIL_BEGIN, FAIL_WRITE, FAIL_COMMIT } writer_fault;

typedef struct tiny_job {
    /* wanted */
    tiny_config config;
    writer_fault fault;
    uint32_t fault_at;     /* updates of the checkpoint that fails; 0: every one */
    uint32_t slow_ms;      /* of every chunk written */
    uint32_t explode_at;   /* the learning rate of this step (from 1) is absurd; 0: of none */
    uint32_t interrupt_at; /* SIGINT when this step is recorded; 0: never */
    bool leaves_out;       /* updates whose gradient is no number */
    bool fail_record;      /* the monitor cannot write */
    bool interrupt_late;   /* SIGINT when a checkpoint is abandoned: its actor is being taken apart */
    bool starve_monitor;   /* in simulation: it has a turn when all others wait */
    uint32_t most_untold;  /* see tr_coordinator_context */
    uint64_t tokens_before, fail_after;                                            /* see tiny_fail_after */
    char *(*choices)(void *context, const char *name, char *why, size_t capacity); /* of the monitor */
    tr_status (*keep_choices)(void *context, const char *text, tr_error *err);
    const uint32_t *asked_before_commit; /* looked at when the first step is committed */
    /* heard */
    uint32_t n_asked_before_commit;
    tr_step_record records[MOST_STEPS];
    uint32_t n_records;
    uint32_t n_committed, n_before_first; /* steps in all, and before the first record was heard */
    uint32_t n_synced;                    /* of the records */
    char notes[MOST_NOTES][64];
    uint32_t n_notes;
    char reduction[256]; /* the last note of that kind */
    char links[20][256]; /* the first notes of that kind */
    uint32_t n_links;
    unsigned n_audited; /* as told at the end */
    /* checkpoints */
    float *state[3 * N_TINY]; /* of the last one committed or at work, by 3 * parameter + part */
    uint8_t *written[3 * N_TINY];
    uint32_t open, began, committed, abandoned,
        last_committed;      /* open: updates of the one at work, 0: none */
    uint32_t chunks, broken; /* broken: calls that the contract forbids */
} tiny_job;

static double tiny_lr(void *context, uint32_t step)
{
    tiny_job *self = context;
    if (self->n_committed++ == 0 && self->asked_before_commit)
        self->n_asked_before_commit = *self->asked_before_commit;
    return step + 1 == self->explode_at ? 1e30 : 0.02 * (1 - step / 100.0);
}

static tr_status on_record(void *context, const tr_step_record *record, tr_error *err)
{
    tiny_job *self = context;
    if (self->fail_record) return tr_fail(err, TR_EIO, "the pencil is broken");
    TR_ASSERT(self->n_records < MOST_STEPS);
    if (self->n_records == 0) self->n_before_first = self->n_committed;
    self->records[self->n_records++] = *record;
    if (record->step == self->interrupt_at) kill(getpid(), SIGINT);
    return TR_OK;
}

static void on_sync(void *context)
{
    tiny_job *self = context;
    self->n_synced = self->n_records;
}

static void on_note(void *context, const char *kind, const char *text)
{
    tiny_job *self = context;
    TR_ASSERT(self->n_notes < MOST_NOTES);
    if (strcmp(kind, "reduction") == 0) snprintf(self->reduction, sizeof self->reduction, "%s", text);
    if (strcmp(kind, "link") == 0 && self->n_links++ < sizeof self->links / sizeof *self->links)
        snprintf(self->links[self->n_links - 1], sizeof *self->links, "%s", text);
    if (strcmp(kind, "audited") == 0) CU_ASSERT(sscanf(text, "stages computed %u", &self->n_audited) == 1);
    snprintf(self->notes[self->n_notes++], sizeof self->notes[0], "%s", kind);
}

static void on_tick(void *context)
{
    (void)context;
}

static uint32_t notes_of(const tiny_job *self, const char *kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_notes; i++) n += strcmp(self->notes[i], kind) == 0;
    return n;
}

/* --- the writer --- */

static bool fails(const tiny_job *self, writer_fault fault, uint32_t updates)
{
    return self->fault == fault && (self->fault_at == 0 || self->fault_at == updates);
}

static tr_status writer_begin(void *context, uint32_t updates, tr_error *err)
{
    tiny_job *self = context;
    self->broken += self->open != 0;
    self->open = updates;
    self->began++;
    for (uint32_t i = 0; i < 3 * N_TINY; i++)
        memset(self->written[i], 0, (size_t)tiny_elements(&self->config, i / 3) * sizeof(float));
    return fails(self, FAIL_BEGIN, updates) ? tr_fail(err, TR_EIO, "no begin") : TR_OK;
}

static tr_status writer_write(void *context, uint32_t parameter, uint32_t part, uint64_t offset,
                              const void *bytes, size_t size, tr_error *err)
{
    tiny_job *self = context;
    self->broken += self->open == 0 || parameter >= N_TINY || part > 2;
    if (fails(self, FAIL_WRITE, self->open)) return tr_fail(err, TR_EIO, "no write");
    if (self->slow_ms) tr_clock_sleep_ms(self->slow_ms);
    size_t total = (size_t)tiny_elements(&self->config, parameter) * sizeof(float);
    TR_ASSERT(offset + size <= total);
    memcpy((char *)self->state[3 * parameter + part] + offset, bytes, size);
    for (size_t i = 0; i < size; i++) self->written[3 * parameter + part][offset + i]++;
    self->chunks++;
    return TR_OK;
}

static tr_status writer_commit(void *context, char *path, size_t capacity, tr_error *err)
{
    tiny_job *self = context;
    for (uint32_t i = 0; i < 3 * N_TINY; i++)
        for (size_t b = 0; b < (size_t)tiny_elements(&self->config, i / 3) * sizeof(float); b++)
            self->broken += self->written[i][b] != 1; /* every byte once */
    uint32_t updates = self->open;
    self->broken +=
        self->config.plan.first_step + self->n_synced < updates; /* the log has all of its steps */
    self->open = 0;
    if (fails(self, FAIL_COMMIT, updates)) return tr_fail(err, TR_EIO, "no commit");
    snprintf(path, capacity, "step-%u", updates);
    self->committed++;
    self->last_committed = updates;
    return TR_OK;
}

static void writer_abandon(void *context)
{
    tiny_job *self = context;
    self->broken += self->open == 0;
    self->open = 0;
    self->abandoned++;
    if (self->interrupt_late) kill(getpid(), SIGINT);
}

/* --- topology: edges and slots as pipelines/job_topology.c makes them --- */

static void link_actors(tr_topology *t, const char *name, tr_actor_id from, tr_actor_id to, uint32_t slots,
                        uint64_t bytes)
{
    tr_error err = {0};
    uint32_t edge;
    TR_ASSERT(from && to);
    CHECK_OK(tr_topology_add_edge(t, name, from, to, slots, (uint32_t)bytes, &edge, &err));
}

static tr_actor_id place(tr_topology *t, const char *name, const char *behavior, int32_t node,
                         const tiny_config *c, uint64_t state_bytes)
{
    tr_error err = {0};
    tr_actor_id id = 0;
    CHECK_OK(tr_topology_add_actor(t, name, behavior, node, c, c ? sizeof *c : 0, state_bytes, &id, &err));
    return id;
}

static void add_stage_edges(tr_topology *t, const tiny_config *c)
{
    const tr_training_plan *plan = &c->plan;
    uint32_t r = c->replica, s = c->stage, last = plan->n_stages - 1;
    uint64_t ids = (uint64_t)plan->rows * plan->sequence * 4, activation = ids * (uint64_t)c->width;
    tr_stage_spec spec;
    tr_error err = {0};
    CHECK_OK(tiny_stage_open(NULL, c, sizeof *c, &spec, &err));
    char name[TR_NAME_BYTES];
    tr_role_name_shard(name, r);
    tr_actor_id shard = tr_role_find(t, name), stage = tr_role_find_stage(t, r, s);
    if (s == 0) link_actors(t, TR_EDGE_TOKENS, shard, stage, tr_plan_token_slots(plan, r), ids);
    if (s == last)
        link_actors(t, TR_EDGE_TARGETS, shard, stage,
                    tr_plan_stash_credits(plan, r, 0) + tr_plan_stash_credits(plan, r, s) + last + 2, ids);
    if (s < last) {
        tr_actor_id next = tr_role_find_stage(t, r, s + 1);
        link_actors(t, TR_EDGE_ACTIVATION, stage, next, tr_plan_stash_credits(plan, r, s + 1) + 1,
                    activation);
        link_actors(t, TR_EDGE_GRADIENT, next, stage, spec.stash_credits, activation);
    }
    if (r == 0 || plan->zero)
        link_actors(t, TR_EDGE_STATE, stage, tr_role_find(t, TR_ROLE_CHECKPOINT), 4, TR_STATE_CHUNK_BYTES);
    for (uint32_t other = 0; other < plan->n_replicas; other++) {
        if (other == r) continue;
        tr_actor_id to = tr_role_find_stage(t, other, s);
        link_actors(t, TR_EDGE_SCATTER, stage, to,
                    tr_plan_blocks(plan, r, NULL) * tr_shard_stretches(&spec, other, NULL),
                    (uint64_t)tr_shard_longest(&spec, other) * 4);
        if (plan->zero)
            link_actors(t, TR_EDGE_PARAMETERS, stage, to, 1, tr_shard_message_bytes(&spec, r));
        else
            link_actors(t, TR_EDGE_GATHER, stage, to, 1, (uint64_t)tr_shard_longest(&spec, r) * 4);
    }
    if (plan->audit && plan->n_replicas > 1)
        link_actors(t, TR_EDGE_AUDIT, stage, tr_role_find_stage(t, (r + 1) % plan->n_replicas, s),
                    TR_STAGE_AUDIT_SLOTS, tr_stage_audit_message_bytes(&spec));
    if (last > 0 && (s == 0 || s == last)) /* E, with one use in each */
        link_actors(t, TR_EDGE_TIED, stage, tr_role_find_stage(t, r, last - s), 1,
                    (uint64_t)tiny_elements(c, 0) * 4);
    tiny_stage_close(&spec);
}

static uint64_t state_bytes_of(const tiny_config *c)
{
    tr_stage_spec spec;
    tr_error err = {0};
    CHECK_OK(tiny_stage_open(NULL, c, sizeof *c, &spec, &err));
    uint64_t bytes = tr_shard_state_bytes(&spec, c->replica);
    tiny_stage_close(&spec);
    return bytes;
}

static void build_topology(tr_topology *t, const tiny_config *config)
{
    const tr_training_plan *plan = &config->plan;
    char name[TR_NAME_BYTES];
    tr_topology_init(t, (int32_t)(plan->n_replicas * plan->n_stages) + 1);
    t->threads_per_node = 1;
    place(t, TR_ROLE_COORDINATOR, TR_ROLE_COORDINATOR, TR_NODE_HEAD, NULL, 0);
    place(t, TR_ROLE_CHECKPOINT, TR_ROLE_CHECKPOINT, TR_NODE_HEAD, NULL, 0);
    place(t, TR_ROLE_MONITOR, TR_ROLE_MONITOR, TR_NODE_HEAD, NULL, 0);
    for (int edges = 0; edges < 2; edges++)
        for (uint32_t r = 0; r < plan->n_replicas; r++)
            for (uint32_t s = 0; s < plan->n_stages; s++) {
                tiny_config c = *config;
                c.replica = r, c.stage = s;
                int32_t node = (int32_t)(1 + r * plan->n_stages + s);
                tr_role_name_shard(name, r);
                if (!edges && s == 0) place(t, name, "data_shard", node, &c, 0);
                tr_role_name_stage(name, r, s);
                if (!edges) place(t, name, "stage", node, &c, state_bytes_of(&c));
                if (edges) add_stage_edges(t, &c);
            }
}

/* --- the run --- */

static tr_status simulate_starved(const tr_topology *topology, const tr_registry *registry, tr_error *err)
{
    tr_simulation *simulation;
    tr_simulation_options options = {.topology = topology,
                                     .registry = registry,
                                     .max_events = CHECK_SIZE(1000000, 1500),
                                     .control = {.in_order = true},
                                     .starved = tr_role_find(topology, TR_ROLE_MONITOR)};
    tr_status status = tr_simulation_new(&simulation, &options, err);
    if (status) return status;
    status = tr_simulation_run(simulation, err);
    tr_simulation_destroy(&simulation);
    return status;
}

#define TINY_CONTEXT(source) ((void *)(uintptr_t) & (source))

static void tiny_release(tiny_job *self)
{
    for (uint32_t i = 0; i < 3 * N_TINY; i++) tr_free(self->state[i]), tr_free(self->written[i]);
    memset(self->state, 0, sizeof self->state);
    memset(self->written, 0, sizeof self->written);
}

static tr_status tiny_run(tiny_job *self, tr_error *err)
{
    const tiny_config *c = &self->config;
    int64_t n_elements[N_TINY];
    uint64_t total = 0;
    for (uint32_t i = 0; i < N_TINY; i++)
        total += 3 * (uint64_t)(n_elements[i] = tiny_elements(c, i)) * sizeof(float);
    for (uint32_t i = 0; i < 3 * N_TINY; i++) {
        self->state[i] = tr_alloc_zero((size_t)n_elements[i / 3], sizeof(float));
        self->written[i] = tr_alloc_zero((size_t)n_elements[i / 3], sizeof(float));
    }
    tr_coordinator_context coordinator = {.plan = c->plan,
                                          .n_elements = n_elements,
                                          .n_parameters = N_TINY,
                                          .tokens_before = self->tokens_before,
                                          .most_untold = self->most_untold,
                                          .leaves_out = self->leaves_out,
                                          .context = self,
                                          .learning_rate = tiny_lr};
    tr_monitor_context monitor = {.context = self,
                                  .record = on_record,
                                  .sync = on_sync,
                                  .note = on_note,
                                  .tick = on_tick,
                                  .choices = self->choices,
                                  .keep_choices = self->keep_choices};
    tr_checkpoint_writer writer = {.context = self,
                                   .total_bytes = total,
                                   .begin = writer_begin,
                                   .write = writer_write,
                                   .commit = writer_commit,
                                   .abandon = writer_abandon};
    tr_actor_kind kinds[] = {{"stage", &tr_stage_behavior, TINY_CONTEXT(tiny_stage_source)},
                             {"data_shard", &tr_data_shard_behavior, TINY_CONTEXT(tiny_shard_source)},
                             {TR_ROLE_COORDINATOR, &tr_coordinator_behavior, &coordinator},
                             {TR_ROLE_CHECKPOINT, &tr_checkpoint_behavior, &writer},
                             {TR_ROLE_MONITOR, &tr_monitor_behavior, &monitor}};
    tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};
    tr_topology topology;
    build_topology(&topology, c);
    tr_job_options options = {.topology = &topology,
                              .registry = &registry,
                              .transport = "inproc",
                              .stop_actor = tr_role_find(&topology, TR_ROLE_COORDINATOR)};
    tiny_fail_after = self->fail_after;
    tr_memory_ask(tiny_fail_after ? tiny_must_fail : NULL);
    tr_status status =
        self->starve_monitor ? simulate_starved(&topology, &registry, err) : tr_job_run(&options, err);
    tr_memory_ask(NULL);
    tiny_fail_after = 0;
    tr_topology_release(&topology);
    CU_ASSERT_EQUAL(self->broken, 0);
    CU_ASSERT_EQUAL(self->open, 0);
    CU_ASSERT(self->committed + self->abandoned <= self->began);
    for (uint32_t i = 0; i < self->n_records; i++)
        CU_ASSERT_EQUAL(self->records[i].step, c->plan.first_step + i + 1);
    return status;
}

/* A job with the usual sizes. */
static tiny_job tiny_new(uint32_t replicas, uint32_t stages, uint32_t microbatches, uint32_t groups,
                         uint32_t steps)
{
    return (tiny_job){.config = {.plan = {.n_replicas = replicas,
                                          .n_stages = stages,
                                          .n_steps = steps,
                                          .n_microbatches = microbatches,
                                          .n_groups = groups,
                                          .rows = 2,
                                          .sequence = 6,
                                          .extra_stash = 1,
                                          .clip_norm = 0.1f},
                                 .vocabulary = 7,
                                 .width = 5}};
}

static inline void tiny_run_well(tiny_job *job)
{
    tr_error err = {0};
    tr_status status = tiny_run(job, &err);
    if (status) fprintf(stderr, "%s\n", err.message);
    CU_ASSERT_EQUAL(status, TR_OK);
    CU_ASSERT_EQUAL(job->n_records, job->config.plan.n_steps - job->config.plan.first_step);
}

/* Two jobs have learnt the same, the second one from `skip` steps later on. */
static inline void tiny_expect_same_bits(const tiny_job *a, const tiny_job *b, uint32_t skip)
{
    CU_ASSERT_EQUAL(a->n_records, b->n_records + skip);
    for (uint32_t i = skip; i < a->n_records; i++) {
        const tr_step_record *x = &a->records[i], *y = &b->records[i - skip];
        CU_ASSERT(memcmp(&x->loss, &y->loss, sizeof x->loss) == 0);
        CU_ASSERT(memcmp(&x->grad_norm, &y->grad_norm, sizeof x->grad_norm) == 0);
        CU_ASSERT(memcmp(&x->validation_loss, &y->validation_loss, sizeof x->validation_loss) == 0);
        CU_ASSERT_EQUAL(x->tokens, y->tokens);
    }
    for (uint32_t i = 0; i < 3 * N_TINY; i++)
        CU_ASSERT(
            memcmp(a->state[i], b->state[i], (size_t)tiny_elements(&a->config, i / 3) * sizeof(float)) == 0);
}

#endif
