/* runtime/head.c - see head.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/head.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/spin.h"
#include "runtime/activity.h"
#include "runtime/hosts.h"
#include "runtime/worker.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    AGENT_GRACE_MS = 800, /* and the agent itself after this much more */
    LEAVING_MS = 1500,    /* the same of agents on other hosts */
    FAREWELL_MS = 200,    /* how long an agent that ended may have had its last words under way */
    LINE_BYTES = TR_ERROR_SIZE + 256
};

void tr_head_tell(tr_head *self, tr_job_event_kind kind, int32_t node, int32_t pid, const char *text)
{
    bool recovered = kind == TR_JOB_RECOVERED || kind == TR_JOB_READOPTED || kind == TR_JOB_CHANGED;
    const tr_job_event event = {.kind = kind,
                                .monotonic_ns = tr_node_now_ns(self->node),
                                .node = node,
                                .pid = pid,
                                .epoch = self->epoch,
                                .text = text,
                                .places = self->places,
                                .generation = recovered ? self->generation : 0,
                                .n_readopted = recovered                       ? self->n_readopted
                                               : kind == TR_JOB_AGENT_REPLACED ? self->n_kept
                                                                               : 0,
                                .former_epoch = recovered ? self->former_epoch : 0,
                                .lost_ns = recovered ? self->lost_ns : 0,
                                .detected_ns = recovered ? self->detected_ns : 0,
                                .fenced_ns = recovered ? self->fenced_ns : 0};
    if (self->options->on_event) self->options->on_event(self->options->context, &event);
}

static void quit(tr_head *self)
{
    self->quit = true;
    tr_node_stop(self->node);
}

static void send_stop(tr_head *self, uint32_t grace_ms)
{
    tr_head_check_lead(self);
    const tr_control_note note = {.grace_ms = grace_ms, .status = self->gives_way ? TR_ECLOSED : TR_OK};
    for (int32_t i = 1; i < self->topology->n_nodes; i++)
        if (self->workers[i].greeted) tr_control_send_note(self->node, i, TR_CONTROL_STOP, &note);
    if (tr_crew_agent_pid(self->crew)) tr_control_send_note(self->node, self->agent, TR_CONTROL_STOP, &note);
    if (self->hosts) tr_hosts_stop(self->hosts, &note);
    uint64_t deadline_ns = tr_node_now_ns(self->node) + (uint64_t)(grace_ms + AGENT_GRACE_MS) * 1000000;
    if (self->deadline_ns == 0 || deadline_ns < self->deadline_ns) self->deadline_ns = deadline_ns;
}

void tr_head_end(tr_head *self, const tr_error *cause, uint32_t grace_ms)
{
    if (self->phase == TR_HEAD_ENDING) return;
    self->phase = TR_HEAD_ENDING;
    self->explained_until_ns =
        tr_node_now_ns(self->node) + (uint64_t)grace_ms * 1000000; /* from then on we kill */
    if (self->given_up.status != TR_OK) cause = &self->given_up;
    if (cause) self->cause = *cause;
    if (cause && self->cause.status == TR_OK) self->cause.status = TR_EINVAL;
    if (!self->crew) {
        quit(self);
        return;
    }
    send_stop(self, grace_ms);
    tr_head_on_crew(self);
}

void tr_head_end_because(tr_head *self, tr_status status, const char *text)
{
    tr_error cause;
    tr_fail(&cause, status, "%s", text);
    tr_head_end(self, &cause, TR_HEAD_GRACE_MS);
}

/* A failure for want of a peer may be heard of before the death that explains it, and then is none. */
static void hold(tr_head *self, tr_status status, const char *text)
{
    if (status != TR_ECLOSED || !tr_head_can_recover(self)) {
        tr_head_end_because(self, status, text);
        return;
    }
    if (self->held.status != TR_OK) return;
    tr_fail(&self->held, status, "%s", text);
    self->held_since_ns = tr_node_now_ns(self->node);
}

/* ---- the way up: greeting, loading, running ---- */

static bool all(const tr_head *self, size_t offset)
{
    for (int32_t i = 0; i < self->topology->n_nodes; i++)
        if (!*((const bool *)((const char *)&self->workers[i] + offset))) return false;
    return true;
}

static tr_status send_load(tr_head *self, tr_error *err)
{
    int32_t n_nodes = self->topology->n_nodes;
    tr_control_address *addresses = tr_alloc_zero((size_t)n_nodes, sizeof *addresses);
    if (!addresses) return tr_fail(err, TR_ENOMEM, "no memory for the addresses of %d nodes", n_nodes);
    addresses[0] =
        (tr_control_address){tr_node_control_address(self->node), tr_node_data_address(self->node)};
    for (int32_t i = 1; i < n_nodes; i++)
        addresses[i] =
            (tr_control_address){self->workers[i].hello.control_address, self->workers[i].hello.data_address};
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status =
        tr_control_encode_load(self->topology, addresses, self->generation, &bytes, &size_bytes, err);
    for (int32_t i = 1; i < n_nodes && status == TR_OK; i++)
        tr_node_send_system(self->node, i, TR_CONTROL_LOAD, bytes, (uint32_t)size_bytes);
    tr_free(bytes);
    tr_free(addresses);
    return status;
}

static void start(tr_head *self)
{
    self->phase = TR_HEAD_RUNNING;
    for (int32_t i = 1; i < self->topology->n_nodes; i++)
        tr_node_send_system(self->node, i, TR_CONTROL_START, NULL, 0);
    if (self->n_readopted) {
        tr_head_tell_readopted(self);
    } else if (self->changed_ns) {
        char text[128];
        snprintf(text, sizeof text, "epoch %u goes on from generation %llu, %.0f ms after it began",
                 self->epoch, (unsigned long long)self->generation,
                 (double)(tr_node_now_ns(self->node) - self->changed_ns) * 1e-6);
        tr_head_tell(self, self->changing ? TR_JOB_CHANGED : TR_JOB_RECOVERED, -1, 0, text);
    } else {
        tr_head_tell(self, TR_JOB_RUNNING, -1, 0, "every node is ready");
    }
    self->lost_ns = self->detected_ns = 0;
    self->n_readopted = 0;
    self->changing = false;
    tr_node_start_actors(self->node);
    if (self->hosts) tr_hosts_started(self->hosts);
    if (self->signals > 0 &&
        self->options->stop_actor) /* what was asked before counts for its next life too */
        tr_node_post(self->node, self->options->stop_actor, TR_TOPIC_STOP_REQUESTED, NULL, 0);
}

static void node_ready(tr_head *self, int32_t node)
{
    self->workers[node].ready = true;
    if (self->phase != TR_HEAD_LOADING || !all(self, offsetof(tr_head_worker, ready))) return;
    start(self);
}

static tr_status connect_workers(tr_head *self, tr_error *err)
{
    for (int32_t i = 1; i < self->topology->n_nodes; i++) {
        const char *data = self->workers[i].hello.data_address;
        tr_status status = data[0] ? tr_node_connect(self->node, i, NULL, data, err) : TR_OK;
        if (status != TR_OK) return status;
    }
    return TR_OK;
}

static void load(tr_head *self)
{
    tr_error err = {0};
    self->phase = TR_HEAD_LOADING;
    self->fenced_ns = tr_node_now_ns(self->node);
    bool goes_on = self->changed_ns || self->options->hosts.former.wanted;
    if (goes_on && tr_head_begin_again(self, &err) != TR_OK) {
        tr_head_end(self, &err, TR_HEAD_GRACE_MS);
        return;
    }
    tr_node_set_epoch(self->node, self->epoch, self->generation);
    tr_state_region **states = tr_alloc_zero(self->topology->n_actors, sizeof *states);
    tr_status status =
        states ? TR_OK : tr_fail(&err, TR_ENOMEM, "no memory for %zu actors", self->topology->n_actors);
    if (status == TR_OK) status = send_load(self, &err);
    tr_status connected = status == TR_OK ? connect_workers(self, &err) : TR_OK;
    if (status == TR_OK && connected == TR_OK)
        status = tr_node_load(self->node, self->topology, states, &err);
    tr_free(states);
    if (connected != TR_OK) /* it may have died since it greeted */
        hold(self, connected == TR_EIO ? TR_ECLOSED : connected, err.message);
    else if (status == TR_OK)
        node_ready(self, TR_NODE_HEAD);
    else
        tr_head_end(self, &err, TR_HEAD_GRACE_MS);
}

static void tell_rotten(tr_head *self, int32_t node)
{
    char text[128];
    snprintf(text, sizeof text,
             "%u state slots of worker %d no longer hold what was written; they are not used",
             self->workers[node].hello.n_rotten, node);
    tr_head_tell(self, TR_JOB_STATE_ROTTEN, node, self->workers[node].pid, text);
}

/* What is said to an agent that is not here is lost. */
static void load_when_all_are_here(tr_head *self)
{
    if (self->phase != TR_HEAD_GREETING || self->agent_awaited) return;
    if (all(self, offsetof(tr_head_worker, greeted))) load(self);
}

static void greeted(tr_head *self, int32_t node, const tr_message *message)
{
    tr_error err = {0};
    tr_control_hello hello;
    tr_head_worker *worker = &self->workers[node];
    if (self->phase == TR_HEAD_ENDING) { /* came too late to hear it with the others */
        const tr_control_note stop = {0};
        tr_control_send_note(self->node, node, TR_CONTROL_STOP, &stop);
        worker->greeted = true;
        return;
    }
    if (worker->greeted) return;
    bool readable = tr_control_read_hello(message, &hello, &err) == TR_OK;
    if (self->hosts && readable && !tr_hosts_is_home(self->hosts, node, hello.member)) {
        tr_node_disconnect(self->node, node); /* of a host that is lost: it ends when it hears that */
        return;
    }
    if (message->frame.epoch != self->epoch) { /* it began before the last change, and has to hear of that */
        const tr_control_note note = {.epoch = self->epoch, .layout = self->layout};
        tr_node_found(self->node, node);
        tr_control_send_note(self->node, node, TR_CONTROL_EPOCH, &note);
        return;
    }
    if (!readable) {
        tr_head_end(self, &err, TR_HEAD_GRACE_MS);
        return;
    }
    worker->hello = hello;
    worker->greeted = true;
    tr_node_found(self->node, node);
    if (worker->hello.n_rotten) tell_rotten(self, node);
    load_when_all_are_here(self);
}

static void agent_greeted(tr_head *self, int32_t node, const tr_message *message)
{
    tr_control_hello hello;
    bool is_own = node == self->agent;
    if (tr_control_read_hello(message, &hello, NULL) != TR_OK) return;
    if (is_own && hello.epoch < self->agent_epoch) return;
    tr_node_found(self->node, node);
    if (is_own) tr_head_agent_is_here(self);
    if (self->hosts) tr_hosts_greeted(self->hosts, node, &hello, message->frame.incarnation);
    load_when_all_are_here(self);
}

void tr_head_begin(tr_head *self)
{
    self->workers[TR_NODE_HEAD].greeted = true;
    if (!self->crew && self->phase == TR_HEAD_GREETING) load(self);
    self->greeted_from_ns = tr_node_now_ns(self->node);
    self->greeting_until_ns = self->greeted_from_ns + (uint64_t)TR_HEAD_GREETING_MS * 1000000;
}

void tr_head_run(tr_head *self)
{
    tr_head_begin(self);
    if (!self->quit) tr_node_run(self->node, TR_HEAD_TICK_MS, tr_head_on_tick);
    tr_error failure;
    if (tr_node_failure(self->node, &failure) != TR_OK && self->cause.status == TR_OK) self->cause = failure;
}

/* ---- the way down: deaths, failures, signals ---- */

/* The first cause is what is told, but an actor that ended because its peer is gone may be heard of before
 * the process whose death explains it. */
static bool explains(const tr_head *self, const tr_control_note *note)
{
    if (self->phase != TR_HEAD_ENDING) return true;
    bool by_itself =
        (note->signal || note->exit_code) && tr_node_now_ns(self->node) < self->explained_until_ns;
    return by_itself && self->cause.status == TR_ECLOSED && !self->death_told;
}

/* Of several deaths on the way the first is what the job recovers from. */
void tr_head_note_death(tr_head *self, uint64_t silent_ns)
{
    if (self->detected_ns && !self->changing) return;
    self->detected_ns = tr_node_now_ns(self->node);
    self->lost_ns = silent_ns < self->detected_ns ? self->detected_ns - silent_ns : 0;
}

static void worker_ended(tr_head *self, const tr_control_note *note)
{
    char text[LINE_BYTES], how[128];
    tr_process_end end, known = {.exit_code = note->exit_code, .signal = note->signal};
    bool is_here = !self->hosts || tr_hosts_is_home(self->hosts, note->node, 0);
    if (is_here && tr_crew_remove_worker(self->crew, note->node, note->pid, &end)) known = end;
    /* Where the layout shrank and has grown again, the last process in this place may end as late as that. */
    bool is_former = note->node >= self->topology->n_nodes || note->pid != self->workers[note->node].pid;
    bool left = is_former || self->workers[note->node].leaving;
    if (!is_former) self->workers[note->node].leaving = false;
    if (left || !explains(self, note)) return;
    self->death_told = true;
    tr_head_note_death(self, note->silent_ns);
    tr_head_describe_end(how, sizeof how, &known);
    snprintf(text, sizeof text, "worker %d (pid %d) %s%s%s", note->node, note->pid, how,
             note->text[0] ? " while " : "", note->text);
    tr_head_tell(self, TR_JOB_WORKER_DIED, note->node, note->pid, text);
    if (self->phase == TR_HEAD_ENDING)
        tr_fail(&self->cause, TR_ECLOSED, "%s", text);
    else if (known.exit_code != TR_EXIT_DEVICE || known.signal ||
             !tr_head_gives_up_device(self, note->node, text))
        tr_head_recover(self, text);
}

/* Everybody else hears of an actor's end, for monitors and links; an abnormal one ends the job. */
static void actor_ended(tr_head *self, int32_t origin, const tr_control_note *note)
{
    tr_control_note relayed = *note;
    if (note->status == TR_OK) snprintf(relayed.text, sizeof relayed.text, "ended normally");
    for (int32_t i = 1; i < self->topology->n_nodes; i++)
        if (i != origin && self->phase == TR_HEAD_RUNNING)
            tr_control_send_note(self->node, i, TR_CONTROL_ACTOR_ENDED, &relayed);
    if (origin != TR_NODE_HEAD && self->phase == TR_HEAD_RUNNING)
        tr_node_actor_ended(self->node, note->actor, relayed.text);
    if (note->status == TR_OK || self->phase == TR_HEAD_ENDING) return;
    tr_head_tell(self, TR_JOB_ACTOR_FAILED, origin, note->pid, note->text);
    hold(self, note->status, note->text);
}

static void suspect(tr_head *self, int32_t node, const char *reason)
{
    /* The agent's comes before any worker's: it is who would have to be asked to end that one. */
    bool is_agent = node == self->agent;
    if (self->phase == TR_HEAD_ENDING || (self->suspect && (!is_agent || self->suspect == node))) return;
    tr_log(TR_LOG_INFO, "the link to node %d broke: %s", node, reason);
    self->suspect = node;
    snprintf(self->suspect_reason, sizeof self->suspect_reason, "%s", reason);
    self->suspect_since_ns = tr_node_now_ns(self->node);
}

static void worker_ready(tr_head *self, int32_t node, const tr_control_note *note)
{
    char text[LINE_BYTES];
    if (note->status == TR_OK) {
        node_ready(self, node);
        return;
    }
    snprintf(text, sizeof text, "worker %d: %s", node, note->text);
    if (note->status == TR_EDEVICE && self->changed_ns && tr_head_can_recover(self))
        return; /* it worked before: that it ends is counted. At the beginning somebody is there to see it */
    hold(self, note->status == TR_EIO ? TR_ECLOSED : note->status, text);
}

static void job_ended(tr_head *self, const tr_control_note *note)
{
    if (note->status == TR_OK)
        tr_head_end(self, NULL, TR_HEAD_GRACE_MS);
    else
        hold(self, note->status, note->text);
}

void tr_head_worker_started(tr_head *self, const tr_control_note *note)
{
    char text[64];
    bool is_here = !self->hosts || tr_hosts_is_home(self->hosts, note->node, 0);
    self->workers[note->node].pid = note->pid;
    self->places[note->node] = self->hosts ? tr_hosts_place(self->hosts, note->node, note->pid)
                                           : tr_place_of(note->pid, TR_LAUNCH_FIRST_INHERITED);
    self->workers[note->node].fenced = false;
    self->workers[note->node].struck_ns = 0;
    if (is_here) tr_crew_add_worker(self->crew, note->node, note->pid);
    snprintf(text, sizeof text, "worker %d (pid %d) started%s", note->node, note->pid,
             is_here ? "" : " on another host");
    tr_head_tell(self, TR_JOB_WORKER_STARTED, note->node, note->pid, text);
}

static bool have_all_left(const tr_head *self)
{
    return self->farewell_heard && (!self->hosts || tr_hosts_have_left(self->hosts));
}

static void note_from_agent(tr_head *self, int32_t peer, uint32_t topic, const tr_control_note *note)
{
    int32_t member = peer - self->agent;
    bool a_worker = note->node >= 1 && note->node < self->topology->n_nodes &&
                    (!self->hosts || tr_hosts_is_home(self->hosts, note->node, member));
    bool was_one = self->hosts ? a_worker : note->node >= 1 && note->node < self->agent;
    bool moved = self->hosts && !a_worker && member == 0 && note->node >= 1 && note->node < self->agent;
    if (topic == TR_CONTROL_WORKER_STARTED && a_worker)
        tr_head_worker_started(self, note);
    else if (topic == TR_CONTROL_WORKER_ENDED && was_one)
        worker_ended(self, note);
    else if (topic == TR_CONTROL_WORKER_ENDED && moved) /* its successor is on another host */
        (void)tr_crew_remove_worker(self->crew, note->node, note->pid, &(tr_process_end){0});
    else if (topic == TR_CONTROL_HUNG && a_worker)
        tr_head_fence(self, note->node, note->text);
    else if (topic == TR_CONTROL_JOB_ENDED)
        job_ended(self, note);
    else if (topic == TR_CONTROL_PREPARED)
        tr_head_prepared(self, peer, note);
    else if (topic == TR_CONTROL_DAMAGED)
        tr_head_damaged(self, note->node, peer, note->text);
    else if (topic == TR_CONTROL_FAREWELL && member == 0)
        self->farewell_heard = true;
    if (have_all_left(self) && self->crew_ended_ns) quit(self);
}

static void note_from_worker(tr_head *self, int32_t peer, uint32_t topic, const tr_control_note *note)
{
    switch (topic) {
    case TR_CONTROL_READY: worker_ready(self, peer, note); break;
    case TR_CONTROL_ACTOR_ENDED: actor_ended(self, peer, note); break;
    case TR_CONTROL_JOB_ENDED: job_ended(self, note); break;
    case TR_CONTROL_LEAVING: tr_head_leaving(self, peer); break;
    case TR_CONTROL_DAMAGED: tr_head_damaged(self, note->node, peer, note->text); break;
    case TR_CONTROL_PEER_LOST:
        if (note->node == TR_NODE_HEAD) suspect(self, peer, note->text); /* our link to it, which it lost */
        if (note->node >= 1 && note->node < self->topology->n_nodes) suspect(self, note->node, note->text);
        break;
    default: tr_log(TR_LOG_WARNING, "node %d sent topic %u, which the head does not know", peer, topic);
    }
}

void tr_head_on_system(void *context, int32_t peer, const tr_message *message)
{
    tr_head *self = context;
    tr_control_note note;
    tr_error err = {0};
    bool from_own = peer == self->agent, from_agent = peer >= self->agent;
    bool greets = message->frame.edge == TR_CONTROL_HELLO;
    if (peer < 1 || (peer >= self->topology->n_nodes && !from_agent)) return;
    if (from_agent && !from_own && !self->hosts) return;
    if (from_agent && !greets && self->hosts && !tr_hosts_is_agent(self->hosts, peer))
        return; /* it is lost */
    if (from_own && message->frame.epoch < self->agent_epoch)
        return; /* last words of one that was replaced */
    if (from_agent && !greets && self->hosts && tr_hosts_hear(self->hosts, peer, message)) return;
    if (message->frame.edge == TR_CONTROL_HELLO) {
        if (from_agent)
            agent_greeted(self, peer, message);
        else
            greeted(self, peer, message);
    } else if (tr_control_read_note(message, &note, &err) != TR_OK) {
        tr_log(TR_LOG_WARNING, "from node %d: %s", peer, err.message);
    } else if (from_agent) {
        note_from_agent(self, peer, message->frame.edge, &note);
    } else if (message->frame.epoch == self->epoch) {
        note_from_worker(self, peer, message->frame.edge, &note);
    }
}

void tr_head_on_peer_lost(void *context, int32_t peer, bool control, const char *reason)
{
    (void)control;
    tr_head *self = context;
    if (self->hosts && peer > self->agent) {
        tr_hosts_lost_link(self->hosts, peer, reason);
        return;
    }
    bool a_worker = peer >= 1 && peer < self->topology->n_nodes;
    if (!a_worker && peer != self->agent) return; /* it left */
    /* Before it greets, it is the last word of its life in an epoch before; in the first epoch there was none. */
    bool here = a_worker ? self->workers[peer].greeted || !self->changed_ns : self->agent_is_here;
    if (!here) return;
    suspect(self, peer, reason);
}

/* While it greets the head has no actors: what is still told is of those of the epoch before. Its failures are gone with it;
 * that it had finished the job is true. */
void tr_head_on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    tr_head *self = context;
    if (self->phase == TR_HEAD_GREETING) return;
    tr_control_note note = {.pid = getpid(), .actor = who};
    if (error) {
        note.status = error->status == TR_OK ? TR_EINVAL : error->status;
        tr_worker_describe_failure(note.text, sizeof note.text, self->activity, who, error);
    }
    actor_ended(self, TR_NODE_HEAD, &note);
}

void tr_head_on_job_end(void *context, const tr_error *error)
{
    tr_head *self = context;
    if (error && self->phase == TR_HEAD_GREETING) return;
    tr_head_end(self, error, TR_HEAD_GRACE_MS);
}

void tr_head_listen(tr_head *self, tr_node_options *options)
{
    options->context = self;
    options->on_system = tr_head_on_system;
    options->on_peer_lost = tr_head_on_peer_lost;
    options->on_actor_end = tr_head_on_actor_end;
    options->on_job_end = tr_head_on_job_end;
    options->on_run_again = tr_head_on_run_again;
    options->on_damaged = tr_head_on_damaged;
    options->on_accused = tr_head_on_accused;
}

void tr_head_on_crew(void *context)
{
    tr_head *self = context;
    tr_process_end end;
    tr_error failure;
    if (!self->crew) return;
    if (tr_crew_failed(self->crew, &failure) && self->phase != TR_HEAD_ENDING)
        tr_head_end_because(self, failure.status, failure.message);
    if (!tr_crew_ended(self->crew, &end)) return;
    tr_head_unwatch_crew(self);
    bool farewell_comes = tr_crew_agent_pid(self->crew) && !end.signal && !self->farewell_heard;
    if (self->phase != TR_HEAD_ENDING) tr_head_on_early_end(self, &end);
    if (self->phase != TR_HEAD_ENDING) return; /* there is another one */
    self->crew_ended_ns = tr_node_now_ns(self->node);
    if (!farewell_comes && (!self->hosts || tr_hosts_have_left(self->hosts))) quit(self);
}

void tr_head_lost_host(tr_head *self, uint64_t heard_ns, const char *text)
{
    uint64_t now_ns = tr_node_now_ns(self->node);
    tr_head_note_death(self, now_ns > heard_ns ? now_ns - heard_ns : 0);
    tr_head_recover(self, text);
}

void tr_head_on_tick(void *context, uint64_t now_ns)
{
    tr_head *self = context;
    tr_spin_sample();
    if (self->activity) tr_activity_beat(self->activity);
    tr_head_check_lead(self);
    if (self->phase == TR_HEAD_ENDING) {
        uint64_t farewell_ms = self->hosts && !tr_hosts_have_left(self->hosts) ? LEAVING_MS : FAREWELL_MS;
        if (self->hosts) tr_hosts_on_tick(self->hosts, now_ns);
        if (self->crew_ended_ns && now_ns > self->crew_ended_ns + farewell_ms * 1000000)
            quit(self);
        else if (!self->crew_ended_ns && self->crew && now_ns > self->deadline_ns)
            tr_crew_kill_agent(self->crew);
        return;
    }
    if (self->hosts) tr_hosts_on_tick(self->hosts, now_ns); /* a host explains what broke with it */
    if (self->phase == TR_HEAD_ENDING) return;
    tr_head_check_greeting(self, now_ns);
    tr_head_check_rejoin(self, now_ns);
    tr_head_check_suspect(self, now_ns); /* before what is held: it fences, and that is waited for */
    tr_head_check_held(self, now_ns);
    tr_head_strike(self, now_ns);
}

void tr_head_ask_to_stop(tr_head *self, const char *why)
{
    if (self->signals++ > 0) return;
    tr_head_tell(self, TR_JOB_STOPPING, -1, 0, why);
    if (self->options->stop_actor && self->phase == TR_HEAD_RUNNING)
        tr_node_post(self->node, self->options->stop_actor, TR_TOPIC_STOP_REQUESTED, NULL, 0);
    else if (!self->options->stop_actor ||
             !self->changed_ns) /* otherwise it is told when it is there again */
        tr_head_end_because(self, TR_ESTOPPED, why);
}

void tr_head_on_signal(tr_head *self, int signal)
{
    char text[128];
    snprintf(text, sizeof text, "stopped by signal %d (%s)", signal, strsignal(signal));
    if (self->signals == 0) {
        tr_head_ask_to_stop(self, text);
        return;
    }
    self->signals++;
    if (self->phase == TR_HEAD_ENDING) {
        if (self->crew) send_stop(self, 0);
    } else {
        tr_error cause;
        tr_fail(&cause, TR_ESTOPPED, "%s", text);
        tr_head_end(self, &cause, 0);
    }
}
