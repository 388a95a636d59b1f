/* Nodes with actors on them: the first promises.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "base/clock.h"
#include "base/thread_pool.h"
#include "runtime/node.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 20000 };

/* ---- one or two nodes as threads ---- */

typedef struct stage {
    tr_node *nodes[2];
    int n_nodes;
    tr_topology topology;
    _Atomic int n_ended, n_peers_lost, n_ticks, n_system;
    _Atomic bool job_ended, timed_out;
    tr_error job_error, end_error;
    uint64_t deadline_ns;
    int n_threads;
} stage;

static stage *on_stage;
static pthread_mutex_t ends_lock = PTHREAD_MUTEX_INITIALIZER;

static void stop_all(stage *self)
{
    for (int i = 0; i < self->n_nodes; i++) tr_node_stop(self->nodes[i]);
}

static void on_job_end(void *context, const tr_error *error)
{
    stage *self = context;
    if (atomic_exchange(&self->job_ended, true)) return;
    if (error) self->job_error = *error;
    stop_all(self);
}

static void on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    stage *self = context;
    (void)who;
    pthread_mutex_lock(&ends_lock); /* two nodes, two threads */
    if (error) self->end_error = *error;
    pthread_mutex_unlock(&ends_lock);
    self->n_ended++;
}

static void on_peer_lost(void *context, int32_t peer, const char *reason)
{
    (void)peer;
    (void)reason;
    ((stage *)context)->n_peers_lost++;
}

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    stage *self = context;
    if (message->frame.edge == 7 && peer >= 0) self->n_system++;
}

static void on_tick(void *context, uint64_t now_ns)
{
    stage *self = context;
    self->n_ticks++;
    if (now_ns < self->deadline_ns) return;
    self->timed_out = true;
    stop_all(self);
}

static void *run_node(void *node)
{
    tr_node_run(node, 10, on_tick);
    return NULL;
}

static void stage_open(stage *self, int n_nodes, int n_threads, const tr_registry *registry)
{
    tr_error err;
    memset(self, 0, sizeof *self);
    on_stage = self;
    self->n_nodes = n_nodes;
    self->deadline_ns = tr_clock_ns() + 20000000000u;
    tr_topology_init(&self->topology, n_nodes);
    for (int i = 0; i < n_nodes; i++) {
        tr_node_options options = {.node = i,
                                   .incarnation = 1,
                                   .epoch = 1,
                                   .n_threads = n_threads,
                                   .data_transport = n_nodes > 1 ? "inproc" : NULL,
                                   .control_transport = n_nodes > 1 ? "inproc" : NULL,
                                   .registry = registry,
                                   .context = self,
                                   .on_system = on_system,
                                   .on_peer_lost = on_peer_lost,
                                   .on_actor_end = on_actor_end,
                                   .on_job_end = on_job_end};
        CHECK_OK(tr_node_new(&self->nodes[i], &options, &err));
    }
    for (int i = 0; n_nodes > 1 && i < 2; i++) /* both, since both may be the first to send */
        CHECK_OK(tr_node_connect(self->nodes[i], 1 - i, tr_node_control_address(self->nodes[1 - i]),
                                 tr_node_data_address(self->nodes[1 - i]), &err));
}

static tr_actor_id stage_actor(stage *self, const char *name, const char *kind, int node)
{
    tr_error err;
    tr_actor_id id = 0;
    CHECK_OK(tr_topology_add_actor(&self->topology, name, kind, node, NULL, 0, 0, &id, &err));
    return id;
}

static void stage_edge(stage *self, const char *name, tr_actor_id from, tr_actor_id to, uint32_t n_slots)
{
    tr_error err;
    CHECK_OK(tr_topology_add_edge(&self->topology, name, from, to, n_slots, 64, NULL, &err));
}

static void stage_play(stage *self)
{
    tr_error err;
    pthread_t threads[2];
    for (int i = 0; i < self->n_nodes; i++)
        CHECK_OK(tr_node_load(self->nodes[i], &self->topology, NULL, &err));
    for (int i = 0; i < self->n_nodes; i++) tr_node_start_actors(self->nodes[i]);
    for (int i = 1; i < self->n_nodes; i++) pthread_create(&threads[i], NULL, run_node, self->nodes[i]);
    run_node(self->nodes[0]);
    for (int i = 1; i < self->n_nodes; i++) pthread_join(threads[i], NULL);
    CU_ASSERT(!self->timed_out);
}

static void stage_close(stage *self)
{
    for (int i = 0; i < self->n_nodes; i++) tr_node_destroy(&self->nodes[i]);
    tr_topology_release(&self->topology);
}

/* ---- ping and pong ---- */

typedef struct ball {
    uint32_t out;
    uint32_t rounds;
} ball;

static ball balls[2];

static tr_status ping_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                           void **state, tr_error *err)
{
    (void)config, (void)config_bytes, (void)err;
    ball *mine = &balls[(size_t)context];
    *mine = (ball){.out = tr_edge_out(self, "ball", 0)};
    *state = mine;
    return TR_OK;
}

static void ping_start(tr_actor *self, void *state)
{
    ball *mine = state;
    if (mine == &balls[0]) tr_edge_send(self, mine->out, NULL, 0, 0, 0, 0);
}

static void ping_receive(tr_actor *self, void *state, tr_message **message)
{
    ball *mine = state;
    if (mine == &balls[0] && ++mine->rounds == ROUNDS) {
        tr_actor_finish_job(self);
        return;
    }
    tr_edge_release(self, message);
    tr_edge_send(self, mine->out, NULL, 0, 0, 0, 0);
}

static const tr_behavior ping = {
    .name = "ping", .init = ping_init, .start = ping_start, .receive = ping_receive};
static const tr_actor_kind ping_kinds[] = {{"ping", &ping, (void *)0}, {"pong", &ping, (void *)1}};
static const tr_registry ping_registry = {ping_kinds, 2};

static void ping_pong(int n_nodes, int n_threads)
{
    stage s;
    stage_open(&s, n_nodes, n_threads, &ping_registry);
    tr_actor_id a = stage_actor(&s, "ping", "ping", 0), b = stage_actor(&s, "pong", "pong", n_nodes - 1);
    stage_edge(&s, "ball", a, b, 2);
    stage_edge(&s, "ball", b, a, 2);
    uint64_t begin = tr_clock_ns();
    stage_play(&s);
    printf(" [%.0f ns a message] ", (double)(tr_clock_ns() - begin) / (2.0 * ROUNDS));
    CU_ASSERT(s.job_ended && balls[0].rounds == ROUNDS);
    stage_close(&s);
}

static void a_message_goes_to_and_fro_on_one_node(void)
{
    ping_pong(1, 1);
    ping_pong(1, 2);
}

static void a_message_goes_to_and_fro_between_nodes(void)
{
    ping_pong(2, 1);
    ping_pong(2, 2);
}

/* ---- many actors, many threads: nothing lost, nothing doubled, order kept on each edge ---- */

enum { CROWD = 100, WALKS = 300, FAN = 3 };

typedef struct walker {
    uint32_t out[FAN], in[FAN], sent[FAN], expected[FAN];
    uint64_t sum_sent, sum_received;
    uint32_t n_sent, n_received;
    bool out_of_order;
} walker;

static walker walkers[CROWD];
static _Atomic uint32_t n_walks_done;

static tr_status walk_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                           void **state, tr_error *err)
{
    (void)context, (void)config, (void)config_bytes, (void)err;
    tr_actor_id id = tr_actor_self(self);
    walker *mine = &walkers[id - 1];
    static const tr_actor_id step[FAN] = {1, 7, 33};
    *mine = (walker){0};
    for (int i = 0; i < FAN; i++) {
        mine->out[i] = tr_edge_out(self, "walk", (id - 1 + step[i]) % CROWD + 1);
        mine->in[i] = tr_edge_in(self, "walk", (id - 1 + CROWD - step[i]) % CROWD + 1);
    }
    *state = mine;
    return TR_OK;
}

static void walk_receive(tr_actor *self, void *state, tr_message **message)
{
    (void)self;
    walker *mine = state;
    for (int i = 0; i < FAN; i++)
        if ((*message)->frame.edge == mine->in[i] && (*message)->frame.step != mine->expected[i]++)
            mine->out_of_order = true;
    uint64_t value;
    memcpy(&value, tr_message_bytes(*message), sizeof value);
    mine->sum_received += value;
    mine->n_received++;
    if (atomic_fetch_add(&n_walks_done, 1) == CROWD * WALKS - 1) tr_actor_finish_job(self);
}

static bool walk_idle(tr_actor *self, void *state)
{
    walker *mine = state;
    for (int i = 0; i < FAN && mine->n_sent < WALKS; i++) {
        int edge = (int)((mine->n_sent + i) % FAN);
        if (tr_edge_credits(self, mine->out[edge]) == 0) continue;
        tr_buffer *body = NULL;
        if (tr_buffer_new(&body, sizeof(uint64_t), NULL) != TR_OK) return false;
        uint64_t value = tr_actor_self(self) * 1000003 + mine->n_sent;
        memcpy(body->data, &value, sizeof value);
        mine->sum_sent += value;
        mine->n_sent++;
        tr_edge_send(self, mine->out[edge], body, sizeof value, mine->sent[edge]++, 0, 0);
        return true;
    }
    return false;
}

static const tr_behavior walk = {
    .name = "walk", .init = walk_init, .receive = walk_receive, .idle = walk_idle};
static const tr_actor_kind walk_kinds[] = {{"walk", &walk, NULL}};
static const tr_registry walk_registry = {walk_kinds, 1};

static void crowd(int n_nodes, int n_threads)
{
    stage s;
    char name[32];
    n_walks_done = 0;
    stage_open(&s, n_nodes, n_threads, &walk_registry);
    for (int i = 0; i < CROWD; i++) {
        snprintf(name, sizeof name, "walker %d", i);
        stage_actor(&s, name, "walk", i % n_nodes);
    }
    for (tr_actor_id i = 0; i < CROWD; i++) {
        stage_edge(&s, "walk", i + 1, (i + 1) % CROWD + 1, 3);
        stage_edge(&s, "walk", i + 1, (i + 7) % CROWD + 1, 1);
        stage_edge(&s, "walk", i + 1, (i + 33) % CROWD + 1, 8);
    }
    stage_play(&s);
    uint64_t sent = 0, received = 0, n = 0;
    for (int i = 0; i < CROWD; i++) {
        sent += walkers[i].sum_sent;
        received += walkers[i].sum_received;
        n += walkers[i].n_received;
        CU_ASSERT(!walkers[i].out_of_order);
    }
    CU_ASSERT(s.job_ended && n == CROWD * WALKS && sent == received);
    stage_close(&s);
}

static void a_crowd_on_stealing_threads_loses_nothing(void)
{
    crowd(1, 1);
    crowd(1, 4);
}

static void a_crowd_over_two_nodes_loses_nothing(void)
{
    crowd(2, 1);
    crowd(2, 3);
}

/* ---- actors by script ---- */

enum { GO = 1, SLOTS = 4 };

typedef struct script {
    void (*start)(tr_actor *self);
    void (*receive)(tr_actor *self, tr_message **message);
    bool (*idle)(tr_actor *self);
} script;

static char notes[16][256]; /* what happened, in order */
static _Atomic int n_notes;

static void note(const char *text)
{
    int at = n_notes++;
    if (at < 16) snprintf(notes[at], sizeof notes[at], "%s", text);
}

static bool noted(const char *part)
{
    for (int i = 0; i < n_notes && i < 16; i++)
        if (strstr(notes[i], part)) return true;
    return false;
}

static tr_status script_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                             void **state, tr_error *err)
{
    (void)self, (void)config, (void)config_bytes, (void)err;
    *state = context;
    return TR_OK;
}

static void script_start(tr_actor *self, void *state)
{
    const script *mine = state;
    if (mine->start) mine->start(self);
}

static void script_receive(tr_actor *self, void *state, tr_message **message)
{
    const script *mine = state;
    if (mine->receive) mine->receive(self, message);
}

static bool script_idle(tr_actor *self, void *state)
{
    const script *mine = state;
    return mine->idle ? mine->idle(self) : false;
}

static void script_down(tr_actor *self, void *state, tr_actor_id who, const char *reason)
{
    (void)state;
    char text[256];
    snprintf(text, sizeof text, "%s heard %d: %s", tr_actor_name(self), (int)who, reason);
    note(text);
    tr_actor_finish_job(self);
}

static const tr_behavior watching = {.name = "watching",
                                     .init = script_init,
                                     .start = script_start,
                                     .receive = script_receive,
                                     .idle = script_idle,
                                     .down = script_down};
static const tr_behavior plain = {.name = "plain",
                                  .init = script_init,
                                  .start = script_start,
                                  .receive = script_receive,
                                  .idle = script_idle};

static void fail_now(tr_actor *self)
{
    tr_error error;
    tr_fail(&error, TR_EIO, "the disk is full");
    tr_actor_fail(self, &error);
}

static void fail_when_told(tr_actor *self, tr_message **message)
{
    if ((*message)->frame.edge == GO) fail_now(self);
}

static void exit_when_told(tr_actor *self, tr_message **message)
{
    if ((*message)->frame.edge == GO) tr_actor_exit(self);
}

static void monitor_2_and_tell(tr_actor *self)
{
    tr_actor_monitor(self, 2);
    tr_actor_send(self, 2, GO, 0, NULL, 0);
}

static void link_2(tr_actor *self)
{
    tr_actor_link(self, 2);
    tr_actor_send(self, 2, GO, 0, NULL, 0);
}

static void monitor_1(tr_actor *self)
{
    tr_actor_monitor(self, 1);
}

/* Plays actors 1 .. n with these scripts, alternating over the nodes. */
static void play(stage *s, int n_nodes, int n_threads, const tr_actor_kind *kinds, size_t n)
{
    static tr_registry registry;
    registry = (tr_registry){kinds, n};
    n_notes = 0;
    stage_open(s, n_nodes, n_threads, &registry);
    for (size_t i = 0; i < n; i++) stage_actor(s, kinds[i].name, kinds[i].name, (int)i % n_nodes);
    stage_play(s);
}

static void a_monitor_hears_why_an_actor_failed(void)
{
    static script watcher = {.start = monitor_2_and_tell}, victim = {.receive = fail_when_told};
    const tr_actor_kind kinds[] = {{"watcher", &watching, &watcher}, {"victim", &plain, &victim}};
    for (int n_nodes = 1; n_nodes <= 2; n_nodes++) {
        stage s;
        play(&s, n_nodes, 2, kinds, 2);
        CU_ASSERT(noted("watcher heard 2: actor 'victim' failed: the disk is full") && n_notes == 1);
        CU_ASSERT(s.n_ended == 1 && strstr(s.end_error.message, "'victim'") != NULL);
        stage_close(&s);
    }
}

static void wait_then_monitor(tr_actor *self)
{
    tr_actor_timer(self, 50, 1);
}

static void monitor_late(tr_actor *self, tr_message **message)
{
    if ((*message)->frame.edge == TR_TOPIC_TIMER) tr_actor_monitor(self, 2);
}

static void a_monitor_of_an_ended_actor_hears_at_once(void)
{
    static script watcher = {.start = wait_then_monitor, .receive = monitor_late},
                  gone = {.start = tr_actor_exit};
    const tr_actor_kind kinds[] = {{"watcher", &watching, &watcher}, {"gone", &plain, &gone}};
    for (int n_nodes = 1; n_nodes <= 2; n_nodes++) {
        stage s;
        play(&s, n_nodes, 1, kinds, 2);
        CU_ASSERT(noted("watcher heard 2: it ended normally") && s.n_ended == 1);
        stage_close(&s);
    }
}

/* 3 watches 1; 1 is linked to 2, which fails: 1 ends too, and 3 hears that. */
static void a_link_takes_the_other_along_when_it_fails(void)
{
    static script linked = {.start = link_2}, victim = {.receive = fail_when_told},
                  third = {.start = monitor_1};
    const tr_actor_kind kinds[] = {
        {"linked", &plain, &linked}, {"victim", &plain, &victim}, {"third", &watching, &third}};
    for (int n_nodes = 1; n_nodes <= 2; n_nodes++) {
        stage s;
        play(&s, n_nodes, 2, kinds, 3);
        CU_ASSERT(noted(
            "third heard 1: actor 'linked' failed: linked actor 'victim' ended: actor 'victim' failed"));
        CU_ASSERT(s.n_ended == 2);
        stage_close(&s);
    }
}

static void finish_at_timer(tr_actor *self, tr_message **message)
{
    if ((*message)->frame.edge == TR_TOPIC_TIMER) tr_actor_finish_job(self);
}

static void link_2_and_wait(tr_actor *self)
{
    link_2(self);
    tr_actor_timer(self, 50, 0);
}

static void a_link_outlives_a_normal_end(void)
{
    static script linked = {.start = link_2_and_wait, .receive = finish_at_timer},
                  victim = {.receive = exit_when_told};
    const tr_actor_kind kinds[] = {{"linked", &plain, &linked}, {"victim", &plain, &victim}};
    stage s;
    play(&s, 1, 1, kinds, 2);
    CU_ASSERT(s.n_ended == 1 && s.end_error.status == TR_OK && s.job_ended);
    stage_close(&s);
}

static void send_system_1(tr_actor *self, tr_message **message)
{
    (void)message;
    (void)self;
    tr_node_send_system(on_stage->nodes[0], 1, 7, "hello", 6);
    tr_node_send_system(on_stage->nodes[0], 0, 7, NULL, 0);
    tr_node_post(on_stage->nodes[0], 2, GO, NULL, 0);
}

static void timer_soon(tr_actor *self)
{
    tr_actor_timer(self, 1, 0);
}

static void a_lost_node_takes_its_actors_along(void)
{
    static script watcher = {.start = monitor_1};
    static script quiet;
    const tr_actor_kind kinds[] = {{"away", &plain, &quiet}, {"watcher", &watching, &watcher}};
    tr_registry registry = {kinds, 2};
    stage s;
    tr_error err;
    n_notes = 0;
    stage_open(&s, 2, 1, &registry);
    stage_actor(&s, "away", "away", 1);
    stage_actor(&s, "watcher", "watcher", 0);
    CHECK_OK(tr_node_load(s.nodes[0], &s.topology, NULL, &err));
    tr_node_start_actors(s.nodes[0]);
    pthread_t thread;
    pthread_create(&thread, NULL, run_node, s.nodes[0]);
    usleep(50000);
    tr_node *gone = s.nodes[1];
    s.nodes[1] = NULL;
    s.n_nodes = 1;
    tr_node_destroy(&gone);
    pthread_join(thread, NULL);
    CU_ASSERT(noted("watcher heard 1: node 1 was lost") && n_notes == 1 && !s.timed_out);
    stage_close(&s);
}

static void systems_and_posts_reach_every_node(void)
{
    static script teller = {.start = timer_soon, .receive = send_system_1},
                  told = {.receive = exit_when_told};
    static script watcher = {.start = wait_then_monitor, .receive = monitor_late};
    const tr_actor_kind kinds[] = {
        {"teller", &plain, &teller}, {"told", &plain, &told}, {"watcher", &watching, &watcher}};
    stage s;
    play(&s, 2, 1, kinds, 3);
    CU_ASSERT(s.n_system == 2 && s.n_ended == 1);
    stage_close(&s);
}

/* ---- control and data; credits ---- */

static int n_data_seen, data_seen_at_control, n_idle_with_mail, n_waits;
static uint32_t lane;

static void fill_then_control(tr_actor *self)
{
    lane = tr_edge_out(self, "lane", 2);
    for (uint32_t i = 0; i < SLOTS; i++) tr_edge_send(self, lane, NULL, 0, i, 0, 0);
    CU_ASSERT(tr_edge_credits(self, lane) == 0);
    tr_actor_send(self, 2, GO, 0, "overtakes", 10);
}

static void count_messages(tr_actor *self, tr_message **message)
{
    if ((*message)->frame.kind == TR_FRAME_CONTROL && (*message)->frame.edge == GO)
        data_seen_at_control = n_data_seen;
    if ((*message)->frame.kind == TR_FRAME_DATA && ++n_data_seen == SLOTS) tr_actor_timer(self, 20, 0);
    if ((*message)->frame.edge == TR_TOPIC_TIMER && (*message)->frame.kind == TR_FRAME_CONTROL)
        tr_actor_finish_job(self);
}

static bool idle_sees_all(tr_actor *self)
{
    (void)self;
    if (n_data_seen > 0 && n_data_seen < SLOTS) n_idle_with_mail++;
    return false;
}

static void play_lane(stage *s, const tr_actor_kind *kinds)
{
    static tr_registry registry;
    registry = (tr_registry){kinds, 2};
    stage_open(s, 1, 1, &registry);
    stage_actor(s, "from", "from", 0);
    stage_actor(s, "to", "to", 0);
    stage_edge(s, "lane", 1, 2, SLOTS);
    stage_play(s);
    stage_close(s);
}

static void control_overtakes_a_full_data_lane(void)
{
    static script from = {.start = fill_then_control},
                  to = {.receive = count_messages, .idle = idle_sees_all};
    const tr_actor_kind kinds[] = {{"from", &plain, &from}, {"to", &plain, &to}};
    stage s;
    n_data_seen = n_idle_with_mail = 0;
    data_seen_at_control = -1;
    play_lane(&s, kinds);
    CU_ASSERT(data_seen_at_control == 0); /* it was sent after all of them */
    CU_ASSERT(n_data_seen == SLOTS && n_idle_with_mail == 0);
}

static tr_message *kept[SLOTS];
static int n_kept;

static void keep_all(tr_actor *self, tr_message **message)
{
    if ((*message)->frame.kind == TR_FRAME_CONTROL) { /* the timer: give one back */
        if (n_kept) tr_edge_release(self, &kept[--n_kept]);
        return;
    }
    if (n_waits) { /* the one the credit made possible */
        tr_edge_release(self, message);
        while (n_kept) tr_edge_release(self, &kept[--n_kept]);
        tr_actor_finish_job(self);
        return;
    }
    kept[n_kept++] = *message;
    *message = NULL;
    if (n_kept == SLOTS) tr_actor_timer(self, 30, 0);
}

static bool send_while_credit(tr_actor *self)
{
    if (tr_edge_credits(self, lane) == 0) {
        n_waits++;
        return false;
    }
    tr_edge_send(self, lane, NULL, 0, 0, 0, 0);
    return true;
}

static void find_lane(tr_actor *self)
{
    lane = tr_edge_out(self, "lane", 2);
}

static void a_sender_without_credit_runs_again_when_one_comes_back(void)
{
    static script from = {.start = find_lane, .idle = send_while_credit}, to = {.receive = keep_all};
    const tr_actor_kind kinds[] = {{"from", &plain, &from}, {"to", &plain, &to}};
    stage s;
    n_waits = n_kept = 0;
    play_lane(&s, kinds);
    CU_ASSERT(s.job_ended && n_waits >= 1 && n_waits <= 3);
}

static uint32_t tags[4];
static int n_tags;

static void set_timers(tr_actor *self)
{
    n_tags = 0;
    tr_actor_timer(self, 30, 3);
    tr_actor_timer(self, 10, 1);
    tr_actor_timer(self, 20, 2);
    tr_actor_timer(self, 40, 4);
}

static void take_timer(tr_actor *self, tr_message **message)
{
    tags[n_tags++] = (*message)->frame.step;
    if (n_tags == 4) tr_actor_finish_job(self);
}

static void timers_reach_their_actor_in_order(void)
{
    static script one = {.start = set_timers, .receive = take_timer};
    const tr_actor_kind kinds[] = {{"one", &plain, &one}};
    stage s;
    uint64_t begin = tr_clock_ns();
    play(&s, 1, 2, kinds, 1);
    uint64_t took_ms = (tr_clock_ns() - begin) / 1000000;
    CU_ASSERT(tags[0] == 1 && tags[1] == 2 && tags[2] == 3 && tags[3] == 4);
    CU_ASSERT(took_ms >= 40 && took_ms < 2000);
    CU_ASSERT(s.n_ticks >= 1); /* of 10 ms; a busy machine merges those it was late for */
    stage_close(&s);
}

static void fail_the_job(tr_actor *self)
{
    tr_error error;
    tr_fail(&error, TR_EINVAL, "no data");
    tr_actor_fail_job(self, &error);
}

static void fail_job_ends_it_with_its_message(void)
{
    static script one = {.start = fail_the_job};
    const tr_actor_kind kinds[] = {{"one", &plain, &one}};
    stage s;
    play(&s, 1, 1, kinds, 1);
    CU_ASSERT(s.job_ended && strcmp(s.job_error.message, "no data") == 0);
    stage_close(&s);
}

static tr_status refuse_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                             void **state, tr_error *err)
{
    (void)self, (void)context, (void)config, (void)config_bytes, (void)state;
    return tr_fail(err, TR_ENOTFOUND, "no such file");
}

static int n_stopped;

static void count_stop(tr_actor *self, void *state)
{
    (void)self, (void)state;
    n_stopped++;
}

static void a_failing_init_is_reported_with_the_actors_name(void)
{
    static const tr_behavior good = {.name = "good", .stop = count_stop};
    static const tr_behavior bad = {.name = "bad", .init = refuse_init, .stop = count_stop};
    const tr_actor_kind kinds[] = {{"good", &good, NULL}, {"bad", &bad, NULL}};
    tr_registry registry = {kinds, 2};
    tr_error err;
    stage s;
    n_stopped = 0;
    stage_open(&s, 1, 1, &registry);
    stage_actor(&s, "the good one", "good", 0);
    stage_actor(&s, "the bad one", "bad", 0);
    CU_ASSERT(tr_node_load(s.nodes[0], &s.topology, NULL, &err) == TR_ENOTFOUND);
    CU_ASSERT_STRING_EQUAL(err.message, "actor 'the bad one' cannot begin: no such file");
    CU_ASSERT(n_stopped == 1); /* only who began is stopped */
    stage_close(&s);
}

static const check_test tests[] = {
    CHECK_TEST(a_message_goes_to_and_fro_on_one_node),
    CHECK_TEST(a_message_goes_to_and_fro_between_nodes),
    CHECK_TEST(a_crowd_on_stealing_threads_loses_nothing),
    CHECK_TEST(a_crowd_over_two_nodes_loses_nothing),
    CHECK_TEST(a_monitor_hears_why_an_actor_failed),
    CHECK_TEST(a_monitor_of_an_ended_actor_hears_at_once),
    CHECK_TEST(a_link_takes_the_other_along_when_it_fails),
    CHECK_TEST(a_link_outlives_a_normal_end),
    CHECK_TEST(a_lost_node_takes_its_actors_along),
    CHECK_TEST(systems_and_posts_reach_every_node),
    CHECK_TEST(control_overtakes_a_full_data_lane),
    CHECK_TEST(a_sender_without_credit_runs_again_when_one_comes_back),
    CHECK_TEST(timers_reach_their_actor_in_order),
    CHECK_TEST(fail_job_ends_it_with_its_message),
    CHECK_TEST(a_failing_init_is_reported_with_the_actors_name),
};
CHECK_MAIN("node", tests)
