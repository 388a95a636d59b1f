/* runtime/simulation_head.c - the head's process in a simulated job, and those that follow it: each calls the agent that the one
 * before may have left, and is a head with whom it finds, or alone.
 * A head that dies within an activation: what it changes of what outlives it, from its last frame on, is taken back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_processes.h"

#include "base/memory.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { ANSWER_MS = 5000 };

/* ---- what outlives it ---- */

static tr_job_simulation_span span(const tr__simulated_job *self, int which)
{
    const tr_job_simulation_options *options = self->options;
    return options->durable ? options->durable(options->job->context, which) : (tr_job_simulation_span){0};
}

static void take_image(tr__simulated_job *self)
{
    size_t size_bytes = 1, at = 0;
    if (self->leader.image) return;
    self->leader.epoch = self->head.epoch;
    for (int i = 0; span(self, i).bytes; i++) size_bytes += span(self, i).size_bytes;
    self->leader.image = tr_alloc(size_bytes);
    TR_ASSERT(self->leader.image);
    for (int i = 0; span(self, i).bytes; at += span(self, i++).size_bytes)
        memcpy(self->leader.image + at, span(self, i).bytes, span(self, i).size_bytes);
}

static void restore_image(tr__simulated_job *self)
{
    size_t at = 0;
    for (int i = 0; self->leader.image && span(self, i).bytes; at += span(self, i++).size_bytes)
        memcpy(span(self, i).bytes, self->leader.image + at, span(self, i).size_bytes);
    tr_free(self->leader.image);
    self->leader.image = NULL;
}

/* ---- a head ---- */

static tr_status make_node(tr__simulated_job *self, const uint8_t *job_key, tr_error *err)
{
    tr_head *head = &self->head;
    tr_node_options options = {.node = TR_NODE_HEAD,
                               .incarnation = head->epoch,
                               .epoch = head->epoch,
                               .n_threads = 1,
                               .data_transport = "sim",
                               .control_transport = "sim",
                               .registry = self->leader.job.registry,
                               .virtual_ns = &self->base.now_ns,
                               .data_network = self->base.data,
                               .control_network = self->base.control,
                               .observe = tr__simulation_observe,
                               .observer = &self->base.seats[0]};
    tr_head_listen(head, &options);
    memcpy(options.job_key, job_key, sizeof options.job_key);
    return tr_node_new(&head->node, &options, err);
}

/* As job.c does. */
static tr_status make_crew(tr__simulated_job *self, const uint8_t *job_key, tr_error *err)
{
    tr_head *head = &self->head;
    const tr_job_options *job = &self->leader.job;
    tr_crew_options crew = {.topology = head->topology,
                            .registry = job->registry,
                            .processes = true,
                            .max_nodes = head->agent,
                            .lease = &job->lease};
    crew.launch.incarnation = head->epoch;
    crew.launch.epoch = head->epoch;
    crew.launch.lease_ms = job->lease.ms;
    memcpy(crew.launch.job_key, job_key, sizeof crew.launch.job_key);
    snprintf(crew.launch.control_transport, TR_KIND_BYTES, "sim");
    snprintf(crew.launch.data_transport, TR_KIND_BYTES, "sim");
    snprintf(crew.launch.chaos, sizeof crew.launch.chaos, "%s", job->chaos.points ? job->chaos.points : "");
    snprintf(crew.launch.head_address, TR_ADDRESS_CHARS, "%s", tr_node_control_address(head->node));
    tr_status status = tr_crew_new(&head->crew, &crew, err);
    if (status != TR_OK) return status;
    if (tr_crew_was_taken(head->crew)) tr_head_readopt(head, job->lease.orphans);
    return tr_head_watch_crew(head, err);
}

/* ---- its lease ---- */

void tr__head_lease(tr__simulated_job *self)
{
    tr_played_lease *lease = self->options->lease;
    bool frozen = self->base.frozen[TR_NODE_HEAD];
    uint64_t before_ns = lease->renewed_ns;
    self->slept = self->slept || frozen;
    tr__lease_go_on(lease, !frozen);
    if (lease->renewed_ns > before_ns) self->slept = frozen;
    if (self->leader.life == TR__HEAD_RUNS && self->head.epoch > lease->won)
        tr__simulation_break(&self->base, "epoch %u is begun, and %u was the last that this head won",
                             self->head.epoch, lease->won);
}

static bool is_over(const tr__simulated_job *self)
{
    const tr_played_lease *lease = self->options->lease;
    return lease && self->leader.life != TR__HEAD_NONE && self->base.now_ns >= tr__lease_over_ns(lease);
}

/* By the thread that waits for that. A head that was running all the time has begun to stop before. */
static void end_without_lease(tr__simulated_job *self)
{
    bool had_time =
        self->leader.life == TR__HEAD_RUNS && !self->slept &&
        self->base.now_ns < tr__lease_over_ns(self->options->lease) + TR_HEAD_TICK_MS * 1000000ull;
    bool is_new =
        self->head.node && self->base.now_ns < self->leader.called_ns + self->options->lease->ttl_ns;
    bool stops = self->head.gives_way && (self->head.phase == TR_HEAD_ENDING || self->leader.job.stop_actor);
    if (had_time && !is_new && !stops)
        tr__simulation_break(&self->base, "the head does not stop, though its lease was not renewed");
    self->counters.n_over++;
    tr__head_kill(self);
}

void tr__head_follow_later(tr__simulated_job *self)
{
    self->counters.n_gave_way += self->head.gives_way;
    self->counters.n_refused += self->options->lease->refused;
    self->epoch_before = self->head.epoch;
    self->leader.comes_ns = self->base.now_ns + tr__faults_pause_ns(self);
}

static tr_status make(tr__simulated_job *self, tr_error *err)
{
    tr_head *head = &self->head;
    const tr_job_options *job = &self->leader.job;
    uint8_t job_key[TR_JOB_KEY_BYTES] = {0};
    *head = (tr_head){.options = job,
                      .topology = job->topology,
                      .epoch = job->recovery.first_epoch,
                      .agent = job->topology->n_nodes};
    memcpy(job_key, &self->leader.pid, sizeof self->leader.pid); /* each has a key of its own */
    self->base.node_weights[0] = 1 + (uint32_t)tr__simulation_draw(&self->base, 4);
    head->workers = tr_alloc_zero((size_t)job->topology->n_nodes, sizeof *head->workers);
    head->restarts_ns = tr_alloc_zero(job->recovery.max_restarts + 1, sizeof *head->restarts_ns);
    head->places = tr_alloc_zero((size_t)job->topology->n_nodes, sizeof *head->places);
    if (!head->workers || !head->restarts_ns || !head->places)
        return tr_fail(err, TR_ENOMEM, "no memory for a head");
    tr_status status = make_node(self, job_key, err);
    if (status != TR_OK) return status;
    self->base.nodes[0] = head->node;
    self->leader.life = TR__HEAD_RUNS;
    status = make_crew(self, job_key, err);
    if (status != TR_OK) return status;
    tr_head_begin(head);
    tr_node_begin(head->node, TR_HEAD_TICK_MS, tr_head_on_tick);
    tr__kernel_stir(self);
    return TR_OK;
}

tr_status tr__head_begin_first(tr__simulated_job *self, tr_error *err)
{
    self->leader.job = *self->options->job;
    self->leader.job.lease.ms = TR__SIMULATED_LEASE_MS;
    self->leader.job.lease.directory = self->options->directory;
    self->leader.job.lease.orphans = NULL;
    tr_played_lease *lease = self->options->lease;
    tr_status status = tr__kernel_start(self, TR_NODE_HEAD, &self->leader.pid, err);
    if (lease) {
        lease->now_ns = &self->base.now_ns;
        tr__lease_acquire(lease);
    }
    if (status == TR_OK && lease)
        status = tr_played_lease_win(lease, self->leader.job.recovery.first_epoch, err);
    return status == TR_OK ? make(self, err) : status;
}

static void forget(tr__simulated_job *self)
{
    tr_head *head = &self->head;
    self->base.nodes[TR_NODE_HEAD] = NULL;
    tr_node_destroy(&head->node);
    if (head->crew) tr_crew_destroy(&head->crew);
    tr_orphans_destroy(&self->leader.orphans);
    tr_free(head->workers);
    tr_free(head->restarts_ns);
    tr_free(head->places);
    head->workers = NULL;
    head->restarts_ns = NULL;
    head->places = NULL;
}

void tr__head_end(tr__simulated_job *self)
{
    if (self->leader.life == TR__HEAD_RUNS) forget(self);
    tr_orphans_destroy(&self->leader.orphans);
    tr_orphans_destroy(&self->leader.intruder);
    tr_free(self->leader.image);
    self->leader.image = NULL;
    self->leader.life = TR__HEAD_NONE;
    if (self->options->lease) tr__lease_release(self->options->lease);
    tr__kernel_look_at_lines(self);
    tr__kernel_end(self, self->leader.pid, 0, 0);
}

void tr__head_silent(tr__simulated_job *self)
{
    take_image(self);
}

void tr__head_kill(tr__simulated_job *self)
{
    tr__head_process *leader = &self->leader;
    if (leader->life == TR__HEAD_NONE) return;
    tr__job_trace(self, leader->dying ? "death of the head within an activation" : "death of the head", 0);
    self->counters.n_head_deaths++;
    self->counters.n_at_head += leader->life != TR__HEAD_RUNS || self->head.phase != TR_HEAD_RUNNING;
    if (self->head.epoch > self->base.torn_epoch) self->base.torn_epoch = self->head.epoch;
    take_image(self);
    if (leader->life == TR__HEAD_RUNS) {
        uint32_t incarnation = self->head.node->options.incarnation;
        tr_sim_network_kill(self->base.data, TR_NODE_HEAD, incarnation);
        tr_sim_network_kill(self->base.control, TR_NODE_HEAD, incarnation);
        if (self->head.crew) tr_crew_forsake(self->head.crew);
        forget(self);
    }
    tr_orphans_destroy(&leader->orphans);
    restore_image(self);
    self->head.epoch = self->epoch_before = leader->epoch;
    leader->dying = leader->dies_next = false;
    leader->life = TR__HEAD_NONE;
    if (self->options->lease) self->options->lease->mine = 0; /* its key stays for its time */
    leader->comes_ns = self->base.now_ns + tr__faults_pause_ns(self);
    self->base.frozen[TR_NODE_HEAD] = false;
    self->processes[TR_NODE_HEAD].until_event = UINT64_MAX;
    tr__kernel_look_at_lines(self);
    tr__kernel_end(self, leader->pid, 0, SIGKILL);
}

/* ---- another one ---- */

static void break_because(tr__simulated_job *self, const tr_error *err)
{
    tr__simulation_break(&self->base, "another head could not begin: %s", err->message);
}

/* Somebody starts it: it has the lock, since the one before is dead. */
static void call(tr__simulated_job *self)
{
    tr__head_process *leader = &self->leader;
    tr_error err;
    leader->called_ns = self->base.now_ns;
    if (self->options->lease) tr__lease_acquire(self->options->lease);
    self->slept = false;
    if (tr__kernel_start(self, TR_NODE_HEAD, &leader->pid, &err) != TR_OK) break_because(self, &err);
    tr_status status = tr_orphans_call(&leader->orphans, self->options->directory, &err);
    if (status != TR_OK && status != TR_ENOTFOUND) break_because(self, &err);
    leader->life = status == TR_OK ? TR__HEAD_CALLS : TR__HEAD_FOUND;
    tr__job_trace(self, status == TR_OK ? "another head calls" : "another head finds nobody", 0);
    tr__kernel_stir(self);
}

static bool is_answered(const tr__simulated_job *self)
{
    struct pollfd answer = {.fd = self->leader.orphans->connection, .events = POLLIN};
    return poll(&answer, 1, 0) == 1;
}

static void hear(tr__simulated_job *self)
{
    tr_error err;
    tr_status status = tr_orphans_hear(&self->leader.orphans, &err);
    if (status != TR_OK && status != TR_ENOTFOUND) break_because(self, &err);
    self->leader.life = TR__HEAD_FOUND;
    tr__job_trace(self, status == TR_OK ? "another head is offered what is left" : "what was left is gone",
                  0);
}

static void follow(tr__simulated_job *self)
{
    tr__head_process *leader = &self->leader;
    tr_error err;
    leader->job.lease.orphans = leader->orphans;
    tr_status status =
        self->options->succeed(self->options->job->context, leader->orphans, &leader->job, &err);
    if (status == TR_OK && leader->job.recovery.first_epoch <= self->head.epoch)
        status = tr_fail(&err, TR_ECORRUPT, "it begins in epoch %u, and %u was used",
                         leader->job.recovery.first_epoch, self->head.epoch);
    if (status == TR_OK && self->options->lease &&
        tr_played_lease_win(self->options->lease, leader->job.recovery.first_epoch, &err) != TR_OK) {
        if (err.status == TR_ECORRUPT) break_because(self, &err);
        self->counters.n_refused++;
        tr__head_kill(self); /* it ends with that line */
        return;
    }
    if (status == TR_OK) status = make(self, &err);
    if (status != TR_OK) {
        break_because(self, &err);
        return;
    }
    bool taken = tr_crew_was_taken(self->head.crew);
    self->counters.n_taken += taken;
    self->counters.n_alone += !taken;
    tr__job_trace(self, taken ? "another head goes on with who is left" : "another head begins alone", 0);
}

/* Without the lock: it waits, is offered something at most when the head is dead, and goes away without having taken it. */
void tr__head_intrude(tr__simulated_job *self, uint64_t for_ns)
{
    tr__head_process *leader = &self->leader;
    if (leader->intruder || tr_orphans_call(&leader->intruder, self->options->directory, NULL) != TR_OK)
        return;
    tr__job_trace(self, "somebody calls the agent", self->n_nodes);
    leader->intruder_of = leader->life == TR__HEAD_RUNS ? leader->pid : 0;
    leader->intruder_until_ns = self->base.now_ns + for_ns;
    self->counters.n_intruders++;
    tr__kernel_stir(self);
}

static void look_at_intruder(tr__simulated_job *self)
{
    tr__head_process *leader = &self->leader;
    struct pollfd answer = {.fd = leader->intruder->connection, .events = POLLIN};
    bool is_answered = poll(&answer, 1, 0) == 1 && !(answer.revents & POLLHUP);
    if (is_answered && leader->life == TR__HEAD_RUNS && leader->intruder_of == leader->pid)
        tr__simulation_break(&self->base, "an agent whose head lives answers somebody else");
    if (self->base.now_ns < leader->intruder_until_ns) return;
    tr_orphans_destroy(&leader->intruder);
    tr__kernel_stir(self);
}

static uint64_t own_next_ns(const tr__simulated_job *self)
{
    const tr_played_lease *lease = self->options->lease;
    if (self->leader.life == TR__HEAD_NONE) {
        uint64_t free_ns = lease ? tr__lease_free_ns(lease) : 0;
        return free_ns > self->leader.comes_ns ? free_ns : self->leader.comes_ns;
    }
    if (self->leader.life == TR__HEAD_CALLS) return self->leader.called_ns + ANSWER_MS * 1000000ull;
    bool renews =
        !lease || (self->base.now_ns >= lease->away_until_ns && !lease->lost && lease->key == lease->mine);
    return renews || is_over(self) ? UINT64_MAX : tr__lease_over_ns(lease);
}

bool tr__head_can_happen(const tr__simulated_job *self)
{
    if (self->leader.intruder && self->base.now_ns >= self->leader.intruder_until_ns) return true;
    if (is_over(self)) return !self->base.frozen[TR_NODE_HEAD];
    switch (self->leader.life) {
    case TR__HEAD_NONE: return self->base.now_ns >= own_next_ns(self);
    case TR__HEAD_CALLS: return is_answered(self) || self->base.now_ns >= own_next_ns(self);
    case TR__HEAD_FOUND: return true;
    default: return self->stirred[TR_NODE_HEAD] && !self->base.frozen[TR_NODE_HEAD];
    }
}

uint64_t tr__head_next_ns(const tr__simulated_job *self)
{
    uint64_t next = own_next_ns(self);
    bool sooner = self->leader.intruder && self->leader.intruder_until_ns < next;
    return sooner ? self->leader.intruder_until_ns : next;
}

void tr__head_happen(tr__simulated_job *self)
{
    if (self->leader.intruder && self->base.now_ns >= self->leader.intruder_until_ns) {
        look_at_intruder(self);
        return;
    }
    if (is_over(self)) {
        end_without_lease(self);
        return;
    }
    self->stirred[TR_NODE_HEAD] = false;
    switch (self->leader.life) {
    case TR__HEAD_NONE: call(self); break;
    case TR__HEAD_CALLS:
        if (is_answered(self))
            hear(self);
        else /* it would go away, and leave the job where it is */
            tr__simulation_break(&self->base, "an agent without a head does not answer");
        break;
    case TR__HEAD_FOUND: follow(self); break;
    default: tr_node_look(self->head.node);
    }
}
