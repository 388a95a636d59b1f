/* test/runtime/hosts_former_test.c - what a head does with the states that agents held under a head before it: which generation it
 * goes on from, from whom, and for whom it waits. Agents are what they have told.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

#include "base/memory.h"
#include "check.h"

#include <string.h>

enum { TERM = 50, FORMER_TERM = 40, EPOCH = 7, ONE = 1, TWO = 2, MEMBERS = 4 };

static tr_error err;
static tr_actor_spec actors[3] = {{.id = 1, .node = 0, .name = "clock"},
                                  {.id = 2, .node = 1, .state_bytes = 64, .name = "one"},
                                  {.id = 3, .node = 2, .state_bytes = 64, .name = "two"}};
static const tr_topology topology = {.n_nodes = 3, .threads_per_node = 1, .actors = actors, .n_actors = 3};
static tr_job_options options;
static tr_head head;
static tr_hosts hosts;
static tr__member members[MEMBERS];

/* The job was led in terms 40, 41, and now 50, in the epochs up to 7. */
static bool was_led(void *context, uint64_t term, uint32_t epoch)
{
    (void)context;
    return (term == FORMER_TERM || term == FORMER_TERM + 1 || term == TERM) && epoch <= EPOCH;
}

/* n others have joined; nobody has told anything. */
static void open_game(int32_t n, const uint32_t *equals)
{
    options = (tr_job_options){
        .hosts = {.count = 2,
                  .former = {.term = TERM, .wanted = true, .least = 10, .most = 60, .led = was_led}}};
    head = (tr_head){.options = &options, .topology = &topology};
    memset(members, 0, sizeof members);
    for (int32_t m = 0; m <= n; m++)
        members[m] = (tr__member){.present = true, .host = m < 2 ? m : -1, .name = "a"};
    hosts = (tr_hosts){.head = &head,
                       .options = &options.hosts,
                       .count = 2,
                       .equals = equals,
                       .members = members,
                       .n_members = n + 1,
                       .takes_former = true};
}

static tr_former_state state(uint32_t actor, uint64_t a, uint64_t b) /* the right bytes of them */
{
    return (tr_former_state){.actor = actor,
                             .generations = {a, b},
                             .hashes = {a ? a * 1000 + actor : 0, b ? b * 1000 + actor : 0}};
}

static void say(int32_t m, const tr_former *what)
{
    tr_message *message;
    void *bytes;
    size_t size;
    CHECK_OK(tr_former_encode(what, &bytes, &size, &err));
    CHECK_OK(tr_message_copy(&message, bytes, (uint32_t)size, &err));
    message->frame.edge = TR_CONTROL_FORMER;
    CU_ASSERT(tr__hosts_hear_former(&hosts, m, message));
    tr_message_destroy(&message);
    tr_free(bytes);
}

static void tells(int32_t m, uint64_t term, int32_t n_agents, tr_former_state a, tr_former_state b)
{
    tr_former_state states[2] = {a, b};
    const tr_former what = {.term = term,
                            .epoch = EPOCH,
                            .n_agents = n_agents,
                            .n_states = a.actor ? b.actor ? 2 : 1 : 0,
                            .states = states};
    say(m, &what);
}

static const tr_former_state none;

static void expect(uint64_t generation)
{
    tr__hosts_choose_former(&hosts);
    CU_ASSERT_EQUAL(hosts.former_generation, generation);
}

static bool has(int32_t m, uint32_t actor, uint32_t as)
{
    uint32_t found = 99;
    return tr__hosts_has_former(&hosts, m, actor, &found) && found == as;
}

static void the_newest_generation_that_every_state_has_is_gone_on_from(void)
{
    open_game(2, NULL);
    expect(0);
    tells(1, FORMER_TERM, 2, state(ONE, 33, 49),
          state(TWO, 17, 33)); /* its own, and a copy that was behind */
    expect(33);
    CU_ASSERT(has(1, ONE, ONE) && has(1, TWO, TWO) && !has(2, TWO, TWO) && !has(0, ONE, ONE));
    tells(2, FORMER_TERM, 2, state(TWO, 49, 33), none);
    expect(49);
    CU_ASSERT(has(1, ONE, ONE) && has(2, TWO, TWO) && !has(1, TWO, TWO));
    members[2].present = false; /* lost before anything began */
    expect(33);
    members[1].present = false;
    expect(0);
    tr__hosts_forget_former(&hosts);
    members[1].present = members[2].present = true;
    expect(0);
    CU_ASSERT(!has(1, ONE, ONE));
}

static void a_state_that_is_nowhere_leaves_the_disk(void)
{
    open_game(1, NULL);
    tells(1, FORMER_TERM, 1, state(ONE, 33, 49), none);
    expect(0);
    CU_ASSERT(!has(1, ONE, ONE));
    CU_ASSERT(tr__hosts_are_complete(&hosts)); /* nobody is left who could have it */
    tr__hosts_forget_former(&hosts);
}

static void an_equal_state_stands_for_another(void)
{
    const uint32_t equals[3] = {0, 5, 5};
    open_game(1, equals);
    tr_former_state two = state(TWO, 33, 49);
    tells(1, FORMER_TERM, 1, two, none);
    expect(49);
    CU_ASSERT(has(1, ONE, TWO) && has(1, TWO, TWO));
    tr__hosts_forget_former(&hosts);
}

static void what_is_out_of_bounds_is_not_gone_on_from(void)
{
    open_game(1, NULL);
    tells(1, FORMER_TERM, 1, state(ONE, 61, 60),
          state(TWO, 60, 61)); /* the log does not reach the newer one */
    expect(60);
    options.hosts.former.most = 59;
    expect(0);
    options.hosts.former.most = 61;
    expect(61);
    options.hosts.former.least = 62; /* a checkpoint is newer */
    expect(0);
    tr__hosts_forget_former(&hosts);
}

static void two_versions_of_a_generation_are_both_distrusted(void)
{
    open_game(2, NULL);
    tr_former_state other = state(ONE, 33, 49);
    other.hashes[1]++;
    tells(1, FORMER_TERM, 2, state(ONE, 33, 49), state(TWO, 33, 49));
    expect(49);
    tells(2, FORMER_TERM, 2, other, none);
    expect(33);
    tr__hosts_forget_former(&hosts);
}

static void states_of_another_job_count_for_nothing(void)
{
    open_game(3, NULL);
    tells(1, FORMER_TERM - 1, 1, state(ONE, 33, 49), state(TWO, 33, 49));
    expect(0);
    tells(2, TERM + 1, 1, state(ONE, 33, 49), state(TWO, 33, 49));
    expect(0);
    CU_ASSERT(!has(1, ONE, ONE) && !has(2, ONE, ONE));
    tells(3, FORMER_TERM + 1, 1, state(ONE, 33, 17), state(TWO, 33, 49));
    expect(33);
    tr__hosts_forget_former(&hosts);
}

/* Its link broke when it had taken over what it told, and it has joined again. */
static void who_comes_back_to_the_same_head_is_heard_again(void)
{
    open_game(1, NULL);
    tells(1, TERM, 1, state(ONE, 33, 49), state(TWO, 33, 49));
    expect(49);
    tr__hosts_forget_former(&hosts);
}

static void nobody_is_heard_twice_or_too_late(void)
{
    open_game(1, NULL);
    tells(1, FORMER_TERM, 1, state(ONE, 33, 49), none);
    tells(1, FORMER_TERM, 1, state(ONE, 33, 49), state(TWO, 33, 49));
    CU_ASSERT_EQUAL(hosts.n_formers, 1);
    tr__hosts_forget_former(&hosts);
    members[1].told_former = false;
    tells(1, FORMER_TERM, 1, state(ONE, 33, 49), state(TWO, 33, 49));
    CU_ASSERT_EQUAL(hosts.n_formers, 0);
}

static void who_was_there_is_waited_for_until_all_is_there(void)
{
    open_game(3, NULL);
    members[2].present = members[3].present = members[1].present = false;
    CU_ASSERT(!tr__hosts_are_complete(&hosts)); /* host 1 of the plan is missing */
    members[1].present = true;
    CU_ASSERT(!tr__hosts_are_complete(&hosts)); /* what it has is on its way */
    tells(1, FORMER_TERM, 3, state(ONE, 33, 49), none);
    CU_ASSERT(!tr__hosts_are_complete(&hosts)); /* two more were there */
    members[2].present = true;
    tells(2, FORMER_TERM, 3, none, none);
    CU_ASSERT(!tr__hosts_are_complete(&hosts));
    members[3].present = true;
    tells(3, FORMER_TERM, 3, none, none);
    CU_ASSERT(tr__hosts_are_complete(&hosts)); /* all came, and there is no more */
    tr__hosts_forget_former(&hosts);

    open_game(2, NULL);
    members[2].present = false;
    tells(1, FORMER_TERM, 2, state(ONE, 33, 49), state(TWO, 33, 17));
    CU_ASSERT(tr__hosts_are_complete(&hosts)); /* it has all that is needed */
    members[0].present = false;
    CU_ASSERT(!tr__hosts_are_complete(&hosts));
    tr__hosts_forget_former(&hosts);
    members[0].present = true;

    open_game(2, NULL); /* nobody knows of a head before */
    const tr_former nothing = {0};
    say(1, &nothing);
    CU_ASSERT(!tr__hosts_are_complete(&hosts));
    say(2, &nothing);
    CU_ASSERT(tr__hosts_are_complete(&hosts));
    tr__hosts_forget_former(&hosts);
}

static const check_test tests[] = {
    CHECK_TEST(the_newest_generation_that_every_state_has_is_gone_on_from),
    CHECK_TEST(a_state_that_is_nowhere_leaves_the_disk),
    CHECK_TEST(an_equal_state_stands_for_another),
    CHECK_TEST(what_is_out_of_bounds_is_not_gone_on_from),
    CHECK_TEST(two_versions_of_a_generation_are_both_distrusted),
    CHECK_TEST(states_of_another_job_count_for_nothing),
    CHECK_TEST(who_comes_back_to_the_same_head_is_heard_again),
    CHECK_TEST(nobody_is_heard_twice_or_too_late),
    CHECK_TEST(who_was_there_is_waited_for_until_all_is_there),
};
CHECK_MAIN("hosts_former", tests)
