/* pipelines/job_topology.c - the actors of a training job, their places, edges and memory.
 * Node 0, the head, has coordinator, checkpoint and monitor; node 1 + replica * P + p has the stages p, p+P, ...
 * of that replica, the first of each replica its data shard as well.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/job_plan.h"

#include "actors/roles.h"
#include "actors/stage_shard.h"
#include "actors/topics.h"
#include "base/memory.h"
#include "ops/program.h"

#include <inttypes.h>
#include <string.h>

enum {
    HEAD_SLOTS = 4, /* of the "state" edge */
    HEAD_ACTORS = 3 /* before those of the replicas: of each its data shard, then its stages */
};

static uint64_t value_bytes(const tr_graph *graph, tr_value value)
{
    if (value == TR_NO_VALUE) return 0;
    const tr_value_info *info = tr_graph_value(graph, value);
    return (uint64_t)tr_shape_elements(&info->shape) * tr_dtype_bytes(info->dtype);
}

/* --- memory --- */

/* A slot with nothing shared. */
static uint64_t whole_state(const tr_stage_spec *spec)
{
    tr_stage_spec alone = *spec;
    alone.plan.zero = 0;
    return tr_shard_state_bytes(&alone, spec->replica);
}

/* Gradients that a replica holds at once, that of the group at work among them. */
static uint32_t most_blocks(const tr_training_plan *plan, uint32_t replica)
{
    tr_range own = tr_plan_groups(plan, replica), blocks[TR_MAX_BLOCKS + 1];
    uint32_t n = 0, most = 0;
    for (uint32_t group = own.begin; group < own.end; group++) {
        blocks[n++] = (tr_range){group, group + 1};
        if (n > most) most = n;
        for (; n >= 2 && tr_tree_siblings(plan->n_groups, blocks[n - 2], blocks[n - 1]); n--)
            blocks[n - 2].end = blocks[n - 1].end;
    }
    return most;
}

/* May its replicas hand gradients to each other? As actors/stage_group.c decides, but for a library that is missing. */
static bool go_by_devices(const tr_job_plan *plan, uint32_t stage)
{
    const tr_training_plan *training = &plan->training;
    bool all = training->n_replicas > 1 && training->n_pieces <= 1;
    for (uint32_t r = 0; all && r < training->n_replicas; r++) {
        const tr_stage_place *own = &plan->devices.stages[r * training->n_stages + stage];
        all = own->kind == TR_DEVICE_CUDA;
        for (uint32_t other = 0; other < r; other++)
            all = all && own->index != plan->devices.stages[other * training->n_stages + stage].index;
    }
    return all;
}

/* The group at work and the blocks of a replica at their most, and with several replicas the sum. */
static tr_status budget_gradients(const tr_job_plan *plan, const tr_stage_spec *spec,
                                  const tr_program *program, bool apart, tr_stage_budget *out, tr_error *err)
{
    uint32_t blocks = most_blocks(&plan->training, spec->replica);
    bool replicated = plan->training.n_replicas > 1;
    uint64_t flat =
        (uint64_t)tr_stage_gradient_elements(spec->parameters, spec->n_parameters) * sizeof(float);
    bool packed = plan->training.zero > 1 || tr_shard_is_even(spec);
    uint64_t sum = packed ? (uint64_t)tr_shard_sum_elements(spec, spec->replica) * sizeof(float) : flat;
    out->by_devices = go_by_devices(plan, spec->stage);
    if (!apart) {
        out->gradients = blocks * flat + (replicated ? sum : 0);
        return TR_OK;
    }
    if (replicated && !out->by_devices) out->pinned += blocks * flat + sum;
    tr_status status = tr_stage_gradient_bytes(spec, program, blocks, out->by_devices, &out->gradients, err);
    tr_range own = tr_plan_microbatches(&plan->training, spec->replica);
    out->streams = out->by_devices && plan->training.zero > 1 && own.end - own.begin == 1;
    return status;
}

static tr_status budget_stage(const tr_job_plan *plan, const tr_stage_spec *spec, tr_stage_budget *out,
                              tr_error *err)
{
    tr_program *program;
    tr_program_options options = {
        .device = spec->device, .n_threads = spec->n_threads, .only_plan = spec->device != TR_DEVICE_CPU};
    tr_status status = tr_program_new(&program, spec->graph, &options, err);
    if (status) return status;
    *out = (tr_stage_budget){.device = {spec->device, spec->device_index},
                             .stash_credits = spec->stash_credits,
                             .stashes = spec->stash_credits * tr_program_stash_bytes(program),
                             .scratch = tr_program_scratch_bytes(program),
                             .codes = tr_program_kept_bytes(program)};
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        out->gflops += tr_program_flops(program, (tr_phase)phase) * 1e-9;
    bool apart = spec->device != TR_DEVICE_CPU || plan->training.hold_every > 1;
    if (apart) tr_stage_device_bytes(spec, program, &out->places, &out->pinned);
    if (plan->training.replay) out->kept = tr_stage_kept_bytes(spec, program);
    if (plan->training.audit) out->audit = tr_stage_audit_bytes(spec, program);
    status = budget_gradients(plan, spec, program, apart, out, err);
    tr_program_destroy(&program);
    if (status) return status;

    for (uint32_t i = 0; i < spec->n_parameters; i++) out->n_parameters += spec->parameters[i].n_elements;
    out->state = tr_shard_state_bytes(spec, spec->replica);
    out->shared_state = whole_state(spec) - out->state;
    if (apart) out->own_state = out->state;
    out->rounded = tr_stage_rounded_bytes(spec);
    out->whole = tr_shard_whole_bytes(spec);
    if (plan->training.zero)
        *(apart ? &out->pinned : &out->whole) += tr_shard_message_bytes(spec, spec->replica);
    return TR_OK;
}

/* --- actors and edges --- */

static int32_t node_of(const tr_training_plan *plan, uint32_t replica, uint32_t stage)
{
    return (int32_t)(1 + replica * tr_plan_workers(plan) + tr_plan_worker(plan, stage));
}

static tr_status add_placed(tr_job_plan *self, const char *name, const char *behavior, uint32_t replica,
                            uint32_t stage, uint64_t state_bytes, tr_error *err)
{
    void *config;
    size_t config_bytes;
    tr_status status = tr_place_pack(self, replica, stage, &config, &config_bytes, err);
    if (status) return status;
    tr_actor_id id;
    bool is_shard = state_bytes == 0;
    int32_t node = is_shard ? tr_job_shard_node(self->recipe, &self->training, replica)
                            : node_of(&self->training, replica, stage);
    status = tr_topology_add_actor(&self->topology, name, behavior, node, config, config_bytes, state_bytes,
                                   &id, err);
    tr_free(config);
    return status;
}

static tr_status add_actors(tr_job_plan *self, tr_error *err)
{
    static const char *const of_head[HEAD_ACTORS] = {TR_ROLE_COORDINATOR, TR_ROLE_CHECKPOINT,
                                                     TR_ROLE_MONITOR};
    const tr_training_plan *plan = &self->training;
    char name[TR_NAME_BYTES];
    tr_actor_id id;
    tr_status status = TR_OK;
    for (size_t i = 0; !status && i < HEAD_ACTORS; i++)
        status = tr_topology_add_actor(&self->topology, of_head[i], of_head[i], TR_NODE_HEAD, NULL, 0, 0, &id,
                                       err);
    for (uint32_t r = 0; !status && r < plan->n_replicas; r++) {
        tr_role_name_shard(name, r);
        status = add_placed(self, name, "data_shard", r, 0, 0, err);
        for (uint32_t s = 0; !status && s < plan->n_stages; s++) {
            tr_role_name_stage(name, r, s);
            status = add_placed(self, name, "stage", r, s, self->budgets[r * plan->n_stages + s].state, err);
        }
    }
    return status;
}

static tr_status add_edge(tr_job_plan *self, const char *name, tr_actor_id source, tr_actor_id destination,
                          uint32_t n_slots, uint64_t slot_bytes, tr_error *err)
{
    if (slot_bytes > UINT32_MAX || n_slots > UINT16_MAX)
        return tr_fail(err, TR_EUNSUPPORTED,
                       "edge '%s' would need %u slots of %" PRIu64 " bytes; a message has at most 4 GiB",
                       name, n_slots, slot_bytes);
    uint32_t edge;
    return tr_topology_add_edge(&self->topology, name, source, destination, n_slots, (uint32_t)slot_bytes,
                                &edge, err);
}

static tr_status add_pipeline_edges(tr_job_plan *self, uint32_t r, const tr_stage_spec *spec, tr_error *err)
{
    const tr_training_plan *plan = &self->training;
    uint32_t last = plan->n_stages - 1;
    char name[TR_NAME_BYTES];
    tr_role_name_shard(name, r);
    tr_actor_id shard = tr_role_find(&self->topology, name),
                stage = tr_role_find_stage(&self->topology, r, spec->stage);
    uint64_t ids = (uint64_t)plan->rows * plan->sequence * sizeof(int32_t);
    tr_status status = TR_OK;
    if (spec->stage == 0)
        status = add_edge(self, TR_EDGE_TOKENS, shard, stage, tr_plan_token_slots(plan, r), ids, err);
    if (!status && spec->stage == last)
        status = add_edge(self, TR_EDGE_TARGETS, shard, stage,
                          tr_plan_stash_credits(plan, r, 0) + spec->stash_credits + last + 2, ids, err);
    if (!status && spec->stage < last) {
        tr_actor_id next = tr_role_find_stage(&self->topology, r, spec->stage + 1);
        uint64_t bytes = value_bytes(spec->graph, spec->activation_out);
        status = add_edge(self, TR_EDGE_ACTIVATION, stage, next,
                          tr_plan_stash_credits(plan, r, spec->stage + 1) + 1, bytes, err);
        if (!status) status = add_edge(self, TR_EDGE_GRADIENT, next, stage, spec->stash_credits, bytes, err);
    }
    if (!status && (r == 0 || plan->zero))
        status = add_edge(self, TR_EDGE_STATE, stage, tr_role_find(&self->topology, TR_ROLE_CHECKPOINT),
                          HEAD_SLOTS, TR_STATE_CHUNK_BYTES, err);
    return status;
}

static tr_status add_reduction_edges(tr_job_plan *self, uint32_t r, const tr_stage_spec *spec, tr_error *err)
{
    const tr_training_plan *plan = &self->training;
    tr_actor_id from = tr_role_find_stage(&self->topology, r, spec->stage);
    uint64_t parameters = tr_shard_message_bytes(spec, r), sum = (uint64_t)tr_shard_longest(spec, r) * 4;
    tr_status status = TR_OK;
    for (uint32_t other = 0; !status && other < plan->n_replicas; other++) {
        if (other == r) continue;
        tr_actor_id to = tr_role_find_stage(&self->topology, other, spec->stage);
        status = add_edge(self, TR_EDGE_SCATTER, from, to,
                          tr_plan_blocks(plan, r, NULL) * tr_shard_stretches(spec, other, NULL),
                          (uint64_t)tr_shard_longest(spec, other) * 4, err);
        if (!status && plan->zero) status = add_edge(self, TR_EDGE_PARAMETERS, from, to, 1, parameters, err);
        if (!status && !plan->zero) status = add_edge(self, TR_EDGE_GATHER, from, to, 1, sum, err);
    }
    return status;
}

/* To the next replica, which computes what it gets once more. */
static tr_status add_audit_edge(tr_job_plan *self, uint32_t r, const tr_stage_spec *spec, tr_error *err)
{
    const tr_training_plan *plan = &self->training;
    if (!plan->audit || plan->n_replicas < 2) return TR_OK;
    return add_edge(self, TR_EDGE_AUDIT, tr_role_find_stage(&self->topology, r, spec->stage),
                    tr_role_find_stage(&self->topology, (r + 1) % plan->n_replicas, spec->stage),
                    TR_STAGE_AUDIT_SLOTS, tr_stage_audit_message_bytes(spec), err);
}

/* Uses of a tied parameter that this stage tells stage `other`: all its own uses of what `other` uses as well. */
static void count_tied(const tr_stage_spec *spec, uint32_t other, uint32_t *n_uses, uint64_t *bytes)
{
    *n_uses = 0;
    *bytes = 0;
    tr_shard shard;
    tr_shard_begin(&shard, spec, spec->replica);
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        const tr_stage_parameter *parameter = &spec->parameters[i];
        tr_stretch part = tr_shard_next(&shard);
        uint32_t own = 0;
        bool there = false;
        for (uint32_t u = 0; u < parameter->n_uses; u++) {
            own += parameter->uses[u].stage == spec->stage;
            there |= parameter->uses[u].stage == other;
        }
        if (!there) continue;
        *n_uses += own;
        uint64_t size = (uint64_t)(part.end - part.begin) * sizeof(float);
        if (size > *bytes) *bytes = size;
    }
}

static tr_status add_tied_edges(tr_job_plan *self, uint32_t r, const tr_stage_spec *spec, tr_error *err)
{
    tr_status status = TR_OK;
    for (uint32_t other = 0; !status && other < self->training.n_stages; other++) {
        if (other == spec->stage) continue;
        uint32_t n_uses;
        uint64_t bytes;
        count_tied(spec, other, &n_uses, &bytes);
        if (n_uses)
            status = add_edge(self, TR_EDGE_TIED, tr_role_find_stage(&self->topology, r, spec->stage),
                              tr_role_find_stage(&self->topology, r, other), n_uses, bytes, err);
    }
    return status;
}

static tr_status for_each_stage(tr_job_plan *self, bool edges, tr_error *err)
{
    const tr_training_plan *plan = &self->training;
    tr_status status = TR_OK;
    for (uint32_t s = 0; !status && s < plan->n_stages; s++) {
        for (uint32_t r = 0; !status && r < plan->n_replicas; r++) {
            tr_stage_spec spec;
            status = tr_model_plan_stage(&self->model, self->recipe, plan, r, s, &spec, err);
            if (status) break;
            const tr_stage_place *device = &self->devices.stages[r * plan->n_stages + s];
            spec.device = device->kind;
            spec.device_index = device->kind == TR_DEVICE_CPU ? 0 : device->index;
            if (!edges) status = budget_stage(self, &spec, &self->budgets[r * plan->n_stages + s], err);
            if (!edges) self->budgets[r * plan->n_stages + s].device = *device;
            if (edges) status = add_pipeline_edges(self, r, &spec, err);
            if (edges && !status) status = add_reduction_edges(self, r, &spec, err);
            if (edges && !status) status = add_tied_edges(self, r, &spec, err);
            if (edges && !status) status = add_audit_edge(self, r, &spec, err);
            tr_stage_spec_release(&spec);
        }
    }
    return status;
}

const tr_stage_budget *tr_job_plan_budget(const tr_job_plan *self, tr_actor_id id)
{
    uint32_t each = 1 + self->training.n_stages;
    if (id <= HEAD_ACTORS || (id - 1 - HEAD_ACTORS) % each == 0) return NULL;
    uint32_t at = (uint32_t)(id - 1 - HEAD_ACTORS);
    return &self->budgets[at / each * self->training.n_stages + at % each - 1];
}

/* What an edge costs its receiver: slots for what comes from another process, nothing within one. */
static void budget_edges(tr_job_plan *self)
{
    for (size_t e = 0; e < self->topology.n_edges && self->recipe->layout.processes; e++) {
        const tr_edge_spec *edge = &self->topology.edges[e];
        const tr_stage_budget *budget = tr_job_plan_budget(self, edge->destination);
        if (!budget || tr_topology_actor(&self->topology, edge->source)->node ==
                           tr_topology_actor(&self->topology, edge->destination)->node)
            continue;
        self->budgets[budget - self->budgets].edges += (uint64_t)edge->n_slots * edge->slot_bytes;
    }
}

/* What a link costs its sender, until it is known whether the other end takes it. */
static void budget_links(tr_job_plan *self)
{
    const tr_training_plan *plan = &self->training;
    bool may = self->recipe->layout.cuda_ipc && !plan->replay && !plan->audit;
    for (size_t e = 0; e < self->topology.n_edges && may; e++) {
        const tr_edge_spec *edge = &self->topology.edges[e];
        const tr_stage_budget *budget = tr_job_plan_budget(self, edge->source);
        if (budget && budget->device.kind == TR_DEVICE_CUDA)
            self->budgets[budget - self->budgets].places += tr_edge_link_bytes(edge);
    }
}

/* What CUDA itself takes of a GPU for each process, counted with the process's first stage there. */
static void budget_contexts(tr_job_plan *self)
{
    const tr_training_plan *plan = &self->training;
    for (uint32_t i = 0; i < plan->n_replicas * plan->n_stages; i++) {
        tr_stage_budget *budget = &self->budgets[i];
        bool is_first = budget->device.kind == TR_DEVICE_CUDA;
        for (uint32_t j = 0; j < i && is_first; j++) {
            bool together =
                !self->recipe->layout.processes || node_of(plan, i / plan->n_stages, i % plan->n_stages) ==
                                                       node_of(plan, j / plan->n_stages, j % plan->n_stages);
            is_first =
                !together || memcmp(&self->budgets[j].device, &budget->device, sizeof budget->device) != 0;
        }
        if (is_first) budget->context = TR_STAGE_CONTEXT_BYTES;
        if (budget->by_devices) budget->context += (uint64_t)(plan->n_replicas - 1) * TR_STAGE_GROUP_BYTES;
    }
}

/* A GPU that is too small for its stages is found before anything begins. */
static tr_status check_gpus(const tr_job_plan *self, tr_error *err)
{
    uint32_t n_stages = self->training.n_replicas * self->training.n_stages;
    for (uint32_t i = 0; i < n_stages; i++) {
        tr_stage_place gpu = self->budgets[i].device;
        uint64_t bytes = 0;
        tr_device *device;
        bool seen = gpu.kind == TR_DEVICE_CPU;
        for (uint32_t j = 0; j < i; j++) seen |= memcmp(&self->budgets[j].device, &gpu, sizeof gpu) == 0;
        if (seen) continue;
        for (uint32_t j = i; j < n_stages; j++)
            if (memcmp(&self->budgets[j].device, &gpu, sizeof gpu) == 0)
                bytes += tr_stage_budget_on_device(&self->budgets[j]);
        tr_status status = tr_device_open(&device, gpu.kind, gpu.index, err);
        if (status) return status;
        uint64_t there = tr_device_memory_bytes(device);
        tr_device_close(&device);
        if (bytes > there)
            return tr_fail(
                err, TR_EINVAL,
                "device: cuda:%d has %.1f GiB, and its stages need %.1f GiB; lower train.microbatch or "
                "layout.stash, or cut the model over more GPUs (see `troupe plan`)",
                gpu.index, (double)there / (1 << 30), (double)bytes / (1 << 30));
    }
    return TR_OK;
}

tr_status tr_job_plan_init(tr_job_plan *self, const tr_recipe *recipe, tr_model_config *config,
                           const tr_data *data, const tr_start *start, tr_error *err)
{
    *self = (tr_job_plan){.recipe = recipe, .start = *start};
    tr_status status = tr_model_plan_init(&self->model, config, recipe, err);
    if (status) return status;
    status = tr_training_plan_from_recipe(&self->training, recipe, data, start->updates, err);
    if (status) {
        tr_job_plan_release(self);
        return status;
    }
    status = tr_devices_choose(&self->devices, recipe, &self->training, &self->model.config, start->record,
                               start->until != 0, err);
    if (status) {
        tr_job_plan_release(self);
        return status;
    }
    self->training.again = start->again;
    self->training.until = start->until;
    self->training.examined = start->examined;
    self->training.examination = start->examination;
    uint32_t n_stages = self->training.n_replicas * self->training.n_stages;
    tr_topology_init(&self->topology,
                     1 + (int32_t)(self->training.n_replicas * tr_plan_workers(&self->training)));
    self->topology.threads_per_node = 1;
    size_t n_parameters = self->model.parameters.count;
    self->budgets = tr_alloc_zero(n_stages, sizeof *self->budgets);
    self->n_elements = tr_alloc(n_parameters * sizeof *self->n_elements);
    if (!self->budgets || !self->n_elements)
        status = tr_fail(err, TR_ENOMEM, "no memory for the plan of a job");
    for (size_t i = 0; !status && i < n_parameters; i++)
        self->n_elements[i] = tr_shape_elements(&self->model.parameters.items[i].shape);
    if (!status) status = for_each_stage(self, false, err);
    if (!status) status = add_actors(self, err);
    if (!status) status = for_each_stage(self, true, err);
    if (!status) status = tr_job_plan_spread(self, err);
    if (!status) {
        budget_edges(self);
        budget_links(self);
        budget_contexts(self);
        status = check_gpus(self, err);
    }
    if (status) tr_job_plan_release(self);
    return status;
}

void tr_job_plan_release(tr_job_plan *self)
{
    tr_topology_release(&self->topology);
    tr_free(self->budgets);
    tr_free(self->n_elements);
    tr_free(self->host_of);
    tr_free(self->equals);
    tr_devices_release(&self->devices);
    tr_model_plan_release(&self->model);
    *self = (tr_job_plan){0};
}
