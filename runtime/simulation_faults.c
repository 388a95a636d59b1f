/* runtime/simulation_faults.c - what goes wrong in a simulated job, by its seed.
 * A process that dies within an activation: the handler runs to its end, as it cannot be left in the middle, but from a drawn
 * moment on (a frame sent, a slot opened or published) nothing that it does is seen any more. Its regions go back to what
 * they were then. That is exact for frames and slots, which are all that a worker leaves behind.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_processes.h"

#include "base/memory.h"

#include <signal.h>
#include <unistd.h>

enum {
    NEAR_EVENTS = 80,     /* how soon a fault may follow another: within the change of epoch that it began, */
    SOON_EVENTS = 400,    /* or not long after it */
    STOPPED_EVENTS = 600, /* the longest time that a process is stopped */
    ZOMBIE_EVENTS = 600,
    MIN_PAUSED_EVENTS = 50,
    PAUSED_EVENTS = 200,
    STARVED_EVENTS = 2000,
    MAX_LEFT = 6, /* frames that a dying process may still send */
    MAX_SLOT_CALLS = 4,
    LONGEST_INTRUSION_NS = 1000000000,
    LEASE_SHARE = 12,          /* of a lease's faults among the others */
    MAX_STARVED_SLOT_CALLS = 8 /* beyond the end of the next step */
};

static uint64_t draw(tr__simulated_job *self, uint64_t below)
{
    return tr__simulation_draw(&self->base, below);
}

void tr__faults_init(tr__simulated_job *self)
{
    self->base.newest_first = draw(self, 2) != 0;
    uint32_t most = self->options->n_faults < TR__MAX_FAULTS ? self->options->n_faults : TR__MAX_FAULTS;
    self->n_faults = most ? 1 + (uint32_t)draw(self, most) : 0;
    if (most && draw(self, 16) == 0)
        self->processes[1 + draw(self, (uint64_t)self->n_nodes - 1)].greeting_is_cut = true;
    for (uint32_t i = 0; i < self->n_faults; i++) {
        uint64_t *before = i ? &self->faults[i - 1] : NULL;
        switch (before ? draw(self, 4) : 3) {
        case 0: self->faults[i] = *before; break; /* at once */
        case 1: self->faults[i] = *before + draw(self, NEAR_EVENTS); break;
        case 2: self->faults[i] = *before + draw(self, SOON_EVENTS); break;
        default: self->faults[i] = (before ? *before : 0) + draw(self, self->options->faults_until); break;
        }
    }
}

/* ---- death ---- */

static void take_image(tr__process *process)
{
    process->image = tr__slots_image(process);
}

static void forget_image(tr__process *process)
{
    tr_free(process->image);
    process->image = NULL;
}

/* Until the replacement starts, what the zombie writes is in the node's memory, as its last words are heard: the fence comes
 * before the replacement. */
bool tr__inherit(tr__simulated_job *self, int32_t node)
{
    tr__process *heir = &self->processes[node];
    if (!heir->heir_of) return false;
    bool is_gone = heir->heir_of == TR__GONE_ZOMBIE;
    const tr__process *zombie = &self->processes[is_gone ? 0 : heir->heir_of];
    heir->heir_of = 0;
    for (int i = 0; i < zombie->n_regions && !is_gone; i++) {
        tr_status status = tr_state_region_part(zombie->regions[i], NULL);
        TR_ASSERT(status == TR_OK);
    }
    return true;
}

void tr__process_kill(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    if (place < 1 || place >= self->base.n_places || !process->worker) return;
    tr_node *node = self->base.nodes[place];
    self->counters.n_deaths++;
    self->counters.n_within += process->dying;
    self->counters.n_between_epochs += self->head.phase != TR_HEAD_RUNNING;
    if (self->head.epoch > self->base.torn_epoch) self->base.torn_epoch = self->head.epoch;
    tr__job_trace(self, process->dying ? "death within an activation" : "death", place);
    if (node) {
        uint32_t incarnation = node->options.incarnation;
        tr_sim_network_kill(self->base.data, node->options.node, incarnation);
        tr_sim_network_kill(self->base.control, node->options.node, incarnation);
    }
    if (!process->image) take_image(process);
    self->base.nodes[place] = NULL;
    tr_worker_destroy(&process->worker); /* what its actors say and write in the end comes to nothing */
    tr__slots_restore(self, place, process->image, process->regions);
    forget_image(process);
    process->dying = process->dies_next = process->is_hung = false;
    process->dies_at_slot = 0;
    process->life = TR__PROCESS_REAPED;
    self->base.frozen[place] = false;
    tr__process_close(process);
    if (place < self->n_nodes) {
        tr__kernel_end(self, process->pid, 0, SIGKILL);
        return;
    }
    for (int32_t heir = 1; heir < self->n_nodes; heir++)
        if (self->processes[heir].heir_of == place) self->processes[heir].heir_of = TR__GONE_ZOMBIE;
    tr__process_release_regions(process);
}

/* ---- death within an activation ---- */

static void begin_to_die(tr__simulated_job *self, int32_t place, uint32_t n_left)
{
    tr__process *process = &self->processes[place];
    const tr_node_options *options = &self->base.nodes[place]->options;
    process->dying = true;
    process->n_left = n_left;
    tr_sim_network_limit(self->base.data, options->node, options->incarnation, &process->n_left);
    tr_sim_network_limit(self->base.control, options->node, options->incarnation, &process->n_left);
    if (n_left == 0) take_image(process);
}

/* The head from its first frame on, or at once. */
static void head_begins_to_die(tr__simulated_job *self)
{
    tr__head_process *leader = &self->leader;
    uint32_t incarnation = self->head.node->options.incarnation;
    leader->dies_next = false;
    leader->dying = true;
    leader->n_left = (uint32_t)draw(self, MAX_LEFT);
    tr_sim_network_limit(self->base.data, TR_NODE_HEAD, incarnation, &leader->n_left);
    tr_sim_network_limit(self->base.control, TR_NODE_HEAD, incarnation, &leader->n_left);
    if (leader->n_left == 0 && draw(self, 2)) tr__head_silent(self);
}

static void agent_begins_to_die(tr__simulated_job *self)
{
    tr__agent_process *agent = &self->agent;
    agent->dies_next = false;
    agent->dying = true;
    agent->n_left = (uint32_t)draw(self, 4);
    tr_sim_network_limit(self->base.control, self->n_nodes, agent->agent.node->options.incarnation,
                         &agent->n_left);
    if (agent->n_left == 0) tr__agent_silent(self);
}

void tr__faults_before(tr__simulated_job *self, int32_t place)
{
    if (place == TR_NODE_HEAD && self->leader.dies_next) head_begins_to_die(self);
    if (place == self->n_nodes && self->agent.dies_next) agent_begins_to_die(self);
    tr__process *process = &self->processes[place];
    if (!process->dies_next || !process->worker) return;
    process->dies_next = false;
    begin_to_die(self, place, (uint32_t)draw(self, MAX_LEFT));
}

/* After the fact. Between the last frame that was sent and this the moment of death is not seen: then it is this one. */
void tr__faults_on_slot(void *context, int32_t place, tr_actor_id who, int slot, uint64_t generation)
{
    tr__simulated_job *self = context;
    tr__process *process = &self->processes[place];
    tr__slots_audit(self, place, who, slot, generation);
    if (process->dying && !process->image) {
        if (process->n_left) process->n_left--;
        if (process->n_left == 0) take_image(process);
    } else if (process->dies_at_slot && --process->dies_at_slot == 0 && self->base.nodes[place]) {
        begin_to_die(self, place, (uint32_t)draw(self, 3));
    }
}

/* ---- other misfortunes ---- */

/* Its node's death is told, but it runs on, with memory of its own: fenced too late, on another host. */
static void become_zombie(tr__simulated_job *self, int32_t node)
{
    int32_t place = self->n_nodes + 1;
    while (place < self->base.n_places && self->processes[place].worker) place++;
    tr__process *process = &self->processes[node], *zombie = &self->processes[place];
    if (place == self->base.n_places || process->life != TR__PROCESS_RUNS) {
        tr__process_kill(self, node);
        return;
    }
    tr__job_trace(self, "a zombie goes on", node);
    self->counters.n_zombies++;
    if (self->head.epoch > self->base.torn_epoch) self->base.torn_epoch = self->head.epoch;
    *zombie = *process;
    zombie->dies_next = zombie->is_hung = zombie->greeting_is_cut = false;
    zombie->dies_at_slot = 0;
    zombie->until_event = self->base.counters.n_events + draw(self, ZOMBIE_EVENTS);
    self->base.nodes[place] = self->base.nodes[node];
    self->base.nodes[node] = NULL;
    self->base.node_weights[place] = self->base.node_weights[node];
    self->base.frozen[place] = self->base.frozen[node];
    self->base.frozen[node] = false;
    self->base.nodes[place]->options.observer = &self->base.seats[place];
    *process = (tr__process){.pid = zombie->pid, .heir_of = place, .word = -1, .life_line = -1};
    tr_worker_move(zombie->worker, &zombie->options);
    if (zombie->life_line >= 0)
        close(zombie->life_line); /* it is somewhere where no kernel of ours ends it */
    zombie->life_line = -1;
    tr__kernel_end(self, zombie->pid, 0, SIGKILL);
}

static void stop(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    if (self->base.frozen[place] || !process->worker) return;
    tr__job_trace(self, "a worker is stopped", place);
    self->counters.n_stops++;
    self->base.frozen[place] = true;
    process->until_event = self->base.counters.n_events + draw(self, STOPPED_EVENTS);
    process->is_hung = draw(self, 2) != 0;
}

/* After an activation that leaves others with something to do, the head gets no processor for a while: what comes waits, also
 * the word of the victim's death, and is seen all at once. */
static void pause_head(tr__simulated_job *self, int32_t victim)
{
    self->pauses_next = true;
    if (self->processes[victim].worker)
        self->processes[victim].dies_at_slot = 1 + (uint32_t)draw(self, MAX_SLOT_CALLS);
}

/* An actor, one of the head's every other time, gets no turn for so long that others get on by more than a step where they
 * need no answer of it, until the victim dies. What it was told by then and never took is lost with its node's world. */
static void starve(tr__simulated_job *self, int32_t victim)
{
    const tr_topology *topology = self->base.options.topology;
    bool of_head = draw(self, 2) != 0;
    tr_actor_id who = 1 + draw(self, topology->n_actors);
    for (size_t i = 0; i < topology->n_actors && of_head && topology->actors[who - 1].node != TR_NODE_HEAD;
         i++)
        who = who % topology->n_actors + 1;
    char text[TR_NAME_BYTES + 16];
    snprintf(text, sizeof text, "'%s' starves", topology->actors[who - 1].name);
    tr__job_trace(self, text, topology->actors[who - 1].node);
    self->counters.n_starved++;
    self->base.starved = who;
    self->base.starved_until = self->base.counters.n_events + draw(self, STARVED_EVENTS);
    if (self->processes[victim].worker)
        self->processes[victim].dies_at_slot = 1 + (uint32_t)draw(self, MAX_STARVED_SLOT_CALLS);
}

static void begin_pause(tr__simulated_job *self)
{
    if (!self->pauses_next || !tr_node_runnable(self->base.nodes[TR_NODE_HEAD])) return;
    tr__job_trace(self, "the head pauses", TR_NODE_HEAD);
    self->pauses_next = false;
    self->counters.n_stops++;
    self->base.frozen[TR_NODE_HEAD] = true;
    self->processes[TR_NODE_HEAD].until_event =
        self->base.counters.n_events + MIN_PAUSED_EVENTS + draw(self, PAUSED_EVENTS);
}

static void cut_between(tr__simulated_job *self, bool control, int32_t told, int32_t other)
{
    if (other < 0) other = told == TR_NODE_HEAD ? self->n_nodes : TR_NODE_HEAD;
    if (!self->base.nodes[told] || !self->base.nodes[other]) return;
    tr__job_trace(self, control ? "a connection for control is cut, for" : "a connection is cut, for", told);
    self->counters.n_cuts++;
    if (self->head.epoch > self->base.torn_epoch) self->base.torn_epoch = self->head.epoch;
    tr_sim_network_cut(control ? self->base.control : self->base.data, told, other);
}

static void cut(tr__simulated_job *self)
{
    bool control = draw(self, 3) == 0;
    int32_t told = (int32_t)draw(self, (uint64_t)self->n_nodes), other = told;
    while (other == told) other = (int32_t)draw(self, (uint64_t)self->n_nodes);
    /* Workers do not look at their link for data to the head, which closes it at each change of epoch: the head does. */
    if (other == TR_NODE_HEAD && !control) other = told, told = TR_NODE_HEAD;
    cut_between(self, control, told, other);
}

/* While its greeting is on its way, or waits to be read behind the news of its last life's end. */
void tr__faults_greeted(tr__simulated_job *self, int32_t place)
{
    if (place == self->n_nodes) { /* that a job's first agent does not come ends the job, as it should */
        if (self->agents_greeting_is_cut && self->head.changed_ns && self->leader.life == TR__HEAD_RUNS) {
            self->agents_greeting_is_cut = false;
            cut_between(self, true, TR_NODE_HEAD, place);
        }
        return;
    }
    if (!self->processes[place].greeting_is_cut) return;
    self->processes[place].greeting_is_cut = false;
    cut_between(self, true, TR_NODE_HEAD, place);
}

static void cut_next_greeting(tr__simulated_job *self, int32_t victim)
{
    self->processes[victim].greeting_is_cut = true;
    if (draw(self, 2)) tr__process_kill(self, victim);
}

/* Between two lives: then somebody takes the slot over, and must notice. */
static void rot(tr__simulated_job *self, int32_t victim)
{
    tr__process_kill(self, victim);
    if (self->processes[victim].heir_of || self->processes[victim].worker) return;
    if (tr__slots_rot(self, victim)) tr__job_trace(self, "a bit flips in a slot", victim);
}

void tr__faults_after(tr__simulated_job *self, int32_t place)
{
    if (self->processes[place].dying) tr__process_kill(self, place);
    if (place == TR_NODE_HEAD && self->leader.dying)
        tr__head_kill(self);
    else if (place == TR_NODE_HEAD)
        begin_pause(self);
}

/* One that has just started a worker, and told nobody. */
static void kill_agent_at_spawn(tr__simulated_job *self, int32_t victim)
{
    if (self->agent.life == TR__AGENT_NONE) return;
    self->agent.dies_at_spawn = 1 + (uint32_t)draw(self, 2);
    tr__process_kill(self, victim);
}

static void kill_both(tr__simulated_job *self)
{
    bool head_first = draw(self, 2) != 0;
    if (head_first) tr__head_kill(self);
    tr__agent_kill(self);
    if (!head_first) tr__head_kill(self);
}

/* Mostly soon; now and then behind the lease, when nobody is left. */
uint64_t tr__faults_pause_ns(tr__simulated_job *self)
{
    static const uint64_t longest_ms[] = {1, 50, 500, 1500};
    if (draw(self, 10) == 0) return (TR__SIMULATED_LEASE_MS - 500 + draw(self, 1000)) * 1000000;
    return draw(self, longest_ms[draw(self, 4)] * 1000000);
}

static tr__fault_kind draw_kind(tr__simulated_job *self)
{
    bool heads = self->options->succeed != NULL, rots = self->options->may_rot;
    uint64_t n = heads ? TR__FAULT_ROT : TR__FAULT_HEAD,
             kind = draw(self, n + rots + (self->options->lease ? LEASE_SHARE : 0));
    if (rots && kind == n) return TR__FAULT_ROT;
    return kind >= n + rots ? TR__FAULT_LEASE : (tr__fault_kind)kind;
}

/* Etcd does not answer; now, or since a while ago, as where the head's host slept. */
static void cut_lease(tr__simulated_job *self)
{
    tr_played_lease *lease = self->options->lease;
    uint64_t since_ns = draw(self, 2) ? draw(self, lease->ttl_ns) : 0;
    tr__job_trace(self, "etcd does not answer", TR_NODE_HEAD);
    if (draw(self, 3) == 0) lease->other_for_ns = 1 + draw(self, 2 * lease->ttl_ns);
    self->slept = self->slept || since_ns > 0;
    tr__lease_cut(lease, since_ns, draw(self, 2 * lease->ttl_ns));
}

static void strike(tr__simulated_job *self)
{
    int32_t victim = 1 + (int32_t)draw(self, (uint64_t)self->n_nodes - 1);
    tr__process *process = &self->processes[victim];
    switch (draw_kind(self)) {
    case TR__FAULT_KILL: tr__process_kill(self, victim); break;
    case TR__FAULT_KILL_WITHIN: process->dies_next = process->worker != NULL; break;
    case TR__FAULT_KILL_AT_SLOT:
        if (process->worker) process->dies_at_slot = 1 + (uint32_t)draw(self, MAX_SLOT_CALLS);
        break;
    case TR__FAULT_STOP: stop(self, victim); break;
    case TR__FAULT_CUT: cut(self); break;
    case TR__FAULT_CUT_GREETING: cut_next_greeting(self, victim); break;
    case TR__FAULT_PAUSE: pause_head(self, victim); break;
    case TR__FAULT_STARVE: starve(self, victim); break;
    case TR__FAULT_ZOMBIE: become_zombie(self, victim); break;
    case TR__FAULT_HEAD: tr__head_kill(self); break;
    case TR__FAULT_HEAD_WITHIN: self->leader.dies_next = self->leader.life == TR__HEAD_RUNS; break;
    case TR__FAULT_AGENT: tr__agent_kill(self); break;
    case TR__FAULT_AGENT_WITHIN: self->agent.dies_next = self->agent.life == TR__AGENT_RUNS; break;
    case TR__FAULT_AGENT_AT_SPAWN: kill_agent_at_spawn(self, victim); break;
    case TR__FAULT_BOTH: kill_both(self); break;
    case TR__FAULT_CUT_AGENT:
        cut_between(self, true, draw(self, 2) ? TR_NODE_HEAD : self->n_nodes, -1);
        break;
    case TR__FAULT_CUT_AGENTS_GREETING:
        self->agents_greeting_is_cut = true;
        if (draw(self, 2)) tr__agent_kill(self);
        break;
    case TR__FAULT_INTRUDER: tr__head_intrude(self, draw(self, LONGEST_INTRUSION_NS)); break;
    case TR__FAULT_ROT: rot(self, victim); break;
    case TR__FAULT_LEASE: cut_lease(self); break;
    default: TR_ASSERT(false && "a kind of fault");
    }
}

/* What was stopped goes on, or the agent says that it hangs; a zombie comes to its end. */
static void look_after(tr__simulated_job *self, int32_t place)
{
    tr__process *process = &self->processes[place];
    bool zombie = place > self->n_nodes;
    if (!process->worker || process->until_event > self->base.counters.n_events) return;
    if (zombie) {
        tr__process_kill(self, place);
    } else if (self->base.frozen[place]) {
        tr_control_note note = {.node = place, .pid = process->pid, .text = "it was stopped"};
        if (process->is_hung && self->base.nodes[self->n_nodes])
            tr_control_send_note(self->base.nodes[self->n_nodes], TR_NODE_HEAD, TR_CONTROL_HUNG, &note);
        self->base.frozen[place] = process->is_hung && draw(self, 2); /* either way until it is killed */
        process->until_event = UINT64_MAX;
    }
}

void tr__faults_strike(tr__simulated_job *self)
{
    if (self->options->lease) tr__head_lease(self);
    while (self->n_struck < self->n_faults && self->faults[self->n_struck] <= self->base.counters.n_events) {
        self->n_struck++;
        strike(self);
    }
    for (int32_t place = 1; place < self->base.n_places; place++) look_after(self, place);
    if (self->processes[TR_NODE_HEAD].until_event <= self->base.counters.n_events)
        self->base.frozen[TR_NODE_HEAD] = false;
}
