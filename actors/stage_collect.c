/* actors/stage_collect.c - see stage_collect.h. The reduction of stage_reduce.c with the same tree, hence the same bits, but
 * without messages: every shard of a bucket goes from device to device to its owner (all-to-all), is summed there in the
 * fixed order, and goes to all (all-gather). All of it is queued on a stream of its own, which the stage's stream never
 * waits for: when a replica dies the others' exchanges stay unfinished, and a handler must never wait for those. It asks
 * whether they are done, and goes on when they are.
 * One order for all members: a worker has one stage, a stage one group, and its buckets go in the order of the program, which
 * is the same for all replicas. So no other sequencer is needed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_collect_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "ops/update.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { GRACE_MS = 5000, JOIN_MS = 60000 };

/* --- beginning and end --- */

/* Those that are in memory from the beginning of a phase come first; of few, so by insertion. */
static tr_status find_openings(tr__stage *self, tr_error *err)
{
    tr__collect *c = self->collect;
    uint32_t n = c->buckets.n;
    if (!c->buckets.streams) return TR_OK;
    c->opening = tr_alloc_zero((size_t)n + 1, sizeof *c->opening);
    c->left = tr_alloc_zero((size_t)n + 1, sizeof *c->left);
    if (!c->opening || !c->left) return tr_fail(err, TR_ENOMEM, "no memory for %u buckets' events", n);
    tr_status status = TR_OK;
    for (uint32_t b = 0; !status && b < n; b++) {
        uint32_t at = b;
        for (; at > 0 && c->buckets.items[c->opening[at - 1]].first > c->buckets.items[b].first; at--)
            c->opening[at] = c->opening[at - 1];
        c->opening[at] = b;
        status = tr_event_new(&c->left[b], tr_stream_device(c->stream), false, err);
    }
    return status;
}

/* Where sums lie in the memory from which the state is updated: one after the other, or in that of gradients. */
static void place_sums(tr__stage *self)
{
    const tr__collect *c = self->collect;
    for (uint32_t i = 0; self->zero && !c->buckets.streams && i < self->spec.n_parameters; i++) {
        tr__parameter *parameter = &self->parameters[i];
        for (uint32_t u = 0; u < parameter->spec->n_uses; u++)
            if (parameter->gradients[u] >= 0)
                parameter->sums[u] = parameter->gradients[u] + parameter->part.begin;
    }
}

tr_status tr__collect_init(tr__stage *self, tr_error *err)
{
    const tr_training_plan *plan = &self->spec.plan;
    if (plan->n_replicas < 2 || plan->n_pieces > 1 || !self->spec.collectives || !self->device) return TR_OK;
    tr__collect *c = self->collect = tr_alloc_zero(1, sizeof *c);
    if (!c) return tr_fail(err, TR_ENOMEM, "no memory for a group of %u replicas", plan->n_replicas);
    tr_device *device = tr_stream_device(tr__device_stream(self));
    tr_status status = tr_stream_new_urgent(&c->stream, device, err);
    if (!status) status = tr_event_new(&c->produced, device, false, err);
    if (!status) status = tr_event_new(&c->exchanged, device, false, err);
    if (!status) status = tr_buckets_init(&c->buckets, &self->spec, self->program, err);
    if (!status) status = find_openings(self, err);
    c->all_can = true;
    c->devices = tr_alloc_zero(plan->n_replicas, sizeof *c->devices);
    c->transfers = tr_alloc_zero(c->buckets.most_transfers + 1, sizeof *c->transfers);
    if (!status && (!c->devices || !c->transfers))
        status = tr_fail(err, TR_ENOMEM, "no memory for a group of %u replicas", plan->n_replicas);
    if (!status) place_sums(self);
    return status;
}

void tr__collect_release(tr__stage *self)
{
    tr__collect *c = self->collect;
    tr_error error;
    if (!c) return;
    if (self->spec.collectives->leave(&c->group, &error)) {
        /* The device goes on with memory that would be freed now: only the end of the process frees it safely. */
        tr_log(TR_LOG_ERROR, "%s: %s; this worker ends, to be replaced", tr_actor_name(self->actor),
               error.message);
        kill(getpid(), SIGKILL);
    }
    tr_event_destroy(&c->produced);
    tr_event_destroy(&c->exchanged);
    for (uint32_t b = 0; c->left && b < c->buckets.n; b++) tr_event_destroy(&c->left[b]);
    tr_stream_destroy(&c->stream);
    tr_buffer_release(&c->sum);
    tr_buckets_release(&c->buckets);
    tr_free(c->left);
    tr_free(c->opening);
    tr_free(c->devices);
    tr_free(c->transfers);
    tr_free(c);
    self->collect = NULL;
}

/* --- what is under way --- */

bool tr__collect_is_done(const tr__stage *self)
{
    bool done = false;
    return tr_event_done(self->collect->exchanged, &done, NULL) == TR_OK && done;
}

bool tr__collect_is_busy(const tr__stage *self)
{
    const tr__collect *c = self->collect;
    if (!c) return false;
    return c->state == TR__JOINING || c->is_sharing || (c->n_begun > 0 && self->phase == TR__GATHERING);
}

/* A group breaks when a member dies, which is the supervisor's to handle: it has some time to. */
static bool bear(tr__stage *self, const tr_error *error)
{
    tr__collect *c = self->collect;
    uint64_t now_ns = tr_actor_clock_ns(self->actor);
    if (c->failed_ns == 0) c->failed_ns = now_ns;
    return now_ns - c->failed_ns < (uint64_t)GRACE_MS * 1000000 || tr__device_failed_or_peer(self, error);
}

/* What the device computes until its last gradient counts as work, what the exchange takes beyond it does not. */
static void count_computing(tr__stage *self)
{
    tr__collect *c = self->collect;
    bool done = false;
    if (!c->computing || (tr_event_done(c->produced, &done, NULL) == TR_OK && !done)) return;
    c->computing = false;
    self->busy_ns += tr_clock_ns() - c->queued_ns;
}

bool tr__collect_look(tr__stage *self)
{
    tr__collect *c = self->collect;
    tr_error error;
    count_computing(self);
    bool settled = false, joining = c->state == TR__JOINING;
    tr_status status = self->spec.collectives->settle(c->group, &settled, &error);
    if (!joining && !status) {
        bool done = false;
        status = tr_event_done(c->exchanged, &done, &error);
        return status ? tr__device_failed_or_peer(self, &error) : true; /* the device itself */
    }
    if (!joining) return bear(self, &error);
    if (!status && !settled) {
        if (tr_actor_clock_ns(self->actor) - c->began_ns < (uint64_t)JOIN_MS * 1000000) return true;
        status = tr_fail(&error, TR_EIO, "the replicas' devices did not find each other within %d s",
                         JOIN_MS / 1000);
    }
    c->state = TR__JOINED;
    tr__group_answer(self, !status, status ? error.message : "");
    return true;
}

/* --- a step --- */

/* The blocks of a replica in the order of its messages, the last one still without its sums with those before it. */
static uint32_t own_blocks(const tr__stage *self, tr__block blocks[TR_MAX_BLOCKS + 1])
{
    uint32_t n = self->n_blocks;
    memcpy(blocks, self->blocks, n * sizeof *blocks);
    if (self->accumulating) blocks[n++] = (tr__block){{self->group, self->group + 1}, self->accumulating};
    return n;
}

/* Within the replica: what tr__reduce_end_group does to whole blocks, for one bucket. */
static tr_status merge(tr__stage *self, const tr_bucket *bucket, tr__block *blocks, uint32_t *n,
                       tr_error *err)
{
    tr_status status = TR_OK;
    while (!status && *n >= 2 &&
           tr_tree_siblings(self->spec.plan.n_groups, blocks[*n - 2].groups, blocks[*n - 1].groups)) {
        status = tr_update_accumulate(
            self->collect->stream, self->pool, tr__floats(blocks[*n - 2].memory) + bucket->begin,
            tr__floats(blocks[*n - 1].memory) + bucket->begin, bucket->end - bucket->begin, err);
        blocks[*n - 2].groups.end = blocks[*n - 1].groups.end;
        --*n;
    }
    return status;
}

void tr__collect_add(tr__collect *c, size_t *n, uint32_t peer, bool sends, float *memory, int64_t n_elements)
{
    if (n_elements > 0)
        c->transfers[(*n)++] = (tr_transfer){peer, sends, memory, (size_t)n_elements * sizeof(float)};
}

static tr_stretch share_of(const tr__stage *self, const tr_bucket *bucket, uint32_t replica)
{
    return tr_buckets_share(bucket, self->spec.plan.n_replicas, replica);
}

/* All-to-all: of each own block the others' shards go out, of each of theirs the own comes in. */
static tr_status scatter(tr__stage *self, const tr_bucket *bucket, const tr__block *blocks, uint32_t n_blocks,
                         tr__leaf *leaves, uint32_t *n_leaves, tr_error *err)
{
    tr__collect *c = self->collect;
    size_t n = 0;
    float *place = c->arrivals;
    tr_stretch own = share_of(self, bucket, self->spec.replica);
    *n_leaves = 0;
    for (uint32_t r = 0; r < self->spec.plan.n_replicas; r++) {
        tr_range theirs[TR_MAX_BLOCKS];
        uint32_t n_theirs = tr_plan_blocks(&self->spec.plan, r, theirs);
        tr_stretch other = share_of(self, bucket, r);
        if (r == self->spec.replica) {
            TR_ASSERT(n_theirs == n_blocks);
            for (uint32_t b = 0; b < n_blocks; b++)
                leaves[(*n_leaves)++] =
                    (tr__leaf){blocks[b].groups, tr__floats(blocks[b].memory) + own.begin};
            continue;
        }
        for (uint32_t b = 0; b < n_blocks; b++)
            tr__collect_add(c, &n, r, true, tr__floats(blocks[b].memory) + other.begin,
                            other.end - other.begin);
        for (uint32_t b = 0; b < n_theirs; b++, place += c->buckets.arrival) {
            leaves[(*n_leaves)++] = (tr__leaf){theirs[b], place};
            tr__collect_add(c, &n, r, false, place, own.end - own.begin);
        }
    }
    return self->spec.collectives->exchange(c->group, c->transfers, n, err);
}

tr_status tr__collect_sum_node(tr__stage *self, const tr__leaf *leaves, uint32_t n_leaves, tr_range node,
                               int64_t n, float **out, tr_error *err)
{
    for (uint32_t i = 0; i < n_leaves; i++)
        if (leaves[i].groups.begin == node.begin && leaves[i].groups.end == node.end) {
            *out = leaves[i].data;
            return TR_OK;
        }
    uint32_t split = tr_tree_split(node);
    float *left, *right;
    tr_status status =
        tr__collect_sum_node(self, leaves, n_leaves, (tr_range){node.begin, split}, n, &left, err);
    if (!status)
        status = tr__collect_sum_node(self, leaves, n_leaves, (tr_range){split, node.end}, n, &right, err);
    if (!status) status = tr_update_accumulate(self->collect->stream, self->pool, left, right, n, err);
    if (!status) *out = left;
    return status;
}

/* All-gather, of what is in the place of block 0. */
static tr_status gather(tr__stage *self, const tr_bucket *bucket, float *flat, tr_error *err)
{
    tr__collect *c = self->collect;
    size_t n = 0;
    tr_stretch own = share_of(self, bucket, self->spec.replica);
    for (uint32_t r = 0; r < self->spec.plan.n_replicas; r++) {
        if (r == self->spec.replica) continue;
        tr_stretch other = share_of(self, bucket, r);
        tr__collect_add(c, &n, r, true, flat + own.begin, own.end - own.begin);
        tr__collect_add(c, &n, r, false, flat + other.begin, other.end - other.begin);
    }
    return self->spec.collectives->exchange(c->group, c->transfers, n, err);
}

/* Without ZeRO: every replica gets the whole sum. */
static tr_status sum_for_all(tr__stage *self, const tr_bucket *bucket, const tr__block *blocks,
                             uint32_t n_blocks, tr_error *err)
{
    tr__collect *c = self->collect;
    tr__leaf leaves[TR_MAX_GROUPS];
    uint32_t n_leaves;
    tr_stretch own = share_of(self, bucket, self->spec.replica);
    int64_t n = own.end - own.begin;
    float *flat = tr__floats(blocks[0].memory), *sum = NULL;
    tr_status status = scatter(self, bucket, blocks, n_blocks, leaves, &n_leaves, err);
    if (!status && n > 0)
        status = tr__collect_sum_node(self, leaves, n_leaves, (tr_range){0, self->spec.plan.n_groups}, n,
                                      &sum, err);
    if (!status && n > 0 && sum != flat + own.begin)
        status = tr_stream_copy(c->stream, flat + own.begin, sum, (size_t)n * sizeof *sum, err);
    return status ? status : gather(self, bucket, flat, err);
}

static tr_status reduce_bucket(tr__stage *self, const tr_bucket *bucket, tr_error *err)
{
    tr__collect *c = self->collect;
    tr__block blocks[TR_MAX_BLOCKS + 1];
    uint32_t n_blocks = own_blocks(self, blocks);
    tr_status status = tr_event_record(c->produced, tr__device_stream(self), err);
    if (!status) status = tr_stream_wait(c->stream, c->produced, err);
    if (!status) status = merge(self, bucket, blocks, &n_blocks, err);
    if (status) return status;
    if (!self->zero) return sum_for_all(self, bucket, blocks, n_blocks, err);
    return tr__collect_sum_shards(self, bucket, blocks, n_blocks, err);
}

/* Once, when it is known that the group is used; and the memory of the step's sum. */
static tr_status make_room(tr__stage *self, tr_error *err)
{
    tr__collect *c = self->collect;
    size_t elements = (size_t)c->buckets.n_arrivals * (size_t)c->buckets.arrival;
    if (c->buckets.streams && !c->sum && !(c->sum = tr__device_take_shard(self)))
        return tr_fail(err, TR_ENOMEM, "no memory on the device for a sum of %lld gradients",
                       (long long)c->buckets.sum);
    if (c->arrivals) return TR_OK;
    return tr__device_memory(self, TR_MEMORY_DEVICE, elements * sizeof(float) + 1, (void **)&c->arrivals,
                             err);
}

static void reduce_until(tr__stage *self, int32_t position)
{
    tr__collect *c = self->collect;
    const tr_buckets *all = &c->buckets;
    for (; !c->has_failed && c->n_begun < all->n && all->items[c->n_begun].position <= position;
         c->n_begun++) {
        tr_status status = make_room(self, &c->failure);
        if (!status) status = reduce_bucket(self, &all->items[c->n_begun], &c->failure);
        if (!status && all->streams) status = tr_event_record(c->left[c->n_begun], c->stream, &c->failure);
        c->has_failed = status != TR_OK;
    }
}

/* Where buckets take turns, the kernels that begin with one wait for the exchange of what was there before. This is the one wait of the
 * stage's stream for others: nothing is queued behind it before the exchanges are done, but what they exchange. */
static void open_until(tr__stage *self, int32_t position)
{
    tr__collect *c = self->collect;
    for (; c->buckets.streams && !c->has_failed && c->n_opened < c->buckets.n; c->n_opened++) {
        const tr_bucket *bucket = &c->buckets.items[c->opening[c->n_opened]];
        if (bucket->first > position) break;
        if (bucket->after < 0) continue;
        TR_ASSERT((uint32_t)bucket->after < c->n_begun);
        c->has_failed = tr_stream_wait(tr__device_stream(self), c->left[bucket->after], &c->failure) != TR_OK;
    }
}

static void behind(void *context, int32_t position)
{
    reduce_until(context, position);
    open_until(context, position + 1);
}

void tr__collect_overlap(tr__stage *self, tr_bindings *bindings)
{
    if (!tr__collect_is_used(self) || self->next_weight + 1 != self->microbatches.end) return;
    bindings->behind = behind;
    bindings->context = self;
}

bool tr__collect_has_begun(const tr__stage *self)
{
    return self->collect && self->collect->n_begun > 0;
}

bool tr__collect_finish(tr__stage *self)
{
    tr__collect *c = self->collect;
    reduce_until(self, INT32_MAX);
    c->computing = true;
    c->queued_ns = tr_clock_ns();
    if (!c->has_failed) c->has_failed = tr_event_record(c->exchanged, c->stream, &c->failure) != TR_OK;
    return !c->has_failed || tr__device_failed_or_peer(self, &c->failure);
}

bool tr__collect_share(tr__stage *self, const tr_transfer *transfers, size_t n)
{
    tr__collect *c = self->collect;
    tr_error error;
    tr_status status = tr_event_record(c->produced, tr__device_stream(self), &error);
    if (!status) status = tr_stream_wait(c->stream, c->produced, &error);
    if (!status) status = self->spec.collectives->exchange(c->group, transfers, n, &error);
    if (!status) status = tr_event_record(c->exchanged, c->stream, &error);
    c->is_sharing = !status;
    return !status || tr__device_failed_or_peer(self, &error);
}

void tr__collect_end_sharing(tr__stage *self)
{
    self->collect->is_sharing = false;
}

void tr__collect_take_sum(tr__stage *self)
{
    count_computing(self);
    tr__collect *c = self->collect;
    self->sum = c->sum ? c->sum : tr_buffer_retain(self->blocks[0].memory);
    c->sum = NULL;
}

void tr__collect_end_step(tr__stage *self)
{
    if (self->collect) self->collect->n_begun = self->collect->n_opened = 0;
}

bool tr__collect_streams(const tr__stage *self)
{
    return tr__collect_is_used(self) && self->collect->buckets.streams;
}

int64_t tr__collect_gradient_elements(const tr__stage *self)
{
    return self->collect->buckets.gradient;
}

int64_t tr__collect_place(const tr__stage *self, int64_t element)
{
    return tr_buckets_place_of(&self->collect->buckets, element);
}
