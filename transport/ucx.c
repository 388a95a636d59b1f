/* transport/ucx.c - links over UCX active messages: shared memory within a host, TCP (or what UCX_TLS names)
 * between hosts. The active message's header is the frame, its data the body: short ones eager and copied to
 * their place, long ones by rendezvous straight into it. Every message asks for a reply endpoint, which is
 * how the receiver knows whose it is. UCX promises no order, so no data is sent before the peer has said that
 * it took our greeting: greetings are answered, and the answer has sequence 1. UCX's callbacks only note what
 * happened; greetings, deliveries and losses are handled after its progress. Buffers: a message lives until
 * UCX says that it is done with it, or until the worker is gone.
 * Sources: ucp.h of UCX 1.13, https://openucx.readthedocs.io/en/master/faq.html
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/ucx_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#include <string.h>

enum {
    CLOSE_MS = 100,
    PROGRESS_ROUNDS = 16,
    ACCEPTED = 1 /* sequence of a greeting that is an answer */
};

typedef struct greeting {
    struct greeting *next;
    ucp_ep_h reply;
    tr_frame frame;
    uint8_t body[TR_HELLO_MAX_BYTES];
} greeting;

static tr_status greet(tr__ucx *self, tr__ucx_link *link, uint32_t sequence, bool goodbye, tr_error *err)
{
    tr_message *hello;
    tr_status status = tr__hello_new(&self->base, link->base.peer, goodbye, &hello, err);
    if (status != TR_OK) return status;
    hello->frame.sequence = sequence;
    tr_frame_seal(&hello->frame);
    return tr__ucx_post(self, link, link->endpoint, hello, err);
}

static tr__ucx_link *link_of(tr__ucx *self, ucp_ep_h endpoint)
{
    for (size_t i = 0; endpoint && i < self->base.n_links; i++) {
        tr__ucx_link *link = (tr__ucx_link *)self->base.links[i];
        if (link->reply == endpoint || link->endpoint == endpoint) return link;
    }
    return NULL;
}

static void arrive(tr__ucx *self, tr__ucx_link *link, tr_message *message)
{
    message->link_ = link;
    message->next = NULL;
    *self->arrived_end = message;
    self->arrived_end = &message->next;
}

static void on_received(void *request, ucs_status_t status, size_t length, void *user_data)
{
    tr__ucx_operation *op = user_data;
    tr__ucx *self = op->self;
    tr__ucx_link *link = op->link;
    bool is_of_this_life = op->life == link->life && link->base.state == TR_LINK_OPEN;
    tr_message *message = tr__ucx_operation_end(op);
    if (status == UCS_OK && length == message->frame.body_bytes && is_of_this_life) {
        arrive(self, link, message);
    } else {
        tr__refuse(&self->base, "its body did not come over: %s",
                   is_of_this_life ? ucs_status_string(status) : "its link is gone");
        tr_message_destroy(&message);
    }
    ucp_request_free(request);
}

/* The body comes by rendezvous. Returns what the callback shall return. */
static ucs_status_t fetch(tr__ucx *self, tr__ucx_link *link, tr_message *message, void *descriptor)
{
    tr__ucx_operation *op = tr__ucx_operation_new(self, link, message, true);
    if (!op) {
        tr__link_starve(&self->base, &link->base, "a body that it sent");
        tr_message_destroy(&message);
        return UCS_OK; /* UCX drops it */
    }
    const ucp_request_param_t param = {.op_attr_mask =
                                           UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                       .cb.recv_am = on_received,
                                       .user_data = op};
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(self->worker, descriptor, message->body->data,
                                                    message->frame.body_bytes, &param);
    if (UCS_PTR_IS_PTR(request)) {
        op->request = request;
        return UCS_INPROGRESS;
    }
    message = tr__ucx_operation_end(op);
    if (UCS_PTR_IS_ERR(request)) {
        tr__refuse(&self->base, "its body cannot be received: %s",
                   ucs_status_string(UCS_PTR_STATUS(request)));
        tr_message_destroy(&message);
    } else {
        arrive(self, link, message);
    }
    return UCS_INPROGRESS;
}

static void note_greeting(tr__ucx *self, const tr_frame *frame, const void *body, ucp_ep_h reply)
{
    greeting *noted = tr_alloc(sizeof *noted);
    if (!noted) {
        noted = self->spare;
        self->spare = NULL;
    }
    if (!noted) {
        tr__refuse(&self->base, "no memory for a greeting");
        return;
    }
    noted->next = NULL;
    noted->reply = reply;
    noted->frame = *frame;
    if (frame->body_bytes) memcpy(noted->body, body, frame->body_bytes);
    *self->greetings_end = noted;
    self->greetings_end = &noted->next;
}

static void forget_greeting(tr__ucx *self, greeting *noted)
{
    if (self->spare)
        tr_free(noted);
    else
        self->spare = noted;
}

/* UCX's callback for every message; inside its progress. */
static ucs_status_t on_message(void *context, const void *header, size_t header_bytes, void *data,
                               size_t size_bytes, const ucp_am_recv_param_t *param)
{
    tr__ucx *self = context;
    tr_frame frame;
    bool is_rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    ucp_ep_h reply = param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? param->reply_ep : NULL;
    if (header_bytes != TR_FRAME_BYTES || !reply) {
        tr__refuse(&self->base, "its header has %zu bytes, or it has no sender", header_bytes);
        return UCS_OK;
    }
    memcpy(&frame, header, sizeof frame);
    tr__ucx_link *link = link_of(self, reply);
    if (!tr__frame_admit(&self->base, link ? &link->base : NULL, &frame)) return UCS_OK;
    bool is_greeting = frame.kind == TR_FRAME_HELLO;
    if (size_bytes != frame.body_bytes || (is_greeting && is_rendezvous)) {
        tr__link_damaged(&self->base, link ? &link->base : NULL,
                         "its body has another size than its header says");
        tr__refuse(&self->base, "its body has %zu bytes, its header says %u", size_bytes, frame.body_bytes);
        return UCS_OK;
    }
    if (is_greeting) {
        note_greeting(self, &frame, data, reply);
        return UCS_OK;
    }
    if (!link || link->base.state != TR_LINK_OPEN) {
        tr__refuse(&self->base, "it comes from a peer that did not greet");
        return UCS_OK;
    }
    tr_message *message = tr__message_place(&self->base, &link->base, &frame);
    if (!message) return UCS_OK;
    if (is_rendezvous) return fetch(self, link, message, data);
    if (size_bytes) memcpy(message->body->data, data, size_bytes);
    arrive(self, link, message);
    return UCS_OK;
}

static void on_error(void *context, ucp_ep_h endpoint, ucs_status_t status)
{
    tr__ucx *self = context;
    tr__ucx_link *link = link_of(self, endpoint);
    if (link) tr__link_fail(&self->base, &link->base, "ucx: %s", ucs_status_string(status));
}

static ucs_status_t make_worker(tr__ucx *self, ucp_worker_h *worker, int *event)
{
    const ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                        .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucs_status_t status = ucp_worker_create(self->context, &params, worker);
    if (status != UCS_OK) return status;
    const ucp_am_handler_param_t handler = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                                          UCP_AM_HANDLER_PARAM_FIELD_CB |
                                                          UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                            .id = TR__UCX_MESSAGE,
                                            .cb = on_message,
                                            .arg = self};
    status = ucp_worker_set_am_recv_handler(*worker, &handler);
    return status == UCS_OK ? ucp_worker_get_efd(*worker, event) : status;
}

static void release_all(tr__ucx *self)
{
    if (self->worker) ucp_worker_destroy(self->worker);
    if (self->context) ucp_cleanup(self->context);
    tr_free(self->spare);
}

static tr_status ucx_open(tr_transport *base, tr_error *err)
{
    tr__ucx *self = (tr__ucx *)base;
    self->operations.next = self->operations.previous = &self->operations;
    self->greetings_end = &self->greetings;
    self->arrived_end = &self->arrived;
    self->spare = tr_alloc(sizeof *self->spare);
    if (!self->spare) return tr_fail(err, TR_ENOMEM, "no memory for ucx");
    ucs_status_t status = tr__ucx_context_new(base->options.deaths_are_told, &self->context);
    if (status == UCS_OK) status = make_worker(self, &self->worker, &self->event);
    if (status == UCS_OK) status = tr__ucx_address_write(self->worker, base->address);
    if (status == UCS_OK) return TR_OK;
    release_all(self);
    return tr_fail(err, TR_EIO,
                   "ucx cannot start: %s; its variables are UCX_TLS, UCX_NET_DEVICES, UCX_LOG_LEVEL",
                   ucs_status_string(status));
}

static tr_status make_endpoint(tr__ucx *self, tr__ucx_link *link, const char *address, tr_error *err)
{
    uint8_t bytes[TR_ADDRESS_CHARS / 2];
    if (tr__ucx_address_read(address, bytes) == 0)
        return tr_fail(err, TR_EINVAL,
                       "'%.40s' is no address for ucx: it begins with ucx:// and was cut or changed",
                       address);
    const ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                                  UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                                  UCP_EP_PARAM_FIELD_ERR_HANDLER,
                                    .address = (const ucp_address_t *)bytes,
                                    .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                                    .err_handler = {.cb = on_error, .arg = self}};
    ucs_status_t status = ucp_ep_create(self->worker, &params, &link->endpoint);
    if (status == UCS_OK) return TR_OK;
    link->endpoint = NULL;
    return tr_fail(err, TR_EIO, "ucx cannot connect to node %d: %s", link->base.peer,
                   ucs_status_string(status));
}

static void ucx_drop(tr_transport *base, tr_link *base_link, bool say_goodbye)
{
    tr__ucx *self = (tr__ucx *)base;
    tr__ucx_link *link = (tr__ucx_link *)base_link;
    while (link->first) {
        tr_message *message = link->first;
        link->first = message->next;
        self->n_held--;
        tr_message_destroy(&message);
    }
    if (link->endpoint && say_goodbye) greet(self, link, 0, true, NULL);
    bool may_close = !say_goodbye && link->is_accepted;
    if (link->endpoint && !may_close) tr__ucx_endpoint_leave(self, link->endpoint, link->is_accepted);
    if (link->endpoint && may_close) tr__ucx_endpoint_close(self, link->endpoint);
    link->endpoint = link->reply = NULL;
    link->is_accepted = false;
    link->life++;
}

static tr_status ucx_connect(tr_transport *base, tr_link *base_link, const char *address, tr_error *err)
{
    tr__ucx *self = (tr__ucx *)base;
    tr__ucx_link *link = (tr__ucx_link *)base_link;
    tr_status status = make_endpoint(self, link, address, err);
    if (status == TR_OK) status = greet(self, link, 0, false, err);
    if (status != TR_OK) ucx_drop(base, base_link, false);
    return status;
}

static tr_status ucx_send(tr_transport *base, tr_link *base_link, tr_message **message_pointer, tr_error *err)
{
    tr__ucx *self = (tr__ucx *)base;
    tr__ucx_link *link = (tr__ucx_link *)base_link;
    tr_message *message = *message_pointer;
    *message_pointer = NULL;
    if (link->is_accepted) return tr__ucx_post(self, link, link->endpoint, message, err);
    message->next = NULL;
    *(link->first ? &link->last->next : &link->first) = message;
    link->last = message;
    self->n_held++;
    return TR_OK;
}

static void send_held(tr__ucx *self, tr__ucx_link *link)
{
    link->is_accepted = true;
    while (link->first) {
        tr_message *message = link->first;
        link->first = message->next;
        self->n_held--;
        tr__ucx_post(self, link, link->endpoint, message, NULL);
    }
}

static void turn_away(tr__ucx *self, const greeting *noted)
{
    tr_message *goodbye;
    if (link_of(self, noted->reply))
        return; /* an endpoint of ours: its other end is a peer in good standing */
    if (tr__hello_new(&self->base, -1, true, &goodbye, NULL) == TR_OK)
        tr__ucx_post(self, NULL, noted->reply, goodbye, NULL);
    tr__ucx_endpoint_leave(self, noted->reply, false);
}

static void handle_greeting(tr__ucx *self, const greeting *noted)
{
    tr_hello hello;
    tr_error err;
    tr__ucx_link *link = link_of(self, noted->reply);
    if (noted->frame.body_bytes == 0) {
        if (link) tr__link_goodbye(&self->base, &link->base);
        return;
    }
    if (tr__hello_is_late(&self->base, &noted->frame)) {
        if (!link) tr__ucx_endpoint_leave(self, noted->reply, false);
        return;
    }
    tr_link *base_link = tr__hello_admit(&self->base, &noted->frame, noted->body, &hello);
    if (!base_link) {
        turn_away(self, noted);
        return;
    }
    link = (tr__ucx_link *)base_link;
    if (base_link->state == TR_LINK_OPEN && link->reply != noted->reply)
        tr__link_replace(&self->base, base_link);
    bool is_first = base_link->state != TR_LINK_OPEN, is_new = !link->endpoint;
    tr_status status = link->endpoint ? TR_OK : make_endpoint(self, link, hello.address, &err);
    if (status == TR_OK && is_first) status = greet(self, link, ACCEPTED, false, &err);
    if (status != TR_OK) {
        tr_log(TR_LOG_WARNING, "node %d cannot answer node %d: %s", self->base.options.node, hello.node,
               err.message);
        tr__link_fail(&self->base, base_link, "it could not be answered: %s", err.message);
        if (is_new && base_link->state != TR_LINK_FAILED) ucx_drop(&self->base, base_link, false);
        if (!link_of(self, noted->reply)) tr__ucx_endpoint_leave(self, noted->reply, false);
        return;
    }
    link->reply = noted->reply;
    base_link->state = TR_LINK_OPEN;
    if (noted->frame.sequence == ACCEPTED) send_held(self, link);
}

/* What arrived comes first: it is of those who were greeted before, and a greeting may put another in their place. */
static int handle_noted(tr__ucx *self)
{
    int n_handled = 0;
    while (self->arrived) {
        tr_message *message = self->arrived;
        if (!(self->arrived = message->next)) self->arrived_end = &self->arrived;
        tr__ucx_link *link = message->link_;
        tr__message_deliver(&self->base, &link->base, message);
        n_handled++;
    }
    while (self->greetings) {
        greeting *noted = self->greetings;
        if (!(self->greetings = noted->next)) self->greetings_end = &self->greetings;
        handle_greeting(self, noted);
        forget_greeting(self, noted);
        n_handled++;
    }
    return n_handled;
}

static int ucx_progress(tr_transport *base)
{
    tr__ucx *self = (tr__ucx *)base;
    int n_happened = 0;
    for (int i = 0; i < PROGRESS_ROUNDS; i++) {
        unsigned n = ucp_worker_progress(self->worker);
        if (n == 0) break;
        n_happened += (int)n;
    }
    n_happened += handle_noted(self);
    if (self->n_flushed) tr__ucx_close_left(self, false);
    return n_happened;
}

static int ucx_descriptors(const tr_transport *base, int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS])
{
    descriptors[0] = ((const tr__ucx *)base)->event;
    return 1;
}

static bool ucx_arm(tr_transport *base)
{
    tr__ucx *self = (tr__ucx *)base;
    return !self->greetings && !self->arrived && ucp_worker_arm(self->worker) == UCS_OK;
}

static size_t ucx_unsent(const tr_transport *base)
{
    const tr__ucx *self = (const tr__ucx *)base;
    return self->n_held + self->n_sends;
}

/* Until nothing is under way, or for so long. */
static void progress_for(tr__ucx *self, uint32_t patience_ms)
{
    uint64_t end_ns = tr_clock_ns() + patience_ms * 1000000ull;
    while (self->operations.next != &self->operations && tr_clock_ns() < end_ns) {
        ucp_worker_progress(self->worker);
        if (self->n_flushed) tr__ucx_close_left(self, false);
    }
}

static void end_worker(tr__ucx *self)
{
    tr__ucx_operation *head = &self->operations;
    progress_for(self, CLOSE_MS);
    if (tr__ucx_abandon_if_stuck(self)) goto ended;
    tr__ucx_close_left(self, true);
    progress_for(self, CLOSE_MS);
    /* Endpoints closed by force end at once, but not a long body that a living peer was to fetch and, having begun anew itself,
     * never will: UCX 1.13 keeps such a send as long as the worker. What is left it shall end without calling us; its
     * messages live until the worker is gone. */
    for (tr__ucx_operation *op = head->next; op != head; op = op->next) ucp_request_free(op->request);
    ucp_worker_destroy(self->worker);
    while (head->next != head) {
        tr_message *message = tr__ucx_operation_end(head->next);
        tr_message_destroy(&message);
    }
ended:
    while (self->arrived) {
        tr_message *message = self->arrived;
        self->arrived = message->next;
        tr_message_destroy(&message);
    }
    while (self->greetings) {
        greeting *noted = self->greetings;
        self->greetings = noted->next;
        forget_greeting(self, noted);
    }
    self->arrived_end = &self->arrived;
    self->greetings_end = &self->greetings;
    self->n_flushed = 0;
}

static void ucx_close(tr_transport *base)
{
    tr__ucx *self = (tr__ucx *)base;
    for (size_t i = 0; i < base->n_links; i++) ucx_drop(base, base->links[i], true);
    end_worker(self);
    if (!self->has_abandoned) ucp_cleanup(self->context);
    tr_free(self->spare);
}

/* Senders of one host share the queue of a receiver, in memory: one that is killed after it took a place in it and before
 * what it put there is marked as whole leaves a place that is waited for without end. So who outlives its peers needs
 * another queue: another UCX worker. */
static tr_status ucx_renew(tr_transport *base, tr_error *err)
{
    tr__ucx *self = (tr__ucx *)base;
    ucp_worker_h worker = NULL;
    int event;
    char address[TR_ADDRESS_CHARS];
    ucs_status_t status = make_worker(self, &worker, &event);
    if (status == UCS_OK) status = tr__ucx_address_write(worker, address);
    if (status != UCS_OK) {
        if (worker) ucp_worker_destroy(worker);
        return tr_fail(err, TR_EIO, "ucx cannot begin anew: %s", ucs_status_string(status));
    }
    end_worker(self);
    self->worker = worker;
    self->event = event;
    memcpy(base->address, address, sizeof address);
    return TR_OK;
}

const tr_transport_kind tr__transport_ucx = {
    .name = "ucx",
    .self_bytes = sizeof(tr__ucx),
    .link_bytes = sizeof(tr__ucx_link),
    .open = ucx_open,
    .connect = ucx_connect,
    .send = ucx_send,
    .progress = ucx_progress,
    .descriptors = ucx_descriptors,
    .arm = ucx_arm,
    .unsent = ucx_unsent,
    .drop = ucx_drop,
    .renew = ucx_renew,
    .close = ucx_close,
};
