/* test/runtime/hosts_test.c - a head of a job on several hosts, whose agents and workers are played: who leaves is waited for by nobody
 * any more, and a death is one whoever was in that place before.
 * SPDX-License-Identifier: Apache-2.0 */
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

static void clock_receive(tr_actor *self, void *state, tr_message **message)
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

static tr_status on_begin(void *context, uint32_t epoch, tr_error *why)
{
    (void)context, (void)epoch, (void)why;
    return TR_OK;
}

static void on_refused(void *context, struct tr_head *job, const tr_error *why)
{
    (void)context, (void)job;
    game->n_refused++;
    snprintf(game->refused, sizeof game->refused, "%s", why->message);
}

static void on_event(void *context, const tr_job_event *event)
{
    (void)context;
    if (event->kind == TR_JOB_HOST_LOST) snprintf(game->lost, sizeof game->lost, "%s", event->text);
}

/* --- agents and workers --- */

static void on_peer_system(void *context, int32_t from, const tr_message *message)
{
    peer *self = context;
    const tr_control_note ready = {0};
    if (from != TR_NODE_HEAD) return;
    self->n_prepares += message->frame.edge == TR_CONTROL_PREPARE;
    if (message->frame.edge == TR_CONTROL_LOAD)
        tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_READY, &ready);
}

static void on_peer_lost(void *context, int32_t who, bool control, const char *reason)
{
    (void)context, (void)who, (void)control, (void)reason;
}

/* A new life of a node, with links of its own. */
static void greet_as(int32_t id, int32_t member, uint32_t incarnation)
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

static void greet(int32_t id, int32_t member)
{
    greet_as(id, member, game->head.epoch);
}

static void agent_says(int32_t member, tr_control_topic topic, const tr_control_note *note)
{
    tr_control_send_note(game->peers[NODES + member].node, TR_NODE_HEAD, topic, note);
}

static void step(tr_node *node)
{
    tr_node_progress(node);
    while (tr_node_runnable(node) > 0) tr_node_step(node, 0);
}

static bool is_so_within(uint32_t ms, bool (*condition)(void))
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

static bool runs(void)
{
    return game->head.phase == TR_HEAD_RUNNING;
}

static bool greets(void)
{
    return game->head.phase == TR_HEAD_GREETING;
}

static bool is_settled(void)
{
    return tr_hosts_came_on_ns(game->head.hosts) != 0;
}

static bool all_prepare(void)
{
    bool all = true;
    for (int32_t m = 0; m < MEMBERS; m++)
        all = all && (!tr__hosts_is_here(game->head.hosts, m) || game->peers[NODES + m].n_prepares == 1);
    return all;
}

/* --- beginning and end --- */

static void make_topology(tr_topology *topology, tr_actor_id *clock)
{
    tr_topology_init(topology, NODES);
    CHECK_OK(tr_topology_add_actor(topology, "clock", "clock", 0, NULL, 0, 0, clock, &err));
    CHECK_OK(tr_topology_add_actor(topology, "one", "kind", 1, NULL, 0, STATE_BYTES, NULL, &err));
    CHECK_OK(tr_topology_add_actor(topology, "two", "kind", 2, NULL, 0, STATE_BYTES, NULL, &err));
}

/* Processes: in place of a pidfd one that is readable once it was killed. */
static int play_open(void *context, int32_t pid)
{
    (void)context, (void)pid;
    return eventfd(0, EFD_CLOEXEC);
}

static tr_status play_spawn(void *context, const tr_launch *launch, const int *descriptors, int count,
                            int *pid, int *pidfd, tr_error *spawn_err)
{
    (void)launch, (void)descriptors, (void)count;
    *pid = 1;
    *pidfd = play_open(context, *pid);
    return *pidfd >= 0 ? TR_OK : tr_fail(spawn_err, TR_EIO, "no eventfd");
}

static bool play_ended(void *context, int pidfd, tr_process_end *end)
{
    (void)context;
    *end = (tr_process_end){0};
    return poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 0) == 1;
}

static void play_kill(void *context, int pidfd)
{
    (void)context;
    eventfd_write(pidfd, 1);
}

static bool play_lives(void *context, int32_t pid)
{
    (void)context;
    return kill(pid, 0) == 0;
}

static const tr__played played = {
    .spawn = play_spawn, .open = play_open, .ended = play_ended, .kill = play_kill, .lives = play_lives};

static void make_head(uint32_t epoch)
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
static void open_game(const int32_t *host_of, bool copy, uint32_t epoch)
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
static void join(int32_t member)
{
    tr_hosts *hosts = game->head.hosts;
    CU_ASSERT_FATAL(hosts->n_members == member);
    hosts->members[hosts->n_members++] = (tr__member){.host = -1, .name = "another"};
    greet(NODES + member, member);
}

static void start_worker(int32_t node, int32_t member, int32_t pid)
{
    agent_says(member, TR_CONTROL_WORKER_STARTED, &(tr_control_note){.node = node, .pid = pid});
    greet(node, member);
}

static void begin_running(int32_t home_of_two)
{
    greet(NODES, 0);
    join(1);
    COMES(is_settled);
    start_worker(1, 0, 1001);
    start_worker(2, home_of_two, 1002);
    COMES(runs);
}

static void close_game(void)
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

static void change_layout(tr_change *change)
{
    change->topology = &game->topology;
    change->generation = 1;
    change->moves = moves;
    change->n_moves = 2;
    CHECK_OK(tr_job_change(&game->head, change, &err));
    COMES(all_prepare);
}

static void agent_has_prepared(int32_t member)
{
    const tr_control_note note = {.node = NODES + member, .layout = game->head.epoch + 1};
    agent_says(member, TR_CONTROL_PREPARED, &note);
}

/* --- the tests --- */

static bool has_copied_1(void)
{
    return game->n_copied > 0 && game->copied == 1;
}

static bool waits_for_no_copies(void)
{
    return game->copied == UINT64_MAX;
}

/* Else training stands still for ever at its next held update. */
static void copies_that_nobody_keeps_are_waited_for_by_nobody(void)
{
    static const int32_t host_of[NODES] = {0, 0, 0};
    open_game(host_of, true, 1);
    begin_running(0);
    for (uint32_t actor = 1; actor <= 2; actor++) {
        const tr_slot_part held = {.actor = actor, .generation = 1, .good = true};
        void *bytes = NULL;
        size_t size = 0;
        CHECK_OK(tr_slot_part_encode(&held, &bytes, &size, &err));
        tr_node_send_system(game->peers[NODES + 1].node, TR_NODE_HEAD, TR_CONTROL_HELD, bytes,
                            (uint32_t)size);
        tr_free(bytes);
    }
    COMES(has_copied_1);
    agent_says(1, TR_CONTROL_LEAVING, &(tr_control_note){.node = NODES + 1});
    COMES(waits_for_no_copies);
    CU_ASSERT(runs() && !tr__hosts_is_here(game->head.hosts, 1));
    close_game();
}

static bool one_leaves(void)
{
    return game->head.hosts->members[1].leaving;
}

static bool is_epoch_2(void)
{
    return game->head.epoch == 2;
}

static bool one_has_greeted(void)
{
    return game->head.workers[1].greeted && game->head.epoch == 2;
}

static bool has_come_on(void)
{
    return game->head.hosts->came_on_ns != 0;
}

static bool is_epoch_3(void)
{
    return game->head.epoch == 3;
}

static bool is_epoch_4(void)
{
    return game->head.epoch == 4;
}

/* SIGTERM to all processes of a host, as from whoever stops a service. */
static void a_death_counts_where_one_before_it_left_with_its_host(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1}, two[] = {2};
    open_game(host_of, false, 1);
    begin_running(1);
    agent_says(1, TR_CONTROL_LEAVING, &(tr_control_note){.node = NODES + 1});
    COMES(one_leaves);
    tr_change change = {.leaving = two, .n_leaving = 1, .n_hosts = 2, .host_of = host_of};
    change_layout(&change);
    agent_has_prepared(0);
    COMES(greets);
    CU_ASSERT(game->head.epoch == 2 && tr_hosts_is_home(game->head.hosts, 2, 0));
    greet(1, 0);
    start_worker(2, 0, 2002);
    agent_says(1, TR_CONTROL_WORKER_ENDED, &(tr_control_note){.node = 2, .pid = 1002}); /* as it should */
    COMES(runs);
    COMES_NOT(is_epoch_3);
    agent_says(0, TR_CONTROL_WORKER_ENDED, &(tr_control_note){.node = 2, .pid = 2002, .signal = 9});
    COMES(is_epoch_3);
    close_game();
}

static void a_death_counts_where_one_before_it_was_lost_on_its_way_out(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1}, two[] = {2};
    open_game(host_of, false, 1);
    begin_running(1);
    tr_change change = {.leaving = two, .n_leaving = 1, .n_hosts = 2, .host_of = host_of};
    change_layout(&change);
    agent_has_prepared(0);
    agent_has_prepared(1);
    COMES(greets);
    CU_ASSERT(game->head.epoch == 2 && game->head.workers[2].leaving);
    tr_hosts_lost_link(game->head.hosts, NODES + 1, "the test cuts it");
    COMES(is_epoch_3);
    greet(1, 0);
    start_worker(2, 0, 3002);
    COMES(runs);
    agent_says(0, TR_CONTROL_WORKER_ENDED, &(tr_control_note){.node = 2, .pid = 3002, .signal = 9});
    COMES(is_epoch_4);
    close_game();
}

static bool is_refused(void)
{
    return game->n_refused == 1;
}

/* What it was to prepare never comes. */
static void a_change_is_taken_back_where_one_leaves_that_has_a_part_in_it(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1}, next_host_of[NODES] = {0, 1, 2};
    open_game(host_of, false, 1);
    begin_running(1);
    join(2);
    COMES_NOT(is_refused);
    tr_change change = {.n_hosts = 3, .host_of = next_host_of};
    change_layout(&change);
    agent_has_prepared(0);
    agent_has_prepared(1);
    COMES_NOT(greets);
    agent_says(2, TR_CONTROL_LEAVING, &(tr_control_note){.node = NODES + 2});
    COMES(is_refused);
    CU_ASSERT(strstr(game->refused, "has left") && !game->head.change && runs() && game->head.epoch == 1);
    close_game();
}

static void a_spare_without_a_part_in_it_disturbs_no_change(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1};
    open_game(host_of, false, 1);
    begin_running(1);
    join(2);
    COMES_NOT(is_refused);
    tr_change change = {.n_hosts = 2, .host_of = host_of};
    change_layout(&change);
    agent_has_prepared(0);
    agent_says(2, TR_CONTROL_LEAVING, &(tr_control_note){.node = NODES + 2});
    COMES_NOT(is_refused);
    agent_has_prepared(1);
    COMES(greets);
    CU_ASSERT(game->head.epoch == 2 && game->n_refused == 0);
    close_game();
}

/* --- numbers --- */

static void nobody_loses_a_number_to_one_that_never_came(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1};
    open_game(host_of, false, 5);
    tr_hosts *hosts = game->head.hosts;
    CU_ASSERT(tr__hosts_new_member(hosts) == 1 && tr__hosts_new_member(hosts) == 2);
    hosts->members[1].heard_ns = hosts->members[1].knocked_ns; /* it came, and was lost since */
    for (int knock = 1; knock < 3 * TR_MAX_MEMBERS; knock++) {
        for (int32_t m = 1; m < hosts->n_members; m++) hosts->members[m].knocked_ns = 1; /* long ago */
        CU_ASSERT_FATAL(tr__hosts_new_member(hosts) == 2);
    }
    CU_ASSERT(hosts->n_members == 3);
    uint32_t last = hosts->members[2].incarnation;
    CU_ASSERT(last >= 5 + 2 && !tr__hosts_is_expected(hosts, 2, last - 1) &&
              tr__hosts_is_expected(hosts, 2, last));
    while (hosts->n_members < TR_MAX_MEMBERS)
        CU_ASSERT_FATAL(tr__hosts_new_member(hosts) > 2); /* all just now */
    CU_ASSERT_EQUAL(tr__hosts_new_member(hosts), -1);
    close_game();
}

static bool two_is_here(void)
{
    return tr__hosts_is_here(game->head.hosts, 2);
}

static void who_comes_after_his_number_was_given_away_is_not_heard(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1};
    open_game(host_of, false, 1);
    begin_running(1);
    tr_hosts *hosts = game->head.hosts;
    CU_ASSERT_EQUAL(tr__hosts_new_member(hosts), 2);
    uint32_t first = hosts->members[2].incarnation;
    hosts->members[2].knocked_ns = 1;
    CU_ASSERT_EQUAL(tr__hosts_new_member(hosts), 2);
    greet_as(NODES + 2, 2, first);
    COMES_NOT(two_is_here);
    greet_as(NODES + 2, 2, hosts->members[2].incarnation);
    COMES(two_is_here);
    close_game();
}

/* --- broken ways --- */

static void says_it_misses(int32_t member, int32_t other)
{
    agent_says(member, TR_CONTROL_CUT_OFF,
               &(tr_control_note){.node = NODES + other, .silent_ns = 1500000000});
}

static bool one_is_missed(void)
{
    return game->head.hosts->n_cuts > 0;
}

static bool two_are_missed(void)
{
    return game->head.hosts->n_cuts > 1;
}

/* Others may say something, too, before it is decided. */
static void look_later(void)
{
    tr_hosts *hosts = game->head.hosts;
    uint64_t now_ns = tr_node_now_ns(game->head.node);
    CU_ASSERT(tr__hosts_is_here(hosts, 1));
    for (size_t i = 0; i < hosts->n_cuts; i++) hosts->cuts[i].since_ns = now_ns - 1000000000;
    tr__hosts_look_at_routes(hosts, now_ns);
}

static void look_later_at_none(void)
{
    tr__hosts_look_at_routes(game->head.hosts, tr_node_now_ns(game->head.node));
    CU_ASSERT_EQUAL(game->head.hosts->n_cuts, 0);
}

/* Three hosts with a worker on each of the other two. */
static void begin_with_three(void)
{
    static const int32_t host_of[NODES] = {0, 1, 2};
    open_game(host_of, false, 1);
    game->options.hosts.count = 3;
    game->head.hosts->count = 3;
    greet(NODES, 0);
    join(1);
    join(2);
    COMES(is_settled);
    start_worker(1, 1, 1001);
    start_worker(2, 2, 1002);
    COMES(runs);
}

/* The later one, whoever says it. */
static void a_broken_way_costs_one_of_the_two(void)
{
    for (int32_t who = 1; who <= 2; who++) {
        begin_with_three();
        says_it_misses(who, 3 - who);
        COMES(one_is_missed);
        tr__hosts_look_at_routes(game->head.hosts, tr_node_now_ns(game->head.node));
        CU_ASSERT(runs() && two_is_here()); /* not yet */
        look_later();
        CU_ASSERT(!two_is_here() && tr__hosts_is_here(game->head.hosts, 1) && is_epoch_2());
        CU_ASSERT(tr_hosts_agent_of(game->head.hosts, 2) != NODES + 2);
        CU_ASSERT(strstr(game->lost, "host 2 (") == game->lost &&
                  strstr(game->lost, "the way between it and host 1 (") &&
                  strstr(game->lost, "is broken (nothing came for 1.5 s), though the head hears both"));
        close_game();
    }
}

static void the_heads_own_is_never_given_up(void)
{
    begin_with_three();
    says_it_misses(1, 0);
    says_it_misses(2, 0);
    COMES(two_are_missed);
    look_later();
    CU_ASSERT(tr__hosts_is_here(game->head.hosts, 0) && is_epoch_2());
    CU_ASSERT(two_is_here() != tr__hosts_is_here(game->head.hosts, 1)); /* one after the other */
    close_game();
}

static void one_that_more_do_not_reach_is_given_up(void)
{
    begin_with_three();
    says_it_misses(1, 0);
    says_it_misses(2, 1);
    COMES(two_are_missed);
    look_later();
    CU_ASSERT(two_is_here() && !tr__hosts_is_here(game->head.hosts, 1));
    close_game();
}

static void a_spare_that_is_not_reached_waits(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1};
    open_game(host_of, true, 1);
    begin_running(1);
    join(2);
    COMES(two_is_here);
    tr_hosts *hosts = game->head.hosts;
    says_it_misses(1, 2);
    COMES(one_is_missed);
    look_later();
    CU_ASSERT(two_is_here() && tr__hosts_is_here(hosts, 1) && runs() && !tr__hosts_stays(hosts, 2));
    for (size_t i = 0; i < game->topology.n_actors; i++) CU_ASSERT(hosts->copy[i] != 2);
    uint64_t until_ns = hosts->members[2].apart_until_ns;
    tr__hosts_look_at_routes(hosts, until_ns - 1);
    CU_ASSERT(!tr__hosts_stays(hosts, 2));
    tr__hosts_look_at_routes(hosts, until_ns);
    CU_ASSERT(tr__hosts_stays(hosts, 2)); /* nobody missed it since */
    close_game();
}

/* Its other links break with it, and are told of first. */
static void a_host_that_is_lost_altogether_explains_a_broken_way(void)
{
    begin_with_three();
    says_it_misses(2, 1);
    COMES(one_is_missed);
    tr_hosts_lost_link(game->head.hosts, NODES + 1, "the test cuts it");
    look_later();
    CU_ASSERT(two_is_here() && runs());
    COMES(is_epoch_2);
    CU_ASSERT(two_is_here() && !tr__hosts_is_here(game->head.hosts, 1));
    look_later_at_none();
    CU_ASSERT(two_is_here());
    close_game();
}

/* --- what workers begin with --- */

/* The head's limits count from the homes, or from what came since. */
static void a_handover_may_take_as_long_as_it_comes_on(void)
{
    static const int32_t host_of[NODES] = {0, 0, 1};
    const uint64_t minute_ns = TR_HEAD_GREETING_MS * 1000000ull, second_ns = 1000000000;
    open_game(host_of, false, 1);
    begin_running(1);
    tr_hosts_lost_link(game->head.hosts, NODES + 1, "the test cuts it");
    COMES(is_epoch_2);
    greet(1, 0); /* the other one waits for its states */
    COMES(one_has_greeted);
    uint64_t homes_ns = tr_hosts_came_on_ns(game->head.hosts);
    game->head.greeting_until_ns = 1; /* that is not what it waits for */
    tr_head_check_greeting(&game->head, homes_ns + minute_ns - 1);
    CU_ASSERT(greets());
    agent_says(0, TR_CONTROL_COMES_ON, &(tr_control_note){0});
    COMES(has_come_on);
    uint64_t came_on_ns = tr_hosts_came_on_ns(game->head.hosts);
    CU_ASSERT(came_on_ns > homes_ns);
    game->head.hosts->came_on_ns = came_on_ns += 50 * second_ns; /* as if it had been later */
    tr_head_check_greeting(&game->head, homes_ns + minute_ns + second_ns);
    tr_head_check_rejoin(&game->head, homes_ns + minute_ns + second_ns);
    CU_ASSERT(greets() && !game->head.workers[2].fenced);
    tr_head_check_greeting(&game->head, came_on_ns + minute_ns + second_ns);
    CU_ASSERT(game->head.phase == TR_HEAD_ENDING);
    CU_ASSERT(strstr(game->head.cause.message, "did not come on for 60 s") != NULL);
    close_game();
}

/* Its agent saw it alive, and reaps it only when there is a head again. */
static void one_that_died_before_it_was_taken_over_is_missed(void)
{
    open_game(NULL, false, 2);
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    CU_ASSERT_FATAL(pid > 0 && waitpid(pid, NULL, 0) == pid);
    tr_place_seen workers[NODES] = {[1] = {.pid = pid, .started = 1}, [2] = {.pid = getpid()}};
    workers[2] = tr_place_of(getpid(), -1);
    tr_orphans orphans = {.offer = {.agent_pid = getpid(), .epoch = 1, .workers = workers}};
    tr_head_readopt(&game->head, &orphans);
    CU_ASSERT_EQUAL(game->head.n_readopted, 1);
    greet(NODES, 0);
    agent_says(0, TR_CONTROL_WORKER_ENDED, &(tr_control_note){.node = 1, .pid = pid, .exit_code = -1});
    COMES(is_epoch_3);
    close_game();
}

static const check_test tests[] = {
    CHECK_TEST(copies_that_nobody_keeps_are_waited_for_by_nobody),
    CHECK_TEST(a_death_counts_where_one_before_it_left_with_its_host),
    CHECK_TEST(a_death_counts_where_one_before_it_was_lost_on_its_way_out),
    CHECK_TEST(a_change_is_taken_back_where_one_leaves_that_has_a_part_in_it),
    CHECK_TEST(a_spare_without_a_part_in_it_disturbs_no_change),
    CHECK_TEST(nobody_loses_a_number_to_one_that_never_came),
    CHECK_TEST(who_comes_after_his_number_was_given_away_is_not_heard),
    CHECK_TEST(a_handover_may_take_as_long_as_it_comes_on),
    CHECK_TEST(a_broken_way_costs_one_of_the_two),
    CHECK_TEST(the_heads_own_is_never_given_up),
    CHECK_TEST(one_that_more_do_not_reach_is_given_up),
    CHECK_TEST(a_spare_that_is_not_reached_waits),
    CHECK_TEST(a_host_that_is_lost_altogether_explains_a_broken_way),
    CHECK_TEST(one_that_died_before_it_was_taken_over_is_missed),
};

CHECK_MAIN("hosts", tests)
