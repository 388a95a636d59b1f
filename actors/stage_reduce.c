/* actors/stage_reduce.c - from the gradients of single micro-batches to their sum over the step, in one fixed
 * order. Within a group of micro-batches the weight gradients add up where they are computed: a left fold.
 * Groups are added in the binary tree of plan.h. A replica adds what it can alone (its blocks); the rest is
 * done shard by shard: every replica sends the shard's part of its blocks to the shard's owner (all-to-all),
 * the owner finishes the tree, and sends the sum to all (all-gather). Who computes which node of the tree
 * depends on the layout, what is added to what does not: no layout changes a bit. Then the uses of a tied
 * parameter, each reduced by itself, are added in graph order. With ZeRO the owner of a shard updates it, and no sum goes to
 * the others; shards are then those of stage_shard.h, several stretches each.
 * Messages carry flat gradients where they lie; each holds a reference, and a flat gradient is written again only when
 * nobody else holds one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_collect.h"

#include "actors/dispute.h"
#include "actors/replay.h"
#include "actors/stage_audit.h"
#include "actors/stage_link.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "base/memory.h"
#include "ops/optimizer.h"

#include <string.h>

int64_t tr_stage_gradient_elements(const tr_stage_parameter *parameters, uint32_t n_parameters)
{
    int64_t total = 0;
    for (uint32_t i = 0; i < n_parameters; i++)
        for (uint32_t u = 0; u < parameters[i].n_uses; u++)
            if (parameters[i].uses[u].gradient != TR_NO_VALUE)
                total += tr__stage_aligned(parameters[i].n_elements);
    return total;
}

void tr_stage_shard(int64_t n_elements, uint32_t n_replicas, uint32_t replica, int64_t *begin, int64_t *end)
{
    tr_range lines =
        tr_share((uint32_t)(tr__stage_aligned(n_elements) / TR__LINE_ELEMENTS), n_replicas, replica);
    *begin = (int64_t)lines.begin * TR__LINE_ELEMENTS;
    *end = (int64_t)lines.end * TR__LINE_ELEMENTS;
}

/* Is the sum of this replica's shard all that has a place on the host? Else it is where it is in the flat gradient. */
static bool is_packed(const tr__stage *self)
{
    return self->spec.plan.zero > 1 || tr_shard_is_even(&self->spec);
}

static tr_status find_stretches(tr__stage *self, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    uint32_t n_replicas = spec->plan.n_replicas, n = 0;
    self->first_stretch = tr_alloc((n_replicas + 1) * sizeof *self->first_stretch);
    if (!self->first_stretch) return tr_fail(err, TR_ENOMEM, "no memory for %u shards", n_replicas);
    for (uint32_t r = 0; r <= n_replicas; r++) {
        self->first_stretch[r] = n;
        if (r < n_replicas) n += tr_shard_stretches(spec, r, NULL);
    }
    self->stretches = tr_alloc(n * sizeof *self->stretches);
    if (!self->stretches) return tr_fail(err, TR_ENOMEM, "no memory for %u shards", n_replicas);
    for (uint32_t r = 0; r < n_replicas; r++)
        tr_shard_stretches(spec, r, self->stretches + self->first_stretch[r]);
    size_t bytes = (size_t)tr_shard_sum_elements(spec, spec->replica) * sizeof(float);
    self->sum_flats.size_bytes = bytes ? bytes : TR_CACHE_LINE;
    return TR_OK;
}

tr_status tr__reduce_init(tr__stage *self, tr_error *err)
{
    const tr_stage_spec *spec = &self->spec;
    self->flat = tr_stage_gradient_elements(spec->parameters, spec->n_parameters);
    self->parameters = tr_alloc_zero(spec->n_parameters, sizeof *self->parameters);
    self->flats.size_bytes = (size_t)self->flat * sizeof(float);
    if (!self->parameters) return tr_fail(err, TR_ENOMEM, "no memory for the gradients' description");
    tr_status found = find_stretches(self, err);
    if (found) return found;
    int64_t offset = 0, packed = 0;
    tr_shard shard;
    tr_shard_begin(&shard, spec, spec->replica);
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        const tr_stage_parameter *known = &spec->parameters[i];
        tr__parameter *parameter = &self->parameters[i];
        parameter->spec = known;
        parameter->part = tr_shard_next(&shard);
        parameter->gradients = tr_alloc(3 * known->n_uses * sizeof *parameter->gradients);
        parameter->reduced = parameter->gradients + (parameter->gradients ? known->n_uses : 0);
        parameter->sums = parameter->reduced + (parameter->gradients ? known->n_uses : 0);
        size_t bytes = (size_t)(tr__part_elements(parameter) + 1) * sizeof(float);
        if (known->n_uses > 1 && !self->device) parameter->total = tr_alloc_aligned(64, bytes);
        if (known->n_uses > 1 && self->device) {
            tr_status status =
                tr__device_memory(self, TR_MEMORY_DEVICE, bytes, (void **)&parameter->total, err);
            if (status) return status;
        }
        if (!parameter->gradients || (known->n_uses > 1 && !parameter->total))
            return tr_fail(err, TR_ENOMEM, "no memory for the gradient of '%s'", known->name);
        for (uint32_t u = 0; u < known->n_uses; u++) {
            bool here = known->uses[u].gradient != TR_NO_VALUE;
            parameter->gradients[u] = here ? offset : -1;
            parameter->reduced[u] = !here ? -1 : is_packed(self) ? packed : offset + parameter->part.begin;
            parameter->sums[u] = parameter->reduced[u];
            parameter->shared |= !here;
            if (here) offset += tr__stage_aligned(known->n_elements);
            if (here) packed += tr__stage_aligned(tr__part_elements(parameter));
        }
    }
    return TR_OK;
}

void tr__reduce_release(tr__stage *self)
{
    for (uint32_t i = 0; self->parameters && i < self->spec.n_parameters; i++) {
        tr_free(self->parameters[i].gradients);
        if (!self->device) tr_free(self->parameters[i].total);
    }
    for (uint32_t i = 0; i < self->n_blocks; i++) tr_buffer_release(&self->blocks[i].memory);
    tr_buffer_release(&self->accumulating);
    tr_buffer_release(&self->reduced);
    tr_buffer_release(&self->sum);
    tr__buffers_release(&self->flats);
    tr__buffers_release(&self->sum_flats);
    tr_free(self->stretches);
    tr_free(self->first_stretch);
    tr_free(self->parameters);
}

/* --- within the replica --- */

void tr__reduce_bind(tr__stage *self, tr_buffer *flat)
{
    float *sums = tr__floats(flat);
    bool streams = tr__collect_streams(self);
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        for (uint32_t u = 0; u < parameter->spec->n_uses; u++)
            if (parameter->gradients[u] >= 0)
                self->bound[parameter->spec->uses[u].gradient] =
                    sums +
                    (streams ? tr__collect_place(self, parameter->gradients[u]) : parameter->gradients[u]);
    }
}

void tr__reduce_bind_group(tr__stage *self)
{
    tr__reduce_bind(self, self->accumulating);
}

bool tr__reduce_begin_group(tr__stage *self, uint32_t group)
{
    self->group = group;
    if (tr__collect_streams(self)) /* known before the first one is taken */
        self->flats.size_bytes = (size_t)tr__collect_gradient_elements(self) * sizeof(float);
    self->accumulating = self->device ? tr__device_take_flat(self) : tr__take_host_flat(self);
    if (!self->accumulating) return false;
    float *sums = tr__floats(self->accumulating);
    uint64_t begin = tr_clock_ns(), traced_ns = tr_trace_begin(&self->trace);
    if (!self->device)
        tr_clear(sums, self->flat, self->pool); /* a device's begin with the first run of the group */
    self->busy_ns += tr_clock_ns() - begin;
    tr_trace_end(&self->trace, TR_SPAN_REDUCE, traced_ns, self->step + 1, 0);
    tr__reduce_bind_group(self);
    return true;
}

bool tr__reduce_end_group(tr__stage *self)
{
    uint64_t begin = tr_clock_ns(), traced_ns = tr_trace_begin(&self->trace);
    tr__block *blocks = self->blocks;
    bool collected = tr__collect_has_begun(self); /* bucket by bucket, what follows for the whole */
    bool good = !collected || tr__collect_finish(self);
    TR_ASSERT(self->n_blocks < TR_MAX_BLOCKS);
    blocks[self->n_blocks++] = (tr__block){{self->group, self->group + 1}, self->accumulating};
    self->accumulating = NULL;
    self->group++;
    while (self->n_blocks >= 2 &&
           tr_tree_siblings(self->spec.plan.n_groups, blocks[self->n_blocks - 2].groups,
                            blocks[self->n_blocks - 1].groups)) {
        tr__block *left = &blocks[self->n_blocks - 2], *right = &blocks[self->n_blocks - 1];
        if (self->device)
            good = good && (collected || tr__device_accumulate(self, left->memory, right->memory));
        else
            tr_accumulate(tr__floats(left->memory), tr__floats(right->memory), self->flat, self->pool);
        left->groups.end = right->groups.end;
        tr_buffer_release(&right->memory);
        self->n_blocks--;
    }
    self->busy_ns += tr_clock_ns() - begin;
    tr_trace_end(&self->trace, TR_SPAN_REDUCE, traced_ns, self->step + 1, 0);
    return good;
}

/* --- between replicas --- */

static uint32_t stretches_of(const tr__stage *self, uint32_t replica, const tr_stretch **out)
{
    TR_ASSERT(replica < self->spec.plan.n_replicas);
    *out = self->stretches + self->first_stretch[replica];
    return self->first_stretch[replica + 1] - self->first_stretch[replica];
}

tr_buffer *tr__take_host_sum(tr__stage *self)
{
    if (!is_packed(self)) return tr__take_host_flat(self);
    tr_buffer *sum = tr__buffers_take(&self->sum_flats);
    if (!sum) tr__fail_for_memory(self);
    return sum;
}

static void release_flat(void *context)
{
    tr_buffer *flat = context;
    tr_buffer_release(&flat);
}

/* Sends n floats of a flat gradient, from `begin` on, where they are; it is not used again before they are read. */
static void send_floats(tr__stage *self, uint32_t edge, tr_buffer *flat, int64_t begin, int64_t n,
                        uint32_t index)
{
    tr_buffer *body = NULL;
    tr_error error;
    size_t size = (size_t)n * sizeof(float);
    if (n > 0) {
        if (tr_buffer_wrap(&body, tr__floats(flat) + begin, size, release_flat, flat, &error)) {
            tr_actor_fail(self->actor, &error);
            return;
        }
        tr_buffer_retain(flat);
    }
    tr__replay_note_sent(self, edge, body, (uint32_t)size, index);
    tr_edge_send(self->actor, edge, body, (uint32_t)size, self->step, index, tr__disputes_flags(self));
}

/* Have all slots of these edges come back? They were given back before the commit of the last step, but credits and commits
 * travel by different ways. */
static bool all_back(const tr__stage *self, const uint32_t *edges, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (edges[i] != TR_NO_EDGE &&
            tr_edge_credits(self->actor, edges[i]) < tr_edge_spec_of(self->actor, edges[i])->n_slots)
            return false;
    return true;
}

void tr__reduce_start(tr__stage *self)
{
    tr_actor_activity(self->actor, "reduce", self->step, 0);
    self->phase = TR__STARTING;
    if (self->spec.plan.n_replicas > 1) return;
    TR_ASSERT(self->n_blocks == 1);
    *(self->device ? &self->sum : &self->reduced) = tr_buffer_retain(self->blocks[0].memory);
    self->phase = TR__GATHERING; /* nothing is awaited */
}

static bool start_scatter(tr__stage *self)
{
    uint32_t n_replicas = self->spec.plan.n_replicas;
    self->n_scatter_awaited = self->n_gather_awaited = 0;
    if (tr__collect_is_used(self)) {
        self->phase = TR__GATHERING;
        return tr__collect_finish(self);
    }
    if (self->device && !tr__device_blocks_to_host(self)) return false;
    self->reduced = tr__take_host_sum(self);
    if (!self->reduced) return false;
    const tr_stretch *theirs, *own;
    uint32_t n_own = stretches_of(self, self->spec.replica, &own);
    for (uint32_t r = 0; r < n_replicas; r++) {
        if (r == self->spec.replica) continue;
        uint32_t n = stretches_of(self, r, &theirs);
        for (uint32_t b = 0; b < self->n_blocks; b++)
            for (uint32_t k = 0; k < n; k++)
                send_floats(self, self->out_scatter[r], self->blocks[b].memory, theirs[k].begin,
                            theirs[k].end - theirs[k].begin, b * n + k);
        self->n_scatter_awaited += n_own * tr_plan_blocks(&self->spec.plan, r, NULL);
        self->n_gather_awaited += !self->zero;
    }
    self->phase = TR__SCATTERING;
    return true;
}

/* All blocks of the step, own and received, as they are in one stretch of the own shard. */
typedef struct shard_block {
    tr_range groups;
    const float *data;
} shard_block;

static uint32_t list_blocks(const tr__stage *self, uint32_t stretch, int64_t begin, shard_block *list)
{
    const tr_stretch *own;
    uint32_t n = 0, n_own = stretches_of(self, self->spec.replica, &own);
    for (uint32_t b = 0; b < self->n_blocks; b++)
        list[n++] = (shard_block){self->blocks[b].groups, tr__floats(self->blocks[b].memory) + begin};
    for (const tr_message *message = self->scattered.head; message; message = message->next) {
        if (message->frame.step != self->step || message->frame.microbatch % n_own != stretch) continue;
        const tr_edge_spec *edge = tr_edge_spec_of(self->actor, message->frame.edge);
        for (uint32_t r = 0; r < self->spec.plan.n_replicas; r++) {
            if (self->out_scatter[r] == TR_NO_EDGE) continue;
            if (tr_edge_spec_of(self->actor, self->out_scatter[r])->destination != edge->source) continue;
            tr_range blocks[TR_MAX_BLOCKS];
            uint32_t known = tr_plan_blocks(&self->spec.plan, r, blocks);
            TR_ASSERT(message->frame.microbatch / n_own < known);
            list[n++] = (shard_block){blocks[message->frame.microbatch / n_own], tr_message_bytes(message)};
        }
    }
    return n;
}

static const float *find_block(const shard_block *list, uint32_t n, tr_range node)
{
    for (uint32_t i = 0; i < n; i++)
        if (list[i].groups.begin == node.begin && list[i].groups.end == node.end) return list[i].data;
    return NULL;
}

/* sum = the node of the tree over the shard's n elements. false: no memory, the actor has failed. */
static bool sum_node(tr__stage *self, const shard_block *list, uint32_t n_list, tr_range node, float *sum,
                     int64_t n)
{
    const float *block = find_block(list, n_list, node);
    if (block) {
        memcpy(sum, block, (size_t)n * sizeof *sum);
        return true;
    }
    uint32_t split = tr_tree_split(node);
    tr_range left = {node.begin, split}, right = {split, node.end};
    if (!sum_node(self, list, n_list, left, sum, n)) return false;
    block = find_block(list, n_list, right);
    if (block) {
        tr_accumulate(sum, block, n, self->pool);
        return true;
    }
    tr_buffer *other = tr__take_host_sum(self);
    bool good = other && sum_node(self, list, n_list, right, tr__floats(other), n);
    if (good) tr_accumulate(sum, tr__floats(other), n, self->pool);
    tr_buffer_release(&other);
    return good;
}

static uint32_t count_of_step(const tr_message_queue *queue, uint32_t step)
{
    uint32_t n = 0;
    for (const tr_message *message = queue->head; message; message = message->next)
        n += message->frame.step == step;
    return n;
}

/* Gives back the messages of this step; those of the next, from a replica that is ahead, stay. */
static void release_step(tr__stage *self, tr_message_queue *queue)
{
    tr_message_queue kept = {0};
    for (tr_message *message; (message = tr_message_queue_pop(queue));) {
        if (message->frame.step != self->step) {
            tr_message_queue_push(&kept, message);
            continue;
        }
        tr__replay_note_used(self, message);
        tr_edge_release(self->actor, &message);
    }
    *queue = kept;
}

/* To all: without ZeRO, where a shard is one stretch. */
static void send_sum(tr__stage *self, const tr_stretch *own)
{
    for (uint32_t r = 0; r < self->spec.plan.n_replicas; r++)
        if (r != self->spec.replica)
            send_floats(self, self->out_gather[r], self->reduced, own->begin, own->end - own->begin,
                        self->spec.replica);
}

static bool finish_scatter(tr__stage *self)
{
    shard_block list[TR_MAX_GROUPS];
    const tr_stretch *own;
    uint32_t n_own = stretches_of(self, self->spec.replica, &own);
    TR_ASSERT(self->n_blocks + self->n_scatter_awaited / n_own <= TR_MAX_GROUPS);
    uint64_t clock = tr_clock_ns();
    int64_t packed = 0;
    for (uint32_t k = 0; k < n_own; k++) {
        int64_t size = own[k].end - own[k].begin;
        uint32_t n = list_blocks(self, k, own[k].begin, list);
        tr_range root = {0, self->spec.plan.n_groups};
        float *sum = tr__floats(self->reduced) + (is_packed(self) ? packed : own[k].begin);
        if (size > 0 && !sum_node(self, list, n, root, sum, size)) return false;
        packed += size;
    }
    self->busy_ns += tr_clock_ns() - clock;
    release_step(self, &self->scattered);
    if (!self->zero) send_sum(self, own);
    self->phase = TR__GATHERING;
    return true;
}

static bool has_shared(const tr__stage *self)
{
    bool shared = false;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) shared |= self->parameters[i].shared;
    return shared;
}

/* Does every stage that shares a parameter read it from this one's device? */
static bool ties_on_device(const tr__stage *self)
{
    bool all = self->device != NULL;
    for (uint32_t s = 0; s < self->spec.plan.n_stages; s++)
        all = all && (self->out_tied[s] == TR_NO_EDGE || tr__links_carry(self, self->out_tied[s]));
    return all;
}

static bool send_tied(tr__stage *self, uint32_t edge, const tr__parameter *parameter, uint32_t u)
{
    int64_t n = tr__part_elements(parameter);
    uint32_t use = parameter->spec->uses[u].use;
    if (n > 0 && ties_on_device(self))
        return tr__links_send(self, edge, tr__floats(self->sum) + parameter->sums[u],
                              (uint64_t)n * sizeof(float), use);
    send_floats(self, edge, self->reduced, parameter->reduced[u], n, use);
    return true;
}

static bool start_tying(tr__stage *self)
{
    if (self->device && !self->reduced && has_shared(self) && !ties_on_device(self) &&
        !tr__device_tied_to_host(self))
        return false;
    self->n_tied_awaited = 0;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        const tr_stage_parameter *known = parameter->spec;
        for (uint32_t u = 0; parameter->shared && u < known->n_uses; u++) {
            if (parameter->gradients[u] < 0) {
                self->n_tied_awaited++;
                continue;
            }
            uint32_t told = UINT32_MAX; /* uses are in graph order, so those of one stage are neighbours */
            for (uint32_t v = 0; v < known->n_uses; v++) {
                if (parameter->gradients[v] >= 0 || known->uses[v].stage == told) continue;
                told = known->uses[v].stage;
                if (!send_tied(self, self->out_tied[told], parameter, u)) return false;
            }
        }
    }
    self->phase = TR__TYING;
    return true;
}

static bool finish_gather(tr__stage *self)
{
    for (const tr_message *message = self->gathered.head; message; message = message->next) {
        if (message->frame.step != self->step || message->frame.body_bytes == 0) continue;
        const tr_stretch *theirs;
        stretches_of(self, message->frame.microbatch, &theirs);
        TR_ASSERT(message->frame.body_bytes == (uint64_t)(theirs->end - theirs->begin) * sizeof(float));
        memcpy(tr__floats(self->reduced) + theirs->begin, tr_message_bytes(message),
               message->frame.body_bytes);
    }
    release_step(self, &self->gathered);
    if (tr__collect_is_used(self)) tr__collect_take_sum(self);
    if (self->device && self->reduced && !tr__device_take_sum(self)) return false;
    return start_tying(self);
}

/* --- uses of tied parameters --- */

const tr_message *tr__tied_use(const tr__stage *self, const tr__parameter *parameter, uint32_t u)
{
    for (const tr_message *message = self->tied.head; message; message = message->next)
        if (message->frame.step == self->step && message->frame.microbatch == parameter->spec->uses[u].use)
            return message;
    return NULL;
}

static const float *use_gradient(const tr__stage *self, const tr__parameter *parameter, uint32_t u)
{
    if (parameter->reduced[u] >= 0) return tr__floats(self->reduced) + parameter->reduced[u];
    const tr_message *message = tr__tied_use(self, parameter, u);
    return message ? tr_message_bytes(message) : NULL;
}

static void tie(tr__stage *self)
{
    for (uint32_t i = 0; i < self->spec.n_parameters; i++) {
        const tr__parameter *parameter = &self->parameters[i];
        if (!parameter->total || tr__part_elements(parameter) == 0) continue;
        const float *sum = use_gradient(self, parameter, 0);
        for (uint32_t u = 1; u < parameter->spec->n_uses; u++) {
            const float *gradient = use_gradient(self, parameter, u);
            TR_ASSERT(sum && gradient);
            tr_sum(parameter->total, sum, gradient, tr__part_elements(parameter), self->pool);
            sum = parameter->total;
        }
    }
}

static bool finish_tying(tr__stage *self)
{
    if (!self->device) tie(self);
    if (self->device && !tr__device_tie(self)) return false;
    release_step(self, &self->tied);
    if (!tr__update_report(self)) return false;
    self->phase = TR__COMMITTING;
    tr_actor_activity(self->actor, "waiting for commit", self->step, TR_ACTIVITY_NONE);
    return true;
}

bool tr__reduce_is_possible(const tr__stage *self)
{
    const tr_training_plan *plan = &self->spec.plan;
    switch (self->phase) {
    case TR__STARTING:
        return !tr__collect_is_deciding(self) && all_back(self, self->out_scatter, plan->n_replicas);
    case TR__SCATTERING:
        return count_of_step(&self->scattered, self->step) >= self->n_scatter_awaited &&
               all_back(self, self->out_gather, plan->n_replicas);
    case TR__GATHERING:
        if (tr__collect_is_used(self) && !tr__collect_is_done(self)) return false;
        return count_of_step(&self->gathered, self->step) >= self->n_gather_awaited &&
               all_back(self, self->out_tied, plan->n_stages);
    case TR__TYING: /* READY says too that the update before is held, and that all that came or was computed again was the same */
        return count_of_step(&self->tied, self->step) >= self->n_tied_awaited &&
               !tr__device_is_copying(self) && tr__replay_is_settled(self) &&
               tr__stage_audit_is_settled(self);
    case TR__COMPUTING:
    case TR__PASSING:
    case TR__COMMITTING: return false;
    }
    return false;
}

static bool advance(tr__stage *self)
{
    if (!tr__reduce_is_possible(self)) return false;
    switch (self->phase) {
    case TR__STARTING: return start_scatter(self);
    case TR__SCATTERING: return finish_scatter(self);
    case TR__GATHERING: return finish_gather(self);
    case TR__TYING: return finish_tying(self);
    case TR__COMPUTING:
    case TR__PASSING:
    case TR__COMMITTING: return false;
    }
    return false;
}

bool tr__reduce_advance(tr__stage *self)
{
    uint64_t begin = tr_trace_begin(&self->trace);
    if (!advance(self)) return false;
    tr_trace_end(&self->trace, TR_SPAN_REDUCE, begin, self->step + 1, 0);
    return true;
}

void tr__reduce_finish_step(tr__stage *self)
{
    tr_buffer_release(&self->reduced);
    tr_buffer_release(&self->sum);
    for (uint32_t b = 0; b < self->n_blocks; b++) tr_buffer_release(&self->blocks[b].memory);
    self->n_blocks = 0;
    tr__collect_end_step(self);
    self->n_audited = 0;
    self->group = tr_plan_groups(&self->spec.plan, self->spec.replica).begin;
    self->next_weight = self->microbatches.begin;
    self->phase = TR__COMPUTING;
}
