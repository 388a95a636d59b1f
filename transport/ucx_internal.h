/* transport/ucx_internal.h - what ucx.c needs of ucx_setup.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_UCX_INTERNAL_H
#define TROUPE_TRANSPORT_UCX_INTERNAL_H

#include "transport/transport.h"

#include <ucp/api/ucp.h>

/* A context with active messages and wake-up, and our defaults where the user's environment says nothing. */
ucs_status_t tr__ucx_context_new(ucp_context_h *out);

/* The worker's address as text, and back. Reading returns its size in `bytes`, 0 where the text is none. */
ucs_status_t tr__ucx_address_write(ucp_worker_h worker, char text[TR_ADDRESS_CHARS]);
size_t tr__ucx_address_read(const char *text, uint8_t bytes[TR_ADDRESS_CHARS / 2]);

#endif
