/* runtime/host_messages.c - see host_messages.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/host_messages.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/pack.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    HOMES_FIELDS = 7,
    STATE_FIELDS = 4,
    FORMER_FIELDS = 4,
    FORMER_STATE_FIELDS = 5,
    PART_FIELDS = 8,
    JOIN_FIELDS = 6
};

tr_status tr_homes_encode(const tr_homes *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, HOMES_FIELDS);
    tr_pack_uint(&packer, self->epoch);
    tr_pack_uint(&packer, self->layout);
    tr_pack_bytes(&packer, self->topology, self->topology_bytes);
    tr_pack_array(&packer, (size_t)self->n_members);
    for (int32_t m = 0; m < self->n_members; m++) tr_pack_text(&packer, self->addresses[m]);
    tr_pack_array(&packer, (size_t)self->n_nodes);
    for (int32_t n = 0; n < self->n_nodes; n++) tr_pack_int(&packer, self->home[n]);
    tr_pack_array(&packer, (size_t)self->n_states * STATE_FIELDS);
    for (uint32_t i = 0; i < self->n_states; i++) {
        tr_pack_uint(&packer, self->states[i].actor);
        tr_pack_int(&packer, self->states[i].source);
        tr_pack_uint(&packer, self->states[i].source_actor);
        tr_pack_int(&packer, self->states[i].copy);
    }
    tr_pack_uint(&packer, self->takes_former);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

static bool is_same_state(const tr_topology *topology, uint32_t a, uint32_t b)
{
    return topology->actors[a].state_bytes > 0 &&
           topology->actors[a].state_bytes == topology->actors[b].state_bytes;
}

static void unpack_states(tr_homes *self, tr_unpacker *unpacker, const tr_topology *topology)
{
    uint32_t last = (uint32_t)topology->n_actors - 1;
    for (uint32_t i = 0; i < self->n_states && !unpacker->bad; i++) {
        tr_state_home *state = &self->states[i];
        state->actor = (uint32_t)tr_unpack_uint(unpacker, last);
        state->source = (int32_t)tr_unpack_int(unpacker, -1, self->n_members - 1);
        state->source_actor = (uint32_t)tr_unpack_uint(unpacker, last);
        state->copy = (int32_t)tr_unpack_int(unpacker, -1, self->n_members - 1);
        bool ordered = i == 0 || state->actor > state[-1].actor;
        if (unpacker->bad || !ordered || !is_same_state(topology, state->actor, state->source_actor))
            unpacker->bad = true;
    }
}

static void unpack_head(tr_homes *self, tr_unpacker *unpacker)
{
    if (tr_unpack_array(unpacker, HOMES_FIELDS) != HOMES_FIELDS) unpacker->bad = true;
    self->epoch = (uint32_t)tr_unpack_uint(unpacker, UINT32_MAX);
    self->layout = (uint32_t)tr_unpack_uint(unpacker, UINT32_MAX);
    self->topology = tr_unpack_bytes(unpacker, &self->topology_bytes);
}

tr_status tr_homes_peek(tr_homes *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_homes read = {0};
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    unpack_head(&read, &unpacker);
    if (unpacker.bad) return tr_fail(err, TR_ECORRUPT, "a list of homes does not read as it should");
    *self = read;
    return TR_OK;
}

tr_status tr_homes_decode(tr_homes *self, const void *bytes, size_t size_bytes, const tr_topology *topology,
                          tr_error *err)
{
    tr_unpacker unpacker;
    *self = (tr_homes){0};
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    unpack_head(self, &unpacker);
    if (topology->n_actors == 0) unpacker.bad = true;
    self->n_members = (int32_t)tr_unpack_array(&unpacker, TR_MAX_MEMBERS);
    self->addresses = tr_alloc_zero((size_t)self->n_members + 1, sizeof *self->addresses);
    self->home = tr_alloc_zero((size_t)topology->n_nodes, sizeof *self->home);
    self->states = tr_alloc_zero(topology->n_actors, sizeof *self->states);
    if (!self->addresses || !self->home || !self->states) {
        tr_homes_release(self);
        return tr_fail(err, TR_ENOMEM, "no memory for the homes of %d workers", topology->n_nodes);
    }
    for (int32_t m = 0; m < self->n_members; m++)
        tr_unpack_text(&unpacker, self->addresses[m], sizeof self->addresses[m]);
    self->n_nodes = (int32_t)tr_unpack_array(&unpacker, (uint32_t)topology->n_nodes);
    if (self->n_nodes != topology->n_nodes) unpacker.bad = true;
    for (int32_t n = 0; n < self->n_nodes && !unpacker.bad; n++)
        self->home[n] = (int32_t)tr_unpack_int(&unpacker, -1, self->n_members - 1);
    uint32_t n_fields = tr_unpack_array(&unpacker, (uint32_t)topology->n_actors * STATE_FIELDS);
    self->n_states = n_fields / STATE_FIELDS;
    if (n_fields % STATE_FIELDS) unpacker.bad = true;
    unpack_states(self, &unpacker, topology);
    self->takes_former = tr_unpack_uint(&unpacker, 1) == 1;
    tr_status status = tr_unpacker_done(&unpacker, "list of homes", err);
    if (status != TR_OK) tr_homes_release(self);
    return status;
}

void tr_homes_release(tr_homes *self)
{
    tr_free(self->addresses);
    tr_free(self->home);
    tr_free(self->states);
    *self = (tr_homes){0};
}

tr_status tr_former_encode(const tr_former *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, FORMER_FIELDS);
    tr_pack_uint(&packer, self->term);
    tr_pack_uint(&packer, self->epoch);
    tr_pack_int(&packer, self->n_agents);
    tr_pack_array(&packer, (size_t)self->n_states * FORMER_STATE_FIELDS);
    for (uint32_t i = 0; i < self->n_states; i++) {
        const tr_former_state *state = &self->states[i];
        tr_pack_uint(&packer, state->actor);
        for (int slot = 0; slot < 2; slot++) {
            tr_pack_uint(&packer, state->generations[slot]);
            tr_pack_uint(&packer, state->hashes[slot]);
        }
    }
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

static void unpack_former_states(tr_former *self, tr_unpacker *unpacker, const tr_topology *topology)
{
    for (uint32_t i = 0; i < self->n_states && !unpacker->bad; i++) {
        tr_former_state *state = &self->states[i];
        state->actor = (uint32_t)tr_unpack_uint(unpacker, topology->n_actors - 1);
        for (int slot = 0; slot < 2; slot++) {
            state->generations[slot] = tr_unpack_uint(unpacker, UINT64_MAX);
            state->hashes[slot] = tr_unpack_uint(unpacker, UINT64_MAX);
        }
        bool ordered = i == 0 || state->actor > state[-1].actor;
        if (unpacker->bad || !ordered || !topology->actors[state->actor].state_bytes) unpacker->bad = true;
    }
}

tr_status tr_former_decode(tr_former *self, const void *bytes, size_t size_bytes, const tr_topology *topology,
                           tr_error *err)
{
    tr_unpacker unpacker;
    *self = (tr_former){0};
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, FORMER_FIELDS) != FORMER_FIELDS) unpacker.bad = true;
    self->term = tr_unpack_uint(&unpacker, UINT64_MAX);
    self->epoch = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->n_agents = (int32_t)tr_unpack_int(&unpacker, 0, TR_MAX_MEMBERS);
    uint32_t n_fields = tr_unpack_array(&unpacker, (uint32_t)topology->n_actors * FORMER_STATE_FIELDS);
    self->n_states = n_fields / FORMER_STATE_FIELDS;
    if (n_fields % FORMER_STATE_FIELDS) unpacker.bad = true;
    self->states = tr_alloc_zero((size_t)self->n_states + 1, sizeof *self->states);
    if (!self->states) return tr_fail(err, TR_ENOMEM, "no memory for %u states", self->n_states);
    unpack_former_states(self, &unpacker, topology);
    tr_status status = tr_unpacker_done(&unpacker, "list of states", err);
    if (status != TR_OK) tr_former_release(self);
    return status;
}

void tr_former_release(tr_former *self)
{
    tr_free(self->states);
    *self = (tr_former){0};
}

tr_status tr_slot_part_encode(const tr_slot_part *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, PART_FIELDS);
    tr_pack_uint(&packer, self->layout);
    tr_pack_uint(&packer, self->fetched);
    tr_pack_uint(&packer, self->actor);
    tr_pack_uint(&packer, self->generation);
    tr_pack_uint(&packer, self->hash);
    tr_pack_uint(&packer, self->offset_bytes);
    tr_pack_uint(&packer, self->good);
    tr_pack_bytes(&packer, self->bytes, self->n_bytes);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

tr_status tr_slot_part_decode(tr_slot_part *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_slot_part read = {0};
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, PART_FIELDS) != PART_FIELDS) unpacker.bad = true;
    read.layout = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    read.fetched = tr_unpack_uint(&unpacker, 1) == 1;
    read.actor = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    read.generation = tr_unpack_uint(&unpacker, UINT64_MAX);
    read.hash = tr_unpack_uint(&unpacker, UINT64_MAX);
    read.offset_bytes = tr_unpack_uint(&unpacker, UINT64_MAX);
    read.good = tr_unpack_uint(&unpacker, 1) == 1;
    read.bytes = tr_unpack_bytes(&unpacker, &read.n_bytes);
    tr_status status = tr_unpacker_done(&unpacker, "part of a state slot", err);
    if (status == TR_OK) *self = read;
    return status;
}

tr_status tr_join_request_encode(const tr_join_request *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, JOIN_FIELDS);
    tr_pack_text(&packer, self->version);
    tr_pack_uint(&packer, self->program);
    tr_pack_text(&packer, self->numerics);
    tr_pack_text(&packer, self->name);
    tr_pack_text(&packer, self->run);
    tr_pack_text(&packer, self->plan);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

tr_status tr_join_request_decode(tr_join_request *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    *self = (tr_join_request){0};
    if (tr_unpack_array(&unpacker, JOIN_FIELDS) != JOIN_FIELDS) unpacker.bad = true;
    tr_unpack_text(&unpacker, self->version, sizeof self->version);
    self->program = tr_unpack_uint(&unpacker, UINT64_MAX);
    tr_unpack_text(&unpacker, self->numerics, sizeof self->numerics);
    tr_unpack_text(&unpacker, self->name, sizeof self->name);
    tr_unpack_text(&unpacker, self->run, sizeof self->run);
    tr_unpack_text(&unpacker, self->plan, sizeof self->plan);
    for (char *c = self->name; *c; c++) /* it goes into messages of one line */
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';
    return tr_unpacker_done(&unpacker, "wish to join", err);
}

tr_status tr_join_request_compare(const tr_join_request *mine, const tr_join_request *theirs, tr_error *err)
{
    if (strcmp(mine->version, theirs->version) != 0)
        return tr_fail(err, TR_EREFUSED, "its program is version '%.31s', this job's is '%s'",
                       theirs->version, mine->version);
    if (mine->program != theirs->program)
        return tr_fail(err, TR_EREFUSED,
                       "its program is another build of version '%s' (%016" PRIx64
                       ", this job's is %016" PRIx64 "); copy the file",
                       mine->version, theirs->program, mine->program);
    if (strcmp(mine->numerics, theirs->numerics) != 0)
        return tr_fail(
            err, TR_EREFUSED,
            "its numbers could differ: its processor and libraries are '%.200s', this job's '%.200s'",
            theirs->numerics, mine->numerics);
    if (theirs->run[0] && strcmp(mine->run, theirs->run) != 0)
        return tr_fail(err, TR_EREFUSED, "it wants to join the run '%.200s', this is '%.200s'", theirs->run,
                       mine->run);
    if (theirs->plan[0] && strcmp(mine->plan, theirs->plan) != 0)
        return tr_fail(err, TR_EREFUSED, "it expects plan '%.16s', this job's is '%s' (see `troupe plan`)",
                       theirs->plan, mine->plan);
    return TR_OK;
}

void tr_plan_hash(const void *topology, size_t size_bytes, char hex[17])
{
    snprintf(hex, 17, "%016" PRIx64, tr_hash64(topology, size_bytes));
}
