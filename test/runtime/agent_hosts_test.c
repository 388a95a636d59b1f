/* test/runtime/agent_hosts_test.c - an agent of a job on several hosts, whose head is played: what becomes of a worker that is
 * another host's, and its own again before its process has ended.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent.h"

#include "base/clock.h"
#include "base/memory.h"
#include "check.h"
#include "runtime/control_messages.h"
#include "runtime/host_messages.h"
#include "runtime/job.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { NODES = 2, ME = 1, AGENT = NODES + ME, ROUNDS = 5, PATIENCE_MS = 10000, CHILD_S = 60 };

static tr_error err;
static tr_node *head;
static int32_t started, n_started, n_ended; /* the pid of worker 1, as the agent told last */

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    (void)context, (void)peer;
    tr_control_note note;
    if (message->frame.edge == TR_CONTROL_HELLO || tr_control_read_note(message, &note, NULL) != TR_OK)
        return;
    if (message->frame.edge == TR_CONTROL_WORKER_STARTED) {
        started = note.pid;
        n_started++;
    }
    n_ended += message->frame.edge == TR_CONTROL_WORKER_ENDED;
}

static void on_peer_lost(void *context, int32_t who, bool control, const char *reason)
{
    (void)context, (void)who, (void)control, (void)reason;
}

static void tell_homes(uint32_t epoch, int32_t home)
{
    char addresses[2][TR_BIND_CHARS] = {"", ""};
    int32_t homes_of[NODES] = {-1, home};
    const tr_homes homes = {
        .epoch = epoch, .n_members = 2, .n_nodes = NODES, .addresses = addresses, .home = homes_of};
    void *bytes = NULL;
    size_t size = 0;
    CHECK_OK(tr_homes_encode(&homes, &bytes, &size, &err));
    tr_node_send_system(head, AGENT, TR_CONTROL_HOMES, bytes, (uint32_t)size);
    tr_free(bytes);
}

static bool comes_to(const int32_t *count, int32_t n)
{
    uint64_t until_ns = tr_clock_ns() + (uint64_t)PATIENCE_MS * 1000000;
    while (*count < n && !CHECK_LATE(until_ns)) {
        tr_node_progress(head);
        while (tr_node_runnable(head) > 0) tr_node_step(head, 0);
        tr_clock_sleep_ms(1);
    }
    return *count >= n;
}

static void *run_agent(void *launch)
{
    tr_error why;
    if (tr_agent_run(launch, -1, NULL, &why) != TR_OK) fprintf(stderr, "the agent: %s\n", why.message);
    return NULL;
}

static void open_head(void)
{
    static const tr_registry nothing;
    const tr_node_options options = {.node = TR_NODE_HEAD,
                                     .incarnation = 1,
                                     .epoch = 1,
                                     .n_threads = 1,
                                     .control_transport = "inproc",
                                     .registry = &nothing,
                                     .on_system = on_system,
                                     .on_peer_lost = on_peer_lost};
    started = n_started = n_ended = 0;
    CHECK_OK(tr_node_new(&head, &options, &err));
    CU_ASSERT_FATAL(head != NULL);
    tr_node_begin(head, 0, NULL);
}

/* Killed because it was another's, it is missed by nobody but this agent. */
static void a_worker_that_comes_back_before_it_has_gone_is_started_again(void)
{
    tr_topology topology;
    pthread_t thread;
    tr_launch launch = {.role = TR_LAUNCH_AGENT,
                        .parent_pid = getpid(),
                        .node = AGENT,
                        .incarnation = 1,
                        .epoch = 1,
                        .n_threads = 1,
                        .member = ME,
                        .hosted = true,
                        .control_transport = "inproc",
                        .data_transport = "inproc"};
    open_head();
    tr_topology_init(&topology, NODES);
    CHECK_OK(tr_topology_add_actor(&topology, "one", "kind", 1, NULL, 0, 0, NULL, &err));
    CHECK_OK(tr_topology_encode(&topology, &launch.topology, &launch.topology_bytes, &err));
    snprintf(launch.head_address, sizeof launch.head_address, "%s", tr_node_control_address(head));
    CU_ASSERT_FATAL(pthread_create(&thread, NULL, run_agent, &launch) == 0);
    tr_clock_sleep_ms(50); /* until it has greeted: what is said before is lost */
    for (int i = 0; i < 10; i++) {
        tr_node_progress(head);
        while (tr_node_runnable(head) > 0) tr_node_step(head, 0);
        tr_clock_sleep_ms(5);
    }
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
    tr_control_send_note(head, AGENT, TR_CONTROL_STOP, &(tr_control_note){0});
    CU_ASSERT(comes_to(&n_ended, n_started));
    pthread_join(thread, NULL);
    tr_node_destroy(&head);
    tr_topology_release(&topology);
    tr_launch_release(&launch);
}

static const check_test tests[] = {
    CHECK_TEST(a_worker_that_comes_back_before_it_has_gone_is_started_again),
};

/* A worker that does nothing: it ends with its agent's thread, or when it is killed. */
static int play_worker(void)
{
    tr_launch launch;
    alarm(CHILD_S);
    tr_status status = tr_launch_receive(&launch, &err);
    tr_launch_release(&launch);
    if (status != TR_OK) return 1;
    for (;;) pause();
}

int main(int argc, char **argv)
{
    if (tr_job_is_child(argc, argv)) return play_worker();
    return check_run("agent_hosts", tests, sizeof tests / sizeof *tests);
}
