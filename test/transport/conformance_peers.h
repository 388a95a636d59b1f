/* test/transport/conformance_peers.h - the part of conformance.h in which peers are processes that are killed and
 * stopped. Within a process there are none: what dies there takes its peers along, and a node that is merely destroyed
 * is in conformance.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_CONFORMANCE_PEERS_H
#define TROUPE_TEST_TRANSPORT_CONFORMANCE_PEERS_H

#ifdef CONFORMANCE_PROCESSES
enum { N_FLOOD = 5000, FLOOD_MS = 1000, FLOOD_SEQUENCE = 77 };

/* Sends what is many times a high-water mark, for as long as the other side takes it; then holds still. */
static void flood_and_stop(node *self)
{
    for (uint32_t i = 0; i < N_FLOOD; i++) try_send(self, 1, i, &i, sizeof i);
    uint64_t end_ns = tr_clock_ns() + FLOOD_MS * 1000000ull;
    while (tr_transport_unsent(self->transport) && tr_clock_ns() < end_ns)
        tr_transport_progress(self->transport);
    raise(SIGSTOP);
}

/* The peer: echoes what it gets until its parent is gone. */
static int run_peer(const char *address, int32_t number)
{
    node *self = node_new(number);
    if (tr_transport_connect(self->transport, 1, address, NULL) != TR_OK) return 1;
    try_send(self, 1, 0, "here", 4);
    uint64_t end_ns = tr_clock_ns() + 60000000000u;
    while (!self->n_lost && tr_clock_ns() < end_ns) {
        if (tr_transport_progress(self->transport) == 0) sleep_until_woken(self->transport, 1000);
        for (tr_message *message; (message = node_take(self));) {
            if (message->frame.sequence == FLOOD_SEQUENCE) flood_and_stop(self);
            tr_transport_send(self->transport, 1, &message, NULL);
        }
    }
    node_destroy(&self);
    return 0;
}

static pid_t start_peer_as(const node *parent, const char *number)
{
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "peer", "peer", tr_transport_address(parent->transport), number,
              (char *)NULL);
        _exit(127);
    }
    return pid;
}

static pid_t start_peer(const node *parent)
{
    return start_peer_as(parent, "2");
}

static void end_peer(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void killed_peer_is_seen(void)
{
    node *a = node_new(1);
    pid_t pid = start_peer(a);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "x", 1), TR_OK);
    PROGRESS_UNTIL(a->n_arrived == 2, PATIENCE_MS, a);
    end_peer(pid);
    uint64_t start_ns = tr_clock_ns();
    PROGRESS_UNTIL(a->n_lost == 1, 5000, a);
    printf("[seen after %.1f ms: %s] ", (double)(tr_clock_ns() - start_ns) / 1e6, a->lost_reason);
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "x", 1), TR_ECLOSED);
    node_destroy(&a);
}

static void killed_peer_is_seen_by_a_sleeper(void)
{
    node *a = node_new(1);
    pid_t pid = start_peer(a);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
    end_peer(pid);
    uint64_t end_ns = tr_clock_ns() + 5000000000u;
    while (!a->n_lost && tr_clock_ns() < end_ns)
        if (tr_transport_progress(a->transport) == 0) sleep_until_woken(a->transport, 5000);
    CU_ASSERT_EQUAL(a->n_lost, 1);
    node_destroy(&a);
}

static void bodies_on_their_way_to_a_killed_peer_are_released(void)
{
    static char bytes[MAX_BODY_BYTES];
    tr_error err;
    int n_released = 0;
    node *a = node_new(1);
    pid_t pid = start_peer(a);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
    kill(pid, SIGSTOP);
    for (int i = 0; i < 4; i++) {
        tr_buffer *body;
        tr_message *message;
        CHECK_OK(tr_buffer_wrap(&body, bytes, sizeof bytes, count_release, &n_released, &err));
        CHECK_OK(tr_message_new(&message, body, sizeof bytes, &err));
        message->frame.kind = TR_FRAME_DATA;
        CHECK_OK(tr_transport_send(a->transport, 2, &message, &err));
        progress_all((node *[]){a, NULL});
    }
    CU_ASSERT(tr_transport_unsent(a->transport) > 0);
    end_peer(pid);
    PROGRESS_UNTIL(a->n_lost == 1, 5000, a);
    PROGRESS_UNTIL(__atomic_load_n(&n_released, __ATOMIC_RELAXED) == 4, 5000, a);
    CU_ASSERT_EQUAL(tr_transport_unsent(a->transport), 0);
    node_destroy(&a);
}

/* Long bodies, on their way there and back: over UCX each is within its rendezvous, announced, fetched or being copied. */
static void send_long_bodies(node *a, int n, char *bytes, int *n_released)
{
    tr_error err;
    for (int i = 0; i < n; i++) {
        tr_buffer *body;
        tr_message *message;
        CHECK_OK(tr_buffer_wrap(&body, bytes, MAX_BODY_BYTES, count_release, n_released, &err));
        CHECK_OK(tr_message_new(&message, body, MAX_BODY_BYTES, &err));
        message->frame.kind = TR_FRAME_DATA;
        CHECK_OK(tr_transport_send(a->transport, 2, &message, &err));
    }
}

static int take_right_bodies(node *a)
{
    int n = 0;
    for (tr_message *message; (message = node_take(a)); n++) {
        CU_ASSERT(body_is_right(message, MAX_BODY_BYTES));
        tr_message_destroy(&message);
    }
    return n;
}

static void a_kill_within_a_rendezvous_costs_no_bit(void)
{
    enum { N_BODIES = 4 };
    static const uint64_t kill_after_us[] = {0, 50, 200, 500, 1000, 2000, 4000, 8000, 16000, 30000};
    static char bytes[MAX_BODY_BYTES];
    int n_sending = 0, n_coming = 0, n_kept = 0;
    tr_error err;
    for (uint32_t i = 0; i < MAX_BODY_BYTES; i++) bytes[i] = (char)pattern(MAX_BODY_BYTES, i);
    for (size_t k = 0; k < sizeof kill_after_us / sizeof *kill_after_us; k++) {
        int n_released = 0;
        node *a = node_new(1);
        pid_t pid = start_peer(a);
        PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
        node_drain(a);
        send_long_bodies(a, N_BODIES, bytes, &n_released);
        uint64_t until_ns = tr_clock_ns() + kill_after_us[k] * 1000;
        do progress_all((node *[]){a, NULL});
        while (tr_clock_ns() < until_ns);
        n_sending += tr_transport_unsent(a->transport) > 0;
        end_peer(pid);
        PROGRESS_UNTIL(a->n_lost == 1, 5000, a);
        until_ns = tr_clock_ns() + 100000000u;
        do progress_all((node *[]){a, NULL});
        while (tr_transport_unsent(a->transport) && tr_clock_ns() < until_ns);
        n_kept +=
            tr_transport_unsent(a->transport) > 0;   /* UCX may hold them for as long as its worker lives */
        n_coming += take_right_bodies(a) < N_BODIES; /* a torn one would be here */

        CHECK_OK(tr_transport_renew(a->transport, 0, &err)); /* as the head does */
        PROGRESS_UNTIL(__atomic_load_n(&n_released, __ATOMIC_RELAXED) == N_BODIES, 5000, a);
        CU_ASSERT_EQUAL(tr_transport_unsent(a->transport), 0);
        int before = a->n_arrived;
        n_released = 0;
        pid = start_peer(a);
        PROGRESS_UNTIL(a->n_arrived == before + 1, PATIENCE_MS, a);
        node_drain(a);
        send_long_bodies(a, N_BODIES, bytes, &n_released);
        PROGRESS_UNTIL(a->n_arrived == before + 1 + N_BODIES, PATIENCE_MS, a);
        CU_ASSERT_EQUAL(take_right_bodies(a), N_BODIES);
        PROGRESS_UNTIL(__atomic_load_n(&n_released, __ATOMIC_RELAXED) == N_BODIES, PATIENCE_MS, a);
        end_peer(pid);
        node_destroy(&a);
    }
    printf(
        "[%d kills while bodies went, %d before all were back, %d times some were kept until the renewal] ",
        n_sending, n_coming, n_kept);
    CU_ASSERT(n_sending > 0 && n_coming >= n_sending);
}

static void peer_killed_while_it_sends_is_survived(void)
{
    static char bytes[MAX_BODY_BYTES];
    for (int round = 0; round < 5; round++) {
        node *a = node_new(1);
        pid_t pid = start_peer(a);
        PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
        for (uint32_t i = 0; i < 8; i++) try_send(a, 2, i, bytes, sizeof bytes);
        PROGRESS_UNTIL(a->n_arrived >= 2 + round, PATIENCE_MS, a); /* echoes are under way */
        end_peer(pid);
        PROGRESS_UNTIL(a->n_lost == 1, 5000, a);
        node_destroy(&a);
    }
}

/* The first frames of one that dies are not lost with it, nor is anybody else. */
static void killed_peer_leaves_the_others_alone(void)
{
    node *a = node_new(1);
    pid_t pid = start_peer_as(a, "2"), other = start_peer_as(a, "3");
    PROGRESS_UNTIL(a->n_arrived == 2, PATIENCE_MS, a);
    for (int round = 0; round < 20; round++) {
        CU_ASSERT_EQUAL(try_send(a, 3, 0, "x", 1), TR_OK);
        if (round == 10) end_peer(pid);
        PROGRESS_UNTIL(a->n_arrived == 3 + round, PATIENCE_MS, a);
    }
    PROGRESS_UNTIL(a->n_lost == 1, 5000, a);
    CU_ASSERT_EQUAL(a->lost_peer, 2);
    end_peer(other);
    PROGRESS_UNTIL(a->n_lost == 2, 5000, a);
    CU_ASSERT_EQUAL(a->lost_peer, 3);
    node_destroy(&a);
}

/* Much lies unread when its sender dies, and nobody looks for longer than a heartbeat. */
static void frames_that_wait_when_their_sender_is_killed_do_no_harm(void)
{
    node *a = node_new(1);
    pid_t pid = start_peer(a);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
    node_drain(a);
    CU_ASSERT_EQUAL(try_send(a, 2, FLOOD_SEQUENCE, "go", 2), TR_OK);
    progress_all((node *[]){a, NULL}); /* a send may need it; all else waits */
    waitpid(pid, NULL, WUNTRACED);
    end_peer(pid);
    usleep(1200000);
    PROGRESS_UNTIL(a->n_lost == 1, 10000, a);
    uint32_t next = 0;
    for (tr_message *message; (message = node_take(a)); tr_message_destroy(&message), next++)
        if (CONFORMANCE_IN_ORDER) CU_ASSERT_EQUAL(message->frame.sequence, next);
    printf("[%u of %d were there] ", next, N_FLOOD);
    CU_ASSERT(next <= N_FLOOD);
    if (CONFORMANCE_SEES_STOPPED) CU_ASSERT_EQUAL(next, N_FLOOD); /* zmq's own thread has read all of them */
    node_destroy(&a);
}

static void peer_stopped_for_a_moment_loses_nothing(void)
{
    static char bytes[10000];
    node *a = node_new(1);
    pid_t pid = start_peer(a);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
    kill(pid, SIGSTOP);
    for (uint32_t i = 0; i < 50; i++) CU_ASSERT_EQUAL(try_send(a, 2, i, bytes, sizeof bytes), TR_OK);
    uint64_t end_ns = tr_clock_ns() + 500000000u; /* a quarter of the heartbeat's patience */
    while (tr_clock_ns() < end_ns) progress_all((node *[]){a, NULL});
    kill(pid, SIGCONT);
    PROGRESS_UNTIL(a->n_arrived == 51, PATIENCE_MS, a);
    CU_ASSERT_EQUAL(a->n_lost, 0);
    end_peer(pid);
    node_destroy(&a);
}

/* A peer that stays stopped: over zmq it is lost after its heartbeat; over ucx it is waited for, since UCX never sees it
 * (whoever runs the job does), and goes on where it was. Others notice nothing either way. */
static void stopped_peer_holds_up_nobody_else(void)
{
    node *a = node_new(1);
    pid_t pid = start_peer_as(a, "2"), other = start_peer_as(a, "3");
    PROGRESS_UNTIL(a->n_arrived == 2, PATIENCE_MS, a);
    kill(pid, SIGSTOP);
    for (uint32_t i = 0; i < 20; i++) CU_ASSERT_EQUAL(try_send(a, 2, i, "x", 1), TR_OK);
    for (int round = 0; round < 100; round++) {
        CU_ASSERT_EQUAL(try_send(a, 3, 0, "x", 1), TR_OK);
        PROGRESS_UNTIL(a->n_arrived == 3 + round, PATIENCE_MS, a);
    }
    if (CONFORMANCE_SEES_STOPPED) {
        PROGRESS_UNTIL(a->n_lost == 1, 8000, a);
        CU_ASSERT_EQUAL(a->lost_peer, 2);
    } else {
        uint64_t end_ns = tr_clock_ns() + 3000000000u;
        while (tr_clock_ns() < end_ns) progress_all((node *[]){a, NULL});
        CU_ASSERT_EQUAL(a->n_lost, 0);
        kill(pid, SIGCONT);
        PROGRESS_UNTIL(a->n_arrived == 122, PATIENCE_MS, a);
    }
    int n_before = a->n_arrived;
    CU_ASSERT_EQUAL(try_send(a, 3, 0, "x", 1), TR_OK);
    PROGRESS_UNTIL(a->n_arrived > n_before, PATIENCE_MS, a);
    end_peer(pid);
    end_peer(other);
    node_destroy(&a);
}

#define CONFORMANCE_PROCESS_TESTS                                                                            \
    CHECK_TEST(killed_peer_is_seen), CHECK_TEST(killed_peer_is_seen_by_a_sleeper),                           \
        CHECK_TEST(bodies_on_their_way_to_a_killed_peer_are_released),                                       \
        CHECK_TEST(a_kill_within_a_rendezvous_costs_no_bit),                                                 \
        CHECK_TEST(peer_killed_while_it_sends_is_survived), CHECK_TEST(killed_peer_leaves_the_others_alone), \
        CHECK_TEST(frames_that_wait_when_their_sender_is_killed_do_no_harm),                                 \
        CHECK_TEST(peer_stopped_for_a_moment_loses_nothing), CHECK_TEST(stopped_peer_holds_up_nobody_else),
#else
static int run_peer(const char *address, int32_t number)
{
    (void)address, (void)number;
    return 1;
}

static void killed_and_stopped_peers_make_no_sense_here(void)
{
    printf("[over " CONFORMANCE_KIND " peers are of this process, and die and stop with us] ");
    CU_PASS("no case");
}
#define CONFORMANCE_PROCESS_TESTS CHECK_TEST(killed_and_stopped_peers_make_no_sense_here),
#endif

#endif
