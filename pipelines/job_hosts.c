/* pipelines/job_hosts.c - a job spread over hosts: which worker is where by default, and what the loss of a host costs.
 * Replicas stay whole where there are as many as hosts: then only gradients go from host to host, once a step, and each state
 * is on two hosts without a copy. Else a pipeline is cut between hosts, and activations go over the cuts. Data shards are on
 * the head's host, whose file they read: tokens are few.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/job_plan.h"

#include "actors/roles.h"
#include "base/memory.h"
#include "runtime/host_messages.h"

#include <inttypes.h>
#include <string.h>

int32_t tr_job_host_of(const tr_recipe *recipe, int32_t node)
{
    int64_t hosts = recipe->layout.hosts, replicas = recipe->layout.data, each = recipe->layout.pipeline;
    int64_t at = node - 1;
    if (node == TR_NODE_HEAD || hosts == 1) return 0;
    return (int32_t)(replicas >= hosts ? at / each * hosts / replicas : at * hosts / (replicas * each));
}

int32_t tr_job_shard_node(const tr_recipe *recipe, const tr_training_plan *plan, uint32_t replica)
{
    int32_t own = (int32_t)(1 + replica * tr_plan_workers(plan)),
            n_here = 1; /* the first is the head's host's */
    if (tr_job_host_of(recipe, own) == 0) return own;
    int32_t n_workers = (int32_t)(plan->n_replicas * tr_plan_workers(plan));
    while (n_here < n_workers && tr_job_host_of(recipe, n_here + 1) == 0) n_here++;
    return 1 + (int32_t)(replica % (uint32_t)n_here);
}

tr_status tr_job_plan_spread(tr_job_plan *self, tr_error *err)
{
    const tr_topology *topology = &self->topology;
    self->host_of = tr_alloc_zero((size_t)topology->n_nodes, sizeof *self->host_of);
    self->equals = tr_alloc_zero(topology->n_actors, sizeof *self->equals);
    if (!self->host_of || !self->equals) return tr_fail(err, TR_ENOMEM, "no memory for the plan of a job");
    for (int32_t node = 0; node < topology->n_nodes; node++)
        self->host_of[node] = tr_job_host_of(self->recipe, node);
    for (uint32_t s = 0; s < self->training.n_stages; s++)
        for (uint32_t r = 0;
             r < self->training.n_replicas && self->training.n_replicas > 1 && !self->training.zero; r++)
            self->equals[tr_role_find_stage(topology, r, s) - 1] = s + 1;
    return TR_OK;
}

tr_status tr_job_plan_hash(const tr_job_plan *self, char hex[17], tr_error *err)
{
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status = tr_topology_encode(&self->topology, &bytes, &size_bytes, err);
    if (status == TR_OK) tr_plan_hash(bytes, size_bytes, hex);
    tr_free(bytes);
    return status;
}

/* Is there an equal state on another host? */
static bool is_held_elsewhere(const tr_job_plan *self, size_t i)
{
    for (size_t k = 0; k < self->topology.n_actors && self->equals[i]; k++)
        if (self->equals[k] == self->equals[i] &&
            self->host_of[self->topology.actors[k].node] != self->host_of[self->topology.actors[i].node])
            return true;
    return false;
}

void tr_job_plan_print_hosts(const tr_job_plan *self, FILE *stream)
{
    const tr_recipe *recipe = self->recipe;
    char hex[17];
    uint64_t copied = 0;
    if (recipe->layout.hosts == 1) return;
    fprintf(stream, "\n%-9s workers\n", "host");
    for (int32_t host = 0; host < recipe->layout.hosts; host++) {
        fprintf(stream, "%-9d", host);
        const char *before = " ";
        for (int32_t node = 1; node < self->topology.n_nodes; node++) {
            if (self->host_of[node] != host) continue;
            fprintf(stream, "%s%d", before, node);
            before = ", ";
        }
        fprintf(stream, host == 0 ? "   (the head's own; it reads the data)\n" : "\n");
    }
    for (size_t i = 0; i < self->topology.n_actors; i++)
        if (!is_held_elsewhere(self, i)) copied += self->topology.actors[i].state_bytes;
    if (!copied)
        fprintf(stream,
                "every state is on two hosts anyway, as that of another replica: nothing is copied\n");
    else if (recipe->supervision.copies)
        fprintf(stream, "copied to another host every %d steps: %.1f MiB in all\n",
                recipe->supervision.hold_every, (double)copied / (1 << 20));
    else
        fprintf(stream,
                "not on another host: %.1f MiB of states; the loss of a host goes back to a checkpoint\n",
                (double)copied / (1 << 20));
    if (tr_job_plan_hash(self, hex, NULL) == TR_OK) fprintf(stream, "plan %s\n", hex);
}
