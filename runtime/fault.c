/* runtime/fault.c - see fault.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/fault.h"

#include "base/pack.h"
#include "base/rng.h"
#include "transport/disturb.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    FIELDS = 5,
    STREAM = 0x4641554c, /* "FAUL" */
    LEAST_MS = 300, /* of what takes a while: seen by whoever waits, and over before anybody is suspected */
    MOST_MS = 1500
};

/* What is drawn of one fault, by index; the kind has a key of its own. */
enum { DRAW_PAUSE, DRAW_VICTIM, DRAW_PEER, DRAW_TIME, DRAW_SEED };

static const char *const names[TR_FAULT_KINDS] = {
    [TR_FAULT_KILL] = "kill",
    [TR_FAULT_STOP] = "stop",
    [TR_FAULT_STOP_AND_CONTINUE] = "stop_and_continue",
    [TR_FAULT_SLOW] = "slow",
    [TR_FAULT_FLIP_STATE] = "flip_state",
    [TR_FAULT_CUT] = "cut",
    [TR_FAULT_DEAF] = "deaf",
    [TR_FAULT_DELAY] = "delay",
    [TR_FAULT_DUPLICATE] = "duplicate",
    [TR_FAULT_FLIP_FRAME] = "flip_frame",
    [TR_FAULT_FULL_DISK] = "full_disk",
    [TR_FAULT_FAILED_FSYNC] = "failed_fsync",
};

const char *tr_fault_name(tr_fault_kind kind)
{
    return names[kind];
}

void tr_faults_names(uint32_t kinds, char *text, size_t capacity)
{
    size_t used = 0;
    text[0] = 0;
    for (int kind = 0; kind < TR_FAULT_KINDS && used < capacity; kind++)
        if (kinds & TR_FAULT_BIT(kind))
            used += (size_t)snprintf(text + used, capacity - used, "%s%s", used ? ", " : "", names[kind]);
}

static int kind_of(const char *name, size_t length)
{
    for (int kind = 0; kind < TR_FAULT_KINDS; kind++)
        if (strlen(names[kind]) == length && strncmp(names[kind], name, length) == 0) return kind;
    return -1;
}

tr_status tr_faults_parse(const char *text, uint32_t *kinds, tr_error *err)
{
    static const char between[] = ", \t\n";
    uint32_t found = 0;
    if (text) text += strspn(text, between);
    while (text && *text) {
        size_t length = strcspn(text, between);
        int kind = kind_of(text, length);
        char known[TR_FAULT_NAMES];
        tr_faults_names(TR_FAULTS_ALL, known, sizeof known);
        if (kind < 0)
            return tr_fail(err, TR_EINVAL, "names the fault '%.*s', which there is not; there are %s",
                           (int)length, text, known);
        found |= TR_FAULT_BIT(kind);
        text += length;
        text += strspn(text, between);
    }
    *kinds = found ? found : TR_FAULTS_ALL;
    return TR_OK;
}

static uint64_t draw(uint64_t seed, uint32_t n, uint32_t what)
{
    const tr_rng_key key = {.seed = seed, .stream = STREAM, .step = n};
    return tr_rng_u64(&key, what);
}

uint64_t tr_fault_pause_ns(uint64_t seed, double per_minute, uint32_t n)
{
    const tr_rng_key key = {.seed = seed, .stream = STREAM, .step = n};
    double minutes = -log(1 - tr_rng_uniform(&key, DRAW_PAUSE)) / per_minute;
    return (uint64_t)fmin(minutes * 60e9, 1e18); /* 30 years, where faults are next to never */
}

/* The n-th of an endless row of shuffled decks, each of which has every kind once. */
static tr_fault_kind draw_kind(uint64_t seed, uint32_t kinds, uint32_t n)
{
    tr_fault_kind deck[TR_FAULT_KINDS];
    uint32_t count = 0;
    for (int kind = 0; kind < TR_FAULT_KINDS; kind++)
        if (kinds & TR_FAULT_BIT(kind)) deck[count++] = (tr_fault_kind)kind;
    TR_ASSERT(count > 0);
    const tr_rng_key key = {.seed = seed, .stream = STREAM, .step = n / count, .microbatch = 1};
    for (uint32_t i = count; i > 1; i--) {
        uint32_t at = (uint32_t)(tr_rng_u64(&key, i) % i);
        tr_fault_kind kind = deck[i - 1];
        deck[i - 1] = deck[at];
        deck[at] = kind;
    }
    return deck[n % count];
}

static int32_t below(uint64_t drawn, int32_t count)
{
    return (int32_t)(drawn % (uint64_t)count);
}

/* Who breaks a link is always a worker: what UCX 1.13 may make of a forced end (docs/progress.md) would be the head's. */
tr_fault tr_fault_draw(uint64_t seed, uint32_t kinds, uint32_t n, int32_t n_nodes)
{
    TR_ASSERT(n_nodes >= 2);
    tr_fault self = {.kind = draw_kind(seed, kinds, n), .seed = draw(seed, n, DRAW_SEED)};
    uint64_t victim = draw(seed, n, DRAW_VICTIM);
    if (self.kind == TR_FAULT_DELAY)
        self.victim = below(victim, n_nodes);
    else if (!(TR_FAULTS_OF_DISK & TR_FAULT_BIT(self.kind)))
        self.victim = 1 + below(victim, n_nodes - 1);
    if (self.kind == TR_FAULT_CUT || self.kind == TR_FAULT_DEAF) {
        self.peer = below(draw(seed, n, DRAW_PEER), n_nodes - 1);
        self.peer += self.peer >= self.victim;
    }
    if (self.kind == TR_FAULT_SLOW || (self.kind >= TR_FAULT_DEAF && self.kind <= TR_FAULT_DUPLICATE))
        self.for_ms = LEAST_MS + (uint32_t)below(draw(seed, n, DRAW_TIME), MOST_MS - LEAST_MS + 1);
    return self;
}

uint32_t tr_fault_slowness(const tr_fault *self)
{
    return 2 + (uint32_t)(self->seed % 4);
}

bool tr_fault_is_of_both(const tr_fault *self)
{
    return self->seed % 4 == 0;
}

bool tr_fault_hits_data(const tr_fault *self)
{
    return self->kind != TR_FAULT_CUT || self->seed % 3 != 1;
}

bool tr_fault_hits_control(const tr_fault *self)
{
    return self->kind != TR_FAULT_CUT || self->seed % 3 != 2;
}

void tr_fault_describe(const tr_fault *self, char *text, size_t capacity)
{
    int32_t victim = self->victim, peer = self->peer;
    char who[32];
    double seconds = self->for_ms * 1e-3;
    snprintf(who, sizeof who, victim ? "worker %d" : "the head", victim);
    switch (self->kind) {
    case TR_FAULT_KILL: snprintf(text, capacity, "%s is killed", who); return;
    case TR_FAULT_STOP: snprintf(text, capacity, "%s is stopped", who); return;
    case TR_FAULT_STOP_AND_CONTINUE:
        snprintf(text, capacity, "%s is stopped, and goes on when it is to be replaced", who);
        return;
    case TR_FAULT_SLOW:
        snprintf(text, capacity, "%s runs a %s of the time for %.1f s", who,
                 (const char *const[]){"half", "third", "fourth", "fifth"}[tr_fault_slowness(self) - 2],
                 seconds);
        return;
    case TR_FAULT_FLIP_STATE:
        snprintf(text, capacity, "%s is killed, and a bit flips in %s", who,
                 tr_fault_is_of_both(self) ? "each of its states" : "its newest state");
        return;
    case TR_FAULT_CUT:
        snprintf(text, capacity, "the link%s of %s to node %d %s cut",
                 !tr_fault_hits_control(self) ? " for data"
                 : !tr_fault_hits_data(self)  ? " for control"
                                              : "s",
                 who, peer, tr_fault_hits_data(self) && tr_fault_hits_control(self) ? "are" : "is");
        return;
    case TR_FAULT_DEAF:
        snprintf(text, capacity, "%s hears nothing of node %d for %.1f s, then their link breaks", who, peer,
                 seconds);
        return;
    case TR_FAULT_DELAY:
        snprintf(text, capacity, "what comes to %s is up to %d ms late for %.1f s", who, TR_DISTURB_LATE_MS,
                 seconds);
        return;
    case TR_FAULT_DUPLICATE:
        snprintf(text, capacity, "what %s sends comes twice for %.1f s", who, seconds);
        return;
    case TR_FAULT_FLIP_FRAME:
        snprintf(text, capacity, "a bit of the next message of %s flips on its way", who);
        return;
    case TR_FAULT_FULL_DISK:
        snprintf(text, capacity, "the disk has no room until a checkpoint has failed for it");
        return;
    case TR_FAULT_FAILED_FSYNC:
        snprintf(text, capacity, "the disk cannot be synced until a checkpoint has failed for it");
        return;
    case TR_FAULT_KINDS: break;
    }
    TR_ASSERT(false && "there is no such fault");
}

tr_status tr_fault_encode(const tr_fault *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, FIELDS);
    tr_pack_uint(&packer, self->kind);
    tr_pack_int(&packer, self->victim);
    tr_pack_int(&packer, self->peer);
    tr_pack_uint(&packer, self->for_ms);
    tr_pack_uint(&packer, self->seed);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

tr_status tr_fault_decode(tr_fault *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_fault read = {0};
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, FIELDS) != FIELDS) unpacker.bad = true;
    read.kind = (tr_fault_kind)tr_unpack_uint(&unpacker, TR_FAULT_KINDS - 1);
    read.victim = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
    read.peer = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
    read.for_ms = (uint32_t)tr_unpack_uint(&unpacker, MOST_MS);
    read.seed = tr_unpack_uint(&unpacker, UINT64_MAX);
    tr_status status = tr_unpacker_done(&unpacker, "fault", err);
    if (status == TR_OK) *self = read;
    return status;
}
