/* runtime/change.c - see change.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/change.h"

#include "base/memory.h"
#include "base/pack.h"

enum { FIELDS = 9, MOVE_NUMBERS = 5, FETCH_NUMBERS = 3, MOST = 1 << 26, MOST_MEMBERS = 1 << 16 };

tr_status tr_change_encode(const tr_change *self, uint32_t epoch, uint32_t layout, void **bytes,
                           size_t *size_bytes, tr_error *err)
{
    void *topology = NULL;
    size_t topology_bytes = 0;
    tr_status status = tr_topology_encode(self->topology, &topology, &topology_bytes, err);
    if (status != TR_OK) return status;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, FIELDS);
    tr_pack_uint(&packer, epoch);
    tr_pack_uint(&packer, layout);
    tr_pack_uint(&packer, self->generation);
    tr_pack_bytes(&packer, topology, topology_bytes);
    tr_pack_array(&packer, self->n_moves * MOVE_NUMBERS);
    for (size_t i = 0; i < self->n_moves; i++) {
        const tr_state_move *move = &self->moves[i];
        const uint64_t numbers[MOVE_NUMBERS] = {move->to, move->from, move->to_offset, move->from_offset,
                                                move->bytes};
        for (int k = 0; k < MOVE_NUMBERS; k++) tr_pack_uint(&packer, numbers[k]);
    }
    tr_pack_array(&packer, self->n_leaving);
    for (size_t i = 0; i < self->n_leaving; i++) tr_pack_int(&packer, self->leaving[i]);
    size_t n_homes = self->home ? (size_t)self->topology->n_nodes : 0;
    tr_pack_array(&packer, n_homes);
    for (size_t i = 0; i < n_homes; i++) tr_pack_int(&packer, self->home[i]);
    size_t n_copies = self->home ? self->topology->n_actors : 0;
    tr_pack_array(&packer, n_copies);
    for (size_t i = 0; i < n_copies; i++) tr_pack_int(&packer, self->copy[i]);
    tr_pack_array(&packer, self->n_fetches * FETCH_NUMBERS);
    for (size_t i = 0; i < self->n_fetches; i++) {
        tr_pack_uint(&packer, self->fetches[i].actor);
        tr_pack_int(&packer, self->fetches[i].from);
        tr_pack_int(&packer, self->fetches[i].to);
    }
    tr_free(topology);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

/* Moves of one actor follow one another, its ranges from the lowest to the highest. */
static bool fits(const tr_change_order *self, size_t i)
{
    const tr_state_move *move = &self->moves[i], *before = i ? &self->moves[i - 1] : NULL;
    const tr_actor_spec *to = tr_topology_actor(&self->topology, move->to);
    if (!to || !move->from || !move->bytes) return false;
    if (move->bytes > to->state_bytes || move->to_offset > to->state_bytes - move->bytes) return false;
    if (!before) return true;
    return before->to < move->to ||
           (before->to == move->to && before->to_offset + before->bytes <= move->to_offset);
}

/* Of several hosts. Whether the members are there, and have what they should send, is for the agent to see. */
static tr_status read_homes(tr_change_order *self, tr_unpacker *unpacker, tr_error *err)
{
    uint32_t n_nodes = (uint32_t)self->topology.n_nodes, n_actors = (uint32_t)self->topology.n_actors;
    uint32_t n = tr_unpack_array(unpacker, n_nodes);
    if (n && n != n_nodes) unpacker->bad = true;
    if (n && !unpacker->bad) {
        self->home = tr_alloc_zero(n_nodes, sizeof *self->home);
        self->copy = tr_alloc_zero(n_actors + 1, sizeof *self->copy);
        if (!self->home || !self->copy) return tr_fail(err, TR_ENOMEM, "no memory for %u nodes", n_nodes);
    }
    for (uint32_t i = 0; i < n && !unpacker->bad; i++)
        self->home[i] = (int32_t)tr_unpack_int(unpacker, i ? 0 : -1, MOST_MEMBERS);
    n = tr_unpack_array(unpacker, n_actors);
    if (n != (self->home ? n_actors : 0)) unpacker->bad = true;
    for (uint32_t i = 0; i < n && !unpacker->bad; i++)
        self->copy[i] = (int32_t)tr_unpack_int(unpacker, -1, MOST_MEMBERS);
    n = tr_unpack_array(unpacker, MOST);
    if (n % FETCH_NUMBERS || (n && !self->home)) unpacker->bad = true;
    if (unpacker->bad) return tr_unpacker_done(unpacker, "change", err);
    self->fetches = tr_alloc_zero(n / FETCH_NUMBERS + 1, sizeof *self->fetches);
    if (!self->fetches) return tr_fail(err, TR_ENOMEM, "no memory for %u transfers", n / FETCH_NUMBERS);
    for (uint32_t i = 0; i < n / FETCH_NUMBERS && !unpacker->bad; i++) {
        tr_state_fetch *fetch = &self->fetches[self->n_fetches++];
        fetch->actor = tr_unpack_uint(unpacker, UINT32_MAX);
        fetch->from = (int32_t)tr_unpack_int(unpacker, 0, MOST_MEMBERS);
        fetch->to = (int32_t)tr_unpack_int(unpacker, 0, MOST_MEMBERS);
        if (!fetch->actor || fetch->from == fetch->to) unpacker->bad = true;
    }
    return tr_unpacker_done(unpacker, "change", err);
}

static tr_status read_lists(tr_change_order *self, tr_unpacker *unpacker, tr_error *err)
{
    uint32_t n = tr_unpack_array(unpacker, MOST);
    if (n % MOVE_NUMBERS) unpacker->bad = true;
    if (unpacker->bad) return tr_unpacker_done(unpacker, "change", err);
    self->moves = tr_alloc_zero(n / MOVE_NUMBERS + 1, sizeof *self->moves);
    if (!self->moves) return tr_fail(err, TR_ENOMEM, "no memory for %u moves of state", n / MOVE_NUMBERS);
    for (uint32_t i = 0; i < n / MOVE_NUMBERS && !unpacker->bad; i++, self->n_moves++) {
        tr_state_move *move = &self->moves[i];
        uint64_t *const numbers[MOVE_NUMBERS] = {&move->to, &move->from, &move->to_offset, &move->from_offset,
                                                 &move->bytes};
        for (int k = 0; k < MOVE_NUMBERS; k++) *numbers[k] = tr_unpack_uint(unpacker, (uint64_t)1 << 46);
        if (!fits(self, i)) unpacker->bad = true;
    }
    n = tr_unpack_array(unpacker, (uint32_t)self->topology.n_nodes);
    if (unpacker->bad) return tr_unpacker_done(unpacker, "change", err);
    self->leaving = tr_alloc_zero((size_t)n + 1, sizeof *self->leaving);
    if (!self->leaving) return tr_fail(err, TR_ENOMEM, "no memory for %u nodes", n);
    for (; self->n_leaving < n; self->n_leaving++)
        self->leaving[self->n_leaving] = (int32_t)tr_unpack_int(unpacker, 1, self->topology.n_nodes - 1);
    return read_homes(self, unpacker, err);
}

tr_status tr_change_decode(tr_change_order *out, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_change_order read = {0};
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, FIELDS) != FIELDS) unpacker.bad = true;
    read.epoch = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    read.layout = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    read.generation = tr_unpack_uint(&unpacker, UINT64_MAX);
    size_t topology_bytes = 0;
    const void *topology = tr_unpack_bytes(&unpacker, &topology_bytes);
    if (unpacker.bad) return tr_unpacker_done(&unpacker, "change", err);
    tr_status status = tr_topology_decode(&read.topology, topology, topology_bytes, err);
    if (status != TR_OK) return status;
    status = read_lists(&read, &unpacker, err);
    if (status == TR_OK)
        *out = read;
    else
        tr_change_order_release(&read);
    return status;
}

void tr_change_order_release(tr_change_order *self)
{
    tr_topology_release(&self->topology);
    tr_free(self->moves);
    tr_free(self->leaving);
    tr_free(self->home);
    tr_free(self->copy);
    tr_free(self->fetches);
    *self = (tr_change_order){0};
}
