/* test/runtime/hosts_game.h - a head of a job on several hosts, whose agents and workers are played, for tests of one process.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_RUNTIME_HOSTS_GAME_H
#define TROUPE_TEST_RUNTIME_HOSTS_GAME_H

#include "runtime/hosts_internal.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/pack.h"
#include "check.h"
#include "runtime/control_messages.h"
#include "runtime/orphans.h"
#include "runtime/played.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NODES = 3, MEMBERS = 3, STATE_BYTES = 64, PATIENCE_MS = 10000, QUIET_MS = 100 };

typedef struct peer { /* an agent, or a worker in one epoch */
    tr_node *node;
    int32_t member;
    uint32_t n_prepares;
} peer;

static struct game {
    tr_topology topology;
    tr_curve_key key;
    tr_job_options options;
    tr_head head;
    peer peers[NODES + MEMBERS]; /* by node; agents behind all workers */
    uint32_t n_copied, n_refused;
    uint64_t copied; /* as the clock was told last */
    char refused[TR_ERROR_SIZE];
    char lost[2 * TR_ERROR_SIZE]; /* what is told of a host */
} * game;
static tr_error err;

/* --- the head's only actor, and what whoever runs the job does --- */

static inline void clock_receive(tr_actor *self, void *state, tr_message **message)
{
    (void)self, (void)state;
    tr_unpacker body;
    if ((*message)->frame.edge != TR_TOPIC_COPIED) return;
    tr_unpacker_init(&body, tr_message_bytes(*message), (*message)->frame.body_bytes);
    CU_ASSERT(tr_unpack_array(&body, 1) == 1);
    game->copied = tr_unpack_uint(&body, UINT64_MAX);
    game->n_copied++;
}

static const tr_behavior clock_behavior = {.name = "clock", .receive = clock_receive};
static const tr_actor_kind kinds[] = {{"clock", &clock_behavior, NULL}};
static const tr_registry registry = {kinds, 1};

static inline tr_status on_begin(void *context, uint32_t epoch, tr_error *why)
{
    (void)context, (void)epoch, (void)why;
    return TR_OK;
}

static inline void on_refused(void *context, struct tr_head *job, const tr_error *why)
{
    (void)context, (void)job;
    game->n_refused++;
    snprintf(game->refused, sizeof game->refused, "%s", why->message);
}

static inline void on_event(void *context, const tr_job_event *event)
{
    (void)context;
    if (event->kind == TR_JOB_HOST_LOST) snprintf(game->lost, sizeof game->lost, "%s", event->text);
}

/* --- agents and workers --- */

static inline void on_peer_system(void *context, int32_t from, const tr_message *message)
{
    peer *self = context;
    const tr_control_note ready = {0};
    if (from != TR_NODE_HEAD) return;
    self->n_prepares += message->frame.edge == TR_CONTROL_PREPARE;
    if (message->frame.edge == TR_CONTROL_LOAD)
        tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_READY, &ready);
}

static inline void on_peer_lost(void *context, int32_t who, bool control, const char *reason)
{
    (void)context, (void)who, (void)control, (void)reason;
}

/* A new life of a node, with links of its own. */
static inline void greet_as(int32_t id, int32_t member, uint32_t incarnation)
{
    static const tr_registry nothing;
    peer *self = &game->peers[id];
    tr_node_destroy(&self->node);
    *self = (peer){.member = member};
    const tr_node_options options = {.node = id,
                                     .incarnation = incarnation,
                                     .epoch = game->head.epoch,
                                     .n_threads = 1,
                                     .control_transport = "inproc",
                                     .registry = &nothing,
                                     .context = self,
                                     .on_system = on_peer_system,
                                     .on_peer_lost = on_peer_lost};
    CHECK_OK(tr_node_new(&self->node, &options, &err));
    CU_ASSERT_FATAL(self->node != NULL);
    tr_node_begin(self->node, 0, NULL);
    CHECK_OK(tr_node_connect(self->node, TR_NODE_HEAD, tr_node_control_address(game->head.node), NULL, &err));
    tr_control_hello hello = {.epoch = game->head.epoch, .member = member};
    CHECK_OK(tr_control_send_hello(self->node, TR_NODE_HEAD, &hello, &err));
}

static inline void greet(int32_t id, int32_t member)
{
    greet_as(id, member, game->head.epoch);
}

static inline void agent_says(int32_t member, tr_control_topic topic, const tr_control_note *note)
{
    tr_control_send_note(game->peers[NODES + member].node, TR_NODE_HEAD, topic, note);
}

static inline void step(tr_node *node)
{
    tr_node_progress(node);
    while (tr_node_runnable(node) > 0) tr_node_step(node, 0);
}

static inline bool is_so_within(uint32_t ms, bool (*condition)(void))
{
    uint64_t until_ns = tr_clock_ns() + (uint64_t)ms * 1000000;
    do {
        step(game->head.node);
        for (int i = 0; i < NODES + MEMBERS; i++)
            if (game->peers[i].node) step(game->peers[i].node);
        if (condition()) return true;
        tr_clock_sleep_ms(1);
    } while (!CHECK_LATE(until_ns));
    return false;
}

#define COMES(condition) CU_ASSERT_FATAL(is_so_within(PATIENCE_MS, condition))
#define COMES_NOT(condition) CU_ASSERT(!is_so_within(QUIET_MS, condition))

static inline bool runs(void)
{
    return game->head.phase == TR_HEAD_RUNNING;
}

static inline bool greets(void)
{
    return game->head.phase == TR_HEAD_GREETING;
}

static inline bool is_settled(void)
{
    return tr_hosts_came_on_ns(game->head.hosts) != 0;
}

static inline bool all_prepare(void)
{
    bool all = true;
    for (int32_t m = 0; m < MEMBERS; m++)
        all = all && (!tr__hosts_is_here(game->head.hosts, m) || game->peers[NODES + m].n_prepares == 1);
    return all;
}

/* --- beginning and end --- */

static inline void make_topology(tr_topology *topology, tr_actor_id *clock)
{
    tr_topology_init(topology, NODES);
    CHECK_OK(tr_topology_add_actor(topology, "clock", "clock", 0, NULL, 0, 0, clock, &err));
    CHECK_OK(tr_topology_add_actor(topology, "one", "kind", 1, NULL, 0, STATE_BYTES, NULL, &err));
    CHECK_OK(tr_topology_add_actor(topology, "two", "kind", 2, NULL, 0, STATE_BYTES, NULL, &err));
}

/* Processes: in place of a pidfd one that is readable once it was killed. */
static inline int play_open(void *context, int32_t pid)
{
    (void)context, (void)pid;
    return eventfd(0, EFD_CLOEXEC);
}

static inline tr_status play_spawn(void *context, const tr_launch *launch, const int *descriptors, int count,
                                   int *pid, int *pidfd, tr_error *spawn_err)
{
    (void)launch, (void)descriptors, (void)count;
    *pid = 1;
    *pidfd = play_open(context, *pid);
    return *pidfd >= 0 ? TR_OK : tr_fail(spawn_err, TR_EIO, "no eventfd");
}

static inline bool play_ended(void *context, int pidfd, tr_process_end *end)
{
    (void)context;
    *end = (tr_process_end){0};
    return poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 0) == 1;
}

static inline void play_kill(void *context, int pidfd)
{
    (void)context;
    eventfd_write(pidfd, 1);
}

static inline bool play_lives(void *context, int32_t pid)
{
    (void)context;
    return kill(pid, 0) == 0;
}

static const tr__played played = {
    .spawn = play_spawn, .open = play_open, .ended = play_ended, .kill = play_kill, .lives = play_lives};

static inline void make_head(uint32_t epoch)
{
    tr_head *head = &game->head;
    *head = (tr_head){.options = &game->options, .topology = &game->topology, .epoch = epoch, .agent = NODES};
    head->workers = tr_alloc_zero(NODES, sizeof *head->workers);
    head->places = tr_alloc_zero(NODES, sizeof *head->places);
    head->restarts_ns = tr_alloc_zero(game->options.recovery.max_restarts + 1, sizeof *head->restarts_ns);
    CU_ASSERT_FATAL(head->workers && head->places && head->restarts_ns);
    tr_node_options options = {.node = TR_NODE_HEAD,
                               .incarnation = epoch,
                               .epoch = epoch,
                               .n_threads = 1,
                               .control_transport = "inproc",
                               .registry = &registry};
    tr_head_listen(head, &options);
    CHECK_OK(tr_node_new(&head->node, &options, &err));
    const tr_crew_options crew = {.topology = &game->topology, .processes = true, .launch = {.hosted = true}};
    tr__play = &played;
    CHECK_OK(tr_crew_new(&head->crew, &crew, &err));
    CU_ASSERT_FATAL(head->node && head->crew);
}

/* host_of: by node. NULL: one host. */
static inline void open_game(const int32_t *host_of, bool copy, uint32_t epoch)
{
    tr_actor_id clock = 0;
    game = tr_alloc_zero(1, sizeof *game);
    CU_ASSERT_FATAL(game != NULL);
    make_topology(&game->topology, &clock);
    CHECK_OK(tr_curve_key_new(&game->key, &err));
    game->options = (tr_job_options){
        .topology = &game->topology,
        .registry = &registry,
        .key = &game->key,
        .on_event = on_event,
        .recovery = {.max_restarts = 9, .within_ms = 60000},
        .changes = {.max_nodes = NODES, .descriptor = -1, .begin = on_begin, .on_refused = on_refused},
        .hosts = {.count = 2,
                  .host_of = host_of,
                  .listen = "tcp://127.0.0.1:*",
                  .version = "1",
                  .run = "run",
                  .wait_ms = 60000,
                  .silence_ms = 60000,
                  .copy = copy,
                  .told = clock}};
    make_head(epoch);
    const tr_launch launch = {.role = TR_LAUNCH_AGENT, .node = NODES, .n_threads = 1};
    if (host_of) CHECK_OK(tr_hosts_new(&game->head.hosts, &game->head, &launch, &err));
    CU_ASSERT_FATAL(!host_of || game->head.hosts);
    tr_head_begin(&game->head);
    tr_node_begin(game->head.node, TR_HEAD_TICK_MS, tr_head_on_tick);
}

/* As the door does it. */
static inline void join(int32_t member)
{
    tr_hosts *hosts = game->head.hosts;
    CU_ASSERT_FATAL(hosts->n_members == member);
    hosts->members[hosts->n_members++] = (tr__member){.host = -1, .name = "another"};
    greet(NODES + member, member);
}

static inline void start_worker(int32_t node, int32_t member, int32_t pid)
{
    agent_says(member, TR_CONTROL_WORKER_STARTED, &(tr_control_note){.node = node, .pid = pid});
    greet(node, member);
}

static inline void begin_running(int32_t home_of_two)
{
    greet(NODES, 0);
    join(1);
    COMES(is_settled);
    start_worker(1, 0, 1001);
    start_worker(2, home_of_two, 1002);
    COMES(runs);
}

static inline void close_game(void)
{
    for (int i = 0; i < NODES + MEMBERS; i++) tr_node_destroy(&game->peers[i].node);
    tr_crew_destroy(&game->head.crew);
    tr__play = NULL;
    tr_hosts_destroy(&game->head.hosts);
    tr_node_destroy(&game->head.node);
    tr_free(game->head.workers);
    tr_free(game->head.places);
    tr_free(game->head.restarts_ns);
    tr_topology_release(&game->topology);
    tr_free(game);
}

/* The same actors, with what they have. */
static const tr_state_move moves[] = {{2, 2, 0, 0, STATE_BYTES}, {3, 3, 0, 0, STATE_BYTES}};

static inline void change_layout(tr_change *change)
{
    change->topology = &game->topology;
    change->generation = 1;
    change->moves = moves;
    change->n_moves = 2;
    CHECK_OK(tr_job_change(&game->head, change, &err));
    COMES(all_prepare);
}

static inline void agent_has_prepared(int32_t member)
{
    const tr_control_note note = {.node = NODES + member, .layout = game->head.epoch + 1};
    agent_says(member, TR_CONTROL_PREPARED, &note);
}

#endif
