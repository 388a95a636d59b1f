/* test/fuzz/message_fuzz.c - the MessagePack bodies: the first byte says whose, the rest is the body.
 * What is taken gives the same bytes each time it is written.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/device_link.h"
#include "actors/monitor.h"
#include "actors/trace.h"
#include "fuzz.h"
#include "pipelines/job_plan.h"
#include "runtime/change.h"
#include "runtime/control_messages.h"
#include "runtime/fault.h"
#include "runtime/host_activity.h"
#include "runtime/host_messages.h"
#include "runtime/launch.h"
#include "runtime/lease.h"
#include "runtime/state.h"

#include <sys/socket.h>

static void check_topology(const uint8_t *bytes, size_t size_bytes)
{
    tr_topology first, second;
    tr_error err = {0};
    tr_status status = tr_topology_decode(&first, bytes, size_bytes, &err);
    if (status) {
        fuzz_refused(status, &err);
        return;
    }
    void *written, *again;
    size_t n_written, n_again;
    FUZZ_PROMISE(tr_topology_encode(&first, &written, &n_written, &err) == TR_OK);
    FUZZ_PROMISE(tr_topology_decode(&second, written, n_written, &err) == TR_OK);
    FUZZ_PROMISE(tr_topology_encode(&second, &again, &n_again, &err) == TR_OK);
    FUZZ_PROMISE(n_written == n_again && memcmp(written, again, n_again) == 0);
    for (size_t i = 0; i < first.n_edges; i++)
        FUZZ_PROMISE(tr_topology_actor(&first, first.edges[i].source) &&
                     tr_topology_actor(&first, first.edges[i].destination));
    tr_free(written);
    tr_free(again);
    tr_topology_release(&first);
    tr_topology_release(&second);
}

static void check_load(const uint8_t *bytes, size_t size_bytes)
{
    tr_control_load load;
    tr_error err = {0};
    tr_status status = tr_control_decode_load(&load, bytes, size_bytes, &err);
    if (status)
        fuzz_refused(status, &err);
    else
        tr_control_load_release(&load);
}

/* What it tells to copy lies in the slots of who gets it, and nothing twice. */
static void check_change(const uint8_t *bytes, size_t size_bytes)
{
    tr_change_order order;
    tr_error err = {0};
    tr_status status = tr_change_decode(&order, bytes, size_bytes, &err);
    if (status) {
        fuzz_refused(status, &err);
        return;
    }
    for (size_t i = 0; i < order.n_moves; i++) {
        const tr_state_move *move = &order.moves[i];
        const tr_actor_spec *to = tr_topology_actor(&order.topology, move->to);
        FUZZ_PROMISE(to && move->to_offset + move->bytes <= to->state_bytes);
        if (i && move[-1].to == move->to)
            FUZZ_PROMISE(move[-1].to_offset + move[-1].bytes <= move->to_offset);
    }
    for (size_t i = 0; i < order.n_leaving; i++)
        FUZZ_PROMISE(order.leaving[i] >= 1 && order.leaving[i] < order.topology.n_nodes);
    for (int32_t n = 1; order.home && n < order.topology.n_nodes; n++) FUZZ_PROMISE(order.home[n] >= 0);
    for (size_t i = 0; order.home && i < order.topology.n_actors; i++) FUZZ_PROMISE(order.copy[i] >= -1);
    for (size_t i = 0; i < order.n_fetches; i++)
        FUZZ_PROMISE(order.home && order.fetches[i].actor && order.fetches[i].from != order.fetches[i].to);
    tr_change_order_release(&order);
}

/* Greetings and notes come as messages. */
static void check_message(const uint8_t *bytes, size_t size_bytes, bool note)
{
    tr_message *message;
    tr_error err = {0};
    FUZZ_PROMISE(tr_message_copy(&message, bytes, (uint32_t)size_bytes, &err) == TR_OK);
    tr_control_note said;
    tr_control_hello hello;
    tr_status status =
        note ? tr_control_read_note(message, &said, &err) : tr_control_read_hello(message, &hello, &err);
    if (status)
        fuzz_refused(status, &err);
    else if (!note)
        FUZZ_PROMISE(strlen(hello.control_address) < TR_ADDRESS_CHARS && hello.pid > 0);
    tr_message_destroy(&message);
}

static void check_fault(const uint8_t *bytes, size_t size_bytes)
{
    tr_fault fault;
    tr_error err = {0};
    tr_status status = tr_fault_decode(&fault, bytes, size_bytes, &err);
    char text[256];
    if (status) {
        fuzz_refused(status, &err);
        return;
    }
    tr_fault_describe(&fault, text, sizeof text);
    FUZZ_PROMISE(fault.victim >= 0 && fault.peer >= 0 && strlen(text) < sizeof text - 1);
}

static void check_launch(const uint8_t *bytes, size_t size_bytes)
{
    tr_launch launch = {0};
    tr_error err = {0};
    tr_status status = tr__launch_decode(&launch, bytes, size_bytes, &err);
    if (status)
        fuzz_refused(status, &err);
    else
        FUZZ_PROMISE(launch.role == TR_LAUNCH_AGENT || launch.role == TR_LAUNCH_WORKER);
    tr_launch_release(&launch);
}

static void check_place(const uint8_t *bytes, size_t size_bytes)
{
    tr_place place;
    tr_error err = {0};
    tr_status status = tr_place_unpack(&place, bytes, size_bytes, &err);
    if (status) fuzz_refused(status, &err);
    tr_place_release(&place);
}

static void check_record(const uint8_t *bytes, size_t size_bytes)
{
    tr_unpacker body;
    tr_step_record record, again;
    tr_unpacker_init(&body, bytes, size_bytes);
    (void)tr_unpack_array(&body, UINT32_MAX);
    if (!tr_step_record_unpack(&body, &record)) return;
    tr_packer packer;
    void *written;
    size_t n_written;
    tr_error err = {0};
    tr_step_record_pack(&packer, &record);
    FUZZ_PROMISE(tr_packer_take(&packer, &written, &n_written, &err) == TR_OK);
    tr_unpacker_init(&body, written, n_written);
    (void)tr_unpack_array(&body, UINT32_MAX);
    FUZZ_PROMISE(tr_step_record_unpack(&body, &again));
    FUZZ_PROMISE(again.step == record.step && again.tokens == record.tokens && again.epoch == record.epoch);
    FUZZ_PROMISE(memcmp(&again.loss, &record.loss, sizeof record.loss) == 0); /* a NaN too */
    tr_free(written);
}

static void check_spans(const uint8_t *bytes, size_t size_bytes)
{
    tr_unpacker body;
    tr_span spans[TR_TRACE_FRAME_SPANS];
    uint32_t n = 0;
    uint64_t n_dropped;
    tr_unpacker_init(&body, bytes, size_bytes);
    uint32_t n_fields = tr_unpack_array(&body, UINT32_MAX);
    if (!tr_trace_unpack(&body, n_fields, spans, &n, &n_dropped)) return;
    FUZZ_PROMISE(n <= TR_TRACE_FRAME_SPANS);
    for (uint32_t i = 0; i < n; i++)
        FUZZ_PROMISE(spans[i].begin_ns <= spans[i].end_ns && tr_span_name(spans[i].kind));
}

/* The header of a memory file that an agent hands to a worker: the slots it tells lie inside it. */
static void check_region(const uint8_t *bytes, size_t size_bytes)
{
    enum { PAGES = 3 * 4096 };
    int descriptor = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_PROMISE(descriptor >= 0 && write(descriptor, bytes, size_bytes) == (ssize_t)size_bytes);
    FUZZ_PROMISE(size_bytes > PAGES || ftruncate(descriptor, PAGES) == 0);
    tr_state_region *region;
    tr_error err = {0};
    tr_status status = tr_state_region_open(&region, descriptor, &err);
    if (status) {
        fuzz_refused(status, &err);
        close(descriptor);
        return;
    }
    uint64_t slot_bytes = tr_state_region_slot_bytes(region);
    for (int slot = 0; slot < 2; slot++) {
        (void)tr_state_generation(region, slot);
        if (slot_bytes) memset(tr_state_slot(region, slot), slot, slot_bytes);
    }
    tr_state_region_destroy(&region); /* and the descriptor */
}

/* What an agent without a head says to a new one. */
static void check_offer(const uint8_t *bytes, size_t size_bytes)
{
    int descriptor = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_PROMISE(descriptor >= 0 && write(descriptor, bytes, size_bytes) == (ssize_t)size_bytes);
    tr_lease_offer offer;
    tr_error err = {0};
    tr_status status = tr_lease_offer_read(&offer, descriptor, &err);
    close(descriptor);
    if (status) {
        fuzz_refused(status, &err);
    } else {
        FUZZ_PROMISE(offer.agent_pid > 0 && strlen(offer.bind) < TR_BIND_CHARS);
        for (int32_t i = 0; i < offer.topology.n_nodes; i++) FUZZ_PROMISE(offer.workers[i].pid >= 0);
        FUZZ_PROMISE(tr_lease_offer_write(&offer, &descriptor, &err) == TR_OK);
        close(descriptor);
    }
    tr_lease_offer_release(&offer);
}

/* And to its workers. */
static void check_word(const uint8_t *bytes, size_t size_bytes)
{
    int ends[2];
    FUZZ_PROMISE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    FUZZ_PROMISE(send(ends[0], bytes, size_bytes, MSG_NOSIGNAL) == (ssize_t)size_bytes);
    tr_lease_word word = {0};
    bool gone;
    if (tr_lease_hear(ends[1], &word, &gone)) FUZZ_PROMISE(strlen(word.head_address) < TR_ADDRESS_CHARS);
    close(ends[0]);
    close(ends[1]);
}

/* Of a job with two actors on two nodes, the second with a state. */
static void check_homes(const uint8_t *bytes, size_t size_bytes)
{
    tr_actor_spec actors[2] = {{.id = 1, .node = 0}, {.id = 2, .node = 1, .state_bytes = 4096}};
    const tr_topology topology = {.n_nodes = 2, .threads_per_node = 1, .actors = actors, .n_actors = 2};
    tr_homes homes;
    tr_error err = {0};
    if (!tr_homes_peek(&homes, bytes, size_bytes, &err) && homes.topology_bytes) {
        const uint8_t *at = homes.topology;
        FUZZ_PROMISE(at >= bytes && at + homes.topology_bytes <= bytes + size_bytes);
    }
    tr_status status = tr_homes_decode(&homes, bytes, size_bytes, &topology, &err);
    if (status) {
        fuzz_refused(status, &err);
        return;
    }
    FUZZ_PROMISE(homes.n_nodes == 2 && homes.n_members <= TR_MAX_MEMBERS && homes.n_states <= 1);
    for (int32_t n = 0; n < 2; n++) FUZZ_PROMISE(homes.home[n] >= -1 && homes.home[n] < homes.n_members);
    for (uint32_t i = 0; i < homes.n_states; i++) {
        const tr_state_home *state = &homes.states[i];
        FUZZ_PROMISE(state->actor == 1 && state->source_actor == 1);
        FUZZ_PROMISE(state->source < homes.n_members && state->copy < homes.n_members);
    }
    tr_homes_release(&homes);
}

static void check_former(const uint8_t *bytes, size_t size_bytes)
{
    tr_actor_spec actors[2] = {{.id = 1, .node = 0}, {.id = 2, .node = 1, .state_bytes = 4096}};
    const tr_topology topology = {.n_nodes = 2, .threads_per_node = 1, .actors = actors, .n_actors = 2};
    tr_former former;
    tr_error err = {0};
    tr_status status = tr_former_decode(&former, bytes, size_bytes, &topology, &err);
    if (status) {
        fuzz_refused(status, &err);
        return;
    }
    FUZZ_PROMISE(former.n_states <= 1 && former.n_agents >= 0 && former.n_agents <= TR_MAX_MEMBERS);
    for (uint32_t i = 0; i < former.n_states; i++) FUZZ_PROMISE(former.states[i].actor == 1);
    tr_former_release(&former);
}

static void check_part(const uint8_t *bytes, size_t size_bytes)
{
    tr_slot_part part;
    tr_error err = {0};
    tr_status status = tr_slot_part_decode(&part, bytes, size_bytes, &err);
    if (status) {
        fuzz_refused(status, &err);
        return;
    }
    const uint8_t *begin = part.bytes;
    FUZZ_PROMISE(!part.n_bytes || (begin >= bytes && begin + part.n_bytes <= bytes + size_bytes));
}

static void check_seen(const uint8_t *bytes, size_t size_bytes)
{
    tr_worker_seen seen;
    tr_error err = {0};
    tr_status status = tr_worker_seen_decode(&seen, bytes, size_bytes, &err);
    if (status)
        fuzz_refused(status, &err);
    else
        FUZZ_PROMISE(seen.node > 0 && seen.pid > 0 && seen.process <= TR_PROCESS_GONE);
}

static void check_wish(const uint8_t *bytes, size_t size_bytes)
{
    tr_join_request wish, mine = {.version = "1", .run = "run"};
    tr_error err = {0};
    tr_status status = tr_join_request_decode(&wish, bytes, size_bytes, &err);
    if (!status) status = tr_join_request_compare(&mine, &wish, &err);
    if (status) FUZZ_PROMISE(err.message[0]);
}

/* Memory that is offered, here to a CPU: what reads well is of no process of this host, or not what its sender wrote. */
static void check_link(const uint8_t *bytes, size_t size_bytes)
{
    enum { SLOTS = 2, SLOT_BYTES = 300 };
    tr_device *device;
    tr_stream *stream;
    tr_link_view view;
    tr_unpacker offer;
    tr_error err = {0};
    FUZZ_PROMISE(tr_device_open(&device, TR_DEVICE_CPU, 0, &err) == TR_OK);
    FUZZ_PROMISE(tr_stream_new(&stream, device, &err) == TR_OK);
    tr_unpacker_init(&offer, bytes, size_bytes);
    tr_status status = tr_link_view_open(&view, stream, &offer, SLOTS, SLOT_BYTES, &err);
    if (status) fuzz_refused(status, &err);
    FUZZ_PROMISE(!status == !!view.memory);
    tr_link_view_close(&view);
    tr_stream_destroy(&stream);
    tr_device_close(&device);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    if (size_bytes < 1) return 0;
    const uint8_t *body = bytes + 1;
    size_bytes--;
    switch (bytes[0]) {
    case 't': check_topology(body, size_bytes); break;
    case 'l': check_load(body, size_bytes); break;
    case 'h': check_message(body, size_bytes, false); break;
    case 'n': check_message(body, size_bytes, true); break;
    case 'c': check_launch(body, size_bytes); break;
    case 'p': check_place(body, size_bytes); break;
    case 'r': check_record(body, size_bytes); break;
    case 's': check_spans(body, size_bytes); break;
    case 'o': check_offer(body, size_bytes); break;
    case 'w': check_word(body, size_bytes); break;
    case 'g': check_change(body, size_bytes); break;
    case 'm': check_region(body, size_bytes); break;
    case 'H': check_homes(body, size_bytes); break;
    case 'P': check_part(body, size_bytes); break;
    case 'F': check_former(body, size_bytes); break;
    case 'J': check_wish(body, size_bytes); break;
    case 'A': check_seen(body, size_bytes); break;
    case 'f': check_fault(body, size_bytes); break;
    case 'L': check_link(body, size_bytes); break;
    default: return -1; /* not worth keeping */
    }
    return 0;
}
