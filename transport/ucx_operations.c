/* transport/ucx_operations.c - see ucx_internal.h. Every request that UCX has not finished is in one ring with
 * what it holds, so that closing knows what is still to be waited for, or to be freed after the worker.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/ucx_internal.h"

#include "base/log.h"
#include "base/memory.h"

#include <stdatomic.h>

tr__ucx_operation *tr__ucx_operation_new(tr__ucx *self, tr__ucx_link *link, tr_message *message,
                                         bool is_receive)
{
    tr__ucx_operation *op = tr_alloc(sizeof *op);
    if (!op) return NULL;
    tr__ucx_operation *head = &self->operations;
    *op = (tr__ucx_operation){.previous = head->previous,
                              .next = head,
                              .self = self,
                              .link = link,
                              .message = message,
                              .is_receive = is_receive,
                              .life = link ? link->life : 0};
    op->previous->next = op->next->previous = op;
    if (message && !is_receive) self->n_sends++;
    return op;
}

tr_message *tr__ucx_operation_end(tr__ucx_operation *op)
{
    tr_message *message = op->message;
    if (message && !op->is_receive) op->self->n_sends--;
    op->previous->next = op->next;
    op->next->previous = op->previous;
    tr_free(op);
    return message;
}

static void on_done(void *request, ucs_status_t status, void *user_data)
{
    (void)status; /* a broken endpoint is told to on_error; a refused body is the receiver's business */
    tr_message *message = tr__ucx_operation_end(user_data);
    tr_message_destroy(&message);
    ucp_request_free(request);
}

/* Bodies of this many bytes and less are sent without asking: all of such a one fits into the receiver's queue (512 KiB), so it
 * is there when the receiver looks next, for the price of one more copy. By rendezvous it would wait for the sender to look as
 * well, and a sender that computes does so when its work ends: in a pipeline that is a forward or a backward later. */
enum { EAGER_BYTES = 256 << 10 };

tr_status tr__ucx_post(tr__ucx *self, tr__ucx_link *link, ucp_ep_h endpoint, tr_message *message,
                       tr_error *err)
{
    tr__ucx_operation *op = tr__ucx_operation_new(self, link, message, false);
    if (!op) {
        tr_message_destroy(&message);
        if (link) tr__link_starve(&self->base, &link->base, "a message to it");
        return tr_fail(err, TR_ENOMEM, "no memory to send a message");
    }
    bool is_eager = message->frame.body_bytes <= EAGER_BYTES;
    const ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .flags = UCP_AM_SEND_FLAG_REPLY | (is_eager ? UCP_AM_SEND_FLAG_EAGER : 0u),
        .cb.send = on_done,
        .user_data = op};
    ucs_status_ptr_t request = ucp_am_send_nbx(endpoint, TR__UCX_MESSAGE, &message->frame, TR_FRAME_BYTES,
                                               tr_message_bytes(message), message->frame.body_bytes, &param);
    if (UCS_PTR_IS_PTR(request)) {
        op->request = request;
        return TR_OK;
    }
    message = tr__ucx_operation_end(op);
    tr_message_destroy(&message);
    if (!UCS_PTR_IS_ERR(request)) return TR_OK;
    const char *why = ucs_status_string(UCS_PTR_STATUS(request));
    if (link) tr__link_fail(&self->base, &link->base, "ucx cannot send: %s", why);
    return tr_fail(err, TR_EIO, "ucx cannot send: %s", why);
}

static void on_closed(void *request, ucs_status_t status, void *user_data)
{
    (void)status;
    tr__ucx_operation_end(user_data);
    ucp_request_free(request);
}

void tr__ucx_endpoint_close(tr__ucx *self, ucp_ep_h endpoint)
{
    tr__ucx_operation *op = tr__ucx_operation_new(self, NULL, NULL, false);
    const ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_FLAGS | (op ? UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA : 0u),
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
        .cb.send = on_closed,
        .user_data = op};
    ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &param);
    if (!UCS_PTR_IS_PTR(request)) {
        if (op) tr__ucx_operation_end(op);
    } else if (op) {
        op->request = request;
    } else {
        ucp_request_free(request);
    }
}

static void on_flushed(void *request, ucs_status_t status, void *user_data)
{
    (void)status;
    (void)request; /* freed with the operation, outside UCX's progress */
    tr__ucx_operation *op = user_data;
    op->is_flushed = true;
    op->self->n_flushed++;
}

void tr__ucx_endpoint_leave(tr__ucx *self, ucp_ep_h endpoint, bool is_wired)
{
    tr__ucx_operation *op = tr__ucx_operation_new(self, NULL, NULL, false);
    if (op) {
        const ucp_request_param_t param = {.op_attr_mask =
                                               UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                           .cb.send = on_flushed,
                                           .user_data = op};
        op->leaving = endpoint;
        op->is_unwired = !is_wired;
        op->request = ucp_ep_flush_nbx(endpoint, &param);
        if (UCS_PTR_IS_PTR(op->request)) return;
        tr__ucx_operation_end(op);
    }
    tr__ucx_endpoint_close(self, endpoint);
}

void tr__ucx_close_left(tr__ucx *self, bool all)
{
    tr__ucx_operation *op = self->operations.next;
    while (op != &self->operations) {
        ucp_ep_h endpoint = op->leaving;
        if (!op->is_flushed && !(all && endpoint)) {
            op = op->next;
            continue;
        }
        op->leaving = NULL;
        if (op->is_flushed) {
            self->n_flushed--;
            ucp_request_free(op->request);
            tr__ucx_operation_end(op);
        }
        if (endpoint) tr__ucx_endpoint_close(self, endpoint);
        op = self->operations.next; /* the ring has changed */
    }
}

typedef struct abandoned {
    struct abandoned *next;
    ucp_worker_h worker;
    tr__ucx_operation *first;
} abandoned;

/* Nobody reads it; so it is no leak to tools that look for some. Release and acquire: `next` is whole for whoever adds another. */
static _Atomic(abandoned *) all_abandoned;

/* UCX 1.13 queues its answer to a wire-up at the shared memory's endpoint where the peer's queue is full, and aborts the process
 * when it finds it there at the closing ("got REP message"), also at that of the worker. A peer that has answered us got it. */
bool tr__ucx_abandon_if_stuck(tr__ucx *self)
{
    tr__ucx_operation *head = &self->operations, *op = head->next;
    while (op != head && !(op->leaving && !op->is_flushed && op->is_unwired)) op = op->next;
    if (op == head) return false;
    abandoned *kept = tr_alloc(sizeof *kept);
    if (kept) {
        *kept = (abandoned){.worker = self->worker, .first = head->next};
        kept->next = atomic_load_explicit(&all_abandoned, memory_order_acquire);
        while (!atomic_compare_exchange_weak_explicit(&all_abandoned, &kept->next, kept, memory_order_acq_rel,
                                                      memory_order_acquire)) {
        }
    }
    tr_log(TR_LOG_INFO,
           "ucx: a peer that does not look stood in the way of a connection's end; its memory stays");
    head->previous->next = NULL; /* its requests are never finished */
    head->next = head->previous = head;
    self->n_sends = self->n_flushed = 0;
    self->has_abandoned = true;
    return true;
}
