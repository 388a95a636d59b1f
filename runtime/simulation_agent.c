/* runtime/simulation_agent.c - the agent's process in a simulated job: agent.c and what belongs to it, step by step.
 * Its death: what it holds is closed, its memory unmapped; nothing else of what it would do at its end is done.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_hosts.h"
#include "runtime/simulation_processes.h"

#include "base/memory.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

tr_status tr__agent_process_begin(tr__simulated_job *self, int32_t pid, const tr_launch *launch,
                                  const int *descriptors, int count, tr_error *err)
{
    tr__agent_process *process = &self->agent;
    int sealed;
    self->counters.n_replaced += self->acting == TR_NODE_HEAD; /* a head at its beginning is not activated */
    if (process->life != TR__AGENT_NONE) tr__simulation_break(&self->base, "there are two agents");
    if (count != 3) return tr_fail(err, TR_EINVAL, "an agent inherits %d descriptors", count);
    tr_status status = tr_launch_write(launch, &sealed, err);
    if (status != TR_OK) return status;
    *process = (tr__agent_process){.life = TR__AGENT_BEGINS, .pid = pid, .parent = self->leader.pid};
    for (int i = 0; i < 3; i++) process->inherited[i] = fcntl(descriptors[i], F_DUPFD_CLOEXEC, 0);
    status = tr_launch_read(&process->launch, sealed, err);
    close(sealed);
    tr__job_trace(self, "an agent is started", self->n_nodes);
    return status;
}

/* Its memory is gone, and what it held. */
static void vanish(tr__simulated_job *self, int32_t exit_code, int32_t signal)
{
    tr__agent_process *process = &self->agent;
    self->base.nodes[self->n_nodes] = NULL;
    if (process->life == TR__AGENT_BEGINS)
        for (int i = 0; i < 3; i++) close(process->inherited[i]);
    else
        tr__agent_release(&process->agent);
    if (process->wait.agent && process->wait.connection >= 0) close(process->wait.connection);
    tr_launch_release(&process->launch);
    int32_t pid = process->pid;
    *process = (tr__agent_process){.life = TR__AGENT_NONE};
    tr__kernel_look_at_lines(self);
    tr__kernel_end(self, pid, exit_code, signal);
}

void tr__agent_kill(tr__simulated_job *self)
{
    tr__agent_process *process = &self->agent;
    tr__agent *agent = &process->agent;
    if (process->life == TR__AGENT_NONE) return;
    tr__job_trace(self, process->dying ? "death of the agent within an activation" : "death of the agent",
                  self->n_nodes);
    self->counters.n_agent_deaths++;
    if (agent->node) {
        tr_sim_network_kill(self->base.control, self->n_nodes, agent->node->options.incarnation);
        tr_node_destroy(&agent->node);
    }
    if (process->life != TR__AGENT_BEGINS && agent->listener >= 0) { /* its name stays in the directory */
        close(agent->listener);
        agent->listener = -1;
    }
    /* Whom it leaves lives as long as the head, but for one that it had started and not handed over yet. */
    bool has_head = process->life == TR__AGENT_RUNS && self->leader.life == TR__HEAD_RUNS;
    uint32_t most = self->counters.n_orphaned + process->has_told_nobody;
    vanish(self, 0, SIGKILL);
    if (has_head && self->counters.n_orphaned > most)
        tr__simulation_break(&self->base, "the agent's death took workers along");
}

void tr__agent_silent(tr__simulated_job *self)
{
    tr__agent_process *process = &self->agent;
    if (!process->dying && process->agent.node)
        tr_sim_network_limit(self->base.control, self->n_nodes, process->agent.node->options.incarnation,
                             &process->n_left);
    process->dying = true;
    process->n_left = 0;
    if (process->agent.holdings >= 0) close(process->agent.holdings);
    process->agent.holdings = -1;
}

/* ---- its steps ---- */

static void run(tr__simulated_job *self, tr_status status, const tr_error *problem)
{
    tr__agent_process *process = &self->agent;
    tr_node *node = process->agent.node;
    if (!node) {
        tr__job_trace(self, problem->message, self->n_nodes);
        vanish(self, 1, 0);
        return;
    }
    if (status != TR_OK) tr__agent_tell_failure(&process->agent, problem);
    process->life = TR__AGENT_RUNS;
    self->base.nodes[self->n_nodes] = node;
    tr_node_begin(node, TR__AGENT_TICK_MS, tr__agent_on_tick);
    self->stirred[self->n_nodes] = true;
    tr__faults_greeted(self, self->n_nodes);
}

static void begin(tr__simulated_job *self)
{
    tr__agent_process *process = &self->agent;
    tr_error problem = {0};
    tr_status status = tr__agent_init(&process->agent, &process->launch, &problem);
    process->agent.pid = process->pid;
    process->agent.directory = process->inherited[0];
    process->agent.kept = process->inherited[1];
    process->agent.holdings = process->inherited[2];
    if (status == TR_OK) status = tr__agent_begin(&process->agent, &problem);
    run(self, status, &problem);
}

static void wait(tr__simulated_job *self)
{
    tr__agent_process *process = &self->agent;
    tr__waiting *waiting = &process->wait;
    int connection = waiting->connection;
    uint64_t told_ns = waiting->told_ns;
    tr_error problem = {0};
    process->looked_ns = self->base.now_ns;
    tr__waits_for how = tr__agent_wait_on(waiting, 0);
    if (how != TR__WAITS || connection != waiting->connection || told_ns != waiting->told_ns)
        tr__kernel_stir(self);
    if (how == TR__TAKEN) {
        tr__job_trace(self, "the agent is taken over", self->n_nodes);
        tr__agent_taken(waiting);
        tr__agent_close_wait(waiting);
        run(self, tr__agent_go_on(&process->agent, &problem), &problem);
    } else if (how == TR__OVER) {
        tr__job_trace(self, "the lease is over", self->n_nodes);
        self->counters.n_leases++;
        tr__agent_send_home(waiting);
        process->life = TR__AGENT_LEAVES;
    }
}

static void leave(tr__simulated_job *self)
{
    tr__agent_process *process = &self->agent;
    process->looked_ns = self->base.now_ns;
    if (!tr__agent_have_gone(&process->wait, 0)) return;
    tr__job_trace(self, "the agent leaves", self->n_nodes);
    tr__agent_close_lease(&process->agent);
    tr__agent_close_wait(&process->wait);
    vanish(self, 0, 0);
}

/* Its node has stopped. */
static void end_node(tr__simulated_job *self)
{
    tr__agent_process *process = &self->agent;
    tr__agent *agent = &process->agent;
    tr_node_finish(agent->node);
    self->base.nodes[self->n_nodes] = NULL;
    tr_node_destroy(&agent->node);
    if (!agent->orphaned) {
        tr__job_trace(self, "the agent ends", self->n_nodes);
        vanish(self, agent->head_lost, 0);
        return;
    }
    tr__job_trace(self, "the agent waits for another head", self->n_nodes);
    tr__agent_wait(&process->wait, agent);
    process->life = TR__AGENT_WAITS;
    process->looked_ns = 0;
}

void tr__agent_after(tr__simulated_job *self)
{
    tr__agent_process *process = &self->agent;
    if (process->life == TR__AGENT_NONE) return;
    if (process->dying)
        tr__agent_kill(self);
    else if (process->life == TR__AGENT_RUNS && tr_node_is_stopped(process->agent.node))
        end_node(self);
}

bool tr__agent_can_happen(const tr__simulated_job *self)
{
    const tr__agent_process *process = &self->agent;
    if (process->life == TR__AGENT_BEGINS) return true;
    if (process->life == TR__AGENT_NONE) return false;
    return self->stirred[self->n_nodes] ||
           (process->life != TR__AGENT_RUNS && self->base.now_ns >= tr__agent_next_ns(self));
}

uint64_t tr__agent_next_ns(const tr__simulated_job *self)
{
    const tr__agent_process *process = &self->agent;
    if (process->life != TR__AGENT_WAITS && process->life != TR__AGENT_LEAVES) return UINT64_MAX;
    return process->looked_ns + TR__AGENT_LOOK_MS * 1000000ull;
}

void tr__agent_happen(tr__simulated_job *self)
{
    self->stirred[self->n_nodes] = false;
    self->acting = self->n_nodes;
    switch (self->agent.life) {
    case TR__AGENT_BEGINS: begin(self); break;
    case TR__AGENT_WAITS: wait(self); break;
    case TR__AGENT_LEAVES: leave(self); break;
    case TR__AGENT_RUNS: tr_node_look(self->agent.agent.node); break;
    default: break;
    }
    self->acting = -1;
    tr__agent_after(self);
}
