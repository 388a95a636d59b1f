/* test/pipelines/small_training.h - training jobs so small that their arithmetic is a stand-in, in several layouts, for
 * simulation: the real actors, topology and partition, and what a run leaves behind.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_PIPELINES_SMALL_TRAINING_H
#define TROUPE_TEST_PIPELINES_SMALL_TRAINING_H

#include "simulate.h"

#include "actors/checkpoint.h"
#include "actors/coordinator.h"
#include "actors/monitor.h"
#include "actors/roles.h"
#include "base/hash.h"
#include "pipelines/job_plan.h"
#include "pipelines/sources.h"
#include "runtime/simulation.h"

enum { STEPS = 3, MAX_CHECKPOINTS = 4, MAX_EVENTS = 200000 };

static const char recipe_text[] =
    "model: {family: llama, layers: 4, width: 8, heads: 2, kv_heads: 1, inner: 16, vocabulary: 256, "
    "positions: 8, tie: true}\n"
    "train: {steps: 3, sequence: 8, microbatch: 1, accumulate: 5, groups: 3, seed: 7}\n"
    "lr: {peak: 1e-2, warmup: 1}\n"
    "optimizer: {clip_norm: 0.5}\n"
    "validate: {every: 2, windows: 3}\n"
    "checkpoint: {every: 2}\n";

static const struct {
    const char *data, *pipeline, *pieces;
    const char *more[2]; /* NULL: by step, every state is held, nothing is audited */
} layouts[] = {
    {"layout.data=1", "layout.pipeline=1", "layout.pieces=1", {NULL}},
    {"layout.data=1", "layout.pipeline=3", "layout.pieces=1", {NULL}},
    {"layout.data=3", "layout.pipeline=1", "layout.pieces=1", {NULL}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=1", {NULL}},
    {"layout.data=2", "layout.pipeline=3", "layout.pieces=1", {"supervision.hold_every=3"}},
    {"layout.data=1", "layout.pipeline=2", "layout.pieces=2", {NULL}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=2", {"supervision.hold_every=2"}},
    {"layout.data=1", "layout.pipeline=3", "layout.pieces=1", {"recovery=replay"}},
    {"layout.data=3", "layout.pipeline=1", "layout.pieces=1", {"recovery=replay"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=1", {"recovery=replay"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=2", {"recovery=replay"}},
    {"layout.data=3", "layout.pipeline=1", "layout.pieces=1", {"supervision.audit=1"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=1", {"supervision.audit=1"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=2", {"supervision.audit=0.4"}},
    {"layout.data=3", "layout.pipeline=1", "layout.pieces=1", {"supervision.audit=1", "recovery=replay"}},
    {"layout.data=2",
     "layout.pipeline=2",
     "layout.pieces=1",
     {"supervision.audit=1", "layout.recompute=full"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=1", {"supervision.audit=0.5", "recovery=replay"}},
    {"layout.data=1", "layout.pipeline=3", "layout.pieces=1", {"layout.logits=3", "recovery=replay"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=1", {"layout.logits=3", "supervision.audit=0.5"}},
    {"layout.data=3", "layout.pipeline=1", "layout.pieces=1", {"layout.zero=1"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=1", {"layout.zero=2"}},
    {"layout.data=2", "layout.pipeline=2", "layout.pieces=2", {"layout.zero=1"}},
    {"layout.data=2", "layout.pipeline=3", "layout.pieces=1", {"layout.zero=2", "supervision.hold_every=3"}},
    {"layout.data=3", "layout.pipeline=1", "layout.pieces=1", {"supervision.audit=1", "layout.zero=1"}}};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

/* Logits in chunks give other bits than whole ones: layouts are compared among those alike, of which this is the first. */
static inline size_t first_like(size_t layout)
{
    for (size_t i = 0;; i++) {
        const char *more = layouts[i].more[0], *own = layouts[layout].more[0];
        bool chunks = more && strncmp(more, "layout.logits", 13) == 0;
        if (chunks == (own && strncmp(own, "layout.logits", 13) == 0)) return i;
    }
}

static struct {
    tr_recipe recipe;
    tr_data *data;
    tr_job_plan plan;
} jobs[LAYOUTS];
static char text_path[200];

/* What a run leaves behind. */
typedef struct outcome {
    struct told {
        double loss, grad_norm, lr, validation_loss;
        uint64_t tokens;
    } records[STEPS];
    uint32_t n_records, n_checkpoints;
    struct saved {
        uint64_t updates, bytes, hash; /* the same whatever the order of chunks */
    } checkpoints[MAX_CHECKPOINTS];
    struct saved writing;
    uint32_t n_again, n_saved_again; /* records and checkpoints that came once more */
    /* Of steps behind a change of epoch, with replay: told of, stages that kept their work, messages compared. */
    uint32_t n_replayed, n_kept, n_compared;
    uint32_t n_forwards;               /* computed in them */
    uint32_t n_flukes;                 /* results that were no number only once */
    uint32_t n_corruptions, n_decided; /* computations that differed, and of which it was told who erred */
    uint64_t n_audited;                /* micro-batches that were computed again */
} outcome;

/* What must not depend on the seed; says on stderr what does. */
static inline bool outcome_is(const outcome *self, const outcome *expected, size_t layout)
{
    bool same = self->n_records == STEPS && self->n_checkpoints == 2 &&
                memcmp(self->records, expected->records, sizeof self->records) == 0 &&
                memcmp(self->checkpoints, expected->checkpoints, sizeof self->checkpoints) == 0;
    if (same) return true;
    fprintf(stderr, "%s %s %s: %u records, %u checkpoints, losses %a %a %a and not %a %a %a\n",
            layouts[layout].data, layouts[layout].pipeline, layouts[layout].pieces, self->n_records,
            self->n_checkpoints, self->records[0].loss, self->records[1].loss, self->records[2].loss,
            expected->records[0].loss, expected->records[1].loss, expected->records[2].loss);
    return false;
}

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        tr_error error_, *err = &error_;                                                                     \
        if ((call) != TR_OK) fprintf(stderr, "%s\n", error_.message), exit(1);                               \
    } while (0)

static inline void prepare(void)
{
    const char *directory = getenv("TMPDIR");
    char override[260];
    snprintf(text_path, sizeof text_path, "%s/troupe-simulation-XXXXXX", directory ? directory : "/tmp");
    int file = mkstemp(text_path);
    for (int i = 0; i < 60; i++) dprintf(file, "%d bottles stand on the wall\n", i * i);
    close(file);
    snprintf(override, sizeof override, "data={text: %s, holdout: 0.03}", text_path);
    for (size_t i = 0; i < LAYOUTS; i++) {
        const char *overrides[] = {override,   layouts[i].data,    layouts[i].pipeline, layouts[i].pieces,
                                   "run=none", layouts[i].more[0], layouts[i].more[1]};
        tr_model_config config = {0};
        const tr_start start = {0};
        MUST(tr_recipe_parse(&jobs[i].recipe, recipe_text, sizeof recipe_text - 1, "recipe", overrides,
                             5 + (layouts[i].more[0] != NULL) + (layouts[i].more[1] != NULL), err));
        MUST(tr_model_config_from_recipe(&config, &jobs[i].recipe, err));
        MUST(tr_data_open(&jobs[i].data, &jobs[i].recipe, config.vocabulary, err));
        MUST(tr_job_plan_init(&jobs[i].plan, &jobs[i].recipe, &config, jobs[i].data, &start, err));
    }
}

static inline void clean_up(void)
{
    unlink(text_path);
    for (size_t i = 0; i < LAYOUTS; i++) {
        tr_job_plan_release(&jobs[i].plan);
        tr_data_close(&jobs[i].data);
        tr_recipe_release(&jobs[i].recipe);
    }
}

/* ---- what the head's actors are given ---- */

static inline double learning_rate(void *context, uint32_t step)
{
    return tr_recipe_learning_rate(context, (int32_t)step);
}

/* The n-th record is that of step n; one that is told again must be as it was. */
static inline tr_status on_record(void *context, const tr_step_record *record, tr_error *err)
{
    outcome *self = context;
    uint32_t at = record->step - 1;
    if (at >= STEPS || at > self->n_records)
        return tr_fail(err, TR_ECORRUPT, "record %u came as number %u", record->step, self->n_records + 1);
    struct told now = {.loss = record->loss,
                       .grad_norm = record->grad_norm,
                       .lr = record->lr,
                       .validation_loss = record->has_validation ? record->validation_loss : 0,
                       .tokens = record->tokens};
    if (at < self->n_records) {
        self->n_again++;
        if (memcmp(&now, &self->records[at], sizeof now) != 0)
            return tr_fail(err, TR_ECORRUPT,
                           "step %u was told again with loss %a in place of %a, held-out %a "
                           "in place of %a, %llu tokens in place of %llu",
                           record->step, now.loss, self->records[at].loss, now.validation_loss,
                           self->records[at].validation_loss, (unsigned long long)now.tokens,
                           (unsigned long long)self->records[at].tokens);
        return TR_OK;
    }
    self->records[self->n_records++] = now;
    return TR_OK;
}

static inline tr_status begin_checkpoint(void *context, uint32_t updates, tr_error *err)
{
    (void)err;
    outcome *self = context;
    self->writing = (struct saved){.updates = updates};
    return TR_OK;
}

static inline tr_status write_checkpoint(void *context, uint32_t parameter, uint32_t part,
                                         uint64_t offset_bytes, const void *bytes, size_t size_bytes,
                                         tr_error *err)
{
    (void)err;
    outcome *self = context;
    uint64_t where[] = {parameter, part, offset_bytes, tr_hash64(bytes, size_bytes)};
    self->writing.hash += tr_hash64(where, sizeof where);
    self->writing.bytes += size_bytes;
    return TR_OK;
}

static inline tr_status commit_checkpoint(void *context, char *path, size_t path_capacity, tr_error *err)
{
    outcome *self = context;
    if (self->n_records < self->writing.updates)
        return tr_fail(err, TR_ECORRUPT, "a checkpoint of step %" PRIu64 " before record %u",
                       self->writing.updates, self->n_records + 1);
    uint32_t at = 0;
    while (at < self->n_checkpoints && self->checkpoints[at].updates != self->writing.updates) at++;
    if (at == MAX_CHECKPOINTS) return tr_fail(err, TR_ECORRUPT, "too many checkpoints");
    snprintf(path, path_capacity, "%" PRIu64 " bytes", self->writing.bytes);
    bool again = at < self->n_checkpoints;
    self->n_saved_again += again;
    if (again && memcmp(&self->checkpoints[at], &self->writing, sizeof self->writing) != 0)
        return tr_fail(err, TR_ECORRUPT,
                       "the checkpoint of step %" PRIu64 " was made again, with other bytes",
                       self->writing.updates);
    self->checkpoints[at] = self->writing;
    self->n_checkpoints += !again;
    return TR_OK;
}

static inline void abandon_checkpoint(void *context)
{
    (void)context;
}

static inline void on_note(void *context, const char *kind, const char *text)
{
    outcome *self = context;
    uint32_t kept, forwards, compared;
    uint64_t audited;
    self->n_corruptions += strcmp(kind, "corruption") == 0;
    self->n_decided += strcmp(kind, "corruption_decided") == 0;
    self->n_flukes += strcmp(kind, "non_finite_fluke") == 0;
    if (strcmp(kind, "audited") == 0 && sscanf(text, "stages computed %" SCNu64, &audited) == 1)
        self->n_audited += audited;
    if (strcmp(kind, "replayed") != 0) return;
    int n =
        sscanf(text,
               "step %*u: %u of %*u stages kept their work; computed were %u forwards, %*u backwards, %*u "
               "weight gradients; %*u messages were sent again, %u compared",
               &kept, &forwards, &compared);
    if (n != 3) fprintf(stderr, "not to be read: %s\n", text), abort();
    self->n_replayed++;
    self->n_kept += kept;
    self->n_forwards += forwards;
    self->n_compared += compared;
}

static inline void ignore_tick(void *context)
{
    (void)context;
}

/* Of every node; for as long as it is used. */
typedef struct cast {
    tr_coordinator_context coordinator;
    tr_monitor_context monitor;
    tr_checkpoint_writer writer;
    tr_actor_kind kinds[5];
    tr_registry registry;
} cast;

static inline void cast_init(cast *self, size_t layout, outcome *out, tr_coordinator_journal *journal)
{
    const tr_job_plan *plan = &jobs[layout].plan;
    uint64_t n_elements = 0;
    for (size_t i = 0; i < plan->model.parameters.count; i++) n_elements += (uint64_t)plan->n_elements[i];
    *self = (cast){.coordinator = {.plan = plan->training,
                                   .n_elements = plan->n_elements,
                                   .n_parameters = (uint32_t)plan->model.parameters.count,
                                   .context = &jobs[layout].recipe,
                                   .learning_rate = learning_rate,
                                   .journal = journal,
                                   .runs_again = journal != NULL},
                   .monitor = {.context = out, .record = on_record, .note = on_note, .tick = ignore_tick},
                   .writer = {.context = out,
                              .total_bytes = 3 * sizeof(float) * n_elements,
                              .begin = begin_checkpoint,
                              .write = write_checkpoint,
                              .commit = commit_checkpoint,
                              .abandon = abandon_checkpoint}};
    const tr_actor_kind kinds[] = {
        {"stage", &tr_stage_behavior, (void *)(uintptr_t)&tr_pipeline_stage_source},
        {"data_shard", &tr_data_shard_behavior, (void *)(uintptr_t)&tr_pipeline_shard_source},
        {TR_ROLE_COORDINATOR, &tr_coordinator_behavior, &self->coordinator},
        {TR_ROLE_CHECKPOINT, &tr_checkpoint_behavior, &self->writer},
        {TR_ROLE_MONITOR, &tr_monitor_behavior, &self->monitor}};
    memcpy(self->kinds, kinds, sizeof kinds);
    self->registry = (tr_registry){self->kinds, sizeof kinds / sizeof *kinds};
}

#endif
