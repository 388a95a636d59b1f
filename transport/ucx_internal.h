/* transport/ucx_internal.h - what ucx.c (greetings, arrivals, progress), ucx_operations.c (what UCX has not
 * finished: sends and endings) and ucx_setup.c (configuration, addresses) share; nobody else includes it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_UCX_INTERNAL_H
#define TROUPE_TRANSPORT_UCX_INTERNAL_H

#include "transport/kind.h"

#include <ucp/api/ucp.h>

enum { TR__UCX_MESSAGE = 1 }; /* id of the active messages */

typedef struct tr__ucx_link {
    tr_link base;
    ucp_ep_h endpoint; /* ours, for sending */
    ucp_ep_h reply;    /* what its messages carry; mostly the same */
    bool is_accepted;  /* the peer took our greeting: data may go */
    uint32_t life;     /* counts its connections: a body that comes late must not count as the next one's */
    tr_message *first, *last; /* held until then */
} tr__ucx_link;

typedef struct tr__ucx tr__ucx;

/* Something UCX has not finished: a send, a rendezvous receive, or an endpoint's closing (no message). */
typedef struct tr__ucx_operation {
    struct tr__ucx_operation *previous, *next;
    tr__ucx *self;
    tr__ucx_link *link;
    tr_message *message;
    void *request;    /* UCX's */
    ucp_ep_h leaving; /* of a flush: to be closed when it is over */
    bool is_receive, is_flushed;
    bool is_unwired; /* of what is being left: our answer to its wire-up may not have gone yet */
    uint32_t life;   /* of the link when it began */
} tr__ucx_operation;

struct tr__ucx {
    tr_transport base;
    ucp_context_h context;
    ucp_worker_h worker;
    int event;
    tr__ucx_operation operations; /* head of a ring */
    size_t n_sends, n_held;
    size_t n_flushed;   /* operations whose endpoint can be closed now */
    bool has_abandoned; /* a worker, of this context */
    /* spare: for when there is no memory, since nobody greets again; NULL: it is in use. */
    struct greeting *greetings, **greetings_end, *spare;
    tr_message *arrived, **arrived_end; /* whole; link_ says whose */
};

/* ucx_operations.c */
/* NULL when there is no memory. */
tr__ucx_operation *tr__ucx_operation_new(tr__ucx *self, tr__ucx_link *link, tr_message *message,
                                         bool is_receive);
/* Returns the message, which is the caller's again. */
tr_message *tr__ucx_operation_end(tr__ucx_operation *op);
/* Takes the message, always. Errors: TR_ENOMEM, TR_EIO. */
tr_status tr__ucx_post(tr__ucx *self, tr__ucx_link *link, ucp_ep_h endpoint, tr_message *message,
                       tr_error *err);
/* Everything under way on it ends with an error, at one of the next progresses. */
void tr__ucx_endpoint_close(tr__ucx *self, ucp_ep_h endpoint);
/* Lets what was sent on it go first, a goodbye for instance; then closes it. is_wired: its peer has answered us. */
void tr__ucx_endpoint_leave(tr__ucx *self, ucp_ep_h endpoint, bool is_wired);
/* Is an endpoint being left that UCX cannot close? Then the worker is kept for ever, with all that is under way on it, and nobody
 * looks at it any more. */
bool tr__ucx_abandon_if_stuck(tr__ucx *self);
/* Closes the endpoints whose flush is over, or all that are being left: their flushes then end as mere notes. */
void tr__ucx_close_left(tr__ucx *self, bool all);

/* ucx_setup.c */
/* A context with active messages and wake-up, and our defaults where the user's environment says nothing. */
ucs_status_t tr__ucx_context_new(bool deaths_are_told, ucp_context_h *out);
/* The worker's address as text, and back. Reading returns its size in `bytes`, 0 where the text is none. */
ucs_status_t tr__ucx_address_write(ucp_worker_h worker, char text[TR_ADDRESS_CHARS]);
size_t tr__ucx_address_read(const char *text, uint8_t bytes[TR_ADDRESS_CHARS / 2]);

#endif
