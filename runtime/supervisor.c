/* runtime/supervisor.c - see supervisor.h. OTP's supervisor waits for each child it ends or starts; this one may not block,
 * so its work is a list of marks on the children (to stop, to start) that `advance` takes one at a time, in order, as the
 * children answer. Ends that come meanwhile are marked as due and dealt with afterwards, as in OTP's mailbox.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/supervisor.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/pack.h"

#include <stdio.h>

enum { MAX_CHILDREN = 65536, MAX_INTENSITY = 65536 };

typedef struct child {
    tr_actor_id id;
    tr_restart restart;
    uint32_t incarnation; /* the newest heard of; 0: its first life, not heard of */
    tr_end end;           /* of its last life */
    char reason[200];
    uint64_t
        round;    /* of restarts, in which it began last: those of one round do not hear each other's past */
    uint64_t due; /* its end is to be dealt with, in this order; 0: it is not */
    bool running, to_stop, to_start, removed;
    bool asked;    /* to stop: its end is awaited */
    bool starting; /* its answer is awaited */
} child;

typedef struct supervisor {
    tr_actor *actor;
    tr_strategy strategy;
    uint32_t intensity;
    uint64_t period_ns;
    child *children;
    uint32_t n_children;
    uint64_t *restarts; /* when the last intensity + 1 were: a ring */
    uint64_t n_restarts;
    uint64_t n_due, n_rounds;
    tr_elder *elders;
    bool beginning; /* its children start for the first time in this life of it */
    bool ending, ended;
    tr_error why;
} supervisor;

static const char *name_of(const supervisor *self, const child *one)
{
    return tr_topology_actor(tr_actor_topology(self->actor), one->id)->name;
}

/* ---- decisions ---- */

static void remove_child(supervisor *self, child *one)
{
    one->removed = true;
    tr_child_forget(self->actor, one->id);
}

static void mark_for_new_life(supervisor *self, child *one, bool stop)
{
    if (one->removed) return;
    one->to_stop = stop;
    one->to_start = one->restart != TR_TEMPORARY;
    one->round = self->n_rounds;
    one->due = 0; /* an end that was not dealt with yet is part of this */
}

/* All children end, then the supervisor. */
static void give_up(supervisor *self, const tr_error *why)
{
    if (self->ending) return;
    self->ending = true;
    self->why = *why;
    for (uint32_t i = 0; i < self->n_children; i++) {
        child *one = &self->children[i];
        one->to_stop = true;
        one->to_start = false;
        one->due = 0;
    }
}

/* false: one too many. */
static bool count_restart(supervisor *self)
{
    uint64_t now_ns = tr_actor_now_ns(self->actor), places = (uint64_t)self->intensity + 1;
    self->restarts[self->n_restarts++ % places] = now_ns;
    if (self->n_restarts < places) return true;
    return now_ns - self->restarts[self->n_restarts % places] >
           self->period_ns; /* `intensity` restarts ago */
}

static void restart(supervisor *self, child *failed)
{
    if (!count_restart(self)) {
        tr_error why;
        tr_fail(&why, TR_EIO,
                "supervisor '%s' gives up: more than %u restarts within %llu ms; the last end: %s",
                tr_actor_name(self->actor), self->intensity, (unsigned long long)(self->period_ns / 1000000),
                failed->reason);
        give_up(self, &why);
        return;
    }
    tr_log(TR_LOG_INFO, "supervisor '%s' restarts '%s': %s", tr_actor_name(self->actor),
           name_of(self, failed), failed->reason);
    uint32_t at = (uint32_t)(failed - self->children);
    self->n_rounds++;
    for (uint32_t i = 0; i < self->n_children; i++)
        if (i == at)
            mark_for_new_life(self, failed, false);
        else if (self->strategy == TR_ONE_FOR_ALL || (self->strategy == TR_REST_FOR_ONE && i > at))
            mark_for_new_life(self, &self->children[i], true);
}

static void decide(supervisor *self, child *one)
{
    one->due = 0;
    if (one->restart == TR_PERMANENT || (one->restart == TR_TRANSIENT && one->end == TR_END_FAILED)) {
        restart(self, one);
    } else if (one->restart == TR_TEMPORARY) {
        remove_child(self, one);
    } else {
        tr_child_forget(self->actor, one->id); /* one_for_all or rest_for_one may start it again */
    }
}

/* ---- work, one child at a time ---- */

static child *last_to_stop(supervisor *self)
{
    for (uint32_t i = self->n_children; i-- > 0;)
        if (self->children[i].to_stop) return &self->children[i];
    return NULL;
}

static child *first_to_start(supervisor *self)
{
    for (uint32_t i = 0; i < self->n_children; i++)
        if (self->children[i].to_start) return &self->children[i];
    return NULL;
}

static child *first_due(supervisor *self)
{
    child *first = NULL;
    for (uint32_t i = 0; i < self->n_children; i++)
        if (self->children[i].due && (!first || self->children[i].due < first->due))
            first = &self->children[i];
    return first;
}

/* Who is about to start is one life on already: what its last one sent is not for its sibling. */
static void start_child(supervisor *self, child *one)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_children; i++) {
        const child *other = &self->children[i];
        if (other == one || other->round != one->round || !other->incarnation) continue;
        self->elders[n++] =
            (tr_elder){.id = other->id, .incarnation = other->incarnation + (other->to_start ? 1 : 0)};
    }
    one->starting = true;
    tr_child_start(self->actor, one->id, self->elders, n);
}

static void stop_child(supervisor *self, child *one)
{
    if (one->running && !one->asked) {
        one->asked = true;
        tr_child_terminate(self->actor, one->id);
    }
    if (one->running) return;
    one->to_stop = false;
    if (one->restart == TR_TEMPORARY && !one->removed) remove_child(self, one);
}

static void finish(supervisor *self)
{
    self->ended = true;
    for (uint32_t i = 0; i < self->n_children; i++) tr_child_forget(self->actor, self->children[i].id);
    tr_actor_shutdown(self->actor, &self->why);
}

static bool is_any_starting(const supervisor *self)
{
    for (uint32_t i = 0; i < self->n_children; i++)
        if (self->children[i].starting) return true;
    return false;
}

static void advance(supervisor *self)
{
    while (!self->ended && !is_any_starting(self)) {
        child *stop = last_to_stop(self), *start = first_to_start(self), *due = first_due(self);
        if (stop) {
            stop_child(self, stop);
            if (stop->to_stop) return;
        } else if (self->ending) {
            finish(self);
        } else if (start) {
            start_child(self, start);
        } else if (self->beginning) {
            self->beginning = false;
            tr_actor_started(self->actor);
        } else if (due) {
            decide(self, due);
        } else {
            return;
        }
    }
}

/* ---- what children tell ---- */

static void child_started(supervisor *self, child *one, const tr_frame *frame, bool running)
{
    one->asked = one->starting = one->to_start = false;
    one->incarnation = frame->incarnation;
    one->running = running;
    if (one->running || self->ending) return;
    if (self->beginning) {
        tr_error why;
        tr_fail(&why, TR_EIO, "supervisor '%s' cannot begin: %s", tr_actor_name(self->actor), one->reason);
        give_up(self, &why);
    } else {
        one->end = TR_END_FAILED;
        restart(self, one);
    }
}

static void child_ended(supervisor *self, child *one, const tr_frame *frame)
{
    if (one->starting && frame->incarnation > one->incarnation) {
        child_started(self, one, frame, false); /* a supervisor whose children could not all begin */
        return;
    }
    if (!one->running || frame->incarnation < one->incarnation) return;
    one->incarnation = frame->incarnation;
    one->running = one->asked = false;
    one->end =
        frame->step == TR_END_NORMAL || frame->step == TR_END_SHUTDOWN ? (tr_end)frame->step : TR_END_FAILED;
    if (!one->to_stop) one->due = ++self->n_due;
}

static void child_lost(supervisor *self, child *one)
{
    tr_error why;
    one->running = one->asked = one->starting = one->to_start = false; /* its node will not answer */
    tr_fail(&why, TR_ECLOSED, "supervisor '%s' cannot restart '%s': %s", tr_actor_name(self->actor),
            name_of(self, one), one->reason);
    give_up(self, &why);
}

static void supervisor_receive(tr_actor *actor, void *state, tr_message **message)
{
    (void)actor;
    supervisor *self = state;
    const tr_frame *frame = &(*message)->frame;

    for (uint32_t i = 0; i < self->n_children; i++) {
        child *one = &self->children[i];
        if (one->id != frame->source) continue;
        snprintf(one->reason, sizeof one->reason, "%.*s", (int)frame->body_bytes,
                 frame->body_bytes ? (const char *)tr_message_bytes(*message) : "");
        if (frame->edge == TR_TOPIC_CHILD_STARTED)
            child_started(self, one, frame, frame->step == TR_OK);
        else if (frame->edge == TR_TOPIC_CHILD_ENDED)
            child_ended(self, one, frame);
        else if (frame->edge == TR_TOPIC_CHILD_LOST)
            child_lost(self, one);
    }
    advance(self);
}

static void supervisor_terminate(tr_actor *actor, void *state)
{
    (void)actor;
    supervisor *self = state;
    tr_error why;
    tr_fail(&why, TR_ESTOPPED, "shutdown");
    give_up(self, &why);
    advance(self);
}

/* ---- life ---- */

static void supervisor_stop(tr_actor *actor, void *state)
{
    (void)actor;
    supervisor *self = state;
    if (!self) return;
    tr_free(self->children);
    tr_free(self->restarts);
    tr_free(self->elders);
    tr_free(self);
}

static tr_status read_config(supervisor *self, const void *config, size_t config_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, config, config_bytes);
    if (tr_unpack_array(&unpacker, 4) != 4) unpacker.bad = true;
    self->strategy = (tr_strategy)tr_unpack_uint(&unpacker, TR_ONE_FOR_ALL);
    self->intensity = (uint32_t)tr_unpack_uint(&unpacker, MAX_INTENSITY);
    self->period_ns = tr_unpack_uint(&unpacker, UINT32_MAX) * 1000000;
    uint32_t n = tr_unpack_array(&unpacker, 2 * MAX_CHILDREN);
    self->n_children = unpacker.bad ? 0 : n / 2;
    self->children = tr_alloc_zero(self->n_children + 1, sizeof *self->children);
    self->elders = tr_alloc_zero(self->n_children + 1, sizeof *self->elders);
    self->restarts = tr_alloc_zero((size_t)self->intensity + 1, sizeof *self->restarts);
    if (!self->children || !self->elders || !self->restarts)
        return tr_fail(err, TR_ENOMEM, "no memory for a supervisor's %u children", self->n_children);
    for (uint32_t i = 0; i < self->n_children; i++) {
        self->children[i].id = tr_unpack_uint(&unpacker, UINT64_MAX);
        self->children[i].restart = (tr_restart)tr_unpack_uint(&unpacker, TR_TEMPORARY);
    }
    return tr_unpacker_done(&unpacker, "supervisor's configuration", err);
}

static tr_status supervisor_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                                 void **state, tr_error *err)
{
    (void)context;
    supervisor *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a supervisor");
    self->actor = actor;
    tr_status status = read_config(self, config, config_bytes, err);
    if (status != TR_OK) {
        supervisor_stop(actor, self);
        return status;
    }
    *state = self;
    return TR_OK;
}

/* In its first life the plan has started the children. */
static void supervisor_start(tr_actor *actor, void *state)
{
    supervisor *self = state;
    bool first_life = (tr_actor_incarnation(actor) & 0xffff) == 0;
    self->beginning = !first_life;
    if (!first_life) tr_actor_defer_start(actor);
    for (uint32_t i = 0; i < self->n_children; i++) {
        self->children[i].running = first_life;
        self->children[i].to_start = !first_life;
    }
    advance(self);
}

const tr_behavior tr_supervisor_behavior = {.name = "supervisor",
                                            .init = supervisor_init,
                                            .start = supervisor_start,
                                            .receive = supervisor_receive,
                                            .stop = supervisor_stop,
                                            .terminate = supervisor_terminate};

tr_status tr_topology_add_supervisor(tr_topology *self, const char *name, int32_t node,
                                     const tr_supervisor_spec *spec, tr_actor_id *id, tr_error *err)
{
    if (!spec->n_children || spec->n_children > MAX_CHILDREN || spec->intensity > MAX_INTENSITY ||
        !spec->period_ms)
        return tr_fail(
            err, TR_EINVAL,
            "supervisor '%s': %u children, %u restarts in %u ms; give 1 to %d, 0 to %d, at least 1", name,
            spec->n_children, spec->intensity, spec->period_ms, MAX_CHILDREN, MAX_INTENSITY);
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 4);
    tr_pack_uint(&packer, spec->strategy);
    tr_pack_uint(&packer, spec->intensity);
    tr_pack_uint(&packer, spec->period_ms);
    tr_pack_array(&packer, 2 * (size_t)spec->n_children);
    for (uint32_t i = 0; i < spec->n_children; i++) {
        tr_pack_uint(&packer, spec->children[i].id);
        tr_pack_uint(&packer, spec->children[i].restart);
    }
    void *config;
    size_t config_bytes;
    tr_actor_id own;
    tr_status status = tr_packer_take(&packer, &config, &config_bytes, err);
    if (status != TR_OK) return status;
    status = tr_topology_add_actor(self, name, TR_SUPERVISOR_NAME, node, config, config_bytes, 0, &own, err);
    tr_free(config);
    for (uint32_t i = 0; i < spec->n_children && status == TR_OK; i++)
        status = tr_topology_supervise(self, own, spec->children[i].id, err);
    if (status == TR_OK) *id = own;
    return status;
}
