/* runtime/simulation_job.c - see simulation_job.h: the processes of a simulated job, their agent, and the head's loop. What
 * goes wrong, and when, is in simulation_faults.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_processes.h"

#include "base/memory.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>

enum { NO_PID = 1000000 /* of process 0: numbers that no real process has here are never used for one */ };

void tr__job_trace(const tr__simulated_job *self, const char *what, int32_t place)
{
    if (self->base.options.trace)
        fprintf(self->base.options.trace, "%12" PRIu64 " epoch %u: %s, place %d\n", self->base.now_ns,
                self->head.epoch, what, place);
}

/* ---- the agent ---- */

static void tell_head(tr__simulated_job *self, tr_control_topic topic, const tr_control_note *note)
{
    if (self->base.nodes[self->n_nodes])
        tr_control_send_note(self->base.nodes[self->n_nodes], TR_NODE_HEAD, topic, note);
}

static void start_worker(tr__simulated_job *self, int32_t node)
{
    tr__process *process = &self->processes[node];
    tr_error err;
    tr__inherit(self, node);
    process->options.epoch = self->agent_epoch;
    process->pid = NO_PID + self->n_started++;
    tr_status status = tr_worker_new(&process->worker, &process->options, &err);
    TR_ASSERT(status == TR_OK);
    process->life = TR__PROCESS_BEGINS;
    const tr_control_note note = {.node = node, .pid = process->pid, .epoch = self->agent_epoch};
    tell_head(self, TR_CONTROL_WORKER_STARTED, &note);
}

static void agent_begin_epoch(tr__simulated_job *self, uint32_t epoch)
{
    if (self->agent_stopping || epoch <= self->agent_epoch) return;
    self->agent_epoch = epoch;
    for (int32_t node = 1; node < self->n_nodes; node++)
        if (self->processes[node].life == TR__PROCESS_REAPED) start_worker(self, node);
}

static void finish_when_alone(tr__simulated_job *self)
{
    const tr_control_note farewell = {0};
    for (int32_t node = 1; node < self->n_nodes; node++)
        if (self->processes[node].life != TR__PROCESS_REAPED) return;
    if (!self->agent_stopping || self->agent_is_done) return;
    tell_head(self, TR_CONTROL_FAREWELL, &farewell);
    self->agent_is_done = true;
}

static void on_agent_system(void *context, int32_t peer, const tr_message *message)
{
    tr__simulated_job *self = context;
    tr_control_note note;
    if (peer != TR_NODE_HEAD || tr_control_read_note(message, &note, NULL) != TR_OK) return;
    switch (message->frame.edge) {
    case TR_CONTROL_EPOCH: agent_begin_epoch(self, note.epoch); break;
    case TR_CONTROL_FENCE: tr__process_kill(self, note.node); break;
    case TR_CONTROL_STOP:
        self->agent_stopping = true;
        self->kill_at_ns = self->base.now_ns + (uint64_t)note.grace_ms * 1000000;
        finish_when_alone(self);
        break;
    default: break;
    }
}

static void on_agent_tick(void *context, uint64_t now_ns)
{
    tr__simulated_job *self = context;
    for (int32_t node = 1; node < self->n_nodes && self->agent_stopping && now_ns >= self->kill_at_ns; node++)
        tr__process_kill(self, node);
}

void tr__agent_reap(tr__simulated_job *self, int32_t node, int signal)
{
    tr__process *process = &self->processes[node];
    process->life = TR__PROCESS_REAPED;
    tr__job_trace(self, "the agent reaps a worker", node);
    const tr_control_note note = {.node = node, .pid = process->pid, .signal = signal};
    tell_head(self, TR_CONTROL_WORKER_ENDED, &note);
    finish_when_alone(self);
}

static tr_status make_agent(tr__simulated_job *self, tr_error *err)
{
    static const tr_registry nothing;
    tr_node_options options = {.node = self->n_nodes,
                               .incarnation = 1,
                               .epoch = 1,
                               .n_threads = 1,
                               .control_transport = "sim",
                               .registry = &nothing,
                               .virtual_ns = &self->base.now_ns,
                               .control_network = self->base.control,
                               .context = self,
                               .on_system = on_agent_system};
    tr_node **node = &self->base.nodes[self->n_nodes];
    tr_status status = tr_node_new(node, &options, err);
    if (status == TR_OK)
        status = tr_node_connect(*node, TR_NODE_HEAD, tr_node_control_address(self->head.node), NULL, err);
    tr_control_hello hello = {.epoch = 1};
    if (status == TR_OK) status = tr_control_send_hello(*node, TR_NODE_HEAD, &hello, err);
    if (status == TR_OK) tr_node_begin(*node, TR_HEAD_TICK_MS, on_agent_tick);
    self->agent_epoch = 1;
    return status;
}

/* ---- processes ---- */

static tr_status make_regions(tr__simulated_job *self, int32_t node, tr_error *err)
{
    const tr_topology *topology = self->base.options.topology;
    tr__process *process = &self->processes[node];
    tr_status status = TR_OK;
    process->regions = tr_alloc_zero(topology->n_actors, sizeof(void *));
    if (!process->regions) return tr_fail(err, TR_ENOMEM, "no memory for state regions");
    for (size_t i = 0; i < topology->n_actors && status == TR_OK; i++)
        if (topology->actors[i].node == node && topology->actors[i].state_bytes)
            status = tr_state_region_new(&process->regions[process->n_regions++], topology->actors[i].name,
                                         topology->actors[i].state_bytes, err);
    return status;
}

static tr_status make_process(tr__simulated_job *self, int32_t node, tr_error *err)
{
    tr__process *process = &self->processes[node];
    tr_status status = make_regions(self, node, err);
    if (status != TR_OK) return status;
    process->simulated = (tr_node_options){.virtual_ns = &self->base.now_ns,
                                           .data_network = self->base.data,
                                           .control_network = self->base.control,
                                           .observe = tr__simulation_observe,
                                           .observe_slot = tr__simulation_observe_slot,
                                           .observer = &self->base.seats[node]};
    process->options = (tr_worker_options){.node = node,
                                           .n_threads = 1,
                                           .control_transport = "sim",
                                           .data_transport = "sim",
                                           .head_address = tr_node_control_address(self->head.node),
                                           .registry = self->base.options.registry,
                                           .n_states = process->n_regions,
                                           .regions = process->regions,
                                           .simulated = &process->simulated,
                                           .chaos = self->options->job->chaos.points};
    start_worker(self, node);
    return TR_OK;
}

void tr__process_release_regions(tr__process *process)
{
    for (int i = 0; i < process->n_regions; i++) tr_state_region_destroy(&process->regions[i]);
    tr_free(process->regions);
    process->regions = NULL;
    process->n_regions = 0;
}

static void begin_epoch(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    tr_error err;
    tr_status status = tr_worker_begin_epoch(process->worker, &err);
    if (status !=
        TR_OK) { /* refused: it was started in an epoch that one before it had left behind already */
        tr_worker_destroy(&process->worker);
        process->life = TR__PROCESS_DEAD;
        tr__job_trace(self, "a worker is refused and ends", place);
        return;
    }
    self->base.nodes[place] = tr_worker_node(process->worker);
    self->base.node_weights[place] = 1 + (uint32_t)tr__simulation_draw(&self->base, 4);
    tr_node_begin(self->base.nodes[place], TR_WORKER_TICK_MS, tr_worker_on_tick);
    process->life = TR__PROCESS_RUNS;
    tr__job_trace(self, "a worker greets", place);
    tr__faults_greeted(self, place);
}

/* The worker's node was told to stop: for another epoch, or for good. */
static void end_epoch(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    tr_node_finish(self->base.nodes[place]);
    self->base.nodes[place] = NULL;
    process->life = TR__PROCESS_BEGINS;
    bool goes_on = tr_worker_end_epoch(process->worker);
    if (place > self->n_nodes) {
        tr__process_kill(self, place);
        return;
    }
    if (goes_on) return;
    tr_worker_destroy(&process->worker);
    process->life = TR__PROCESS_DEAD;
    self->base.frozen[place] = false;
    tr__job_trace(self, "a worker ends", place);
}

/* A suspicion ends in a fence, so nobody comes under it who lives and whose links hold, whatever happened to others. */
static void audit_suspicion(tr__simulated_job *self)
{
    bool links_hold = self->counters.n_cuts + self->counters.n_zombies == 0;
    int32_t node = self->head.suspect;
    if (node && node < self->n_nodes && links_hold && self->processes[node].life == TR__PROCESS_RUNS)
        tr__simulation_break(&self->base, "the head suspects worker %d, to which nothing had happened", node);
}

static void before_activation(void *context, int32_t place)
{
    tr__faults_before(context, place);
}

static void after_activation(void *context, int32_t place)
{
    tr__simulated_job *self = context;
    bool a_worker = self->base.nodes[place] && self->processes[place].worker;
    tr__faults_after(self, place);
    if (a_worker && self->base.nodes[place] && tr_node_is_stopped(self->base.nodes[place]))
        end_epoch(self, place);
    if (self->head.epoch < self->epoch_before)
        tr__simulation_break(&self->base, "epoch %u came after %u", self->head.epoch, self->epoch_before);
    self->epoch_before = self->head.epoch;
    audit_suspicion(self);
}

/* ---- what happens beside nodes ---- */

static bool agent_may_end(const tr__simulated_job *self)
{
    return self->agent_is_done && self->base.nodes[self->n_nodes];
}

static bool can_happen(const tr__simulated_job *self, int32_t place)
{
    const tr__process *process = &self->processes[place];
    bool a_node = place < self->n_nodes;
    if (self->base.frozen[place]) return false;
    return process->life == TR__PROCESS_BEGINS || (a_node && process->life == TR__PROCESS_DEAD);
}

static uint32_t weight(void *context)
{
    tr__simulated_job *self = context;
    uint32_t n = agent_may_end(self);
    for (int32_t place = 1; place < self->base.n_places; place++) n += can_happen(self, place);
    return n;
}

static void happen(void *context, uint32_t which)
{
    tr__simulated_job *self = context;
    for (int32_t place = 1; place < self->base.n_places; place++) {
        if (!can_happen(self, place) || which-- > 0) continue;
        if (self->processes[place].life == TR__PROCESS_BEGINS)
            begin_epoch(self, place);
        else
            tr__agent_reap(self, place, self->processes[place].killed ? SIGKILL : 0);
        return;
    }
    tr_node_destroy(&self->base.nodes[self->n_nodes]);
    tr_crew_end_played(self->head.crew);
    tr_head_on_crew(&self->head);
}

/* ---- the head ---- */

static tr_status make_head(tr__simulated_job *self, tr_error *err)
{
    const tr_job_options *job = self->options->job;
    tr_node_options options = {.node = TR_NODE_HEAD,
                               .incarnation = 1,
                               .epoch = 1,
                               .n_threads = 1,
                               .data_transport = "sim",
                               .control_transport = "sim",
                               .registry = job->registry,
                               .virtual_ns = &self->base.now_ns,
                               .data_network = self->base.data,
                               .control_network = self->base.control,
                               .observe = tr__simulation_observe,
                               .observer = &self->base.seats[0],
                               .context = &self->head,
                               .on_system = tr_head_on_system,
                               .on_peer_lost = tr_head_on_peer_lost,
                               .on_actor_end = tr_head_on_actor_end,
                               .on_job_end = tr_head_on_job_end,
                               .on_run_again = tr_head_on_run_again,
                               .on_damaged = tr_head_on_damaged,
                               .on_accused = tr_head_on_accused};
    tr_head *head = &self->head;
    *head = (tr_head){.options = job, .topology = job->topology, .epoch = 1, .agent = job->topology->n_nodes};
    self->base.node_weights[0] = 1 + (uint32_t)tr__simulation_draw(&self->base, 4);
    head->workers = tr_alloc_zero((size_t)job->topology->n_nodes, sizeof *head->workers);
    head->restarts_ns = tr_alloc_zero(job->recovery.max_restarts + 1, sizeof *head->restarts_ns);
    head->places = tr_alloc_zero((size_t)job->topology->n_nodes, sizeof *head->places);
    if (!head->workers || !head->restarts_ns || !head->places)
        return tr_fail(err, TR_ENOMEM, "no memory for a head");
    tr_status status = tr_node_new(&head->node, &options, err);
    self->base.nodes[0] = head->node;
    if (status == TR_OK) status = tr_crew_new_played(&head->crew, job->topology, err);
    if (status != TR_OK) return status;
    tr_head_begin(head);
    tr_node_begin(head->node, TR_HEAD_TICK_MS, tr_head_on_tick);
    return TR_OK;
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
                                                .before = before_activation,
                                                .after = after_activation,
                                                .on_slot = tr__faults_on_slot};
    tr_status status = tr__simulation_init(&self->base, &base, self->n_nodes + 1 + TR__MAX_ZOMBIES, err);
    self->processes = tr_alloc_zero((size_t)self->n_nodes + 1 + TR__MAX_ZOMBIES, sizeof *self->processes);
    if (!self->processes) return tr_fail(err, TR_ENOMEM, "no memory for processes");
    if (status == TR_OK) status = tr__slots_init(self, err);
    if (status == TR_OK) status = make_head(self, err);
    if (status == TR_OK) status = make_agent(self, err);
    for (int32_t node = 1; node < self->n_nodes && status == TR_OK; node++)
        status = make_process(self, node, err);
    if (status == TR_OK) tr__faults_init(self);
    return status;
}

static void release(tr__simulated_job *self)
{
    for (int32_t i = 0; self->processes && i < self->base.n_places; i++) {
        tr_worker_destroy(&self->processes[i].worker);
        tr__process_release_regions(&self->processes[i]);
        tr_free(self->processes[i].image);
    }
    if (self->base.nodes) tr_node_destroy(&self->base.nodes[self->n_nodes]);
    tr_crew_destroy(&self->head.crew);
    tr_node_destroy(&self->head.node);
    tr__simulation_release(&self->base);
    tr_free(self->head.workers);
    tr_free(self->head.restarts_ns);
    tr_free(self->head.places);
    tr_free(self->processes);
    tr_free(self->published);
}

static tr_status run(tr__simulated_job *self, tr_error *err)
{
    tr_simulation *base = &self->base;
    while (!base->broken && !tr_node_is_stopped(self->head.node) &&
           base->counters.n_events < base->options.max_events) {
        tr__faults_strike(self);
        if (tr__simulation_go_on(base)) continue;
        if (!base->frozen[TR_NODE_HEAD]) break;
        base->frozen[TR_NODE_HEAD] = false; /* all others wait for it */
    }
    if (base->broken) {
        if (err) *err = base->error;
        return base->error.status;
    }
    if (tr_node_is_stopped(self->head.node)) {
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
