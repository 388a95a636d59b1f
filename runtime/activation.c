/* runtime/activation.c - one activation of an actor: control, then data, then one unit of idle work; links
 * and monitors; the end. An actor's bonds are its own: monitor, link and down are messages in its control
 * lane, so none of this needs a lock, and an actor that has ended still answers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/node_internal.h"

#include "base/memory.h"

#include <stdio.h>

enum { MESSAGES_AT_ONCE = 256 }; /* then other actors have their turn */

void tr__bond_add(tr_node *node, tr__bonds *self, tr_actor_id other, bool linked)
{
    if (tr_array_reserve((void **)&self->items, &self->capacity, self->count + 1, sizeof *self->items, NULL))
        tr__out_of_memory(node, "a link or monitor"); /* one that is forgotten: an end that is never told */
    else
        self->items[self->count++] = (tr__bond){other, linked};
}

static void watch_me(tr_actor *self, const tr_frame *frame)
{
    if (self->ended) {
        tr__down_send(self, frame->source);
        return;
    }
    tr__bond_add(self->node, &self->watchers, frame->source, false);
    if (frame->edge == TR__TOPIC_LINK) tr__bond_add(self->node, &self->watching, frame->source, true);
}

/* Forgets all bonds to `who`; false when there was none. */
static bool unbind(tr_actor *self, tr_actor_id who, bool *linked)
{
    size_t kept = 0;
    *linked = false;
    for (size_t i = 0; i < self->watching.count; i++) {
        tr__bond bond = self->watching.items[i];
        if (bond.other == who)
            *linked = *linked || bond.linked;
        else
            self->watching.items[kept++] = bond;
    }
    bool found = kept < self->watching.count;
    self->watching.count = kept;
    return found;
}

/* Every end is told once, however often it is heard of: by the ended, by its node, by the head. */
static void other_ended(tr_actor *self, tr_actor_id who, bool abnormal, const char *reason)
{
    bool linked;
    if (self->ended || tr__is_ending(self) || !unbind(self, who, &linked)) return;
    if (self->behavior->down) {
        self->now_ns = 0;
        self->behavior->down(self, self->state, who, reason);
    } else if (linked && abnormal) {
        const tr_actor_spec *other = tr_topology_actor(self->world->topology, who);
        tr_error error;
        tr_fail(&error, TR_ECLOSED, "linked actor '%s' ended: %s", other ? other->name : "unknown", reason);
        tr_actor_fail(self, &error);
    }
}

static void node_lost(tr_actor *self, int32_t node, const char *reason)
{
    char text[256];
    snprintf(text, sizeof text, "node %d was lost: %s", node, reason);
    tr__children_lost(self, node, text);
    for (size_t i = 0; i < self->watching.count;) { /* down may add and take away bonds */
        const tr_actor_spec *other = tr_topology_actor(self->world->topology, self->watching.items[i].other);
        if (other && other->node == node) {
            size_t before = self->watching.count;
            other_ended(self, other->id, true, text);
            if (self->watching.count >= before) return; /* it is ending */
            i = 0;
        } else {
            i++;
        }
    }
}

/* The text of a notice, which came from a wire. */
static const char *text_of(tr_message *message)
{
    uint32_t size = message->frame.body_bytes;
    if (size == 0) return "";
    ((char *)message->body->data)[size - 1] = '\0';
    return tr_message_bytes(message);
}

/* true: it was the system's and is dealt with. */
static bool handle_system(tr_actor *self, tr_message *message)
{
    const tr_frame *frame = &message->frame;
    switch (frame->edge) {
    case TR__TOPIC_MONITOR:
    case TR__TOPIC_LINK: watch_me(self, frame); return true;
    case TR__TOPIC_DOWN: other_ended(self, frame->source, frame->step != 0, text_of(message)); return true;
    case TR__TOPIC_NODE_LOST: node_lost(self, (int32_t)frame->source, text_of(message)); return true;
    case TR__TOPIC_START: tr__actor_begin(self, message); return true;
    case TR__TOPIC_TERMINATE:
        if (frame->source == self->spec->supervisor) tr__actor_terminate(self);
        return true;
    case TR__TOPIC_FORGET: self->forgotten = self->ended; return true;
    case TR_TOPIC_TIMER: return frame->incarnation != self->incarnation; /* of an earlier life */
    default: return false;
    }
}

static void give_back(tr_actor *self, tr_message **message)
{
    if (!*message) return;
    if ((*message)->frame.kind == TR_FRAME_DATA)
        tr_edge_release(self, message);
    else
        tr__message_recycle(self->node, self->worker, message);
}

static void handle(tr_actor *self, tr_message *message)
{
    const tr_frame *frame = &message->frame;
    const tr_node_options *options = &self->node->options;
    bool data = frame->kind == TR_FRAME_DATA, system = !data && frame->edge >= TR__TOPIC_FIRST;
    if (data) tr_receiver_end_hand_over(self->world->ins[frame->edge], frame->slot);
    if (options->observe) options->observe(options->observer, self->spec->id, message);
    if (self->n_elders && tr__is_of_earlier_life(self, frame)) {
        __atomic_fetch_add(&self->node->counters.n_dropped_stale, 1, __ATOMIC_RELAXED);
    } else if (!(system && handle_system(self, message)) && !self->ended && self->behavior->receive) {
        self->now_ns = 0;
        self->behavior->receive(self, self->state, &message);
    }
    give_back(self, &message);
}

void tr__credits_send(tr_actor *self, tr_receiver_end *in)
{
    if (!in->remote) {
        in->n_unsaid = 0;
        tr_scheduler_notify(self->node->scheduler, &self->world->actors[in->spec->source - 1]->task);
        return;
    }
    tr_message *message = NULL;
    if (in->n_pending == 1) {
        message = tr__message_new(self->node, self->worker);
        if (!message) return;
        tr_receiver_end_credit_fill(in, message);
    } else if (tr_receiver_end_credit_frame(in, &message, NULL) != TR_OK) {
        tr__out_of_memory(self->node, "a message of credits");
        return;
    }
    message->frame.incarnation = self->node->options.incarnation;
    const tr_actor_spec *source = tr_topology_actor(self->world->topology, in->spec->source);
    tr__link_send(&self->node->data, source->node, &message); /* a lost peer needs no credits */
}

/* Of slots that were given back by now their senders hear, on other nodes by a frame an edge. */
static void send_credits(tr_actor *self)
{
    for (tr_receiver_end *in; (in = self->owing);) {
        self->owing = in->next_owing;
        in->is_owing = false;
        if (in->n_pending || in->n_unsaid) tr__credits_send(self, in);
    }
}

void tr__end_job_if_asked(tr_actor *self)
{
    if (self->job_end == TR__JOB_GOES_ON) return;
    tr__report(self, self->job_end == TR__JOB_AGAIN ? TR__TOPIC_RUN_AGAIN : TR__TOPIC_JOB_END,
               self->job_end == TR__JOB_FINISHED ? NULL : &self->job_error);
    self->job_end = TR__JOB_GOES_ON;
}

static void check_quota(tr_actor *self)
{
    if (!__atomic_load_n(&self->overflowed, __ATOMIC_RELAXED)) return;
    __atomic_store_n(&self->overflowed, false, __ATOMIC_RELAXED);
    if (self->ended || tr__is_ending(self)) return;
    tr_error error;
    tr_fail(&error, TR_ENOMEM,
            "its control lane is full: '%u' messages wait; it is sent more than it handles",
            self->mailbox.control.capacity);
    tr_actor_fail(self, &error);
}

/* Handles what is there; true: all of it. */
static bool handle_messages(tr_actor *self)
{
    for (int n = 0; n < MESSAGES_AT_ONCE; n++) {
        if (!self->ended && tr__is_ending(self)) return true;
        tr_message *message =
            tr_mailbox_has_control(&self->mailbox) ? tr_mailbox_pop_control(&self->mailbox) : NULL;
        if (!message && !tr__awaits_restart(self)) message = tr_mailbox_pop(&self->mailbox);
        if (!message) return true;
        self->n_handled++;
        handle(self, message);
        if (self->job_end) tr__end_job_if_asked(self);
    }
    return false;
}

static void write_running(tr_actor *self, bool running)
{
    __atomic_store_n(&self->record->running, (uint32_t)running, __ATOMIC_RELAXED);
}

static void write_record(tr_actor *self)
{
    tr_activity_record *record = self->record;
    tr_mailbox_show(&self->mailbox);
    __atomic_store_n(&record->incarnation, self->incarnation, __ATOMIC_RELAXED);
    __atomic_store_n(&record->handled, self->n_handled, __ATOMIC_RELAXED);
}

/* At the end of an activation after which nothing is left to do. */
static void write_waits(tr_actor *self)
{
    tr_wait waits[TR_ACTIVITY_WAITS];
    uint32_t n = 0;
    if (!self->ended && self->behavior->waits)
        n = self->behavior->waits(self, self->state, waits, TR_ACTIVITY_WAITS);
    if (n || __atomic_load_n(&self->record->waits[0], __ATOMIC_RELAXED)) /* ours alone to write */
        tr_activity_wait(self->record, waits, n);
}

static void work(tr_actor *self, bool its_turn, bool *again)
{
    const tr_behavior *behavior = self->behavior;
    bool done = true;
    if (its_turn || !behavior->urgency) {
        if (self->owing) send_credits(self);
        write_record(self);
        tr_scheduler_share(self->node->scheduler);
        self->now_ns = 0;
        done = behavior->idle(self, self->state);
        tr__end_job_if_asked(self);
    }
    if (!behavior->urgency)
        *again = done;
    else if (done && !tr__is_ending(self)) /* what could not be done waits for news, whatever it says */
        self->task.urgency = behavior->urgency(self, self->state);
}

static bool activate(tr_actor *self, int worker, bool its_turn)
{
    bool again = false;
    self->worker = worker;
    write_running(self, true);
    if (!self->started) {
        self->started = true;
        self->now_ns = 0;
        if (self->behavior->start) self->behavior->start(self, self->state);
        tr__end_job_if_asked(self);
    }
    check_quota(self);
    if (!handle_messages(self))
        again = true;
    else if (!self->ended && !tr__is_ending(self) && self->behavior->idle)
        work(self, its_turn, &again);
    if (!self->ended && tr__is_ending(self)) {
        tr__actor_end(self);
        again = true; /* what is in the mailbox goes back, or its notices are to be read */
    }
    if (self->owing) send_credits(self);
    if (!again && (!self->behavior->urgency || self->task.urgency == TR_NO_WORK)) write_waits(self);
    write_record(self);
    write_running(self, false);
    self->worker = -1;
    return again;
}

bool tr__actor_run(tr_task *task, int worker)
{
    return activate((tr_actor *)task, worker, false);
}

bool tr__actor_turn(tr_task *task, int worker)
{
    return activate((tr_actor *)task, worker, true);
}
