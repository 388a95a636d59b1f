/* runtime/agent_lease.c - an agent without a head: it keeps the workers and their state until another one comes or the lease
 * ends. Workers have stopped by then what they did, or will when their handler returns: their link to the head is broken,
 * and the first word says so too. Until the lease ends SIGINT and SIGTERM, which are the head's else, end it: there is
 * nobody left whom a person could ask.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_internal.h"

#include "base/log.h"
#include "base/memory.h"
#include "runtime/lease.h"
#include "runtime/played.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LEAVE_MS = 2000, LOOK_AFTER_MS = 5, FIXED = 2 };

typedef tr__waiting waiting;

tr_status tr__agent_open_lease(tr__agent *self, tr_error *err)
{
    self->head = tr_process_open(self->launch->parent_pid);
    if (self->head < 0 || (!tr__play && getppid() != self->launch->parent_pid))
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
        .agent_pid = self->pid, .epoch = self->epoch, .lost_ns = self->lost_ns, .topology = self->topology};
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
    self->until_ns = tr__process_now_ns() + (uint64_t)self->agent->launch->lease_ms * 1000000;
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
    int head = good ? tr_process_open(self->pid) : -1;
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

static tr__waits_for listen_to(waiting *self)
{
    tr_lease_kind kind;
    int descriptors[2];
    if (!tr_lease_receive(self->connection, &kind, descriptors)) {
        hang_up(self);
        return TR__WAITS;
    }
    bool taken = kind == TR_LEASE_TAKE && take(self, descriptors);
    for (int i = 0; i < 2; i++)
        if (descriptors[i] >= 0) close(descriptors[i]);
    if (taken) return TR__TAKEN;
    if (kind == TR_LEASE_DISMISS) return TR__OVER; /* the connection ends with us, which is the answer */
    if (kind == TR_LEASE_TAKE) hang_up(self);
    return TR__WAITS;
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
void tr__agent_send_home(waiting *self)
{
    tr__agent *agent = self->agent;
    self->until_ns = tr__process_now_ns() + (uint64_t)LEAVE_MS * 1000000;
    for (int32_t i = 1; i < agent->launch->node; i++) {
        if (agent->wards[i].word >= 0) close(agent->wards[i].word);
        agent->wards[i].word = -1;
    }
}

bool tr__agent_have_gone(waiting *self, int timeout_ms)
{
    tr__agent *agent = self->agent;
    reap_all(agent);
    for (int32_t i = 1; i < agent->launch->node && tr__process_now_ns() > self->until_ns; i++)
        if (agent->wards[i].pidfd >= 0) tr_process_kill(agent->wards[i].pidfd, SIGKILL);
    if (agent->n_alive > 0 && timeout_ms) poll(NULL, 0, timeout_ms);
    return agent->n_alive == 0;
}

/* --- waiting --- */

static tr__waits_for look(waiting *self, struct pollfd *polled, nfds_t n, int timeout_ms)
{
    uint64_t now_ns = tr__process_now_ns();
    /* Who is connected holds the lease: its end would be seen. */
    int left_ms = self->connection >= 0     ? timeout_ms
                  : now_ns < self->until_ns ? (int)((self->until_ns - now_ns) / 1000000) + 1
                                            : 0;
    polled[0] = (struct pollfd){.fd = self->connection >= 0 ? self->connection : self->agent->listener,
                                .events = POLLIN};
    polled[1] = (struct pollfd){.fd = self->signals, .events = POLLIN};
    if (poll(polled, n, left_ms < timeout_ms ? left_ms : timeout_ms) < 0 && errno != EINTR) return TR__OVER;
    reap_all(self->agent);
    if (polled[1].revents) return TR__OVER;
    if (polled[0].revents && self->connection >= 0) return listen_to(self);
    if (polled[0].revents) greet(self);
    return self->connection >= 0 || tr__process_now_ns() < self->until_ns ? TR__WAITS : TR__OVER;
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

tr__waits_for tr__agent_wait_on(waiting *self, int timeout_ms)
{
    tr__agent *agent = self->agent;
    const tr_lease_word wait_on = {0};
    nfds_t n = FIXED;
    struct pollfd *polled = tr_alloc_zero((size_t)agent->launch->node + FIXED, sizeof *polled);
    if (!polled) return TR__OVER;
    for (int32_t i = 1; i < agent->launch->node; i++)
        if (agent->wards[i].pidfd >= 0)
            polled[n++] = (struct pollfd){.fd = agent->wards[i].pidfd, .events = POLLIN};
    if (!self->told_ns || tr__process_now_ns() > self->told_ns + (uint64_t)agent->launch->lease_ms * 250000) {
        tell_workers(agent, &wait_on); /* four times in the time that a worker waits for it */
        self->told_ns = tr__process_now_ns();
    }
    tr__waits_for how = look(self, polled, n, timeout_ms);
    tr_free(polled);
    return how;
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

void tr__agent_wait(waiting *self, tr__agent *agent)
{
    *self = (waiting){.agent = agent,
                      .connection = -1,
                      .signals = tr__play ? -1 : catch_signals(),
                      .until_ns = agent->lost_ns + (uint64_t)agent->launch->lease_ms * 1000000};
    unlinkat(agent->directory, TR_LEASE_HEAD_SOCKET, 0);
    dismiss_leaving(agent);
    tr_log(TR_LOG_WARNING, "the head is gone; %d workers wait %g s for another (`kill %d` ends them)",
           agent->n_alive, agent->launch->lease_ms * 1e-3, agent->pid);
}

void tr__agent_taken(waiting *self)
{
    const tr__agent *agent = self->agent;
    tr_lease_word word = {.epoch = agent->epoch};
    memcpy(word.job_key, agent->launch->job_key, sizeof word.job_key);
    memcpy(word.head_address, agent->launch->head_address, sizeof word.head_address);
    tell_workers(self->agent, &word);
    explicit_bzero(&word, sizeof word);
}

void tr__agent_close_wait(waiting *self)
{
    if (!tr__play) ignore_signals(self->signals);
    if (self->connection >= 0) close(self->connection);
    self->connection = -1;
}

bool tr__agent_await_head(tr__agent *self)
{
    waiting wait;
    tr__waits_for how = TR__WAITS;
    tr__agent_wait(&wait, self);
    while (how == TR__WAITS) how = tr__agent_wait_on(&wait, TR__AGENT_LOOK_MS);
    if (how == TR__TAKEN) {
        tr__agent_taken(&wait);
    } else {
        tr__agent_send_home(&wait);
        while (!tr__agent_have_gone(&wait, LOOK_AFTER_MS)) continue;
        tr__agent_close_lease(self); /* before the connection: who sent us home may listen here then */
    }
    tr__agent_close_wait(&wait);
    return how == TR__TAKEN;
}
