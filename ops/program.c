/* ops/program.c - resolves every node once, so that running is: look up addresses, call the kernel, note the
 * time. Poison: in sanitizer builds, or where asked for, scratch is filled with NaN before each phase and the
 * stash before the forward, so that a kernel that reads what nobody wrote is seen in the result.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/program.h"

#include "base/clock.h"
#include "base/memory.h"
#include "ops/fuse.h"
#include "ops/memory_plan.h"
#ifdef TROUPE_CUDA
#include "ops/cuda/graph.h"
#include "ops/cuda/kernels.h"
#endif

#include <string.h>

typedef struct node_state {
    void (*run)(const tr_call *call);
    const tr_kernel *kernel; /* NULL on the CPU */
    void *prepared;
    size_t workspace_bytes; /* 0: the call gets NULL */
    int32_t clock;          /* index in clocks */
    bool is_kept;           /* see tr_node_is_kept */
} node_state;

enum { FIRST_WORDS = 4 }; /* of what describes a run, before its values */

typedef struct op_clock {
    const tr_op *op;
    double flops; /* of a call, where calls are told apart by it */
    uint64_t nanoseconds, calls;
} op_clock;

struct tr_program {
    const tr_graph *graph; /* that is run: the caller's, or `fused` */
    tr_graph *fused;       /* of devices that fuse; else NULL */
    tr_program_options options;
    tr_memory_plan plan;
    int32_t n_nodes;
    node_state *steps; /* by node */
    op_clock
        *clocks; /* one for each operation that occurs, and number of FLOPs where that tells calls apart */
    int32_t n_clocks;
    void *kept;         /* what nodes that are kept have made; of the device */
    uint64_t weights;   /* the version it is of; 0: of none */
    bool makes_kept;    /* in the run at work, at their positions */
    void *device;       /* of kernels' calls; NULL on the CPU */
    tr_event **between; /* n_nodes + 1, where kernels are timed on a device; else NULL */
#ifdef TROUPE_CUDA
    tr_cuda_graphs *graphs; /* NULL: every kernel is queued by itself */
    uintptr_t *words;       /* n_values and a few more: what describes a run */
#endif
};

static int32_t clock_of(tr_program *self, const tr_node *node)
{
    const tr_op *op = node->op;
    bool apart = self->options.time_kernels && self->options.device != TR_DEVICE_CPU;
    double flops = apart && op->flops ? op->flops(self->graph, node) : 0;
    for (int32_t i = 0; i < self->n_clocks; i++)
        if (self->clocks[i].op == op && self->clocks[i].flops == flops) return i;
    self->clocks[self->n_clocks] = (op_clock){.op = op, .flops = flops};
    return self->n_clocks++;
}

/* The kernel of an operation on another device; NULL: there is none in this build. */
static const tr_kernel *find_kernel(tr_device_kind device, const tr_op *op)
{
#ifdef TROUPE_CUDA
    if (device == TR_DEVICE_CUDA) return tr_cuda_kernel(op->name);
#endif
    (void)device, (void)op;
    return NULL;
}

static tr_status open_device(tr_program *self, tr_error *err)
{
    if (self->options.device == TR_DEVICE_CPU || self->options.only_plan) return TR_OK;
#ifdef TROUPE_CUDA
    TR_ASSERT(self->options.stream);
    tr_status status = tr_cuda_context_new((tr_cuda_context **)&self->device, self->options.stream,
                                           self->options.choices, err);
    if (status != TR_OK || !self->options.graphs || self->options.time_kernels) return status;
    self->words = tr_alloc(((size_t)tr_graph_value_count(self->graph) + FIRST_WORDS) * sizeof *self->words);
    if (!self->words) return tr_fail(err, TR_ENOMEM, "no memory to describe the runs of a program");
    return tr_cuda_graphs_new(&self->graphs, self->device, err);
#else
    int32_t n_devices;
    return tr_device_count(self->options.device, &n_devices, err); /* says that the build has none */
#endif
}

static void close_device(tr_program *self)
{
#ifdef TROUPE_CUDA
    tr_cuda_graphs_destroy(&self->graphs);
    tr_free(self->words);
    tr_cuda_context_destroy((tr_cuda_context **)&self->device);
#else
    (void)self;
#endif
}

static tr_status prepare_on_cpu(const tr_program *self, const tr_node *node, node_state *step, tr_error *err)
{
    const tr_op *op = node->op;
    step->run = op->run[TR_DEVICE_CPU];
    if (op->workspace) step->workspace_bytes = op->workspace(self->graph, node, self->options.n_threads);
    if (!op->prepare || self->options.only_plan) return TR_OK;
    return op->prepare(self->graph, node, &step->prepared, err);
}

static tr_status prepare_on_device(const tr_program *self, const tr_node *node, node_state *step,
                                   tr_error *err)
{
    const tr_kernel *kernel = find_kernel(self->options.device, node->op);
    if (!kernel) return TR_OK;
    step->kernel = kernel;
    step->run = kernel->run;
    if (kernel->workspace) step->workspace_bytes = kernel->workspace(self->graph, node);
    if (!kernel->prepare || self->options.only_plan) return TR_OK;
    return kernel->prepare(self->graph, node, self->device, &step->prepared, err);
}

static tr_status prepare_steps(tr_program *self, tr_error *err)
{
    for (int32_t n = 0; n < self->n_nodes; n++) {
        const tr_node *node = tr_graph_node(self->graph, n);
        node_state *step = &self->steps[n];
        step->clock = clock_of(self, node);
        step->is_kept = tr_node_is_kept(self->graph, node);
        tr_status status = self->options.device == TR_DEVICE_CPU ? prepare_on_cpu(self, node, step, err)
                                                                 : prepare_on_device(self, node, step, err);
        if (status != TR_OK) return status;
        if (!step->run)
            return tr_fail(err, TR_EUNSUPPORTED, "operation '%s' has no kernel for device '%s' in this build",
                           node->op->name, tr_device_kind_name(self->options.device));
    }
    return TR_OK;
}

static tr_status make_events(tr_program *self, tr_error *err)
{
    if (!self->options.time_kernels || self->options.device == TR_DEVICE_CPU || self->options.only_plan)
        return TR_OK;
    self->between = tr_alloc_zero((size_t)self->n_nodes + 1, sizeof *self->between);
    if (!self->between) return tr_fail(err, TR_ENOMEM, "no memory for %d events", self->n_nodes + 1);
    tr_status status = TR_OK;
    for (int32_t n = 0; status == TR_OK && n <= self->n_nodes; n++)
        status = tr_event_new(&self->between[n], tr_stream_device(self->options.stream), true, err);
    return status;
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

static tr_status take_kept(tr_program *self, tr_error *err)
{
    size_t bytes = self->plan.kept_bytes;
    if (bytes == 0 || self->options.only_plan) return TR_OK;
    if (self->options.device != TR_DEVICE_CPU)
        return tr_device_allocate(tr_stream_device(self->options.stream), TR_MEMORY_DEVICE, bytes,
                                  &self->kept, err);
    self->kept = tr_alloc_aligned(4096, bytes);
    if (self->kept) return TR_OK;
    return tr_fail(err, TR_ENOMEM, "no memory for %zu bytes that a program keeps of its weights", bytes);
}

static void give_kept(tr_program *self)
{
    if (self->options.device == TR_DEVICE_CPU)
        tr_free(self->kept);
    else if (self->kept)
        tr_device_free(tr_stream_device(self->options.stream), TR_MEMORY_DEVICE, self->kept);
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
    if (!self->options.clock_ns) self->options.clock_ns = tr_clock_ns;
    if (options->device == TR_DEVICE_CUDA) {
        status = tr_graph_fuse(&self->fused, graph, err);
        if (status != TR_OK) goto failed;
        self->graph = self->fused;
    }
    self->n_nodes = tr_graph_node_count(self->graph);
    self->steps = tr_alloc_zero((size_t)self->n_nodes, sizeof *self->steps);
    self->clocks = tr_alloc_zero((size_t)self->n_nodes, sizeof *self->clocks);
    if (!self->steps || !self->clocks) {
        status = tr_fail(err, TR_ENOMEM, "no memory for a program of %d nodes", self->n_nodes);
        goto failed;
    }
    status = open_device(self, err);
    if (status == TR_OK) status = make_events(self, err);
    if (status == TR_OK) status = prepare_steps(self, err);
    if (status == TR_OK) status = plan_memory(self, err);
    if (status == TR_OK) status = take_kept(self, err);
    if (status != TR_OK) goto failed;
    *out = self;
    return TR_OK;
failed:
    tr_program_destroy(&self);
    return status;
}

static void release_prepared(tr_program *self, int32_t n)
{
    node_state *step = &self->steps[n];
    const tr_op *op = tr_graph_node(self->graph, n)->op;
    if (step->prepared && step->kernel)
        step->kernel->release(step->prepared, self->device);
    else if (step->prepared && op->release)
        op->release(step->prepared);
    step->prepared = NULL;
}

void tr_program_destroy(tr_program **self)
{
    tr_program *program = *self;
    if (!program) return;
    for (int32_t n = 0; program->steps && n < program->n_nodes; n++) release_prepared(program, n);
    for (int32_t n = 0; program->between && n <= program->n_nodes; n++)
        tr_event_destroy(&program->between[n]);
    tr_free(program->between);
    close_device(program);
    give_kept(program); /* nothing that uses it is queued any more */
    tr_memory_plan_release(&program->plan);
    tr_free(program->clocks);
    tr_free(program->steps);
    tr_graph_destroy(&program->fused);
    tr_free(program);
    *self = NULL;
}

void tr_program_products_hold_for(const tr_program *self, char name[TR_PRODUCT_NAME_BYTES])
{
    name[0] = 0;
#ifdef TROUPE_CUDA
    if (self->device) tr_cuda_context_name(self->device, name);
#else
    (void)self;
#endif
}

tr_status tr_program_choose_products(tr_program *self, tr_product_choices *choices, void *spare,
                                     size_t spare_bytes, tr_error *err)
{
    TR_ASSERT(!self->options.only_plan);
#ifdef TROUPE_CUDA
    if (!self->device) return TR_OK;
    tr_device_use(tr_stream_device(self->options.stream), NULL);
    tr_status status = tr_program_synchronize(self, err);
    if (status == TR_OK) status = tr_cuda_context_choose(self->device, choices, err);
    tr_cuda_context_lend(self->device, spare, spare_bytes);
    if (self->graphs) tr_cuda_graphs_forget(self->graphs);
    for (int32_t n = 0; status == TR_OK && n < self->n_nodes; n++) {
        release_prepared(self, n);
        status = prepare_on_device(self, tr_graph_node(self->graph, n), &self->steps[n], err);
    }
    tr_cuda_context_lend(self->device, NULL, 0);
    return status;
#else
    (void)self, (void)choices, (void)spare, (void)spare_bytes, (void)err;
    return TR_OK;
#endif
}

size_t tr_program_stash_bytes(const tr_program *self)
{
    return self->plan.stash_bytes;
}

size_t tr_program_scratch_bytes(const tr_program *self)
{
    return self->plan.scratch_bytes;
}

size_t tr_program_kept_bytes(const tr_program *self)
{
    return self->plan.kept_bytes;
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

int32_t tr_program_last_position(const tr_program *self, tr_value value)
{
    TR_ASSERT(value >= 0 && value < self->plan.n_values);
    return self->plan.values[value].last;
}

int32_t tr_program_first_position(const tr_program *self, tr_value value)
{
    TR_ASSERT(value >= 0 && value < self->plan.n_values);
    return self->plan.values[value].first;
}

void *tr_program_address(const tr_program *self, const tr_bindings *bindings, tr_value value)
{
    if (value == TR_NO_VALUE) return NULL;
    const tr_place *place = &self->plan.values[value];
    if (place->space == TR_SPACE_SCRATCH) return (char *)bindings->scratch + place->offset;
    if (place->space == TR_SPACE_STASH) return (char *)bindings->stash + place->offset;
    if (place->space == TR_SPACE_KEPT) return (char *)self->kept + place->offset;
    const void *constant = tr_graph_value(self->graph, value)->constant;
    if (constant) return (void *)constant;
    TR_ASSERT(bindings->values[value]);
    return bindings->values[value];
}

const tr_graph *tr_program_graph(const tr_program *self)
{
    return self->graph;
}

const tr_node *tr_program_node(const tr_program *self, int32_t position)
{
    TR_ASSERT(position >= 0 && position < self->n_nodes);
    return tr_graph_node(self->graph, self->plan.order[position]);
}

tr_stream *tr_program_stream(const tr_program *self)
{
    return self->options.device == TR_DEVICE_CPU ? NULL : self->options.stream;
}

/* What a node adds to is cleared, unless its kernel can write instead: true then. */
static bool begin_gradients(const tr_program *self, int32_t n, const tr_call *call)
{
    const tr_node *node = call->node;
    bool any = false, overwrites = self->steps[n].kernel && self->steps[n].kernel->overwrites;
    for (int i = 0; i < node->n_outputs; i++) {
        if (!call->outputs[i]) continue;
        const tr_value_info *value = tr_graph_value(self->graph, node->outputs[i]);
        if (value->kind != TR_VALUE_GRADIENT) continue;
        size_t bytes = (size_t)tr_shape_elements(&value->shape) * tr_dtype_bytes(value->dtype);
        any = true;
        if (self->options.device == TR_DEVICE_CPU)
            memset(call->outputs[i], 0, bytes);
        else if (!overwrites) /* where it fails, the launch that follows does, and is noted */
            tr_stream_fill(self->options.stream, call->outputs[i], 0, bytes, NULL);
    }
    return any && overwrites;
}

static void run_node(tr_program *self, int32_t n, const tr_bindings *bindings)
{
    const tr_node *node = tr_graph_node(self->graph, n);
    const node_state *step = &self->steps[n];
    tr_call call = {.node = node,
                    .graph = self->graph,
                    .prepared = step->prepared,
                    .device = self->device,
                    .pool = bindings->pool,
                    .random = &bindings->random};
    for (int i = 0; i < node->n_inputs; i++)
        call.inputs[i] = tr_program_address(self, bindings, node->inputs[i]);
    for (int i = 0; i < node->n_outputs; i++)
        call.outputs[i] = tr_program_address(self, bindings, node->outputs[i]);
    if (step->workspace_bytes > 0) call.workspace = (char *)bindings->scratch + self->plan.workspaces[n];
    if (bindings->begin_gradients) call.overwrite = begin_gradients(self, n, &call);
    op_clock *clock = &self->clocks[step->clock];
    uint64_t start = self->options.clock_ns();
    step->run(&call);
    if (!self->between) clock->nanoseconds += self->options.clock_ns() - start;
    clock->calls++;
}

/* Waits for the phase and gives each node the time from the event before it to the one behind it. */
static void take_times(tr_program *self, tr_phase phase)
{
    int32_t first = self->plan.phase_start[phase], end = self->plan.phase_start[phase + 1];
    if (tr_stream_synchronize(self->options.stream, NULL) != TR_OK)
        return; /* as tr_program_synchronize tells */
    for (int32_t p = first; p < end; p++) {
        double ms = 0;
        if (tr_event_elapsed_ms(self->between[p], self->between[p + 1], &ms, NULL) != TR_OK) return;
        self->clocks[self->steps[self->plan.order[p]].clock].nanoseconds += (uint64_t)(ms * 1e6);
    }
}

static void mark_time(tr_program *self, int32_t position)
{
    if (self->between) tr_event_record(self->between[position], self->options.stream, NULL);
}

tr_status tr_program_check(const tr_program *self, tr_error *err)
{
#ifdef TROUPE_CUDA
    if (self->options.device != TR_DEVICE_CPU) return tr_cuda_context_check(self->device, err);
#endif
    (void)self, (void)err;
    return TR_OK;
}

tr_status tr_program_synchronize(tr_program *self, tr_error *err)
{
    if (self->options.device == TR_DEVICE_CPU) return TR_OK;
    tr_status status = tr_program_check(self, err);
    if (status != TR_OK) return status;
    return tr_stream_synchronize(self->options.stream, err);
}

static void poison(const tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
#ifdef TROUPE_SANITIZED
    bool wanted = true;
#else
    bool wanted = self->options.poison;
#endif
    if (!wanted) return;
    bool stash = phase == TR_PHASE_FORWARD && self->plan.stash_bytes > 0;
    if (self->options.device == TR_DEVICE_CPU) {
        if (self->plan.scratch_bytes > 0) memset(bindings->scratch, 0xff, self->plan.scratch_bytes);
        if (stash) memset(bindings->stash, 0xff, self->plan.stash_bytes);
        return;
    }
    tr_stream_fill(self->options.stream, bindings->scratch, 0xff, self->plan.scratch_bytes, NULL);
    if (stash) tr_stream_fill(self->options.stream, bindings->stash, 0xff, self->plan.stash_bytes, NULL);
}

/* Before a phase, whichever it is: an earlier program may have run the forward, and left what it stashed. */
static void make_kept(tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
    bool is_there =
        bindings->weights ? bindings->weights == self->weights : phase != TR_PHASE_FORWARD; /* made by that */
    self->makes_kept = self->plan.kept_bytes > 0 && !is_there;
    if (!self->makes_kept) return;
    self->weights = bindings->weights;
    if (self->between && phase == TR_PHASE_FORWARD) return; /* at their positions, where they are timed */
    for (int32_t n = 0; n < self->n_nodes; n++)
        if (self->steps[n].is_kept) run_node(self, n, bindings);
    self->makes_kept = false;
}

static void run_nodes(tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
    mark_time(self, self->plan.phase_start[phase]);
    for (int32_t p = self->plan.phase_start[phase]; p < self->plan.phase_start[phase + 1]; p++) {
        int32_t n = self->plan.order[p];
        if (!self->steps[n].is_kept || self->makes_kept) run_node(self, n, bindings);
        mark_time(self, p + 1);
        if (bindings->behind) bindings->behind(bindings->context, p);
    }
}

#ifdef TROUPE_CUDA
/* A value may be bound elsewhere before its life begins and behind its end. */
static bool lives_in(const tr_program *self, tr_phase phase, tr_value value)
{
    const tr_place *place = &self->plan.values[value];
    return place->first >= 0 && place->first < self->plan.phase_start[phase + 1] &&
           place->last >= self->plan.phase_start[phase];
}

/* All that launches of the phase depend on. Places in scratch and stash follow from where these begin. */
static size_t describe(const tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
    uintptr_t *words = self->words;
    size_t n = 0;
    words[n++] = (uintptr_t)phase;
    words[n++] = bindings->begin_gradients;
    words[n++] = (uintptr_t)bindings->stash;
    words[n++] = (uintptr_t)bindings->scratch;
    TR_ASSERT(n == FIRST_WORDS);
    for (tr_value v = 0; v < self->plan.n_values; v++)
        if (self->plan.values[v].space == TR_SPACE_BOUND && lives_in(self, phase, v))
            words[n++] = (uintptr_t)bindings->values[v];
    return n;
}

static bool draws(const tr_program *self, tr_phase phase)
{
    for (int32_t p = self->plan.phase_start[phase]; p < self->plan.phase_start[phase + 1]; p++)
        if (self->steps[self->plan.order[p]].kernel->draws) return true;
    return false;
}

/* False: it is still to be queued. */
static bool run_as_graph(tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
    if (!self->graphs || bindings->behind || !tr_program_has_phase(self, phase)) return false;
    if (bindings->random.training && draws(self, phase)) return false;
    size_t n_words = describe(self, phase, bindings);
    switch (tr_cuda_graphs_begin(self->graphs, self->words, n_words)) {
    case TR_CUDA_QUEUE: return false;
    case TR_CUDA_CAPTURE: run_nodes(self, phase, bindings); return tr_cuda_graphs_end(self->graphs);
    case TR_CUDA_LAUNCHED: break;
    }
    for (int32_t p = self->plan.phase_start[phase]; p < self->plan.phase_start[phase + 1]; p++)
        self->clocks[self->steps[self->plan.order[p]].clock].calls++;
    return true;
}
#endif

uint64_t tr_program_graph_launches(const tr_program *self)
{
#ifdef TROUPE_CUDA
    if (self->graphs) return tr_cuda_graphs_launches(self->graphs);
#endif
    (void)self;
    return 0;
}

void tr_program_run(tr_program *self, tr_phase phase, const tr_bindings *bindings)
{
    TR_ASSERT(!self->options.only_plan);
    TR_ASSERT(bindings->scratch || self->plan.scratch_bytes == 0);
    TR_ASSERT(bindings->stash || self->plan.stash_bytes == 0);
    TR_ASSERT(self->options.device != TR_DEVICE_CPU ||
              tr_thread_pool_size(bindings->pool) <= self->options.n_threads);
    if (self->options.stream) /* where it fails, the launches do, and are noted */
        tr_device_use(tr_stream_device(self->options.stream), NULL);
    poison(self, phase, bindings);
    bool queued = false;
    make_kept(self, phase, bindings);
#ifdef TROUPE_CUDA
    queued = run_as_graph(self, phase, bindings);
#endif
    if (!queued) run_nodes(self, phase, bindings);
    if (self->between && !queued) take_times(self, phase);
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
        tr_op_time time = {.name = clock->op->name,
                           .nanoseconds = clock->nanoseconds,
                           .calls = clock->calls,
                           .flops = clock->flops};
        size_t at = kept;
        for (; at > 0 && longest_first(&times[at - 1], &time) > 0; at--)
            if (at < capacity) times[at] = times[at - 1];
        if (at < capacity) times[at] = time;
        if (kept < capacity) kept++;
    }
    return (size_t)self->n_clocks;
}
