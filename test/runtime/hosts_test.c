/* test/runtime/hosts_test.c - a head of a job on several hosts, whose agents and workers are played: who leaves is waited for by nobody
 * any more, and a death is one whoever was in that place before.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_game.h"

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
    CHECK_TEST(one_that_died_before_it_was_taken_over_is_missed),
};

CHECK_MAIN("hosts", tests)
