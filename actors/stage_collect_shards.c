/* actors/stage_collect_shards.c - the exchanges of a step with ZeRO: of every bucket each replica gets, from all others, what their
 * gradients have of its own shard (all-to-all), and sums that in the fixed order. There is no all-gather: who sums a gradient
 * updates its parameter. Shards are stretches in several tensors, so what comes is packed: every node of the tree has a place
 * of its own, the replica's own blocks too, and a large tensor comes in rounds, so that places can be small.
 * Where buckets take turns in memory the sum has memory of its own; else it replaces the shard in the replica's first block.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_collect_internal.h"

#include "ops/update.h"

typedef struct part_range {
    uint32_t begin, end, round; /* parts of a bucket, and of them what goes at once */
} part_range;

static float *in_block(const tr_bucket *bucket, const tr__block *block, int64_t element)
{
    return tr__floats(block->memory) + bucket->place + (element - bucket->begin);
}

static tr_stretch own_shard(const tr__stage *self, const tr_bucket *bucket, uint32_t part, uint32_t round)
{
    return tr_buckets_shard(&self->collect->buckets, bucket, part, self->spec.replica, round);
}

static int64_t own_elements(const tr__stage *self, const tr_bucket *bucket, part_range what)
{
    int64_t n = 0;
    for (uint32_t p = what.begin; p < what.end; p++) {
        tr_stretch own = own_shard(self, bucket, p, what.round);
        n += own.end - own.begin;
    }
    return n;
}

static tr_status copy(tr__stage *self, float *to, const float *from, int64_t n, tr_error *err)
{
    if (n == 0) return TR_OK;
    return tr_stream_copy(self->collect->stream, to, from, (size_t)n * sizeof *to, err);
}

static tr_status pack_own(tr__stage *self, const tr_bucket *bucket, part_range what, const tr__block *block,
                          float *place, tr_error *err)
{
    tr_status status = TR_OK;
    for (uint32_t p = what.begin; !status && p < what.end; p++) {
        tr_stretch own = own_shard(self, bucket, p, what.round);
        status = copy(self, place, in_block(bucket, block, own.begin), own.end - own.begin, err);
        place += own.end - own.begin;
    }
    return status;
}

/* To and from one other replica; in the same order there. */
static void add_peer(tr__stage *self, const tr_bucket *bucket, part_range what, const tr__block *blocks,
                     uint32_t n_blocks, uint32_t peer, float *const *places, uint32_t n_places, size_t *n)
{
    tr__collect *c = self->collect;
    for (uint32_t b = 0; b < n_blocks; b++)
        for (uint32_t p = what.begin; p < what.end; p++) {
            tr_stretch theirs = tr_buckets_shard(&c->buckets, bucket, p, peer, what.round);
            tr__collect_add(c, n, peer, true, in_block(bucket, &blocks[b], theirs.begin),
                            theirs.end - theirs.begin);
        }
    for (uint32_t b = 0; b < n_places; b++) {
        float *place = places[b];
        for (uint32_t p = what.begin; p < what.end; p++) {
            tr_stretch own = own_shard(self, bucket, p, what.round);
            tr__collect_add(c, n, peer, false, place, own.end - own.begin);
            place += own.end - own.begin;
        }
    }
}

static tr_status exchange(tr__stage *self, const tr_bucket *bucket, part_range what, const tr__block *blocks,
                          uint32_t n_blocks, tr__leaf *leaves, uint32_t *n_leaves, tr_error *err)
{
    tr__collect *c = self->collect;
    tr_status status = TR_OK;
    size_t n = 0;
    *n_leaves = 0;
    for (uint32_t r = 0; !status && r < self->spec.plan.n_replicas; r++) {
        tr_range theirs[TR_MAX_BLOCKS];
        float *places[TR_MAX_BLOCKS];
        uint32_t n_theirs = tr_plan_blocks(&self->spec.plan, r, theirs);
        for (uint32_t b = 0; b < n_theirs; b++) {
            places[b] = c->arrivals + (int64_t)*n_leaves * c->buckets.arrival;
            leaves[(*n_leaves)++] = (tr__leaf){theirs[b], places[b]};
        }
        TR_ASSERT(r != self->spec.replica || n_theirs == n_blocks);
        for (uint32_t b = 0; !status && r == self->spec.replica && b < n_blocks; b++)
            status = pack_own(self, bucket, what, &blocks[b], places[b], err);
        if (r != self->spec.replica) add_peer(self, bucket, what, blocks, n_blocks, r, places, n_theirs, &n);
    }
    TR_ASSERT(n <= c->buckets.most_transfers);
    return status ? status : self->spec.collectives->exchange(c->group, c->transfers, n, err);
}

/* To where the state is updated from. */
static tr_status put_sum(tr__stage *self, const tr_bucket *bucket, part_range what, const tr__block *block,
                         const float *sum, tr_error *err)
{
    const tr__collect *c = self->collect;
    tr_status status = TR_OK;
    if (c->sum) {
        int64_t at = bucket->sum + (int64_t)what.round * c->buckets.round;
        return copy(self, tr__floats(c->sum) + at, sum, own_elements(self, bucket, what), err);
    }
    for (uint32_t p = what.begin; !status && p < what.end; p++) {
        tr_stretch own = own_shard(self, bucket, p, what.round);
        status = copy(self, in_block(bucket, block, own.begin), sum, own.end - own.begin, err);
        sum += own.end - own.begin;
    }
    return status;
}

tr_status tr__collect_sum_shards(tr__stage *self, const tr_bucket *bucket, const tr__block *blocks,
                                 uint32_t n_blocks, tr_error *err)
{
    const tr_buckets *all = &self->collect->buckets;
    tr_range root = {0, self->spec.plan.n_groups};
    tr__leaf leaves[TR_MAX_GROUPS];
    part_range what = {0};
    tr_status status = TR_OK;
    what.end = tr_buckets_parts(all, bucket, &what.begin);
    uint32_t n_rounds = tr_buckets_rounds(all, bucket), n_leaves;
    for (; !status && what.round < n_rounds; what.round++) {
        int64_t n = own_elements(self, bucket, what);
        float *sum = NULL;
        status = exchange(self, bucket, what, blocks, n_blocks, leaves, &n_leaves, err);
        if (!status && n > 0) status = tr__collect_sum_node(self, leaves, n_leaves, root, n, &sum, err);
        if (!status && n > 0) status = put_sum(self, bucket, what, &blocks[0], sum, err);
    }
    return status;
}
