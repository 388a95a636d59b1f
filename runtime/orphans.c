/* runtime/orphans.c - see orphans.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/orphans.h"

#include "base/memory.h"
#include "runtime/played.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* An agent answers as soon as it has seen that its head is dead; a stopped one never does. Workers are given two seconds to
 * go, and are killed then. */
enum { ANSWER_MS = 5000, LEAVE_MS = 10000 };

static tr_status hear_offer(tr_orphans *self, tr_error *err)
{
    tr_lease_kind kind = (tr_lease_kind)0;
    int descriptors[2] = {-1, -1};
    struct pollfd answer = {.fd = self->connection, .events = POLLIN};
    int n;
    do n = poll(&answer, 1, ANSWER_MS);
    while (n < 0 && errno == EINTR);
    if (n == 0) {
        struct ucred who = {0};
        socklen_t size = sizeof who;
        (void)getsockopt(self->connection, SOL_SOCKET, SO_PEERCRED, &who, &size); /* who listens */
        return tr_fail(err, TR_ETIMEDOUT,
                       "process %d, left of this run with its workers, does not answer; end it, or try again",
                       who.pid);
    }
    if (!tr_lease_receive(self->connection, &kind, descriptors) || kind != TR_LEASE_OFFER) {
        if (descriptors[0] >= 0) close(descriptors[0]);
        if (descriptors[1] >= 0) close(descriptors[1]);
        return tr_fail(err, TR_ENOTFOUND, "what was left of the run is gone");
    }
    self->kept = descriptors[1];
    tr_status status = tr_lease_offer_read(&self->offer, descriptors[0], err);
    if (descriptors[0] >= 0) close(descriptors[0]);
    return status;
}

tr_status tr_orphans_call(tr_orphans **out, int directory, tr_error *err)
{
    tr_orphans *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for what is left of a run");
    self->agent = self->kept = self->connection = -1;
    tr_status status = tr_local_connect(directory, TR_LEASE_SOCKET, &self->connection, err);
    if (status == TR_OK)
        *out = self;
    else
        tr_orphans_destroy(&self);
    return status;
}

tr_status tr_orphans_hear(tr_orphans **called, tr_error *err)
{
    tr_orphans *self = *called;
    tr_status status = hear_offer(self, err);
    if (status == TR_OK) {
        self->agent =
            tr_process_open(self->offer.agent_pid); /* it holds the connection, so it is still that one */
        if (self->agent < 0) status = tr_fail(err, TR_ENOTFOUND, "what was left of the run is gone");
    }
    self->found_ns = tr__process_now_ns();
    if (status != TR_OK) tr_orphans_destroy(called);
    return status;
}

tr_status tr_orphans_find(tr_orphans **out, int directory, tr_error *err)
{
    tr_orphans *self = NULL;
    tr_status status = tr_orphans_call(&self, directory, err);
    if (status == TR_OK) status = tr_orphans_hear(&self, err);
    if (status == TR_OK) *out = self;
    return status;
}

int32_t tr_orphans_alive(const tr_orphans *self)
{
    int32_t n = 0;
    for (int32_t i = 1; i < self->offer.topology.n_nodes; i++) n += self->offer.workers[i].pid != 0;
    return n;
}

tr_status tr_orphans_take(tr_orphans *self, const tr_launch *launch, int holdings, tr_error *err)
{
    int descriptor = -1;
    tr_status status = tr_launch_write(launch, &descriptor, err);
    if (status != TR_OK) return status;
    const int both[] = {descriptor, holdings};
    bool sent = tr_lease_send(self->connection, TR_LEASE_TAKE, both, 2);
    close(descriptor);
    return sent ? TR_OK : tr_fail(err, TR_ECLOSED, "what was left of the run is gone");
}

tr_status tr_orphans_dismiss(tr_orphans **out, tr_error *err)
{
    tr_orphans *self = *out;
    tr_status status = TR_OK;
    struct pollfd gone = {.fd = self->agent, .events = POLLIN};
    (void)tr_lease_send(self->connection, TR_LEASE_DISMISS, NULL, 0); /* it may be gone by itself */
    if (poll(&gone, 1, LEAVE_MS) == 0) {
        tr_process_kill(self->agent, SIGKILL); /* its workers end with it */
        if (poll(&gone, 1, LEAVE_MS) == 0)
            status = tr_fail(err, TR_ETIMEDOUT, "the run's agent, process %d, does not end",
                             self->offer.agent_pid);
    }
    tr_orphans_destroy(out);
    return status;
}

void tr_orphans_destroy(tr_orphans **out)
{
    tr_orphans *self = *out;
    if (!self) return;
    const int owned[] = {self->agent, self->kept, self->connection};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        if (owned[i] >= 0) close(owned[i]);
    tr_lease_offer_release(&self->offer);
    tr_free(self);
    *out = NULL;
}
