/* test/runtime/agent_former_test.c - an agent that loses its head, and joins another: what it keeps, what it tells of it, and that it
 * hands over what it said, or forgets it when it is not wanted. The heads and the other agent are played; the worker whose
 * state it has a copy of runs nowhere.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent.h"

#include "base/clock.h"
#include "base/memory.h"
#include "check.h"
#include "runtime/host_messages.h"
#include "runtime/state.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { NODES = 2, ME = 1, OTHER = NODES, AGENT = NODES + ME, BYTES = 64, PATIENCE_MS = 10000 };
enum { TERM = 40, EPOCH = 3, NEXT_TERM = 50, NEXT_EPOCH = 9 };

static tr_error err;
static tr_node *head, *other;
static tr_state_region *model; /* with generations 5 and 6, as their worker wrote them */
static struct {
    int32_t held, slots, formers, hellos; /* how many of these were heard */
    uint64_t generations[4];              /* of the slots that came, in order; 0: that was all */
    bool damaged;
    tr_former former;
} heard;
static tr_topology topology; /* of the head at hand */

static void take_former(const tr_message *message)
{
    tr_former_release(&heard.former);
    CHECK_OK(tr_former_decode(&heard.former, tr_message_bytes(message), message->frame.body_bytes, &topology,
                              &err));
    heard.formers++;
}

static int slot_of(uint64_t generation)
{
    return tr_state_generation(model, 1) == generation;
}

static void take_slot(const tr_slot_part *part)
{
    const tr_slot_part taken = {
        .actor = part->actor, .generation = part->generation, .offset_bytes = BYTES, .good = true};
    void *bytes = NULL;
    size_t size = 0;
    if (heard.slots < 4) heard.generations[heard.slots++] = part->generation;
    if (!part->generation) return;
    heard.damaged = heard.damaged || part->n_bytes != BYTES ||
                    memcmp(part->bytes, tr_state_slot(model, slot_of(part->generation)), BYTES) != 0;
    CHECK_OK(tr_slot_part_encode(&taken, &bytes, &size, &err));
    tr_node_send_system(other, AGENT, TR_CONTROL_SLOT_TAKEN, bytes, (uint32_t)size);
    tr_free(bytes);
}

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    tr_slot_part part;
    (void)context, (void)peer;
    heard.hellos += message->frame.edge == TR_CONTROL_HELLO;
    heard.held += message->frame.edge == TR_CONTROL_HELD;
    if (message->frame.edge == TR_CONTROL_FORMER) take_former(message);
    if (message->frame.edge == TR_CONTROL_SLOT &&
        tr_slot_part_decode(&part, tr_message_bytes(message), message->frame.body_bytes, NULL) == TR_OK)
        take_slot(&part);
}

static void on_peer_lost(void *context, int32_t who, bool control, const char *reason)
{
    (void)context, (void)who, (void)control, (void)reason;
}

static tr_node *open_node(int32_t id, uint32_t epoch)
{
    static const tr_registry nothing;
    tr_node *made = NULL;
    const tr_node_options options = {.node = id,
                                     .incarnation = epoch,
                                     .epoch = epoch,
                                     .n_threads = 1,
                                     .control_transport = "inproc",
                                     .registry = &nothing,
                                     .on_system = on_system,
                                     .on_peer_lost = on_peer_lost};
    CHECK_OK(tr_node_new(&made, &options, &err));
    CU_ASSERT_FATAL(made != NULL);
    tr_node_begin(made, 0, NULL);
    return made;
}

static void step(tr_node *node)
{
    if (!node) return;
    tr_node_progress(node);
    while (tr_node_runnable(node) > 0) tr_node_step(node, 0);
}

static bool comes_to(const int32_t *count, int32_t n)
{
    uint64_t until_ns = tr_clock_ns() + (uint64_t)PATIENCE_MS * 1000000;
    while (*count < n && !CHECK_LATE(until_ns)) {
        step(head);
        step(other);
        tr_clock_sleep_ms(1);
    }
    return *count >= n;
}

/* Who has the state of the only worker, which is the other agent's; copy: who is to have one. */
static void tell_homes(uint32_t epoch, int32_t source, int32_t copy, bool takes_former)
{
    char addresses[2][TR_BIND_CHARS] = {"", "here"};
    int32_t homes_of[NODES] = {-1, 0};
    tr_state_home state = {.actor = 0, .source = source, .source_actor = 0, .copy = copy};
    const tr_homes homes = {.epoch = epoch,
                            .n_members = 2,
                            .n_nodes = NODES,
                            .n_states = 1,
                            .addresses = addresses,
                            .home = homes_of,
                            .states = &state,
                            .takes_former = takes_former};
    void *bytes = NULL;
    size_t size = 0;
    snprintf(addresses[0], TR_BIND_CHARS, "%s", tr_node_control_address(other));
    CHECK_OK(tr_homes_encode(&homes, &bytes, &size, &err));
    tr_node_send_system(head, AGENT, TR_CONTROL_HOMES, bytes, (uint32_t)size);
    tr_free(bytes);
}

static void send_copy(uint64_t generation)
{
    int slot = slot_of(generation);
    const tr_slot_part part = {.actor = 0,
                               .generation = generation,
                               .hash = tr_state_hash(model, slot),
                               .bytes = tr_state_slot(model, slot),
                               .n_bytes = BYTES};
    void *bytes = NULL;
    size_t size = 0;
    CHECK_OK(tr_slot_part_encode(&part, &bytes, &size, &err));
    tr_node_send_system(other, AGENT, TR_CONTROL_SLOT, bytes, (uint32_t)size);
    tr_free(bytes);
}

/* --- the agent, in a thread --- */

static struct {
    pthread_t thread;
    tr_launch launch;
    tr_agent_states *states;
    tr_status status;
} agent;

static void *run_agent(void *unused)
{
    tr_error why;
    (void)unused;
    agent.status = tr_agent_run(&agent.launch, -1, &agent.states, &why);
    return NULL;
}

static void begin_head(uint64_t term, uint32_t epoch, const char *name)
{
    tr_former_release(&heard.former);
    memset(&heard, 0, sizeof heard);
    head = open_node(TR_NODE_HEAD, epoch);
    other = open_node(OTHER, epoch);
    tr_topology_init(&topology, NODES);
    CHECK_OK(tr_topology_add_actor(&topology, name, "kind", 1, NULL, 0, BYTES, NULL, &err));
    agent.launch = (tr_launch){.role = TR_LAUNCH_AGENT,
                               .parent_pid = getpid(),
                               .node = AGENT,
                               .incarnation = epoch,
                               .epoch = epoch,
                               .n_threads = 1,
                               .member = ME,
                               .hosted = true,
                               .term = term,
                               .control_transport = "inproc",
                               .data_transport = "inproc"};
    CHECK_OK(tr_topology_encode(&topology, &agent.launch.topology, &agent.launch.topology_bytes, &err));
    snprintf(agent.launch.head_address, TR_ADDRESS_CHARS, "%s", tr_node_control_address(head));
    CU_ASSERT_FATAL(pthread_create(&agent.thread, NULL, run_agent, NULL) == 0);
    CU_ASSERT(comes_to(&heard.formers, 1) && heard.hellos == 1); /* always, and behind the greeting */
    tr_node_found(head, AGENT);
}

static void end_head(bool is_lost)
{
    if (!is_lost) {
        tr_control_send_note(head, AGENT, TR_CONTROL_STOP, &(tr_control_note){0});
        tr_clock_sleep_ms(20);
        step(head);
    }
    tr_node_destroy(&head);
    pthread_join(agent.thread, NULL);
    CU_ASSERT_EQUAL(agent.status, is_lost ? TR_ECLOSED : TR_OK);
    tr_node_destroy(&other);
    tr_topology_release(&topology);
    tr_launch_release(&agent.launch);
}

static void make_model(void)
{
    CHECK_OK(tr_state_region_new(&model, "one", BYTES, &err));
    for (int slot = 0; slot < 2; slot++) {
        tr_state_open(model, slot);
        memset(tr_state_slot(model, slot), 'a' + slot, BYTES);
        tr_state_publish(model, slot, 5 + (uint64_t)slot, NULL);
    }
}

/* A head that was led in TERM is lost; the agent has a copy of both generations, where the head has a term. */
static void lose_a_head(uint64_t term)
{
    make_model();
    begin_head(term, EPOCH, "one");
    CU_ASSERT(!heard.former.epoch && !heard.former.n_states); /* it knows of no head before */
    tell_homes(EPOCH, -1, ME, false);
    for (int i = 0; i < 200 && !heard.held; i++) { /* until it is linked */
        step(head), step(other);
        tr_clock_sleep_ms(2);
        if (i % 20 == 19) send_copy(5);
    }
    send_copy(6);
    CU_ASSERT(comes_to(&heard.held, 2));
    end_head(true);
}

static void forget_all(void)
{
    tr_agent_states_destroy(&agent.states);
    tr_state_region_destroy(&model);
    tr_former_release(&heard.former);
}

static void expect_told(uint32_t n_states)
{
    CU_ASSERT(heard.former.term == TERM && heard.former.epoch == EPOCH && heard.former.n_agents == 1);
    CU_ASSERT_EQUAL(heard.former.n_states, n_states);
    for (int slot = 0; slot < 2 && heard.former.n_states; slot++) {
        uint64_t generation = heard.former.states[0].generations[slot];
        CU_ASSERT(generation == 5 || generation == 6);
        CU_ASSERT_EQUAL(heard.former.states[0].hashes[slot], tr_state_hash(model, slot_of(generation)));
    }
}

/* --- the tests --- */

static void the_next_head_gets_what_the_agent_had(void)
{
    lose_a_head(TERM);
    CU_ASSERT_PTR_NOT_NULL_FATAL(agent.states);
    begin_head(NEXT_TERM, NEXT_EPOCH, "one");
    expect_told(1);
    tell_homes(NEXT_EPOCH, ME, -1, true);
    CU_ASSERT(comes_to(&heard.slots, 3));
    CU_ASSERT(heard.generations[0] == 5 && heard.generations[1] == 6 && heard.generations[2] == 0);
    CU_ASSERT(!heard.damaged);
    end_head(false);
    CU_ASSERT_PTR_NULL(agent.states); /* a job that has ended well leaves nothing */
    forget_all();
}

static void what_a_head_does_not_want_is_forgotten(void)
{
    lose_a_head(TERM);
    begin_head(NEXT_TERM, NEXT_EPOCH, "one");
    tell_homes(NEXT_EPOCH, ME, -1, false);
    CU_ASSERT(comes_to(&heard.slots, 1));
    CU_ASSERT_EQUAL(heard.generations[0], 0);
    end_head(true);
    begin_head(NEXT_TERM + 1, NEXT_EPOCH + 1, "one");
    CU_ASSERT(heard.former.term == NEXT_TERM && !heard.former.n_states);
    end_head(true);
    forget_all();
}

static void a_head_that_is_lost_before_it_says_so_takes_nothing_along(void)
{
    lose_a_head(TERM);
    for (uint32_t i = 0; i < 3; i++) {
        begin_head(NEXT_TERM + i, NEXT_EPOCH + i, "one");
        expect_told(1);
        end_head(true);
    }
    forget_all();
}

static void states_of_other_actors_are_not_told(void)
{
    lose_a_head(TERM);
    begin_head(NEXT_TERM, NEXT_EPOCH, "another");
    expect_told(0);
    tell_homes(NEXT_EPOCH, ME, -1, true);
    CU_ASSERT(comes_to(&heard.slots, 1));
    CU_ASSERT_EQUAL(heard.generations[0], 0);
    end_head(true);
    forget_all();
}

static void without_a_term_nothing_is_kept(void)
{
    lose_a_head(0);
    CU_ASSERT_PTR_NULL(agent.states);
    forget_all();
}

static const check_test tests[] = {
    CHECK_TEST(the_next_head_gets_what_the_agent_had),
    CHECK_TEST(what_a_head_does_not_want_is_forgotten),
    CHECK_TEST(a_head_that_is_lost_before_it_says_so_takes_nothing_along),
    CHECK_TEST(states_of_other_actors_are_not_told),
    CHECK_TEST(without_a_term_nothing_is_kept),
};
CHECK_MAIN("agent_former", tests)
