/* test/transport/inproc_test.c - the conformance suite over links within a process, and what only they
 * promise.
 * SPDX-License-Identifier: Apache-2.0 */
#define CONFORMANCE_KIND "inproc"
#define CONFORMANCE_IN_ORDER 1
#define CONFORMANCE_SEES_STOPPED 0
#include "transport/conformance.h"

static void body_travels_as_a_pointer(void)
{
    tr_error err;
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    tr_buffer *body;
    tr_message *message;
    CHECK_OK(tr_buffer_new(&body, 100, &err));
    const void *data = body->data;
    CHECK_OK(tr_message_new(&message, body, 100, &err));
    message->frame.kind = TR_FRAME_DATA;
    CHECK_OK(tr_transport_send(a->transport, 2, &message, &err));
    PROGRESS_UNTIL(b->n_arrived == 1, PATIENCE_MS, a, b);
    CU_ASSERT_PTR_EQUAL(tr_message_bytes(b->first), data);
    node_destroy(&a);
    node_destroy(&b);
}

static void *greet_and_go(void *context)
{
    const node *hub = context;
    for (int i = 0; i < 300; i++) {
        node *passer = node_new(1 + i % 3);
        if (tr_transport_connect(passer->transport, 0, tr_transport_address(hub->transport), NULL) == TR_OK)
            try_send(passer, 0, 0, "hello", 5);
        tr_transport_progress(passer->transport);
        node_destroy(&passer);
    }
    return NULL;
}

static void nodes_that_come_and_go_do_no_harm(void)
{
    node *hub = node_new(0);
    pthread_t thread;
    pthread_create(&thread, NULL, greet_and_go, hub);
    uint64_t end_ns = tr_clock_ns() + PATIENCE_MS * 1000000ull;
    while (hub->n_arrived < 300 && tr_clock_ns() < end_ns) tr_transport_progress(hub->transport);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(hub->n_arrived, 300);
    node_destroy(&hub);
}

static const check_test tests[] = {
    CONFORMANCE_TESTS CHECK_TEST(body_travels_as_a_pointer),
    CHECK_TEST(nodes_that_come_and_go_do_no_harm),
};

CONFORMANCE_MAIN("transport/inproc", tests)
