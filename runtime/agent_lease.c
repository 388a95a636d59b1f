/* runtime/agent_lease.c - an agent without a head: it keeps the workers and their state until another one comes or the lease
 * ends. Workers have stopped by then what they did, or will when their handler returns: their link to the head is broken,
 * and the first word says so too. Until the lease ends SIGINT and SIGTERM, which are the head's else, end it: there is
 * nobody left whom a person could ask.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/lease.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RENEW_MS = 250, LEAVE_MS = 2000, FIXED = 2 };

typedef enum outcome { WAITING, TAKEN, OVER } outcome;

typedef struct waiting {
    tr__agent *agent;
    int connection, signals; /* -1: none */
    int32_t pid;             /* of who is connected */
    uint64_t until_ns;
} waiting;

tr_status tr__agent_open_lease(tr__agent *self, tr_error *err)
{
    self->directory = TR_LAUNCH_FIRST_INHERITED;
    self->kept = TR_LAUNCH_FIRST_INHERITED + 1;
    self->head = pidfd_open(self->launch->parent_pid, 0);
    if (self->head < 0 || getppid() != self->launch->parent_pid)
        return tr_fail(err, TR_ECLOSED, "the head, process %d, is gone", self->launch->parent_pid);
    return tr_local_listen(self->directory, TR_LEASE_SOCKET, &self->listener, err);
}

void tr__agent_close_lease(tr__agent *self)
{
    if (self->listener >= 0) unlinkat(self->directory, TR_LEASE_SOCKET, 0);
    int *const owned[] = {&self->listener, &self->head, &self->directory, &self->kept};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        if (*owned[i] >= 0) close(*owned[i]);
        *owned[i] = -1;
    }
    tr_launch_release(&self->taken);
}

/* --- whom we wait for --- */

static tr_status write_offer(const tr__agent *self, int *descriptor, tr_error *err)
{
    tr_lease_offer offer = {
        .agent_pid = getpid(), .epoch = self->epoch, .lost_ns = self->lost_ns, .topology = self->topology};
    memcpy(offer.data_transport, self->launch->data_transport, sizeof offer.data_transport);
    memcpy(offer.bind, self->launch->bind, sizeof offer.bind);
    if (self->launch->has_key)
        memcpy(offer.public_key, self->launch->key.public_half, sizeof offer.public_key);
    offer.workers = tr_alloc_zero((size_t)self->topology.n_nodes, sizeof *offer.workers);
    if (!offer.workers) return tr_fail(err, TR_ENOMEM, "no memory for an offer");
    for (int32_t i = 1; i < self->topology.n_nodes; i++)
        if (self->wards[i].pidfd >= 0 && !self->wards[i].leaving)
            offer.workers[i] = tr_place_of(self->wards[i].pid, TR_LAUNCH_FIRST_INHERITED);
    tr_status status = tr_lease_offer_write(&offer, descriptor, err);
    tr_free(offer.workers); /* the topology is ours */
    return status;
}

static void hang_up(waiting *self)
{
    if (self->connection >= 0) close(self->connection);
    self->connection = -1;
    self->until_ns = tr_clock_ns() + (uint64_t)self->agent->launch->lease_ms * 1000000;
}

/* One at a time; who comes next waits in the socket's queue. */
static void greet(waiting *self)
{
    tr_error err;
    int offer = -1;
    bool good = true;
    self->connection = tr_local_accept(self->agent->listener, &self->pid);
    if (self->connection < 0) return;
    if (good && write_offer(self->agent, &offer, &err) != TR_OK) {
        tr_log(TR_LOG_ERROR, "%s", err.message);
        good = false;
    }
    const int descriptors[] = {offer, self->agent->kept};
    good = good && tr_lease_send(self->connection, TR_LEASE_OFFER, descriptors, 2);
    if (offer >= 0) close(offer);
    if (!good) hang_up(self);
}

static bool is_mine(const tr__agent *self, const tr_launch *launch, tr_error *err)
{
    tr_topology topology;
    if (launch->role != TR_LAUNCH_AGENT || launch->node != self->launch->node || !launch->lease_ms ||
        launch->epoch <= self->epoch) {
        tr_fail(err, TR_EREFUSED, "a new head brought epoch %u where %u was", launch->epoch, self->epoch);
        return false;
    }
    if (tr_topology_decode(&topology, launch->topology, launch->topology_bytes, err) != TR_OK) return false;
    bool same = tr_topology_has_same_places(&topology, &self->topology);
    if (!same) tr_fail(err, TR_EREFUSED, "a new head brought other actors than there are");
    tr_topology_release(&topology);
    return same;
}

/* Who lives between the connection's being there and the pidfd's being open is the one who connected. */
static bool take(waiting *self, int descriptors[2])
{
    tr__agent *agent = self->agent;
    tr_launch launch;
    tr_error err;
    char byte;
    bool good = tr_launch_read(&launch, descriptors[0], &err) == TR_OK && is_mine(agent, &launch, &err);
    if (good && descriptors[1] < 0)
        good = tr_fail(&err, TR_EREFUSED, "a new head brought no socket for what it is to keep") == TR_OK;
    int head = good ? pidfd_open(self->pid, 0) : -1;
    if (good && (head < 0 || recv(self->connection, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0))
        good = tr_fail(&err, TR_ECLOSED, "the new head is gone already") == TR_OK;
    if (!good) {
        tr_log(TR_LOG_WARNING, "%s", err.message);
        if (head >= 0) close(head);
        tr_launch_release(&launch);
        return false;
    }
    close(agent->head);
    agent->head = head;
    tr_launch_release(&agent->taken);
    agent->taken = launch;
    agent->launch = &agent->taken;
    agent->epoch = launch.epoch;
    close(agent->holdings);
    agent->holdings = descriptors[1];
    descriptors[1] = -1;
    return true;
}

static outcome listen_to(waiting *self)
{
    tr_lease_kind kind;
    int descriptors[2];
    if (!tr_lease_receive(self->connection, &kind, descriptors)) {
        hang_up(self);
        return WAITING;
    }
    bool taken = kind == TR_LEASE_TAKE && take(self, descriptors);
    for (int i = 0; i < 2; i++)
        if (descriptors[i] >= 0) close(descriptors[i]);
    if (taken) return TAKEN;
    if (kind == TR_LEASE_DISMISS) return OVER; /* the connection ends with us, which is the answer */
    if (kind == TR_LEASE_TAKE) hang_up(self);
    return WAITING;
}

/* --- the workers meanwhile --- */

static void tell_workers(tr__agent *self, const tr_lease_word *word)
{
    for (int32_t i = 1; i < self->topology.n_nodes; i++) {
        const tr__ward *worker = &self->wards[i];
        if (worker->pidfd >= 0 && !worker->leaving && !tr_lease_tell(worker->word, word) && word->epoch)
            tr_process_kill(worker->pidfd, SIGKILL); /* it would never hear of its head */
    }
}

static void reap_all(tr__agent *self)
{
    tr_process_end end;
    for (int32_t i = 1; i < self->launch->node; i++)
        if (self->wards[i].pidfd >= 0) tr__ward_reap(&self->wards[i], &end);
}

/* They end when they see that nobody speaks to them any more; who does not is killed. */
static void send_workers_home(tr__agent *self)
{
    uint64_t kill_at_ns = tr_clock_ns() + (uint64_t)LEAVE_MS * 1000000;
    for (int32_t i = 1; i < self->launch->node; i++) {
        if (self->wards[i].word >= 0) close(self->wards[i].word);
        self->wards[i].word = -1;
    }
    for (reap_all(self); self->n_alive > 0; reap_all(self)) {
        for (int32_t i = 1; i < self->launch->node && tr_clock_ns() > kill_at_ns; i++)
            if (self->wards[i].pidfd >= 0) tr_process_kill(self->wards[i].pidfd, SIGKILL);
        poll(NULL, 0, 5);
    }
}

/* --- waiting --- */

static outcome look(waiting *self, struct pollfd *polled, nfds_t n)
{
    uint64_t now_ns = tr_clock_ns();
    /* Who is connected holds the lease: its end would be seen. */
    int left_ms = self->connection >= 0     ? RENEW_MS
                  : now_ns < self->until_ns ? (int)((self->until_ns - now_ns) / 1000000) + 1
                                            : 0;
    polled[0].fd = self->connection >= 0 ? self->connection : self->agent->listener;
    polled[1].fd = self->signals;
    if (poll(polled, n, left_ms < RENEW_MS ? left_ms : RENEW_MS) < 0 && errno != EINTR) return OVER;
    reap_all(self->agent);
    if (polled[1].revents) return OVER;
    if (polled[0].revents && self->connection >= 0) return listen_to(self);
    if (polled[0].revents) greet(self);
    return self->connection >= 0 || tr_clock_ns() < self->until_ns ? WAITING : OVER;
}

static int catch_signals(void)
{
    sigset_t caught;
    sigemptyset(&caught);
    sigaddset(&caught, SIGINT);
    sigaddset(&caught, SIGTERM);
    sigprocmask(SIG_BLOCK, &caught, NULL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    return signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void ignore_signals(int descriptor)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (descriptor >= 0) close(descriptor);
}

static outcome wait_for_somebody(waiting *self, struct pollfd *polled)
{
    tr__agent *agent = self->agent;
    const tr_lease_word wait_on = {0};
    outcome so_far = WAITING;
    uint64_t told_ns = 0;
    while (so_far == WAITING) {
        nfds_t n = FIXED;
        for (int32_t i = 1; i < agent->launch->node; i++)
            if (agent->wards[i].pidfd >= 0)
                polled[n++] = (struct pollfd){.fd = agent->wards[i].pidfd, .events = POLLIN};
        if (!told_ns || tr_clock_ns() > told_ns + (uint64_t)agent->launch->lease_ms * 250000) {
            tell_workers(agent, &wait_on); /* four times in the time that a worker waits for it */
            told_ns = tr_clock_ns();
        }
        so_far = look(self, polled, n);
    }
    return so_far;
}

/* They were on their way out when the head died, and may not have heard of it. */
static void dismiss_leaving(tr__agent *self)
{
    for (int32_t i = 1; i < self->launch->node; i++) {
        if (!self->wards[i].leaving) continue;
        close(self->wards[i].word);
        self->wards[i].word = -1;
    }
}

bool tr__agent_await_head(tr__agent *self)
{
    waiting wait = {.agent = self,
                    .connection = -1,
                    .until_ns = self->lost_ns + (uint64_t)self->launch->lease_ms * 1000000};
    outcome how = OVER;
    struct pollfd *polled = tr_alloc_zero((size_t)self->launch->node + FIXED, sizeof *polled);
    wait.signals = catch_signals();
    unlinkat(self->directory, TR_LEASE_HEAD_SOCKET, 0);
    dismiss_leaving(self);
    tr_log(TR_LOG_WARNING, "the head is gone; %d workers wait %g s for another (`kill %d` ends them)",
           self->n_alive, self->launch->lease_ms * 1e-3, getpid());
    if (polled) {
        polled[0].events = polled[1].events = POLLIN;
        how = wait_for_somebody(&wait, polled);
    }
    tr_free(polled);
    ignore_signals(wait.signals);
    if (how == TAKEN) {
        tr_lease_word word = {.epoch = self->epoch};
        memcpy(word.job_key, self->launch->job_key, sizeof word.job_key);
        memcpy(word.head_address, self->launch->head_address, sizeof word.head_address);
        tell_workers(self, &word);
        explicit_bzero(&word, sizeof word);
        close(wait.connection);
        return true;
    }
    send_workers_home(self);
    tr__agent_close_lease(self); /* before the connection: who sent us home may listen here then */
    if (wait.connection >= 0) close(wait.connection);
    return false;
}
