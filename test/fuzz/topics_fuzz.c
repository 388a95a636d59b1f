/* test/fuzz/topics_fuzz.c - what the actors of a training say to each other, by one that says anything: a job in simulation
 * (runtime/simulation.h) whose first byte tells who is real.
 *
 *   'h'  the head's coordinator, checkpoint and monitor; the stage is ours
 *   'w'  the workers' stage and data shard; the coordinator is ours
 *   's'  a supervisor, its configuration too from the input (a byte for its length, then that), of two children
 *
 * Then come messages: whom to (by place in the topology), topic, step, length, a byte each, then the body. Topic 0 is the
 * state edge to the checkpoint actor. Whatever is said, nobody crashes, and who
 * ends the job for it says so in one line.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/checkpoint.h"
#include "actors/coordinator.h"
#include "actors/data_shard.h"
#include "actors/monitor.h"
#include "actors/roles.h"
#include "actors/stage.h"
#include "actors/topics.h"
#include "fuzz.h"
#include "pipelines/job_plan.h"
#include "pipelines/sources.h"
#include "runtime/simulation.h"
#include "runtime/supervisor.h"

#include <math.h>

enum { MOST_MESSAGES = 64, STEPS = 3, MOST_EVENTS = 20000, REST_MS = 5 };

static const char recipe_text[] =
    "model: {family: llama, layers: 1, width: 4, heads: 2, inner: 4, vocabulary: 256, positions: 8}\n"
    "train: {steps: 3, sequence: 4, microbatch: 1, accumulate: 2}\nlr: {peak: 1e-2}\n"
    "validate: {every: 2, windows: 1}\ncheckpoint: {every: 1}\nrun: none\n";

static struct {
    tr_recipe recipe;
    tr_data *data;
    tr_job_plan plan;
    uint64_t total_bytes; /* of a checkpoint */
} job;

static struct {
    const uint8_t *next, *end;
    bool writing;
} input;

/* --- the one that says anything --- */

static void say(tr_actor *self, const uint8_t head[4], const void *body, uint32_t size)
{
    const tr_topology *topology = tr_actor_topology(self);
    tr_actor_id to = topology->actors[head[0] % topology->n_actors].id;
    if (head[1]) {
        tr_actor_send(self, to, head[1], head[2] == 0xff ? UINT32_MAX : head[2], body, size);
        return;
    }
    uint32_t edge = tr_edge_out(self, TR_EDGE_STATE, 0);
    if (edge == TR_NO_EDGE || !tr_edge_credits(self, edge)) return;
    tr_error err = {0};
    tr_buffer *buffer;
    FUZZ_PROMISE(!tr_buffer_new(&buffer, size, &err));
    if (size) memcpy(buffer->data, body, size);
    tr_edge_send(self, edge, buffer, size, head[2], 0, 0);
}

static tr_status sayer_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                            void **state, tr_error *err)
{
    (void)self, (void)config, (void)config_bytes, (void)err;
    *state = context;
    return TR_OK;
}

static void sayer_start(tr_actor *self, void *state)
{
    if (!state) return; /* only one says anything */
    tr_actor_timer(self, REST_MS, 0);
    for (int n = 0; n < MOST_MESSAGES && input.end - input.next >= 4; n++) {
        const uint8_t *head = input.next;
        uint32_t left = (uint32_t)(input.end - input.next) - 4, size = head[3] < left ? head[3] : left;
        input.next += 4 + size;
        say(self, head, head + 4, size);
    }
}

static void sayer_receive(tr_actor *self, void *state, tr_message **message)
{
    bool data = (*message)->frame.kind == TR_FRAME_DATA;
    if (state && !data && (*message)->frame.edge == TR_TOPIC_TIMER) tr_actor_finish_job(self);
}

static void sayer_stop(tr_actor *self, void *state)
{
    (void)self, (void)state;
}

static const tr_behavior sayer = {
    .name = "sayer", .init = sayer_init, .start = sayer_start, .receive = sayer_receive, .stop = sayer_stop};

/* --- what the head's actors are given --- */

static double learning_rate(void *context, uint32_t step)
{
    (void)context;
    FUZZ_PROMISE(step < STEPS);
    return 0.01;
}

static tr_status on_record(void *context, const tr_step_record *record, tr_error *err)
{
    (void)context, (void)record, (void)err;
    return TR_OK;
}

static void on_note(void *context, const char *kind, const char *text)
{
    (void)context;
    FUZZ_PROMISE(strlen(kind) < TR_ERROR_SIZE && strlen(text) < TR_ERROR_SIZE);
}

static void on_tick(void *context)
{
    (void)context;
}

static tr_status begin_checkpoint(void *context, uint32_t updates, tr_error *err)
{
    (void)context, (void)updates, (void)err;
    FUZZ_PROMISE(!input.writing);
    input.writing = true;
    return TR_OK;
}

static tr_status write_checkpoint(void *context, uint32_t parameter, uint32_t part, uint64_t offset_bytes,
                                  const void *bytes, size_t size_bytes, tr_error *err)
{
    (void)context, (void)offset_bytes, (void)bytes;
    FUZZ_PROMISE(input.writing && size_bytes > 0);
    return parameter > 100 || part > 2 ? tr_fail(err, TR_ECORRUPT, "no such part") : TR_OK;
}

static tr_status commit_checkpoint(void *context, char *path, size_t capacity, tr_error *err)
{
    (void)context, (void)err;
    FUZZ_PROMISE(input.writing);
    input.writing = false;
    snprintf(path, capacity, "somewhere");
    return TR_OK;
}

static void abandon_checkpoint(void *context)
{
    (void)context;
    FUZZ_PROMISE(input.writing);
    input.writing = false;
}

/* --- the jobs --- */

static void prepare(void)
{
    tr_error err = {0};
    char *path = tr_format("%s/text", fuzz_directory()), *text = tr_format("data={text: %s}", path);
    const char *overrides[] = {text};
    tr_model_config config = {0};
    const tr_start start = {0};
    static const char words[] =
        "a stone fell upon the sea while the wind was with us, and so he said this and that";
    FUZZ_PROMISE(!tr_file_write(path, words, sizeof words - 1, &err));
    FUZZ_PROMISE(
        !tr_recipe_parse(&job.recipe, recipe_text, sizeof recipe_text - 1, "recipe", overrides, 1, &err));
    FUZZ_PROMISE(!tr_model_config_from_recipe(&config, &job.recipe, &err));
    FUZZ_PROMISE(!tr_data_open(&job.data, &job.recipe, config.vocabulary, &err));
    FUZZ_PROMISE(!tr_job_plan_init(&job.plan, &job.recipe, &config, job.data, &start, &err));
    for (size_t i = 0; i < job.plan.model.parameters.count; i++)
        job.total_bytes += 3 * (uint64_t)job.plan.n_elements[i] * sizeof(float);
    tr_free(path);
    tr_free(text);
}

static void clean_up(void)
{
    tr_job_plan_release(&job.plan);
    tr_data_close(&job.data);
    tr_recipe_release(&job.recipe);
}

static void run(const tr_topology *topology, const tr_registry *registry)
{
    tr_error err = {0};
    tr_simulation *simulation;
    tr_simulation_options options = {.seed = 1,
                                     .topology = topology,
                                     .registry = registry,
                                     .control = {.in_order = true},
                                     .max_events = MOST_EVENTS};
    input.writing = false;
    tr_status status = tr_simulation_new(&simulation, &options, &err);
    if (!status) {
        status = tr_simulation_run(simulation, &err);
        tr_simulation_destroy(&simulation);
    }
    FUZZ_PROMISE(!input.writing);
    if (status) FUZZ_PROMISE(err.message[0] && !strchr(err.message, '\n'));
}

static void run_training(bool workers_are_real)
{
    static char one;
    bool real = workers_are_real;
    void *stage_source = (void *)(uintptr_t)&tr_pipeline_stage_source;
    void *shard_source = (void *)(uintptr_t)&tr_pipeline_shard_source;
    tr_coordinator_context coordinator = {.plan = job.plan.training,
                                          .n_elements = job.plan.n_elements,
                                          .n_parameters = (uint32_t)job.plan.model.parameters.count,
                                          .learning_rate = learning_rate};
    tr_monitor_context monitor = {.record = on_record, .note = on_note, .tick = on_tick};
    tr_checkpoint_writer writer = {.total_bytes = job.total_bytes,
                                   .begin = begin_checkpoint,
                                   .write = write_checkpoint,
                                   .commit = commit_checkpoint,
                                   .abandon = abandon_checkpoint};
    const tr_actor_kind kinds[] = {
        {"stage", real ? &tr_stage_behavior : &sayer, real ? stage_source : &one},
        {"data_shard", real ? &tr_data_shard_behavior : &sayer, real ? shard_source : NULL},
        {TR_ROLE_COORDINATOR, real ? &sayer : &tr_coordinator_behavior, real ? (void *)&one : &coordinator},
        {TR_ROLE_CHECKPOINT, real ? &sayer : &tr_checkpoint_behavior, real ? NULL : (void *)&writer},
        {TR_ROLE_MONITOR, real ? &sayer : &tr_monitor_behavior, real ? NULL : (void *)&monitor}};
    const tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};
    run(&job.plan.topology, &registry);
}

static void run_supervisor(void)
{
    static char one;
    tr_topology topology;
    tr_error err = {0};
    tr_actor_id ids[4];
    size_t size = (size_t)(input.end - input.next);
    if (size < 1) return;
    size = input.next[0] < size - 1 ? input.next[0] : size - 1;
    tr_topology_init(&topology, 1);
    for (int i = 0; i < 2; i++)
        FUZZ_PROMISE(!tr_topology_add_actor(&topology, i ? "b" : "a", "child", 0, NULL, 0, 0, &ids[i], &err));
    FUZZ_PROMISE(!tr_topology_add_actor(&topology, "supervisor", TR_SUPERVISOR_NAME, 0, input.next + 1, size,
                                        0, &ids[2], &err));
    FUZZ_PROMISE(!tr_topology_add_actor(&topology, "sayer", "sayer", 0, NULL, 0, 0, &ids[3], &err));
    for (int i = 0; i < 2; i++) FUZZ_PROMISE(!tr_topology_supervise(&topology, ids[2], ids[i], &err));
    input.next += 1 + size;
    const tr_actor_kind kinds[] = {TR_SUPERVISOR_KIND, {"child", &sayer, NULL}, {"sayer", &sayer, &one}};
    const tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};
    run(&topology, &registry);
    tr_topology_release(&topology);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    if (!job.data) {
        prepare();
        atexit(clean_up);
    }
    if (size_bytes < 1) return 0;
    input.next = bytes + 1;
    input.end = bytes + size_bytes;
    switch (bytes[0]) {
    case 'h': run_training(false); break;
    case 'w': run_training(true); break;
    case 's': run_supervisor(); break;
    default: return -1; /* not worth keeping */
    }
    return 0;
}
