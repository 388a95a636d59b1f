/* runtime/crew.c - see crew.h. While a crew of processes exists this process is a subreaper (prctl(2)): the
 * workers of an agent that was killed become its children, so that they can be reaped here and no zombie
 * stays. (Those of an agent that was taken over from another head become init's.)
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/crew.h"

#include "base/local_socket.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/activity.h"
#include "runtime/holdings.h"
#include "runtime/leftovers.h"
#include "runtime/orphans.h"
#include "runtime/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Until one that was killed is gone. Its memory is given back before, which on a loaded machine takes it longer than any
 * promise here: who stops waiting leaves a zombie. */
enum { REAP_MS = 3000 };

typedef struct member { /* a worker that is a thread of this process */
    tr_crew *crew;
    pthread_t thread;
    bool has_thread;
    tr_worker_options options;
    int activity_descriptor;
    tr_activity_page *activity;
    tr_error failure;    /* of the thread, */
    _Atomic bool failed; /* which writes it before this: release, pairs with acquire in tr_crew_failed */
} member;

struct tr_crew {
    tr_crew_options options;
    member *members; /* by node; [0] is unused */
    int32_t n_nodes;
    int descriptor; /* the agent's pidfd, or an eventfd */
    int32_t agent_pid;
    tr_holdings holdings; /* of processes: what is known of each, and kept for another agent */
    int socket;           /* over which the agent hands it over; -1: it does not */
    bool agent_ended, was_taken;
    tr_process_end agent_end;
    int was_subreaper;
    bool must_stop;            /* atomic: the head is gone without a word, for want of memory */
    _Atomic int32_t n_running; /* threads; release at a thread's end pairs with acquire in tr_crew_ended */
};

/* It is no child of this process. */
static tr_status take_agent(tr_crew *self, const tr_launch *launch, int theirs, tr_error *err)
{
    tr_orphans *orphans = self->options.lease->orphans;
    tr_status status = tr_orphans_take(orphans, launch, theirs, err);
    int descriptor = status == TR_OK ? fcntl(orphans->agent, F_DUPFD_CLOEXEC, 0) : -1;
    if (status != TR_OK) return status;
    if (descriptor < 0) return tr_fail(err, TR_EIO, "cannot watch the agent: %s", strerror(errno));
    self->descriptor = descriptor;
    self->agent_pid = orphans->offer.agent_pid;
    self->was_taken = true;
    return TR_OK;
}

/* With all that there is of one before it. */
static tr_status spawn_agent(tr_crew *self, const tr_launch *launch, int theirs, tr_error *err)
{
    const tr_job_lease *lease = self->options.lease;
    int inherited[3], n = 0;
    if (lease) inherited[n++] = lease->directory; /* and only then launch->lease_ms is not 0 */
    if (lease) inherited[n++] = lease->kept;
    if (theirs >= 0) inherited[n++] = theirs;
    tr_status status = tr_launch_spawn(launch, inherited, n, &self->agent_pid, &self->descriptor, err);
    if (status == TR_OK && theirs >= 0 && !tr_holdings_tell_all(&self->holdings, self->socket))
        tr_log(TR_LOG_WARNING, "the agent (pid %d) does not take what there was of one before",
               self->agent_pid); /* it ends, then */
    return status;
}

/* Behind an agent that was taken over and ended comes one of our own. */
static tr_status start_agent(tr_crew *self, tr_error *err)
{
    const tr_job_lease *lease = self->options.lease;
    bool take = lease && lease->orphans && !self->was_taken;
    int ends[2] = {-1, -1};
    tr_launch launch = self->options.launch;
    launch.role = TR_LAUNCH_AGENT;
    launch.node = self->n_nodes;
    launch.n_threads = 1;
    launch.layout = self->holdings.layout;
    tr_status status = launch.hosted ? TR_OK : tr_local_pair(ends, err);
    if (status != TR_OK) return status;
    self->socket = ends[0];
    status = tr_topology_encode(self->options.topology, &launch.topology, &launch.topology_bytes, err);
    if (status == TR_OK && (!take || take_agent(self, &launch, ends[1], err) != TR_OK))
        status = spawn_agent(self, &launch, ends[1], err);
    if (ends[1] >= 0) close(ends[1]);
    tr_launch_release(&launch);
    return status;
}

static tr_status start_first_agent(tr_crew *self, tr_error *err)
{
    prctl(PR_GET_CHILD_SUBREAPER, &self->was_subreaper);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    tr_status status = start_agent(self, err);
    if (status != TR_OK) prctl(PR_SET_CHILD_SUBREAPER, self->was_subreaper);
    return status;
}

static void wake_head(tr_crew *self)
{
    uint64_t one = 1;
    if (write(self->descriptor, &one, sizeof one) != sizeof one)
        tr_log(TR_LOG_ERROR, "cannot tell the head that a worker ended: %s", strerror(errno));
}

static void thread_ended(tr_crew *self)
{
    if (atomic_fetch_sub_explicit(&self->n_running, 1, memory_order_acq_rel) == 1) wake_head(self);
}

static void *run_thread(void *context)
{
    member *self = context;
    if (tr_worker_run(&self->options, &self->failure) != TR_OK) {
        tr_log(TR_LOG_ERROR, "worker %d: %s", self->options.node, self->failure.message);
        atomic_store_explicit(&self->failed, true, memory_order_release);
        wake_head(self->crew);
    }
    thread_ended(self->crew);
    return NULL;
}

static tr_status start_thread(tr_crew *self, int32_t node, tr_error *err)
{
    member *worker = &self->members[node];
    const tr_launch *launch = &self->options.launch;
    tr_status status = tr_activity_page_new(&worker->activity, &worker->activity_descriptor, err);
    if (status != TR_OK) return status;
    worker->options = (tr_worker_options){.node = node,
                                          .epoch = launch->epoch,
                                          .n_threads = self->options.topology->threads_per_node,
                                          .may_spin = tr_worker_may_spin(self->options.topology),
                                          .control_transport = launch->control_transport,
                                          .data_transport = launch->data_transport,
                                          .head_address = launch->head_address,
                                          .registry = self->options.registry,
                                          .activity = worker->activity,
                                          .must_stop = &self->must_stop};
    memcpy(worker->options.job_key, launch->job_key, sizeof launch->job_key);
    atomic_fetch_add_explicit(&self->n_running, 1, memory_order_relaxed);
    int result = pthread_create(&worker->thread, NULL, run_thread, worker);
    worker->has_thread = result == 0;
    if (result == 0) return TR_OK;
    thread_ended(self);
    return tr_fail(err, TR_EIO, "cannot start a thread for worker %d: %s", node, strerror(result));
}

static tr_status start_threads(tr_crew *self, tr_error *err)
{
    self->descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (self->descriptor < 0) return tr_fail(err, TR_EIO, "cannot make an eventfd: %s", strerror(errno));
    tr_status status = TR_OK;
    for (int32_t node = 1; node < self->n_nodes && status == TR_OK; node++)
        status = start_thread(self, node, err);
    return status;
}

/* Of nobody yet. */
static tr_status make(tr_crew **out, const tr_crew_options *options, tr_error *err)
{
    tr_crew *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a crew");
    self->options = *options;
    self->n_nodes = options->topology->n_nodes;
    if (options->max_nodes > self->n_nodes) self->n_nodes = options->max_nodes;
    self->descriptor = self->socket = -1;
    self->members = tr_alloc_zero((size_t)self->n_nodes, sizeof *self->members);
    tr_status status =
        self->members ? tr_holdings_init(&self->holdings, self->n_nodes, err)
                      : tr_fail(err, TR_ENOMEM, "no memory for a crew of %d", options->topology->n_nodes);
    if (status != TR_OK) {
        tr_holdings_release(&self->holdings);
        tr_free(self->members);
        tr_free(self);
        return status;
    }
    for (int32_t i = 0; i < self->n_nodes; i++)
        self->members[i] = (member){.crew = self, .activity_descriptor = -1};
    *out = self;
    return TR_OK;
}

tr_status tr_crew_new(tr_crew **out, const tr_crew_options *options, tr_error *err)
{
    tr_crew *self = NULL;
    tr_status status = make(&self, options, err);
    if (status != TR_OK) return status;
    status = options->processes ? start_first_agent(self, err) : start_threads(self, err);
    *out = self; /* also when it failed: threads that did start must be told to stop before it is destroyed */
    return status;
}

int tr_crew_descriptor(const tr_crew *self)
{
    return self->descriptor;
}

int32_t tr_crew_agent_pid(const tr_crew *self)
{
    return self->agent_pid;
}

bool tr_crew_ended(tr_crew *self, tr_process_end *end)
{
    if (!self->options.processes) {
        *end = (tr_process_end){0};
        return atomic_load_explicit(&self->n_running, memory_order_acquire) == 0;
    }
    if (!self->agent_pid) self->agent_ended = true; /* it never was */
    if (!self->agent_ended) self->agent_ended = tr_process_reap(self->descriptor, &self->agent_end);
    *end = self->agent_end;
    return self->agent_ended;
}

bool tr_crew_failed(tr_crew *self, tr_error *err)
{
    if (self->options.processes) return false;
    uint64_t count; /* it is readable again when the next thread ends */
    ssize_t got = read(self->descriptor, &count, sizeof count);
    (void)got;
    for (int32_t i = 1; i < self->n_nodes; i++) {
        member *worker = &self->members[i];
        if (!atomic_load_explicit(&worker->failed, memory_order_acquire)) continue;
        tr_fail(err, worker->failure.status, "worker %d: %s", i, worker->failure.message);
        return true;
    }
    return false;
}

void tr_crew_add_worker(tr_crew *self, int32_t node, int32_t pid)
{
    tr_held_worker *worker = &self->holdings.workers[node];
    if (!self->options.processes || worker->pid == pid) return;
    if (worker->pidfd >= 0) tr_holdings_drop_worker(&self->holdings, node, NULL);
    worker->pidfd = tr_process_open(pid);
    worker->pid = pid;
}

bool tr_crew_was_taken(const tr_crew *self)
{
    return self->was_taken;
}

int tr_crew_page_of_thread(const tr_crew *self, int32_t node)
{
    return self->members[node].activity_descriptor;
}

/* What comes over the other way may know of the next one already. */
bool tr_crew_remove_worker(tr_crew *self, int32_t node, int32_t pid, tr_process_end *end)
{
    if (self->holdings.workers[node].pid != pid) return false;
    tr_holdings_drop_worker(&self->holdings, node, end);
    return end->signal || end->exit_code >= 0;
}

int32_t tr_crew_worker_pid(const tr_crew *self, int32_t node)
{
    return self->holdings.workers[node].pid;
}

int tr_crew_holdings_descriptor(const tr_crew *self)
{
    return self->socket;
}

bool tr_crew_hear_holdings(tr_crew *self)
{
    return self->socket >= 0 && tr_holdings_hear(&self->holdings, self->socket);
}

void tr_crew_change_topology(tr_crew *self, const tr_topology *topology, uint32_t layout)
{
    (void)tr_crew_hear_holdings(self);
    tr_holdings_settle(&self->holdings, layout);
    self->options.topology = topology;
}

void tr_crew_drop_layout(tr_crew *self)
{
    (void)tr_crew_hear_holdings(self);
    tr_holdings_settle(&self->holdings, self->holdings.layout);
}

void tr_crew_kill_agent(tr_crew *self)
{
    if (self->options.processes && !self->agent_ended) tr_process_kill(self->descriptor, SIGKILL);
}

static void end_process(int *pidfd)
{
    tr_process_end end;
    if (*pidfd < 0) return;
    if (!tr_process_reap(*pidfd, &end)) {
        tr_process_kill(*pidfd, SIGKILL);
        struct pollfd ended = {.fd = *pidfd, .events = POLLIN};
        poll(&ended, 1, REAP_MS);
        tr_process_reap(*pidfd, &end);
    }
    close(*pidfd);
    *pidfd = -1;
}

/* Where the agent did not reap it. */
static void end_worker(tr_crew *self, int32_t node, tr_process_end *end)
{
    tr_held_worker *worker = &self->holdings.workers[node];
    int32_t pid = worker->pid;
    struct pollfd ended = {.fd = worker->pidfd, .events = POLLIN};
    if (worker->pidfd < 0) return;
    if (poll(&ended, 1, 0) == 0) {
        tr_process_kill(worker->pidfd, SIGKILL);
        poll(&ended, 1, REAP_MS);
    }
    tr_holdings_drop_worker(&self->holdings, node, end);
    tr_leftovers_remove(pid);
}

void tr_crew_end_worker(tr_crew *self, int32_t node)
{
    end_worker(self, node, NULL);
}

/* They end beside one another. */
static void end_workers(tr_crew *self)
{
    for (int32_t i = 1; i < self->n_nodes; i++)
        if (self->holdings.workers[i].pidfd >= 0) tr_process_kill(self->holdings.workers[i].pidfd, SIGKILL);
    for (int32_t i = 1; i < self->n_nodes; i++) end_worker(self, i, NULL);
}

bool tr_crew_has_lost_worker(tr_crew *self, int32_t node, int32_t *pid, tr_process_end *end)
{
    bool keeps = !self->options.launch.hosted && tr_holdings_are_whole(&self->holdings, node);
    *pid = self->holdings.workers[node].pid;
    if (self->holdings.workers[node].pidfd < 0 || keeps) return false;
    end_worker(self, node, end);
    return true;
}

tr_status tr_crew_replace_agent(tr_crew *self, uint32_t epoch, tr_error *err)
{
    TR_ASSERT(self->agent_ended);
    tr_crew_drop_layout(self); /* which it had prepared, and which nobody else will take */
    if (self->socket >= 0) close(self->socket);
    close(self->descriptor);
    self->descriptor = self->socket = -1;
    self->agent_pid = 0;
    self->options.launch.epoch = self->options.launch.incarnation = epoch;
    tr_status status = start_agent(self, err);
    self->agent_ended = status != TR_OK;
    return status;
}

void tr_crew_forsake(tr_crew *self)
{
    if (self->descriptor >= 0) close(self->descriptor);
    if (self->socket >= 0) close(self->socket);
    self->descriptor = self->socket = -1;
    tr_holdings_release(&self->holdings);
    self->options.processes = false;
}

void tr_crew_destroy(tr_crew **out)
{
    tr_crew *self = *out;
    if (!self) return;
    if (self->options.processes) {
        if (!self->agent_ended)
            end_process(&self->descriptor);
        else if (self->descriptor >= 0)
            close(self->descriptor);
        (void)tr_crew_hear_holdings(self);
        if (self->socket >= 0) close(self->socket);
        end_workers(self);
        prctl(PR_SET_CHILD_SUBREAPER, self->was_subreaper);
    }
    tr_holdings_release(&self->holdings); /* who was not known of ends with its life line */
    __atomic_store_n(&self->must_stop, true, __ATOMIC_RELAXED);
    for (int32_t i = 1; i < self->n_nodes; i++) {
        member *worker = &self->members[i];
        if (worker->has_thread) pthread_join(worker->thread, NULL);
        tr_activity_page_unmap(&worker->activity);
        if (worker->activity_descriptor >= 0) close(worker->activity_descriptor);
    }
    if (!self->options.processes && self->descriptor >= 0) close(self->descriptor);
    tr_launch_release(&self->options.launch); /* wipes the keys */
    tr_free(self->members);
    tr_free(self);
    *out = NULL;
}
