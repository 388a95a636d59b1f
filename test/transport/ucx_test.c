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

/* A stage sends what it made and computes on. Whoever waits for it shall not wait for that, too. */
static void a_body_arrives_while_its_sender_computes(void)
{
    enum { BYTES = 256 << 10 };
    static unsigned char bytes[BYTES];
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    node_send(a, b, 0, "first", 5);
    PROGRESS_UNTIL(b->n_arrived == 1, PATIENCE_MS, a, b);
    node_send(b, a, 0, "answer", 6);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a, b);
    for (size_t i = 0; i < BYTES; i++) bytes[i] = (unsigned char)(i * 7 + i / 251);
    node_drain(b);
    node_send(a, b, 1, bytes, BYTES);
    PROGRESS_UNTIL(b->n_arrived == 2, 3000, b); /* a is not asked any more */
    CU_ASSERT_FATAL(b->first != NULL);
    CU_ASSERT_EQUAL(b->first->frame.body_bytes, BYTES);
    CU_ASSERT(memcmp(tr_message_bytes(b->first), bytes, BYTES) == 0);
    node_destroy(&a);
    node_destroy(&b);
}

/* Its answer to the peer's wire-up finds no place in the peer's queue and waits; UCX 1.13 aborts where such an endpoint is closed. */
static void one_that_is_stuck_while_it_connects_can_be_left(void)
{
    enum { MANY = 400 };
    node *a = node_new(1), *stuck = node_new(2), *sender = node_new(3);
    node_connect(sender, stuck);
    node_send(sender, stuck, 0, "first", 5);
    PROGRESS_UNTIL(stuck->n_arrived == 1, PATIENCE_MS, sender, stuck);
    for (uint32_t i = 1; i < MANY; i++) { /* it does not look any more: its queue is full */
        node_send(sender, stuck, i, "more", 4);
        tr_transport_progress(sender->transport);
    }
    tr_error err;
    node_connect(stuck, a);
    for (int i = 0; i < 2000; i++) tr_transport_progress(a->transport);
    node_connect(a, stuck); /* by the endpoint that UCX has made to answer */
    for (int i = 0; i < 2000; i++) tr_transport_progress(a->transport);
    CU_ASSERT(tr_transport_renew(a->transport, 2, &err) == TR_OK);
    node_destroy(&a);
    node_destroy(&sender);
    node_destroy(&stuck);
}

static const check_test tests[] = {
    CONFORMANCE_TESTS CHECK_TEST(changed_addresses_are_refused),
    CHECK_TEST(a_body_arrives_while_its_sender_computes),
    CHECK_TEST(one_that_is_stuck_while_it_connects_can_be_left),
};

CONFORMANCE_MAIN("transport/ucx", tests)
