/* Actors on nodes, by script: links and monitors, lanes and credits, timers, beginnings and ends.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_stage.h"

#include <stdio.h>

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
CHECK_MAIN("node_actors", tests)
