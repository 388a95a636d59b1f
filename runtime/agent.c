/* runtime/agent.c - see agent.h. One thread, asleep in its node until a worker ends, the head speaks, or a
 * grace is over. A dead worker is reaped at once: as a zombie it would count as alive for others (UCX's
 * keepalive asks for its pid).
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent.h"

#include "base/local_socket.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/agent_hosts.h"
#include "runtime/control_messages.h"
#include "runtime/host_activity.h"
#include "runtime/lease.h"
#include "runtime/leftovers.h"
#include "runtime/played.h"
#include "runtime/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HOSTED_TICK_MS = 10, STOPPED_MS = 2000, BROKEN_LINK_MS = 2000 };

typedef tr__agent agent;
typedef tr__ward ward;

static void send_note(agent *self, tr_control_topic topic, const tr_control_note *note)
{
    if (!self->head_lost) tr_control_send_note(self->node, TR_NODE_HEAD, topic, note);
}

static void finish_when_alone(agent *self)
{
    if (!self->stopping || self->n_alive > 0) return;
    const tr_control_note farewell = {0};
    send_note(self, TR_CONTROL_FAREWELL, &farewell);
    tr_node_stop(self->node);
}

static void begin_stop(agent *self, uint32_t grace_ms)
{
    uint64_t kill_at_ns = tr__process_now_ns() + (uint64_t)grace_ms * 1000000;
    if (!self->stopping || kill_at_ns < self->kill_at_ns) self->kill_at_ns = kill_at_ns;
    self->stopping = true;
    finish_when_alone(self);
}

bool tr__ward_reap(tr__ward *worker, tr_process_end *end)
{
    if (worker->pidfd < 0 || !tr_process_reap(worker->pidfd, end)) return false;
    if (worker->agent->node) tr_node_unwatch(worker->agent->node, worker->pidfd);
    close(worker->pidfd);
    worker->pidfd = -1;
    worker->leaving = false;
    worker->agent->n_alive--;
    tr__agent_faults_after(worker->agent, worker);
    if (end->signal || end->exit_code < 0) tr_leftovers_remove(worker->pid); /* or nobody here knows how */
    return true;
}

static void replace(agent *self, int32_t node);

static void on_worker_end(void *context)
{
    ward *worker = context;
    agent *self = worker->agent;
    tr_process_end end;
    bool leaving = worker->leaving;
    if (!tr__ward_reap(worker, &end)) return;
    tr_control_note note = {
        .node = worker->node, .pid = worker->pid, .exit_code = end.exit_code, .signal = end.signal};
    uint64_t last_ns = tr_activity_last_ns(worker->activity);
    note.silent_ns = last_ns ? tr__process_now_ns() - last_ns : UINT64_MAX;
    if (!leaving) tr_activity_describe(worker->activity, &self->topology, note.text, sizeof note.text);
    send_note(self, TR_CONTROL_WORKER_ENDED, &note);
    finish_when_alone(self);
    if (leaving && worker->node < self->topology.n_nodes) replace(self, worker->node);
}

/* State T of proc(5): somebody stopped it. What a debugger holds (t) is left in peace. */
static bool is_stopped(const ward *worker)
{
    char path[64], line[256], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", worker->pid);
    FILE *file = fopen(path, "re");
    if (!file) return false;
    const char *end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    if (end) sscanf(end + 1, " %c", &state);
    fclose(file);
    return state == 'T';
}

/* The watchdog. A worker beats ten times a second whatever its actors do, unless one of them keeps its only thread; then the
 * actor's own activities are the sign of life: a slow one goes on to the next, a hung one does not. While it makes its
 * actors it does not beat, and may take its time. */
static void watch_over(agent *self, ward *worker, uint64_t now_ns)
{
    uint64_t limit_ns = (uint64_t)self->launch->hung_after_ms * 1000000;
    if (worker->pidfd < 0 || worker->is_hung || worker->leaving || !limit_ns) return;
    uint64_t pulse = tr_activity_pulse(worker->activity);
    uint64_t stuck_ns = tr_activity_stuck_ns(worker->activity, &worker->handlers, now_ns);
    if (pulse != worker->pulse || !worker->moved_ns) {
        worker->pulse = pulse;
        worker->moved_ns = now_ns;
    }
    bool stuck = stuck_ns >= limit_ns;
    uint64_t still_ns = now_ns - worker->moved_ns;
    bool stopped = still_ns > STOPPED_MS * 1000000ull && is_stopped(worker);
    bool silent = still_ns >= limit_ns && tr_activity_has_begun(worker->activity);
    if (!stuck && !stopped && !silent) return;
    worker->is_hung = true;
    char doing[TR_ERROR_SIZE / 2];
    tr_control_note note = {.node = worker->node, .pid = worker->pid};
    tr_activity_describe(worker->activity, &self->topology, doing, sizeof doing);
    snprintf(note.text, sizeof note.text, "worker %d (pid %d) %s for %.1f s%s%s", worker->node, worker->pid,
             stopped ? "was stopped and has not moved" : "has not moved",
             (double)(stuck ? stuck_ns : still_ns) * 1e-9, doing[0] ? "; " : "", doing);
    send_note(self, TR_CONTROL_HUNG, &note);
}

static void tell_what_it_does(agent *self, const ward *worker, uint64_t now_ns)
{
    tr_worker_seen seen = {.node = worker->node, .pid = worker->pid, .now_ns = now_ns};
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_error err;
    seen.process = tr_process_look(worker->pid, &seen.resident_bytes);
    seen.page = *worker->activity;
    if (tr_worker_seen_encode(&seen, &bytes, &size_bytes, &err) == TR_OK)
        tr_node_send_system(self->node, TR_NODE_HEAD, TR_CONTROL_SEEN, bytes, (uint32_t)size_bytes);
    tr_free(bytes); /* without memory it is not told, and nobody waits for it */
}

/* On the head's own host everybody can look for himself. */
static void tell_what_they_do(agent *self, uint64_t now_ns)
{
    if (!self->launch->member || now_ns < self->seen_ns + (uint64_t)TR_HOST_SEEN_MS * 1000000) return;
    self->seen_ns = now_ns;
    for (int32_t i = 1; i < self->topology.n_nodes && !self->head_lost; i++)
        if (self->wards[i].pidfd >= 0) tell_what_it_does(self, &self->wards[i], now_ns);
}

void tr__agent_on_tick(void *context, uint64_t now_ns)
{
    agent *self = context;
    if (self->hosts) tell_what_they_do(self, now_ns);
    if (!self->stopping) tr__agent_go_on_dealing(self);
    if (self->n_suffering) tr__agent_faults_on_tick(self, now_ns);
    for (int32_t i = 1; i < self->topology.n_nodes && !self->stopping; i++)
        watch_over(self, &self->wards[i], now_ns);
    for (int32_t i = 1; i < self->launch->node; i++)
        if (self->wards[i].leaving && now_ns > self->wards[i].leave_until_ns)
            tr_process_kill(self->wards[i].pidfd, SIGKILL);
    if (self->hosts && !self->stopping && !tr__agent_hosts_on_tick(self->hosts, now_ns)) {
        self->head_lost = true;
        begin_stop(self, 0);
    }
    if (self->silent_ns && now_ns > self->silent_ns + (uint64_t)BROKEN_LINK_MS * 1000000) begin_stop(self, 0);
    if (!self->stopping || now_ns < self->kill_at_ns) return;
    for (int32_t i = 1; i < self->launch->node; i++)
        if (self->wards[i].pidfd >= 0) tr_process_kill(self->wards[i].pidfd, SIGKILL);
}

static void on_peer_lost(void *context, int32_t peer, bool control, const char *reason)
{
    (void)control; /* it has no other */
    agent *self = context;
    if (self->hosts && peer != TR_NODE_HEAD) tr__agent_hosts_lost_link(self->hosts, peer);
    if (peer != TR_NODE_HEAD) return;
    tr_log(self->launch->silence_ms ? TR_LOG_WARNING : TR_LOG_INFO, "the head is gone: %s", reason);
    self->head_lost = true;
    if (!self->launch->lease_ms || self->stopping)
        begin_stop(self, 0);
    else if (!self->silent_ns) /* its process may live yet: then it replaces us */
        self->silent_ns = tr__process_now_ns();
}

/* What is missing now, and what waits for it, only the head can know. */
static void on_damaged(void *context, int32_t peer, const char *reason)
{
    agent *self = context;
    tr_control_note note = {.node = peer, .status = TR_ECORRUPT};
    snprintf(note.text, sizeof note.text, "%s", reason);
    tr_control_send_note(self->node, TR_NODE_HEAD, TR_CONTROL_DAMAGED, &note);
}

/* With a lease: the head's process has ended. */
static void on_head_end(void *context)
{
    agent *self = context;
    tr_node_unwatch(self->node, self->head);
    self->head_lost = true;
    self->lost_ns = tr__process_now_ns();
    self->orphaned = !self->stopping;
    if (self->orphaned)
        tr_node_stop(self->node);
    else
        begin_stop(self, 0);
}

static void mend_states(agent *self, const ward *worker)
{
    for (size_t i = 0; i < self->topology.n_actors; i++)
        if (self->topology.actors[i].node == worker->node && self->states[i] &&
            tr_state_mend_header(self->states[i]))
            tr_log(TR_LOG_WARNING, "the state of %s had a damaged header; what it held is not used",
                   self->topology.actors[i].name);
}

/* The memory that outlives a worker: its page and the state of its actors. Made once; a replacement finds what its
 * predecessor left. */
static tr_status make_memory(agent *self, ward *worker, tr_error *err)
{
    tr_status status = TR_OK;
    if (worker->activity)
        tr_activity_clear(worker->activity);
    else
        status = tr_activity_page_new(&worker->activity, &worker->activity_descriptor, err);
    mend_states(self, worker);
    for (size_t i = 0; i < self->topology.n_actors && status == TR_OK; i++) {
        const tr_actor_spec *actor = &self->topology.actors[i];
        if (actor->node == worker->node && actor->state_bytes > 0 && !self->states[i])
            status = tr_state_region_new(&self->states[i], actor->name, actor->state_bytes, err);
    }
    return status;
}

/* In the order in which the worker will find them. Returns how many. */
static int list_memory(const agent *self, const ward *worker, int *descriptors)
{
    int count = 0;
    descriptors[count++] = worker->activity_descriptor;
    for (size_t i = 0; i < self->topology.n_actors; i++)
        if (self->topology.actors[i].node == worker->node && self->states[i])
            descriptors[count++] = tr_state_region_descriptor(self->states[i]);
    return count;
}

static void close_end(int *descriptor)
{
    if (*descriptor >= 0) close(*descriptor);
    *descriptor = -1;
}

/* Over which it speaks to a worker, of its memory and while there is no head; and what keeps it alive. theirs are the
 * caller's. */
static tr_status make_lines(ward *worker, bool has_life, int theirs[2], tr_error *err)
{
    int ends[2];
    tr_status status = tr_local_pair(ends, err);
    if (status != TR_OK) return status;
    close_end(&worker->word);
    worker->word = ends[0];
    theirs[0] = ends[1];
    if (!has_life) return TR_OK;
    if (pipe2(ends, O_CLOEXEC) != 0) return tr_fail(err, TR_EIO, "cannot make a pipe: %s", strerror(errno));
    close_end(&worker->life);
    worker->life = ends[1];
    theirs[1] = ends[0];
    return TR_OK;
}

static tr_status start_worker(agent *self, int32_t node, tr_error *err)
{
    ward *worker = &self->wards[node];
    int theirs[2] = {-1, -1}, *descriptors = tr_alloc((self->topology.n_actors + 3) * sizeof *descriptors);
    if (!descriptors) return tr_fail(err, TR_ENOMEM, "no memory to start worker %d", node);
    tr_launch launch = *self->launch;
    launch.role = TR_LAUNCH_WORKER;
    launch.node = node;
    launch.epoch = self->epoch;
    launch.layout = self->layout;
    launch.n_threads = self->topology.threads_per_node;
    launch.may_spin = tr_worker_may_spin(&self->topology);
    launch.topology = NULL; /* comes from the head */
    launch.topology_bytes = 0;
    tr_status status = make_memory(self, worker, err);
    if (status == TR_OK) status = make_lines(worker, !launch.hosted, theirs, err);
    if (status == TR_OK) {
        int count = list_memory(self, worker, descriptors);
        launch.n_states = count - 1;
        for (int i = 0; i < 2; i++)
            if (theirs[i] >= 0) descriptors[count++] = theirs[i];
        status = tr_launch_spawn(&launch, descriptors, count, &worker->pid, &worker->pidfd, err);
    }
    tr_free(descriptors);
    close_end(&theirs[0]);
    close_end(&theirs[1]);
    if (status != TR_OK) return tr_fail_within(err, status, "cannot start worker %d", node);
    self->n_alive++;
    tr__agent_hand_worker(self, worker);
    worker->moved_ns = 0;
    worker->handlers = (tr_activity_watch){0};
    worker->is_hung = false;
    const tr_control_note note = {.node = node, .pid = worker->pid, .epoch = self->epoch};
    send_note(self, TR_CONTROL_WORKER_STARTED, &note);
    return tr_node_watch(self->node, worker->pidfd, on_worker_end, worker, err);
}

/* The head ends the job on hearing this;
 * the agent goes on until it is told to stop, as with any other failure. */
void tr__agent_tell_failure(agent *self, const tr_error *error)
{
    tr_control_note note = {.node = self->launch->node, .pid = getpid(), .status = error->status};
    memcpy(note.text, error->message, sizeof note.text);
    send_note(self, TR_CONTROL_JOB_ENDED, &note);
}

static tr_status replace_dead(agent *self, tr_error *err)
{
    tr_status status = TR_OK;
    for (int32_t node = 1; node < self->topology.n_nodes && status == TR_OK; node++)
        if (self->wards[node].pidfd < 0 && (!self->hosts || tr__agent_hosts_are_ready(self->hosts, node)))
            status = start_worker(self, node, err);
    return status;
}

void tr__agent_hosts_start(agent *self)
{
    tr_error err;
    for (int32_t node = 1; node < self->topology.n_nodes; node++) {
        ward *worker = &self->wards[node];
        if (worker->pidfd < 0 || tr__agent_hosts_are_ready(self->hosts, node)) continue;
        tr_process_kill(worker->pidfd, SIGKILL);
        worker->leaving = true; /* that is no death; it may be ours again before it has ended */
        worker->leave_until_ns = 0;
    }
    if (!self->stopping && replace_dead(self, &err) != TR_OK) tr__agent_tell_failure(self, &err);
}

/* Somebody left politely: the epoch has begun before that. */
static void replace(agent *self, int32_t node)
{
    tr_error err;
    if (self->hosts && !tr__agent_hosts_are_ready(self->hosts, node)) return;
    if (!self->stopping && !self->head_lost && start_worker(self, node, &err) != TR_OK)
        tr__agent_tell_failure(self, &err);
}

/* Those that are dead are replaced; the living hear of the epoch from the head. */
static void begin_epoch(agent *self, const tr_control_note *note)
{
    tr_error err;
    if (self->stopping || note->epoch <= self->epoch) return;
    self->epoch = note->epoch;
    tr__agent_settle(self, note->layout);
    if (replace_dead(self, &err) != TR_OK) tr__agent_tell_failure(self, &err);
}

static void fence(agent *self, int32_t node)
{
    if (node < 1 || node >= self->topology.n_nodes || self->wards[node].pidfd < 0) return;
    if (!tr__ward_lives_on(&self->wards[node])) tr_process_kill(self->wards[node].pidfd, SIGKILL);
}

static void hear_stop(agent *self, const tr_control_note *note)
{
    self->head_gives_way = self->launch->silence_ms && note->status == TR_ECLOSED;
    begin_stop(self, note->grace_ms);
}

static void on_system(void *context, int32_t peer, const tr_message *message)
{
    tr_control_note note;
    const agent *self = context;
    if (self->hosts && peer == TR_NODE_HEAD) tr__agent_hosts_heard(self->hosts);
    if (self->hosts && tr__agent_hosts_hear(self->hosts, peer, message)) return;
    if (peer != TR_NODE_HEAD) return;
    if (message->frame.edge == TR_CONTROL_PREPARE) {
        tr__agent_prepare(context, message);
        return;
    }
    if (message->frame.edge == TR_CONTROL_FAULT) {
        tr__agent_fault(context, message, tr__process_now_ns());
        return;
    }
    if (tr_control_read_note(message, &note, NULL) != TR_OK) return;
    switch (message->frame.edge) {
    case TR_CONTROL_STOP: hear_stop(context, &note); break;
    case TR_CONTROL_EPOCH: begin_epoch(context, &note); break;
    case TR_CONTROL_FENCE: fence(context, note.node); break;
    default: tr_log(TR_LOG_WARNING, "the head sent topic %u, which agents do not know", message->frame.edge);
    }
}

/* Of another host: somebody wants it to go. Its workers go on until others have taken over; who asks twice does not wait. */
static void on_leave(void *context)
{
    agent *self = context;
    struct signalfd_siginfo info;
    bool again = self->leaving;
    while (read(self->leave_descriptor, &info, sizeof info) == sizeof info) {
        again = self->leaving;
        self->leaving = true;
    }
    const tr_control_note note = {.node = self->launch->node, .pid = getpid()};
    if (again)
        begin_stop(self, 0);
    else
        send_note(self, TR_CONTROL_LEAVING, &note);
}

static tr_status connect_head(agent *self, tr_error *err)
{
    static const tr_registry nothing;
    const tr_launch *launch = self->launch;
    tr_node_options options = {.node = launch->node,
                               .deaths_are_told = true,
                               .incarnation = launch->incarnation,
                               .epoch = launch->epoch,
                               .n_threads = 1,
                               .control_transport = launch->control_transport,
                               .bind = launch->bind[0] ? launch->bind : NULL,
                               .key = launch->has_key ? &launch->key : NULL,
                               .registry = &nothing,
                               .context = self,
                               .on_system = on_system,
                               .on_peer_lost = on_peer_lost,
                               .on_damaged = on_damaged};
    if (tr__play) {
        options.virtual_ns = tr__play->agent->virtual_ns;
        options.control_network = tr__play->agent->control_network;
    }
    memcpy(options.job_key, launch->job_key, sizeof options.job_key);
    tr_status status = tr_node_new(&self->node, &options, err);
    if (status == TR_OK && launch->lease_ms)
        status = tr_node_watch(self->node, self->head, on_head_end, self, err);
    if (status == TR_OK && self->leave_descriptor >= 0)
        status = tr_node_watch(self->node, self->leave_descriptor, on_leave, self, err);
    if (status == TR_OK) status = tr_node_connect(self->node, TR_NODE_HEAD, launch->head_address, NULL, err);
    tr_control_hello hello = {.epoch = launch->epoch, .member = launch->member};
    if (status == TR_OK) status = tr_control_send_hello(self->node, TR_NODE_HEAD, &hello, err);
    return status;
}

static tr_status watch_living(agent *self, tr_error *err)
{
    tr_status status = TR_OK;
    for (int32_t i = 1; i < self->launch->node && status == TR_OK; i++) {
        ward *worker = &self->wards[i];
        worker->moved_ns = 0;
        worker->handlers = (tr_activity_watch){0};
        worker->is_hung = false;
        if (worker->pidfd >= 0) status = tr_node_watch(self->node, worker->pidfd, on_worker_end, worker, err);
    }
    return status;
}

/* Beside another head, with the workers that live: they greet it by themselves, and are watched anew. */
tr_status tr__agent_go_on(agent *self, tr_error *err)
{
    self->orphaned = self->head_lost = false;
    self->silent_ns = 0;
    tr_status status = connect_head(self, err);
    tr__agent_drop_prepared(self);
    tr__agent_hand_all(self);
    if (status == TR_OK) status = watch_living(self, err);
    return status == TR_OK ? replace_dead(self, err) : status;
}

/* With what an agent before it had: those of its workers that live are told to greet by the head. */
static tr_status start_all(agent *self, tr_error *err)
{
    size_t n_nodes = (size_t)self->launch->node;
    if (self->topology.n_nodes > self->launch->node)
        return tr_fail(err, TR_ECORRUPT, "agent %d has to care for %d nodes", self->launch->node,
                       self->topology.n_nodes);
    self->wards = tr_alloc_zero(n_nodes, sizeof *self->wards);
    self->states = tr_alloc_zero(self->topology.n_actors, sizeof *self->states);
    if (!self->wards || !self->states)
        return tr_fail(err, TR_ENOMEM, "no memory to watch %d workers", self->topology.n_nodes - 1);
    for (size_t i = 0; i < n_nodes; i++)
        self->wards[i] = (ward){.agent = self,
                                .node = (int32_t)i,
                                .pidfd = -1,
                                .word = -1,
                                .life = -1,
                                .activity_descriptor = -1};
    tr_status status =
        self->launch->hosted ? tr__agent_hosts_new(&self->hosts, self, err) : tr__agent_inherit(self, err);
    if (status == TR_OK) status = connect_head(self, err);
    if (status == TR_OK && self->hosts) tr__agent_tell_former(self);
    if (status != TR_OK || self->hosts) return status;
    status = watch_living(self, err);
    for (int32_t i = 1; i < self->topology.n_nodes && self->layout; i++)
        if (self->wards[i].pidfd >= 0) tr__agent_tell_memory(self, &self->wards[i]);
    return status == TR_OK ? replace_dead(self, err) : status;
}

void tr__agent_release(agent *self)
{
    tr_node_destroy(&self->node);
    tr__agent_hosts_destroy(&self->hosts);
    tr_agent_states_destroy(&self->former);
    tr__agent_drop_prepared(self);
    for (int32_t i = 1; self->wards && i < self->launch->node; i++) {
        ward *worker = &self->wards[i];
        int *const owned[] = {&worker->activity_descriptor, &worker->word, &worker->life, &worker->pidfd};
        for (size_t k = 0; k < sizeof owned / sizeof *owned; k++) close_end(owned[k]);
        tr_activity_page_unmap(&self->wards[i].activity);
    }
    for (size_t i = 0; self->states && i < self->topology.n_actors; i++)
        tr_state_region_destroy(&self->states[i]);
    tr_free(self->states);
    tr_free(self->wards);
    tr_topology_release(&self->topology);
    close_end(&self->holdings);
    tr__agent_close_lease(self);
}

tr_status tr__agent_init(agent *self, const tr_launch *launch, tr_error *err)
{
    *self = (agent){.launch = launch,
                    .pid = getpid(),
                    .epoch = launch->epoch,
                    .layout = launch->layout,
                    .holdings = -1,
                    .directory = -1,
                    .kept = -1,
                    .listener = -1,
                    .head = -1,
                    .leave_descriptor = -1};
    return tr_topology_decode(&self->topology, launch->topology, launch->topology_bytes, err);
}

tr_status tr__agent_begin(agent *self, tr_error *err)
{
    tr_status status = self->launch->lease_ms ? tr__agent_open_lease(self, err) : TR_OK;
    return status == TR_OK ? start_all(self, err) : status;
}

/* Beside one head: until it says stop and all workers are reaped, or it is gone. */
static tr_status serve(agent *self, tr_status status, tr_error *problem)
{
    if (status != TR_OK && self->node) tr__agent_tell_failure(self, problem);
    if (self->node)
        tr_node_run(self->node, self->hosts ? HOSTED_TICK_MS : TR__AGENT_TICK_MS, tr__agent_on_tick);
    if (self->orphaned) status = TR_OK; /* what could not be done for a head that is dead */
    if (status == TR_OK && self->node) status = tr_node_failure(self->node, problem);
    return status;
}

tr_status tr_agent_run(const tr_launch *launch, int leave_descriptor, tr_agent_states **states, tr_error *err)
{
    agent self;
    tr_error problem = {0};
    tr_status status = tr__agent_init(&self, launch, err);
    if (status != TR_OK) return status;
    self.leave_descriptor = leave_descriptor;
    if (states) self.former = *states;
    if (states) *states = NULL;
    if (!launch->hosted) self.holdings = tr_launch_holdings(launch);
    if (launch->lease_ms) {
        self.directory = TR_LAUNCH_FIRST_INHERITED;
        self.kept = TR_LAUNCH_FIRST_INHERITED + 1;
    }
    status = serve(&self, tr__agent_begin(&self, &problem), &problem);
    while (status == TR_OK && self.orphaned) {
        tr_node_destroy(&self.node); /* nothing that the old head said is heard any more */
        if (!tr__agent_await_head(&self)) break;
        status = serve(&self, tr__agent_go_on(&self, &problem), &problem);
    }
    if (status == TR_OK && self.leaving)
        status = tr_fail(&problem, TR_ESTOPPED, "this host has left the job, as asked");
    if (status == TR_OK && (self.head_lost || self.head_gives_way))
        status = tr_fail(&problem, TR_ECLOSED, "the head is gone");
    if (states && status == TR_ECLOSED) *states = tr__agent_keep_states(&self);
    tr__agent_release(&self);
    if (status != TR_OK && err) *err = problem;
    return status;
}
