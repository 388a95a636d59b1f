/* actors/stage_buckets.c - see stage_buckets.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_buckets.h"

#include "actors/stage_internal.h"
#include "base/memory.h"

enum {
    BUCKETS_AT_ONCE = 4
}; /* that have places of their own where they take turns: one computed, others on their way */

/* --- arithmetic --- */

uint32_t tr_buckets_of(const tr_bucket_part *parts, uint32_t n_parts, int64_t bucket, tr_bucket *buckets)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_parts; i++) {
        const tr_bucket_part *part = &parts[i];
        tr_bucket *last = n ? &buckets[n - 1] : NULL;
        if (last && part->end - last->begin <= bucket) {
            last->end = part->end;
            if (part->position > last->position) last->position = part->position;
            if (part->first < last->first) last->first = part->first;
        } else {
            buckets[n++] = (tr_bucket){.begin = part->begin,
                                       .end = part->end,
                                       .position = part->position,
                                       .first = part->first,
                                       .place = part->begin,
                                       .after = -1};
        }
    }
    for (uint32_t i = 1; i < n;
         i++) { /* by position, equals as they were: few, and nearly in order or nearly reversed */
        tr_bucket moved = buckets[i];
        uint32_t at = i;
        for (; at > 0 && buckets[at - 1].position > moved.position; at--) buckets[at] = buckets[at - 1];
        buckets[at] = moved;
    }
    return n;
}

static int64_t size_of(const tr_bucket *bucket)
{
    return bucket->end - bucket->begin;
}

/* An earlier one that is touched while this one is, and has memory of [place, place + its size); NULL: none. */
static const tr_bucket *in_the_way(const tr_bucket *buckets, uint32_t which, int64_t place)
{
    const tr_bucket *self = &buckets[which];
    for (uint32_t i = 0; i < which; i++)
        if (buckets[i].position >= self->first && buckets[i].place < place + size_of(self) &&
            place < buckets[i].place + size_of(&buckets[i]))
            return &buckets[i];
    return NULL;
}

/* The first place from `from` on where nobody is in the way. */
static int64_t free_place(const tr_bucket *buckets, uint32_t which, int64_t from)
{
    for (const tr_bucket *other; (other = in_the_way(buckets, which, from));)
        from = other->place + size_of(other);
    return from;
}

int64_t tr_buckets_place(tr_bucket *buckets, uint32_t n, int64_t least)
{
    int64_t total = least, next = 0;
    for (uint32_t b = 0; b < n; b++)
        if (size_of(&buckets[b]) > total) total = size_of(&buckets[b]);
    for (uint32_t b = 0; b < n; b++) {
        tr_bucket *self = &buckets[b];
        int64_t size = size_of(self), place = free_place(buckets, b, next); /* what has left longest ago */
        if (place + size > total) place = free_place(buckets, b, 0);
        if (place + size > total) total = place + size;
        self->place = place;
        self->after = -1;
        for (uint32_t i = 0; i < b; i++)
            if (buckets[i].place < place + size && place < buckets[i].place + size_of(&buckets[i]))
                self->after = (int32_t)i;
        next = place + size;
    }
    return total;
}

tr_stretch tr_buckets_share(const tr_bucket *bucket, uint32_t n_replicas, uint32_t replica)
{
    tr_stretch share;
    tr_stage_shard(size_of(bucket), n_replicas, replica, &share.begin, &share.end);
    return (tr_stretch){bucket->begin + share.begin, bucket->begin + share.end};
}

/* --- a stage's --- */

uint32_t tr_buckets_parts(const tr_buckets *self, const tr_bucket *bucket, uint32_t *begin)
{
    uint32_t end = 0;
    while (self->parts[end].begin < bucket->begin) end++;
    *begin = end;
    while (end < self->n_parts && self->parts[end].begin < bucket->end) end++;
    return end;
}

static tr_stretch shard_of(const tr_buckets *self, uint32_t part, uint32_t replica)
{
    return self->shards[(size_t)part * self->n_replicas + replica];
}

uint32_t tr_buckets_rounds(const tr_buckets *self, const tr_bucket *bucket)
{
    uint32_t begin, end = tr_buckets_parts(self, bucket, &begin);
    int64_t longest = 0;
    if (end - begin > 1) return 1;
    for (uint32_t r = 0; r < self->n_replicas; r++) {
        tr_stretch shard = shard_of(self, begin, r);
        if (shard.end - shard.begin > longest) longest = shard.end - shard.begin;
    }
    return longest == 0 ? 1 : (uint32_t)((longest + self->round - 1) / self->round);
}

tr_stretch tr_buckets_shard(const tr_buckets *self, const tr_bucket *bucket, uint32_t part, uint32_t replica,
                            uint32_t round)
{
    tr_stretch shard = shard_of(self, part, replica);
    bool is_alone = self->parts[part].begin == bucket->begin && self->parts[part].end == bucket->end;
    if (!is_alone) return shard;
    int64_t end = shard.end;
    shard.begin += (int64_t)round * self->round;
    if (shard.begin > end) shard.begin = end;
    shard.end = shard.begin + self->round < end ? shard.begin + self->round : end;
    return shard;
}

int64_t tr_buckets_place_of(const tr_buckets *self, int64_t element)
{
    for (uint32_t b = 0; b < self->n && self->streams; b++)
        if (element >= self->items[b].begin && element < self->items[b].end)
            return self->items[b].place + element - self->items[b].begin;
    return element;
}

static tr_status find_parts(tr_buckets *self, const tr_stage_spec *spec, const tr_program *program,
                            tr_error *err)
{
    int64_t at = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < spec->n_parameters; i++) n += spec->parameters[i].n_uses;
    self->parts = tr_alloc_zero((size_t)n + 1, sizeof *self->parts);
    self->items = tr_alloc_zero((size_t)n + 1, sizeof *self->items);
    if (!self->parts || !self->items)
        return tr_fail(err, TR_ENOMEM, "no memory for the buckets of %u gradients", n);
    for (uint32_t i = 0; i < spec->n_parameters; i++) {
        const tr_stage_parameter *known = &spec->parameters[i];
        for (uint32_t u = 0; u < known->n_uses; u++) {
            tr_value value = known->uses[u].gradient;
            if (value == TR_NO_VALUE) continue;
            int64_t end = at + tr__stage_aligned(known->n_elements);
            self->parts[self->n_parts++] = (tr_bucket_part){at, end, tr_program_last_position(program, value),
                                                            tr_program_first_position(program, value)};
            at = end;
        }
    }
    self->gradient = at;
    return TR_OK;
}

static tr_status find_shards(tr_buckets *self, const tr_stage_spec *spec, tr_error *err)
{
    self->shards = tr_alloc_zero((size_t)self->n_parts * self->n_replicas + 1, sizeof *self->shards);
    if (!self->shards)
        return tr_fail(err, TR_ENOMEM, "no memory for the shards of %u gradients", self->n_parts);
    for (uint32_t r = 0; r < self->n_replicas; r++) {
        tr_shard shard;
        uint32_t n = 0;
        tr_shard_begin(&shard, spec, r);
        for (uint32_t i = 0; i < spec->n_parameters; i++) {
            tr_stretch part = tr_shard_next(&shard);
            for (uint32_t u = 0; u < spec->parameters[i].n_uses; u++) {
                if (spec->parameters[i].uses[u].gradient == TR_NO_VALUE) continue;
                int64_t begin = self->parts[n].begin + part.begin;
                self->shards[(size_t)n++ * self->n_replicas + r] =
                    (tr_stretch){begin, begin + tr__stage_aligned(part.end - part.begin)};
            }
        }
    }
    return TR_OK;
}

/* Of a bucket, what replica `replica` sums at most at once. */
static int64_t at_once(const tr_buckets *self, const tr_bucket *bucket, uint32_t replica)
{
    uint32_t begin, end = tr_buckets_parts(self, bucket, &begin);
    int64_t n = 0;
    for (uint32_t p = begin; p < end; p++) {
        tr_stretch shard = tr_buckets_shard(self, bucket, p, replica, 0);
        n += shard.end - shard.begin;
    }
    return n;
}

/* The gradient of a parameter that no node touches is 0 because its memory was: then it needs some of its own. */
static bool may_stream(const tr_buckets *self, const tr_stage_spec *spec)
{
    tr_range own = tr_plan_microbatches(&spec->plan, spec->replica);
    bool all_touched = true;
    for (uint32_t p = 0; p < self->n_parts; p++) all_touched &= self->parts[p].first >= 0;
    return spec->plan.zero > 1 && own.end - own.begin == 1 && all_touched;
}

static void find_sums(tr_buckets *self, const tr_stage_spec *spec)
{
    for (uint32_t b = 0; b < self->n; b++) {
        uint32_t begin;
        tr_buckets_parts(self, &self->items[b], &begin);
        self->items[b].sum = 0;
        for (uint32_t p = 0; p < begin; p++) {
            tr_stretch shard = shard_of(self, p, spec->replica);
            self->items[b].sum += shard.end - shard.begin;
        }
    }
}

static void count_arrivals(tr_buckets *self, const tr_stage_spec *spec)
{
    uint32_t blocks = 0, most_parts = 1;
    for (uint32_t r = 0; r < self->n_replicas; r++)
        if (r != spec->replica || spec->plan.zero) blocks += tr_plan_blocks(&spec->plan, r, NULL);
    for (uint32_t b = 0; b < self->n; b++) {
        const tr_bucket *bucket = &self->items[b];
        uint32_t begin, end = tr_buckets_parts(self, bucket, &begin);
        tr_stretch share = tr_buckets_share(bucket, self->n_replicas, spec->replica);
        int64_t n = spec->plan.zero ? at_once(self, bucket, spec->replica) : share.end - share.begin;
        if (n > self->arrival) self->arrival = n;
        if (spec->plan.zero && end - begin > most_parts) most_parts = end - begin;
    }
    self->n_arrivals = blocks;
    self->most_transfers = (size_t)most_parts * self->n_replicas * 2 * TR_MAX_BLOCKS;
    size_t all = (size_t)self->n_replicas * 2 * TR_MAX_GROUPS;
    if (self->most_transfers < all) self->most_transfers = all;
}

tr_status tr_buckets_init(tr_buckets *out, const tr_stage_spec *spec, const tr_program *program,
                          tr_error *err)
{
    int64_t bucket = spec->bucket_elements ? spec->bucket_elements : TR_BUCKET_ELEMENTS;
    *out = (tr_buckets){.n_replicas = spec->plan.n_replicas};
    tr_status status = find_parts(out, spec, program, err);
    if (!status && spec->plan.zero) status = find_shards(out, spec, err);
    if (status) {
        tr_buckets_release(out);
        return status;
    }
    out->round = tr__stage_aligned(bucket / out->n_replicas + 1);
    out->n = tr_buckets_of(out->parts, out->n_parts, bucket, out->items);
    if (spec->plan.zero) find_sums(out, spec);
    out->streams = may_stream(out, spec);
    if (out->streams) {
        int64_t least = BUCKETS_AT_ONCE * bucket;
        out->gradient = tr_buckets_place(out->items, out->n, least < out->gradient ? least : out->gradient);
        out->sum = tr_shard_sum_elements(spec, spec->replica);
    }
    count_arrivals(out, spec);
    return TR_OK;
}

void tr_buckets_release(tr_buckets *self)
{
    tr_free(self->items);
    tr_free(self->parts);
    tr_free(self->shards);
    *self = (tr_buckets){0};
}

tr_status tr_stage_gradient_bytes(const tr_stage_spec *spec, const tr_program *program, uint32_t blocks,
                                  bool by_devices, uint64_t *bytes, tr_error *err)
{
    tr_buckets all;
    *bytes =
        blocks * (uint64_t)tr_stage_gradient_elements(spec->parameters, spec->n_parameters) * sizeof(float);
    if (!by_devices) return TR_OK; /* the sum comes into the memory of a block that has gone */
    tr_status status = tr_buckets_init(&all, spec, program, err);
    if (status) return status;
    uint64_t elements = (uint64_t)all.sum + (uint64_t)all.arrival * all.n_arrivals;
    *bytes = (blocks * (uint64_t)all.gradient + elements) * sizeof(float);
    tr_buckets_release(&all);
    return TR_OK;
}
