/* actors/stage_shard.c - see stage_shard.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_shard.h"

#include "actors/stage_internal.h"
#include "ops/optimizer.h"

/* Blocks from `n` elements on, in elements. */
static int64_t at_block(int64_t n)
{
    return (n + TR_NORM_BLOCK - 1) / TR_NORM_BLOCK * TR_NORM_BLOCK;
}

bool tr_shard_is_even(const tr_stage_spec *spec)
{
    return spec->plan.zero && (spec->device == TR_DEVICE_CUDA || spec->collectives);
}

void tr_shard_begin(tr_shard *self, const tr_stage_spec *spec, uint32_t replica)
{
    *self = (tr_shard){.spec = spec, .replica = replica};
    for (uint32_t i = 0; i < spec->n_parameters; i++)
        if (spec->parameters[i].n_uses == 1) self->total += spec->parameters[i].n_elements;
}

/* Of a tensor of n elements, with `before` others in front of it, what lies before the first element of replica `of`. */
static int64_t cut(const tr_shard *self, uint32_t of, int64_t before, int64_t n)
{
    /* total * of would not overflow before 2^47 elements: there are at most 65536 replicas */
    int64_t at = at_block(self->total * (int64_t)of / self->spec->plan.n_replicas - before);
    if (of == self->spec->plan.n_replicas || at > n) return n;
    return at < 0 ? 0 : at;
}

/* Blocks that do not come out even go to each replica in turn, over all tensors. */
static tr_stretch next_even(tr_shard *self, int64_t n)
{
    int64_t blocks = tr_norm_block_count(n), n_replicas = self->spec->plan.n_replicas;
    int64_t turn = self->before % n_replicas;
    int64_t begin = (blocks * self->replica + turn) / n_replicas * TR_NORM_BLOCK;
    int64_t end = (blocks * (self->replica + 1) + turn) / n_replicas * TR_NORM_BLOCK;
    self->before += blocks;
    return (tr_stretch){begin < n ? begin : n, end < n ? end : n};
}

tr_stretch tr_shard_next(tr_shard *self)
{
    TR_ASSERT(self->next < self->spec->n_parameters);
    const tr_training_plan *plan = &self->spec->plan;
    const tr_stage_parameter *known = &self->spec->parameters[self->next++];
    int64_t n = known->n_elements, before = self->before;
    if (!plan->zero) return (tr_stretch){0, n};
    if (known->n_uses == 1 && tr_shard_is_even(self->spec)) return next_even(self, n);
    if (known->n_uses == 1) {
        self->before += n;
        return (tr_stretch){cut(self, self->replica, before, n), cut(self, self->replica + 1, before, n)};
    }
    tr_range blocks = tr_share((uint32_t)tr_norm_block_count(n), plan->n_replicas, self->replica);
    int64_t begin = (int64_t)blocks.begin * TR_NORM_BLOCK, end = (int64_t)blocks.end * TR_NORM_BLOCK;
    return (tr_stretch){begin < n ? begin : n, end < n ? end : n};
}

uint64_t tr_shard_state_bytes(const tr_stage_spec *spec, uint32_t replica)
{
    tr_shard shard;
    int64_t total = 0;
    tr_shard_begin(&shard, spec, replica);
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        tr_stretch part = tr_shard_next(&shard);
        total += tr__stage_aligned(part.end - part.begin);
    }
    if (total == 0)
        total = TR__LINE_ELEMENTS; /* a stage has slots, though this replica has nothing to hold */
    return (uint64_t)total * TR_STAGE_SLOT_PARTS * sizeof(float);
}

uint64_t tr__shard_bytes(const tr_stage_spec *spec, uint32_t parameter, int64_t n)
{
    tr_dtype dtype = tr_graph_value(spec->graph, spec->parameters[parameter].value)->dtype;
    uint64_t bytes = (uint64_t)n * tr_dtype_bytes(dtype);
    return (bytes + TR_CACHE_LINE - 1) / TR_CACHE_LINE * TR_CACHE_LINE;
}

uint64_t tr_shard_message_bytes(const tr_stage_spec *spec, uint32_t replica)
{
    tr_shard shard;
    uint64_t total = 0;
    tr_shard_begin(&shard, spec, replica);
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        tr_stretch part = tr_shard_next(&shard);
        total += tr__shard_bytes(spec, i, part.end - part.begin);
    }
    return total;
}

uint64_t tr_shard_whole_bytes(const tr_stage_spec *spec)
{
    int64_t total = 0;
    for (uint32_t i = 0; spec->plan.zero && i < spec->n_parameters; i++)
        if (tr_graph_value(spec->graph, spec->parameters[i].value)->dtype != TR_BF16)
            total += tr__stage_aligned(spec->parameters[i].n_elements);
    return (uint64_t)total * sizeof(float);
}

typedef struct walked {
    uint32_t n;
    int64_t sum, longest;
    tr_stretch last;
} walked;

static void add(walked *self, tr_stretch here, tr_stretch *out)
{
    self->sum += here.end - here.begin;
    if (self->n > 0 && self->last.end == here.begin)
        here.begin = self->last.begin;
    else
        self->n++;
    self->last = here;
    if (here.end - here.begin > self->longest) self->longest = here.end - here.begin;
    if (out) out[self->n - 1] = here;
}

static walked walk(const tr_stage_spec *spec, uint32_t replica, tr_stretch *out)
{
    walked self = {0};
    tr_shard shard;
    int64_t at = 0;
    tr_shard_begin(&shard, spec, replica);
    for (uint32_t i = 0; spec->plan.zero && i < spec->n_parameters; i++) {
        const tr_stage_parameter *known = &spec->parameters[i];
        tr_stretch part = tr_shard_next(&shard);
        for (uint32_t u = 0; u < known->n_uses; u++) {
            if (known->uses[u].gradient == TR_NO_VALUE) continue;
            int64_t begin = at + part.begin;
            if (part.end > part.begin)
                add(&self, (tr_stretch){begin, begin + tr__stage_aligned(part.end - part.begin)}, out);
            at += tr__stage_aligned(known->n_elements);
        }
    }
    if (self.n > 0) return self;
    /* Without ZeRO each replica sums a share of the flat gradient, whatever tensors it is of. */
    tr_stretch share = {0, 0};
    if (!spec->plan.zero)
        tr_stage_shard(tr_stage_gradient_elements(spec->parameters, spec->n_parameters),
                       spec->plan.n_replicas, replica, &share.begin, &share.end);
    add(&self, share, out);
    return self;
}

/* In the order of replicas. */
static uint32_t walk_even(const tr_stage_spec *spec, uint32_t replica, tr_stretch *out)
{
    tr_stretch own = {0, 0};
    for (uint32_t r = 0; r <= replica; r++) {
        own.begin = own.end;
        own.end += walk(spec, r, NULL).sum;
    }
    uint32_t n = 0;
    do {
        int64_t end = own.begin + TR_SHARD_MOST_ELEMENTS;
        if (end > own.end) end = own.end;
        if (out) out[n] = (tr_stretch){own.begin, end};
        own.begin = end;
        n++;
    } while (own.begin < own.end);
    return n;
}

uint32_t tr_shard_stretches(const tr_stage_spec *spec, uint32_t replica, tr_stretch *out)
{
    return tr_shard_is_even(spec) ? walk_even(spec, replica, out) : walk(spec, replica, out).n;
}

int64_t tr_shard_sum_elements(const tr_stage_spec *spec, uint32_t replica)
{
    return walk(spec, replica, NULL).sum;
}

int64_t tr_shard_longest(const tr_stage_spec *spec, uint32_t replica)
{
    walked found = walk(spec, replica, NULL);
    if (!tr_shard_is_even(spec)) return found.longest;
    return found.sum < TR_SHARD_MOST_ELEMENTS ? found.sum : TR_SHARD_MOST_ELEMENTS;
}
