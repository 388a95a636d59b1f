/* test/runtime/holdings_test.c - what an agent hands over, the next one gets, whole or not at all, and no descriptor is lost on
 * the way; a worker whose life line nobody holds any more is ended by the kernel.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/holdings.h"

#include "base/local_socket.h"
#include "base/memory.h"
#include "check.h"
#include "descriptors.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NODES = 4, MANY = 2 * TR_LOCAL_MOST_DESCRIPTORS + 3 };

static tr_error err;

static void make_memory(int *descriptors, int n)
{
    for (int i = 0; i < n; i++) {
        descriptors[i] = memfd_create("held", MFD_CLOEXEC);
        CU_ASSERT_FATAL(descriptors[i] >= 0);
    }
}

static void close_all(const int *descriptors, int n)
{
    for (int i = 0; i < n; i++) close(descriptors[i]);
}

/* Until it is killed, or the test is gone. */
static int32_t start_child(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        alarm(30);
        for (;;) pause();
    }
    CU_ASSERT_FATAL(pid > 0);
    return pid;
}

static void end_child(int32_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static tr_held_worker hold(int32_t pid, int memory[3])
{
    tr_held_worker held = {pid, pidfd_open(pid, 0), memory[0], memory[1], memory[2]};
    CU_ASSERT_FATAL(held.pidfd >= 0);
    return held;
}

static void what_is_handed_over_comes_to_the_next(void)
{
    int up[2], down[2], memory[3], many[MANY], before = count_descriptors();
    tr_holdings head, next;
    int32_t living = start_child(), dead = start_child(); /* before there is what they would inherit */
    CHECK_OK(tr_local_pair(up, &err));
    CHECK_OK(tr_local_pair(down, &err));
    make_memory(memory, 3);
    make_memory(many, MANY);
    tr_held_worker one = hold(living, memory), two = hold(dead, memory);
    tr_status made = tr_holdings_init(&head, NODES, &err), also = tr_holdings_init(&next, NODES, &err);
    CU_ASSERT_FATAL(made == TR_OK && also == TR_OK);
    CU_ASSERT(tr_holdings_tell_begin(up[0], 7));
    CU_ASSERT(tr_holdings_tell_worker(up[0], 1, &one) && tr_holdings_tell_worker(up[0], 2, &two));
    CU_ASSERT(tr_holdings_tell_worker(up[0], 3, &one)); /* of whose states nothing is said */
    CU_ASSERT(tr_holdings_tell_states(up[0], 1, 7, many, MANY));
    CU_ASSERT(tr_holdings_tell_states(up[0], 2, 7, many, 0));
    CU_ASSERT(tr_holdings_hear(&head, up[1]));
    close(up[0]);
    CU_ASSERT(!tr_holdings_hear(&head, up[1])); /* the agent is gone */
    CU_ASSERT(tr_holdings_are_whole(&head, 1) && tr_holdings_are_whole(&head, 2));
    CU_ASSERT(!tr_holdings_are_whole(&head, 3));
    end_child(dead);
    CU_ASSERT(!tr_holdings_are_whole(&head, 2));
    CU_ASSERT(tr_holdings_tell_all(&head, down[0]));
    CU_ASSERT(tr_holdings_hear(&next, down[1]) && next.ended && next.layout == 7);
    CU_ASSERT(tr_holdings_are_whole(&next, 1) && next.workers[1].pid == living);
    CU_ASSERT(is_same_file(next.workers[1].word, memory[0]) && is_same_file(next.workers[1].life, memory[1]));
    CU_ASSERT_FATAL(next.states[1].n_came == MANY);
    for (int i = 0; i < MANY; i++) CU_ASSERT(is_same_file(next.states[1].descriptors[i], many[i]));
    CU_ASSERT(next.workers[2].pid == dead &&
              !tr_holdings_are_whole(&next, 2)); /* its end is to be told yet */
    CU_ASSERT(is_same_file(next.workers[2].activity, memory[2]) && tr_holdings_have_states(&next, 2));
    CU_ASSERT(next.workers[3].pidfd < 0 && !tr_holdings_have_states(&next, 3));
    end_child(living);
    tr_holdings_release(&head);
    tr_holdings_release(&next);
    const int owned[] = {up[1], down[0], down[1], one.pidfd, two.pidfd};
    close_all(owned, 5);
    close_all(memory, 3);
    close_all(many, MANY);
    CU_ASSERT_EQUAL(count_descriptors(), before);
}

/* A replacement comes before the end of the one before it is told over the other way. */
static void a_worker_takes_the_place_of_the_one_before(void)
{
    int ends[2], memory[3], before = count_descriptors();
    tr_holdings head;
    tr_process_end end;
    CHECK_OK(tr_local_pair(ends, &err));
    make_memory(memory, 3);
    CU_ASSERT_FATAL(tr_holdings_init(&head, NODES, &err) == TR_OK);
    for (int i = 0; i < 3; i++) {
        int32_t pid = start_child();
        tr_held_worker held = hold(pid, memory);
        CU_ASSERT(tr_holdings_tell_worker(ends[0], 1, &held) && tr_holdings_hear(&head, ends[1]));
        CU_ASSERT(head.workers[1].pid == pid);
        kill(pid, SIGKILL);
        struct pollfd ended = {.fd = held.pidfd, .events = POLLIN};
        CU_ASSERT(poll(&ended, 1, 10000) == 1);
        close(held.pidfd);
    }
    tr_holdings_drop_worker(&head, 1, &end);
    CU_ASSERT(end.signal == SIGKILL && head.workers[1].pid == 0 && head.workers[1].activity >= 0);
    CU_ASSERT(waitpid(-1, NULL, WNOHANG) < 0); /* all were reaped */
    tr_holdings_release(&head);
    close_all(ends, 2);
    close_all(memory, 3);
    CU_ASSERT_EQUAL(count_descriptors(), before);
}

static void a_layout_holds_from_its_settling_on(void)
{
    int ends[2], old[2], new[2], before = count_descriptors();
    tr_holdings head;
    CHECK_OK(tr_local_pair(ends, &err));
    make_memory(old, 2);
    make_memory(new, 2);
    CU_ASSERT_FATAL(tr_holdings_init(&head, NODES, &err) == TR_OK);
    CU_ASSERT(tr_holdings_tell_states(ends[0], 1, 0, old, 1) &&
              tr_holdings_tell_states(ends[0], 2, 0, old, 2));
    CU_ASSERT(tr_holdings_tell_states(ends[0], 1, 5, new, 2)); /* prepared, and not wanted */
    CU_ASSERT(tr_holdings_tell_settled(ends[0], 0) && tr_holdings_hear(&head, ends[1]));
    CU_ASSERT(tr_holdings_have_states(&head, 1) && head.states[1].n == 1 &&
              is_same_file(head.states[1].descriptors[0], old[0]));
    CU_ASSERT(!head.next[1].told);
    CU_ASSERT(tr_holdings_tell_states(ends[0], 1, 6, new, 2) && tr_holdings_hear(&head, ends[1]));
    CU_ASSERT(head.layout == 0 && head.states[1].n == 1);
    tr_holdings_settle(&head, 6);
    CU_ASSERT(head.layout == 6 && tr_holdings_have_states(&head, 1));
    CU_ASSERT(head.states[1].n == 2 && is_same_file(head.states[1].descriptors[1], new[1]));
    CU_ASSERT(!tr_holdings_have_states(&head, 2)); /* nothing of that layout was said of it */
    CU_ASSERT(tr_holdings_tell_settled(ends[0], 6) && tr_holdings_hear(&head, ends[1]));
    CU_ASSERT(tr_holdings_have_states(&head, 1));
    tr_holdings_release(&head);
    close_all(ends, 2);
    close_all(old, 2);
    close_all(new, 2);
    CU_ASSERT_EQUAL(count_descriptors(), before);
}

static void nonsense_leaves_nothing_open(void)
{
    int ends[2], memory[3], before = count_descriptors();
    tr_holdings head;
    uint32_t words[7] = {0};
    CHECK_OK(tr_local_pair(ends, &err));
    make_memory(memory, 3);
    CU_ASSERT_FATAL(tr_holdings_init(&head, NODES, &err) == TR_OK);
    for (uint32_t kind = 0; kind < 8; kind++)
        for (uint32_t node = 0; node <= NODES; node++)
            for (uint32_t n = 0; n < 3; n++) { /* a part that is not the first, a node that there is not */
                words[0] = kind;
                words[1] = node;
                words[4] = n;
                words[5] = 1;
                CU_ASSERT(tr_local_send(ends[0], words, sizeof words, memory, 3));
            }
    CU_ASSERT(tr_local_send(ends[0], words, 3, memory, 3));
    CU_ASSERT(tr_local_send(ends[0], words, sizeof words, memory, 3));
    CU_ASSERT(tr_holdings_hear(&head, ends[1]));
    for (int32_t i = 1; i < NODES; i++) CU_ASSERT(!tr_holdings_have_states(&head, i));
    tr_holdings_release(&head);
    close_all(ends, 2);
    close_all(memory, 3);
    CU_ASSERT_EQUAL(count_descriptors(), before);
}

/* In the child: as a worker begins. */
static void be_a_worker(int life, int launch_file, bool stops)
{
    tr_launch launch;
    tr_error why;
    if (dup2(launch_file, TR_LAUNCH_DESCRIPTOR) < 0) _exit(3);
    if (dup2(life, TR_LAUNCH_FIRST_INHERITED + 2) < 0) _exit(3);
    alarm(30);
    if (tr_launch_receive(&launch, &why) != TR_OK) _exit(why.status == TR_ECLOSED ? 5 : 4);
    if (stops) raise(SIGSTOP);
    for (;;) pause();
}

static int32_t start_worker(const int line[2], int launch_file, bool stops)
{
    pid_t pid = fork();
    if (pid == 0) {
        int life = fcntl(line[0], F_DUPFD, 100), file = fcntl(launch_file, F_DUPFD, 100);
        for (int i = 3; i < 100; i++) close(i);
        be_a_worker(life, file, stops);
    }
    CU_ASSERT_FATAL(pid > 0);
    return pid;
}

static int end_of(int32_t pid)
{
    int status = 0;
    for (int i = 0; i < 2000; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid) return status;
        usleep(5000);
    }
    end_child(pid);
    return -1;
}

static void a_worker_ends_when_nobody_holds_its_life_line(void)
{
    const tr_launch made = {.role = TR_LAUNCH_WORKER, .node = 1, .n_threads = 1};
    int launch_file = -1;
    if (CHECK_SIZE(false, true)) return; /* what allocates is the worker, another process */
    CHECK_OK(tr_launch_write(&made, &launch_file, &err));
    for (int stops = 0; stops < 2; stops++) {
        int line[2], status = 0;
        CU_ASSERT_FATAL(pipe2(line, O_CLOEXEC) == 0);
        int also = fcntl(line[1], F_DUPFD_CLOEXEC, 0);
        int32_t pid = start_worker(line, launch_file, stops);
        if (stops) CU_ASSERT(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        usleep(100000);
        close(line[1]); /* somebody holds it still */
        usleep(100000);
        CU_ASSERT_EQUAL(waitpid(pid, &status, WNOHANG), 0);
        close(also);
        status = end_of(pid);
        CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        close(line[0]);
    }
    int line[2]; /* that has ended before it begins */
    CU_ASSERT_FATAL(pipe2(line, O_CLOEXEC) == 0);
    close(line[1]);
    int status = end_of(start_worker(line, launch_file, false));
    CU_ASSERT((WIFEXITED(status) && WEXITSTATUS(status) == 5) || WIFSIGNALED(status));
    close(line[0]);
    close(launch_file);
}

static const check_test tests[] = {
    CHECK_TEST(what_is_handed_over_comes_to_the_next),
    CHECK_TEST(a_worker_takes_the_place_of_the_one_before),
    CHECK_TEST(a_layout_holds_from_its_settling_on),
    CHECK_TEST(nonsense_leaves_nothing_open),
    CHECK_TEST(a_worker_ends_when_nobody_holds_its_life_line),
};
CHECK_MAIN("holdings", tests)
