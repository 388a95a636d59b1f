/* test/transport/ucx_raw.h - a peer over UCX that is played by hand, for conformance_hostile.h. What lies below active
 * messages (bytes thrown at UCX's own TCP sockets or shared memory) is the library's to judge; there is no seam of ours.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_UCX_RAW_H
#define TROUPE_TEST_TRANSPORT_UCX_RAW_H

#include "transport/fixture.h"
#include "transport/ucx_internal.h"

typedef struct raw_peer {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h endpoint;
    char address[TR_ADDRESS_CHARS];
} raw_peer;

static inline void raw_on_error(void *context, ucp_ep_h endpoint, ucs_status_t status)
{
    (void)context, (void)endpoint, (void)status;
}

/* Whatever comes back (greetings, goodbyes) is nobody's. */
static inline ucs_status_t raw_on_message(void *context, const void *header, size_t header_bytes, void *data,
                                          size_t size_bytes, const ucp_am_recv_param_t *param)
{
    (void)context, (void)header, (void)header_bytes, (void)data, (void)size_bytes, (void)param;
    return UCS_OK;
}

static inline raw_peer *raw_open(const char *address)
{
    raw_peer *self = tr_alloc_zero(1, sizeof *self);
    uint8_t bytes[TR_ADDRESS_CHARS / 2];
    const ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                        .thread_mode = UCS_THREAD_MODE_SINGLE};
    const ucp_am_handler_param_t handler = {.field_mask =
                                                UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB,
                                            .id = TR__UCX_MESSAGE,
                                            .cb = raw_on_message};
    CU_ASSERT_FATAL(tr__ucx_context_new(false, &self->context) == UCS_OK);
    CU_ASSERT_FATAL(ucp_worker_create(self->context, &params, &self->worker) == UCS_OK);
    CU_ASSERT_FATAL(ucp_worker_set_am_recv_handler(self->worker, &handler) == UCS_OK);
    CU_ASSERT_FATAL(tr__ucx_address_write(self->worker, self->address) == UCS_OK);
    CU_ASSERT_FATAL(tr__ucx_address_read(address, bytes) > 0);
    const ucp_ep_params_t to = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                              UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                              UCP_EP_PARAM_FIELD_ERR_HANDLER,
                                .address = (const ucp_address_t *)bytes,
                                .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                                .err_handler = {.cb = raw_on_error}};
    CU_ASSERT_FATAL(ucp_ep_create(self->worker, &to, &self->endpoint) == UCS_OK);
    return self;
}

static inline const char *raw_address(const raw_peer *self)
{
    return self->address;
}

static inline void raw_progress(raw_peer *self)
{
    ucp_worker_progress(self->worker);
}

/* UCX wants the bytes until it is done: they are copied, and lie here until the program ends. */
static inline void raw_send(raw_peer *self, const void *header, size_t header_bytes, const void *body,
                            size_t body_bytes)
{
    static uint8_t kept[4096][512];
    static uint32_t n_kept;
    uint8_t *own = kept[n_kept++ % 4096];
    const uint8_t *data = body;
    if (header_bytes + body_bytes <= sizeof *kept) {
        memcpy(own, header, header_bytes);
        if (body_bytes) memcpy(own + header_bytes, body, body_bytes);
        header = own;
        data = own + header_bytes;
    }
    const ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                       .flags = UCP_AM_SEND_FLAG_REPLY};
    ucs_status_ptr_t request =
        ucp_am_send_nbx(self->endpoint, TR__UCX_MESSAGE, header, header_bytes, data, body_bytes, &param);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
    raw_progress(self);
}

static inline void raw_close(raw_peer **self)
{
    const ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                       .flags = UCP_EP_CLOSE_FLAG_FORCE};
    ucs_status_ptr_t request = ucp_ep_close_nbx((*self)->endpoint, &param);
    uint64_t end_ns = tr_clock_ns() + 1000000000u;
    while (UCS_PTR_IS_PTR(request) && ucp_request_check_status(request) == UCS_INPROGRESS &&
           tr_clock_ns() < end_ns)
        ucp_worker_progress((*self)->worker);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
    ucp_worker_destroy((*self)->worker);
    ucp_cleanup((*self)->context);
    tr_free(*self);
    *self = NULL;
}

#endif
