/* runtime/holdings.c - see holdings.h. What is said is a struct of this very program: both sides are the same file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/holdings.h"

#include "base/local_socket.h"
#include "base/memory.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { MOST_STATES = 4096, SLOW_MS = 1000 };

typedef enum said_kind { BEGIN = 1, WORKER, STATES, SETTLED, END } said_kind;

typedef struct said {
    uint32_t kind;
    int32_t node, pid;
    uint32_t layout;
    uint32_t n, at; /* STATES: of n the next from `at` on */
    bool has[4];    /* WORKER: which of its descriptors come, in the order below */
} said;

static const tr_held_worker NOBODY = {0, -1, -1, -1, -1};

static void descriptors_of(tr_held_worker *self, int *out[4])
{
    out[0] = &self->pidfd;
    out[1] = &self->word;
    out[2] = &self->life;
    out[3] = &self->activity;
}

static void close_one(int *descriptor)
{
    if (*descriptor >= 0) close(*descriptor);
    *descriptor = -1;
}

static void close_all(const int *descriptors, int n)
{
    for (int i = 0; i < n; i++)
        if (descriptors[i] >= 0) close(descriptors[i]);
}

static void forget_states(tr_held_states *self)
{
    close_all(self->descriptors, (int)self->n_came);
    tr_free(self->descriptors);
    *self = (tr_held_states){0};
}

static void forget_worker(tr_held_worker *self)
{
    tr_process_end end;
    int *all[4];
    if (self->pidfd >= 0) tr_process_reap(self->pidfd, &end); /* it may be ours by now */
    descriptors_of(self, all);
    for (int i = 0; i < 4; i++) close_one(all[i]);
    *self = NOBODY;
}

tr_status tr_holdings_init(tr_holdings *self, int32_t n_nodes, tr_error *err)
{
    *self = (tr_holdings){.n_nodes = n_nodes};
    self->workers = tr_alloc_zero((size_t)n_nodes, sizeof *self->workers);
    self->states = tr_alloc_zero((size_t)n_nodes, sizeof *self->states);
    self->next = tr_alloc_zero((size_t)n_nodes, sizeof *self->next);
    for (int32_t i = 0; self->workers && i < n_nodes; i++) self->workers[i] = NOBODY;
    if (self->workers && self->states && self->next) return TR_OK;
    return tr_fail(err, TR_ENOMEM, "no memory to keep what %d workers need", n_nodes - 1);
}

static void forget_all(tr_holdings *self)
{
    for (int32_t i = 0; i < self->n_nodes; i++) {
        if (self->workers) forget_worker(&self->workers[i]);
        if (self->states) forget_states(&self->states[i]);
        if (self->next) forget_states(&self->next[i]);
    }
}

void tr_holdings_release(tr_holdings *self)
{
    forget_all(self);
    tr_free(self->workers);
    tr_free(self->states);
    tr_free(self->next);
    *self = (tr_holdings){0};
}

/* ---- what comes ---- */

static bool hear_worker(tr_holdings *self, const said *what, const int *descriptors, int count)
{
    tr_held_worker *worker = &self->workers[what->node];
    int *all[4], n = 0;
    for (int i = 0; i < 4; i++) n += what->has[i];
    if (n != count) return false;
    forget_worker(worker);
    worker->pid = what->pid;
    descriptors_of(worker, all);
    for (int i = 0; i < 4; i++)
        if (what->has[i]) *all[i] = *descriptors++;
    return true;
}

/* The first part voids what there was of that node. */
static bool hear_states(tr_holdings *self, const said *what, const int *descriptors, int count)
{
    tr_held_states *states =
        what->layout == self->layout ? &self->states[what->node] : &self->next[what->node];
    if (what->n > MOST_STATES || (uint32_t)count > what->n) return false;
    if (what->at == 0) {
        forget_states(states);
        states->descriptors = tr_alloc(((size_t)what->n + 1) * sizeof(int));
        states->told = states->descriptors != NULL;
        states->layout = what->layout;
        states->n = what->n;
    }
    if (!states->told || states->layout != what->layout || states->n != what->n ||
        states->n_came != what->at || (uint32_t)count > states->n - states->n_came)
        return false;
    if (count) memcpy(states->descriptors + states->n_came, descriptors, (size_t)count * sizeof(int));
    states->n_came += (uint32_t)count;
    return true;
}

/* true: the descriptors have a place. */
static bool take(tr_holdings *self, const said *what, const int *descriptors, int count)
{
    bool of_a_node = what->node >= 1 && what->node < self->n_nodes;
    switch (what->kind) {
    case WORKER: return of_a_node && hear_worker(self, what, descriptors, count);
    case STATES: return of_a_node && hear_states(self, what, descriptors, count);
    case BEGIN:
        forget_all(self);
        self->layout = what->layout;
        break;
    case SETTLED: tr_holdings_settle(self, what->layout); break;
    case END: self->ended = true; break;
    default: break;
    }
    return count == 0;
}

bool tr_holdings_hear(tr_holdings *self, int socket)
{
    for (;;) {
        said what;
        int descriptors[TR_LOCAL_MOST_DESCRIPTORS], count;
        ssize_t n =
            tr_local_receive(socket, &what, sizeof what, descriptors, TR_LOCAL_MOST_DESCRIPTORS, &count);
        if (n < 0 && (errno == EINTR || errno == EBADMSG)) continue;
        if (n < 0) return errno == EAGAIN;
        if (n == 0) return false;
        if (n != sizeof what || !take(self, &what, descriptors, count)) close_all(descriptors, count);
    }
}

void tr_holdings_settle(tr_holdings *self, uint32_t layout)
{
    bool is_new = layout != self->layout;
    for (int32_t i = 1; i < self->n_nodes; i++) {
        tr_held_states *next = &self->next[i];
        if (is_new) {
            forget_states(&self->states[i]);
            if (next->layout == layout) self->states[i] = *next;
            if (next->layout == layout) *next = (tr_held_states){0};
        }
        forget_states(next);
    }
    self->layout = layout;
}

bool tr_holdings_have_states(const tr_holdings *self, int32_t node)
{
    const tr_held_states *states = &self->states[node];
    return states->told && states->n_came == states->n;
}

static bool have_all(const tr_holdings *self, int32_t node)
{
    const tr_held_worker *worker = &self->workers[node];
    return worker->pidfd >= 0 && worker->word >= 0 && worker->life >= 0 && worker->activity >= 0 &&
           tr_holdings_have_states(self, node);
}

bool tr_holdings_are_whole(const tr_holdings *self, int32_t node)
{
    struct pollfd ended = {.fd = self->workers[node].pidfd, .events = POLLIN};
    return have_all(self, node) && poll(&ended, 1, 0) == 0;
}

void tr_holdings_drop_worker(tr_holdings *self, int32_t node, tr_process_end *end)
{
    tr_held_worker *worker = &self->workers[node];
    tr_process_end how = {.exit_code = -1};
    if (worker->pidfd >= 0) tr_process_reap(worker->pidfd, &how);
    close_one(&worker->pidfd);
    close_one(&worker->word);
    close_one(&worker->life);
    worker->pid = 0;
    if (end) *end = how;
}

/* ---- what goes ---- */

static bool tell(int socket, const said *what, const int *descriptors, int count)
{
    struct pollfd room = {.fd = socket, .events = POLLOUT};
    do {
        if (tr_local_send(socket, what, sizeof *what, descriptors, count)) return true;
        if (errno != EAGAIN && errno != EINTR) return false;
    } while (poll(&room, 1, SLOW_MS) == 1 && !(room.revents & (POLLHUP | POLLERR)));
    return false;
}

bool tr_holdings_tell_begin(int socket, uint32_t layout)
{
    return tell(socket, &(said){.kind = BEGIN, .layout = layout}, NULL, 0);
}

bool tr_holdings_tell_worker(int socket, int32_t node, const tr_held_worker *worker)
{
    said what = {.kind = WORKER, .node = node, .pid = worker->pid};
    tr_held_worker copy = *worker;
    int *all[4], descriptors[4], count = 0;
    descriptors_of(&copy, all);
    for (int i = 0; i < 4; i++) {
        what.has[i] = *all[i] >= 0;
        if (what.has[i]) descriptors[count++] = *all[i];
    }
    return tell(socket, &what, descriptors, count);
}

bool tr_holdings_tell_states(int socket, int32_t node, uint32_t layout, const int *descriptors, uint32_t n)
{
    said what = {.kind = STATES, .node = node, .layout = layout, .n = n};
    do {
        uint32_t left = n - what.at;
        int count = left < TR_LOCAL_MOST_DESCRIPTORS ? (int)left : TR_LOCAL_MOST_DESCRIPTORS;
        if (!tell(socket, &what, descriptors + what.at, count)) return false;
        what.at += (uint32_t)count;
    } while (what.at < n);
    return true;
}

bool tr_holdings_tell_settled(int socket, uint32_t layout)
{
    return tell(socket, &(said){.kind = SETTLED, .layout = layout}, NULL, 0);
}

bool tr_holdings_tell_all(const tr_holdings *self, int socket)
{
    bool told = tr_holdings_tell_begin(socket, self->layout);
    for (int32_t i = 1; i < self->n_nodes && told; i++) {
        const tr_held_states *states = &self->states[i];
        tr_held_worker worker = NOBODY;
        worker.activity = self->workers[i].activity;
        if (have_all(self, i)) worker = self->workers[i]; /* if it has just ended, that is told as any end */
        told = tr_holdings_tell_worker(socket, i, &worker);
        if (told && tr_holdings_have_states(self, i))
            told = tr_holdings_tell_states(socket, i, self->layout, states->descriptors, states->n);
    }
    return told && tell(socket, &(said){.kind = END}, NULL, 0);
}
