/* ops/program.c - resolves every node once, so that running is: look up addresses, call the kernel, note the
 * time. Poison: in sanitizer builds, or where asked for, scratch is filled with NaN before each phase and the
 * stash before the forward, so that a kernel that reads what nobody wrote is seen in the result.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/program.h"

#include "base/clock.h"
#include "base/memory.h"
#include "ops/memory_plan.h"

#include <string.h>

typedef struct node_state {
    void *prepared;
    size_t workspace_bytes; /* 0: the call gets NULL */
    int32_t clock;          /* index in clocks */
} node_state;

typedef struct op_clock {
    const tr_op *op;
    uint64_t nanoseconds, calls;
} op_clock;

struct tr_program {
    const tr_graph *graph;
    tr_program_options options;
    tr_memory_plan plan;
    int32_t n_nodes;
    node_state *steps; /* by node */
    op_clock *clocks;  /* one for each operation that occurs */
    int32_t n_clocks;
};

static int32_t clock_of(tr_program *self, const tr_op *op)
{
    for (int32_t i = 0; i < self->n_clocks; i++)
        if (self->clocks[i].op == op) return i;
    self->clocks[self->n_clocks] = (op_clock){.op = op};
    return self->n_clocks++;
}

static tr_status prepare_steps(tr_program *self, tr_error *err)
{
    static const char *const device_names[] = {[TR_DEVICE_CPU] = "cpu", [TR_DEVICE_CUDA] = "cuda"};
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (!node->op->run[self->options.device])
            return tr_fail(err, TR_EUNSUPPORTED, "operation '%s' has no kernel for device '%s' in this build",
                           node->op->name, device_names[self->options.device]);
        node_state *step = &self->steps[n];
        step->clock = clock_of(self, node->op);
        if (node->op->prepare) {
            tr_status status = node->op->prepare(self->graph, node, &step->prepared, err);
            if (status != TR_OK) return status;
        }
        if (node->op->workspace)
            step->workspace_bytes = node->op->workspace(self->graph, node, self->options.n_threads);
    }
    return TR_OK;
}

static tr_status plan_memory(tr_program *self, tr_error *err)
{
    size_t *workspace_bytes = tr_alloc((size_t)self->n_nodes * sizeof *workspace_bytes);
    if (!workspace_bytes)
        return tr_fail(err, TR_ENOMEM, "no memory to plan a graph of %d nodes", self->n_nodes);
    for (int32_t n = 0; n < self->n_nodes; n++) workspace_bytes[n] = self->steps[n].workspace_bytes;
    tr_status status = tr_memory_plan_init(&self->plan, self->graph, workspace_bytes, err);
    tr_free(workspace_bytes);
    return status;
}

tr_status tr_program_new(tr_program **out, const tr_graph *graph, const tr_program_options *options,
                         tr_error *err)
{
    tr_status status = tr_graph_check(graph, err);
    if (status != TR_OK) return status;
    tr_program *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a program");
    self->graph = graph;
    self->options = *options;
    if (self->options.n_threads < 1) self->options.n_threads = 1;
    self->n_nodes = tr_graph_node_count(graph);
    self->steps = tr_alloc_zero((size_t)self->n_nodes, sizeof *self->steps);
    self->clocks = tr_alloc_zero((size_t)self->n_nodes, sizeof *self->clocks);
    if (!self->steps || !self->clocks) {
        status = tr_fail(err, TR_ENOMEM, "no memory for a program of %d nodes", self->n_nodes);
        goto failed;
    }
    status = prepare_steps(self, err);
    if (status == TR_OK) status = plan_memory(self, err);
    if (status != TR_OK) goto failed;
    *out = self;
    return TR_OK;
failed:
    tr_program_destroy(&self);
    return status;
}

void tr_program_destroy(tr_program **self)
{
    tr_program *program = *self;
    if (!program) return;
    for (int32_t n = 0; program->steps && n < program->n_nodes; n++) {
        const tr_op *op = tr_graph_node(program->graph, n)->op;
        if (program->steps[n].prepared && op->release) op->release(program->steps[n].prepared);
    }
    tr_memory_plan_release(&program->plan);
    tr_free(program->clocks);
    tr_free(program->steps);
    tr_free(program);
    *self = NULL;
}

size_t tr_program_stash_bytes(const tr_program *self)
{
    return self->plan.stash_bytes;
}

size_t tr_program_scratch_bytes(const tr_program *self)
{
    return self->plan.scratch_bytes;
}

double tr_program_flops(const tr_program *self, tr_phase phase)
{
    double flops = 0;
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        if (node->phase == phase && node->op->flops) flops += node->op->flops(self->graph, node);
    }
    return flops;
}

tr_phase tr_program_last_reader(const tr_program *self, tr_value value)
{
    TR_ASSERT(value >= 0 && value < self->plan.n_values);
    return self->plan.values[value].last_reader;
}

bool tr_program_has_phase(const tr_program *self, tr_phase phase)
{
    return self->plan.phase_start[phase] < self->plan.phase_start[phase + 1];
}

static void *address(const tr_program *self, const tr_bindings *bindings, tr_value value)
{
    if (value == TR_NO_VALUE) return NULL;
    const tr_place *place = &self->plan.values[value];
    if (place->space == TR_SPACE_SCRATCH) return (char *)bindings->scratch + place->offset;
    if (place->space == TR_SPACE_STASH) return (char *)bindings->stash + place->offset;
    const void *constant = tr_graph_value(self->graph, value)->constant;
    if (constant) return (void *)constant;
    TR_ASSERT(bindings->values[value]);
    return bindings->values[value];
}

static void run_node(tr_program *self, int32_t n, const tr_bindings *bindings)
{
    const tr_node *node = tr_graph_node(self->graph, n);
    const node_state *step = &self->steps[n];
    tr_call call = {.node = node,
                    .graph = self->graph,
                    .prepared = step->prepared,
                    .pool = bindings->pool,
                    .random = &bindings->random};
    for (int i = 0; i < node->n_inputs; i++) call.inputs[i] = address(self, bindings, node->inputs[i]);
    for (int i = 0; i < node->n_outputs; i++) call.outputs[i] = address(self, bindings, node->outputs[i]);
    if (step->workspace_bytes > 0) call.workspace = (char *)bindings->scratch + self->plan.workspaces[n];
    op_clock *clock = &self->clocks[step->clock];
    uint64_t start = tr_clock_ns();
    node->op->run[self->options.device](&call);
    clock->nanoseconds += tr_clock_ns() - start;
    clock->calls++;
}

static void poison(const tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
#ifdef TROUPE_SANITIZED
    bool wanted = true;
#else
    bool wanted = self->options.poison;
#endif
    if (!wanted || self->options.device != TR_DEVICE_CPU) return;
    if (self->plan.scratch_bytes > 0) memset(bindings->scratch, 0xff, self->plan.scratch_bytes);
    if (phase == TR_PHASE_FORWARD && self->plan.stash_bytes > 0)
        memset(bindings->stash, 0xff, self->plan.stash_bytes);
}

void tr_program_run(tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
    TR_ASSERT(bindings->scratch || self->plan.scratch_bytes == 0);
    TR_ASSERT(bindings->stash || self->plan.stash_bytes == 0);
    TR_ASSERT(tr_thread_pool_size(bindings->pool) <= self->options.n_threads);
    poison(self, phase, bindings);
    for (int32_t p = self->plan.phase_start[phase]; p < self->plan.phase_start[phase + 1]; p++)
        run_node(self, self->plan.order[p], bindings);
}

static int longest_first(const void *left, const void *right)
{
    const tr_op_time *a = left, *b = right;
    if (a->nanoseconds != b->nanoseconds) return a->nanoseconds < b->nanoseconds ? 1 : -1;
    return strcmp(a->name, b->name);
}

/* By insertion, the shortest falling off the end: `times` may be smaller than what there is. */
size_t tr_program_times(const tr_program *self, tr_op_time *times, size_t capacity)
{
    size_t kept = 0;
    for (int32_t i = 0; i < self->n_clocks; i++) {
        const op_clock *clock = &self->clocks[i];
        tr_op_time time = {.name = clock->op->name, .nanoseconds = clock->nanoseconds, .calls = clock->calls};
        size_t at = kept;
        for (; at > 0 && longest_first(&times[at - 1], &time) > 0; at--)
            if (at < capacity) times[at] = times[at - 1];
        if (at < capacity) times[at] = time;
        if (kept < capacity) kept++;
    }
    return (size_t)self->n_clocks;
}
