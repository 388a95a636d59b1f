/* test/fuzz/message_seeds.c - seeds of all that processes of a job tell each other; see seeds.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/device_link.h"
#include "actors/monitor.h"
#include "fuzz.h"
#include "pipelines/job_plan.h"
#include "pipelines/run_directory.h"
#include "runtime/change.h"
#include "runtime/control_messages.h"
#include "runtime/host_activity.h"
#include "runtime/host_messages.h"
#include "runtime/launch.h"
#include "runtime/lease.h"
#include "runtime/state.h"
#include "runtime/supervisor.h"
#include "seeds.h"

#include <sys/socket.h>

static tr_error err;

static void seed_packed(const char *name, char kind, tr_packer *packer)
{
    void *bytes;
    size_t size;
    MUST(tr_packer_take(packer, &bytes, &size, &err));
    seed("message", name, &kind, 1, bytes, size);
    if (kind == 'p') { /* the form that changes most */
        tr_place place;
        MUST(tr_place_unpack(&place, bytes, size, &err));
        tr_place_release(&place);
    }
    tr_free(bytes);
}

/* Of the topology's one worker. */
static void make_lease(const tr_topology *topology)
{
    tr_place_seen workers[2] = {{0}, {.pid = 12, .descriptor = 3, .started = 99}};
    tr_lease_offer offer = {
        .agent_pid = 11, .epoch = 2, .lost_ns = 1000, .workers = workers, .topology = *topology};
    strcpy(offer.data_transport, "ucx");
    int descriptor;
    char bytes[4096];
    MUST(tr_lease_offer_write(&offer, &descriptor, &err));
    ssize_t size = pread(descriptor, bytes, sizeof bytes, 0);
    FUZZ_PROMISE(size > 0);
    close(descriptor);
    seed("message", "offer", "o", 1, bytes, (size_t)size);

    const tr_lease_word words[] = {{.epoch = 3, .head_address = "ipc:///tmp/head"},
                                   {.layout = 4, .may_spin = true, .n_states = 2}};
    int ends[2];
    FUZZ_PROMISE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    for (int i = 0; i < 2; i++) {
        FUZZ_PROMISE(tr_lease_tell(ends[0], &words[i]));
        size = recv(ends[1], bytes, sizeof bytes, 0);
        FUZZ_PROMISE(size > 0);
        seed("message", i ? "word-memory" : "word", "w", 1, bytes, (size_t)size);
    }
    close(ends[0]);
    close(ends[1]);
}

void make_topology(void)
{
    tr_topology topology;
    tr_actor_id head, stage;
    tr_topology_init(&topology, 2);
    MUST(tr_topology_add_actor(&topology, "monitor", "monitor", 0, NULL, 0, 0, &head, &err));
    MUST(tr_topology_add_actor(&topology, "stage 0", "stage", 1, "config", 6, 4096, &stage, &err));
    MUST(tr_topology_add_edge(&topology, "loss", stage, head, 2, 64, NULL, &err));
    MUST(tr_topology_supervise(&topology, head, stage, &err));
    void *bytes;
    size_t size;
    MUST(tr_topology_encode(&topology, &bytes, &size, &err));
    seed("message", "topology", "t", 1, bytes, size);

    tr_launch launch = {
        .role = TR_LAUNCH_WORKER, .node = 1, .n_threads = 1, .topology = bytes, .topology_bytes = size};
    strcpy(launch.control_transport, "zmq");
    strcpy(launch.data_transport, "ucx");
    strcpy(launch.head_address, "ipc:///tmp/head");
    void *written;
    size_t n_written;
    MUST(tr__launch_encode(&launch, &written, &n_written, &err));
    seed("message", "launch", "c", 1, written, n_written);
    tr_free(written);

    const tr_control_address addresses[2] = {{"ipc:///tmp/head", ""}, {"ipc:///tmp/worker", "00ff"}};
    MUST(tr_control_encode_load(&topology, addresses, 7, &written, &n_written, &err));
    seed("message", "load", "l", 1, written, n_written);
    tr_free(written);

    const tr_state_move moves[] = {{2, 1, 0, 64, 32}, {2, 7, 32, 0, 4064}};
    const int32_t leaving = 1;
    const tr_change change = {.topology = &topology,
                              .generation = 9,
                              .moves = moves,
                              .n_moves = 2,
                              .leaving = &leaving,
                              .n_leaving = 1};
    MUST(tr_change_encode(&change, 3, 4, &written, &n_written, &err));
    seed("message", "change", "g", 1, written, n_written);
    tr_free(written);
    const int32_t home_of[] = {-1, 0, 1, 0}, copy_of[] = {-1, 1, -1, -1, -1, -1, -1, -1};
    const tr_state_fetch fetch = {.actor = 1, .from = 0, .to = 1};
    tr_change on_hosts = change;
    on_hosts.home = home_of;
    on_hosts.copy = copy_of;
    on_hosts.fetches = &fetch;
    on_hosts.n_fetches = 1;
    MUST((size_t)topology.n_nodes <= sizeof home_of / sizeof *home_of &&
                 topology.n_actors <= sizeof copy_of / sizeof *copy_of
             ? TR_OK
             : TR_EINVAL);
    MUST(tr_change_encode(&on_hosts, 3, 4, &written, &n_written, &err));
    seed("message", "change-hosts", "g", 1, written, n_written);
    tr_free(written);
    tr_free(bytes);
    make_lease(&topology);
    tr_topology_release(&topology);
}

void make_hosts(void)
{
    int32_t homes_of[2] = {-1, 1};
    char addresses[2][TR_BIND_CHARS] = {"tcp://10.0.0.5:40000", "tcp://10.0.0.6:40000"};
    tr_state_home state = {.actor = 1, .source = 0, .source_actor = 1, .copy = 0};
    const tr_homes homes = {.epoch = 2,
                            .n_members = 2,
                            .n_nodes = 2,
                            .n_states = 1,
                            .addresses = addresses,
                            .home = homes_of,
                            .states = &state};
    const tr_slot_part part = {
        .actor = 1, .generation = 7, .hash = 9, .offset_bytes = 4096, .bytes = "bytes", .n_bytes = 5};
    const tr_join_request wish = {
        .version = "1", .program = 1, .numerics = "avx", .name = "host", .run = "run"};
    void *bytes;
    size_t size;
    MUST(tr_homes_encode(&homes, &bytes, &size, &err));
    seed("message", "homes", "H", 1, bytes, size);
    tr_free(bytes);
    tr_former_state held = {.actor = 1, .generations = {7, 6}, .hashes = {9, 8}};
    const tr_former former = {.term = 40, .epoch = 2, .n_agents = 1, .n_states = 1, .states = &held};
    MUST(tr_former_encode(&former, &bytes, &size, &err));
    seed("message", "former", "F", 1, bytes, size);
    tr_free(bytes);
    MUST(tr_slot_part_encode(&part, &bytes, &size, &err));
    seed("message", "slot-part", "P", 1, bytes, size);
    tr_free(bytes);
    MUST(tr_join_request_encode(&wish, &bytes, &size, &err));
    seed("message", "wish", "J", 1, bytes, size);
    tr_free(bytes);
    tr_worker_seen seen = {.node = 1, .pid = 4711, .resident_bytes = 1 << 20, .now_ns = 5000};
    seen.page.records[0] = (tr_activity_record){.actor = 2, .what = "forward", .step = 3, .since_ns = 4000};
    MUST(tr_worker_seen_encode(&seen, &bytes, &size, &err));
    seed("message", "seen", "A", 1, bytes, size);
    tr_free(bytes);
}

/* These are written on their way to a node only, so field by field here: see control_messages.c, job_plan.c. */
void make_messages(const char *recipe)
{
    tr_packer packer;
    begin_packed(&packer, 9);
    tr_pack_int(&packer, 4711);
    for (unsigned i = 0; i < 6; i++) tr_pack_uint(&packer, i % 2);
    tr_pack_text(&packer, "ipc:///tmp/head");
    tr_pack_text(&packer, "");
    seed_packed("hello", 'h', &packer);

    begin_packed(&packer, 11);
    tr_pack_int(&packer, 1);
    tr_pack_int(&packer, 4711);
    tr_pack_int(&packer, -1);
    for (int i = 0; i < 7; i++) tr_pack_uint(&packer, 9);
    tr_pack_text(&packer, "killed by signal 9");
    seed_packed("note", 'n', &packer);
    const uint64_t deaf[] = {6, 2, 1, 700, 4711};
    begin_packed(&packer, 5);
    for (int i = 0; i < 5; i++) tr_pack_uint(&packer, deaf[i]);
    seed_packed("fault", 'f', &packer);

    begin_packed(&packer, 34);
    for (unsigned i = 1; i <= 23; i++) tr_pack_uint(&packer, i);
    tr_pack_f64(&packer, 1);
    tr_pack_uint(&packer, 0);
    tr_pack_text(&packer, "");
    for (int i = 0; i < 6; i++) tr_pack_uint(&packer, 0);
    tr_pack_bytes(&packer, "", 0);
    tr_pack_bytes(&packer, recipe, strlen(recipe));
    seed_packed("place", 'p', &packer);

    const uint8_t handle[TR_DEVICE_HANDLE_BYTES] = {1}; /* of no boot of any machine */
    begin_packed(&packer, 5);
    for (int i = 0; i < 4; i++) tr_pack_uint(&packer, (const uint64_t[]){7, 2, 512, 1024}[i]);
    tr_pack_bytes(&packer, handle, sizeof handle);
    seed_packed("link", 'L', &packer);

    tr_step_record record = {.step = 1, .loss = 5.5, .tokens = 512, .has_validation = true};
    tr_step_record_pack(&packer, &record);
    seed_packed("record", 'r', &packer);

    tr_packer_init(&packer);
    tr_pack_array(&packer, 6); /* none dropped; kind, step, micro-batch, begin, length */
    for (unsigned i = 0; i < 6; i++) tr_pack_uint(&packer, i);
    seed_packed("spans", 's', &packer);
}
