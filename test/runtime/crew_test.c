/* test/runtime/crew_test.c - what a crew keeps of an agent that dies, whose process is played.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/crew.h"

#include "base/memory.h"
#include "check.h"
#include "descriptors.h"
#include "runtime/holdings.h"
#include "runtime/played.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NODES = 2, LAYOUT = 7, N_STATES = 3 };

static tr_error err;
static struct {
    int pidfd, socket; /* of the newest agent: its end, and of what it hands over */
} agent;

static tr_status play_spawn(void *context, const tr_launch *launch, const int *descriptors, int count,
                            int *pid, int *pidfd, tr_error *why)
{
    (void)context;
    if (launch->role != TR_LAUNCH_AGENT || count != 1) return tr_fail(why, TR_EINVAL, "no agent");
    agent.socket = fcntl(descriptors[0], F_DUPFD_CLOEXEC, 0);
    agent.pidfd = *pidfd = eventfd(0, EFD_CLOEXEC);
    *pid = getpid();
    return *pidfd >= 0 && agent.socket >= 0 ? TR_OK : tr_fail(why, TR_EIO, "no descriptor");
}

static bool play_ended(void *context, int pidfd, tr_process_end *end)
{
    (void)context;
    *end = (tr_process_end){.signal = 9};
    return poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 0) == 1;
}

static void play_kill(void *context, int pidfd)
{
    (void)context;
    eventfd_write(pidfd, 1);
}

static const tr__played played = {.spawn = play_spawn, .ended = play_ended, .kill = play_kill};

static void hand_over(uint32_t layout)
{
    int states[N_STATES];
    for (int i = 0; i < N_STATES; i++) {
        states[i] = memfd_create("state", MFD_CLOEXEC);
        CU_ASSERT_FATAL(states[i] >= 0);
    }
    CU_ASSERT(tr_holdings_tell_states(agent.socket, 1, layout, states, N_STATES));
    for (int i = 0; i < N_STATES; i++) close(states[i]);
}

static void end_agent(tr_crew *crew)
{
    tr_process_end end;
    eventfd_write(agent.pidfd, 1);
    close(agent.socket);
    CU_ASSERT(tr_crew_ended(crew, &end) && end.signal == 9);
}

/* The states of the layout that is go to the next agent; of one that might have come nothing stays. */
static void what_a_dead_agent_had_prepared_is_let_go(void)
{
    tr_topology topology;
    tr_crew *crew = NULL;
    int before = count_descriptors();
    tr_topology_init(&topology, NODES);
    tr__play = &played;
    const tr_crew_options options = {
        .topology = &topology, .processes = true, .launch = {.control_transport = "inproc"}};
    CHECK_OK(tr_crew_new(&crew, &options, &err));
    CU_ASSERT_FATAL(crew != NULL);
    tr_holdings next;
    CHECK_OK(tr_holdings_init(&next, NODES, &err));
    CU_ASSERT(tr_holdings_hear(&next, agent.socket)); /* it takes what there was: nothing */
    int of_an_agent = count_descriptors();
    hand_over(0);
    CU_ASSERT(tr_crew_hear_holdings(crew));
    CU_ASSERT_EQUAL(count_descriptors(), of_an_agent + N_STATES);
    hand_over(LAYOUT);
    CU_ASSERT(tr_crew_hear_holdings(crew));
    CU_ASSERT_EQUAL(count_descriptors(), of_an_agent + 2 * N_STATES);
    end_agent(crew);
    CHECK_OK(tr_crew_replace_agent(crew, 2, &err));
    CU_ASSERT_EQUAL(count_descriptors(), of_an_agent + N_STATES);
    tr_holdings_release(&next);
    CHECK_OK(tr_holdings_init(&next, NODES, &err));
    CU_ASSERT(tr_holdings_hear(&next, agent.socket) && next.layout == 0 && tr_holdings_have_states(&next, 1));
    tr_holdings_release(&next);
    end_agent(crew);
    tr_crew_destroy(&crew);
    tr__play = NULL;
    tr_topology_release(&topology);
    CU_ASSERT_EQUAL(count_descriptors(), before);
}

static const check_test tests[] = {
    CHECK_TEST(what_a_dead_agent_had_prepared_is_let_go),
};

CHECK_MAIN("crew", tests)
