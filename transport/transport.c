/* transport/transport.c - see transport.h: what all kinds of transport share, and the dispatch to them.
 * Losses are noted where they are found and reported at the end of progress, so that a user's callback never
 * runs inside a library's, and send never calls back at all.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/kind.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

enum { DEFAULT_MAX_BODY_BYTES = 1 << 30 };

static const tr_transport_kind *const kinds[] = {&tr__transport_inproc, &tr__transport_ucx,
                                                 &tr__transport_zmq, &tr__transport_sim};

static const tr_transport_kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    return NULL;
}

tr_status tr_transport_new(tr_transport **out, const char *kind_name, const tr_transport_options *options,
                           const tr_transport_events *events, tr_error *err)
{
    const tr_transport_kind *kind = find_kind(kind_name);
    if (!kind)
        return tr_fail(err, TR_EINVAL, "there is no transport '%s'; choose inproc, ucx or zmq", kind_name);
    tr_transport *self = tr_alloc_zero(1, kind->self_bytes);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a transport");
    self->kind = kind;
    self->options = *options;
    self->events = *events;
    if (!self->options.max_body_bytes) self->options.max_body_bytes = DEFAULT_MAX_BODY_BYTES;
    tr_status status = kind->open(self, err);
    if (status != TR_OK) {
        tr_free(self);
        return status;
    }
    *out = self;
    return TR_OK;
}

const char *tr_transport_address(const tr_transport *self)
{
    return self->address;
}

tr_link *tr__link_find(tr_transport *self, int32_t peer)
{
    for (size_t i = 0; i < self->n_links; i++)
        if (self->links[i]->peer == peer) return self->links[i];
    return NULL;
}

static tr_link *find_or_add_link(tr_transport *self, int32_t peer, tr_error *err)
{
    tr_link *link = tr__link_find(self, peer);
    if (link) return link;
    if (tr_array_reserve((void **)&self->links, &self->links_capacity, self->n_links + 1, sizeof *self->links,
                         err))
        return NULL;
    link = tr_alloc_zero(1, self->kind->link_bytes);
    if (!link) {
        tr_fail(err, TR_ENOMEM, "no memory for a link to node %d", peer);
        return NULL;
    }
    link->peer = peer;
    self->links[self->n_links++] = link;
    return link;
}

bool tr__link_is_up(const tr_link *link)
{
    return link->state == TR_LINK_OPENING || link->state == TR_LINK_OPEN;
}

tr_status tr_transport_connect(tr_transport *self, int32_t peer, const char *address, tr_error *err)
{
    tr_link *link = find_or_add_link(self, peer, err);
    if (!link) return TR_ENOMEM;
    if (tr__link_is_up(link)) return TR_OK; /* the peer was quicker, or the caller asks twice */
    if (link->state == TR_LINK_FAILED) tr__link_report(self, link);
    tr_status status = self->kind->connect(self, link, address, err);
    if (status == TR_OK) link->state = TR_LINK_OPENING;
    link->sought = tr_hash64(address, strlen(address));
    return status;
}

static void hash_body(tr_message *message)
{
    tr_frame *frame = &message->frame;
    if (!message->body || message->body->kind == TR_MEMORY_DEVICE || (frame->flags & TR_FRAME_HASHED)) return;
    frame->flags |= TR_FRAME_HASHED;
    frame->body_hash = tr_hash64(message->body->data, frame->body_bytes);
}

tr_status tr_transport_send(tr_transport *self, int32_t peer, tr_message **message, tr_error *err)
{
    TR_ASSERT((*message)->frame.kind != TR_FRAME_HELLO);
    tr_link *link = tr__link_find(self, peer);
    if (!link || !tr__link_is_up(link)) {
        tr_message_destroy(message);
        return tr_fail(err, TR_ECLOSED, "there is no link to node %d%s%s", peer,
                       link && link->reason[0] ? ": " : "", link ? link->reason : "");
    }
    if (self->options.hash_bodies) hash_body(*message);
    if (!self->kind->within_process) tr_frame_seal(&(*message)->frame);
    if (self->damages_next && (*message)->frame.kind == TR_FRAME_DATA) {
        (*message)->frame.sequence ^= 1u << 7;
        self->damages_next = false;
    }
    uint64_t body_bytes = (*message)->frame.body_bytes;
    tr_message *copy = self->disturbed ? tr__disturbed_copy(self, *message) : NULL;
    tr_status status = self->kind->send(self, link, message, err);
    if (copy) tr__disturbed_departure(self, peer, copy);
    if (status == TR_ENOMEM) tr__link_starve(self, link, "a message to it");
    if (status == TR_OK) {
        self->counters.frames_sent++;
        self->counters.bytes_sent += TR_FRAME_BYTES + body_bytes;
    }
    tr_message_destroy(message);
    return status;
}

/* Written under the caller's lock, and read there but for tr_transport_quiet, which orders nothing by it. */
static void count_failed(tr_transport *self, int change)
{
    __atomic_store_n(&self->n_failed, self->n_failed + (size_t)change, __ATOMIC_RELAXED);
}

void tr__link_fail(tr_transport *self, tr_link *link, const char *format, ...)
{
    if (!tr__link_is_up(link)) return;
    link->state = TR_LINK_FAILED;
    count_failed(self, 1);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(link->reason, sizeof link->reason, format, arguments);
    va_end(arguments);
}

void tr__link_starve(tr_transport *self, tr_link *link, const char *what)
{
    if (tr__link_is_up(link)) self->counters.starved++;
    tr__link_fail(self, link, "out of memory for %s", what);
}

void tr__link_goodbye(tr_transport *self, tr_link *link)
{
    if (link->state == TR_LINK_OPENING) {
        tr_log(TR_LOG_WARNING,
               "node %d was turned away by node %d: another job key, version or incarnation; see its log",
               self->options.node, link->peer);
        tr__link_fail(self, link,
                      "the peer refused us: another job key, version or incarnation; see its log");
    }
    tr__link_fail(self, link, "the peer closed the link");
}

static void drop(tr_transport *self, tr_link *link, bool say_goodbye)
{
    if (self->disturbed) tr__disturbed_drop(self, link);
    self->kind->drop(self, link, say_goodbye);
}

void tr__link_report(tr_transport *self, tr_link *link)
{
    TR_ASSERT(link->state == TR_LINK_FAILED);
    count_failed(self, -1);
    drop(self, link, link->is_replaced);
    link->is_replaced = false;
    link->state = TR_LINK_LOST;
    tr_log(TR_LOG_INFO, "node %d lost its link to node %d: %s", self->options.node, link->peer, link->reason);
    self->events.peer_lost(self->events.context, link->peer, link->reason);
}

void tr_transport_damage_next(tr_transport *self)
{
    self->damages_next = true;
}

static void report_damage(tr_transport *self)
{
    for (size_t i = 0; i < self->n_links; i++) {
        tr_link *link = self->links[i];
        if (!link->is_damaged) continue;
        link->is_damaged = false;
        self->n_damaged--;
        if (self->events.damaged) self->events.damaged(self->events.context, link->peer, link->damage);
    }
}

int tr_transport_progress(tr_transport *self)
{
    int n_happened = self->disturbed ? tr__disturbed_progress(self) : 0;
    n_happened += self->kind->progress(self);
    if (self->n_damaged) report_damage(self);
    for (size_t i = 0; self->n_failed && i < self->n_links; i++) {
        if (self->links[i]->state != TR_LINK_FAILED) continue;
        tr__link_report(self, self->links[i]);
        n_happened++;
    }
    return n_happened;
}

bool tr_transport_quiet(const tr_transport *self)
{
    return self->kind->quiet && __atomic_load_n(&self->n_failed, __ATOMIC_RELAXED) == 0 &&
           !__atomic_load_n(&self->disturbed, __ATOMIC_RELAXED) && self->kind->quiet(self);
}

int tr_transport_descriptors(const tr_transport *self, int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS])
{
    return self->kind->descriptors(self, descriptors);
}

bool tr_transport_arm(tr_transport *self)
{
    if (self->disturbed && tr__disturbed_is_busy(self)) return false;
    return self->n_failed == 0 && self->kind->arm(self);
}

size_t tr_transport_unsent(const tr_transport *self)
{
    return self->kind->unsent(self);
}

void tr_transport_disconnect(tr_transport *self, int32_t peer)
{
    tr_link *link = tr__link_find(self, peer);
    if (!link || link->state == TR_LINK_NONE || link->state == TR_LINK_LOST) return;
    if (link->state == TR_LINK_FAILED) count_failed(self, -1);
    drop(self, link, link->state != TR_LINK_FAILED);
    link->state = TR_LINK_NONE;
    snprintf(link->reason, sizeof link->reason, "disconnected by this side");
}

tr_status tr_transport_renew(tr_transport *self, uint32_t oldest, tr_error *err)
{
    self->oldest = oldest;
    for (size_t i = 0; i < self->n_links; i++) tr_transport_disconnect(self, self->links[i]->peer);
    return self->kind->renew ? self->kind->renew(self, err) : TR_OK;
}

tr_transport_counters tr_transport_count(const tr_transport *self)
{
    return self->counters;
}

void tr_transport_destroy(tr_transport **self_pointer)
{
    tr_transport *self = *self_pointer;
    if (!self) return;
    *self_pointer = NULL;
    if (self->disturbed) tr__disturbed_destroy(self);
    self->kind->close(self);
    for (size_t i = 0; i < self->n_links; i++) tr_free(self->links[i]);
    tr_free(self->links);
    tr_free(self);
}

tr_status tr__hello_new(tr_transport *self, int32_t peer, bool goodbye, tr_message **out, tr_error *err)
{
    tr_message *message;
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status = TR_OK;
    if (!goodbye) {
        tr_hello hello = {.node = self->options.node,
                          .incarnation = self->options.incarnation,
                          .version = TR_HANDSHAKE_VERSION};
        memcpy(hello.job_key, self->options.job_key, sizeof hello.job_key);
        memcpy(hello.address, self->address, sizeof hello.address);
        status = tr_hello_write(&hello, &bytes, &size_bytes, err);
    }
    if (status == TR_OK) status = tr_message_copy(&message, bytes, (uint32_t)size_bytes, err);
    tr_free(bytes);
    if (status != TR_OK) return status;
    message->frame.kind = TR_FRAME_HELLO;
    message->frame.source = (uint64_t)(uint32_t)self->options.node;
    message->frame.destination = (uint64_t)(uint32_t)peer;
    message->frame.incarnation = self->options.incarnation;
    tr_frame_seal(&message->frame);
    *out = message;
    return TR_OK;
}

static tr_status judge_hello(tr_transport *self, const tr_frame *frame, const void *body, tr_hello *hello,
                             tr_error *err)
{
    tr_status status = tr_hello_read(hello, body, frame->body_bytes, err);
    if (status == TR_OK) status = tr_hello_check(hello, self->options.job_key, err);
    if (status != TR_OK) return status;
    if (frame->source != (uint32_t)hello->node || frame->incarnation != hello->incarnation)
        return tr_fail(err, TR_ECORRUPT, "a greeting of node %d names another node in its header",
                       hello->node);
    if (frame->destination != (uint32_t)self->options.node)
        return tr_fail(err, TR_EREFUSED, "node %d looks for node '%lld' at our address, where node %d is",
                       hello->node, (long long)frame->destination, self->options.node);
    const tr_link *known = tr__link_find(self, hello->node);
    if (known && known->was_greeted && known->incarnation > hello->incarnation)
        return tr_fail(err, TR_EREFUSED, "node %d greets as incarnation '%u', but %u was here already",
                       hello->node, hello->incarnation, known->incarnation);
    return TR_OK;
}

bool tr__hello_is_late(tr_transport *self, const tr_frame *frame)
{
    if (frame->incarnation >= self->oldest) return false;
    tr__refuse(self, "it greets as incarnation '%u', of before the link was renewed for '%u'",
               frame->incarnation, self->oldest);
    return true;
}

tr_link *tr__hello_admit(tr_transport *self, const tr_frame *frame, const void *body, tr_hello *hello)
{
    tr_error err;
    tr_link *link = NULL;
    if (judge_hello(self, frame, body, hello, &err) == TR_OK) {
        link = find_or_add_link(self, hello->node, &err);
        self->counters.starved += link == NULL;
    }
    if (!link) {
        self->counters.refused++;
        tr_log(TR_LOG_WARNING, "node %d refuses a peer: %s", self->options.node, err.message);
        return NULL;
    }
    /* One that we are just connecting to, at its new address, is not taken over but there. */
    bool sought =
        link->state == TR_LINK_OPENING && link->sought == tr_hash64(hello->address, strlen(hello->address));
    if (link->was_greeted && link->incarnation < hello->incarnation && !sought) {
        link->is_replaced = tr__link_is_up(link);
        tr__link_fail(self, link, "incarnation %u of it took over", hello->incarnation);
    }
    if (link->state == TR_LINK_FAILED) tr__link_report(self, link);
    link->incarnation = hello->incarnation;
    link->was_greeted = true;
    return link;
}

void tr__link_replace(tr_transport *self, tr_link *link)
{
    tr_log(TR_LOG_WARNING,
           "node %d: another connection greets as node %d, incarnation %u; it takes the place of the first, "
           "whose "
           "frames are refused from now on",
           self->options.node, link->peer, link->incarnation);
    link->is_replaced = true;
    tr__link_fail(self, link, "the peer connected anew");
    if (link->state == TR_LINK_FAILED) tr__link_report(self, link);
}

void tr__refuse(tr_transport *self, const char *format, ...)
{
    self->counters.refused++;
    char text[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tr_log(TR_LOG_INFO, "node %d refuses a frame: %s", self->options.node, text);
}

void tr__link_damaged(tr_transport *self, tr_link *link, const char *what)
{
    if (!link || link->state != TR_LINK_OPEN || link->is_damaged) return;
    link->is_damaged = true;
    snprintf(link->damage, sizeof link->damage, "%s", what);
    self->n_damaged++;
}

bool tr__frame_admit(tr_transport *self, tr_link *link, const tr_frame *frame)
{
    tr_error err;
    uint32_t most = frame->kind == TR_FRAME_HELLO ? TR_HELLO_MAX_BYTES : self->options.max_body_bytes;
    if (self->kind->within_process && frame->body_bytes <= most) return true; /* nothing was copied */
    if (tr_frame_check(frame, most, &err) == TR_OK) return true;
    tr__refuse(self, "%s", err.message);
    tr__link_damaged(self, link, err.message);
    return false;
}

tr_message *tr__message_place(tr_transport *self, tr_link *link, const tr_frame *frame)
{
    tr_buffer *body = NULL;
    if (frame->body_bytes) {
        body = self->events.place(self->events.context, link->peer, frame);
        if (!body) {
            tr__refuse(self, "a body of %u bytes for edge %u found no place", frame->body_bytes, frame->edge);
            return NULL;
        }
        TR_ASSERT(body->size_bytes >= frame->body_bytes);
    }
    tr_message *message;
    tr_error err;
    if (tr_message_new(&message, body, frame->body_bytes, &err) != TR_OK) {
        tr__link_starve(self, link, "a message that it sent"); /* no silent gap */
        return NULL;
    }
    message->frame = *frame;
    return message;
}

void tr__message_hand_over(tr_transport *self, tr_link *link, tr_message *message)
{
    self->counters.frames_received++;
    self->counters.bytes_received += TR_FRAME_BYTES + (uint64_t)message->frame.body_bytes;
    message->next = NULL;
    message->link_ = NULL;
    self->events.deliver(self->events.context, link->peer, message);
}

void tr__message_deliver(tr_transport *self, tr_link *link, tr_message *message)
{
    tr_error err;
    bool readable = message->body && message->body->kind != TR_MEMORY_DEVICE;
    if (readable && tr_frame_check_body(&message->frame, message->body->data, &err) != TR_OK) {
        tr__refuse(self, "%s", err.message);
        tr__link_damaged(self, link, err.message);
        tr_message_destroy(&message);
        return;
    }
    if (self->disturbed && tr__disturbed_arrival(self, link, &message)) return;
    tr__message_hand_over(self, link, message);
}
