/* test/runtime/job_test.c - a job ends well or says why, in time, and leaves nothing behind.
 * Every node has one member of a ring. A token goes round, each member adds one; the head's counts rounds.
 * Members can be told to come to harm in various ways.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/job.h"

#include "base/clock.h"
#include "base/memory.h"
#include "check.h"
#include "processes.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__ /* everything takes longer; the graces of a job do not */
enum { SLOWER = 5 };
#else
enum { SLOWER = 1 };
#endif
enum {
    N_NODES = 4,
    HUNG_AFTER_MS = 700 * SLOWER,
    ENDLESS = 1 << 30,
    MAX_PIDS = 16,
    LIMIT_MS = 2000 * SLOWER,
    AGENT_LIMIT_MS = 1100 * SLOWER,
    ALARM_S = 150 * SLOWER
};

#define ROUNDS ((uint32_t)CHECK_SIZE(200, 25))
#define IN_TIME(condition) CHECK_SIZE(condition, true) /* not asked while memory fails, many times over */

typedef enum fault {
    NO_FAULT,
    FAIL_INIT,
    KILL_SELF,
    KILL_LINKED,  /* the same, and all others are linked to it */
    KILL_ONCE,    /* the same, in the first epoch alone; the job recovers */
    GIVE_UP_ONCE, /* the same, by tr_actor_fail_node */
    SLOW_INIT,    /* longer than a worker may be without a sign of work */
    EXIT_SELF,
    FAIL_ACTOR,
    FAIL_JOB,
    HANG,
    IGNORE_STOP
} fault;

typedef struct ring_config {
    uint32_t n_rounds, fault, fault_round, linked_to;
} ring_config;

typedef struct ring_state {
    ring_config config;
    uint32_t in, out, round;
    uint64_t token; /* to be sent when there is a credit; 0: none */
} ring_state;

static _Atomic uint64_t ring_result; /* what the head's member saw last */

static bool is_head(const tr_actor *self)
{
    return strcmp(tr_actor_name(self), "member 0") == 0;
}

static tr_status ring_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                           void **state, tr_error *err)
{
    (void)context;
    TR_ASSERT(config_bytes == sizeof(ring_config));
    ring_state *ring = tr_alloc_zero(1, sizeof *ring);
    memcpy(&ring->config, config, config_bytes);
    if (ring->config.fault == FAIL_INIT) {
        tr_free(ring);
        return tr_fail(err, TR_EINVAL, "there is no coffee");
    }
    if (ring->config.fault == SLOW_INIT) tr_clock_sleep_ms(3 * HUNG_AFTER_MS);
    for (uint32_t i = 0; i < tr_actor_topology(self)->n_edges; i++) {
        const tr_edge_spec *edge = &tr_actor_topology(self)->edges[i];
        if (edge->source == tr_actor_self(self)) ring->out = i;
        if (edge->destination == tr_actor_self(self)) ring->in = i;
    }
    *state = ring;
    return TR_OK;
}

static bool ring_idle(tr_actor *self, void *state)
{
    ring_state *ring = state;
    tr_buffer *body = NULL;
    if (!ring->token || tr_edge_credits(self, ring->out) == 0) return false;
    if (tr_buffer_new(&body, sizeof ring->token, NULL) != TR_OK) abort();
    memcpy(body->data, &ring->token, sizeof ring->token);
    tr_edge_send(self, ring->out, body, sizeof ring->token, ring->round, 0, 0);
    ring->token = 0;
    return true;
}

static void ring_start(tr_actor *self, void *state)
{
    ring_state *ring = state;
    if (ring->config.linked_to) tr_actor_link(self, ring->config.linked_to);
    if (is_head(self)) ring->token = 1;
}

static void come_to_harm(tr_actor *self, const ring_state *ring)
{
    tr_error error;
    tr_fail(&error, TR_EIO, "the dog ate it");
    tr_actor_activity(self, "juggling", ring->round, 3);
    switch ((fault)ring->config.fault) {
    case KILL_ONCE:
    case KILL_LINKED:
    case KILL_SELF: kill(getpid(), SIGKILL); break;
    case GIVE_UP_ONCE: tr_actor_fail_node(self, &error); break;
    case EXIT_SELF: _exit(7);
    case FAIL_ACTOR: tr_actor_fail(self, &error); break;
    case FAIL_JOB: tr_actor_fail_job(self, &error); break;
    case HANG:
        for (;;) pause();
    default: break;
    }
}

/* State slots work in worker processes: publish and look again. */
static void use_slots(tr_actor *self, const ring_state *ring)
{
    int slot = (int)(ring->round & 1);
    tr_actor_slot_open(self, slot);
    memset(tr_actor_slot(self, slot), (int)ring->round, 4096);
    tr_actor_slot_publish(self, slot, ring->round + 1, NULL);
    TR_ASSERT(tr_actor_slot_generation(self, slot) == ring->round + 1);
}

static void ring_receive(tr_actor *self, void *state, tr_message **message)
{
    ring_state *ring = state;
    if ((*message)->frame.kind != TR_FRAME_DATA) {
        if ((*message)->frame.edge == TR_TOPIC_STOP_REQUESTED && ring->config.fault != IGNORE_STOP)
            tr_actor_finish_job(self);
        return;
    }
    uint64_t value;
    memcpy(&value, tr_message_bytes(*message), sizeof value);
    tr_edge_release(self, message);
    fault harm = (fault)ring->config.fault;
    bool over = (harm == KILL_ONCE || harm == GIVE_UP_ONCE) && tr_actor_epoch(self) > 1;
    bool harmful = harm != NO_FAULT && harm != IGNORE_STOP && harm != SLOW_INIT;
    if (harmful && !over && ring->round == ring->config.fault_round) {
        come_to_harm(self, ring);
        return;
    }
    tr_actor_activity(self, "passing", ring->round, 0);
    if (!is_head(self)) use_slots(self, ring);
    ring->round++;
    if (is_head(self)) atomic_store(&ring_result, value);
    if (is_head(self) && ring->round == ring->config.n_rounds)
        tr_actor_finish_job(self);
    else
        ring->token = value + 1;
}

static void ring_stop(tr_actor *self, void *state)
{
    (void)self;
    tr_free(state);
}

static const tr_behavior ring_behavior = {.name = "ring",
                                          .init = ring_init,
                                          .start = ring_start,
                                          .receive = ring_receive,
                                          .idle = ring_idle,
                                          .stop = ring_stop};
static const tr_actor_kind kinds[] = {{"ring", &ring_behavior, NULL}};
static const tr_registry registry = {kinds, 1};

/* ---- a job of N_NODES, of which node `victim` has the fault (0: the head's) ---- */

typedef struct observed {
    pid_t pids[MAX_PIDS]; /* of workers */
    int n_pids, n_died, n_failed, n_stopping;
    bool running;
    pid_t kill_agent, send; /* what to do when the job runs: kill the agent; send ourselves this signal */
    int n_send;
    int later, later_ms; /* and this one so much later; 0: none */
    pid_t sender;        /* of that */
    int second;          /* sent when the stop actor is asked; 0: none */
    int report;          /* a descriptor that gets the pids, and 0 when the job runs; 0: none */
    uint64_t running_ns, stopping_ns;
} observed;

static pid_t child_of(pid_t parent)
{
    pid_t found = 0;
    (void)process_children(parent, '\0', &found);
    return found;
}

/* From a process of its own, a while after the job runs: signals that come together are one to the kernel. */
static pid_t send_later(int signal, uint32_t after_ms)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0) return pid;
    tr_clock_sleep_ms(after_ms);
    kill(parent, signal);
    _exit(0);
}

static void on_event(void *context, const tr_job_event *event)
{
    observed *seen = context;
    CU_ASSERT(event->monotonic_ns > 0 && event->text && event->text[0]);
    if (event->kind == TR_JOB_WORKER_STARTED && seen->n_pids < MAX_PIDS) {
        seen->pids[seen->n_pids++] = event->pid;
        if (seen->report && write(seen->report, &event->pid, sizeof event->pid) < 0) abort();
    }
    if (event->kind == TR_JOB_WORKER_DIED) seen->n_died++;
    if (event->kind == TR_JOB_ACTOR_FAILED) seen->n_failed++;
    if (event->kind == TR_JOB_STOPPING) {
        seen->n_stopping++;
        seen->stopping_ns = event->monotonic_ns;
        if (seen->second) kill(getpid(), seen->second);
    }
    if (event->kind != TR_JOB_RUNNING) return;
    seen->running = true;
    seen->running_ns = event->monotonic_ns;
    pid_t none = 0;
    if (seen->report && write(seen->report, &none, sizeof none) < 0) abort();
    if (seen->kill_agent) seen->kill_agent = child_of(getpid());
    if (seen->kill_agent) kill(seen->kill_agent, SIGKILL);
    for (int i = 0; i < seen->n_send; i++) kill(getpid(), SIGTERM);
    if (seen->later) seen->sender = send_later(seen->later, (uint32_t)seen->later_ms);
}

static void make_ring(tr_topology *topology, uint32_t n_rounds, int victim, fault harm)
{
    tr_error err = {0};
    tr_actor_id ids[N_NODES];
    tr_topology_init(topology, N_NODES);
    for (int i = 0; i < N_NODES; i++) {
        char name[32];
        bool harmed = i == victim || harm == IGNORE_STOP;
        ring_config config = {.n_rounds = n_rounds, .fault = harmed ? harm : NO_FAULT, .fault_round = 20};
        if ((harm == KILL_LINKED || harm == KILL_ONCE) && i != victim)
            config.linked_to = (uint32_t)victim + 1;
        snprintf(name, sizeof name, "member %d", i);
        CHECK_OK(tr_topology_add_actor(topology, name, "ring", i, &config, sizeof config, i ? 4096 : 0,
                                       &ids[i], &err));
    }
    for (int i = 0; i < N_NODES; i++)
        CHECK_OK(tr_topology_add_edge(topology, "token", ids[i], ids[(i + 1) % N_NODES], 2, 64, NULL, &err));
}

static tr_status run_ring(const char *transport, uint32_t n_rounds, int victim, fault harm, observed *seen,
                          tr_actor_id stop_actor, tr_error *err)
{
    tr_topology topology;
    bool recovers = harm == KILL_ONCE || harm == GIVE_UP_ONCE || harm == SLOW_INIT;
    make_ring(&topology, n_rounds, victim, harm);
    const tr_job_options options = {.topology = &topology,
                                    .registry = &registry,
                                    .processes = strcmp(transport, "inproc") != 0,
                                    .transport = transport,
                                    .stop_actor = stop_actor,
                                    .recovery = {.max_restarts = recovers,
                                                 .within_ms = 60000,
                                                 .hung_after_ms = harm == SLOW_INIT ? HUNG_AFTER_MS : 0},
                                    .context = seen,
                                    .on_event = on_event};
    atomic_store(&ring_result, 0);
    tr_status status = tr_job_run(&options, err);
    tr_topology_release(&topology);
    return status;
}

static int count_files(const char *path)
{
    int n = 0;
    DIR *directory = opendir(path);
    while (directory && readdir(directory)) n++;
    if (directory) closedir(directory);
    return n;
}

/* Other jobs on this machine have files there for a moment, too. */
static bool shm_is_clean(int files_before)
{
    for (int i = 0; i < 100 && count_files("/dev/shm") > files_before; i++) tr_clock_sleep_ms(10);
    return count_files("/dev/shm") <= files_before;
}

static bool alive(pid_t pid)
{
    return kill(pid, 0) == 0 || errno != ESRCH;
}

static void nothing_is_left(const observed *seen, int shm_files, int open_files)
{
    for (int i = 0; i < seen->n_pids; i++) CU_ASSERT_FALSE(alive(seen->pids[i]));
    CU_ASSERT(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    CU_ASSERT_TRUE(IN_TIME(shm_is_clean(shm_files)));
    CU_ASSERT_EQUAL(count_files("/proc/self/fd"), open_files);
}

/* Runs a ring that comes to harm;
 * expects an end within LIMIT_MS of the start of its actors and the text in the message. */
static void expect_harm(const char *transport, int victim, fault harm, tr_status expected, const char *text)
{
    tr_error err = {0};
    observed seen = {0};
    int shm_files = count_files("/dev/shm"), open_files = count_files("/proc/self/fd");
    tr_status status = run_ring(transport, ENDLESS, victim, harm, &seen, 0, &err);
    uint64_t took_ms = (tr_clock_ns() - seen.running_ns) / 1000000;
    CU_ASSERT_EQUAL(status, expected);
    CU_ASSERT(IN_TIME(seen.running_ns == 0 || took_ms < LIMIT_MS));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, text));
    fprintf(stderr, "    [%s, %d ms: %s]\n", transport, seen.running_ns ? (int)took_ms : -1, err.message);
    nothing_is_left(&seen, shm_files, open_files);
}

static void a_ring_gives_the_same(const char *transport)
{
    tr_error err = {0};
    observed seen = {0};
    int shm_files = count_files("/dev/shm"), open_files = count_files("/proc/self/fd");
    CHECK_OK(run_ring(transport, ROUNDS, -1, NO_FAULT, &seen, 0, &err));
    CU_ASSERT_EQUAL(atomic_load(&ring_result), ROUNDS * N_NODES);
    CU_ASSERT_TRUE(seen.running);
    CU_ASSERT_EQUAL(seen.n_pids, strcmp(transport, "inproc") == 0 ? 0 : N_NODES - 1);
    CU_ASSERT_EQUAL(seen.n_died + seen.n_failed + seen.n_stopping, 0);
    nothing_is_left(&seen, shm_files, open_files);
}

static void a_ring_of_threads_gives_the_same(void)
{
    a_ring_gives_the_same("inproc");
}

static void a_ring_over_zmq_gives_the_same(void)
{
    a_ring_gives_the_same("zmq");
}

static void a_ring_over_ucx_gives_the_same(void)
{
    a_ring_gives_the_same("ucx");
}

static void a_failing_actor_is_named(void)
{
    static const char *const transports[] = {"inproc", "zmq", "ucx"};
    for (int i = 0; i < 3; i++)
        expect_harm(transports[i], 2, FAIL_ACTOR, TR_EIO,
                    "actor 'member 2' failed: the dog ate it (in juggling of step 20, micro-batch 3)");
    expect_harm("inproc", 0, FAIL_ACTOR, TR_EIO, "actor 'member 0' failed: the dog ate it (in juggling");
    expect_harm("zmq", 0, FAIL_ACTOR, TR_EIO, "actor 'member 0' failed: the dog ate it (in juggling");
}

static void failing_the_job_tells_the_message(void)
{
    expect_harm("inproc", 1, FAIL_JOB, TR_EIO, "the dog ate it");
    expect_harm("zmq", 3, FAIL_JOB, TR_EIO, "the dog ate it");
}

static void a_failing_init_is_named(void)
{
    expect_harm("inproc", 3, FAIL_INIT, TR_EINVAL, "member 3");
    expect_harm("zmq", 3, FAIL_INIT, TR_EINVAL, "member 3");
    expect_harm("zmq", 0, FAIL_INIT, TR_EINVAL, "there is no coffee");
}

static void a_killed_worker_is_named_with_what_it_did(void)
{
    static const char did[] =
        "was killed by signal 9 (Killed) while member 2 was in juggling of step 20, micro-batch 3";
    expect_harm("zmq", 2, KILL_SELF, TR_ECLOSED, did);
    expect_harm("ucx", 2, KILL_SELF, TR_ECLOSED, did);
}

/* Those linked to the dead hear of it from their transports, perhaps before the head hears from the agent. */
static void a_death_is_told_before_what_follows_from_it(void)
{
    for (int i = 0; i < CHECK_SIZE(5, 1); i++) {
        expect_harm("zmq", 2, KILL_LINKED, TR_ECLOSED,
                    "was killed by signal 9 (Killed) while member 2 was in juggling");
        expect_harm("ucx", 1, KILL_LINKED, TR_ECLOSED,
                    "was killed by signal 9 (Killed) while member 1 was in juggling");
    }
}

/* What fails for want of the dead is of the epoch before, whenever it is heard of. */
static void those_linked_to_the_dead_do_not_end_a_job_that_recovers(void)
{
    static const char *const transports[] = {"zmq", "ucx"};
    for (int i = 0; i < CHECK_SIZE(20, 2); i++) {
        tr_error err = {0};
        observed seen = {0};
        int shm_files = count_files("/dev/shm"), open_files = count_files("/proc/self/fd");
        CHECK_OK(run_ring(transports[i % 2], ROUNDS, 1 + i % 3, KILL_ONCE, &seen, 0, &err));
        CU_ASSERT_EQUAL(atomic_load(&ring_result), ROUNDS * N_NODES);
        CU_ASSERT_EQUAL(seen.n_died, 1);
        nothing_is_left(&seen, shm_files, open_files);
    }
}

static void a_worker_that_gives_up_is_replaced(void)
{
    tr_error err = {0};
    observed seen = {0};
    CHECK_OK(run_ring("zmq", ROUNDS, 2, GIVE_UP_ONCE, &seen, 0, &err));
    CU_ASSERT_EQUAL(atomic_load(&ring_result), ROUNDS * N_NODES);
    CU_ASSERT_EQUAL(seen.n_died, 1);
    CU_ASSERT_EQUAL(run_ring("inproc", ROUNDS, 2, GIVE_UP_ONCE, &seen, 0, &err),
                    TR_EIO); /* all are in one process */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "actor 'member 2': the dog ate it"));
}

static void a_worker_that_is_long_in_making_its_actors_is_not_hung(void)
{
    tr_error err = {0};
    observed seen = {0};
    int shm_files = count_files("/dev/shm"), open_files = count_files("/proc/self/fd");
    CHECK_OK(run_ring("zmq", ROUNDS, 2, SLOW_INIT, &seen, 0, &err));
    CU_ASSERT_EQUAL(atomic_load(&ring_result), ROUNDS * N_NODES);
    CU_ASSERT_EQUAL(seen.n_died, 0);
    nothing_is_left(&seen, shm_files, open_files);
}

static void an_exiting_worker_is_named(void)
{
    expect_harm("zmq", 1, EXIT_SELF, TR_ECLOSED,
                "ended with exit code 7 while member 1 was in juggling of step 20");
}

static void a_hanging_worker_cannot_hold_up_the_end(void)
{
    tr_error err = {0};
    observed seen = {.later = SIGTERM, .later_ms = CHECK_SIZE(500, 100)};
    int shm_files = count_files("/dev/shm"), open_files = count_files("/proc/self/fd");
    CHECK_OK(run_ring("zmq", ENDLESS, 2, HANG, &seen, 1, &err));
    uint64_t took_ms = (tr_clock_ns() - seen.stopping_ns) / 1000000;
    CU_ASSERT(IN_TIME(took_ms >= 400 &&
                      took_ms < AGENT_LIMIT_MS)); /* the agent's grace, not the head's, which is longer */
    waitpid(seen.sender, NULL, 0);
    nothing_is_left(&seen, shm_files, open_files);
}

static void a_killed_agent_ends_the_job(void)
{
    static const char *const transports[] = {"zmq", "ucx"};
    for (int i = 0; i < 2; i++) {
        tr_error err = {0};
        observed seen = {.kill_agent = 1};
        int shm_files = count_files("/dev/shm"), open_files = count_files("/proc/self/fd");
        CU_ASSERT_EQUAL(run_ring(transports[i], ENDLESS, -1, NO_FAULT, &seen, 0, &err), TR_ECLOSED);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "the agent (pid "));
        CU_ASSERT(IN_TIME((tr_clock_ns() - seen.running_ns) / 1000000 < LIMIT_MS));
        CU_ASSERT_FALSE(alive(seen.kill_agent));
        nothing_is_left(&seen, shm_files, open_files);
    }
}

static void a_signal_asks_the_stop_actor(void)
{
    static const char *const transports[] = {"inproc", "zmq"};
    for (int i = 0; i < 2; i++) {
        tr_error err = {0};
        observed seen = {.n_send = 1};
        CHECK_OK(run_ring(transports[i], ENDLESS, -1, NO_FAULT, &seen, 1, &err));
        CU_ASSERT_EQUAL(seen.n_stopping, 1);
    }
}

static void a_signal_without_stop_actor_ends_the_job(void)
{
    tr_error err = {0};
    observed seen = {.n_send = 1};
    CU_ASSERT_EQUAL(run_ring("zmq", ENDLESS, -1, NO_FAULT, &seen, 0, &err), TR_ESTOPPED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "signal 15"));
}

static void a_second_signal_ends_it_at_once(void)
{
    tr_error err = {0};
    observed seen = {.n_send = 1, .second = SIGINT};
    CU_ASSERT_EQUAL(run_ring("zmq", ENDLESS, -1, IGNORE_STOP, &seen, 1, &err), TR_ESTOPPED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "signal 2"));
}

/* A head in a process of its own, killed as it runs.
 * Its stopped descendants cannot see that: the kernel must end them. */
static void a_killed_head_takes_all_with_it(const char *transport, bool stopped)
{
    int pipes[2], shm_files = count_files("/dev/shm");
    pid_t pids[MAX_PIDS + 2], pid = 0;
    int n_pids = 0;
    CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* so that its orphans can be reaped here */
    pid_t head = fork();
    if (head == 0) {
        tr_error err = {0};
        observed seen = {.report = pipes[1]};
        run_ring(transport, ENDLESS, -1, NO_FAULT, &seen, 0, &err);
        fprintf(stderr, "the head ends by itself: %s\n", err.message);
        _exit(1);
    }
    close(pipes[1]);
    while (read(pipes[0], &pid, sizeof pid) == sizeof pid && pid != 0 && n_pids < MAX_PIDS)
        pids[n_pids++] = pid;
    CU_ASSERT_EQUAL(n_pids, N_NODES - 1);
    pids[n_pids++] = child_of(head);
    pids[n_pids++] = head;
    CU_ASSERT_FATAL(pids[n_pids - 2] > 0); /* 0 would be all of us */
    for (int i = 0; i < n_pids - 1 && stopped; i++) kill(pids[i], SIGSTOP);
    tr_clock_sleep_ms(50);
    kill(head, SIGKILL);
    uint64_t until_ns = tr_clock_ns() + (uint64_t)CHECK_SIZE(LIMIT_MS, 10 * LIMIT_MS) * 1000000;
    for (bool some = true; some && tr_clock_ns() < until_ns; tr_clock_sleep_ms(5)) {
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        some = false;
        for (int i = 0; i < n_pids; i++) some = some || alive(pids[i]);
    }
    for (int i = 0; i < n_pids; i++) CU_ASSERT_FALSE(alive(pids[i]));
    CU_ASSERT_TRUE(IN_TIME(shm_is_clean(shm_files)));
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    close(pipes[0]);
}

static void a_killed_head_takes_all_with_it_over_zmq(void)
{
    a_killed_head_takes_all_with_it("zmq", false);
}

static void a_killed_head_takes_all_with_it_over_ucx(void)
{
    a_killed_head_takes_all_with_it("ucx", false);
}

static void a_killed_head_takes_even_the_stopped_with_it(void)
{
    a_killed_head_takes_all_with_it("zmq", true);
}

static void wrong_transports_are_refused(void)
{
    tr_error err = {0};
    tr_topology topology;
    tr_topology_init(&topology, 1);
    tr_job_options options = {.topology = &topology, .registry = &registry, .transport = "zmq"};
    CU_ASSERT_EQUAL(tr_job_run(&options, &err), TR_EINVAL);
    options.processes = true;
    options.transport = "inproc";
    CU_ASSERT_EQUAL(tr_job_run(&options, &err), TR_EINVAL);
    options.transport = NULL;
    CU_ASSERT_EQUAL(tr_job_run(&options, &err), TR_EINVAL);
    tr_topology_release(&topology);
}

static const check_test tests[] = {
    CHECK_TEST(wrong_transports_are_refused),
    CHECK_TEST(a_ring_of_threads_gives_the_same),
    CHECK_TEST(a_ring_over_zmq_gives_the_same),
    CHECK_TEST(a_ring_over_ucx_gives_the_same),
    CHECK_TEST(a_failing_actor_is_named),
    CHECK_TEST(failing_the_job_tells_the_message),
    CHECK_TEST(a_failing_init_is_named),
    CHECK_TEST(a_killed_worker_is_named_with_what_it_did),
    CHECK_TEST(a_death_is_told_before_what_follows_from_it),
    CHECK_TEST(those_linked_to_the_dead_do_not_end_a_job_that_recovers),
    CHECK_TEST(a_worker_that_gives_up_is_replaced),
    CHECK_TEST(a_worker_that_is_long_in_making_its_actors_is_not_hung),
    CHECK_TEST(an_exiting_worker_is_named),
    CHECK_TEST(a_hanging_worker_cannot_hold_up_the_end),
    CHECK_TEST(a_killed_agent_ends_the_job),
    CHECK_TEST(a_signal_asks_the_stop_actor),
    CHECK_TEST(a_signal_without_stop_actor_ends_the_job),
    CHECK_TEST(a_second_signal_ends_it_at_once),
    CHECK_TEST(a_killed_head_takes_all_with_it_over_zmq),
    CHECK_TEST(a_killed_head_takes_all_with_it_over_ucx),
    CHECK_TEST(a_killed_head_takes_even_the_stopped_with_it),
};

int main(int argc, char **argv)
{
    if (tr_job_is_child(argc, argv)) return tr_job_child_main(argc, argv, &registry);
    alarm(ALARM_S); /* a job that hangs takes its processes with it */
    return check_run("job", tests, sizeof tests / sizeof *tests);
}
