/* runtime/job.c - see job.h. Puts a job together and takes it apart: key, signals, the head's node, a crew.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/job.h"

#include "base/crash.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/activity.h"
#include "runtime/agent.h"
#include "runtime/head.h"
#include "runtime/hosts.h"
#include "runtime/orphans.h"
#include "runtime/worker.h"
#include "transport/address.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

typedef struct job {
    tr_head head;
    uint8_t key[TR_JOB_KEY_BYTES];
    int signals; /* a signalfd */
    sigset_t mask_before;
    int activity_descriptor;
} job;

static tr_status check(const tr_job_options *options, tr_error *err)
{
    const char *transport = options->transport ? options->transport : "";
    bool known = strcmp(transport, "ucx") == 0 || strcmp(transport, "zmq") == 0;
    if (options->processes && !known)
        return tr_fail(err, TR_EINVAL, "transport '%s' does not join processes; give ucx or zmq", transport);
    if (!options->processes && strcmp(transport, "inproc") != 0)
        return tr_fail(err, TR_EINVAL, "transport '%s' without processes; give inproc, or processes",
                       transport);
    if ((options->bind || options->key) && strcmp(transport, "zmq") != 0)
        return tr_fail(err, TR_EINVAL, "transport '%s' has neither addresses nor keys; give zmq", transport);
    if (options->bind && !options->key && !tr_address_is_local(options->bind))
        return tr_fail(err, TR_EINVAL, "'%s' can be reached by others; give the job a key (`troupe keygen`)",
                       options->bind);
    if (options->recovery.first_epoch > TR_HEAD_LAST_EPOCH)
        return tr_fail(err, TR_EINVAL, "epoch %u: a run can have %d at most; begin another one",
                       options->recovery.first_epoch, TR_HEAD_LAST_EPOCH);
    if (options->lease.ms && (!options->processes || options->lease.directory < 0 || options->lease.kept < 0))
        return tr_fail(err, TR_EINVAL, "a lease needs processes, a directory and memory to keep");
    if (options->hosts.count > 1 && (!options->processes || !options->key || !options->bind ||
                                     options->lease.ms || !options->hosts.listen))
        return tr_fail(err, TR_EINVAL,
                       "several hosts need processes, transport zmq with an address and a key, and no lease");
    tr_chaos chaos;
    return tr_chaos_parse(&chaos, options->chaos.points, err);
}

static void on_signal(void *context)
{
    job *self = context;
    struct signalfd_siginfo info;
    while (read(self->signals, &info, sizeof info) == sizeof info)
        tr_head_on_signal(&self->head, (int)info.ssi_signo);
}

static void on_changes(void *context)
{
    job *self = context;
    const tr_job_options *options = self->head.options;
    options->changes.on_ready(options->context, &self->head);
}

/* Before any thread is made, so that all of them inherit the mask and the signal waits for the signalfd. */
static tr_status catch_signals(job *self, tr_error *err)
{
    sigset_t caught;
    sigemptyset(&caught);
    sigaddset(&caught, SIGINT);
    sigaddset(&caught, SIGTERM);
    int result = pthread_sigmask(SIG_BLOCK, &caught, &self->mask_before);
    if (result != 0) return tr_fail(err, TR_EIO, "cannot block signals: %s", strerror(result));
    self->signals = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
    if (self->signals >= 0) return TR_OK;
    tr_status status = tr_fail(err, TR_EIO, "cannot make a signalfd: %s", strerror(errno));
    pthread_sigmask(SIG_SETMASK, &self->mask_before, NULL);
    return status;
}

/* A signal that came while the job ended of something else has nobody to stop any more. */
static void release_signals(job *self)
{
    if (self->signals < 0) return;
    struct signalfd_siginfo meant_for_the_job;
    while (read(self->signals, &meant_for_the_job, sizeof meant_for_the_job) > 0) {
    }
    close(self->signals);
    pthread_sigmask(SIG_SETMASK, &self->mask_before, NULL);
}

static tr_status make_node(job *self, tr_error *err)
{
    tr_head *head = &self->head;
    const tr_job_options *options = head->options;
    bool alone = head->topology->n_nodes == 1;
    tr_node_options node = {.node = TR_NODE_HEAD,
                            .deaths_are_told = true,
                            .incarnation = head->epoch,
                            .epoch = head->epoch,
                            .n_threads = 1,
                            .data_transport = alone ? NULL : options->transport,
                            .control_transport = options->processes ? "zmq" : "inproc",
                            .bind = options->bind,
                            .key = options->key,
                            .registry = options->registry,
                            .activity = head->activity,
                            .may_spin = tr_worker_may_spin(head->topology)};
    tr_head_listen(head, &node);
    memcpy(node.job_key, self->key, sizeof self->key);
    tr_status status = tr_node_new(&head->node, &node, err);
    if (status == TR_OK) status = tr_node_watch(head->node, self->signals, on_signal, self, err);
    if (status == TR_OK && options->changes.max_nodes && options->changes.descriptor >= 0)
        status = tr_node_watch(head->node, options->changes.descriptor, on_changes, self, err);
    return status;
}

static tr_status make_crew(job *self, tr_error *err)
{
    tr_head *head = &self->head;
    const tr_job_options *options = head->options;
    tr_crew_options crew = {.topology = head->topology,
                            .registry = options->registry,
                            .processes = options->processes,
                            .max_nodes = head->agent};
    crew.launch.incarnation = head->epoch;
    crew.launch.epoch = head->epoch;
    crew.launch.hung_after_ms = options->recovery.max_restarts ? options->recovery.hung_after_ms : 0;
    crew.launch.lease_ms = options->lease.ms;
    crew.lease = options->lease.ms ? &options->lease : NULL;
    memcpy(crew.launch.job_key, self->key, sizeof self->key);
    snprintf(crew.launch.control_transport, TR_KIND_BYTES, "%s", options->processes ? "zmq" : "inproc");
    snprintf(crew.launch.data_transport, TR_KIND_BYTES, "%s", options->transport);
    snprintf(crew.launch.chaos, sizeof crew.launch.chaos, "%s",
             options->chaos.points ? options->chaos.points : "");
    if (options->bind) snprintf(crew.launch.bind, TR_BIND_CHARS, "%s", options->bind);
    crew.launch.has_key = options->key != NULL;
    if (options->key) crew.launch.key = *options->key;
    snprintf(crew.launch.head_address, TR_ADDRESS_CHARS, "%s", tr_node_control_address(head->node));
    crew.launch.copy_mib_per_s = options->hosts.copy_mib_per_s;
    crew.launch.hosted = options->hosts.count > 1;
    crew.launch.term = options->hosts.former.term;
    tr_status status = crew.launch.hosted ? tr_hosts_new(&head->hosts, head, &crew.launch, err) : TR_OK;
    if (status == TR_OK) status = tr_crew_new(&head->crew, &crew, err);
    tr_launch_release(&crew.launch); /* wipes the keys; the crew has a copy */
    if (!head->crew || tr_crew_descriptor(head->crew) < 0) return status;
    for (int32_t i = 1; i < head->topology->n_nodes && !options->processes; i++)
        head->places[i] = tr_place_of(getpid(), tr_crew_page_of_thread(head->crew, i));
    if (tr_crew_was_taken(head->crew)) tr_head_readopt(head, options->lease.orphans);
    tr_status watched = tr_head_watch_crew(head, err);
    return status == TR_OK ? watched : status;
}

static tr_status set_up(job *self, tr_error *err)
{
    tr_head *head = &self->head;
    tr_status status = catch_signals(self, err);
    if (status != TR_OK) return status;
    if (getrandom(self->key, sizeof self->key, 0) != (ssize_t)sizeof self->key)
        return tr_fail(err, TR_EIO, "cannot get random bytes for the job's key: %s", strerror(errno));
    size_t n_nodes = (size_t)head->agent;
    head->workers = tr_alloc_zero(n_nodes, sizeof *head->workers);
    head->restarts_ns =
        tr_alloc_zero((size_t)head->options->recovery.max_restarts + 1, sizeof *head->restarts_ns);
    head->places = tr_alloc_zero(n_nodes, sizeof *head->places);
    if (!head->workers || !head->restarts_ns || !head->places)
        return tr_fail(err, TR_ENOMEM, "no memory for %d workers", head->topology->n_nodes - 1);
    status = tr_activity_page_new(&head->activity, &self->activity_descriptor, err);
    head->places[TR_NODE_HEAD] = tr_place_of(getpid(), self->activity_descriptor);
    if (status == TR_OK) status = make_node(self, err);
    return status;
}

/* The node goes last of all that speaks: workers that are threads may still be sending to it. */
static void tear_down(job *self)
{
    tr_head *head = &self->head;
    tr_crew_destroy(&head->crew);
    tr_hosts_destroy(&head->hosts);
    tr_node_destroy(&head->node);
    tr_activity_page_unmap(&head->activity);
    if (self->activity_descriptor >= 0) close(self->activity_descriptor);
    tr_free(head->workers);
    tr_free(head->places);
    tr_free(head->restarts_ns);
    release_signals(self);
}

tr_status tr_job_run(const tr_job_options *options, tr_error *err)
{
    tr_status status = check(options, err);
    if (status != TR_OK) return status;
    uint32_t first_epoch = options->recovery.first_epoch ? options->recovery.first_epoch : 1;
    bool changes = options->processes && options->changes.max_nodes > options->topology->n_nodes;
    job self = {.head = {.options = options,
                         .topology = options->topology,
                         .epoch = first_epoch,
                         .agent = changes ? options->changes.max_nodes : options->topology->n_nodes},
                .signals = -1,
                .activity_descriptor = -1};
    status = set_up(&self, err);
    if (status == TR_OK) {
        tr_error problem = {0};
        if (options->topology->n_nodes > 1 && make_crew(&self, &problem) != TR_OK)
            tr_head_end(&self.head, &problem, 0);
        tr_head_run(&self.head);
        status = self.head.cause.status;
        if (status != TR_OK && err) *err = self.head.cause;
    }
    tear_down(&self);
    return status;
}

bool tr_job_is_child(int argc, char **argv)
{
    return argc >= 2 && strncmp(argv[1], TR_LAUNCH_ARGUMENT, strlen(TR_LAUNCH_ARGUMENT)) == 0;
}

/* SIGTERM asks a worker to leave. Before any thread is made; 0: it is ignored, as it was. */
static int catch_leave(void)
{
    sigset_t caught;
    sigemptyset(&caught);
    sigaddset(&caught, SIGTERM);
    if (pthread_sigmask(SIG_BLOCK, &caught, NULL) != 0) return 0;
    signal(SIGTERM, SIG_DFL); /* what is ignored is not pending either */
    int made = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
    if (made < 0) signal(SIGTERM, SIG_IGN);
    return made < 0 ? 0 : made;
}

static tr_status run_worker(const tr_launch *launch, const tr_registry *registry, tr_error *err)
{
    tr_activity_page *activity = NULL;
    tr_status status = tr_activity_page_open(&activity, TR_LAUNCH_FIRST_INHERITED, err);
    if (status != TR_OK) return status;
    tr_worker_options options = {.node = launch->node,
                                 .member = launch->member,
                                 .epoch = launch->epoch,
                                 .n_threads = launch->n_threads,
                                 .may_spin = launch->may_spin,
                                 .control_transport = launch->control_transport,
                                 .data_transport = launch->data_transport,
                                 .head_address = launch->head_address,
                                 .bind = launch->bind[0] ? launch->bind : NULL,
                                 .key = launch->has_key ? &launch->key : NULL,
                                 .registry = registry,
                                 .activity = activity,
                                 .first_state_descriptor = TR_LAUNCH_FIRST_INHERITED + 1,
                                 .n_states = launch->n_states,
                                 .layout = launch->layout,
                                 .lease_ms = launch->lease_ms,
                                 .lease_socket = tr_launch_word(launch),
                                 .chaos = launch->chaos};
    memcpy(options.job_key, launch->job_key, sizeof options.job_key);
    options.leave_descriptor = catch_leave();
    status = tr_worker_run(&options, err);
    if (options.leave_descriptor > 0) close(options.leave_descriptor);
    tr_activity_page_unmap(&activity);
    return status;
}

int tr_job_child_main(int argc, char **argv, const tr_registry *registry)
{
    (void)argc;
    tr_error err = {0};
    tr_launch launch;
    tr_log_set_role(argv[1] + strlen(TR_LAUNCH_ARGUMENT));
    tr_crash_report();
    tr_status status = tr_launch_receive(&launch, &err);
    if (status == TR_OK)
        status = launch.role == TR_LAUNCH_AGENT ? tr_agent_run(&launch, -1, NULL, &err)
                                                : run_worker(&launch, registry, &err);
    /* The head's death is no fault of this process, and it was told to end then. */
    if (status != TR_OK && status != TR_ECLOSED) tr_log(TR_LOG_ERROR, "%s", err.message);
    tr_launch_release(&launch);
    return status == TR_OK ? 0 : status == TR_EINVAL ? 2 : status == TR_EDEVICE ? TR_EXIT_DEVICE : 1;
}
