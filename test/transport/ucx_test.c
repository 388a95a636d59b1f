/* test/transport/ucx_test.c - the conformance suite over UCX.
 * SPDX-License-Identifier: Apache-2.0 */
#define CONFORMANCE_KIND "ucx"
#define CONFORMANCE_IN_ORDER 0
#define CONFORMANCE_PROCESSES
#define CONFORMANCE_SEES_STOPPED 0
#define CONFORMANCE_RAW
#include "transport/ucx_raw.h"

#include "transport/conformance.h"

static void changed_addresses_are_refused(void)
{
    tr_error err;
    node *a = node_new(1), *b = node_new(2);
    char address[TR_ADDRESS_CHARS];
    for (size_t at = 0; at < strlen(tr_transport_address(b->transport)); at += 7) {
        snprintf(address, sizeof address, "%s", tr_transport_address(b->transport));
        address[at] = address[at] == '1' ? '2' : '1';
        CU_ASSERT_EQUAL(tr_transport_connect(a->transport, 2, address, &err), TR_EINVAL);
        address[at] = 0;
        CU_ASSERT_EQUAL(tr_transport_connect(a->transport, 2, address, &err), TR_EINVAL);
    }
    node_destroy(&a);
    node_destroy(&b);
}

static const check_test tests[] = {
    CONFORMANCE_TESTS CHECK_TEST(changed_addresses_are_refused),
};

CONFORMANCE_MAIN("transport/ucx", tests)
