/* Nodes under load: messages to and fro, crowds on stealing threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_stage.h"

static uint32_t n_rounds(void)
{
    return CHECK_SIZE(20000, 100);
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
    if (mine == &balls[0] && ++mine->rounds == n_rounds()) {
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
    printf(" [%.0f ns a message] ", (double)(tr_clock_ns() - begin) / (2.0 * n_rounds()));
    CU_ASSERT(s.job_ended && balls[0].rounds == n_rounds());
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

/* ---- one credit, given back alone ---- */

enum { SLOTS = 8 };

static struct {
    tr_message *kept[SLOTS + 1];
    uint32_t n, out;
} hoard;

static tr_status give_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                           void **state, tr_error *err)
{
    (void)context, (void)config, (void)config_bytes, (void)state, (void)err;
    hoard.out = tr_edge_out(self, "gift", 0);
    return TR_OK;
}

static bool give(tr_actor *self, void *state)
{
    (void)state;
    if (!tr_edge_credits(self, hoard.out)) return false;
    tr_edge_send(self, hoard.out, NULL, 0, 0, 0, 0);
    return true;
}

/* Keeps all, but gives back one when the sender has no credit left: fewer than half, so it is told at the end. */
static void hoard_receive(tr_actor *self, void *state, tr_message **message)
{
    (void)state;
    hoard.kept[hoard.n++] = *message;
    *message = NULL;
    if (hoard.n == SLOTS) tr_edge_release(self, &hoard.kept[0]);
    if (hoard.n == SLOTS + 1) tr_actor_finish_job(self);
}

static void hoard_stop(tr_actor *self, void *state)
{
    (void)state;
    for (uint32_t i = 0; i < hoard.n; i++) tr_edge_release(self, &hoard.kept[i]);
}

static const tr_behavior giver = {.name = "giver", .init = give_init, .idle = give};
static const tr_behavior hoarder = {.name = "hoarder", .receive = hoard_receive, .stop = hoard_stop};
static const tr_actor_kind hoard_kinds[] = {{"giver", &giver, NULL}, {"hoarder", &hoarder, NULL}};
static const tr_registry hoard_registry = {hoard_kinds, 2};

static void a_single_credit_wakes_its_sender(void)
{
    for (int how = 0; how < 4; how++) {
        stage s;
        int n_nodes = 1 + how / 2, n_threads = 1 + how % 2;
        memset(&hoard, 0, sizeof hoard);
        stage_open(&s, n_nodes, n_threads, &hoard_registry);
        tr_actor_id a = stage_actor(&s, "giver", "giver", 0),
                    z = stage_actor(&s, "hoarder", "hoarder", n_nodes - 1);
        stage_edge(&s, "gift", a, z, SLOTS);
        stage_play(&s);
        CU_ASSERT(s.job_ended && !s.timed_out && hoard.n == SLOTS + 1);
        stage_close(&s);
    }
}

/* ---- many actors, many threads: nothing lost, nothing doubled, order kept on each edge ---- */

enum { MOST = 100, FAN = 3 };

static uint32_t n_crowd(void)
{
    return CHECK_SIZE(MOST, 10);
}

static uint32_t n_walks(void)
{
    return CHECK_SIZE(300, 9);
}

typedef struct walker {
    uint32_t out[FAN], in[FAN], sent[FAN], expected[FAN];
    uint64_t sum_sent, sum_received;
    uint32_t n_sent, n_received;
    bool out_of_order;
} walker;

static walker walkers[MOST];
static _Atomic uint32_t n_walks_done;

static tr_status walk_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                           void **state, tr_error *err)
{
    (void)context, (void)config, (void)config_bytes, (void)err;
    tr_actor_id id = tr_actor_self(self);
    walker *mine = &walkers[id - 1];
    const tr_actor_id step[FAN] = {1, 7, CHECK_SIZE(33, 3)};
    *mine = (walker){0};
    for (int i = 0; i < FAN; i++) {
        mine->out[i] = tr_edge_out(self, "walk", (id - 1 + step[i]) % n_crowd() + 1);
        mine->in[i] = tr_edge_in(self, "walk", (id - 1 + n_crowd() - step[i]) % n_crowd() + 1);
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
    if (atomic_fetch_add(&n_walks_done, 1) == n_crowd() * n_walks() - 1) tr_actor_finish_job(self);
}

static bool walk_idle(tr_actor *self, void *state)
{
    walker *mine = state;
    for (int i = 0; i < FAN && mine->n_sent < n_walks(); i++) {
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
    const uint32_t n_walkers = n_crowd();
    n_walks_done = 0;
    stage_open(&s, n_nodes, n_threads, &walk_registry);
    for (uint32_t i = 0; i < n_walkers; i++) {
        snprintf(name, sizeof name, "walker %u", i);
        stage_actor(&s, name, "walk", (int)i % n_nodes);
    }
    for (tr_actor_id i = 0; i < n_walkers; i++) {
        stage_edge(&s, "walk", i + 1, (i + 1) % n_walkers + 1, 3);
        stage_edge(&s, "walk", i + 1, (i + 7) % n_walkers + 1, 1);
        stage_edge(&s, "walk", i + 1, (i + CHECK_SIZE(33, 3)) % n_walkers + 1, 8);
    }
    stage_play(&s);
    uint64_t sent = 0, received = 0, n = 0;
    for (uint32_t i = 0; i < n_walkers; i++) {
        sent += walkers[i].sum_sent;
        received += walkers[i].sum_received;
        n += walkers[i].n_received;
        CU_ASSERT(!walkers[i].out_of_order);
    }
    CU_ASSERT(s.job_ended && n == n_walkers * n_walks() && sent == received);
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

static const check_test tests[] = {
    CHECK_TEST(a_message_goes_to_and_fro_on_one_node), CHECK_TEST(a_message_goes_to_and_fro_between_nodes),
    CHECK_TEST(a_single_credit_wakes_its_sender),      CHECK_TEST(a_crowd_on_stealing_threads_loses_nothing),
    CHECK_TEST(a_crowd_over_two_nodes_loses_nothing),
};
CHECK_MAIN("node", tests)
