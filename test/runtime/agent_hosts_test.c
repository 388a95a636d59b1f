/* test/runtime/agent_hosts_test.c - an agent of a job on several hosts, whose head and other agents are played: what becomes of a
 * worker that is another host's, and its own again before its process has ended; that it hears what is said to it however large the
 * states are that it has in hand; whom it misses.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent.h"

#include "base/clock.h"
#include "base/memory.h"
#include "check.h"
#include "runtime/change.h"
#include "runtime/control_messages.h"
#include "runtime/host_messages.h"
#include "runtime/job.h"
#include "runtime/state.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum {
    NODES = 3, /* two workers at most */
    ME = 1,
    AGENT = NODES + ME,
    ROUNDS = 5,
    PATIENCE_MS = 60000,
    CHILD_S = 120,
    SILENCE_MS = 1600,
    GENERATION = 4
};
static const uint64_t LARGE_BYTES = (uint64_t)256 << 20; /* takes longer than an agent may be away for */

static tr_error err;
static tr_node *head, *other; /* other: the agent of member 0 */
static pthread_t thread;
static tr_launch launch;
static tr_topology topology;
static int32_t started, n_started, n_ended; /* the pid of the worker that the agent told of last */
static int32_t n_prepared, n_come_on, n_cut_off;
static uint32_t prepared;  /* the layout that was answered for last */
static bool keeps_beating; /* head and other agent */

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    (void)context, (void)peer;
    tr_control_note note;
    n_come_on += message->frame.edge == TR_CONTROL_COMES_ON;
    if (message->frame.edge == TR_CONTROL_HELLO || tr_control_read_note(message, &note, NULL) != TR_OK)
        return;
    if (message->frame.edge == TR_CONTROL_WORKER_STARTED) {
        started = note.pid;
        n_started++;
    }
    n_ended += message->frame.edge == TR_CONTROL_WORKER_ENDED;
    n_prepared += message->frame.edge == TR_CONTROL_PREPARED;
    if (message->frame.edge == TR_CONTROL_PREPARED) prepared = note.layout;
    n_cut_off += message->frame.edge == TR_CONTROL_CUT_OFF && note.node == NODES && note.silent_ns > 0;
}

static void on_peer_lost(void *context, int32_t who, bool control, const char *reason)
{
    (void)context, (void)who, (void)control, (void)reason;
}

/* home: of worker 1 and 2; address: of member 0; state: what worker 2 begins with, or NULL. */
static void tell_homes_of(uint32_t epoch, int32_t one, int32_t two, const char *address, tr_state_home *state)
{
    char addresses[2][TR_BIND_CHARS] = {"", ""};
    int32_t homes_of[NODES] = {-1, one, two};
    snprintf(addresses[0], TR_BIND_CHARS, "%s", address);
    const tr_homes homes = {.epoch = epoch,
                            .n_members = 2,
                            .n_nodes = NODES,
                            .addresses = addresses,
                            .home = homes_of,
                            .n_states = state != NULL,
                            .states = state};
    void *bytes = NULL;
    size_t size = 0;
    CHECK_OK(tr_homes_encode(&homes, &bytes, &size, &err));
    tr_node_send_system(head, AGENT, TR_CONTROL_HOMES, bytes, (uint32_t)size);
    tr_free(bytes);
}

static void tell_homes(uint32_t epoch, int32_t home)
{
    tell_homes_of(epoch, home, 0, "", NULL);
}

static void step(tr_node *node)
{
    if (!node) return;
    tr_node_progress(node);
    while (tr_node_runnable(node) > 0) tr_node_step(node, 0);
}

static void step_all(void)
{
    step(head);
    step(other);
    if (keeps_beating) tr_node_send_system(head, AGENT, TR_CONTROL_BEAT, NULL, 0);
    if (keeps_beating && other) tr_node_send_system(other, AGENT, TR_CONTROL_BEAT, NULL, 0);
    tr_clock_sleep_ms(1);
}

static bool comes_to_within(uint64_t ms, const int32_t *count, int32_t n)
{
    uint64_t until_ns = tr_clock_ns() + ms * 1000000;
    while (*count < n && !CHECK_LATE(until_ns)) step_all();
    return *count >= n;
}

static bool comes_to(const int32_t *count, int32_t n)
{
    return comes_to_within(PATIENCE_MS, count, n);
}

static void *run_agent(void *context)
{
    tr_error why;
    if (tr_agent_run(context, -1, NULL, &why) != TR_OK) fprintf(stderr, "the agent: %s\n", why.message);
    return NULL;
}

static tr_node *open_node(int32_t id)
{
    static const tr_registry nothing;
    tr_node *node = NULL;
    const tr_node_options options = {.node = id,
                                     .incarnation = 1,
                                     .epoch = 1,
                                     .n_threads = 1,
                                     .control_transport = "inproc",
                                     .registry = &nothing,
                                     .on_system = on_system,
                                     .on_peer_lost = on_peer_lost};
    CHECK_OK(tr_node_new(&node, &options, &err));
    CU_ASSERT_FATAL(node != NULL);
    tr_node_begin(node, 0, NULL);
    return node;
}

static void make_topology(tr_topology *made, uint64_t state_bytes)
{
    tr_topology_init(made, NODES);
    CHECK_OK(tr_topology_add_actor(made, "one", "kind", 1, NULL, 0, state_bytes, NULL, &err));
    CHECK_OK(tr_topology_add_actor(made, "two", "kind", 2, NULL, 0, state_bytes, NULL, &err));
}

/* An agent beside a head; both workers have so much state. */
static void begin(uint64_t state_bytes, uint32_t silence_ms)
{
    launch = (tr_launch){.role = TR_LAUNCH_AGENT,
                         .parent_pid = getpid(),
                         .node = AGENT,
                         .incarnation = 1,
                         .epoch = 1,
                         .n_threads = 1,
                         .member = ME,
                         .hosted = true,
                         .silence_ms = silence_ms,
                         .control_transport = "inproc",
                         .data_transport = "inproc"};
    started = n_started = n_ended = n_prepared = n_come_on = n_cut_off = 0;
    keeps_beating = silence_ms > 0;
    head = open_node(TR_NODE_HEAD);
    make_topology(&topology, state_bytes);
    CHECK_OK(tr_topology_encode(&topology, &launch.topology, &launch.topology_bytes, &err));
    snprintf(launch.head_address, sizeof launch.head_address, "%s", tr_node_control_address(head));
    CU_ASSERT_FATAL(pthread_create(&thread, NULL, run_agent, &launch) == 0);
    tr_clock_sleep_ms(50); /* until it has greeted: what is said before is lost */
    for (int i = 0; i < 50; i++) step_all();
}

static void end(void)
{
    tr_control_send_note(head, AGENT, TR_CONTROL_STOP, &(tr_control_note){0});
    CU_ASSERT(comes_to(&n_ended, n_started));
    pthread_join(thread, NULL);
    tr_node_destroy(&other);
    tr_node_destroy(&head);
    tr_topology_release(&topology);
    tr_launch_release(&launch);
}

/* --- workers --- */

/* Killed because it was another's, it is missed by nobody but this agent. */
static void a_worker_that_comes_back_before_it_has_gone_is_started_again(void)
{
    begin(0, 0);
    uint32_t epoch = 2;
    tell_homes(epoch, ME);
    CU_ASSERT(comes_to(&n_started, 1));
    for (int32_t round = 0; round < ROUNDS && n_started == 1 + round; round++) {
        int32_t before = started;
        tell_homes(++epoch, 0);
        tell_homes(++epoch, ME);
        CU_ASSERT(comes_to(&n_started, 2 + round));
        CU_ASSERT(started != before && kill(before, 0) != 0);
    }
    CU_ASSERT(n_ended == ROUNDS);
    end();
}

/* --- large states --- */

/* Nothing is dealt out of anything, which is a state of zeros; forgotten on the way, it is never answered. */
static void prepare(uint32_t layout, const tr_topology *next)
{
    static const int32_t home[NODES] = {-1, ME, ME}, copy[2] = {-1, -1};
    const tr_change change = {.topology = next, .generation = GENERATION, .home = home, .copy = copy};
    void *bytes = NULL;
    size_t size = 0;
    CHECK_OK(tr_change_encode(&change, 1, layout, &bytes, &size, &err));
    tr_node_send_system(head, AGENT, TR_CONTROL_PREPARE, bytes, (uint32_t)size);
    tr_free(bytes);
}

static void an_agent_hears_what_is_said_while_it_deals_out(void)
{
    tr_topology small;
    begin(LARGE_BYTES, 0);
    make_topology(&small, 1);
    prepare(2, &topology);
    tr_node_send_system(head, AGENT, TR_CONTROL_FORGET, NULL, 0);
    prepare(3, &small); /* so that there is an answer to wait for */
    CU_ASSERT(comes_to(&n_prepared, 1));
    CU_ASSERT_EQUAL(prepared, 3); /* to the first there was none */
    tr_topology_release(&small);
    end();
}

/* The worker has published; see play_worker. The file of its memory is a new one here. */
static tr_state_region *state_of_worker(int32_t pid)
{
    char path[64];
    tr_state_region *region = NULL;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, TR_LAUNCH_FIRST_INHERITED + 1);
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    CU_ASSERT_FATAL(descriptor >= 0 && tr_state_region_open(&region, descriptor, &err) == TR_OK);
    return region;
}

static void begin_with_a_state(void)
{
    begin(LARGE_BYTES, 0);
    tell_homes(2, ME);
    CU_ASSERT_FATAL(comes_to(&n_started, 1));
    uint64_t until_ns = tr_clock_ns() + (uint64_t)PATIENCE_MS * 1000000;
    tr_state_region *region = state_of_worker(started);
    while (tr_state_generation(region, 0) != GENERATION && !CHECK_LATE(until_ns)) step_all();
    CU_ASSERT(tr_state_generation(region, 0) == GENERATION);
    tr_state_region_destroy(&region);
}

static void a_worker_begins_with_the_copy_of_an_equals_state(void)
{
    tr_state_home state = {.actor = 1, .source = ME, .source_actor = 0, .copy = -1};
    begin_with_a_state();
    tell_homes_of(3, ME, ME, "", &state);
    CU_ASSERT(comes_to(&n_started, 2));
    tr_state_region *region = state_of_worker(started);
    CU_ASSERT_EQUAL(tr_state_find_whole(region, GENERATION), 0);
    tr_state_region_destroy(&region);
    CU_ASSERT(n_come_on > 0); /* the head heard of it meanwhile */
    end();
}

static void an_agent_hears_what_is_said_while_it_copies(void)
{
    tr_state_home state = {.actor = 1, .source = ME, .source_actor = 0, .copy = -1};
    begin_with_a_state();
    tell_homes_of(3, ME, ME, "", &state);
    tr_control_send_note(head, AGENT, TR_CONTROL_STOP, &(tr_control_note){.grace_ms = 100});
    CU_ASSERT(comes_to(&n_ended, 1));
    CU_ASSERT_EQUAL(n_started, 1); /* else the second one would have begun first */
    end();
}

static void send_part(uint64_t offset_bytes)
{
    static char bytes[TR_SLOT_PART_BYTES];
    const tr_slot_part part = {.generation = GENERATION,
                               .hash = 99,
                               .offset_bytes = offset_bytes,
                               .bytes = bytes,
                               .n_bytes = sizeof bytes};
    void *body = NULL;
    size_t size = 0;
    CHECK_OK(tr_slot_part_encode(&part, &body, &size, &err));
    tr_node_send_system(other, AGENT, TR_CONTROL_SLOT, body, (uint32_t)size);
    tr_free(body);
}

/* Else a slot that never matches its hash would be waited for without end. */
static void what_comes_once_more_is_no_progress(void)
{
    tr_state_home state = {.actor = 0, .source = 0, .source_actor = 0, .copy = -1};
    begin(4 * TR_SLOT_PART_BYTES, 0);
    other = open_node(NODES);
    tell_homes_of(2, ME, 0, tr_node_control_address(other), &state);
    for (int i = 0; i < 100; i++) step_all(); /* the agent connects */
    send_part(0);
    CU_ASSERT(comes_to(&n_come_on, 1));
    for (int round = 0; round < 15; round++) { /* longer than it is silent for at most */
        send_part(0);
        CU_ASSERT(!comes_to_within(100, &n_come_on, 2));
    }
    send_part(TR_SLOT_PART_BYTES);
    CU_ASSERT(comes_to(&n_come_on, 2));
    CU_ASSERT_EQUAL(n_started, 0);
    end();
}

/* --- other agents --- */

static void an_agent_that_is_not_heard_is_missed(void)
{
    begin(0, SILENCE_MS);
    tell_homes_of(2, 0, 0, "inproc://nobody", NULL);
    CU_ASSERT(!comes_to_within(SILENCE_MS / 2, &n_cut_off, 1));
    CU_ASSERT(comes_to(&n_cut_off, 2)); /* it says so as long as it is so */
    other = open_node(NODES);
    tell_homes_of(3, 0, 0, tr_node_control_address(other), NULL);
    for (int i = 0; i < 200; i++) step_all();
    n_cut_off = 0;
    CU_ASSERT(!comes_to_within(2 * SILENCE_MS, &n_cut_off, 1));
    tr_node_destroy(&other); /* a link that breaks, while the head is well */
    CU_ASSERT(comes_to(&n_cut_off, 1));
    end();
}

static const check_test tests[] = {
    CHECK_TEST(a_worker_that_comes_back_before_it_has_gone_is_started_again),
    CHECK_TEST(an_agent_hears_what_is_said_while_it_deals_out),
    CHECK_TEST(a_worker_begins_with_the_copy_of_an_equals_state),
    CHECK_TEST(an_agent_hears_what_is_said_while_it_copies),
    CHECK_TEST(what_comes_once_more_is_no_progress),
    CHECK_TEST(an_agent_that_is_not_heard_is_missed),
};

/* A worker that does nothing, but to publish its state if it has one: it ends with its agent's thread, or when it is killed. */
static int play_worker(void)
{
    tr_launch its;
    tr_state_region *region = NULL;
    alarm(CHILD_S);
    tr_status status = tr_launch_receive(&its, &err);
    int32_t node = its.node, n_states = its.n_states;
    tr_launch_release(&its);
    if (status != TR_OK) return 1;
    if (n_states && node == 1 &&
        tr_state_region_open(&region, dup(TR_LAUNCH_FIRST_INHERITED + 1), &err) == TR_OK) {
        memset(tr_state_slot(region, 0), 7, LARGE_BYTES);
        tr_state_publish(region, 0, GENERATION, NULL);
    }
    for (;;) pause();
}

int main(int argc, char **argv)
{
    if (tr_job_is_child(argc, argv)) return play_worker();
    return check_run("agent_hosts", tests, sizeof tests / sizeof *tests);
}
