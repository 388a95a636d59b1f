/* test/runtime/hosts_routes_test.c - a head of a job on several hosts, whose agents and workers are played: whom it gives up where two
 * hosts do not reach each other, how long it waits for what workers begin with, and who gets which number.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_game.h"

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

static const check_test tests[] = {
    CHECK_TEST(nobody_loses_a_number_to_one_that_never_came),
    CHECK_TEST(who_comes_after_his_number_was_given_away_is_not_heard),
    CHECK_TEST(a_handover_may_take_as_long_as_it_comes_on),
    CHECK_TEST(a_broken_way_costs_one_of_the_two),
    CHECK_TEST(the_heads_own_is_never_given_up),
    CHECK_TEST(one_that_more_do_not_reach_is_given_up),
    CHECK_TEST(a_spare_that_is_not_reached_waits),
    CHECK_TEST(a_host_that_is_lost_altogether_explains_a_broken_way),
};

CHECK_MAIN("hosts_routes", tests)
