/* runtime/simulation_job.c - see simulation_job.h: the job from its beginning to its end, and its workers' processes. What goes
 * wrong, and when, is in simulation_faults.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_processes.h"

#include "base/memory.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

void tr__job_trace(const tr__simulated_job *self, const char *what, int32_t place)
{
    if (self->base.options.trace)
        fprintf(self->base.options.trace, "%12" PRIu64 " epoch %u: %s, place %d\n", self->base.now_ns,
                self->head.epoch, what, place);
}

/* ---- workers ---- */

static tr_status map_regions(tr__process *process, const int *descriptors, int n, tr_error *err)
{
    tr_status status = TR_OK;
    process->regions = tr_alloc_zero((size_t)n + 1, sizeof(void *));
    if (!process->regions) return tr_fail(err, TR_ENOMEM, "no memory for state regions");
    while (process->n_regions < n && status == TR_OK) {
        int own = fcntl(descriptors[process->n_regions], F_DUPFD_CLOEXEC, 0);
        status = tr_state_region_open(&process->regions[process->n_regions], own, err);
        if (status == TR_OK) process->n_regions++;
    }
    return status;
}

/* Its descriptors are the activity page, which is not used here, its states, and its two lines. */
tr_status tr__process_begin(tr__simulated_job *self, int32_t pid, const tr_launch *launch,
                            const int *descriptors, int count, tr_error *err)
{
    int32_t node = launch->node;
    tr__process *process = &self->processes[node];
    if (process->worker) tr__simulation_break(&self->base, "worker %d is started beside another one", node);
    if (count != launch->n_states + 3)
        return tr_fail(err, TR_EINVAL, "a worker inherits %d descriptors", count);
    bool from_zombie = tr__inherit(self, node);
    tr__process_release_regions(process);
    tr_status status = map_regions(process, descriptors + 1, launch->n_states, err);
    if (status != TR_OK) return status;
    tr__slots_taken_over(self, node, from_zombie);
    process->pid = pid;
    process->word = fcntl(descriptors[count - 2], F_DUPFD_CLOEXEC, 0);
    process->life_line = fcntl(descriptors[count - 1], F_DUPFD_CLOEXEC, 0);
    snprintf(process->head_address, sizeof process->head_address, "%s", launch->head_address);
    process->simulated = (tr_node_options){.virtual_ns = &self->base.now_ns,
                                           .data_network = self->base.data,
                                           .control_network = self->base.control,
                                           .observe = tr__simulation_observe,
                                           .observe_slot = tr__simulation_observe_slot,
                                           .observer = &self->base.seats[node]};
    process->options = (tr_worker_options){.node = node,
                                           .epoch = launch->epoch,
                                           .n_threads = 1,
                                           .control_transport = "sim",
                                           .data_transport = "sim",
                                           .head_address = process->head_address,
                                           .registry = self->base.options.registry,
                                           .layout = launch->layout,
                                           .n_states = process->n_regions,
                                           .lease_ms = launch->lease_ms,
                                           .lease_socket = process->word,
                                           .regions = process->regions,
                                           .simulated = &process->simulated,
                                           .chaos = self->options->job->chaos.points};
    memcpy(process->options.job_key, launch->job_key, sizeof launch->job_key);
    process->life = TR__PROCESS_BEGINS;
    tr__job_trace(self, "a worker is started", node);
    return tr_worker_new(&process->worker, &process->options, err);
}

void tr__process_close(tr__process *process)
{
    if (process->word >= 0) close(process->word);
    if (process->life_line >= 0) close(process->life_line);
    process->word = process->life_line = -1;
}

void tr__process_release_regions(tr__process *process)
{
    for (int i = 0; i < process->n_regions; i++) tr_state_region_destroy(&process->regions[i]);
    tr_free(process->regions);
    process->regions = NULL;
    process->n_regions = 0;
}

/* It ends by itself. */
static void end_process(tr__simulated_job *self, int32_t place, int32_t exit_code)
{
    tr__process *process = &self->processes[place];
    tr_worker_destroy(&process->worker);
    tr__process_close(process);
    process->life = TR__PROCESS_REAPED;
    process->dies_next = process->is_hung = false;
    process->dies_at_slot = 0;
    self->base.nodes[place] = NULL;
    self->base.frozen[place] = false;
    tr__job_trace(self, "a worker ends", place);
    tr__kernel_end(self, process->pid, exit_code, 0);
}

/* Nobody ends whom no head tells to, while there is an agent that waits for one, or has one, and nothing was cut. */
static void audit_own_end(tr__simulated_job *self, int32_t place, bool has_waited)
{
    const tr__agent_process *agent = &self->agent;
    bool is_waited =
        agent->life == TR__AGENT_WAITS || (agent->life == TR__AGENT_RUNS && !agent->agent.stopping);
    bool no_head =
        has_waited || self->leader.life != TR__HEAD_RUNS; /* one may tell it to end, through its actors too */
    if (is_waited && no_head && self->counters.n_cuts == 0 && self->head.phase != TR_HEAD_ENDING)
        tr__simulation_break(&self->base, "worker %d ended by itself", place);
}

static void go_on(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    bool goes_on = tr_worker_end_epoch(process->worker);
    process->life = TR__PROCESS_BEGINS;
    if (goes_on) return;
    if (!tr_worker_waits(process->worker)) {
        audit_own_end(self, place, false);
        end_process(self, place, 0);
        return;
    }
    process->life = TR__PROCESS_AWAITS;
    process->heard_ns = self->base.now_ns;
    self->stirred[place] = true;
    tr__job_trace(self, "a worker waits for another head", place);
}

static void begin_epoch(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    tr_error err;
    tr_status status = tr_worker_begin_epoch(process->worker, &err);
    if (status != TR_OK) {
        /* Refused: it was started in an epoch that one before it had left behind already, or by a head that is no more. */
        if (self->leader.life == TR__HEAD_RUNS && tr_worker_epoch(process->worker) == self->head.epoch &&
            self->head.phase == TR_HEAD_GREETING)
            tr__simulation_break(&self->base, "worker %d is refused: %s", place, err.message);
        end_process(self, place, 1);
        return;
    }
    if (!tr_worker_node(process->worker)) { /* it was called away before it had one */
        go_on(self, place);
        return;
    }
    self->base.nodes[place] = tr_worker_node(process->worker);
    self->base.node_weights[place] = 1 + (uint32_t)tr__simulation_draw(&self->base, 4);
    tr_node_begin(self->base.nodes[place], TR_WORKER_TICK_MS, tr_worker_on_tick);
    process->life = TR__PROCESS_RUNS;
    self->stirred[place] = true;
    tr__job_trace(self, "a worker greets", place);
    tr__faults_greeted(self, place);
}

/* The worker's node was told to stop: for another epoch, for another head, or for good. */
static void end_epoch(tr__simulated_job *self, int32_t place)
{
    tr_node_finish(self->base.nodes[place]);
    self->base.nodes[place] = NULL;
    if (place > self->n_nodes)
        tr__process_kill(self, place);
    else
        go_on(self, place);
}

static uint64_t lease_end_ns(const tr__process *process)
{
    return process->heard_ns + (process->options.lease_ms + TR_LEASE_MARGIN_MS) * 1000000ull;
}

static void end_waiting(tr__simulated_job *self, int32_t place)
{
    audit_own_end(self, place, true);
    end_process(self, place, 1);
}

static void await_head(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    if (tr_worker_hear(process->worker))
        process->heard_ns = self->base.now_ns;
    else if (self->base.now_ns < lease_end_ns(process))
        return;
    if (tr_worker_is_called(process->worker))
        process->life = TR__PROCESS_BEGINS;
    else if (tr_worker_waits(process->worker) && self->base.now_ns < lease_end_ns(process))
        return;
    else
        end_waiting(self, place);
}

/* A suspicion ends in a fence, so nobody comes under it who lives and whose links hold, whatever happened to others; nor is
 * anybody fenced who was not stopped either. */
static void audit_suspicion(tr__simulated_job *self)
{
    bool links_hold = self->counters.n_cuts + self->counters.n_zombies == 0;
    int32_t node = self->head.suspect;
    bool may_fence = !links_hold || self->counters.n_stops || self->leader.life != TR__HEAD_RUNS;
    for (int32_t i = 1; i < self->n_nodes && !may_fence; i++)
        if (self->head.workers[i].fenced && self->processes[i].worker)
            tr__simulation_break(&self->base, "the head fences worker %d, to which nothing had happened", i);
    if (self->head.agent_fenced && !may_fence && self->agent.life != TR__AGENT_NONE)
        tr__simulation_break(&self->base, "the head fences an agent to which nothing had happened");
    if (node && node < self->n_nodes && links_hold && self->processes[node].life == TR__PROCESS_RUNS)
        tr__simulation_break(&self->base, "the head suspects worker %d, to which nothing had happened", node);
}

/* No two processes have actors of one node in one epoch. */
static void audit_acting(tr__simulated_job *self, int32_t place)
{
    const tr_node *node = self->base.nodes[place];
    if (place >= self->n_nodes || !node || !node->world) return;
    int32_t pid = place ? self->processes[place].pid : self->leader.pid;
    uint32_t epoch = node->options.epoch;
    if (epoch < self->acted[place] || (epoch == self->acted[place] && pid != self->acted_by[place]))
        tr__simulation_break(&self->base,
                             "node %d has actors in epoch %u, in which, or behind which, others were", place,
                             epoch);
    self->acted[place] = epoch;
    self->acted_by[place] = pid;
}

static void before_activation(void *context, int32_t place)
{
    tr__simulated_job *self = context;
    audit_acting(self, place);
    self->acting = place;
    tr__faults_before(self, place);
}

static void after_activation(void *context, int32_t place)
{
    tr__simulated_job *self = context;
    bool a_worker = self->base.nodes[place] && self->processes[place].worker;
    self->acting = -1;
    tr__faults_after(self, place);
    if (a_worker && self->base.nodes[place] && tr_node_is_stopped(self->base.nodes[place]))
        end_epoch(self, place);
    if (place == self->n_nodes) tr__agent_after(self);
    if (self->head.epoch < self->epoch_before)
        tr__simulation_break(&self->base, "epoch %u came after %u", self->head.epoch, self->epoch_before);
    self->epoch_before = self->head.epoch;
    audit_suspicion(self);
}

/* ---- what happens beside nodes ---- */

static bool can_happen(const tr__simulated_job *self, int32_t place)
{
    const tr__process *process = &self->processes[place];
    if (place == TR_NODE_HEAD) return tr__head_can_happen(self);
    if (place == self->n_nodes) return tr__agent_can_happen(self);
    if (self->base.frozen[place] || !process->worker) return false;
    if (process->life == TR__PROCESS_BEGINS) return true;
    if (place > self->n_nodes) return false;
    bool is_late = process->life == TR__PROCESS_AWAITS && self->base.now_ns >= lease_end_ns(process);
    return self->stirred[place] || is_late;
}

static uint32_t weight(void *context)
{
    tr__simulated_job *self = context;
    uint32_t n = 0;
    for (int32_t place = 0; place < self->base.n_places; place++) n += can_happen(self, place);
    return n;
}

static uint64_t next_ns(void *context)
{
    const tr__simulated_job *self = context;
    uint64_t next = tr__head_next_ns(self), agent = tr__agent_next_ns(self);
    if (agent < next) next = agent;
    for (int32_t node = 1; node < self->n_nodes; node++) {
        const tr__process *process = &self->processes[node];
        bool waits = process->worker && process->life == TR__PROCESS_AWAITS && !self->base.frozen[node];
        if (waits && lease_end_ns(process) < next) next = lease_end_ns(process);
    }
    return next;
}

static void happen_to_worker(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    self->stirred[place] = false;
    if (process->life == TR__PROCESS_BEGINS)
        begin_epoch(self, place);
    else if (process->life == TR__PROCESS_AWAITS)
        await_head(self, place);
    else
        tr_node_look(self->base.nodes[place]);
}

static void happen(void *context, uint32_t which)
{
    tr__simulated_job *self = context;
    for (int32_t place = 0; place < self->base.n_places; place++) {
        if (!can_happen(self, place) || which-- > 0) continue;
        if (place == TR_NODE_HEAD)
            tr__head_happen(self);
        else if (place == self->n_nodes)
            tr__agent_happen(self);
        else
            happen_to_worker(self, place);
        return;
    }
}

static tr_status make(tr__simulated_job *self, tr_error *err)
{
    const tr_job_simulation_options *options = self->options;
    const tr_simulation_options base = {.seed = options->seed,
                                        .topology = options->job->topology,
                                        .registry = options->job->registry,
                                        .data = options->data,
                                        .control = options->control,
                                        .activation_max_ns = options->activation_max_ns,
                                        .max_events = options->max_events,
                                        .trace = options->trace};
    self->n_nodes = base.topology->n_nodes;
    self->base.driver = (tr__simulation_driver){.context = self,
                                                .weight = weight,
                                                .happen = happen,
                                                .next_ns = next_ns,
                                                .before = before_activation,
                                                .after = after_activation,
                                                .on_slot = tr__faults_on_slot};
    tr_status status = tr__simulation_init(&self->base, &base, self->n_nodes + 1 + TR__MAX_ZOMBIES, err);
    self->processes = tr_alloc_zero((size_t)self->n_nodes + 1 + TR__MAX_ZOMBIES, sizeof *self->processes);
    if (!self->processes) return tr_fail(err, TR_ENOMEM, "no memory for processes");
    if (status == TR_OK) status = tr__slots_init(self, err);
    for (int32_t i = 0; i < self->base.n_places; i++)
        self->processes[i].word = self->processes[i].life_line = -1;
    if (status == TR_OK) status = tr__kernel_init(self, err);
    if (status == TR_OK) status = tr__head_begin_first(self, err);
    if (status == TR_OK) tr__faults_init(self);
    return status;
}

static void release(tr__simulated_job *self)
{
    tr__head_end(self);
    if (self->agent.life != TR__AGENT_NONE) tr__agent_kill(self);
    for (int32_t i = 0; self->processes && i < self->base.n_places; i++) {
        tr_worker_destroy(&self->processes[i].worker);
        tr__process_close(&self->processes[i]);
        tr__process_release_regions(&self->processes[i]);
        tr_free(self->processes[i].image);
    }
    tr__kernel_release(self);
    tr__simulation_release(&self->base);
    tr_free(self->processes);
    tr_free(self->published);
}

/* What a head does at its end is done: nobody of the job is left, and nothing. */
static void audit_end(tr__simulated_job *self)
{
    tr__head_end(self);
    if (self->agent.life != TR__AGENT_NONE)
        tr__simulation_break(&self->base, "the job has ended, and its agent lives");
    for (int32_t node = 1; node < self->n_nodes; node++)
        if (self->processes[node].worker)
            tr__simulation_break(&self->base, "the job has ended, and worker %d lives", node);
}

static bool is_done(const tr__simulated_job *self)
{
    return self->leader.life == TR__HEAD_RUNS && tr_node_is_stopped(self->head.node);
}

/* A head that stopped for want of its lease, with its job: nobody of that is left when the next one begins. */
static bool is_over(tr__simulated_job *self)
{
    const tr_played_lease *lease = self->options->lease;
    if (!is_done(self)) return false;
    bool stops = lease && (self->head.gives_way || lease->refused), well = self->head.cause.status == TR_OK;
    if (!stops || (well && (!self->options->is_done || self->options->is_done(self->options->job->context))))
        return true;
    if (self->head.epoch > self->base.torn_epoch) self->base.torn_epoch = self->head.epoch;
    audit_end(self);
    tr__head_follow_later(self);
    return false;
}

static tr_status run(tr__simulated_job *self, tr_error *err)
{
    tr_simulation *base = &self->base;
    while (!base->broken && !is_over(self) && base->counters.n_events < base->options.max_events) {
        tr__faults_strike(self);
        if (tr__simulation_go_on(base)) continue;
        if (!base->frozen[TR_NODE_HEAD]) break;
        base->frozen[TR_NODE_HEAD] = false; /* all others wait for it */
    }
    bool done = is_done(self);
    if (done && !base->broken) audit_end(self);
    if (base->broken) {
        if (err) *err = base->error;
        return base->error.status;
    }
    if (done) {
        if (self->head.cause.status != TR_OK && err) *err = self->head.cause;
        return self->head.cause.status;
    }
    char text[TR_ERROR_SIZE / 2];
    tr__audit_describe(base, text, sizeof text);
    return tr_fail(err, TR_ETIMEDOUT, "epoch %u hangs in phase %d after %" PRIu64 " events%s",
                   self->head.epoch, (int)self->head.phase, base->counters.n_events, text);
}

tr_status tr_simulate_job(const tr_job_simulation_options *options, tr_job_simulation_counters *counters,
                          tr_error *err)
{
    tr__simulated_job *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a simulation");
    self->options = options;
    tr_status status = make(self, err);
    if (status == TR_OK) status = run(self, err);
    if (counters) {
        *counters = self->counters;
        counters->n_events = self->base.counters.n_events;
        counters->fingerprint = self->base.counters.fingerprint;
        counters->epoch = self->head.epoch;
        counters->data = tr_sim_network_count(self->base.data);
        counters->control = tr_sim_network_count(self->base.control);
    }
    release(self);
    tr_free(self);
    return status;
}
