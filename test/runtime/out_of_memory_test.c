/* test/runtime/out_of_memory_test.c - a node that has no memory for a message that somebody waits for ends, with one clear
 * line; nothing hangs, nothing leaks. First every allocation of a simulated job in turn, then real threads and processes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/memory.h"
#include "check.h"
#include "runtime/job.h"
#include "runtime/simulation.h"
#include "runtime/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FAIL_PLEASE = 1, DONE, N_ITEMS = 4, SLOTS = 2, MAX_EVENTS = 100000, LIMIT_MS = 20000 };

/* ---- a teacher on node 0; its pupil on node 1, under a supervisor, fails once and is started again ---- */

typedef struct pupil {
    uint32_t in, n;
} pupil;

typedef struct teacher {
    uint32_t out, n_sent;
    bool pupil_failed;
} teacher;

static tr_status pupil_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                            void **state, tr_error *err)
{
    (void)context, (void)config, (void)config_bytes;
    pupil *own = tr_alloc_zero(1, sizeof *own);
    if (!own) return tr_fail(err, TR_ENOMEM, "no memory for a pupil");
    own->in = tr_edge_in(self, "items", 0);
    *state = own;
    return TR_OK;
}

static void pupil_receive(tr_actor *self, void *state, tr_message **message)
{
    pupil *own = state;
    tr_error error;
    if ((*message)->frame.kind == TR_FRAME_DATA) {
        tr_edge_release(self, message);
        if (++own->n == N_ITEMS) tr_actor_send(self, 1, DONE, 0, "done", 5);
    } else if ((*message)->frame.edge == FAIL_PLEASE) {
        tr_fail(&error, TR_EIO, "it was asked to");
        tr_actor_fail(self, &error);
    }
}

static void free_state(tr_actor *self, void *state)
{
    (void)self;
    tr_free(state);
}

static tr_status teacher_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                              void **state, tr_error *err)
{
    (void)context, (void)config, (void)config_bytes;
    teacher *own = tr_alloc_zero(1, sizeof *own);
    if (!own) return tr_fail(err, TR_ENOMEM, "no memory for a teacher");
    own->out = tr_edge_out(self, "items", 0);
    *state = own;
    return TR_OK;
}

static void teacher_start(tr_actor *self, void *state)
{
    (void)state;
    tr_actor_monitor(self, 2);
    tr_actor_timer(self, 1, 0);
}

static void teacher_receive(tr_actor *self, void *state, tr_message **message)
{
    (void)state;
    if ((*message)->frame.edge == TR_TOPIC_TIMER) tr_actor_send(self, 2, FAIL_PLEASE, 0, "please", 7);
    if ((*message)->frame.edge == DONE) tr_actor_finish_job(self);
}

static void teacher_down(tr_actor *self, void *state, tr_actor_id who, const char *reason)
{
    (void)self, (void)who, (void)reason;
    ((teacher *)state)->pupil_failed = true;
}

static bool teacher_idle(tr_actor *self, void *state)
{
    teacher *own = state;
    tr_error error;
    while (own->pupil_failed && own->n_sent < N_ITEMS && tr_edge_credits(self, own->out)) {
        tr_buffer *body = NULL;
        if (tr_buffer_new(&body, 64, &error) != TR_OK) {
            tr_actor_fail_job(self, &error);
            return false;
        }
        memset(body->data, 0, 64);
        tr_edge_send(self, own->out, body, 64, own->n_sent++, 0, 0);
    }
    return false;
}

/* ---- an eater uses up its node's memory and then has something to say ---- */

static void eater_start(tr_actor *self, void *state)
{
    (void)state;
    tr_memory_fail_after(1);
    tr_actor_send(self, tr_actor_self(self) == 1 ? 2 : 1, DONE, 0, "hear me", 8);
}

static const tr_behavior pupil_behavior = {
    .name = "pupil", .init = pupil_init, .receive = pupil_receive, .stop = free_state};
static const tr_behavior teacher_behavior = {.name = "teacher",
                                             .init = teacher_init,
                                             .start = teacher_start,
                                             .receive = teacher_receive,
                                             .down = teacher_down,
                                             .idle = teacher_idle,
                                             .stop = free_state};
static const tr_behavior eater_behavior = {.name = "eater", .start = eater_start};
static const tr_behavior listener_behavior = {.name = "listener"};

/* ---- two who pass one buffer to and fro, and count what that allocates ---- */

enum { N_PASSES = 3000, N_WARM = 500 };
static uint64_t n_passes, n_allocated, n_allocated_warm;

static bool count_one(void)
{
    n_allocated++;
    return false;
}

static void pass(tr_actor *self, tr_buffer *body)
{
    uint32_t out = tr_actor_self(self) == 1 ? 0 : 1;
    tr_edge_send(self, out, body, 64, 0, 0, 0);
}

static void passer_start(tr_actor *self, void *state)
{
    (void)state;
    tr_buffer *body = NULL;
    tr_error error;
    if (tr_actor_self(self) != 1) return;
    if (tr_buffer_new(&body, 64, &error) == TR_OK)
        pass(self, body);
    else
        tr_actor_fail_job(self, &error);
}

static void passer_receive(tr_actor *self, void *state, tr_message **message)
{
    (void)state;
    tr_buffer *body = tr_buffer_retain((*message)->body);
    tr_edge_release(self, message);
    if (++n_passes == N_WARM) {
        n_allocated = 0;
        tr_memory_ask(count_one);
    }
    if (n_passes < N_PASSES) {
        pass(self, body);
        return;
    }
    tr_memory_ask(NULL);
    n_allocated_warm = n_allocated;
    tr_buffer_release(&body);
    tr_actor_finish_job(self);
}

static const tr_behavior passer_behavior = {
    .name = "passer", .start = passer_start, .receive = passer_receive};

static const tr_actor_kind kinds[] = {
    {"pupil", &pupil_behavior, NULL},   {"teacher", &teacher_behavior, NULL},
    {"eater", &eater_behavior, NULL},   {"listener", &listener_behavior, NULL},
    {"passer", &passer_behavior, NULL}, TR_SUPERVISOR_KIND};
static const tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};

static tr_status make_school(tr_topology *topology, tr_error *err)
{
    tr_actor_id ids[3];
    tr_topology_init(topology, 2);
    tr_status status = tr_topology_add_actor(topology, "teacher", "teacher", 0, NULL, 0, 0, &ids[0], err);
    if (!status) status = tr_topology_add_actor(topology, "pupil", "pupil", 1, NULL, 0, 0, &ids[1], err);
    if (!status) status = tr_topology_add_edge(topology, "items", ids[0], ids[1], SLOTS, 64, NULL, err);
    const tr_child_spec child = {ids[1], TR_PERMANENT};
    const tr_supervisor_spec spec = {TR_ONE_FOR_ONE, 3, 1000, &child, 1};
    if (!status) status = tr_topology_add_supervisor(topology, "head teacher", 0, &spec, &ids[2], err);
    return status;
}

static tr_status simulate_school(uint64_t seed, tr_error *err)
{
    tr_topology topology;
    tr_simulation *simulation = NULL;
    tr_status status = make_school(&topology, err);
    tr_simulation_options options = {.seed = seed,
                                     .topology = &topology,
                                     .registry = &registry,
                                     .activation_max_ns = 1000,
                                     .max_events = MAX_EVENTS};
    tr_simulation_faults(seed, &options.data, &options.control);
    if (status == TR_OK) status = tr_simulation_new(&simulation, &options, err);
    if (status == TR_OK) status = tr_simulation_run(simulation, err);
    tr_simulation_destroy(&simulation);
    tr_topology_release(&topology);
    return status;
}

/* With a message that can only come from a failed allocation, or unharmed. */
static void every_allocation_of_a_job_may_fail(void)
{
    for (uint64_t seed = 0; seed < CHECK_SIZE(4, 1); seed++) {
        uint64_t n_failed = 0, n = 0;
        bool reached = true;
        for (n = 1; reached; n += CHECK_SIZE(1, 17)) {
            tr_error err = {0};
            int64_t before = tr_memory_blocks();
            tr_memory_fail_after(n);
            tr_status status = simulate_school(seed, &err);
            reached = tr_memory_has_failed();
            tr_memory_fail_after(0);
            bool told = status == TR_OK || (reached && strstr(err.message, "memory"));
            if (!told) fprintf(stderr, "seed %d, n %d: %s\n", (int)seed, (int)n, err.message);
            CU_ASSERT(told);
            CU_ASSERT_EQUAL(tr_memory_blocks(), before);
            n_failed += status != TR_OK;
        }
        CU_ASSERT(n > 100 && n_failed > CHECK_SIZE(50, 2) && n_failed < n - 1);
    }
}

/* ---- real ones ---- */

typedef struct outcome {
    tr_status status;
    tr_error error;
    char said[20000]; /* on stderr, by all processes */
    uint64_t took_ms;
} outcome;

static void run_job(outcome *self, const tr_topology *topology, const char *transport)
{
    const tr_job_options options = {.topology = topology,
                                    .registry = &registry,
                                    .processes = strcmp(transport, "inproc") != 0,
                                    .transport = transport};
    int kept = dup(STDERR_FILENO), file = memfd_create("said", MFD_CLOEXEC);
    *self = (outcome){0};
    fflush(stderr);
    dup2(file, STDERR_FILENO);
    uint64_t began_ns = tr_clock_ns();
    self->status = tr_job_run(&options, &self->error);
    self->took_ms = (tr_clock_ns() - began_ns) / 1000000;
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    ssize_t got = pread(file, self->said, sizeof self->said - 1, 0);
    (void)got;
    close(file);
    close(kept);
}

/* An eater on one node, a listener on the other. */
static void run_eater(outcome *self, const char *transport, int on_node)
{
    tr_topology topology;
    tr_error err = {0};
    tr_actor_id id;
    tr_topology_init(&topology, 2);
    for (int i = 0; i < 2; i++)
        CHECK_OK(tr_topology_add_actor(&topology, i == on_node ? "eater" : "listener",
                                       i == on_node ? "eater" : "listener", i, NULL, 0, 0, &id, &err));
    int64_t before = tr_memory_blocks();
    run_job(self, &topology, transport);
    tr_memory_fail_after(0);
    CU_ASSERT_EQUAL(tr_memory_blocks(), before);
    CU_ASSERT(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    CU_ASSERT(self->took_ms < LIMIT_MS);
    tr_topology_release(&topology);
}

static bool says(const char *text, const char *words)
{
    if (strstr(text, words)) return true;
    fprintf(stderr, "expected \"%s\" in:\n%s\n", words, text);
    return false;
}

static int count_of(const char *text, const char *words)
{
    int n = 0;
    while ((text = strstr(text, words))) n++, text++;
    return n;
}

static void a_worker_process_without_memory_dies_with_one_line(void)
{
    outcome seen;
    run_eater(&seen, "zmq", 1);
    CU_ASSERT_EQUAL(seen.status, TR_ECLOSED);
    CU_ASSERT(says(seen.error.message, "worker 1") && says(seen.error.message, "ended with exit code 1"));
    CU_ASSERT(says(seen.said, "error: out of memory: node 1 cannot allocate a "));
    CU_ASSERT_EQUAL(count_of(seen.said, "out of memory"), 1);
}

static void a_worker_thread_without_memory_ends_the_job(void)
{
    outcome seen;
    run_eater(&seen, "inproc", 1);
    CU_ASSERT_EQUAL(seen.status, TR_ENOMEM);
    CU_ASSERT(says(seen.error.message, "worker 1: out of memory: node 1 cannot allocate a "));
}

static void a_head_without_memory_ends_the_job(void)
{
    const char *const transports[] = {"inproc", "zmq"};
    for (int i = 0; i < 2; i++) {
        outcome seen;
        run_eater(&seen, transports[i], 0);
        CU_ASSERT_EQUAL(seen.status, TR_ENOMEM);
        CU_ASSERT(says(seen.error.message, "out of memory: node 0 cannot allocate a "));
    }
}

/* Between actors of a node: slots were planned, and small messages are kept for the next ones. */
static void data_within_a_node_allocates_nothing(void)
{
    tr_topology topology;
    tr_error err = {0};
    tr_actor_id ids[2];
    outcome seen;
    tr_topology_init(&topology, 1);
    for (int i = 0; i < 2; i++)
        CHECK_OK(tr_topology_add_actor(&topology, i ? "b" : "a", "passer", 0, NULL, 0, 0, &ids[i], &err));
    for (int i = 0; i < 2; i++)
        CHECK_OK(tr_topology_add_edge(&topology, "to and fro", ids[i], ids[1 - i], 1, 64, NULL, &err));
    n_passes = n_allocated = 0;
    run_job(&seen, &topology, "inproc");
    CU_ASSERT_EQUAL(seen.status, TR_OK);
    CU_ASSERT_EQUAL(n_passes, N_PASSES);
#ifdef TROUPE_SANITIZED /* where no message is kept */
    CU_ASSERT(n_allocated_warm > 0);
#else
    CU_ASSERT_EQUAL(n_allocated_warm, 0);
#endif
    tr_topology_release(&topology);
}

static const check_test tests[] = {
    CHECK_TEST(every_allocation_of_a_job_may_fail),
    CHECK_TEST(a_worker_process_without_memory_dies_with_one_line),
    CHECK_TEST(a_worker_thread_without_memory_ends_the_job),
    CHECK_TEST(a_head_without_memory_ends_the_job),
    CHECK_TEST(data_within_a_node_allocates_nothing),
};

int main(int argc, char **argv)
{
    if (tr_job_is_child(argc, argv)) return tr_job_child_main(argc, argv, &registry);
    return check_run("runtime/out_of_memory", tests, sizeof tests / sizeof *tests);
}
