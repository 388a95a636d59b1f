/* transport/inproc.c - links between nodes of one process: a message is a pointer pushed onto the receiver's
 * inbox. An inbox is a stack of which the receiver always takes everything at once and turns it round, so
 * pushing is one compare-and-exchange, there is no ABA, and the order of each sender is kept. The head of the
 * stack is the inbox's whole state (empty, asleep, closed, or messages): whoever pushes onto "asleep" is the
 * one who wakes, so no wake-up is lost and no system call is made while the receiver is awake. Lifetime: an
 * inbox is counted. Its owner holds a reference and so does every link to it; a HELLO carries one.
 * Threads: push from any; the rest is the owner's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/kind.h"

#include "base/memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct inbox {
    _Alignas(
        TR_CACHE_LINE) _Atomic(tr_message *) head; /* newest first; NULL, or one of the two marks below */
    _Alignas(TR_CACHE_LINE) _Atomic uint32_t references;
    int event;          /* an eventfd, written by the one who found the receiver asleep */
    struct inbox *next; /* in the registry, under its lock */
    char address[64];
} inbox;

typedef struct inproc {
    tr_transport base;
    inbox *inbox;
    tr_message *taken; /* oldest first: what was taken from the inbox and not yet handled */
    bool is_armed;     /* the head may be the mark `asleep` */
    bool is_signalled; /* somebody has written, or is about to write, the event */
} inproc;

typedef struct inproc_link {
    tr_link base;
    inbox *inbox; /* the peer's; also its name: link_ of its messages */
} inproc_link;

/* Never looked into; their addresses are values of `head`. */
static tr_message mark_asleep, mark_closed;

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static inbox *registry;      /* of inboxes that can be connected to */
static uint64_t n_addresses; /* ever given out, under the lock */

static inbox *retain(inbox *self)
{
    /* Relaxed: whoever takes a reference has one already, or the registry's lock. */
    atomic_fetch_add_explicit(&self->references, 1, memory_order_relaxed);
    return self;
}

static void release(inbox *self)
{
    /* Release: our use of the inbox is over. Acquire, for the last: all others' use is. */
    if (!self || atomic_fetch_sub_explicit(&self->references, 1, memory_order_acq_rel) != 1) return;
    close(self->event);
    tr_free(self);
}

/* False when the inbox is closed; the message is still the caller's then. */
static bool push(inbox *self, tr_message *message)
{
    /* Relaxed: the value is only compared and linked to; what it points at is the receiver's to read. */
    tr_message *head = atomic_load_explicit(&self->head, memory_order_relaxed);
    do {
        if (head == &mark_closed) return false;
        message->next = head == &mark_asleep ? NULL : head;
        /* Release pairs with the acquire in take: the receiver sees the message filled in, and, since
         * exchanges continue the release sequences of earlier pushes, all messages below it. */
    } while (!atomic_compare_exchange_weak_explicit(&self->head, &head, message, memory_order_release,
                                                    memory_order_relaxed));
    if (head == &mark_asleep) {
        uint64_t one = 1;
        ssize_t written =
            write(self->event, &one, sizeof one); /* cannot fail: the counter is far from full */
        (void)written;
    }
    return true;
}

static tr_message *reverse(tr_message *newest_first)
{
    tr_message *oldest_first = NULL;
    while (newest_first) {
        tr_message *next = newest_first->next;
        newest_first->next = oldest_first;
        oldest_first = newest_first;
        newest_first = next;
    }
    return oldest_first;
}

/* Takes everything, oldest first, and leaves `mark` (NULL: empty).
 * *was_asleep: nobody pushed since the mark was set. */
static tr_message *take(inbox *self, tr_message *mark, bool *was_asleep)
{
    /* Acquire pairs with the release in push. */
    tr_message *head = atomic_exchange_explicit(&self->head, mark, memory_order_acquire);
    *was_asleep = head == &mark_asleep;
    return *was_asleep ? NULL : reverse(head);
}

static tr_status inproc_open(tr_transport *base, tr_error *err)
{
    inproc *self = (inproc *)base;
    inbox *own = tr_alloc_aligned(TR_CACHE_LINE, sizeof *own);
    if (!own) return tr_fail(err, TR_ENOMEM, "no memory for an inbox");
    memset(own, 0, sizeof *own);
    own->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (own->event < 0) {
        tr_free(own);
        return tr_fail(err, TR_EIO, "cannot make an event descriptor: %s", strerror(errno));
    }
    atomic_init(&own->head, NULL);
    atomic_init(&own->references, 1);
    self->inbox = own;
    pthread_mutex_lock(&registry_lock);
    snprintf(own->address, sizeof own->address, "inproc://%ld-%llu", (long)getpid(),
             (unsigned long long)n_addresses++);
    own->next = registry;
    registry = own;
    pthread_mutex_unlock(&registry_lock);
    snprintf(base->address, sizeof base->address, "%s", own->address);
    return TR_OK;
}

/* With a reference for the caller, or NULL. */
static inbox *look_up(const char *address)
{
    pthread_mutex_lock(&registry_lock);
    inbox *found = registry;
    while (found && strcmp(found->address, address) != 0) found = found->next;
    if (found) retain(found);
    pthread_mutex_unlock(&registry_lock);
    return found;
}

static void unregister(inbox *own)
{
    pthread_mutex_lock(&registry_lock);
    for (inbox **at = &registry; *at; at = &(*at)->next) {
        if (*at != own) continue;
        *at = own->next;
        break;
    }
    pthread_mutex_unlock(&registry_lock);
}

/* A greeting takes a reference to our inbox along, so that the peer can answer.
 * A closed inbox is found by later sends. */
static tr_status greet(inproc *self, inbox *to, int32_t peer, bool goodbye, tr_error *err)
{
    tr_message *hello;
    tr_status status = tr__hello_new(&self->base, peer, goodbye, &hello, err);
    if (status != TR_OK) return status;
    hello->link_ = retain(self->inbox);
    if (push(to, hello)) return TR_OK;
    release(self->inbox);
    tr_message_destroy(&hello);
    return tr_fail(err, TR_EIO, "node %d is gone", peer);
}

static tr_status inproc_connect(tr_transport *base, tr_link *base_link, const char *address, tr_error *err)
{
    inproc *self = (inproc *)base;
    inproc_link *link = (inproc_link *)base_link;
    inbox *to = look_up(address);
    if (!to) return tr_fail(err, TR_EIO, "nobody in this process listens at '%s'", address);
    tr_status status = greet(self, to, base_link->peer, false, err);
    if (status != TR_OK) {
        release(to);
        return status;
    }
    link->inbox = to;
    return TR_OK;
}

static tr_status inproc_send(tr_transport *base, tr_link *base_link, tr_message **message, tr_error *err)
{
    inproc *self = (inproc *)base;
    inproc_link *link = (inproc_link *)base_link;
    (*message)->link_ = self->inbox; /* who it is from */
    if (push(link->inbox, *message)) {
        *message = NULL;
        return TR_OK;
    }
    tr__link_fail(base, base_link, "the node was destroyed");
    return tr_fail(err, TR_ECLOSED, "there is no link to node %d: it was destroyed", base_link->peer);
}

static inproc_link *link_of(inproc *self, const inbox *from)
{
    for (size_t i = 0; i < self->base.n_links; i++) {
        inproc_link *link = (inproc_link *)self->base.links[i];
        if (link->inbox == from) return link;
    }
    return NULL;
}

static void handle_hello(inproc *self, const tr_message *message)
{
    inbox *from = message->link_;
    if (message->frame.body_bytes == 0) {
        inproc_link *link = link_of(self, from);
        if (link) tr__link_goodbye(&self->base, &link->base);
        return;
    }
    if (tr__hello_is_late(&self->base, &message->frame)) return;
    tr_hello hello;
    tr_link *base_link = tr__hello_admit(&self->base, &message->frame, message->body->data, &hello);
    if (!base_link) {
        greet(self, from, (int32_t)message->frame.source, true, NULL); /* refused: closed without a word */
        return;
    }
    inproc_link *link = (inproc_link *)base_link;
    if (link->inbox && link->inbox != from) tr__link_replace(&self->base, base_link);
    base_link->state = TR_LINK_OPEN;
    if (link->inbox) return;
    link->inbox = retain(from);
    /* If it is gone already, its goodbye follows its frames. */
    if (greet(self, from, base_link->peer, false, NULL) == TR_ENOMEM)
        tr__link_starve(&self->base, base_link, "a greeting to it");
}

static void handle(inproc *self, tr_message *message)
{
    inbox *from = message->link_;
    if (message->frame.kind == TR_FRAME_HELLO) {
        handle_hello(self, message);
        release(from);
        tr_message_destroy(&message);
        return;
    }
    inproc_link *link = link_of(self, from);
    bool is_good = tr__frame_admit(&self->base, link ? &link->base : NULL, &message->frame);
    if (is_good && (!link || link->base.state != TR_LINK_OPEN)) {
        tr__refuse(&self->base, "it comes from a peer that did not greet");
        is_good = false;
    }
    if (!is_good)
        tr_message_destroy(&message);
    else
        tr__message_deliver(&self->base, &link->base, message);
}

static int inproc_progress(tr_transport *base)
{
    inproc *self = (inproc *)base;
    /* Relaxed: only a hint that saves the exchange; take looks again. */
    if (!atomic_load_explicit(&self->inbox->head, memory_order_relaxed)) return 0;
    bool was_asleep;
    self->taken = take(self->inbox, NULL, &was_asleep);
    if (self->is_armed && !was_asleep) self->is_signalled = true;
    self->is_armed = false;
    int n_handled = 0;
    while (self->taken) { /* kept in self, for a callback that destroys nothing but may send to us */
        tr_message *message = self->taken;
        self->taken = message->next;
        handle(self, message);
        n_handled++;
    }
    return n_handled;
}

static bool inproc_quiet(const tr_transport *base)
{
    /* Relaxed: a hint, as in progress. Asleep, messages and closed are all something to look at. */
    return !atomic_load_explicit(&((const inproc *)base)->inbox->head, memory_order_relaxed);
}

static int inproc_descriptors(const tr_transport *base, int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS])
{
    descriptors[0] = ((const inproc *)base)->inbox->event;
    return 1;
}

static bool inproc_arm(tr_transport *base)
{
    inproc *self = (inproc *)base;
    uint64_t count;
    /* If the waker has not come to its write yet, it stays signalled: one sleep
     * will end early, none will be missed. */
    if (self->is_signalled && read(self->inbox->event, &count, sizeof count) == sizeof count)
        self->is_signalled = false;
    tr_message *empty = NULL;
    /* Relaxed: nothing is handed over; that the inbox is empty is said by the exchange itself. */
    bool is_empty = atomic_compare_exchange_strong_explicit(&self->inbox->head, &empty, &mark_asleep,
                                                            memory_order_relaxed, memory_order_relaxed);
    self->is_armed = is_empty || empty == &mark_asleep;
    return self->is_armed;
}

static size_t inproc_unsent(const tr_transport *base)
{
    (void)base;
    return 0; /* a push is a delivery */
}

static void inproc_drop(tr_transport *base, tr_link *base_link, bool say_goodbye)
{
    inproc *self = (inproc *)base;
    inproc_link *link = (inproc_link *)base_link;
    if (!link->inbox) return;
    if (say_goodbye) greet(self, link->inbox, base_link->peer, true, NULL);
    release(link->inbox);
    link->inbox = NULL;
}

static void inproc_close(tr_transport *base)
{
    inproc *self = (inproc *)base;
    unregister(self->inbox);
    bool was_asleep;
    tr_message *rest = take(self->inbox, &mark_closed, &was_asleep); /* from here on nobody can push */
    while (rest) {
        tr_message *message = rest;
        rest = message->next;
        if (message->frame.kind ==
            TR_FRAME_HELLO) { /* whoever greeted and was not answered must hear that we go */
            inbox *from = message->link_;
            if (message->frame.body_bytes) greet(self, from, (int32_t)message->frame.source, true, NULL);
            release(from);
        }
        tr_message_destroy(&message);
    }
    for (size_t i = 0; i < base->n_links; i++) inproc_drop(base, base->links[i], true);
    release(self->inbox);
}

const tr_transport_kind tr__transport_inproc = {
    .name = "inproc",
    .self_bytes = sizeof(inproc),
    .link_bytes = sizeof(inproc_link),
    .within_process = true,
    .open = inproc_open,
    .connect = inproc_connect,
    .send = inproc_send,
    .progress = inproc_progress,
    .quiet = inproc_quiet,
    .descriptors = inproc_descriptors,
    .arm = inproc_arm,
    .unsent = inproc_unsent,
    .drop = inproc_drop,
    .close = inproc_close,
};
