/* runtime/control_messages.c - see control_messages.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/control_messages.h"

#include "base/memory.h"
#include "base/pack.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NOTE_FIELDS = 11, HELLO_FIELDS = 9, LOAD_FIELDS = 3 };

void tr_control_send_note(tr_node *node, int32_t peer, tr_control_topic topic, const tr_control_note *note)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, NOTE_FIELDS);
    tr_pack_int(&packer, note->node);
    tr_pack_int(&packer, note->pid);
    tr_pack_int(&packer, note->exit_code);
    tr_pack_int(&packer, note->signal);
    tr_pack_uint(&packer, note->grace_ms);
    tr_pack_uint(&packer, note->epoch);
    tr_pack_uint(&packer, note->layout);
    tr_pack_uint(&packer, note->silent_ns);
    tr_pack_uint(&packer, note->actor);
    tr_pack_uint(&packer, note->status);
    tr_pack_text(&packer, note->text);

    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_error err = {0};
    if (tr_packer_take(&packer, &bytes, &size_bytes, &err) == TR_OK)
        tr_node_send_system(node, peer, topic, bytes, (uint32_t)size_bytes);
    else
        tr_node_fail(node, &err); /* nobody would learn what it says */
    tr_free(bytes);
}

tr_status tr_control_read_note(const tr_message *message, tr_control_note *note, tr_error *err)
{
    tr_unpacker unpacker;
    tr_control_note read = {0};
    tr_unpacker_init(&unpacker, tr_message_bytes(message), message->frame.body_bytes);
    if (tr_unpack_array(&unpacker, NOTE_FIELDS) != NOTE_FIELDS) unpacker.bad = true;
    read.node = (int32_t)tr_unpack_int(&unpacker, INT32_MIN, INT32_MAX);
    read.pid = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
    read.exit_code = (int32_t)tr_unpack_int(&unpacker, INT32_MIN, INT32_MAX);
    read.signal = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
    read.grace_ms = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    read.epoch = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    read.layout = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    read.silent_ns = tr_unpack_uint(&unpacker, UINT64_MAX);
    read.actor = tr_unpack_uint(&unpacker, UINT64_MAX);
    read.status = (tr_status)tr_unpack_uint(&unpacker, TR_EDEVICE);
    tr_unpack_text(&unpacker, read.text, sizeof read.text);
    tr_status status = tr_unpacker_done(&unpacker, "control message", err);
    if (status == TR_OK) *note = read;
    return status;
}

tr_status tr_control_send_hello(tr_node *node, int32_t peer, tr_control_hello *hello, tr_error *err)
{
    hello->pid = getpid();
    snprintf(hello->control_address, sizeof hello->control_address, "%s", tr_node_control_address(node));
    snprintf(hello->data_address, sizeof hello->data_address, "%s", tr_node_data_address(node));
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, HELLO_FIELDS);
    tr_pack_int(&packer, hello->pid);
    tr_pack_uint(&packer, hello->epoch);
    tr_pack_int(&packer, hello->member);
    tr_pack_uint(&packer, hello->has_state);
    for (int i = 0; i < 2; i++) tr_pack_uint(&packer, hello->generations[i]);
    tr_pack_uint(&packer, hello->n_rotten);
    tr_pack_text(&packer, hello->control_address);
    tr_pack_text(&packer, hello->data_address);
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status = tr_packer_take(&packer, &bytes, &size_bytes, err);
    if (status == TR_OK) tr_node_send_system(node, peer, TR_CONTROL_HELLO, bytes, (uint32_t)size_bytes);
    tr_free(bytes);
    return status;
}

tr_status tr_control_read_hello(const tr_message *message, tr_control_hello *hello, tr_error *err)
{
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, tr_message_bytes(message), message->frame.body_bytes);
    if (tr_unpack_array(&unpacker, HELLO_FIELDS) != HELLO_FIELDS) unpacker.bad = true;
    hello->pid = (int32_t)tr_unpack_int(&unpacker, 1, INT32_MAX);
    hello->epoch = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    hello->member = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
    hello->has_state = tr_unpack_uint(&unpacker, 1) != 0;
    for (int i = 0; i < 2; i++) hello->generations[i] = tr_unpack_uint(&unpacker, UINT64_MAX);
    hello->n_rotten = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    tr_unpack_text(&unpacker, hello->control_address, sizeof hello->control_address);
    tr_unpack_text(&unpacker, hello->data_address, sizeof hello->data_address);
    return tr_unpacker_done(&unpacker, "greeting", err);
}

tr_status tr_control_encode_load(const tr_topology *topology, const tr_control_address *addresses,
                                 uint64_t generation, void **bytes, size_t *size_bytes, tr_error *err)
{
    void *plan = NULL;
    size_t plan_bytes = 0;
    tr_status status = tr_topology_encode(topology, &plan, &plan_bytes, err);
    if (status != TR_OK) return status;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, LOAD_FIELDS);
    tr_pack_bytes(&packer, plan, plan_bytes);
    tr_pack_uint(&packer, generation);
    tr_pack_array(&packer, 2 * (size_t)topology->n_nodes);
    for (int32_t i = 0; i < topology->n_nodes; i++) {
        tr_pack_text(&packer, addresses[i].control);
        tr_pack_text(&packer, addresses[i].data);
    }
    tr_free(plan);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

tr_status tr_control_decode_load(tr_control_load *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, LOAD_FIELDS) != LOAD_FIELDS) unpacker.bad = true;
    size_t plan_bytes;
    const void *plan = tr_unpack_bytes(&unpacker, &plan_bytes);
    uint64_t generation = tr_unpack_uint(&unpacker, UINT64_MAX);
    tr_control_load load = {.generation = generation};
    tr_status status = tr_topology_decode(&load.topology, plan, plan_bytes, err);
    if (status != TR_OK) return status;

    size_t n_nodes = (size_t)load.topology.n_nodes;
    if (tr_unpack_array(&unpacker, UINT32_MAX) != 2 * n_nodes) { /* before memory for so many is asked for */
        tr_control_load_release(&load);
        return tr_fail(err, TR_ECORRUPT, "a plan for %zu nodes without an address for each", n_nodes);
    }
    load.addresses = tr_alloc_zero(n_nodes, sizeof *load.addresses);
    if (!load.addresses)
        status = tr_fail(err, TR_ENOMEM, "no memory for the addresses of %zu nodes", n_nodes);
    for (size_t i = 0; i < n_nodes && status == TR_OK; i++) {
        tr_unpack_text(&unpacker, load.addresses[i].control_address, TR_ADDRESS_CHARS);
        tr_unpack_text(&unpacker, load.addresses[i].data_address, TR_ADDRESS_CHARS);
    }
    if (status == TR_OK) status = tr_unpacker_done(&unpacker, "plan with addresses", err);
    if (status == TR_OK)
        *self = load;
    else
        tr_control_load_release(&load);
    return status;
}

void tr_control_load_release(tr_control_load *self)
{
    tr_free(self->addresses);
    tr_topology_release(&self->topology);
    memset(self, 0, sizeof *self);
}
