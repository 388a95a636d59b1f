/* pipelines/job_print.c - a job's plan for people: what `troupe plan` prints.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/job_plan.h"

#include "ops/chunk_logits.h"
#include "ops/use_fp8.h"

#include <inttypes.h>

static void print_size(FILE *stream, uint64_t bytes)
{
    if (bytes >= (uint64_t)10 << 30)
        fprintf(stream, " %7.1f GiB", (double)bytes / (1 << 30));
    else
        fprintf(stream, " %7.1f MiB", (double)bytes / (1 << 20));
}

static bool has_gpus(const tr_job_plan *self)
{
    uint32_t n = self->training.n_replicas * self->training.n_stages;
    bool any = false;
    for (uint32_t i = 0; i < n; i++) any |= self->budgets[i].device.kind != TR_DEVICE_CPU;
    return any;
}

uint64_t tr_stage_budget_on_device(const tr_stage_budget *self)
{
    if (self->device.kind == TR_DEVICE_CPU) return 0;
    return self->own_state + self->rounded + self->codes + self->whole + self->gradients + self->stashes +
           self->scratch + self->places + self->context;
}

uint64_t tr_stage_budget_on_host(const tr_stage_budget *self)
{
    uint64_t held = 2 * self->state + self->edges + self->pinned + self->kept + self->audit;
    if (self->device.kind != TR_DEVICE_CPU) return held;
    return held + self->own_state + self->rounded + self->codes + self->whole + self->gradients +
           self->stashes + self->scratch + self->places;
}

static void print_layers(const tr_job_plan *self, uint32_t stage, FILE *stream)
{
    int32_t first = self->model.partition.first_unit[stage],
            end = self->model.partition.first_unit[stage + 1];
    int32_t n_units = tr_graph_unit_count(self->model.whole);
    double total = 0;
    for (int32_t s = 0; s < self->model.partition.n_stages; s++) total += self->model.partition.cost[s];
    int32_t from = first == 0 ? 1 : first,
            to = end == n_units ? end - 2 : end - 1; /* units 1 .. L are the layers */
    fprintf(stream, "  stage %u", stage);
    if (self->training.n_pieces > 1)
        fprintf(stream, " (worker %u of each replica)", tr_plan_worker(&self->training, stage) + 1);
    fprintf(stream, ": layers %d to %d%s%s, %.0f%% of the forward\n", from - 1, to - 1,
            first == 0 ? ", embedding" : "", end == n_units ? ", head and loss" : "",
            100 * self->model.partition.cost[stage] / total);
}

void tr_job_plan_print_memory(const tr_job_plan *self, FILE *stream)
{
    bool gpus = has_gpus(self);
    fprintf(stream, "\n%-11s %11s%*s  hosts\n", "worker", "memory", gpus ? 12 : 0, gpus ? "on GPU" : "");
    for (int32_t node = 1; node < self->topology.n_nodes; node++) {
        uint64_t bytes = 0, on_gpu = 0;
        for (size_t i = 0; i < self->topology.n_actors; i++) {
            const tr_stage_budget *budget = tr_job_plan_budget(self, self->topology.actors[i].id);
            if (!budget || self->topology.actors[i].node != node) continue;
            bytes += tr_stage_budget_on_host(budget);
            on_gpu += tr_stage_budget_on_device(budget);
        }
        fprintf(stream, "worker %-4d", node);
        print_size(stream, bytes);
        if (gpus) print_size(stream, on_gpu);
        const char *before = "  ";
        for (size_t i = 0; i < self->topology.n_actors; i++) {
            if (self->topology.actors[i].node != node) continue;
            fprintf(stream, "%s%s", before, self->topology.actors[i].name);
            before = ", ";
        }
        fputc('\n', stream);
    }
}

static double mib(int64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* They are part of the last stage's scratch. */
static void print_logits(const tr_job_plan *self, FILE *stream)
{
    int64_t rows = (int64_t)self->training.rows * self->training.sequence,
            chunk = self->recipe->layout.logits;
    tr_dtype dtype = self->recipe->dtype == TR_RECIPE_BFLOAT16 ? TR_BF16 : TR_F32;
    int64_t row_bytes = self->model.config.vocabulary * (int64_t)tr_dtype_bytes(dtype);
    if (chunk == 0) chunk = tr_logits_rows(rows, self->model.config.vocabulary, dtype);
    if (chunk >= rows)
        fprintf(stream, "logits: of all %" PRId64 " tokens of a micro-batch, %.1f MiB\n", rows,
                mib(rows * row_bytes));
    else
        fprintf(stream,
                "logits: of %" PRId64 " of %" PRId64
                " tokens at a time, %.1f MiB instead of %.1f (layout.logits)\n",
                chunk, rows, mib(chunk * row_bytes), mib(rows * row_bytes));
}

static void print_fp8(const tr_job_plan *self, FILE *stream)
{
    if (!self->model.fp8) return;
    tr_fp8_layers layers = tr_graph_fp8_layers(self->model.whole);
    fprintf(stream, "FP8: products of %d linear layers, e4m3 forward, e5m2 for gradients", layers.n_taken);
    if (layers.n_left)
        fprintf(stream, "; %d stay in bfloat16, their rows, inputs or outputs being no multiple of 16",
                layers.n_left);
    fputc('\n', stream);
}

/* What sharing saves, and what it costs. */
static void print_zero(const tr_job_plan *self, FILE *stream)
{
    uint64_t held = 0, shared = 0, whole = 0;
    if (!self->training.zero) return;
    for (uint32_t i = 0; i < self->training.n_replicas * self->training.n_stages; i++) {
        const tr_stage_budget *budget = &self->budgets[i];
        uint64_t times =
            budget->own_state ? 3 : 2; /* the slots, and what is computed with where that is apart */
        held += times * budget->state;
        shared += times * budget->shared_state;
        whole += budget->whole;
    }
    fprintf(stream, "ZeRO stage %u: the replicas of a stage share its state,", self->training.zero);
    print_size(stream, held);
    fprintf(stream, " in all, and not");
    print_size(stream, held + shared);
    fprintf(stream, "; all parameters beside it:");
    print_size(stream, whole);
    fputc('\n', stream);
}

static bool is_on_gpu(const tr_job_plan *self, tr_actor_id id)
{
    const tr_stage_budget *budget = tr_job_plan_budget(self, id);
    return budget && budget->device.kind == TR_DEVICE_CUDA;
}

/* Which way bodies go between stages on GPUs; whether their GPUs reach each other is found out when the run begins. */
static void print_links(const tr_job_plan *self, FILE *stream)
{
    uint32_t n = 0;
    for (size_t e = 0; e < self->topology.n_edges; e++) {
        const tr_edge_spec *edge = &self->topology.edges[e];
        n += tr_edge_link_bytes(edge) > 0 && is_on_gpu(self, edge->source) &&
             is_on_gpu(self, edge->destination);
    }
    if (n == 0) return;
    const char *why = !self->recipe->layout.cuda_ipc    ? "layout.cuda_ipc is false"
                      : !self->recipe->layout.processes ? "CUDA IPC is between processes"
                      : self->training.replay           ? "recovery: replay keeps messages there"
                                                        : NULL;
    fprintf(stream, "links: %u between stages on GPUs, ", n);
    if (why)
        fprintf(stream, "through the host's memory (%s)\n", why);
    else
        fprintf(stream,
                "by CUDA IPC where both are on one host and reach each other, else through its memory\n");
}

/* Where gradients of replicas are summed, if not all by the host. */
static void print_gradients(const tr_job_plan *self, FILE *stream)
{
    const tr_training_plan *plan = &self->training;
    uint32_t n_by_devices = 0, n_streams = 0, n = plan->n_replicas * plan->n_stages;
    for (uint32_t i = 0; i < n; i++) {
        n_by_devices += self->budgets[i].by_devices;
        n_streams += self->budgets[i].streams;
    }
    if (n_by_devices == 0) return;
    fprintf(stream, "gradients: from GPU to GPU by NCCL%s; where it is missing by the host%s\n",
            n_streams == n   ? ", as they are computed, and never whole"
            : plan->zero > 1 ? ", whole: they add up over a replica's micro-batches first (one in a step "
                               "would need no whole gradient)"
                             : "",
            n_streams ? ", and whole" : "");
}

void tr_job_plan_print(const tr_job_plan *self, FILE *stream)
{
    const tr_training_plan *plan = &self->training;
    const tr_recipe *recipe = self->recipe;
    int64_t tokens = (int64_t)plan->n_microbatches * plan->rows * plan->sequence;
    fprintf(stream, "model: %s, %d layers of %d, %" PRId64 " parameters\n",
            tr_family_name(self->model.config.family), self->model.config.layers, self->model.config.width,
            tr_model_config_parameter_count(&self->model.config));
    fprintf(stream,
            "step: %u micro-batches of %u x %u tokens in %u reduction groups, %" PRId64 " tokens; %u steps\n",
            plan->n_microbatches, plan->rows, plan->sequence, plan->n_groups, tokens, plan->n_steps);
    fprintf(stream, "layout: %u replicas x %u ", plan->n_replicas, tr_plan_workers(plan));
    if (plan->n_pieces > 1)
        fprintf(stream, "workers of %u stages", plan->n_pieces);
    else
        fprintf(stream, "stages");
    fprintf(stream, ", %s over %s, %d kernel threads each\n",
            !recipe->layout.processes ? "one process"
            : plan->n_pieces > 1      ? "one process a worker"
                                      : "one process a stage",
            tr_transport_kind_name(recipe->transport), recipe->layout.threads);
    bool rounded = recipe->dtype == TR_RECIPE_BFLOAT16;
    fprintf(stream, "dtype: %s\n",
            rounded ? "bfloat16 matrices and activations; float32 state, gradients, norms and losses"
                    : "float32");
    print_fp8(self, stream);
    print_logits(self, stream);
    if (plan->audit)
        fprintf(stream,
                "audit: %g%% of micro-batches are computed again by the next replica's workers: so much more "
                "computing\n",
                100.0 * plan->audit / TR_AUDIT_ALL);
    print_zero(self, stream);
    print_gradients(self, stream);
    for (uint32_t s = 0; s < plan->n_stages; s++) print_layers(self, s, stream);
    if (self->devices.text[0]) fprintf(stream, "%s\n", self->devices.text);
    print_links(self, stream);
    bool fp8 = self->model.fp8;
    fprintf(stream, "\n%-24s %-9s %-7s %12s %8s %11s%*s%*s%*s %11s %11s %11s %11s%*s%*s\n", "actor", "where",
            "device", "parameters", "credits", "state x2", rounded ? 12 : 0, rounded ? "bf16 copy" : "",
            fp8 ? 12 : 0, fp8 ? "FP8 copies" : "", plan->zero ? 12 : 0, plan->zero ? "gathered" : "",
            "gradients", "stashes", "scratch", "slots", plan->replay ? 12 : 0, plan->replay ? "kept" : "",
            plan->audit ? 12 : 0, plan->audit ? "audits" : "");
    for (size_t i = 0; i < self->topology.n_actors; i++) {
        const tr_actor_spec *actor = &self->topology.actors[i];
        char where[32], device[32];
        snprintf(where, sizeof where, actor->node == TR_NODE_HEAD ? "head" : "worker %d", actor->node);
        fprintf(stream, "%-24s %-9s", actor->name, where);
        const tr_stage_budget *budget = tr_job_plan_budget(self, actor->id);
        if (budget) {
            tr_stage_place_name(budget->device, device, sizeof device);
            fprintf(stream, " %-7s %12" PRId64 " %8u", device, budget->n_parameters, budget->stash_credits);
            print_size(stream, 2 * budget->state);
            if (rounded) print_size(stream, budget->rounded);
            if (fp8) print_size(stream, budget->codes);
            if (plan->zero) print_size(stream, budget->whole);
            print_size(stream, budget->gradients);
            print_size(stream, budget->stashes);
            print_size(stream, budget->scratch);
            print_size(stream, budget->edges);
            if (plan->replay) print_size(stream, budget->kept);
            if (plan->audit) print_size(stream, budget->audit);
        }
        fputc('\n', stream);
    }
    tr_job_plan_print_memory(self, stream);
    tr_job_plan_print_hosts(self, stream);
    fprintf(stream, "\n%-12s %-24s %-24s %6s %12s\n", "edge", "from", "to", "slots", "bytes each");
    for (size_t e = 0; e < self->topology.n_edges; e++) {
        const tr_edge_spec *edge = &self->topology.edges[e];
        fprintf(stream, "%-12s %-24s %-24s %6u %12u\n", edge->name,
                tr_topology_actor(&self->topology, edge->source)->name,
                tr_topology_actor(&self->topology, edge->destination)->name, edge->n_slots, edge->slot_bytes);
    }
}
